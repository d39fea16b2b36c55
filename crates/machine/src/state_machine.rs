use bytes::Bytes;
use settle_base::{GroupTime, Index, Term};

/// Where and when in its group's history a command stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryMeta {
    pub index: Index,
    pub term: Term,
    /// The group's time at which the leader proposed it: the only clock that `apply` may use. It never falls.
    pub time: GroupTime,
}

/// A consistent image of a state machine, as chunks that together make the snapshot. Chunks may have any size; the
/// host cuts and checksums them for the wire.
pub type SnapshotChunks = Box<dyn Iterator<Item = Bytes> + Send>;

/// A deterministic machine: the same entries in the same order give the same state, effects and hash on every replica.
pub trait StateMachine {
    /// What applying makes known to the services of the replica's node. Every replica produces the same effects;
    /// a service picks those that concern it.
    type Effect;

    /// Whether `command` can be understood, whatever the state: what passes here on one replica, no replica of this
    /// build fails to apply. The leader's host asks before it lets a command into the log, where one that cannot be
    /// applied would stop every replica for good.
    ///
    /// # Errors
    /// When it cannot; the error's index is 0, since the command has no place in the log yet.
    fn check(&self, command: &Bytes) -> Result<(), ApplyError>;

    /// Applies one committed command.
    ///
    /// # Errors
    /// When the command cannot be understood: it was proposed by a newer build than this one or the log is broken. The
    /// host stops the group and says so; a command that is merely refused (a lock conflict, an unknown xid) is an
    /// effect, not an error.
    fn apply(&mut self, entry: EntryMeta, command: &Bytes, effects: &mut Vec<Self::Effect>) -> Result<(), ApplyError>;

    /// Freezes the state as of the last applied entry. The chunks must not change while later entries are applied.
    fn begin_snapshot(&self) -> SnapshotChunks;

    /// Replaces the whole state by that of a snapshot; what was there before is cleared first.
    ///
    /// # Errors
    /// When the chunks are not a snapshot of this machine. The state is then unusable and the host stops the group.
    fn load(&mut self, chunks: &mut dyn Iterator<Item = Bytes>) -> Result<(), LoadError>;

    /// A hash of the whole state, for comparing replicas that have applied the same index.
    fn state_hash(&self) -> u64;
}

/// A committed command that this build cannot apply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot apply the entry at index {index}: {reason}")]
pub struct ApplyError {
    pub index: Index,
    pub reason: String,
}

/// Bytes that are no snapshot of this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot load the snapshot: {reason}")]
pub struct LoadError {
    pub reason: String,
}
