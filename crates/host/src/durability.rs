//! The one checker of the durability rule: no message leaves and no entry is applied before what it rests on is on disk.
//!
//! It is fed by the log's completions alone, never by what consensus believes, and judges every send and every apply,
//! in production as in simulation. A violation stops the node with the evidence.

use std::collections::{BTreeMap, VecDeque};

use settle_base::{GroupId, Index, PeerId, Term};
use settle_raft::{HardState, Message, Standing};

use crate::HostError;

/// What one group's log holds for certain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Durable {
    pub term: Term,
    /// In `term`; 0 is nobody.
    pub vote: u64,
    /// The last entry.
    pub index: Index,
}

/// What one batch of a group's log makes durable once it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Change {
    pub(crate) hard_state: Option<HardState>,
    /// The log's last index afterwards, when this batch changes the log.
    pub(crate) last: Option<Index>,
}

/// A group as its disk has it, and what is on the way there.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Group {
    durable: Durable,
    /// Of each write on its way that changes the log, in order: where it begins to replace what was there.
    cuts: VecDeque<Index>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CheckerCounters {
    pub sends_checked: u64,
    /// Messages dropped since a later term had become durable meanwhile.
    pub sends_stale: u64,
    pub applies_checked: u64,
}

#[derive(Debug, Default)]
pub struct DurabilityChecker {
    groups: BTreeMap<GroupId, Group>,
    counters: CheckerCounters,
}

impl DurabilityChecker {
    /// A group found in the log at start-up, or just created durably.
    pub(crate) fn restored(&mut self, group: GroupId, hard_state: HardState, last: Index) {
        let durable = Durable {
            term: hard_state.term,
            vote: hard_state.vote.0,
            index: last,
        };
        let cuts = VecDeque::new();
        self.groups.insert(group, Group { durable, cuts });
    }

    /// A group that is destroyed, durably.
    pub(crate) fn forget(&mut self, group: GroupId) {
        self.groups.remove(&group);
    }

    /// A write is on its way that replaces every entry after `keep`: a crash may leave the old ones or the new, so
    /// neither counts until it is durable.
    pub(crate) fn truncating(&mut self, group: GroupId, keep: Index) {
        let group = self.groups.entry(group).or_default();
        group.cuts.push_back(keep);
        group.durable.index = group.durable.index.min(keep);
    }

    /// Writes become durable in the order of their [`DurabilityChecker::truncating`]: each that names a last entry was
    /// announced by one call.
    pub(crate) fn became_durable(&mut self, group: GroupId, change: Change) {
        let Group { durable, cuts } = self.groups.entry(group).or_default();
        if let Some(hard_state) = change.hard_state {
            assert!(
                hard_state.term >= durable.term,
                "a group's term never falls: {hard_state:?} after {durable:?}"
            );
            durable.term = hard_state.term;
            durable.vote = hard_state.vote.0;
        }
        if let Some(last) = change.last {
            cuts.pop_front();
            if cuts.is_empty() {
                // Most groups are at rest.
                *cuts = VecDeque::new();
            }
            // A later write may be replacing a part of it already.
            durable.index = cuts.iter().copied().fold(last, Index::min);
        }
    }

    pub fn durable(&self, group: GroupId) -> Durable {
        self.groups.get(&group).map(|g| g.durable).unwrap_or_default()
    }

    pub fn counters(&self) -> CheckerCounters {
        self.counters
    }

    /// Whether `message` is to leave (`true`), or is out of date and to be dropped (`false`).
    ///
    /// # Errors
    /// When it would promise what a crash could take back.
    pub fn check_send(&mut self, message: &Message) -> Result<bool, HostError> {
        self.counters.sends_checked += 1;
        let Some(rests_on) = message.rests_on() else {
            return Ok(true);
        };
        let durable = self.durable(message.group);
        match rests_on.standing(durable.term, PeerId(durable.vote), durable.index) {
            Standing::Met => Ok(true),
            Standing::Stale => {
                self.counters.sends_stale += 1;
                Ok(false)
            }
            Standing::Missing => Err(HostError::SentBeforeDurable {
                group: message.group,
                message: format!("{message:?}"),
                durable,
            }),
        }
    }

