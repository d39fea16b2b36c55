//! `settle bench tx`: begin, register, commit, as fast as asked, against any server that speaks the Seata wire.

use std::{
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
use settle_sdk::{
    BranchType, GlobalStatus, Options,
    connection::{Connection, Role, obedient},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    disk,
    process::{self, Usage},
    report::{Latency, counters, grouped, histogram},
};
use crate::config::parse_duration;

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Begin and commit: no branch.
    Empty,
    /// Begin, register one AT branch with one row lock, commit; the generator is its own resource manager.
    Branch1,
}

#[derive(clap::Args, Debug)]
pub struct TxArgs {
    #[arg(long, value_enum, default_value = "empty")]
    mode: Mode,
    /// Transactions under way at once.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
    /// Where the servers listen for Seata clients.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:8091")]
    target: Vec<String>,
    /// Connections (a transaction manager's and a resource manager's each); at most one pair for each client.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
    /// Transactions started each second, whether or not the earlier ones are done (open loop). Without it each client
    /// starts the next when it is done with the last (closed loop).
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<u32>,
    /// How long to measure.
    #[arg(long, default_value = "10s", value_parser = duration)]
    time: Duration,
    /// How long to run before that.
    #[arg(long, default_value = "2s", value_parser = duration)]
    warm_up: Duration,
    /// Server processes whose CPU time and memory are measured.
    #[arg(long, value_delimiter = ',')]
    pid: Vec<u32>,
    /// Settle's HTTP APIs, e.g. http://127.0.0.1:7091, to read how often the log was synced.
    #[arg(long, value_delimiter = ',')]
    http: Vec<String>,
    /// A directory on the servers' disk: the cost of a sync there is measured before the load starts.
    #[arg(long, value_name = "DIR")]
    disk: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write a whole number and a unit, e.g. 500ms, 10s or 2m".to_owned())
}

/// Longer than any hold of the server, so that a missing answer is the server's doing.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const APPLICATION: &str = "settle-bench";
const RESOURCE: &str = "jdbc:mysql://bench/settle";

#[derive(Serialize, Debug)]
struct Report {
    mode: Mode,
    clients: u32,
    rate_per_second: Option<u32>,
    seconds: f64,
    transactions: u64,
    errors: u64,
    per_second: f64,
    latency: Latency,
    server_cpu_us_per_transaction: Option<f64>,
    server_resident_bytes: Option<u64>,
    syncs_per_transaction: Option<f64>,
    log_bytes_per_transaction: Option<f64>,
    mean_sync_us: Option<f64>,
    mean_turn_us: Option<f64>,
    disk_sync: Option<Latency>,
}

/// A client of the servers, with a transaction manager's connections and, for branches, a resource manager's.
pub(super) struct Load {
    pairs: Vec<(Connection, Option<Connection>)>,
    row: AtomicU64,
}

impl Load {
    /// So many pairs of connections, spread over the servers.
    pub async fn connect(targets: &[String], pairs: usize, has_branches: bool) -> anyhow::Result<Load> {
        let mut options = Options::new(targets.iter().map(String::as_str), APPLICATION);
        options.attempt_timeout = REQUEST_TIMEOUT;
        options.max_in_flight = 65_536;
        let (tm_role, rm_role) = (
            Role::TransactionManager,
            Role::ResourceManager {
                resources: RESOURCE.to_owned(),
            },
        );
        let mut opened = Vec::new();
        for i in 0..pairs {
            let address = &targets[i % targets.len()];
            let open = async |role| {
                let opened = Connection::open(address, role, obedient(), &options).await;
                opened.with_context(|| format!("cannot connect to {address}"))
            };
            let tm = open(&tm_role).await?;
            let rm = match has_branches {
                false => None,
                true => Some(open(&rm_role).await?),
            };
            opened.push((tm, rm));
        }
        Ok(Load {
            pairs: opened,
            // Rows of an earlier run may still be locked for the moment until its last commits are through.
            row: AtomicU64::new(u64::from(std::process::id()) << 32),
        })
    }

