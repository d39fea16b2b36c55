//! The `settle` executable's parts: the server, a cluster for development, the operator's tool, load generators.

pub mod bench;
pub mod config;
pub mod ctl;
pub mod dev;
mod http;
mod http_client;
mod metrics;
pub mod server;