    /// # Errors
    /// When the entry at `index` could still be lost here.
    pub fn check_apply(&mut self, group: GroupId, index: Index) -> Result<(), HostError> {
        self.counters.applies_checked += 1;
        let durable = self.durable(group);
        if index > durable.index {
            return Err(HostError::AppliedBeforeDurable { group, index, durable });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use settle_raft::Body;

    use super::*;

    const GROUP: GroupId = GroupId(1);

    fn message(term: Term, body: Body) -> Message {
        let (from, to) = (PeerId(1), PeerId(2));
        Message {
            group: GROUP,
            from,
            to,
            term,
            body,
        }
    }

    fn ack(term: Term, index: Index) -> Message {
        let result = Ok(index);
        message(
            term,
            Body::AppendReply {
                result,
                recovering: None,
            },
        )
    }

    fn durable(checker: &mut DurabilityChecker, term: Term, vote: u64, last: Option<Index>) {
        let vote = PeerId(vote);
        let hard_state = Some(HardState { term, vote, commit: 0 });
        checker.became_durable(GROUP, Change { hard_state, last });
    }

    #[test]
    fn a_vote_is_sent_only_when_that_vote_in_that_term_is_durable() {
        let mut checker = DurabilityChecker::default();
        let vote = message(
            3,
            Body::VoteReply {
                granted: true,
                recovering: None,
            },
        );
        assert!(checker.check_send(&vote).is_err());
        durable(&mut checker, 3, 0, None);
        assert!(checker.check_send(&vote).is_err(), "the term, but not the vote");
        durable(&mut checker, 3, 9, None);
        assert!(checker.check_send(&vote).is_err(), "a vote for another");
        durable(&mut checker, 3, 2, None);
        assert!(checker.check_send(&vote).is_ok_and(|leaves| leaves));
        durable(&mut checker, 4, 0, None);
        assert!(
            checker.check_send(&vote).is_ok_and(|leaves| !leaves),
            "out of date, so dropped"
        );
    }

    #[test]
    fn an_ack_and_an_apply_reach_no_further_than_the_durable_log() {
        let mut checker = DurabilityChecker::default();
        durable(&mut checker, 2, 0, Some(7));
        assert!(checker.check_send(&ack(2, 7)).is_ok_and(|leaves| leaves));
        let error = checker.check_send(&ack(2, 8)).expect_err("8 may be lost");
        assert_eq!(error.code().to_string(), "HO0022");
        assert!(checker.check_apply(GROUP, 7).is_ok());
        assert_eq!(
            checker
                .check_apply(GROUP, 8)
                .expect_err("8 may be lost")
                .code()
                .to_string(),
            "HO0023"
        );
    }

    #[test]
    fn a_suffix_that_is_being_replaced_counts_for_nothing_until_the_new_one_is_durable() {
        let mut checker = DurabilityChecker::default();
        durable(&mut checker, 2, 0, Some(7));
        checker.truncating(GROUP, 4);
        assert!(checker.check_send(&ack(2, 5)).is_err());
        assert!(checker.check_send(&ack(2, 4)).is_ok_and(|leaves| leaves));
        durable(&mut checker, 2, 0, Some(6));
        assert!(checker.check_send(&ack(2, 6)).is_ok_and(|leaves| leaves));
        assert!(checker.check_send(&ack(2, 7)).is_err());
    }

    #[test]
    fn a_write_that_a_later_one_is_replacing_counts_only_up_to_there() {
        let mut checker = DurabilityChecker::default();
        durable(&mut checker, 2, 0, Some(4));
        checker.truncating(GROUP, 4);
        checker.truncating(GROUP, 5);
        durable(&mut checker, 2, 0, Some(9));
        assert!(checker.check_send(&ack(2, 5)).is_ok_and(|leaves| leaves));
        assert!(
            checker.check_send(&ack(2, 6)).is_err(),
            "6 may be the old one or the new"
        );
        durable(&mut checker, 2, 0, Some(7));
        assert!(checker.check_send(&ack(2, 7)).is_ok_and(|leaves| leaves));
    }

    #[test]
    fn what_promises_nothing_may_always_leave() {
        let mut checker = DurabilityChecker::default();
        let ask = message(
            5,
            Body::PreVote {
                last_index: 0,
                last_term: 0,
                commit: (0, 0),
                priority: 100,
            },
        );
        assert!(checker.check_send(&ask).is_ok_and(|leaves| leaves));
    }
}
