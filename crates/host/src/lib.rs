//! Many groups on one node, and the one place that orders persist, send, apply and reply.
//!
//! [`Host`] is pure: [`Host::step`] takes one [`HostEvent`] with the time it happened, [`Host::flush`] lets follow what can
//! follow, and both only return [`HostAction`]s. The disk is a [`settle_storage::Disk`], peers are actions, the front door
//! is a [`settle_machine::Service`] that the host drives. The node's loop and the simulator drive exactly this object.
//!
//! The rule that everything here serves: nothing is promised before what it rests on is durable. Consensus hands out
//! what to write and what may follow; `order.rs` writes one batch for all groups and lets follow only what the log's
//! completion allows; `durability.rs` judges each send and each apply by those completions alone.
//!
//! Groups are filed by what they need (`groups.rs`), so that an event costs nothing for those that it does not concern;
//! one in which nothing happens rests (`hibernate.rs`). Who leads what is in `leaders.rs`.
//!
//! What is deliberately absent: sockets, threads, clocks, the bytes of a connection (the transport's), any knowledge of
//! what the commands mean (the machine's) or who asks (the service's).

mod config;
mod control;
mod durability;
mod error;
mod event;
mod group;
mod groups;
mod hashes;
mod hibernate;
mod host;
mod identity;
mod join;
mod leaders;
mod log_space;
mod members;
mod membership;
mod message;
mod open;
mod operator;
mod order;
pub mod peer_codec;
mod raft_codec;
mod snapshot_file;
mod snapshots;
mod stages;
mod status;
mod stopped;
pub mod surgery;
mod throttle;
mod transfer_queue;
mod transfers;
mod versions;
mod wire;
mod witness;

pub use config::{HostConfig, Limits};
pub use control::HostCommand;
pub use durability::{CheckerCounters, DurabilityChecker, Durable};
pub use error::{HostError, OpenError, PeerError, SnapshotError, SnapshotFileError};
pub use event::{Discarded, HostAction, HostEvent, HostNote};
pub use hashes::QuarantineStatus;
pub use host::Host;
pub use identity::{ClusterId, Identity, Member};
pub use leaders::Leads;
pub use members::Book;
pub use message::{ChunkContent, Hello, JoinMessage, Lane, PeerMessage, SnapshotChunk};
pub use operator::{
    LostMember, MemberRole, OperatorDone, OperatorError, OperatorOutcome, OperatorRequest, ResetReport,
};
pub use snapshot_file::BULK_PREFIXES;
pub use stages::{STAGE_BUCKET_FIRST_US, STAGE_BUCKETS, STAGES, StageHistogram, TIMELINES_KEPT, Timeline};
pub use status::{GROUPS_TOLD, GroupCounts, GroupStatus, HostCounters, HostStatus};
pub use stopped::StopReason;
pub use versions::VersionStatus;
pub use wire::Malformed;
