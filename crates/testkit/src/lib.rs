//! Real `settle` processes for tests: started, killed, wiped, asked over HTTP, and gone when the test is.
//!
//! Nothing here sleeps and hopes: every wait is on a condition, with a deadline ([`until`]). Ports are reserved for the
//! life of a test ([`Ports`]), data lives in a folder that is kept only when the test fails ([`Scratch`]), and a child
//! process ends with the test, however that ends ([`Process`]).

mod cluster;
mod database;
mod http;
mod namespaces;
mod ports;
mod process;
mod proxies;
mod scratch;
mod wait;

pub use cluster::{Cluster, ClusterSpec, GroupView, Leader, MemberView, NodeView, TX_GROUP};
pub use database::Database;
pub use http::{Answer, get, post};
pub use namespaces::Namespaces;
pub use ports::{Ports, dev_offset};
pub use process::{Process, last_lines};
pub use proxies::Proxies;
pub use scratch::Scratch;
pub use wait::{throughout, until, within};
