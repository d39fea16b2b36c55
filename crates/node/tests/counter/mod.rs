//! The smallest machine: what the tests and the measurements of this crate replicate.

use bytes::Bytes;
use settle_machine::{ApplyError, EntryMeta, LoadError, SnapshotChunks, StateMachine};

/// Counts its commands.
#[derive(Default)]
pub struct Counter(pub u64);

impl StateMachine for Counter {
    type Effect = ();

    fn check(&self, _: &Bytes) -> Result<(), ApplyError> {
        Ok(())
    }

    fn apply(&mut self, _: EntryMeta, _: &Bytes, effects: &mut Vec<()>) -> Result<(), ApplyError> {
        self.0 += 1;
        effects.push(());
        Ok(())
    }

    fn begin_snapshot(&self) -> SnapshotChunks {
        Box::new(std::iter::once(Bytes::copy_from_slice(&self.0.to_le_bytes())))
    }

    fn load_chunk(&mut self, chunk: Bytes) -> Result<(), LoadError> {
        let reason = "eight bytes are a count".to_owned();
        let bytes = chunk[..].try_into().map_err(|_| LoadError { reason })?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }

    fn finish_load(&mut self) -> Result<(), LoadError> {
        Ok(())
    }

    fn state_hash(&self) -> u64 {
        self.0
    }
}
