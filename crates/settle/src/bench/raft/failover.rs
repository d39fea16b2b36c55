//! How long a cluster under load is without a leader when its leader is killed, and whether it ever is without a reason.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use settle_base::Mono;

use super::{
    client::{self, Load, Pace},
    cluster::Cluster,
};
use crate::bench::{figures::Figures, tx::duration};

#[derive(clap::Args, Debug)]
pub struct FailoverArgs {
    /// How often the leader is killed.
    #[arg(long, default_value_t = 100)]
    rounds: u32,
    /// Instead of killing anybody: full load for so long, in which nobody may be elected.
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "rounds")]
    quiet: Option<Duration>,
    /// Commands under way at once; 64, and 1024 with --quiet.
    #[arg(long)]
    in_flight: Option<u32>,
    /// The disk under test.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    #[arg(long)]
    json: bool,
}

/// What is promised at the default election timeout.
const P50_MAX: Duration = Duration::from_secs(1);
const MAX: Duration = Duration::from_secs(2);
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// A replica that is no further behind has caught up.
const LAG_MAX: f64 = 100_000.0;

#[derive(Serialize, Debug)]
struct Report {
    rounds: usize,
    p50_ms: u64,
    p90_ms: u64,
    max_ms: u64,
    all_ms: Vec<u64>,
}

pub async fn run(args: FailoverArgs) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || match args.quiet {
        Some(time) => quiet(&args, time),
        None => kill_leaders(&args),
    })
    .await
    .context("the bench panicked")?
}

fn kill_leaders(args: &FailoverArgs) -> anyhow::Result<()> {
    let mut cluster = Cluster::start(&args.dir, Vec::new())?;
    let in_flight = args.in_flight.unwrap_or(64);
    let load = Load::start(&cluster.targets(), Pace::Closed { in_flight }, 4)?;
    client::pause(Duration::from_secs(2));
    let mut gaps = Vec::new();
    for round in 1..=args.rounds {
        let leader = wait_until_whole(&cluster, &load)?;
        let killed = load.now();
        cluster.kill(leader)?;
        let answered = next_answer(&load, leader, killed, cluster.targets().len())?;
        let gap = answered.since(killed);
        if !args.json {
            println!(
                "  {round:>4}: server {} killed, written again after {} ms",
                leader + 1,
                gap.as_millis()
            );
        }
        gaps.push(gap);
        cluster.restart(leader)?;
    }
    load.finish()?;
    gaps.sort();
    let ms = |quantile: f64| gaps[((gaps.len() - 1) as f64 * quantile).round() as usize].as_millis() as u64;
    let report = Report {
        rounds: gaps.len(),
        p50_ms: ms(0.5),
        p90_ms: ms(0.9),
        max_ms: ms(1.0),
        all_ms: gaps.iter().map(|gap| gap.as_millis() as u64).collect(),
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!(
            "{} leaders killed: written again after p50 {} ms, p90 {} ms, max {} ms",
            report.rounds, report.p50_ms, report.p90_ms, report.max_ms
        );
    }
    ensure!(
        u128::from(report.p50_ms) <= P50_MAX.as_millis(),
        "half of them took longer than {P50_MAX:?}"
    );
    ensure!(
        u128::from(report.max_ms) <= MAX.as_millis(),
        "one of them took longer than {MAX:?}"
    );
    Ok(())
}

/// The first answer of a survivor after `killed`.
fn next_answer(load: &Load, dead: usize, killed: Mono, nodes: usize) -> anyhow::Result<Mono> {
    loop {
        let survivors = (0..nodes).filter(|node| *node != dead);
        let answers = survivors.map(|node| load.last_answer(node)).filter(|at| *at > killed);
        if let Some(first) = answers.min() {
            return Ok(first);
        }
        if load.now().since(killed) > BACK_WITHIN {
            bail!("nothing was written in the {BACK_WITHIN:?} after a kill");
        }
        client::pause(Duration::from_millis(1));
    }
}

/// Waits until all servers are up and have caught up, and the load runs; returns who leads.
///
/// A server that was killed within a write finds it cut, and has no say until its leader told it what it must hold. To
/// kill another one meanwhile is to take two of three away.
pub fn wait_until_whole(cluster: &Cluster, load: &Load) -> anyhow::Result<usize> {
    let start = load.now();
    let mut recovering = None;
    loop {
        cluster.wait_until_ready()?;
        let all = readings(cluster)?;
        let in_doubt = all.iter().position(|figures| figures.value("bench_recovering") > 0.0);
        if let Some(server) = in_doubt.filter(|server| recovering != Some(*server)) {
            eprintln!("  server {} was killed within a write and recovers", server + 1);
        }
        recovering = in_doubt;
        let applied = all.iter().map(|figures| figures.value("bench_applied"));
        let (low, high) = applied.fold((f64::MAX, 0.0), |(low, high): (f64, f64), n| (low.min(n), high.max(n)));
        let leader = all.iter().position(|figures| figures.value("bench_is_ready") > 0.0);
        let before = load.answered().iter().sum::<u64>();
        client::pause(Duration::from_millis(200));
        let runs = load.answered().iter().sum::<u64>() > before;
        if let Some(leader) = leader
            && in_doubt.is_none()
            && high - low <= LAG_MAX
            && runs
        {
            return Ok(leader);
        }
        ensure!(
            load.now().since(start) < BACK_WITHIN,
            "the cluster is not whole after {BACK_WITHIN:?}"
        );
    }
}

pub fn readings(cluster: &Cluster) -> anyhow::Result<Vec<Figures>> {
    let targets = cluster.targets().into_iter();
    let ask = |target| client::figures(target).with_context(|| format!("cannot ask {target}"));
    targets.map(|target| Ok(Figures::read(&ask(target)?))).collect()
}

/// Elections won on all servers since each started.
pub fn elections(cluster: &Cluster) -> anyhow::Result<u64> {
    let all = readings(cluster)?;
    Ok(all
        .iter()
        .map(|figures| figures.value("settle_elections_won_total") as u64)
        .sum())
}

fn quiet(args: &FailoverArgs, time: Duration) -> anyhow::Result<()> {
    let cluster = Cluster::start(&args.dir, Vec::new())?;
    let in_flight = args.in_flight.unwrap_or(1024);
    let before = elections(&cluster)?;
    let load = Load::start(&cluster.targets(), Pace::Closed { in_flight }, 4)?;
    load.measure(time);
    let elected = elections(&cluster)? - before;
    let outcome = load.finish()?;
    println!(
        "{time:?} of full load, {:.0} writes each second, slowest {} ms: {elected} elections",
        outcome.done as f64 / time.as_secs_f64(),
        outcome.latency.max() / 1_000
    );
    ensure!(elected == 0, "a leader was elected although nothing had failed");
    ensure!(outcome.lost == 0, "{} writes were not answered", outcome.lost);
    Ok(())
}
