//! What a message must keep before it may change anything. A peer that breaks one of these rules is broken itself, or
//! one of us lost its disk; both are reported, neither is a panic.

use settle_base::{GroupId, Index, PeerId, Term};

use crate::{
    conf::{ConfChange, ConfDecodeError},
    entry::{Entry, EntryKind},
    message::{Body, Message},
    raft::{Raft, Role},
};

/// Terms and indexes above this are nobody's: it leaves room to count on without overflow.
const NUMBER_MAX: u64 = 1 << 60;
/// No peer is so many terms ahead. Adopting any number at all would let one message use up all terms there are.
const TERM_LEAP_MAX: u64 = 1 << 32;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    #[error("step group {ours}: the message is for group {theirs}")]
    WrongGroup { ours: GroupId, theirs: GroupId },
    #[error("step peer {ours}: the message is for peer {to}")]
    WrongPeer { ours: PeerId, to: PeerId },
    #[error("step group {group}: peer {from} cannot have sent this")]
    BadSender { group: GroupId, from: PeerId },
    #[error("step group {group}: peer {from} sent term or index {number}, which is out of range")]
    BadNumber { group: GroupId, from: PeerId, number: u64 },
    #[error("step group {group}: peer {from} claims term {term}, which {known} leads")]
    TwoLeaders {
        group: GroupId,
        from: PeerId,
        term: Term,
        known: PeerId,
    },
    #[error("step group {group}: peer {from} sent entry {found} of term {term} after entry {after}")]
    BadEntries {
        group: GroupId,
        from: PeerId,
        after: Index,
        found: Index,
        term: Term,
    },
    #[error("step group {group}: peer {from} sent a membership change at {index} that cannot be read")]
    BadConfChange {
        group: GroupId,
        from: PeerId,
        index: Index,
        source: ConfDecodeError,
    },
    #[error("step group {group}: peer {from} would overwrite committed entry {index} (commit {commit})")]
    ConflictsWithCommitted {
        group: GroupId,
        from: PeerId,
        index: Index,
        commit: Index,
    },
    #[error("step group {group}: peer {from} sent entry {index} twice in its term {term}, and not the same")]
    ContradictsItself {
        group: GroupId,
        from: PeerId,
        index: Index,
        term: Term,
    },
    #[error(
        "step group {group}: peer {from} says {commit} is committed here, but our log ends at {last}: entries are lost"
    )]
    CommitBeyondLog {
        group: GroupId,
        from: PeerId,
        commit: Index,
        last: Index,
    },
    #[error("step group {group}: peer {from} sent a snapshot that is not valid")]
    BadSnapshot { group: GroupId, from: PeerId },
    #[error("step group {group}: peer {from} acks {index}, but this leader's log ends at {last}")]
    AckBeyondLog {
        group: GroupId,
        from: PeerId,
        index: Index,
        last: Index,
    },
    #[error("step group {group}: peer {from} confirms round {read_seq} of reads, but {newest} is the newest")]
    ReadBeyondNewest {
        group: GroupId,
        from: PeerId,
        read_seq: u64,
        newest: u64,
    },
    #[error(
        "step group {group}: peer {from} asks for votes in term {term} with a log of term {last_term} at {last_index}, which cannot be"
    )]
    BadCandidate {
        group: GroupId,
        from: PeerId,
        term: Term,
        last_index: Index,
        last_term: Term,
    },
}

