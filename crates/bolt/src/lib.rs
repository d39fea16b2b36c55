//! The bolt protocol of SOFAStack: bytes ⇄ frames, both versions, and a connection without a transport. No sockets, no
//! clock, no threads: time comes in as an argument.
//!
//! - [`Frame`] and [`FrameDecoder`]: one frame, and the cutting of a byte stream into frames without copying a body.
//! - [`HeaderMap`]: the names and values that SOFARPC puts into a frame's header.
//! - [`Limits`]: what a frame may cost.
//! - [`Connection`]: one end of a connection as a pure machine: requests in both directions, timeouts, heartbeats, drain.
//! - [`BoltError`]: everything that can be wrong, each with a stable code.
//!
//! What a frame's content means is not known here: SOFARPC, SOFARegistry and SOFAJRaft each put something else there.
//! The rules were taken from `com.alipay.sofa:bolt` 1.6.11 (`com.alipay.remoting.rpc.protocol`).

mod connection;
mod decode;
mod encode;
mod error;
mod frame;
mod header_map;
mod limits;

pub use connection::{
    CallError, CallId, CloseReason, Config, Connection, Counters, Event, HeartbeatConfig, Outcome, RespondError,
    ServedId,
};
pub use decode::FrameDecoder;
pub use error::{BoltError, Part};
pub use frame::{Body, Codec, Command, Frame, Status, Switch, Version};
pub use header_map::HeaderMap;
pub use limits::Limits;
