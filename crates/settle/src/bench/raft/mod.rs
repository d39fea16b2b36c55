//! `settle bench raft`: the cost of replication itself. Three processes with the real runtime, a log that is synced and a
//! table of registers; entries of 128 bytes; nothing else in the way.

pub(super) mod client;
pub(super) mod cluster;
pub(super) mod failover;
mod machine;
pub(super) mod node;
#[cfg(feature = "bench-etcd")]
mod side;
mod snapshot;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use serde::Serialize;

use self::{
    client::{Load, Pace},
    cluster::Cluster,
};
pub use self::{
    failover::{FailoverArgs, run as run_failover},
    node::{NodeArgs, run as run_node},
    snapshot::{SnapshotArgs, run as run_snapshot},
};
use super::{
    disk::{self, Bystander},
    figures::Figures,
    process::{self, Usage},
    report::{Latency, grouped},
    tx::duration,
};

#[cfg(feature = "bench-etcd")]
pub use self::side::Ours;

#[derive(clap::Args, Debug)]
pub struct RaftArgs {
    /// Commands under way at once, in turn (closed loop); 0 for none.
    #[arg(long, value_delimiter = ',', default_value = "1,64,128,1024")]
    in_flight: Vec<u32>,
    /// Commands each second whether or not earlier ones are done (open loop), after the closed loops; without it half
    /// of what the fastest of them did.
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Connections; a command alone uses one.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    connections: u32,
    /// How long to measure each.
    #[arg(long, default_value = "10s", value_parser = duration)]
    time: Duration,
    /// How long to run before that.
    #[arg(long, default_value = "2s", value_parser = duration)]
    warm_up: Duration,
    /// The disk under test: the servers' data goes into a new folder here.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Servers 1, 2, … that run already (`settle bench raft-node`), instead of three new ones.
    #[arg(long, value_delimiter = ',')]
    target: Vec<SocketAddr>,
    /// Their processes, when they run on this machine.
    #[arg(long, value_delimiter = ',', requires = "target")]
    pid: Vec<u32>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize, Debug)]
struct Report {
    disk_sync_idle: Latency,
    runs: Vec<Run>,
}

#[derive(Serialize, Debug)]
struct Run {
    in_flight: Option<u32>,
    rate_per_second: Option<f64>,
    seconds: f64,
    writes: u64,
    lost: u64,
    per_second: f64,
    latency: Latency,
    /// Of an open loop: from falling due to the system's hands. Part of the latency, and the generator's own.
    sent_late: Option<Latency>,
    /// How late a thread was woken that asked for a millisecond of sleep: what this machine's cores make everybody wait.
    woken_late: Latency,
    /// A sync of 4 KiB in a file of somebody else, due every five milliseconds: what the disk makes everybody wait,
    /// from when it falls due, as the latency counts. The servers' own syncs count each stall once, however long it is.
    bystander_sync: Latency,
    /// Syncs that a write has to wait for one after the other: its own, and when others are under way also theirs.
    syncs_on_path: u32,
    p50_less_syncs_us: f64,
    /// By server; the leader is the one with the most.
    cpu_us_per_write: Vec<f64>,
    resident_mib: Vec<u64>,
    syncs_per_write: Vec<f64>,
    writes_per_sync: f64,
    sync_p50_us: f64,
    sync_p99_us: f64,
    /// The bound of the histogram's bucket that the longest one is in.
    sync_max_us: f64,
    turn_p50_us: f64,
    turn_p99_us: f64,
    turn_max_us: f64,
    elections: u64,
}

pub async fn run(args: RaftArgs) -> anyhow::Result<()> {
    // The load has threads of its own and the servers are processes.
    let report = tokio::task::spawn_blocking(move || measure(&args).map(|report| (report, args.json)));
    let (report, json) = report.await.context("the bench panicked")??;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    let lost: u64 = report.runs.iter().map(|run| run.lost).sum();
    ensure!(lost == 0, "{lost} writes were not answered");
    Ok(())
}

