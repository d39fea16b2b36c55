//! What sending a large snapshot costs those who are served meanwhile.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use settle_base::Mono;

use super::{
    client::{self, Load, Pace},
    cluster::Cluster,
    failover::{elections, readings, wait_until_whole},
    machine::pages_of,
};
use crate::bench::{figures::Figures, tx::duration};

#[derive(clap::Args, Debug)]
pub struct SnapshotArgs {
    /// The size of the state, in MiB.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// How much of it the leader sends in a second, in MiB (`raft.snapshot-bytes-per-second`).
    #[arg(long, default_value_t = 32)]
    mib_per_second: u64,
    /// Commands under way at once.
    #[arg(long, default_value_t = 64)]
    in_flight: u32,
    /// How long to measure before the snapshot.
    #[arg(long, default_value = "10s", value_parser = duration)]
    time: Duration,
    /// The disk under test.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
}

/// What is promised: the throughput while a snapshot is sent, as a share of that before.
const SHARE_MIN: f64 = 0.8;
const DONE_WITHIN: Duration = Duration::from_secs(300);
/// More than heartbeats and a little log bring to a server that was just started.
const BEGUN_BYTES: f64 = (16 << 20) as f64;

pub async fn run(args: SnapshotArgs) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || measure(&args))
        .await
        .context("the bench panicked")?
}

fn measure(args: &SnapshotArgs) -> anyhow::Result<()> {
    // The bench decides when there is a snapshot.
    let per_second = (args.mib_per_second << 20).to_string();
    let options = [
        "--snapshot-after",
        "1000000000000",
        "--snapshot-bytes-per-second",
        &per_second,
    ]
    .map(str::to_owned);
    let mut cluster = Cluster::start(&args.dir, options.to_vec())?;
    let targets = cluster.targets();
    let pace = Pace::Closed {
        in_flight: args.in_flight,
    };
    let load = Load::start(&targets, pace, 4)?;
    let leader = wait_until_whole(&cluster, &load)?;
    client::fill(targets[leader], pages_of(args.mib << 20))?;
    client::take_snapshot(targets[leader])?;
    wait(&load, || {
        Ok(readings(&cluster)?[leader].value("settle_snapshots_taken_total") > 0.0)
    })?;
    client::pause(Duration::from_secs(2));

    let elected = elections(&cluster)?;
    let rate = |from: (u64, Mono), to: (u64, Mono)| (to.0 - from.0) as f64 / to.1.since(from.1).as_secs_f64();
    let point = || (load.answered().iter().sum::<u64>(), load.now());
    let start = point();
    client::pause(args.time);
    let before = rate(start, point());

    // Wiped, it comes back as another replica, and all it can be given is the snapshot.
    let wiped = (leader + 1) % targets.len();
    let counted = readings(&cluster)?[wiped].value("settle_elections_won_total") as u64;
    cluster.kill(wiped)?;
    cluster.wipe(wiped)?;
    cluster.restart(wiped)?;
    let of_wiped = |name: &str| {
        // It may not be up yet.
        client::figures(targets[wiped]).map_or(0.0, |text| Figures::read(&text).value(name))
    };
    wait(&load, || Ok(of_wiped("settle_peer_received_bytes_total") > BEGUN_BYTES))?;
    let begun = point();
    wait(&load, || Ok(of_wiped("settle_snapshots_installed_total") > 0.0))?;
    let done = point();
    let during = rate(begun, done);
    let elected = elections(&cluster)? + counted - elected;
    let outcome = load.finish()?;

    let share = during / before;
    println!(
        "{} MiB sent within {:.1} s: {during:.0} writes each second, {before:.0} before ({:.0} %), {elected} elections",
        args.mib,
        done.1.since(begun.1).as_secs_f64(),
        share * 100.0
    );
    ensure!(
        share >= SHARE_MIN,
        "less than {:.0} % of the throughput was left",
        SHARE_MIN * 100.0
    );
    ensure!(elected == 0, "a leader was elected because of a snapshot");
    ensure!(outcome.lost == 0, "{} writes were not answered", outcome.lost);
    Ok(())
}

fn wait(load: &Load, mut is_there: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let start = load.now();
    while !is_there()? {
        ensure!(load.now().since(start) < DONE_WITHIN, "not done after {DONE_WITHIN:?}");
        client::pause(Duration::from_millis(100));
    }
    Ok(())
}
