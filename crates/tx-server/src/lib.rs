//! The door for Seata clients: moves messages between their connections and the gate, and nothing else.
//!
//! Bytes come in on a connection, become the gate's typed requests, and its answers go back in the shape, version and
//! compression of the request. What to answer, and whether to answer at all, is the gate's to say.

mod auth;
mod connection;
mod door;
mod history;
mod merge;
pub mod metrics;
mod translate;

pub use auth::{Auth, AuthConfig};
pub use door::{AdminError, Door, DoorConfig, Responder};
pub use history::{
    HistoryError, HistoryHandle, HistoryMetrics, HistoryPage, HistorySearch, HistoryThread, StartHistoryError,
    start_history,
};
pub use settle_history::{Cursor as HistoryCursor, Gap as HistoryGap, HistoryConfig};

/// The version that registering clients are told. It switches features of the client on: 1.5.0 lets it take batched
/// results; 2.6.0 would make it send UnregisterRM.
pub const ANNOUNCED_VERSION: &str = "2.5.0";
