//! The door's request logic: what every node does for the clients that are connected to it, free of any wire.
//!
//! [`TxGate`] is pure: it is told events by the host's loop, looks at this node's replicas, and gives actions. What it
//! promises:
//!
//! - Any node takes any client. A write becomes a command with an identity of its own, is proposed until this node's
//!   replica has applied it, and is done once however often it was proposed.
//! - A commit or rollback is answered only when it is decided in the log, with the transaction's true standing. What
//!   cannot be decided is held, then dropped unanswered: the client's retry is safe, a wrong answer is not.
//! - Second-phase calls are made by the group's leader alone, through whichever node holds a channel of the right
//!   client. The node that holds it refuses leaders of older terms and keeps one call out per branch. What a resource
//!   manager answers is a fact, whoever asked and however late.
//! - Every node comes to know every other's sessions within seconds, whatever connections and messages are lost.
//! - Every queue has a limit, every limit an error with a code.
//!
//! What does not belong here: bytes of any client protocol, sockets, clocks, and the transaction rules themselves
//! (`settle_tx`).

mod admin;
mod alerts;
mod calls;
mod clients;
mod config;
mod directory;
mod door;
mod error;
mod gate;
mod group;
mod message;
mod mover;
mod moves;
mod note;
mod pending;
mod phase_two;
mod reads;
mod replies;
mod request;
mod service_groups;
mod session;

pub use admin::{
    AdminAnswer, AdminRequest, BranchRow, LIST_MAX, LockCursor, LockFilter, LockRowView, OperatorRequest, SCAN_MAX,
    SessionRow, ShowFilter, TxFilter, TxRow, TxView,
};
pub use config::GateConfig;
pub use directory::{SessionInfo, SessionKey};
pub use error::GateError;
pub use gate::TxGate;
pub use message::{GateMessage, MessageError, PeerCall, SessionsDigest};
pub use mover::MoveWaits;
pub use moves::{MoveRow, ServiceGroupRow};
pub use note::{GateNote, GateStats};
pub use request::{
    BranchCall, BranchRegistration, CallId, ClientAnswer, ClientRequest, ConnId, DropReason, GateRequest, GateResponse,
    Ident, Refusal, RefusalError, RequestKey, RmAnswer,
};
