//! Entries that come another way than from a leader: the log of another group has carried them here.
//!
//! When two groups are merged, the target's log carries the end of the source's, so that a replica of the source that
//! lags can be brought to the same point without its leader (TiKV does so with the entries of `CommitMergeRequest`).
//! Whoever hands entries over vouches that they are committed; all that can be checked of that is checked here.

use settle_base::{Index, PeerId, Term};

use crate::{
    conf::ConfChange,
    entry::{Entry, EntryKind},
    raft::{Raft, Role},
};

/// Why handed entries were not taken. Nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandError {
    #[error("hand entries over after {prev_index}: the log ends at {last}, or differs there")]
    Gap { prev_index: Index, last: Index },
    #[error("hand entries over after {prev_index}: this replica waits for a snapshot")]
    Empty { prev_index: Index },
    #[error("hand entries over: entry {found} of term {term} cannot follow entry {after}")]
    Entries { after: Index, found: Index, term: Term },
    #[error("hand entries over: entry {index} of term {term} contradicts what is committed here")]
    Contradiction { index: Index, term: Term },
}

impl Raft {
    /// Takes `entries`, which follow the entry at `prev_index` of `prev_term`, and marks the log committed up to their
    /// end. Without entries it marks `prev_index` itself. What is here already stays; answers the commit index.
    ///
    /// Every one of them, and the entry at `prev_index`, must be committed in this group: this peer takes them as from
    /// a leader that it does not know. Whatever its role was, it goes on as a follower when its log changes, in a new
    /// term when they are of an earlier one: so this is for a replica that does not come there by itself.
    /// A resting one wakes.
    ///
    /// # Errors
    /// When something before them is missing here, or when they cannot be what the caller says. [`HandError::Gap`] and
    /// [`HandError::Empty`] pass with time; the others mean that two histories were committed.
    pub fn hand_entries(
        &mut self,
        prev_index: Index,
        prev_term: Term,
        mut entries: Vec<Entry>,
    ) -> Result<Index, HandError> {
        let (base, commit) = (self.log.base(), self.log.commit);
        check_order(prev_index, prev_term, &entries)?;
        let last_new = prev_index + entries.len() as u64;
        if self.conf.voters.is_empty() && base == 0 {
            return Err(HandError::Empty { prev_index });
        }
        // What is compacted was committed here as well.
        entries.retain(|entry| entry.index > base);
        let last_known = entries.first().map_or(last_new, |first| first.index - 1).max(base);
        if last_known == prev_index && !self.log.matches(prev_index, prev_term) {
            if prev_index <= commit && prev_index > base {
                let (index, term) = (prev_index, prev_term);
                return Err(HandError::Contradiction { index, term });
            }
            let last = self.log.last_index();
            return Err(HandError::Gap { prev_index, last });
        }
        let before = self.log.time_at(last_known).unwrap_or_default();
        if let Some(first) = entries.first().filter(|first| first.time < before) {
            let (after, found, term) = (last_known, first.index, first.term);
            return Err(HandError::Entries { after, found, term });
        }
        let first_new = self.log.first_new(&entries);
        let term = entries.last().map_or(prev_term, |last| last.term);
        if let Some(first) = first_new.map(|at| &entries[at]).filter(|first| first.index <= commit) {
            let (index, term) = (first.index, first.term);
            return Err(HandError::Contradiction { index, term });
        }
        if self.role == Role::Leader && first_new.is_none() && term <= self.term {
            // It has them, and commits them by what its followers say.
            return Ok(self.log.commit);
        }
        self.wake();
        let is_news = first_new.is_some() || last_new > commit;
        if term > self.term {
            self.become_follower(term, PeerId::NONE);
        } else if is_news && term < self.term {
            // They may have been committed by a leader of a still later term. Then the leader of ours, who may not have
            // them, can commit nothing any more, but could still ask us to overwrite them.
            self.become_follower(self.term + 1, PeerId::NONE);
        } else if first_new.is_some() && self.role != Role::Follower {
            // It asked for votes with the log that it had.
            self.become_follower(self.term, PeerId::NONE);
        }
        if let Some(first_new) = first_new {
            self.log.append(entries.drain(first_new..));
        }
        assert_ne!(self.role, Role::Leader, "a leader's log has them already");
        self.log.commit_to(last_new);
        self.assert_invariants();
        Ok(self.log.commit)
    }
}

