//! The seams between the host, which replicates, and what is replicated: [`StateMachine`] below consensus, [`Service`]
//! above it.
//!
//! A state machine is told committed entries and nothing else: no clock, no randomness, no identity of the replica it
//! runs on. A service is the part of a front door that must be right under failure; it runs on every node, sees its
//! node's replicas, and reaches everything else through [`Action`]s.
//!
//! A whole state machine: a counter.
//!
//! ```
//! use bytes::Bytes;
//! use settle_machine::{ApplyError, EntryMeta, LoadError, SnapshotChunks, StateMachine};
//!
//! #[derive(Default)]
//! struct Counter {
//!     value: u64,
//!     /// What has arrived of a snapshot.
//!     loading: Vec<u8>,
//! }
//!
//! fn number(bytes: &[u8]) -> Option<u64> {
//!     bytes.try_into().ok().map(u64::from_le_bytes)
//! }
//!
//! impl StateMachine for Counter {
//!     /// The value after each command.
//!     type Effect = u64;
//!
//!     fn check(&self, command: &Bytes) -> Result<(), ApplyError> {
//!         let reason = "eight bytes are wanted".to_owned();
//!         number(command).map(drop).ok_or(ApplyError { index: 0, reason })
//!     }
//!
//!     fn apply(&mut self, entry: EntryMeta, command: &Bytes, effects: &mut Vec<u64>) -> Result<(), ApplyError> {
//!         self.check(command).map_err(|error| ApplyError { index: entry.index, ..error })?;
//!         let by = number(command).unwrap_or_default();
//!         // A build that knows version 2 counts differently, but only once all of the cluster is told to.
//!         self.value = match entry.version {
//!             ..2 => self.value.wrapping_add(by),
//!             2.. => self.value.saturating_add(by),
//!         };
//!         effects.push(self.value);
//!         Ok(())
//!     }
//!
//!     fn begin_snapshot(&self) -> SnapshotChunks {
//!         let value = self.value;
//!         Box::new(std::iter::once_with(move || Bytes::copy_from_slice(&value.to_le_bytes())))
//!     }
//!
//!     fn load_chunk(&mut self, chunk: Bytes) -> Result<(), LoadError> {
//!         self.loading.extend_from_slice(&chunk);
//!         Ok(())
//!     }
//!
//!     fn finish_load(&mut self) -> Result<(), LoadError> {
//!         let image = std::mem::take(&mut self.loading);
//!         let reason = "eight bytes are wanted".to_owned();
//!         self.value = number(&image).ok_or(LoadError { reason })?;
//!         Ok(())
//!     }
//!
//!     fn state_hash(&self) -> u64 {
//!         self.value
//!     }
//!
//!     fn is_hash_cheap(&self) -> bool {
//!         true
//!     }
//! }
//!
//! let mut counter = Counter::default();
//! let entry = EntryMeta { index: 1, term: 1, time: settle_base::GroupTime(0), version: 1 };
//! counter.apply(entry, &Bytes::copy_from_slice(&5_u64.to_le_bytes()), &mut Vec::new())?;
//! let mut copy = Counter::default();
//! copy.load(&mut counter.begin_snapshot())?;
//! assert_eq!(copy.state_hash(), counter.state_hash());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Machines of ranges that split and merge implement [`ranges::Ranged`] too, and their service keeps a
//! [`ranges::Surgeon`].
//!
//! Who only wants commands applied and state read writes a [`StateMachine`] and takes [`Commands`] over [`Once`] of it.

mod commands;
mod once;
pub mod ranges;
mod service;
mod shared_map;
mod state_machine;
mod surgeon;
mod surgery;

pub use commands::{CommandOptions, CommandRequest, CommandResponse, Commands, Look};
pub use once::{Applied, Once, Ticket};
pub use service::{Action, Context, Event, GroupRole, GroupView, Service};
pub use shared_map::SharedMap;
pub use state_machine::{ApplyError, EntryMeta, LoadError, SnapshotChunks, StateMachine};
pub use surgery::{Birth, CreateOutcome, GroupLog, HandedEntries, LogEntry, LogMarks, Members, NewGroup};
