//! A branch is registered once although it is asked for twice.
//!
//! A client that got no answer cannot know whether its branch was registered. When it asks again, through another node,
//! that is another command with another number, so the command's number cannot tell. Settle's clients therefore put a
//! token in front of the branch's application data; while the transaction is open, a registration with the token of one of
//! its branches *is* that branch, however late its copies come. Without a token every registration is a branch of its own,
//! as in Seata.

use crate::{Branch, BranchType, ClientId, Global};

/// How application data with a token begins (`settle_seata_wire::token`).
const HEAD: &str = "{\"settle.once\":\"";

fn token(application_data: &str) -> Option<&str> {
    let (token, _) = application_data.strip_prefix(HEAD)?.split_once('"')?;
    (!token.is_empty()).then_some(token)
}

impl Global {
    /// The branch that was registered with the token of this registration.
    pub(crate) fn registered_before(
        &self,
        branch_type: BranchType,
        resource: &str,
        client: &str,
        application_data: &str,
    ) -> Option<&Branch> {
        let wanted = token(application_data).filter(|_| !settle_base::mutant!("token_of_a_registration_ignored"))?;
        // A process that asks again may do so on another of its connections, and with nobody else's token.
        let application = ClientId::parse(client).map(|client| client.application);
        // Copies come soon after one another.
        self.branches.iter().rev().find(|branch| {
            token(&branch.application_data) == Some(wanted)
                && branch.branch_type == branch_type
                && *branch.resource == *resource
                && branch.application() == application
        })
    }
}
