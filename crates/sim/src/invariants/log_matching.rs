//! **Log matching** (Raft paper, figure 3): if two logs contain an entry with the same index and term, then the logs are
//! identical in all entries up through the given index.
//!
//! By induction: an index and a term name one entry, and one entry before it.

use std::collections::BTreeMap;

use settle_base::{Index, Term, fingerprint};
use settle_raft::Raft;

use super::{Broken, Checked};

#[derive(Default)]
pub(super) struct LogMatching {
    /// What somebody held at an index of a term: the term of the entry before it, and the contents.
    entries: BTreeMap<(Index, Term), (Option<Term>, u64)>,
}

impl LogMatching {
    /// Looks at what is new in a log since `seen`, which then is as the log is.
    pub(super) fn check(&mut self, raft: &Raft, seen: &mut BTreeMap<Index, Term>) -> Checked {
        let (first, last) = (raft.first_index(), raft.last_index());
        let mut same = last;
        while same >= first && seen.get(&same).copied() != raft.term_at(same) {
            same -= 1;
        }
        if same < last || seen.last_key_value().is_some_and(|(index, _)| *index > last) {
            seen.split_off(&(same + 1));
        }
        for entry in raft.entries(same + 1..=last) {
            let contents = fingerprint(&entry.data) ^ entry.time.0 ^ (entry.kind as u64) << 60;
            let before = raft.term_at(entry.index - 1);
            self.holds(entry.index, entry.term, before, contents)
                .map_err(|broken| broken.at(format_args!("{}", raft.id())))?;
            seen.insert(entry.index, entry.term);
        }
        while seen.first_key_value().is_some_and(|(index, _)| *index < first) {
            seen.pop_first();
        }
        Ok(())
    }

    fn holds(&mut self, index: Index, term: Term, before: Option<Term>, contents: u64) -> Checked {
        let known = self.entries.entry((index, term)).or_insert((before, contents));
        let differs = |what: &str| {
            let what = format!("entry {index} of term {term} has {what} here than elsewhere");
            Err(Broken::new("log matching", what))
        };
        if known.1 != contents {
            return differs("other contents");
        }
        match (known.0, before) {
            (Some(theirs), Some(ours)) if theirs != ours => differs("another entry before it"),
            (None, Some(_)) => {
                known.0 = before;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[test]
fn an_entry_with_other_contents_or_another_past_is_told() {
    let mut logs = LogMatching::default();
    assert!(logs.holds(5, 2, Some(1), 77).is_ok());
    assert!(logs.holds(5, 3, Some(1), 78).is_ok(), "another term is another entry");
    assert!(logs.holds(5, 2, None, 77).is_ok(), "what came before is compacted");
    assert!(logs.holds(5, 2, Some(1), 78).is_err());
    assert!(logs.holds(5, 2, Some(2), 77).is_err());
}
