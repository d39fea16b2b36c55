//! **State machine safety** (Raft paper, figure 3): if a server has applied a log entry at a given index to its state
//! machine, no other server will ever apply a different log entry for the same index.
//!
//! Stronger: no other server ever takes a different one for committed.

use std::collections::BTreeMap;

use settle_base::{Index, Term};
use settle_raft::Raft;

use super::{Broken, Checked};

#[derive(Default)]
pub(super) struct StateMachineSafety {
    /// Term of every entry that somebody knew to be committed; the contents follow by log matching.
    committed: BTreeMap<Index, Term>,
}

impl StateMachineSafety {
    /// Index and term of the last entry that anybody knows to be committed; zeros before the first.
    pub(super) fn last(&self) -> (Index, Term) {
        self.committed
            .last_key_value()
            .map_or((0, 0), |(index, term)| (*index, *term))
    }

    /// Looks at what `raft` commits beyond `seen`.
    pub(super) fn check(&mut self, raft: &Raft, seen: Index) -> Checked {
        let first = (seen + 1).max(raft.first_index());
        for index in first..=raft.commit() {
            let Some(term) = raft.term_at(index) else { continue };
            self.commits(index, term)
                .map_err(|broken| broken.at(format_args!("{}", raft.id())))?;
        }
        Ok(())
    }

    fn commits(&mut self, index: Index, term: Term) -> Checked {
        let known = *self.committed.entry(index).or_insert(term);
        if known != term {
            let what = format!("entry {index} of term {term} is committed, but the one of term {known} was");
            return Err(Broken::new("state machine safety", what));
        }
        Ok(())
    }
}

#[test]
fn another_entry_at_a_committed_index_is_told() {
    let mut safety = StateMachineSafety::default();
    assert!(safety.commits(4, 2).is_ok() && safety.commits(5, 2).is_ok() && safety.commits(4, 2).is_ok());
    assert_eq!(safety.last(), (5, 2));
    assert!(safety.commits(4, 3).is_err());
}
