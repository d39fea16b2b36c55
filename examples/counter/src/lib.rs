//! The smallest state machine that is worth replicating: a number that is added to.

use bytes::Bytes;
use settle_machine::{ApplyError, EntryMeta, LoadError, SnapshotChunks, StateMachine};

/// A command is a little-endian u64 to be added; its effect is the sum after it.
#[derive(Default)]
pub struct Counter {
    total: u64,
    loading: Vec<u8>,
}

impl Counter {
    pub fn total(&self) -> u64 {
        self.total
    }

    pub fn add(amount: u64) -> Bytes {
        Bytes::copy_from_slice(&amount.to_le_bytes())
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_le_bytes)
}

impl StateMachine for Counter {
    type Effect = u64;

    fn check(&self, command: &Bytes) -> Result<(), ApplyError> {
        let reason = format!("a command has 8 bytes, not {}", command.len());
        number(command).map(drop).ok_or(ApplyError { index: 0, reason })
    }

    fn apply(&mut self, entry: EntryMeta, command: &Bytes, effects: &mut Vec<u64>) -> Result<(), ApplyError> {
        let (index, reason) = (entry.index, "a command has 8 bytes".to_owned());
        let amount = number(command).ok_or(ApplyError { index, reason })?;
        // A replica must never stop for what a client asks: at the end of all numbers it begins anew, on each alike.
        self.total = self.total.wrapping_add(amount);
        effects.push(self.total);
        Ok(())
    }

    fn begin_snapshot(&self) -> SnapshotChunks {
        Box::new(std::iter::once(Counter::add(self.total)))
    }

    fn load_chunk(&mut self, chunk: Bytes) -> Result<(), LoadError> {
        self.loading.extend_from_slice(&chunk);
        if self.loading.len() > 8 {
            let reason = "a counter has 8 bytes".to_owned();
            return Err(LoadError { reason });
        }
        Ok(())
    }

    fn finish_load(&mut self) -> Result<(), LoadError> {
        let reason = "a counter has 8 bytes".to_owned();
        self.total = number(&std::mem::take(&mut self.loading)).ok_or(LoadError { reason })?;
        Ok(())
    }

    fn state_hash(&self) -> u64 {
        self.total
    }

    fn is_hash_cheap(&self) -> bool {
        true
    }
}