fn check_order(prev_index: Index, prev_term: Term, entries: &[Entry]) -> Result<(), HandError> {
    let (mut after, mut after_term, mut after_time) = (prev_index, prev_term, Default::default());
    for entry in entries {
        let is_readable = entry.kind != EntryKind::ConfChange || ConfChange::decode(&entry.data).is_ok();
        let follows = Some(entry.index) == after.checked_add(1) && entry.term >= after_term && entry.time >= after_time;
        if !follows || !is_readable {
            let (found, term) = (entry.index, entry.term);
            return Err(HandError::Entries { after, found, term });
        }
        (after, after_term, after_time) = (entry.index, entry.term, entry.time);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use settle_base::{GroupId, GroupTime};

    use super::*;
    use crate::{Body, ConfState, Config, HardState, Message, Restored, SnapshotMeta};

    fn entry(index: Index, term: Term) -> Entry {
        Entry {
            term,
            index,
            kind: EntryKind::Normal,
            time: GroupTime(index),
            data: vec![term as u8].into(),
        }
    }

    fn entries(terms: &[Term], first: Index) -> Vec<Entry> {
        terms
            .iter()
            .zip(first..)
            .map(|(&term, index)| entry(index, term))
            .collect()
    }

    /// Peer 1 of three in a group that began at (5, 5), with entries of `terms` behind that.
    fn peer(terms: &[Term], hard_state: HardState) -> Raft {
        let conf = ConfState {
            voters: vec![PeerId(1), PeerId(2), PeerId(3)],
            ..ConfState::default()
        };
        let snapshot = SnapshotMeta {
            index: 5,
            term: 5,
            conf,
            time: GroupTime(5),
            ..SnapshotMeta::default()
        };
        let restored = Restored {
            hard_state,
            snapshot,
            entries: entries(terms, 6),
            recovering: None,
        };
        Raft::restore(Config::new(GroupId(1), PeerId(1), 7), restored).expect("a sound log")
    }

    fn in_term(term: Term, commit: Index) -> HardState {
        let vote = PeerId::NONE;
        HardState { term, vote, commit }
    }

    fn persist(raft: &mut Raft) -> Vec<Entry> {
        let ready = raft.ready();
        let mut committed = ready.committed;
        if let Some(persist) = ready.persist {
            raft.on_persisted(persist.seq);
            committed.extend(raft.ready().committed);
        }
        committed
    }

    #[test]
    fn a_replica_that_lags_gets_what_it_lacks_and_loses_what_was_never_committed() {
        let mut raft = peer(&[5, 6], in_term(6, 6));
        let handed = entries(&[5, 7, 8], 6);
        assert_eq!(raft.hand_entries(5, 5, handed), Ok(8));
        assert_eq!(raft.term(), 8, "a leader of term 8 was there");
        let applied: Vec<_> = persist(&mut raft).iter().map(|e| (e.index, e.term)).collect();
        assert_eq!(applied, [(6, 5), (7, 7), (8, 8)]);
    }

    #[test]
    fn a_replica_that_has_them_learns_that_they_are_committed() {
        let mut raft = peer(&[5, 6, 6], in_term(9, 5));
        assert_eq!(raft.hand_entries(7, 6, Vec::new()), Ok(7));
        assert_eq!((raft.commit(), raft.last_index(), raft.term()), (7, 8, 10));
        assert_eq!(
            raft.hand_entries(5, 5, entries(&[5], 6)),
            Ok(7),
            "what is older changes nothing"
        );
    }

    #[test]
    fn what_does_not_join_the_log_is_refused_and_nothing_changes() {
        let mut raft = peer(&[5, 6], in_term(6, 6));
        let gap = |prev_index, last| Err(HandError::Gap { prev_index, last });
        assert_eq!(raft.hand_entries(9, 6, entries(&[6], 10)), gap(9, 7));
        assert_eq!(raft.hand_entries(7, 7, entries(&[7], 8)), gap(7, 7));
        let broken = raft.hand_entries(7, 6, entries(&[6, 5], 8));
        assert!(matches!(broken, Err(HandError::Entries { found: 9, .. })), "{broken:?}");
        let mut young = entries(&[6], 8);
        young[0].time = GroupTime(1);
        assert!(matches!(raft.hand_entries(7, 6, young), Err(HandError::Entries { .. })));
        assert_eq!((raft.commit(), raft.last_index(), raft.term()), (6, 7, 6));
    }

    #[test]
    fn what_is_committed_here_is_never_replaced() {
        let mut raft = peer(&[5, 6], in_term(6, 7));
        let refused = raft.hand_entries(5, 5, entries(&[5, 7], 6));
        assert_eq!(refused, Err(HandError::Contradiction { index: 7, term: 7 }));
        assert_eq!(raft.term_at(7), Some(6));
    }

    #[test]
    fn a_candidate_whose_log_changes_gives_up_its_campaign() {
        let mut raft = peer(&[5], in_term(6, 5));
        raft.campaign();
        let reply = Body::PreVoteReply {
            granted: true,
            commit: (0, 0),
            recovering: None,
        };
        let message = Message {
            group: GroupId(1),
            from: PeerId(2),
            to: PeerId(1),
            term: 7,
            body: reply,
        };
        raft.step(message).expect("a vote");
        assert_eq!(raft.role(), Role::Candidate);
        assert_eq!(raft.hand_entries(6, 5, entries(&[6], 7)), Ok(7));
        assert_eq!((raft.role(), raft.term()), (Role::Follower, 8));
    }

    #[test]
    fn a_leader_that_was_passed_over_takes_what_was_committed_without_it() {
        let mut raft = peer(&[5, 6], in_term(6, 6));
        assert_eq!(
            raft.hand_entries(5, 5, entries(&[5, 5], 6)),
            Ok(7),
            "a leader of term 7 or later committed them"
        );
        assert_eq!(
            (raft.role(), raft.term(), raft.term_at(7)),
            (Role::Follower, 7, Some(5))
        );
        let append = Body::Append {
            prev_index: 6,
            prev_term: 5,
            commit: 6,
            entries: entries(&[6], 7),
        };
        let message = Message {
            group: GroupId(1),
            from: PeerId(2),
            to: PeerId(1),
            term: 6,
            body: append,
        };
        raft.step(message).expect("the leader of term 6 is only late");
        assert_eq!(raft.term_at(7), Some(5));
    }

    #[test]
    fn a_replica_without_a_configuration_waits_for_its_snapshot() {
        let restored = Restored::default();
        let mut raft = Raft::restore(Config::new(GroupId(1), PeerId(1), 7), restored).expect("empty");
        let prev_index = 5;
        assert_eq!(
            raft.hand_entries(5, 5, entries(&[5], 6)),
            Err(HandError::Empty { prev_index })
        );
    }
}
