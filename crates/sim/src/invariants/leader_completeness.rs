//! **Leader completeness** (Raft paper, figure 3): if a log entry is committed in a given term, then that entry will be
//! present in the logs of the leaders for all higher-numbered terms.
//!
//! By log matching it is enough to find the last committed one.

use settle_raft::Raft;

use super::{Broken, Checked, state_machine_safety::StateMachineSafety};

/// `raft` was just elected.
pub(super) fn check(raft: &Raft, committed: &StateMachineSafety) -> Checked {
    let (index, term) = committed.last();
    // A late leader of an earlier term may come after a later one has committed.
    if index == 0 || term > raft.term() {
        return Ok(());
    }
    let found = raft.term_at(index);
    if raft.last_index() < index || found.is_some_and(|found| found != term) {
        let (peer, leads) = (raft.id(), raft.term());
        let what = format!(
            "{peer} leads term {leads} without entry {index} of term {term}, which is committed (it has {found:?})"
        );
        return Err(Broken::new("leader completeness", what));
    }
    Ok(())
}