fn measure(args: &RaftArgs) -> anyhow::Result<Report> {
    let disk_sync_idle = Latency::of_times(&disk::sync_times(&args.dir, Duration::from_secs(1))?);
    let cluster = match args.target.is_empty() {
        true => Some(Cluster::start(&args.dir, Vec::new())?),
        false => None,
    };
    let (targets, pids) = match &cluster {
        Some(cluster) => (cluster.targets(), cluster.pids()),
        None => (args.target.clone(), args.pid.clone()),
    };
    let bench = Bench {
        targets: &targets,
        pids: &pids,
        args,
    };
    let mut runs = Vec::new();
    for &in_flight in args.in_flight.iter().filter(|n| **n > 0) {
        runs.push(bench.run(Pace::Closed { in_flight })?);
    }
    let fastest = runs.iter().map(|run| run.per_second).fold(0.0, f64::max);
    let per_second = args.rate.unwrap_or(fastest / 2.0);
    if per_second > 0.0 {
        runs.push(bench.run(Pace::Open { per_second })?);
    }
    Ok(Report { disk_sync_idle, runs })
}

struct Bench<'a> {
    targets: &'a [SocketAddr],
    pids: &'a [u32],
    args: &'a RaftArgs,
}

/// One reading of all servers.
struct Reading {
    usage: Vec<Usage>,
    figures: Vec<Figures>,
}

impl Bench<'_> {
    fn read(&self) -> anyhow::Result<Reading> {
        let usage = self.pids.iter().map(|pid| process::usage(&[*pid]));
        let figures = self.targets.iter().map(|target| {
            let text = client::figures(*target).with_context(|| format!("cannot ask {target}"))?;
            Ok(Figures::read(&text))
        });
        Ok(Reading {
            usage: usage.collect::<anyhow::Result<_>>()?,
            figures: figures.collect::<anyhow::Result<_>>()?,
        })
    }

    fn run(&self, pace: Pace) -> anyhow::Result<Run> {
        let load = Load::start(self.targets, pace, self.args.connections)?;
        client::pause(self.args.warm_up);
        let bystander = Bystander::start(&self.args.dir)?;
        let (before, from) = (self.read()?, load.now());
        load.measure(self.args.time);
        let bystander = bystander.finish()?;
        let (after, seconds) = (self.read()?, load.now().since(from).as_secs_f64());
        let outcome = load.finish()?;
        ensure!(outcome.done > 0, "no write was answered");

        let in_flight = match pace {
            Pace::Closed { in_flight } => Some(in_flight),
            Pace::Open { .. } => None,
        };
        let writes = outcome.done;
        let per_second = writes as f64 / self.args.time.as_secs_f64();
        // What the servers did between the two readings, which lie a little further apart than the measured time.
        let served = per_second * seconds;
        let of_node: Vec<Figures> = after
            .figures
            .iter()
            .zip(&before.figures)
            .map(|(a, b)| a.since(b))
            .collect();
        let mut all = Figures::default();
        of_node.iter().for_each(|figures| all.add(figures));
        let micros = |name: &str, quantile| all.quantile(name, quantile).unwrap_or(0.0) * 1e6;
        let latency = Latency::of(&outcome.latency);
        let syncs_on_path = if in_flight == Some(1) { 1 } else { 2 };
        let sync_p50_us = micros("settle_wal_sync_seconds", 0.5);
        let syncs: Vec<f64> = of_node.iter().map(|f| f.value("settle_wal_syncs_total")).collect();
        let used = after.usage.iter().zip(&before.usage);
        Ok(Run {
            in_flight,
            rate_per_second: match pace {
                Pace::Open { per_second } => Some(per_second),
                Pace::Closed { .. } => None,
            },
            seconds: self.args.time.as_secs_f64(),
            writes,
            lost: outcome.lost,
            per_second,
            sent_late: matches!(pace, Pace::Open { .. }).then(|| Latency::of(&outcome.sent_late)),
            woken_late: Latency::of(&outcome.woken_late),
            bystander_sync: Latency::of(&bystander),
            p50_less_syncs_us: latency.p50_us as f64 - f64::from(syncs_on_path) * sync_p50_us,
            latency,
            syncs_on_path,
            cpu_us_per_write: used
                .map(|(a, b)| (a.cpu_micros - b.cpu_micros) as f64 / served)
                .collect(),
            resident_mib: after.usage.iter().map(|usage| usage.resident_bytes >> 20).collect(),
            syncs_per_write: syncs.iter().map(|n| n / served).collect(),
            writes_per_sync: served / syncs.iter().copied().fold(1.0, f64::max),
            sync_p50_us,
            sync_p99_us: micros("settle_wal_sync_seconds", 0.99),
            sync_max_us: micros("settle_wal_sync_seconds", 1.0),
            turn_p50_us: micros("settle_loop_turn_seconds", 0.5),
            turn_p99_us: micros("settle_loop_turn_seconds", 0.99),
            turn_max_us: micros("settle_loop_turn_seconds", 1.0),
            elections: all.value("settle_elections_won_total") as u64,
        })
    }
}

