//! Executes what the host decides: the loop that drives it, the connections between servers, the ticks.
//!
//! Nothing is decided here. The loop feeds [`settle_host::Host`] with what happened, in bursts, and carries out its
//! actions; the simulator drives the very same object with another loop. The connections between servers are tasks on the
//! loop's own thread, and so is what [`start_beside`] puts there; everything else that waits is elsewhere and sends into a
//! bounded queue.

mod embedded;
pub mod metrics;
mod observe;
mod peers;
mod runtime;

pub use embedded::{Embedded, NoEntropy};
pub use observe::{Observed, Observer};
pub use peers::{PeerAddress, PeerListener};
pub use runtime::{NodeConfig, NodeHandle, NodeStopped, RunningNode, StartError, start, start_beside};
