//! Listeners with a limit on connections, owned tasks, and an orderly stop: what every front door stands on.
//!
//! A listener never hands out more connections than its limit, and every task that serves one is joined before the
//! listener's owner goes on. TLS will come in here, below the front doors.

mod listen;
mod outlet;
mod stop;

pub use listen::{Accepted, BindError, Listener, bind};
pub use outlet::Outlet;
pub use stop::{Stop, StopHandle};
