//! `cargo xtask durability`: all nodes of a cluster are killed under load, again and again, on a disk that loses what was
//! not synced; every outcome that a client was told must still be true. The test itself is in `crates/settle/tests`.

use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, bail};

/// The test's name, and what it says when a client was told what is not true.
const TEST: &str = "durability::every_told_outcome_survives_the_kill_of_all_nodes";
const BROKEN: &str = "BROKEN PROMISE";

#[derive(clap::Args)]
pub struct Args {
    /// How often the nodes are killed.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Use a disk whose sync does nothing. The test must fail on it, and the command succeeds when it does.
    #[arg(long)]
    without_sync: bool,
    /// Build with optimisation.
    #[arg(long)]
    release: bool,
}

/// Runs the rounds and hands on whether the promise held.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut command = crate::cargo();
    command.args(["test", "--quiet", "--package", "settle", "--test", "processes"]);
    if args.release {
        command.arg("--release");
    }
    command
        .args(["--", "--exact", TEST, "--nocapture"])
        .env("SETTLE_DURABILITY_ROUNDS", args.rounds.to_string())
        .current_dir(crate::root());
    if !args.without_sync {
        let status = command.status().context("start cargo to run the test")?;
        return Ok(if status.success() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    // What a failing test keeps is of no interest here.
    let scratch = tempfile::tempdir().context("make a temporary directory")?;
    command
        .env("TMPDIR", scratch.path())
        .env("SETTLE_DURABILITY_DISK", "lossy-without-sync")
        .stderr(Stdio::piped())
        .stdout(Stdio::piped());
    let output = command.output().context("start cargo to run the test")?;
    let printed = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    if output.status.success() {
        bail!("a disk whose sync does nothing was not noticed:\n{printed}");
    }
    let Some(broken) = printed.lines().find(|line| line.contains(BROKEN)) else {
        bail!("the test failed for another reason:\n{printed}");
    };
    println!(
        "The test fails on a disk whose sync does nothing, as it must:\n  {}",
        broken.trim()
    );
    Ok(ExitCode::SUCCESS)
}
