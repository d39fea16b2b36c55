//! `settle bench open`: very many transactions that were begun and never ended, each with one branch and one row lock.
//! What they cost in memory on each server, what a snapshot of them costs those who are served meanwhile, and how soon a
//! server is back.

use std::{
    io::IsTerminal,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    grouped, process,
    report::{Latency, counters, histogram},
    tx::{Load, duration},
};
use crate::{
    http_client::{self, Client},
    local::{LocalCluster, LocalServer},
};

#[derive(clap::Args, Debug)]
pub struct OpenArgs {
    /// Transactions to be open. A group takes one million; a thousand places of them are left to the load.
    #[arg(long, default_value_t = 999_000, value_parser = clap::value_parser!(u64).range(1_000..=999_000))]
    count: u64,
    /// Transactions under way at once, while they are opened.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    openers: u32,
    /// Transactions under way at once, while snapshots are taken: those are begun, given a branch and committed.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=500))]
    clients: u32,
    /// How long to measure the throughput before each snapshot.
    #[arg(long, default_value = "8s", value_parser = duration)]
    time: Duration,
    /// How often to take one.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    snapshots: u32,
    /// How long the servers are left alone before their memory is read.
    #[arg(long, default_value = "10s", value_parser = duration)]
    rest: Duration,
    /// The disk under test.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Added to every port, so that this can run beside another cluster.
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=50_000))]
    port_offset: u16,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// The group of all transactions, with the default configuration.
const GROUP: u64 = 1;
const SERVERS: u16 = 3;
/// Pairs of connections, over all servers.
const PAIRS: usize = 24;
/// What is promised.
const IDLE_BYTES_MAX: u64 = 60 << 20;
const OPEN_BYTES_MAX: f64 = 600.0;
const SHARE_MIN: f64 = 0.8;
const RESTART_MAX: Duration = Duration::from_secs(5);
const DONE_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Serialize, Debug)]
struct Report {
    open_transactions: u64,
    opened_per_second: f64,
    /// Of each server, in the order of their numbers.
    idle_resident_bytes: Vec<u64>,
    open_resident_bytes: Vec<u64>,
    bytes_per_open_transaction: Vec<f64>,
    /// After the load, its snapshots and a rest.
    later_bytes_per_open_transaction: Vec<f64>,
    snapshots: Vec<Snapshot>,
    throughput_share: f64,
    restart_seconds: f64,
}

#[derive(Serialize, Debug)]
struct Snapshot {
    seconds: f64,
    before_per_second: f64,
    during_per_second: f64,
    before: Latency,
    during: Latency,
}

pub async fn run(args: OpenArgs) -> anyhow::Result<()> {
    let data = args.dir.join(format!("settle-bench-open-{}", std::process::id()));
    std::fs::create_dir_all(&data).with_context(|| format!("cannot create {}", data.display()))?;
    let data = data.canonicalize()?;
    let mut cluster = LocalCluster::prepare(SERVERS, &data, args.port_offset, "")?;
    let measured = measure(&mut cluster, &args).await;
    cluster.stop().await;
    let report = match measured {
        Ok(report) => report,
        Err(error) => bail!("{error:#}\nThe servers' logs are in {}", data.display()),
    };
    std::fs::remove_dir_all(&data).with_context(|| format!("cannot remove {}", data.display()))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    judge(&report, &args)
}

async fn measure(cluster: &mut LocalCluster, args: &OpenArgs) -> anyhow::Result<Report> {
    cluster.start().await?;
    sleep(args.rest).await;
    let idle = resident(cluster)?;

    let load = Arc::new(Load::connect(&cluster.tx_addresses(), PAIRS, true).await?);
    let opening = Instant::now();
    open_all(&load, args).await?;
    let opened_per_second = args.count as f64 / opening.elapsed().as_secs_f64();
    for server in &cluster.servers {
        wait_until_open(server, args.count).await?;
    }
    sleep(args.rest).await;
    let open = resident(cluster)?;

    let snapshots = under_load(cluster, &load, args).await?;
    drop(load);
    sleep(args.rest).await;
    let later = resident(cluster)?;

    // One that follows: how soon others lead instead is another question.
    let leader = leader(cluster)?;
    let follower = cluster.servers.iter_mut().find(|server| server.id != leader);
    let follower = follower.context("there are several servers")?;
    follower.process.kill().await?;
    let starting = Instant::now();
    follower.process.start()?;
    follower.wait_until_ready().await?;
    wait_until_open(follower, args.count).await?;
    let restart_seconds = starting.elapsed().as_secs_f64();

    let each = |resident: &[u64]| {
        let more = resident.iter().zip(&idle).map(|(now, idle)| now.saturating_sub(*idle));
        more.map(|bytes| bytes as f64 / args.count as f64).collect()
    };
    let seconds: f64 = snapshots.iter().map(|one| one.seconds).sum();
    let mean = |of: fn(&Snapshot) -> f64| snapshots.iter().map(|one| of(one) * one.seconds).sum::<f64>() / seconds;
    Ok(Report {
        open_transactions: args.count,
        opened_per_second,
        bytes_per_open_transaction: each(&open),
        later_bytes_per_open_transaction: each(&later),
        idle_resident_bytes: idle,
        open_resident_bytes: open,
        throughput_share: mean(|one| one.during_per_second) / mean(|one| one.before_per_second),
        snapshots,
        restart_seconds,
    })
}

