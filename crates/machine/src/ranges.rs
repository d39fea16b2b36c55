//! Ranges that split and merge, one group each: what their machines have in common, and the [`Surgeon`] that moves splits
//! and merges on. The protocol is told in the host's `surgery` module.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use settle_base::{GroupId, GroupTime, Index, Term};

use crate::{LogEntry, Members, StateMachine};

pub use crate::surgeon::{Surgeon, SurgeonCounters};

/// Which of a range's lives a command is meant for. For any key neither number ever falls.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Epoch {
    /// Rises whenever the range or the right to serve it changes.
    pub version: u64,
    /// Rises whenever the members change.
    pub conf_ver: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum State {
    /// Waits for a snapshot.
    #[default]
    Empty,
    Serving,
    /// Silent, until it is absorbed or rolled back. Nothing of it changes.
    Merging(Merging),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Merging {
    pub target: GroupId,
    pub target_epoch: Epoch,
    /// Every replica held what is before.
    pub min_index: Index,
    /// The entry that made it so.
    pub prepared: Index,
}

/// What the target of a merge remembers of a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Absorbed {
    pub prepared: Index,
    /// The target's own entry.
    pub at: Index,
    /// Nobody needs the source any more.
    pub is_finished: bool,
}

/// A command to the target of a merge: absorb the source as it is after its entry at `prepared`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Commit<R> {
    pub epoch: Epoch,
    pub source: GroupId,
    pub range: R,
    pub prepared: Index,
    /// The end of the source's log, for replicas that lack it: what follows this entry.
    pub prev_index: Index,
    pub prev_term: Term,
    pub entries: Vec<LogEntry>,
}

/// The commands of a merge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MergeCommand<R> {
    /// To the source: be silent, to be merged into `target` as it was at `target_epoch`.
    Prepare {
        epoch: Epoch,
        target: GroupId,
        target_epoch: Epoch,
        /// Every replica of the source holds what is before.
        min_index: Index,
    },
    Commit(Commit<R>),
    /// To the source: serve again. Proposed only once the target cannot absorb it any more.
    Rollback {
        prepared: Index,
    },
    /// To the target: leave the source that expects this epoch alone.
    Cancel {
        epoch: Epoch,
        source: GroupId,
    },
    /// To the target: nobody needs the source any more.
    Finish {
        source: GroupId,
    },
}

/// What applying a command of a split or a merge did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RangeChange {
    /// `chunks` are the whole of what `child` begins with.
    Split {
        index: Index,
        time: GroupTime,
        child: GroupId,
        members: Bytes,
        chunks: Vec<Bytes>,
    },
    Prepared {
        prepared: Index,
        min_index: Index,
    },
    Absorbed,
    RolledBack,
    Finished,
}

/// What can be seen of a range from outside.
#[derive(Clone, Copy, Debug)]
pub struct Outline<'a> {
    pub epoch: Epoch,
    pub state: State,
    pub members: &'a Members,
    /// Split off and not absorbed since, by anybody.
    pub children: &'a BTreeSet<GroupId>,
    pub absorbed: &'a BTreeMap<GroupId, Absorbed>,
}

impl Outline<'_> {
    /// No replica waits for a source any more.
    pub fn has_finished_merges(&self) -> bool {
        self.absorbed.values().all(|absorbed| absorbed.is_finished)
    }
}

/// The machine of a range.
pub trait Ranged: StateMachine {
    type Range: Clone;

    fn outline(&self) -> Outline<'_>;

    fn range(&self) -> Self::Range;

    /// One of the two ends where the other begins.
    fn touches(&self, other: &Self) -> bool;

    /// What a target takes over: the same on every replica that has come to its prepare.
    fn inheritance(&self) -> Bytes;

    fn encode(command: MergeCommand<Self::Range>) -> Bytes;

    /// What [`StateMachine::needs`] gave, read back.
    fn commit_of(needs: &Bytes) -> Option<Commit<Self::Range>>;
}
