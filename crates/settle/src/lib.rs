//! The `settle` executable's parts: the demo, the server, a cluster for development, the operator's tool, load generators.

mod backup;
pub mod bench;
pub mod config;
pub mod ctl;
#[cfg(feature = "demo")]
pub mod demo;
pub mod dev;
mod http;
mod http_client;
mod local;
mod metrics;
mod reload;
pub mod server;
