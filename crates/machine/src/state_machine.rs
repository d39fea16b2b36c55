use bytes::Bytes;
use settle_base::{GroupTime, Index, Term};

use crate::Members;

/// Where and when in its group's history a command stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EntryMeta {
    pub index: Index,
    pub term: Term,
    /// The group's time at which the leader proposed it: the only clock that `apply` may use. It never falls.
    pub time: GroupTime,
    /// The cluster version in force: every change of what `apply` does asks it, so that builds which differ do the same
    /// until an operator raises it. It never falls within a group's history and is the same on every replica.
    pub version: u32,
}

/// A consistent image of a state machine, as chunks that together make the snapshot. Chunks may have any size; the
/// host cuts and checksums them for the wire.
pub type SnapshotChunks = Box<dyn Iterator<Item = Bytes> + Send>;

/// A deterministic machine: the same entries in the same order give the same state, effects and hash on every replica.
///
/// It runs on the host's loop, beside every other group of its node. So no call may take long: a snapshot is taken and
/// loaded in pieces, and whatever is large is made lazily.
pub trait StateMachine: Send + 'static {
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
    /// host tells the service and stops the node; a command that is merely refused (a lock conflict, an unknown xid) is an
    /// effect, not an error.
    fn apply(&mut self, entry: EntryMeta, command: &Bytes, effects: &mut Vec<Self::Effect>) -> Result<(), ApplyError>;

    /// Whether `command`, the next to be applied, needs something that is not in this group's log, and what. The host
    /// then stops applying before it, asks the service, and applies it with [`StateMachine::apply_given`].
    fn needs(&self, command: &Bytes) -> Option<Bytes> {
        let _ = command;
        None
    }

    /// Applies a command that needed something. `given` must be the same on every replica: a function of a log.
    ///
    /// # Errors
    /// As [`StateMachine::apply`].
    fn apply_given(
        &mut self,
        entry: EntryMeta,
        command: &Bytes,
        given: Bytes,
        effects: &mut Vec<Self::Effect>,
    ) -> Result<(), ApplyError> {
        let _ = given;
        self.apply(entry, command, effects)
    }

    /// The group's members as of the last applied entry: told when the replica starts and whenever they may have
    /// changed, in their place among the commands.
    fn members_changed(&mut self, members: &Members) {
        let _ = members;
    }

    /// Whether a change of members may be proposed, and takes effect when it is met in the log. Asked of every replica
    /// at the same place, so the answer must follow from the state. In a group with a witness, which has no state, only
    /// the leader is asked, before it proposes one.
    fn takes_members(&self) -> bool {
        true
    }

    /// Applies committed commands that follow one another; how they are cut into batches must not matter. Worth
    /// writing when a batch is cheaper than its parts, as with an engine that has write batches.
    ///
    /// # Errors
    /// As [`StateMachine::apply`], of the first command that fails.
    fn apply_batch(
        &mut self,
        batch: &mut dyn Iterator<Item = (EntryMeta, &Bytes)>,
        effects: &mut Vec<Self::Effect>,
    ) -> Result<(), ApplyError> {
        for (entry, command) in batch {
            self.apply(entry, command, effects)?;
        }
        Ok(())
    }

    /// Freezes the state as of the last applied entry. The chunks must not change while later entries are applied, and
    /// this call must not copy the state: share what is large (copy on write, as [`SharedMap`](crate::SharedMap) does) and
    /// encode it as the chunks are asked for.
    fn begin_snapshot(&self) -> SnapshotChunks;

    /// Takes the next chunk of a snapshot, cut in any way, as it arrives. The first one clears what was there before:
    /// until [`StateMachine::finish_load`] nothing else is asked of this machine.
    ///
    /// # Errors
    /// When this cannot be part of a snapshot of this machine. The machine is then thrown away.
    fn load_chunk(&mut self, chunk: Bytes) -> Result<(), LoadError>;

    /// All chunks were there: the state is that of the snapshot now, and of nothing else, also when there was no chunk.
    ///
    /// # Errors
    /// When the chunks were not the whole of a snapshot of this machine. The machine is then thrown away.
    fn finish_load(&mut self) -> Result<(), LoadError>;

    /// Loads a whole snapshot at once.
    ///
    /// # Errors
    /// As [`StateMachine::load_chunk`] and [`StateMachine::finish_load`].
    fn load(&mut self, chunks: &mut dyn Iterator<Item = Bytes>) -> Result<(), LoadError> {
        for chunk in chunks {
            self.load_chunk(chunk)?;
        }
        self.finish_load()
    }

    /// A hash of the whole state, for comparing replicas that have applied the same index. Builds that may run side by
    /// side compute the same hash of the same state.
    fn state_hash(&self) -> u64;

    /// Whether [`StateMachine::state_hash`] costs the same however large the state is, since it is kept up to date with
    /// each change: then the host compares replicas while they serve. Else hashing would stop the loop, and only tests
    /// and simulation do it.
    fn is_hash_cheap(&self) -> bool {
        false
    }
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
