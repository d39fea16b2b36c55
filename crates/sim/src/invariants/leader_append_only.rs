//! **Leader append-only** (Raft paper, figure 3): a leader never overwrites or deletes entries in its log; it only
//! appends new ones.

use settle_raft::Raft;

use super::{Broken, Checked, Seen};

/// `raft` leads; `seen` is how it was before.
pub(super) fn check(raft: &Raft, seen: &Seen) -> Checked {
    let Some((term, last, last_term)) = seen.led.filter(|(term, ..)| *term == raft.term()) else {
        return Ok(());
    };
    let is_there = raft.last_index() >= last && raft.term_at(last).is_none_or(|found| found == last_term);
    if !is_there {
        let what = format!(
            "{} leads term {term} and had entry {last} of term {last_term}; its log now ends at {} and has {:?} there",
            raft.id(),
            raft.last_index(),
            raft.term_at(last)
        );
        return Err(Broken::new("leader append-only", what));
    }
    Ok(())
}
