//! Every told outcome is still true after all nodes were killed, on a disk that loses what was not synced.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use settle_testkit::{Cluster, within};

use crate::{
    SOON,
    ledger::{BrokenPromise, Ledger},
    load::{Clients, Load, check_all},
    spec, turn,
};

const WORKERS: u64 = 12;
/// Transactions of a round before the kill.
const TRANSACTIONS: u64 = 200;

/// Rounds of load, a kill of all nodes under it, a restart, and a check of all that was told in this and earlier rounds.
async fn rounds(cluster: &mut Cluster, rounds: u32) -> Result<()> {
    let ledger = Arc::<Ledger>::default();
    for round in 1..=rounds {
        one_round(cluster, &ledger)
            .await
            .with_context(|| format!("round {round}"))?;
        let snapshots = cluster
            .nodes()
            .map(|node| cluster.log(node).matches("SnapshotTaken").count());
        println!(
            "round {round}: all {} told facts are true after the kill of all nodes; {} snapshots were taken so far",
            ledger.facts(),
            snapshots.sum::<usize>()
        );
    }
    Ok(())
}

/// Three nodes with small files and frequent snapshots, so that kills also hit their changes. They are founded on a real
/// disk: what a disk loses then is what clients were told, not the identity without which nothing starts.
async fn cluster_on(disk: &str) -> Result<Cluster> {
    let spec = spec(3)
        .set("wal.segment", "\"256KiB\"")
        .set("raft.snapshot-after", "\"64KiB\"");
    let mut cluster = Cluster::start(spec).await?;
    for node in cluster.nodes() {
        let status = cluster.stop(node).await?;
        ensure!(status.success(), "node {node} stopped with {status}");
    }
    cluster.set("test.disk", &format!("\"{disk}\""))?;
    cluster.start_all().await?;
    Ok(cluster)
}

async fn one_round(cluster: &mut Cluster, ledger: &Arc<Ledger>) -> Result<()> {
    let clients = Clients::connect(cluster, cluster.nodes(), ledger).await?;
    let load = Load::start(&clients, WORKERS);
    load.wait_for(TRANSACTIONS).await?;
    cluster.kill_all().await?;
    within("the workers see that the nodes are gone", SOON, load.join_broken()).await?;
    ledger.verdict()?;

    let back = cluster.start_all().await;
    back.map_err(|error| BrokenPromise(format!("the cluster did not come back: {error:#}")))?;
    let clients = Clients::connect(cluster, cluster.nodes(), ledger).await?;
    check_all(cluster, &clients).await
}

/// `cargo xtask durability` asks for more rounds, and for the disk whose sync does nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_told_outcome_survives_the_kill_of_all_nodes() -> Result<()> {
    let _turn = turn().await;
    let count = match std::env::var("SETTLE_DURABILITY_ROUNDS") {
        Ok(count) => count.parse().context("read SETTLE_DURABILITY_ROUNDS")?,
        Err(_) => 2,
    };
    let disk = std::env::var("SETTLE_DURABILITY_DISK").unwrap_or_else(|_| "lossy".to_owned());
    let mut cluster = cluster_on(&disk).await?;
    rounds(&mut cluster, count).await?;
    cluster.finish();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_whose_sync_does_nothing_is_caught() -> Result<()> {
    let _turn = turn().await;
    let mut cluster = cluster_on("lossy-without-sync").await?;
    let Err(error) = rounds(&mut cluster, 1).await else {
        panic!("nothing was missed, so the test of durability tests nothing");
    };
    ensure!(
        error.chain().any(|cause| cause.is::<BrokenPromise>()),
        "it failed for another reason: {error:#}"
    );
    println!("caught: {error:#}");
    cluster.finish();
    Ok(())
}
