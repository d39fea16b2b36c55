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
//! # A group of one, and what each call means
//! A replica is driven by a loop of the host's: put in what happened ([`Raft::tick`], [`Raft::step`], proposals, reads),
//! then take out what follows from it, in this order. With more voters the only difference is that there are messages.
//!
//! ```
//! use settle_raft::{ConfState, Config, GroupId, PeerId, Raft, Restored, SnapshotMeta};
//! use settle_base::GroupTime;
//!
//! // At the first start each founder has the same configuration; later, what the disk holds.
//! let conf = ConfState::of_voters([PeerId(1)]);
//! let restored = Restored { snapshot: SnapshotMeta { conf, ..Default::default() }, ..Default::default() };
//! let mut raft = Raft::restore(Config::new(GroupId(1), PeerId(1), 42), restored)?;
//!
//! let mut disk = Vec::new();
//! let mut machine = Vec::new();
//! let mut network = Vec::new();
//! raft.campaign();
//! for turn in 0..4 {
//!     if raft.is_leader() && turn < 3 {
//!         raft.propose(format!("write {turn}").into(), GroupTime(turn), None)?;
//!     }
//!     while raft.has_ready() {
//!         let ready = raft.ready();
//!         // 1. What may leave at once, before anything is on disk.
//!         network.extend(ready.messages);
//!         // 2. Durable first (fsync!), then what had to wait for it. It may take its time: `ready` works meanwhile.
//!         if let Some(persist) = ready.persist {
//!             disk.extend(persist.entries);
//!             raft.on_persisted(persist.seq);
//!             network.extend(persist.after);
//!         }
//!         // 3. Committed entries, each once and in order, to the machine. Membership changes go back to consensus
//!         //    with `Raft::apply_conf_change`; there are none here.
//!         for entry in ready.committed {
//!             if !entry.data.is_empty() {
//!                 machine.push(String::from_utf8(entry.data.to_vec())?);
//!             }
//!             raft.on_applied(entry.index);
//!         }
//!         // 4. Reads that became safe, snapshots asked for, a change of role: `ready.reads` and so on.
//!     }
//! }
//! assert_eq!(machine, ["write 1", "write 2"]);
//! assert!(network.is_empty(), "nobody else is there");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What the host owes: `on_persisted` only for what a crash cannot take back, in the order of the writes; messages of
//! one run of a peer are never delivered to a later run of it; a tick at an even pace; a disk that tells when it lost its
//! tail ([`Restored::recovering`]). Messages may be lost, delayed, repeated and reordered.
//!
//! # What there is
//! Pre-vote, check of the quorum, leadership transfer, priorities ([`Config::priority`]); pipelined replication within
//! bounded windows; linearizable reads at leader, follower and learner ([`Raft::read_index`]); joint membership changes
//! ([`Raft::propose_conf_change`]), learners, witnesses ([`Raft::is_witness`]); rest for idle groups ([`Raft::rest`]) and
//! quick takeover ([`Raft::leader_is_down`]); recovery of replicas that lost the tail of their log; and, by an operator's
//! word alone, a new configuration after the loss of a majority ([`Raft::reset_conf`]).
//!
//! Map: `raft.rs` the group's state and its life; `validate.rs` what a message must keep before anything changes;
//! `election.rs`, `replication.rs`, `read.rs`, `membership.rs`, `recovering.rs`, `hibernation.rs`, `witness.rs`, `reset.rs`,
//! `surgery.rs` one concern each; `ready.rs` the way out;
//! `log.rs`, `entries.rs`, `progress.rs`, `peer_map.rs`, `conf.rs` the parts.

mod conf;
mod election;
mod entries;
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
