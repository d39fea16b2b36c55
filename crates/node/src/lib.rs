//! Executes what the host decides: the loop that drives it, the connections between servers, the ticks.
//!
//! Nothing is decided here. The loop feeds [`settle_host::Host`] with what happened, in bursts, and carries out its
//! actions; the simulator drives the very same object with another loop. Everything that waits is a task of its own
//! that sends events into one bounded queue.

mod embedded;
pub mod metrics;
mod peers;
mod runtime;

pub use embedded::{Embedded, NoEntropy};
pub use peers::{PeerAddress, PeerListener};
pub use runtime::{NodeConfig, NodeHandle, NodeStopped, RunningNode, StartError, start};
