//! What the log is made of, and what must be on disk beside it.

use bytes::Bytes;
use settle_base::{GroupTime, Index, PeerId, Term};

use crate::conf::ConfState;

/// What an entry's `data` means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// The state machine's commands.
    Normal,
    /// An encoded [`crate::ConfChange`].
    ConfChange,
    /// Empty: the first entry of a leader's term, or the barrier that a recovering peer must pass.
    Noop,
    /// A command of the host to itself (a mark, a version, a permission): opaque to consensus, not for the machine.
    Host,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub term: Term,
    pub index: Index,
    pub kind: EntryKind,
    /// Group time, given by the leader; never falls along the log.
    pub time: GroupTime,
    pub data: Bytes,
}

impl Entry {
    /// What an entry costs in memory and on the wire, in bytes: its data and a fixed share for its header.
    pub fn size(&self) -> usize {
        self.data.len() + ENTRY_OVERHEAD
    }
}

/// Also keeps a flood of empty entries within the limits that are counted in bytes.
const ENTRY_OVERHEAD: usize = 32;

/// What must be durable before a vote or an ack leaves.
///
/// `commit` may be older than the truth after a crash, but it must not be dropped from a record that also carries
/// entries: a peer that holds the entry which leaves a joint configuration must remember, after a restart, that the entry
/// which entered it is committed. Otherwise it could campaign in the old configuration alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HardState {
    pub term: Term,
    /// Whom this peer voted for in `term`; [`PeerId::NONE`] when nobody.
    pub vote: PeerId,
    pub commit: Index,
}

impl Default for HardState {
    fn default() -> HardState {
        HardState {
            term: 0,
            vote: PeerId::NONE,
            commit: 0,
        }
    }
}

/// What a snapshot stands for: the whole log up to and including `index`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SnapshotMeta {
    pub index: Index,
    pub term: Term,
    /// The membership after `index` was applied.
    pub conf: ConfState,
    /// The time of the entry at `index`.
    pub time: GroupTime,
    /// Opaque to consensus: the host's membership book (node ids, addresses) at `index`.
    pub context: Bytes,
}