impl Raft {
    /// Checks all that can be wrong with `message` against what is known here; changes nothing.
    pub(crate) fn validate(&self, message: &Message) -> Result<(), StepError> {
        let Message {
            group,
            from,
            to,
            term,
            ref body,
        } = *message;
        if group != self.config.group {
            return Err(StepError::WrongGroup {
                ours: self.config.group,
                theirs: group,
            });
        }
        if to != self.config.id {
            return Err(StepError::WrongPeer {
                ours: self.config.id,
                to,
            });
        }
        if from.is_none() || from == to {
            return Err(StepError::BadSender { group, from });
        }
        let in_range = |number: u64| {
            if number <= NUMBER_MAX {
                Ok(())
            } else {
                Err(StepError::BadNumber { group, from, number })
            }
        };
        in_range(term)?;
        if term > self.term + TERM_LEAP_MAX {
            return Err(StepError::BadNumber {
                group,
                from,
                number: term,
            });
        }
        if term == 0 && !matches!(body, Body::PreVoteReply { granted: false, .. }) {
            return Err(StepError::BadNumber {
                group,
                from,
                number: term,
            });
        }
        if let Body::PreVote { commit, .. } | Body::PreVoteReply { commit, .. } = *body {
            let (index, commit_term) = commit;
            in_range(index)?;
            // Nothing of a later term is committed, and an entry has a term.
            if commit_term > term || (index == 0) != (commit_term == 0) {
                return Err(StepError::BadNumber {
                    group,
                    from,
                    number: commit_term,
                });
            }
        }
        match *body {
            Body::PreVote {
                last_index, last_term, ..
            }
            | Body::Vote {
                last_index, last_term, ..
            } => {
                in_range(last_index)?;
                // Nobody can hold an entry of a term before it is won, nor have committed what is not in his log.
                let commits_more =
                    matches!(*body, Body::PreVote { commit, .. } if commit.0 > last_index || commit.1 > last_term);
                if last_term >= term || (last_index == 0) != (last_term == 0) || commits_more {
                    return Err(StepError::BadCandidate {
                        group,
                        from,
                        term,
                        last_index,
                        last_term,
                    });
                }
            }
            Body::Append {
                prev_index,
                prev_term,
                commit,
                ref entries,
            } => {
                in_range(prev_index)?;
                in_range(commit)?;
                self.validate_leader(from, term)?;
                self.validate_entries(from, term, prev_index, prev_term, entries)?;
            }
            Body::Heartbeat { commit, .. } => {
                in_range(commit)?;
                self.validate_leader(from, term)?;
                let last = self.log.last_index();
                if term >= self.term && commit > last && self.recovering.is_none() {
                    return Err(StepError::CommitBeyondLog {
                        group,
                        from,
                        commit,
                        last,
                    });
                }
            }
            Body::Snapshot { ref meta } => {
                in_range(meta.index)?;
                self.validate_leader(from, term)?;
                let follows = meta.index > 0 && meta.term > 0 && meta.term <= term;
                let contradicts = self.has_agreed(term, meta.index)
                    && meta.index > self.log.commit
                    && !self.log.matches(meta.index, meta.term);
                if !follows || contradicts || !meta.conf.is_valid() {
                    return Err(StepError::BadSnapshot { group, from });
                }
            }
            Body::AppendReply { result, .. } if self.is_leader_of(term) => {
                let last = self.log.last_index();
                let (index, follows) = match result {
                    Ok(index) => (index, true),
                    Err(reject) => (reject.prev_index, reject.hint_index <= reject.prev_index),
                };
                if index > last || !follows {
                    return Err(StepError::AckBeyondLog {
                        group,
                        from,
                        index,
                        last,
                    });
                }
            }
            Body::HeartbeatReply { read_seq, .. } if self.is_leader_of(term) => {
                let newest = self.reads.newest_round();
                if read_seq > newest {
                    return Err(StepError::ReadBeyondNewest {
                        group,
                        from,
                        read_seq,
                        newest,
                    });
                }
            }
            Body::ReadIndexReply { index, .. } | Body::Held { index } => in_range(index)?,
            Body::PreVoteReply { .. }
            | Body::VoteReply { .. }
            | Body::AppendReply { .. }
            | Body::HeartbeatReply { .. }
            | Body::TimeoutNow
            | Body::ReadIndex { .. } => {}
        }
        Ok(())
    }

    fn is_leader_of(&self, term: Term) -> bool {
        self.role == Role::Leader && self.term == term
    }

    /// A term has one leader.
    fn validate_leader(&self, from: PeerId, term: Term) -> Result<(), StepError> {
        if term == self.term && !self.leader.is_none() && self.leader != from {
            return Err(StepError::TwoLeaders {
                group: self.config.group,
                from,
                term,
                known: self.leader,
            });
        }
        Ok(())
    }

    /// Whether our entry at `index` is the one that the leader of `term` has there.
    fn has_agreed(&self, term: Term, index: Index) -> bool {
        term == self.term && index <= self.agreed
    }

    fn validate_entries(
        &self,
        from: PeerId,
        term: Term,
        prev_index: Index,
        prev_term: Term,
        entries: &[Entry],
    ) -> Result<(), StepError> {
        let group = self.config.group;
        if prev_term > term || (prev_index == 0) != (prev_term == 0) {
            return Err(StepError::BadEntries {
                group,
                from,
                after: prev_index,
                found: prev_index,
                term: prev_term,
            });
        }
        let matches = term >= self.term && self.log.matches(prev_index, prev_term);
        let prev_time = if matches { self.log.time_at(prev_index) } else { None };
        let (mut after, mut after_term, mut after_time) = (prev_index, prev_term, prev_time.unwrap_or_default());
        let mut is_known = matches;
        for entry in entries {
            let in_order = entry.index == after + 1
                && entry.term >= after_term.max(1)
                && entry.term <= term
                && entry.time >= after_time;
            if !in_order {
                return Err(StepError::BadEntries {
                    group,
                    from,
                    after,
                    found: entry.index,
                    term: entry.term,
                });
            }
            if entry.kind == EntryKind::ConfChange
                && let Err(source) = ConfChange::decode(&entry.data)
            {
                return Err(StepError::BadConfChange {
                    group,
                    from,
                    index: entry.index,
                    source,
                });
            }
            is_known &= self.log.matches(entry.index, entry.term);
            // What we have stays as we have it, so what is new has to follow that.
            let kept_time = if is_known { self.log.time_at(entry.index) } else { None };
            (after, after_term, after_time) = (entry.index, entry.term, kept_time.unwrap_or(entry.time));
        }
        let (base, commit) = (self.log.base(), self.log.commit);
        // What is compacted cannot be compared, and is not written either.
        if term < self.term || prev_index < base {
            return Ok(());
        }
        let first_new = if matches {
            self.log.first_new(entries).map(|at| entries[at].index)
        } else {
            Some(prev_index)
        };
        match first_new {
            Some(index) if index <= commit => Err(StepError::ConflictsWithCommitted {
                group,
                from,
                index,
                commit,
            }),
            Some(index) if self.has_agreed(term, index) => Err(StepError::ContradictsItself {
                group,
                from,
                index,
                term,
            }),
            _ => Ok(()),
        }
    }
}