/// Begins each with the longest time that there is, and gives it a branch with a row of its own.
async fn open_all(load: &Arc<Load>, args: &OpenArgs) -> anyhow::Result<()> {
    let (next, count) = (Arc::new(AtomicU64::new(0)), args.count);
    let mut openers = JoinSet::new();
    for _ in 0..args.openers {
        let (load, next) = (load.clone(), next.clone());
        openers.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Ok::<_, anyhow::Error>(());
                }
                load.open(n).await?;
            }
        });
    }
    let shows = std::io::stderr().is_terminal() && !args.json;
    let telling = async {
        loop {
            sleep(Duration::from_secs(1)).await;
            if shows {
                eprint!("\r  {} opened ", grouped(next.load(Ordering::Relaxed).min(count)));
            }
        }
    };
    let all = async {
        while let Some(done) = openers.join_next().await {
            done.context("an opener panicked")??;
        }
        Ok(())
    };
    let opened = tokio::select! {
        biased; // The telling never ends.
        opened = all => opened,
        () = telling => unreachable!("it tells for ever"),
    };
    if shows {
        eprintln!();
    }
    opened
}

/// Counts what is answered, and how long each took, since it was last asked.
#[derive(Default)]
struct Answered {
    count: u64,
    failed: u64,
    first_error: Option<String>,
    latency: Option<Histogram<u64>>,
}

impl Answered {
    fn take(shared: &std::sync::Mutex<Answered>) -> Answered {
        std::mem::take(&mut *shared.lock().expect("no holder of this lock panics"))
    }

    fn latency(&self) -> Latency {
        self.latency
            .as_ref()
            .map_or_else(|| Latency::of(&histogram()), Latency::of)
    }
}

/// Puts a load on all servers and has the leader, who has the most to do, take snapshots meanwhile.
async fn under_load(cluster: &LocalCluster, load: &Arc<Load>, args: &OpenArgs) -> anyhow::Result<Vec<Snapshot>> {
    let shared = Arc::<std::sync::Mutex<Answered>>::default();
    let mut clients = JoinSet::new();
    for client in 0..args.clients {
        let (load, shared) = (load.clone(), shared.clone());
        clients.spawn(async move {
            loop {
                let start = Instant::now();
                let done = load.one(client).await;
                let micros = start.elapsed().as_micros().max(1) as u64;
                let mut answered = shared.lock().expect("no holder of this lock panics");
                match done {
                    Ok(()) => {
                        answered.count += 1;
                        answered.latency.get_or_insert_with(histogram).saturating_record(micros);
                    }
                    Err(error) => {
                        answered.failed += 1;
                        answered.first_error.get_or_insert_with(|| format!("{error:#}"));
                    }
                }
            }
        });
    }
    // Warm.
    sleep(args.time.min(Duration::from_secs(2))).await;
    let mut snapshots = Vec::new();
    for _ in 0..args.snapshots {
        let leader = leader(cluster)?;
        let leader = cluster.servers.iter().find(|server| server.id == leader);
        let leader = leader.context("a server of this cluster leads")?;
        // So that no server takes one on its own while the throughput without is measured.
        for server in &cluster.servers {
            take_snapshot(server).await?;
        }
        Answered::take(&shared);
        let start = Instant::now();
        sleep(args.time).await;
        let (before, before_seconds) = (Answered::take(&shared), start.elapsed().as_secs_f64());
        let start = Instant::now();
        take_snapshot(leader).await?;
        let (during, seconds) = (Answered::take(&shared), start.elapsed().as_secs_f64());
        for answered in [&before, &during] {
            if let Some(error) = &answered.first_error {
                bail!("{} transactions failed: {error}", answered.failed);
            }
        }
        snapshots.push(Snapshot {
            seconds,
            before_per_second: before.count as f64 / before_seconds,
            during_per_second: during.count as f64 / seconds,
            before: before.latency(),
            during: during.latency(),
        });
    }
    clients.shutdown().await;
    Ok(snapshots)
}

