//! Whose a transaction is, and what an application may do with one that it has not begun.
//!
//! A door that authenticates its clients puts the application that asks into the command. It is judged here, where the
//! command is applied: a replica that lags behind does not know whose the transaction is, and a door that judged by it
//! would let everybody in who comes early enough. Nobody's word is judged where the command names no application.

use crate::{Branch, BranchId, ClientId, Global, Tid, TxError, TxMachine};

impl Global {
    /// Who began it decides it, and nobody else but an operator.
    pub fn is_begun_by(&self, application: &str) -> bool {
        *self.application == *application
    }

    /// Whether the application has begun it or has a branch in it, and so may know how it stands.
    pub fn has_part_of(&self, application: &str) -> bool {
        let has_branch = || {
            let mut branches = self.branches.iter();
            branches.any(|branch| branch.application() == Some(application))
        };
        self.is_begun_by(application) || has_branch()
    }
}

impl Branch {
    /// The application that registered it.
    pub fn application(&self) -> Option<&str> {
        ClientId::parse(&self.client).map(|client| client.application)
    }
}

impl TxMachine {
    /// # Errors
    /// When another application began the open transaction. How one stands that has ended is no secret.
    pub(crate) fn may_end(&self, tid: Tid, by: Option<&str>) -> Result<(), TxError> {
        let (Some(global), Some(by)) = (self.global(tid), by) else {
            return Ok(());
        };
        match global.is_begun_by(by) || settle_base::mutant!("decision_by_anybody") {
            true => Ok(()),
            false => Err(TxError::OfAnother { tid }),
        }
    }

    /// # Errors
    /// When another application registered the branch of the open transaction.
    pub(crate) fn may_report(&self, tid: Tid, branch: BranchId, by: Option<&str>) -> Result<(), TxError> {
        let (Some(global), Some(by)) = (self.global(tid), by) else {
            return Ok(());
        };
        let is_own = |branch: &Branch| branch.application() == Some(by);
        match global.branch(branch).is_none_or(is_own) || settle_base::mutant!("report_by_anybody") {
            true => Ok(()),
            false => Err(TxError::OfAnother { tid }),
        }
    }

    /// # Errors
    /// When another application than the client's began the open transaction, in a service group that is not among
    /// `joins`.
    pub(crate) fn may_join(&self, tid: Tid, client: &str, joins: Option<&[&str]>) -> Result<(), TxError> {
        let (Some(global), Some(joins)) = (self.global(tid), joins) else {
            return Ok(());
        };
        let is_own = ClientId::parse(client).is_some_and(|client| global.is_begun_by(client.application));
        match is_own || joins.iter().any(|pattern| matches(pattern, &global.service_group)) {
            true => Ok(()),
            false => Err(TxError::OfAnother { tid }),
        }
    }
}

/// A name, or with a `*` at its end the beginning of names.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}
