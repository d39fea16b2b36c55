//! What peers tell each other, and what each message rests on.

use settle_base::{GroupId, Index, PeerId, Term};

use crate::entry::{Entry, SnapshotMeta};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    pub group: GroupId,
    pub from: PeerId,
    pub to: PeerId,
    /// The sender's term; for `PreVote` and its grant, the term that the candidate would campaign in.
    pub term: Term,
    pub body: Body,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// "Would you vote for me?" Promises nothing at either side; both may learn what is committed.
    PreVote {
        last_index: Index,
        last_term: Term,
        /// Up to where the candidate knows its log to be committed, with the term of the entry there.
        commit: (Index, Term),
        /// The candidate's [`crate::Config::priority`].
        priority: u8,
    },
    PreVoteReply {
        granted: bool,
        /// The same of the voter.
        commit: (Index, Term),
        /// The voter's log was damaged at its start: the grant counts only where every voter's is needed.
        recovering: Option<u64>,
    },
    /// `force`: the leader itself asked for this election (leadership transfer), so its lease does not protect it.
    Vote {
        last_index: Index,
        last_term: Term,
        force: bool,
    },
    VoteReply {
        granted: bool,
        /// As in [`Body::PreVoteReply`].
        recovering: Option<u64>,
    },
    Append {
        prev_index: Index,
        prev_term: Term,
        commit: Index,
        entries: Vec<Entry>,
    },
    AppendReply {
        /// The index up to which the follower's *durable* log equals the leader's, or why not.
        result: Result<Index, Reject>,
        /// The follower's log was damaged at its start: see [`crate::Restored::recovering`].
        recovering: Option<u64>,
    },
    Heartbeat {
        /// Never above what the follower is known to hold.
        commit: Index,
        /// The newest round of reads; the reply confirms all rounds up to it.
        read_seq: u64,
        /// For a recovering peer: its number, and the committed index that it must hold before it may vote again.
        recover_to: Option<(u64, Index)>,
        /// Nothing is under way: rest, if your log is the same. See [`crate::Raft::rest`].
        rest: bool,
    },
    HeartbeatReply {
        read_seq: u64,
        recovering: Option<u64>,
        /// The follower rests from now on.
        rested: bool,
    },
    /// An announcement: the host streams the bytes and steps this into the receiver once all arrived and verified.
    /// The answer is an [`Body::AppendReply`].
    Snapshot {
        meta: SnapshotMeta,
    },
    /// To a witness: every full voter holds the log up to here.
    Held {
        index: Index,
    },
    /// Campaign now: you are to be the leader.
    TimeoutNow,
    /// A follower asks for an index that is safe to read at. `ctx` is unique at the asker.
    ReadIndex {
        ctx: u64,
    },
    ReadIndexReply {
        ctx: u64,
        index: Index,
    },
}

/// Why an append did not fit, and where to try next (etcd's `findConflictByTerm` hints).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reject {
    /// The `prev_index` that did not match.
    pub prev_index: Index,
    /// The follower's highest index that could still match.
    pub hint_index: Index,
    /// The follower's term at `hint_index`; 0 when it is unknown.
    pub hint_term: Term,
}

/// The durability that a message rests on: it may not leave its sender before all of it is on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Durability {
    /// The sender's durable term must be this one.
    pub term: Term,
    /// The sender's durable vote in `term` must be this one.
    pub vote: Option<PeerId>,
    /// The sender's durable log must reach this index.
    pub log: Option<Index>,
}

/// How a message stands against what is durable at its sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    Met,
    /// The disk has moved on to a later term: the message is of no use any more and is to be dropped.
    Stale,
    /// It would promise what a crash could take back: never to be sent.
    Missing,
}

impl Durability {
    /// Compares with what the disk holds. A message that waited while a later term became durable is [`Standing::Stale`].
    pub fn standing(&self, durable_term: Term, durable_vote: PeerId, durable_index: Index) -> Standing {
        if durable_term > self.term {
            return Standing::Stale;
        }
        let met = durable_term == self.term
            && self.vote.is_none_or(|vote| vote == durable_vote)
            && self.log.is_none_or(|index| index <= durable_index);
        if met { Standing::Met } else { Standing::Missing }
    }
}

impl Message {
    /// What must be durable at the sender before this message leaves; `None`: nothing.
    ///
    /// Consensus routes by this, and the host's checker judges every send by it. A `PreVote` and its grant speak of a
    /// term that nobody has adopted yet. All else speaks in the sender's term, and a peer that forgot its term in a
    /// crash must not have spoken in it.
    pub fn rests_on(&self) -> Option<Durability> {
        let term_only = Durability {
            term: self.term,
            vote: None,
            log: None,
        };
        match &self.body {
            Body::PreVote { .. } | Body::PreVoteReply { granted: true, .. } => None,
            Body::Vote { .. } | Body::VoteReply { granted: true, .. } if settle_base::mutant!("vote_before_store") => {
                None
            }
            Body::AppendReply { result: Ok(_), .. } if settle_base::mutant!("ack_before_sync") => None,
            Body::Vote { .. } => Some(Durability {
                vote: Some(self.from),
                ..term_only
            }),
            Body::VoteReply { granted: true, .. } => Some(Durability {
                vote: Some(self.to),
                ..term_only
            }),
            Body::AppendReply { result: Ok(index), .. } => Some(Durability {
                log: Some(*index),
                ..term_only
            }),
            Body::PreVoteReply { granted: false, .. }
            | Body::VoteReply { granted: false, .. }
            | Body::Append { .. }
            | Body::AppendReply { result: Err(_), .. }
            | Body::Heartbeat { .. }
            | Body::HeartbeatReply { .. }
            | Body::Snapshot { .. }
            | Body::Held { .. }
            | Body::TimeoutNow
            | Body::ReadIndex { .. }
            | Body::ReadIndexReply { .. } => Some(term_only),
        }
    }
}
