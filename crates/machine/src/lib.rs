//! The seams between the host, which replicates, and what is replicated: [`StateMachine`] below consensus, [`Service`]
//! above it.
//!
//! A state machine is told committed entries and nothing else: no clock, no randomness, no identity of the replica it
//! runs on. A service is the part of a front door that must be right under failure; it runs on every node, sees its
//! node's replicas, and reaches everything else through [`Action`]s.
//!
//! Who only wants commands applied and state read writes a [`StateMachine`] and takes [`Commands`] over [`Once`] of it.

mod commands;
mod once;
mod service;
mod state_machine;
mod surgery;

pub use commands::{CommandOptions, CommandRequest, CommandResponse, Commands, Look};
pub use once::{Applied, Once, Ticket};
pub use service::{Action, Context, Event, GroupRole, GroupView, Service};
pub use state_machine::{ApplyError, EntryMeta, LoadError, SnapshotChunks, StateMachine};
pub use surgery::{Birth, CreateOutcome, GroupLog, HandedEntries, LogEntry, LogMarks, Members, NewGroup};