fn print(report: &Report) {
    let line = |name: &str, latency: &Latency| {
        println!(
            "  {name:<22} p50 {} µs   p99 {} µs   p99.9 {} µs   max {} µs",
            grouped(latency.p50_us),
            grouped(latency.p99_us),
            grouped(latency.p999_us),
            grouped(latency.max_us)
        );
    };
    println!("Three servers, 128-byte entries, every write on two of three disks before its answer");
    line("one sync, idle disk", &report.disk_sync_idle);
    for run in &report.runs {
        println!();
        match (run.in_flight, run.rate_per_second) {
            (Some(n), _) => println!("{} under way, {:.0} s", grouped(n.into()), run.seconds),
            (None, rate) => println!(
                "{} due each second, {:.0} s",
                grouped(rate.unwrap_or(0.0) as u64),
                run.seconds
            ),
        }
        println!(
            "  writes                 {}, {} each second, {} lost",
            grouped(run.writes),
            grouped(run.per_second as u64),
            run.lost
        );
        line("latency", &run.latency);
        if let Some(late) = &run.sent_late {
            line("  of it: sent late", late);
        }
        line("a sleeper woken late", &run.woken_late);
        line("a bystander's sync", &run.bystander_sync);
        println!(
            "    the latency's p99.9  {:.1} times that p99, {:.1} times that p99.9",
            run.latency.p999_us as f64 / run.bystander_sync.p99_us.max(1) as f64,
            run.latency.p999_us as f64 / run.bystander_sync.p999_us.max(1) as f64
        );
        println!(
            "  less {} sync{}           p50 {:.0} µs",
            run.syncs_on_path,
            if run.syncs_on_path == 1 { " " } else { "s" },
            run.p50_less_syncs_us
        );
        println!(
            "  a sync under load      p50 {:.0} µs   p99 {:.0} µs   max {:.0} µs   (the latency's p99.9: {:.1} times that p99)",
            run.sync_p50_us,
            run.sync_p99_us,
            run.sync_max_us,
            run.latency.p999_us as f64 / run.sync_p99_us.max(1.0)
        );
        println!(
            "  a turn of the loop     p50 {:.0} µs   p99 {:.0} µs   max {:.0} µs",
            run.turn_p50_us, run.turn_p99_us, run.turn_max_us
        );
        let each = |values: &[f64], digits: usize| {
            values
                .iter()
                .map(|v| format!("{v:.digits$}"))
                .collect::<Vec<_>>()
                .join(" / ")
        };
        println!(
            "  CPU of each write      {} µs, by server",
            each(&run.cpu_us_per_write, 2)
        );
        println!(
            "  syncs of each write    {}; {:.1} writes to a sync",
            each(&run.syncs_per_write, 4),
            run.writes_per_sync
        );
        let memory: Vec<String> = run.resident_mib.iter().map(u64::to_string).collect();
        println!(
            "  memory                 {} MiB; {} elections",
            memory.join(" / "),
            run.elections
        );
    }
}
