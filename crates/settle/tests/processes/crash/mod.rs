//! The crash loop: real servers under two loads that keep books, while a seeded schedule kills them, puts them to sleep,
//! fills their disks, cuts their links and lets their disks lose what was not synced. `cargo xtask crash` runs it for
//! minutes; otherwise it is short, with proxies between the servers, and fills no disk.

mod bank;
mod faults;
mod rovers;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use bank::Bank;
use faults::Nemesis;
use rovers::Rovers;
use settle_testkit::{Cluster, Namespaces, Scratch, until};
use tokio::time::Instant;

use crate::{
    SOON,
    ledger::{BrokenPromise, End, Ledger},
    load::{Clients, check_all},
    spec, turn,
};

const NODES: u32 = 3;
const SECONDS: u64 = 12;
/// Rows in one answer of the API.
const PAGE: u64 = 1000;

/// `cargo xtask crash` says how long, from which seed, and whether there is root.
struct Settings {
    time: Duration,
    seed: u64,
    is_root: bool,
    /// What a disk is that loses something.
    lossy_disk: String,
}

impl Settings {
    fn of_the_environment() -> Result<Settings> {
        let number = |name: &str, default: u64| match std::env::var(name) {
            Ok(text) => text.parse().with_context(|| format!("read {name}")),
            Err(_) => Ok(default),
        };
        Ok(Settings {
            time: Duration::from_secs(number("SETTLE_CRASH_SECONDS", SECONDS)?),
            seed: number("SETTLE_CRASH_SEED", 1)?,
            is_root: number("SETTLE_CRASH_ROOT", 0)? == 1,
            lossy_disk: std::env::var("SETTLE_CRASH_DISK").unwrap_or_else(|_| "lossy".to_owned()),
        })
    }
}

/// Small files and frequent snapshots, so that faults also hit their changes; and little of the disk, which is small.
async fn founded(settings: &Settings, scratch: &Scratch) -> Result<Cluster> {
    let network = match settings.is_root {
        true => Some(Namespaces::new(NODES, scratch.path()).await?),
        false => None,
    };
    let spec = spec(NODES)
        .set("wal.segment", "\"256KiB\"")
        .set("raft.snapshot-after", "\"256KiB\"")
        .set("tx.history-max", "\"16MiB\"");
    let mut cluster = Cluster::prepare_on(spec, network)?;
    match settings.is_root {
        true => faults::mount_small_disks(&cluster)?,
        false => cluster.put_proxies_between().await?,
    }
    // On a disk that tells the truth: the identity without which nothing starts is not what is tried here.
    cluster.start_all().await?;
    Ok(cluster)
}

/// Whatever goes wrong, what was told stays true, and when nothing goes wrong any more, everything comes to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_faults_break_no_promise_and_everything_is_decided_when_they_are_over() -> Result<()> {
    let _turn = turn().await;
    let settings = Settings::of_the_environment()?;
    println!("{} s of faults from seed {}", settings.time.as_secs(), settings.seed);
    let scratch = Scratch::new()?;
    let mut cluster = founded(&settings, &scratch).await?;
    let looped = crash_loop(&settings, &scratch, &mut cluster).await;
    if settings.is_root {
        if looped.is_err() {
            faults::keep_small_disks(&cluster, scratch.path())?;
        }
        faults::unmount_small_disks(&cluster)?;
    }
    looped?;
    cluster.finish();
    scratch.finish();
    Ok(())
}

async fn crash_loop(settings: &Settings, scratch: &Scratch, cluster: &mut Cluster) -> Result<()> {
    let ledger = Arc::<Ledger>::default();
    let mut bank = Bank::open(cluster, scratch, settings.seed)?;
    let rovers = Rovers::start(cluster, &ledger, settings.seed);
    rovers.wait_for(20).await?;

    let mut nemesis = Nemesis::new(cluster, settings.seed, settings.is_root, &settings.lossy_disk);
    let end = Instant::now() + settings.time;
    while Instant::now() < end {
        nemesis.one_round().await?;
        bank.check_alive()?;
        ledger.verdict()?;
    }
    let counts = nemesis.heal_all().await?;
    let back = cluster.start_all().await;
    back.map_err(|error| BrokenPromise(format!("the cluster did not come back: {error:#}")))?;
    cluster.leader().await?;
    let roved = rovers.stop().await?;

    let clients = Clients::connect(cluster, cluster.nodes(), &ledger).await?;
    check_all(cluster, &clients).await?;
    end_all(cluster, &clients).await?;
    let banked = bank.judge().await?;
    ledger.verdict()?;
    nothing_is_left(cluster).await?;

    println!("\nfaults:");
    for (what, times) in &counts {
        println!("  {times:>6}  {what}");
    }
    println!("{roved}, {} told facts, all of them true\n{banked}", ledger.facts());
    let missing: Vec<&str> = counts
        .iter()
        .filter(|(_, times)| *times == 0)
        .map(|(what, _)| *what)
        .collect();
    // A short run does not get round to everything.
    if settings.time >= Duration::from_secs(60) {
        ensure!(missing.is_empty(), "the schedule never came to: {}", missing.join(", "));
    }
    Ok(())
}

/// Rolls back what the rovers left open, also what they do not know of since no answer reached them.
async fn end_all(cluster: &Cluster, clients: &Clients) -> Result<()> {
    let known: std::collections::BTreeSet<String> = clients.ledger.all().into_iter().map(|(xid, _)| xid).collect();
    let mut after = String::new();
    let mut n = 0;
    loop {
        let path = format!("/v1/tx?application=bank&limit={PAGE}{after}");
        let page: serde_json::Value = cluster.get(1, &path).await?.json()?;
        for transaction in page["transactions"].as_array().into_iter().flatten() {
            let xid = transaction["xid"].as_str().context("a transaction without an xid")?;
            match known.contains(xid) {
                true => clients.end(n, xid, End::Rollback).await?,
                false => drop(clients.tm(n).rollback(xid).await?),
            }
            n += 1;
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(()),
        }
    }
}

/// No transaction is open and no row locked, as every server's replica has it.
async fn nothing_is_left(cluster: &Cluster) -> Result<()> {
    until("everything is decided and every row free", SOON, async || {
        for node in cluster.nodes() {
            let metrics = cluster.get(node, "/metrics").await?.body;
            for name in [
                "settle_tx_open_transactions",
                "settle_tx_open_branches",
                "settle_tx_lock_rows",
            ] {
                let sample = metrics.lines().find(|line| line.starts_with(name));
                let Some(value) = sample.and_then(|line| line.rsplit(' ').next()) else {
                    bail!("node {node} does not tell {name}");
                };
                ensure!(value == "0", "node {node}: {name} is {value}");
            }
        }
        Ok(())
    })
    .await
}