/// Has `server` take a snapshot of its replica, after the one that may be under way there, and waits for it.
async fn take_snapshot(server: &LocalServer) -> anyhow::Result<()> {
    let start = Instant::now();
    let url = format!("{}/v1/group/{GROUP}/snapshot", server.url());
    let taken = loop {
        let taken = value(server, "settle_snapshots_taken").await?;
        let url = url.clone();
        let asked = tokio::task::spawn_blocking(move || Client::new(None, None)?.post(&url, &json!({}))).await?;
        match asked {
            Ok(_) => break taken,
            Err(error) if is_under_way(&error) && start.elapsed() < DONE_WITHIN => sleep(LOOK_EVERY).await,
            Err(error) => return Err(error),
        }
    };
    while value(server, "settle_snapshots_taken").await? <= taken {
        ensure!(
            start.elapsed() < DONE_WITHIN,
            "no snapshot was taken within {DONE_WITHIN:?}"
        );
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Under load there is always something new to be saved, so a refusal means that a snapshot is being taken.
fn is_under_way(error: &anyhow::Error) -> bool {
    format!("{error:#}").contains("HO0064")
}

fn resident(cluster: &LocalCluster) -> anyhow::Result<Vec<u64>> {
    let of = |server: &LocalServer| {
        let pid = server.process.pid().context("a server has ended")?;
        Ok(process::usage(&[pid])?.resident_bytes)
    };
    cluster.servers.iter().map(of).collect()
}

/// The number of the server that leads, as the first one sees it.
fn leader(cluster: &LocalCluster) -> anyhow::Result<u16> {
    let status: Value = serde_json::from_str(&http_client::get(&format!("{}/v1/node", cluster.servers[0].url()))?)?;
    let groups = status["groups"].as_array().context("a server tells of its groups")?;
    let group = groups.iter().find(|group| group["group"] == GROUP);
    let leader = group.and_then(|group| group["leader"].as_u64());
    Ok(u16::try_from(leader.context("the transactions have no leader")?)?)
}

async fn value(server: &LocalServer, name: &str) -> anyhow::Result<u64> {
    let url = [server.url()];
    let values = tokio::task::spawn_blocking(move || counters(&url)).await??;
    let value = values
        .get(name)
        .with_context(|| format!("{} has no metric {name}", server.url()))?;
    Ok(*value as u64)
}

async fn wait_until_open(server: &LocalServer, count: u64) -> anyhow::Result<()> {
    let start = Instant::now();
    while value(server, "settle_tx_open_transactions").await? < count {
        ensure!(
            start.elapsed() < DONE_WITHIN,
            "server {} has not all transactions",
            server.id
        );
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

fn judge(report: &Report, args: &OpenArgs) -> anyhow::Result<()> {
    let idle = report.idle_resident_bytes.iter().max().copied().unwrap_or_default();
    ensure!(idle <= IDLE_BYTES_MAX, "an idle server has {} MiB", idle >> 20);
    let open = report.bytes_per_open_transaction.iter().copied().fold(0.0, f64::max);
    // With few, what a server allocates once weighs more than they do.
    ensure!(
        args.count < 100_000 || open <= OPEN_BYTES_MAX,
        "an open transaction takes {open:.0} bytes"
    );
    let share = report.throughput_share;
    ensure!(share >= SHARE_MIN, "{:.0} % of the throughput were left", share * 100.0);
    let restart = Duration::from_secs_f64(report.restart_seconds);
    ensure!(restart <= RESTART_MAX, "a server took {restart:?} to be back");
    Ok(())
}

fn print(report: &Report) {
    let mib = |all: &[u64]| {
        all.iter()
            .map(|bytes| format!("{}", bytes >> 20))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let bytes = |all: &[f64]| {
        all.iter()
            .map(|bytes| format!("{bytes:.0}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    println!(
        "{} open transactions, each with a branch and a row lock; {:.0} opened each second",
        grouped(report.open_transactions),
        report.opened_per_second
    );
    println!(
        "  idle              {} MiB on the servers",
        mib(&report.idle_resident_bytes)
    );
    println!("  with them         {} MiB", mib(&report.open_resident_bytes));
    println!(
        "  for each          {} bytes",
        bytes(&report.bytes_per_open_transaction)
    );
    println!(
        "  after the load    {} bytes",
        bytes(&report.later_bytes_per_open_transaction)
    );
    for one in &report.snapshots {
        println!(
            "  a snapshot        {:.2} s: {:.0} transactions each second, {:.0} before; p99 {} and {} µs, max {} and {} µs",
            one.seconds,
            one.during_per_second,
            one.before_per_second,
            grouped(one.during.p99_us),
            grouped(one.before.p99_us),
            grouped(one.during.max_us),
            grouped(one.before.max_us)
        );
    }
    println!("  throughput left   {:.0} %", report.throughput_share * 100.0);
    println!(
        "  a restart         {:.2} s until it has applied all of them",
        report.restart_seconds
    );
}
