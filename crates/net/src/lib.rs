//! Listeners with a limit on connections, owned tasks, and an orderly stop: what every front door stands on.
//!
//! A listener never hands out more connections than its limit, and every task that serves one is joined before the
//! listener's owner goes on. TLS comes in here, below the front doors: what is above sees bytes, and the names in the
//! certificate of whoever sent them.

mod listen;
mod outlet;
mod stop;
mod stream;
mod tls;

pub use listen::{Accepted, BindError, Listener, Stranger, bind};
pub use outlet::Outlet;
pub use stop::{Stop, StopHandle};
pub use stream::{HandshakeError, Reading, Stream, Writing};
pub use tls::{Pem, TlsClient, TlsError, TlsServer, host_of};
