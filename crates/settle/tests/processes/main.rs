//! What `settle` promises, tested on real processes: killed, wiped, lied to.

mod backup;
mod bad_input;
mod crash;
mod durability;
mod formation;
mod groups;
mod import_check;
mod leader_kill;
mod ledger;
mod load;
mod operate_tx;
mod operators;
mod saga;
mod sdk;
mod sdk_grpc;
mod start;
mod tls;
mod who_may_connect;
mod who_operates;
mod wiped_node;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use settle_sdk::{
    Options,
    connection::{Connection, ConnectionError, PhaseTwo, Role, obedient},
};
use settle_testkit::ClusterSpec;
use tokio::sync::{Mutex, MutexGuard};

const SETTLE: &str = env!("CARGO_BIN_EXE_settle");

/// For what must happen; generous, since other tests may use the machine.
const SOON: Duration = Duration::from_secs(40);

/// Clusters measure time and use both cores of a small machine: one at a time.
async fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// Retries that fit a test.
fn spec(nodes: u32) -> ClusterSpec {
    ClusterSpec::new(SETTLE, nodes)
        .set("tx.retry-min", "\"100ms\"")
        .set("tx.retry-max", "\"1s\"")
}

const RESOURCE: &str = "jdbc:mysql://bank";

async fn connect_tm(address: SocketAddr, answer_within: Duration) -> Result<Connection, ConnectionError> {
    connect(address, "bank", Role::TransactionManager, obedient(), answer_within).await
}

async fn connect_rm(
    address: SocketAddr,
    calls: Arc<dyn PhaseTwo>,
    answer_within: Duration,
) -> Result<Connection, ConnectionError> {
    let resources = RESOURCE.to_owned();
    connect(
        address,
        "bank",
        Role::ResourceManager { resources },
        calls,
        answer_within,
    )
    .await
}

/// A connection that only the server ends: it waits for one that sleeps.
async fn connect(
    address: SocketAddr,
    application: &str,
    role: Role,
    calls: Arc<dyn PhaseTwo>,
    answer_within: Duration,
) -> Result<Connection, ConnectionError> {
    let mut options = Options::new([address.to_string()], application);
    options.connect_timeout = SOON;
    options.attempt_timeout = answer_within;
    options.dead_after = 10 * SOON;
    Connection::open(&options.addresses[0], &role, calls, &options).await
}
