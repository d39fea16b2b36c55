//! A cluster comes up, serves and goes down, by hand and by `settle dev`.

use std::sync::Arc;

use anyhow::{Result, ensure};
use settle_testkit::{Cluster, Process, Scratch, dev_offset, get, until};

use crate::{
    SETTLE, SOON,
    ledger::Ledger,
    load::{Clients, Load, check_all},
    spec, turn,
};

#[tokio::test]
async fn a_cluster_of_three_forms_serves_and_stops_cleanly() -> Result<()> {
    let _turn = turn().await;
    let mut cluster = Cluster::start(spec(3)).await?;
    let leader = cluster.leader().await?;
    let view = cluster.view(leader.node).await?;
    ensure!(
        view.cluster.is_some() && view.tx_group()?.members.len() == 3,
        "{view:?}"
    );

    let clients = Clients::connect(&cluster, cluster.nodes(), &Arc::<Ledger>::default()).await?;
    let load = Load::start(&clients, 6);
    load.wait_for(60).await?;
    load.stop().await?;
    check_all(&cluster, &clients).await?;
    drop(clients);

    for node in cluster.nodes() {
        assert_eq!(
            cluster.stop(node).await?.code(),
            Some(0),
            "node {node}: {}",
            cluster.log_ends()
        );
    }
    cluster.finish();
    Ok(())
}

#[tokio::test]
async fn a_leader_that_is_stopped_has_handed_over_before_it_ends() -> Result<()> {
    let _turn = turn().await;
    let mut cluster = Cluster::start(spec(3)).await?;
    let before = cluster.leader().await?;
    let status = cluster.stop(before.node).await?;
    assert_eq!(status.code(), Some(0), "{}", cluster.log_ends());
    // Without waiting: the end of the process and the new leader's first word must not be a race.
    let mut leads = false;
    for node in cluster.nodes().filter(|node| *node != before.node) {
        let view = cluster.view(node).await?;
        leads |= view.tx_group()?.leader == Some(node);
    }
    ensure!(leads, "no survivor leads: {}", cluster.log_ends());
    cluster.finish();
    Ok(())
}

#[tokio::test]
async fn a_development_cluster_prints_its_addresses_and_leaves_nothing_running() -> Result<()> {
    let _turn = turn().await;
    let (offset, _lock) = dev_offset()?;
    let scratch = Scratch::new()?;
    let data = scratch.path().join("data").display().to_string();
    let args = ["dev", "--port-offset", &offset.to_string(), "--data", &data];
    let mut dev = Process::spawn("settle dev", SETTLE.as_ref(), &args, &scratch.path().join("dev.log"))?;
    until("settle dev is ready", SOON, async || {
        dev.check_alive()?;
        ensure!(dev.output().contains("Ready."), "it printed: {}", dev.output());
        Ok::<_, anyhow::Error>(())
    })
    .await?;

    let printed = dev.output();
    let https: Vec<_> = (0..3u16)
        .map(|k| ([127, 0, 0, 1], 7091 + offset + 100 * k).into())
        .collect();
    for k in 0..3 {
        let tx = format!("127.0.0.1:{}", 8091 + offset + 100 * k);
        ensure!(printed.contains(&tx), "{tx} is not in the table: {printed}");
    }
    for http in &https {
        ensure!(
            get(*http, "/readyz").await?.status == 200,
            "printed as ready, but it is not"
        );
    }

    dev.interrupt()?;
    let status = dev.exit(SOON).await?;
    assert_eq!(status.code(), Some(0), "{}", dev.output());
    let data = std::path::Path::new(&data).canonicalize()?;
    ensure!(
        dev.output().contains(&data.display().to_string()),
        "where is the data? {}",
        dev.output()
    );
    for http in https {
        ensure!(get(http, "/healthz").await.is_err(), "a server still answers at {http}");
    }
    scratch.finish();
    Ok(())
}