    /// Begins the `n`-th transaction and gives it a branch, and never ends it.
    pub async fn open(&self, n: u64) -> anyhow::Result<()> {
        let (tm, rm) = &self.pairs[n as usize % self.pairs.len()];
        let xid = tm.begin("bench", i32::MAX).await?;
        let rm = rm.as_ref().context("a load with branches")?;
        rm.register_branch(&xid, BranchType::At, RESOURCE, &format!("open:{n}"))
            .await?;
        Ok(())
    }

    pub async fn one(&self, client: u32) -> anyhow::Result<()> {
        let (tm, rm) = &self.pairs[client as usize % self.pairs.len()];
        let xid = tm.begin("bench", 60_000).await?;
        if let Some(rm) = rm {
            let row = self.row.fetch_add(1, Ordering::Relaxed);
            rm.register_branch(&xid, BranchType::At, RESOURCE, &format!("account:{row}"))
                .await?;
        }
        let status = tm.commit(&xid).await?;
        ensure!(status == GlobalStatus::Committed, "{xid} was answered {status:?}");
        Ok(())
    }
}

#[derive(Default)]
struct Counts {
    errors: u64,
    first_error: Option<String>,
}

pub async fn run(args: TxArgs) -> anyhow::Result<()> {
    let disk_sync = match &args.disk {
        Some(dir) => Some(Latency::of_times(&disk::sync_times(dir, Duration::from_secs(1))?)),
        None => None,
    };
    let pairs = args.connections.min(args.clients) as usize;
    let load = Load::connect(&args.target, pairs, args.mode == Mode::Branch1).await;
    let load = Arc::new(load.context("--target")?);

    drive(&load, &args, args.warm_up).await.context("the warm-up failed")?;
    let before = Measured::take(&args)?;
    let started = Instant::now();
    let (histogram, counts) = drive(&load, &args, args.time).await?;
    let seconds = started.elapsed().as_secs_f64();
    let after = Measured::take(&args)?;

    if histogram.is_empty() {
        bail!("no transaction succeeded: {}", counts.first_error.unwrap_or_default());
    }
    let report = make_report(&args, &histogram, &counts, seconds, &before, &after, disk_sync);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report, counts.first_error.as_deref());
    }
    ensure!(counts.errors == 0, "{} transactions failed", counts.errors);
    Ok(())
}

struct Measured {
    usage: Usage,
    counters: std::collections::BTreeMap<String, f64>,
}

impl Measured {
    fn take(args: &TxArgs) -> anyhow::Result<Measured> {
        Ok(Measured {
            usage: process::usage(&args.pid)?,
            counters: counters(&args.http)?,
        })
    }

    fn counter(&self, name: &str) -> f64 {
        self.counters.get(name).copied().unwrap_or(0.0)
    }
}

async fn drive(load: &Arc<Load>, args: &TxArgs, time: Duration) -> anyhow::Result<(Histogram<u64>, Counts)> {
    let start = Instant::now();
    let end = start + time;
    let arrivals = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for client in 0..args.clients {
        let (load, arrivals, rate) = (load.clone(), arrivals.clone(), args.rate);
        tasks.spawn(async move {
            let mut histogram = histogram();
            let mut counts = Counts::default();
            loop {
                let due = match rate {
                    // The n-th transaction is due at its time even when all clients are late: its wait counts.
                    Some(rate) => {
                        let n = arrivals.fetch_add(1, Ordering::Relaxed);
                        start + Duration::from_secs_f64(n as f64 / f64::from(rate))
                    }
                    None => Instant::now(),
                };
                if due >= end {
                    return (histogram, counts);
                }
                // A timer rounds up to the next millisecond, so who is due at once does not ask for one.
                if rate.is_some() {
                    sleep_until(due).await;
                }
                match load.one(client).await {
                    Ok(()) => histogram.saturating_record(due.elapsed().as_micros().max(1) as u64),
                    Err(error) => {
                        counts.errors += 1;
                        counts.first_error.get_or_insert_with(|| format!("{error:#}"));
                        if load.pairs[client as usize % load.pairs.len()].0.is_gone() {
                            return (histogram, counts);
                        }
                    }
                }
            }
        });
    }
    let mut total = (histogram(), Counts::default());
    while let Some(joined) = tasks.join_next().await {
        let (histogram, counts) = joined.context("a client panicked")?;
        total.0.add(&histogram).context("histograms of one shape")?;
        total.1.errors += counts.errors;
        total.1.first_error = total.1.first_error.or(counts.first_error);
    }
    Ok(total)
}

