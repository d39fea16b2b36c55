//! `settle bench groups`: very many groups on three real servers. What a replica costs in memory and CPU while nothing
//! happens in it, how soon a group at rest serves, and how soon the groups of a killed node do.

mod asker;
mod node;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use serde::Serialize;
use settle_base::Mono;
use settle_telemetry::Clock;

use self::asker::{Asker, groups_led};
pub use self::node::{NodeArgs, run as run_node};
use super::{
    process::{self, Usage},
    raft::{client::pause, cluster::Cluster, failover::readings},
    report::{Latency, grouped},
    tx::duration,
};

#[derive(clap::Args, Debug)]
pub struct GroupsArgs {
    /// Groups, each with a replica on every server.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(2..=200_000))]
    groups: u64,
    /// Sleeping groups that are woken one after the other.
    #[arg(long, default_value_t = 1_000)]
    wake: u64,
    /// How long to watch the servers at rest.
    #[arg(long, default_value = "20s", value_parser = duration)]
    time: Duration,
    /// The disk under test: the servers' data goes into a new folder here.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// What is promised.
const REPLICA_BYTES_MAX: f64 = 4096.0;
/// Of one core, for all groups together: what a server of 10,000 groups at rest uses more than one with a single group.
const IDLE_CPU_MAX: f64 = 0.01;
const MOVED_MIN: usize = 1_000;
const MOVED_WITHIN: Duration = Duration::from_secs(3);

/// Far more than by default: whoever is up first leads nearly all groups, and the bench is not to wait for an hour.
const LEADER_MOVES_PER_SECOND: &str = "400";
const RESTS_WITHIN: Duration = Duration::from_secs(120);
const SERVES_WITHIN: Duration = Duration::from_secs(60);

#[derive(Serialize, Debug)]
struct Report {
    groups: u64,
    led: Vec<u64>,
    resident_mib: Vec<f64>,
    bytes_per_replica: Vec<f64>,
    /// Shares of one core: with all groups at rest, and with a single one.
    idle_cpu: Vec<f64>,
    idle_cpu_of_one: Vec<f64>,
    /// From the request to the answer, one group at rest after the other.
    wake_one_by_one: Latency,
    /// All of them asked at once, at rest again: until each had answered.
    wake_at_once: Latency,
    /// Groups that the killed server led, all at rest.
    moved: usize,
    /// From the kill to the answer of each.
    moved_after: Latency,
}

pub async fn run(args: GroupsArgs) -> anyhow::Result<()> {
    let json = args.json;
    let report = tokio::task::spawn_blocking(move || measure(&args)).await;
    let report = report.context("the bench panicked")??;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let failures: Vec<String> = [
        (most(&report.bytes_per_replica) > REPLICA_BYTES_MAX)
            .then(|| "a replica at rest takes too much memory".to_owned()),
        (extra_cpu(&report) > IDLE_CPU_MAX).then(|| "groups at rest use CPU".to_owned()),
        (report.moved < MOVED_MIN.min(report.groups as usize / 10))
            .then(|| format!("the killed server led only {} groups", report.moved)),
        (Duration::from_micros(report.moved_after.max_us) > MOVED_WITHIN)
            .then(|| "a group of the killed server served too late".to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect();
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(())
}

/// What groups at rest cost, at the server where it is the most.
fn extra_cpu(report: &Report) -> f64 {
    let extra = report
        .idle_cpu
        .iter()
        .zip(&report.idle_cpu_of_one)
        .map(|(all, one)| all - one);
    extra.fold(0.0, f64::max)
}

fn start(args: &GroupsArgs, groups: u64) -> anyhow::Result<Cluster> {
    let options = [
        "--groups",
        &groups.to_string(),
        "--leader-moves-per-second",
        LEADER_MOVES_PER_SECOND,
    ];
    Cluster::start_program("groups-node", &args.dir, options.map(str::to_owned).to_vec())
}

/// Memory and CPU of each server while nothing happens, over `time`.
fn at_rest(cluster: &Cluster, time: Duration) -> anyhow::Result<(Vec<Usage>, Vec<f64>)> {
    wait("every group rests", RESTS_WITHIN, || {
        Ok(readings(cluster)?.iter().all(|f| f.value("bench_awake") == 0.0))
    })?;
    let read = || -> anyhow::Result<Vec<Usage>> {
        let usage = cluster.pids().into_iter().map(|pid| process::usage(&[pid]));
        usage.collect()
    };
    let (clock, before) = (Clock::start(), read()?);
    pause(time);
    let (after, passed) = (read()?, clock.now().since(Mono::ZERO));
    let used = after.iter().zip(&before).map(|(a, b)| a.cpu_micros - b.cpu_micros);
    let shares = used.map(|us| us as f64 / passed.as_micros() as f64).collect();
    Ok((after, shares))
}

fn measure(args: &GroupsArgs) -> anyhow::Result<Report> {
    // Of the same program, so that what the process itself takes is known.
    let one = start(args, 1)?;
    let (usage_of_one, idle_cpu_of_one) = at_rest(&one, args.time)?;
    drop(one);

    let mut cluster = start(args, args.groups)?;
    let (usage, idle_cpu) = at_rest(&cluster, args.time)?;
    let led: Vec<u64> = readings(&cluster)?
        .iter()
        .map(|f| f.value("bench_led") as u64)
        .collect();
    let resident = usage.iter().map(|usage| usage.resident_bytes as f64);
    let extra = resident
        .clone()
        .zip(&usage_of_one)
        .map(|(all, one)| all - one.resident_bytes as f64);
    let bytes_per_replica = extra.map(|bytes| bytes / (args.groups - 1) as f64).collect();

    let targets = cluster.targets();
    let step = (args.groups / args.wake.clamp(1, args.groups)).max(1);
    let woken: Vec<u64> = (1..=args.groups).step_by(step as usize).collect();
    // At one server, which leads some of them only.
    let wake_one_by_one = {
        let mut asker = Asker::connect(&targets[..1])?;
        let mut times = Vec::new();
        for group in &woken {
            times.extend(asker.ask(&[*group], SERVES_WITHIN)?.into_values());
        }
        Latency::of_times(&times)
    };
    at_rest(&cluster, Duration::ZERO)?;
    let wake_at_once = {
        let times = Asker::connect(&targets[..1])?.ask(&woken, SERVES_WITHIN)?;
        Latency::of_times(&times.into_values().collect::<Vec<_>>())
    };

    // The hardest case: all of them rest, so nobody hears a heartbeat of the leader that dies.
    at_rest(&cluster, Duration::ZERO)?;
    let counts: Vec<u64> = readings(&cluster)?
        .iter()
        .map(|f| f.value("bench_led") as u64)
        .collect();
    let (victim, _) = counts
        .iter()
        .enumerate()
        .max_by_key(|(_, led)| **led)
        .context("there are servers")?;
    let lost = groups_led(targets[victim])?;
    let survivors: Vec<_> = (0..targets.len())
        .filter(|node| *node != victim)
        .map(|node| targets[node])
        .collect();
    let mut asker = Asker::connect(&survivors)?;
    let clock = Clock::start();
    cluster.kill(victim)?;
    let kill_took = clock.now().since(Mono::ZERO);
    let times = asker.ask(&lost, SERVES_WITHIN)?;
    let moved_after: Vec<Duration> = times.into_values().map(|time| time + kill_took).collect();
    Ok(Report {
        groups: args.groups,
        led,
        resident_mib: resident.map(|bytes| bytes / f64::from(1 << 20)).collect(),
        bytes_per_replica,
        idle_cpu,
        idle_cpu_of_one,
        wake_one_by_one,
        wake_at_once,
        moved: lost.len(),
        moved_after: Latency::of_times(&moved_after),
    })
}

fn wait(what: &str, within: Duration, mut is_so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let clock = Clock::start();
    while !is_so()? {
        ensure!(clock.now() < Mono::ZERO + within, "{what}: not within {within:?}");
        pause(Duration::from_millis(100));
    }
    Ok(())
}

fn print(report: &Report) {
    let each = |values: &[f64], unit: &str, factor: f64, digits: usize| {
        let values: Vec<String> = values.iter().map(|v| format!("{:.digits$}", v * factor)).collect();
        format!("{} {unit}", values.join(" / "))
    };
    let ms = |us: u64| us as f64 / 1e3;
    let line = |what: &str, value: String, is_good: Option<bool>| {
        let verdict = match is_good {
            Some(true) => "pass",
            Some(false) => "FAIL",
            None => "",
        };
        println!("  {what:<44} {value:<44} {verdict}");
    };
    let led: Vec<String> = report.led.iter().map(|led| grouped(*led)).collect();
    println!("{} groups on three servers", grouped(report.groups));
    line("led by each server", led.join(" / "), None);
    line(
        "resident memory, all groups at rest",
        each(&report.resident_mib, "MiB", 1.0, 1),
        None,
    );
    let is_small = report.bytes_per_replica.iter().all(|bytes| *bytes <= REPLICA_BYTES_MAX);
    line(
        "for each replica (at most 4,096 bytes)",
        each(&report.bytes_per_replica, "bytes", 1.0, 0),
        Some(is_small),
    );
    line(
        "CPU at rest, of one core",
        each(&report.idle_cpu, "%", 100.0, 2),
        Some(extra_cpu(report) <= IDLE_CPU_MAX),
    );
    line(
        "the same with a single group",
        each(&report.idle_cpu_of_one, "%", 100.0, 2),
        None,
    );
    let of = |latency: &Latency| {
        format!(
            "p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            ms(latency.p50_us),
            ms(latency.p99_us),
            ms(latency.max_us)
        )
    };
    line(
        "groups at rest serve, one by one, after",
        of(&report.wake_one_by_one),
        None,
    );
    line("asked all at once, after", of(&report.wake_at_once), None);
    let is_soon = Duration::from_micros(report.moved_after.max_us) <= MOVED_WITHIN;
    line(
        &format!("{} led by a killed server serve after", grouped(report.moved as u64)),
        of(&report.moved_after),
        Some(is_soon && report.moved >= MOVED_MIN.min(report.groups as usize / 10)),
    );
}
