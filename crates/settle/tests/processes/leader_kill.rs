//! The leader is lost under load: killed, calls through the other nodes stall for two seconds at most; asleep, it decides
//! nothing when it wakes up. No answer contradicts another.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Result, ensure};
use settle_sdk::{BranchType, connection::ConnectionError};
use settle_testkit::Cluster;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    ledger::{End, Ledger, way},
    load::{Clients, Load, check_all},
    spec, turn,
};

const STALL_MAX: Duration = Duration::from_secs(2);
const WORKERS: u64 = 8;

/// How long calls took, by whom they were made.
#[derive(Default)]
struct Stalls {
    begin: Duration,
    commit: Duration,
    /// How late a task of ours was that wanted to run every 10 ms: the machine's own share.
    machine: Duration,
}

impl Stalls {
    fn judge(&self) {
        let Stalls { begin, commit, machine } = self;
        println!("leader killed: begin stalled {begin:?}, commit {commit:?} (the machine itself: {machine:?})");
        let allowed = STALL_MAX + *machine;
        assert!(*begin.max(commit) <= allowed, "more than {allowed:?}");
    }
}

/// Begins and commits through one node, one after the other, and notes the longest that each took.
async fn probe(
    clients: Arc<Clients>,
    n: u64,
    stalls: Arc<Mutex<Stalls>>,
    until: Instant,
) -> Result<(), ConnectionError> {
    while Instant::now() < until {
        let start = Instant::now();
        let xid = clients.begin(n).await?;
        let begun = start.elapsed();
        let start = Instant::now();
        clients.end(n, &xid, End::Commit).await?;
        let committed = start.elapsed();
        let mut stalls = stalls.lock().expect("no holder of this lock panics");
        stalls.begin = stalls.begin.max(begun);
        stalls.commit = stalls.commit.max(committed);
    }
    Ok(())
}

async fn watch_the_machine(stalls: Arc<Mutex<Stalls>>, until: Instant) {
    while Instant::now() < until {
        let due = Instant::now() + Duration::from_millis(10);
        sleep_until(due).await;
        let late = due.elapsed();
        let mut stalls = stalls.lock().expect("no holder of this lock panics");
        stalls.machine = stalls.machine.max(late);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_through_surviving_nodes_stall_two_seconds_at_most_and_none_contradicts() -> Result<()> {
    let _turn = turn().await;
    let mut cluster = Cluster::start(spec(3)).await?;
    let leader = cluster.leader().await?;
    let survivors: Vec<u32> = cluster.nodes().filter(|node| *node != leader.node).collect();
    let ledger = Arc::<Ledger>::default();
    let clients = Clients::connect(&cluster, survivors, &ledger).await?;
    let load = Load::start(&clients, WORKERS);
    load.wait_for(50).await?;

    let stalls = Arc::<Mutex<Stalls>>::default();
    // As long as two stalls of the worst kind that is allowed.
    let end = Instant::now() + 2 * STALL_MAX;
    let mut probes = JoinSet::new();
    for n in 0..4 {
        probes.spawn(probe(clients.clone(), n, stalls.clone(), end));
    }
    let mut machine = JoinSet::new();
    machine.spawn(watch_the_machine(stalls.clone(), end));
    cluster.kill(leader.node).await?;
    // No call through a surviving node fails: it is held until it can be answered.
    while let Some(ended) = probes.join_next().await {
        ended??;
    }
    machine.join_all().await;
    load.wait_for(50).await?;
    load.stop().await?;
    ledger.verdict()?;

    let next = cluster.leader().await?;
    ensure!(
        next.node != leader.node && next.term > leader.term,
        "{leader:?} → {next:?}"
    );
    stalls.lock().expect("no holder of this lock panics").judge();

    cluster.start_all().await?;
    let clients = Clients::connect(&cluster, cluster.nodes(), &ledger).await?;
    check_all(&cluster, &clients).await?;
    cluster.finish();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_slept_neither_turns_a_decision_round_nor_reads_the_past() -> Result<()> {
    let _turn = turn().await;
    let cluster = Cluster::start(spec(3)).await?;
    let asleep = cluster.leader().await?;
    let awake: Vec<u32> = cluster.nodes().filter(|node| *node != asleep.node).collect();
    let ledger = Arc::<Ledger>::default();
    let old = Clients::connect(&cluster, [asleep.node], &ledger).await?;
    let clients = Clients::connect(&cluster, awake.iter().copied(), &ledger).await?;
    let mut xids = Vec::new();
    for n in 0..10 {
        let xid = clients.begin(n).await?;
        ensure!(
            clients.lock(n, &xid, BranchType::At, &format!("account:{n}")).await?,
            "the row is free"
        );
        xids.push(xid);
    }

    cluster.pause(asleep.node).await?;
    // These lie in the sleeper's sockets until it wakes up, still the leader in its own mind.
    let mut late = JoinSet::new();
    for xid in &xids {
        let (clients, rolled_back, read) = (old.clone(), xid.clone(), xid.clone());
        late.spawn(async move { clients.end(0, &rolled_back, End::Rollback).await.map(|()| None) });
        let clients = old.clone();
        late.spawn(async move { clients.tm(0).status(&read).await.map(|status| Some((read, status))) });
    }
    let next = cluster.leader_among(awake).await?;
    ensure!(
        next.node != asleep.node && next.term > asleep.term,
        "{asleep:?} → {next:?}"
    );
    for (n, xid) in xids.iter().enumerate() {
        clients.end(n as u64, xid, End::Commit).await?;
    }
    cluster.resume(asleep.node)?;
    while let Some(ended) = late.join_next().await {
        if let Some((xid, status)) = ended?? {
            ensure!(
                way(status) == Some(End::Commit),
                "{xid} was committed, and then read as {status:?}"
            );
        }
    }
    ledger.verdict()?;
    check_all(&cluster, &clients).await?;
    cluster.finish();
    Ok(())
}
