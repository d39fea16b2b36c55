//! What changes the groups of a node themselves: the vocabulary of split and merge. How the two are built from it is
//! told in the host's `surgery` module.

use bytes::Bytes;
use settle_base::{GroupId, GroupTime, Index, PeerId, Term};

/// Who the members of a group are, as its machine may know it: the same on every replica at the same index.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Members {
    /// Of both configurations while a change between two is under way.
    pub voters: Vec<PeerId>,
    pub learners: Vec<PeerId>,
    pub is_joint: bool,
    /// What [`Birth::members`] takes; opaque, and empty while this replica knows no configuration.
    pub encoded: Bytes,
}

/// A group to be created on this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewGroup {
    pub group: GroupId,
    /// `None`: an empty replica that knows no configuration and waits for its leader's snapshot. It is what a node that
    /// missed the beginning creates; it cannot campaign.
    pub birth: Option<Birth>,
}

/// How a group begins, the same on every replica that begins it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Birth {
    /// [`Members::encoded`] of the group that it comes from. This node's replica must be among them.
    pub members: Bytes,
    /// The log begins behind this entry, which is in the state. At least 1; above what an empty replica could have.
    pub index: Index,
    pub term: Term,
    pub time: GroupTime,
    /// The state, as [`crate::StateMachine::load`] takes it.
    pub chunks: Vec<Bytes>,
    /// Ask for an election at once: for one replica, the leader's of the group that it comes from.
    pub campaigns: bool,
}

/// What became of a [`NewGroup`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CreateOutcome {
    /// It is here, durably.
    Created,
    /// It was here already, or is on its way. Nothing was changed.
    Exists,
    /// It was here and was destroyed: it never comes back on this node.
    Tombstoned,
    /// The birth makes no sense here, or there are too many groups.
    Refused,
}

/// Where a replica's log stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogMarks {
    /// The first entry in memory.
    pub first: Index,
    pub last: Index,
    pub committed: Index,
    pub applied: Index,
    /// The newest snapshot that the log durably begins at: a restart applies what follows.
    pub snapshot: Index,
    /// At a leader whose members all were heard of lately: each of them holds the log up to here, durably.
    pub on_all: Option<Index>,
}

/// One entry of a group's log. `kind` is the host's: what is not a machine's command must be carried all the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    pub index: Index,
    pub term: Term,
    pub kind: u8,
    pub time: GroupTime,
    pub data: Bytes,
}

/// A replica's log, as its service may see it.
pub trait GroupLog {
    fn marks(&self) -> LogMarks;

    /// The entries after `after` up to `to`, with the term of the entry at `after`; `None` when one is not in memory.
    fn entries(&self, after: Index, to: Index) -> Option<(Term, Vec<LogEntry>)>;
}

/// Committed entries of a group, for a replica of it that may lack them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HandedEntries {
    pub group: GroupId,
    /// They follow this entry, which is committed too.
    pub prev_index: Index,
    pub prev_term: Term,
    /// May be empty: then the entry at `prev_index` is told to be committed.
    pub entries: Vec<LogEntry>,
}
