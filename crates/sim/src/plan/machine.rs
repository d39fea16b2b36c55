use bytes::{Buf, Bytes, BytesMut};
use settle_machine::{ApplyError, EntryMeta, LoadError, SnapshotChunks, StateMachine};

use super::Invariant;

/// A user's machine and its judge.
pub(crate) struct Judged<M> {
    pub(crate) machine: M,
    invariants: Vec<Invariant<M>>,
    /// Commands, each counted once.
    pub(crate) applied: u64,
    /// What an invariant said first.
    pub(crate) broken: Option<String>,
    /// The head of a snapshot, of which not everything has arrived.
    head: BytesMut,
    is_head_read: bool,
}

const HEAD_BYTES: usize = 8;

impl<M> Judged<M> {
    pub(crate) fn new(machine: M, invariants: Vec<Invariant<M>>) -> Judged<M> {
        Judged {
            machine,
            invariants,
            applied: 0,
            broken: None,
            head: BytesMut::new(),
            is_head_read: false,
        }
    }

    fn judge(&mut self, place: &str) {
        for holds in &self.invariants {
            if self.broken.is_none() {
                self.broken = holds(&self.machine).err().map(|what| format!("{place}: {what}"));
            }
        }
    }
}

impl<M: StateMachine> StateMachine for Judged<M> {
    type Effect = M::Effect;

    fn check(&self, command: &Bytes) -> Result<(), ApplyError> {
        self.machine.check(command)
    }

    fn apply(&mut self, entry: EntryMeta, command: &Bytes, effects: &mut Vec<M::Effect>) -> Result<(), ApplyError> {
        self.machine.apply(entry, command, effects)?;
        self.applied += 1;
        self.judge("after a command");
        Ok(())
    }

    fn begin_snapshot(&self) -> SnapshotChunks {
        let head = Bytes::copy_from_slice(&self.applied.to_le_bytes());
        Box::new(std::iter::once(head).chain(self.machine.begin_snapshot()))
    }

    fn load_chunk(&mut self, chunk: Bytes) -> Result<(), LoadError> {
        if self.is_head_read {
            return self.machine.load_chunk(chunk);
        }
        self.head.extend_from_slice(&chunk);
        if self.head.len() >= HEAD_BYTES {
            self.is_head_read = true;
            self.applied = self.head.get_u64_le();
            let rest = self.head.split().freeze();
            if !rest.is_empty() {
                self.machine.load_chunk(rest)?;
            }
        }
        Ok(())
    }

    fn finish_load(&mut self) -> Result<(), LoadError> {
        if !std::mem::take(&mut self.is_head_read) {
            let reason = "a snapshot without its head".to_owned();
            return Err(LoadError { reason });
        }
        self.machine.finish_load()?;
        self.judge("after a snapshot was loaded");
        Ok(())
    }

    fn state_hash(&self) -> u64 {
        self.machine.state_hash().rotate_left(1) ^ self.applied
    }

    fn is_hash_cheap(&self) -> bool {
        self.machine.is_hash_cheap()
    }
}
