//! **Monotone term, commit and applied index** (Raft paper, §5.1 and figure 2): within the life of a process none of the
//! three ever falls, and applied ≤ commit ≤ last.

use settle_raft::Raft;

use super::{Broken, Checked, Seen};

pub(super) fn check(raft: &Raft, seen: &Seen) -> Checked {
    let now = (raft.term(), raft.commit(), raft.applied());
    let before = (seen.term, seen.commit, seen.applied);
    let falls = now.0 < before.0 || now.1 < before.1 || now.2 < before.2;
    if falls || raft.applied() > raft.commit() || raft.commit() > raft.last_index() {
        let what = format!(
            "{} goes from (term, commit, applied) {before:?} to {now:?}, its log ends at {}",
            raft.id(),
            raft.last_index()
        );
        return Err(Broken::new("monotone term, commit and applied", what));
    }
    Ok(())
}
