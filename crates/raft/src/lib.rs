//! One Raft group's consensus as a pure state machine: it does no I/O, reads no clock, spawns nothing and draws no
//! randomness of its own. Time is [`Raft::tick`], the network is [`Raft::step`] and [`Ready::messages`], the disk is
//! [`Ready::persist`] and [`Raft::on_persisted`]; the same calls in the same order give the same outputs, byte for byte.
//!
//! The shape is etcd's `RawNode` with asynchronous storage writes: [`Raft::ready`] may be called again while earlier
//! writes are still on their way to the disk. Every message knows what durability it rests on ([`Message::rests_on`]);
//! one that rests on something not durable yet either travels in [`Persist::after`] or is kept back here.
//!
//! What is deliberately absent: encoding of messages, batching over groups, the bytes of snapshots, and leases for
//! reads. Those are the host's.
//!
//! Map: `raft.rs` the group's state and its life; `validate.rs` what a message must keep before anything changes;
//! `election.rs`, `replication.rs`, `read.rs`, `membership.rs`, `recovering.rs`, `hibernation.rs`, `witness.rs`, `reset.rs`,
//! `surgery.rs` one concern each; `ready.rs` the way out;
//! `log.rs`, `progress.rs`, `peer_map.rs`, `conf.rs` the parts.

mod conf;
mod election;
mod entry;
mod hibernation;
mod log;
mod membership;
mod message;
mod peer_map;
mod progress;
mod raft;
mod read;
mod ready;
mod recovering;
mod replication;
mod reset;
mod surgery;
mod validate;
mod witness;

pub use conf::{ConfChange, ConfChangeError, ConfChangeKind, ConfDecodeError, ConfState, MAX_PEERS};
pub use entry::{Entry, EntryKind, HardState, SnapshotMeta};
pub use membership::TransferError;
pub use message::{Body, Durability, Message, Reject, Standing};
pub use progress::ProgressState;
pub use raft::{Config, PRIORITY_MAX, PeerStatus, Raft, RestoreError, Restored, Role, Status};
pub use read::ReadError;
pub use ready::{Persist, PersistSeq, ReadBehind, ReadReady, Ready, RoleChange};
pub use replication::ProposeError;
pub use reset::{LossWindow, ResetError};
pub use settle_base::{GroupId, Index, PeerId, Term};
pub use surgery::HandError;
pub use validate::StepError;