fn make_report(
    args: &TxArgs,
    histogram: &Histogram<u64>,
    counts: &Counts,
    seconds: f64,
    before: &Measured,
    after: &Measured,
    disk_sync: Option<Latency>,
) -> Report {
    let transactions = histogram.len();
    let delta = |name: &str| after.counter(name) - before.counter(name);
    let per_transaction = |amount: f64| amount / transactions as f64;
    let mean_us = |name: &str| {
        let count = delta(&format!("{name}_count"));
        (count > 0.0).then(|| delta(&format!("{name}_sum")) / count * 1e6)
    };
    let has_http = !args.http.is_empty();
    Report {
        mode: args.mode,
        clients: args.clients,
        rate_per_second: args.rate,
        seconds,
        transactions,
        errors: counts.errors,
        per_second: transactions as f64 / seconds,
        latency: Latency::of(histogram),
        server_cpu_us_per_transaction: (!args.pid.is_empty())
            .then(|| per_transaction((after.usage.cpu_micros - before.usage.cpu_micros) as f64)),
        server_resident_bytes: (!args.pid.is_empty()).then_some(after.usage.resident_bytes),
        syncs_per_transaction: has_http.then(|| per_transaction(delta("settle_wal_syncs_total"))),
        log_bytes_per_transaction: has_http.then(|| per_transaction(delta("settle_wal_written_bytes_total"))),
        mean_sync_us: mean_us("settle_wal_sync_seconds"),
        mean_turn_us: mean_us("settle_loop_turn_seconds"),
        disk_sync,
    }
}

fn print(report: &Report, first_error: Option<&str>) {
    let loop_kind = match report.rate_per_second {
        Some(rate) => format!("{} each second", grouped(rate.into())),
        None => "closed loop".to_owned(),
    };
    println!(
        "{:?}, {} clients, {loop_kind}, {:.1} s",
        report.mode, report.clients, report.seconds
    );
    println!(
        "  transactions        {:>12}   {} each second, {} failed",
        grouped(report.transactions),
        grouped(report.per_second as u64),
        report.errors
    );
    if let Some(error) = first_error {
        println!("  first failure       {error}");
    }
    let line = |name: &str, latency: &Latency| {
        println!(
            "  {name:<18}  p50 {} µs   p99 {} µs   p99.9 {} µs   max {} µs",
            grouped(latency.p50_us),
            grouped(latency.p99_us),
            grouped(latency.p999_us),
            grouped(latency.max_us)
        );
    };
    line("latency", &report.latency);
    if let Some(disk) = &report.disk_sync {
        line("one sync, idle disk", disk);
        println!(
            "  p50 in syncs        {:>12.1}",
            report.latency.p50_us as f64 / disk.p50_us.max(1) as f64
        );
    }
    if let Some(cpu) = report.server_cpu_us_per_transaction {
        println!("  server CPU          {cpu:>12.1} µs for each transaction, all servers together");
    }
    if let Some(bytes) = report.server_resident_bytes {
        println!("  server memory       {:>12} MiB, all servers together", bytes >> 20);
    }
    if let (Some(syncs), Some(bytes)) = (report.syncs_per_transaction, report.log_bytes_per_transaction) {
        println!(
            "  log                 {syncs:>12.3} syncs and {bytes:.0} bytes for each transaction, all servers together"
        );
    }
    if let (Some(sync), Some(turn)) = (report.mean_sync_us, report.mean_turn_us) {
        println!("  where time goes     a sync took {sync:.0} µs, a turn of the loop {turn:.0} µs on average");
    }
}
