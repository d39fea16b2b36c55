//! What `settle` promises, tested on real processes: killed, wiped, lied to.

mod bad_input;
mod durability;
mod formation;
mod leader_kill;
mod ledger;
mod load;
mod operate_tx;
mod operators;
mod start;
mod wiped_node;

use std::time::Duration;

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
