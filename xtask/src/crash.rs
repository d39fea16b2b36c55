//! `cargo xtask crash`: real servers under load while a seeded schedule breaks whatever can break, for minutes. The loop
//! itself is a test in `crates/settle/tests/processes/crash`; here is what gives it root's means where there is root.

use std::{
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, bail, ensure};

const TEST: &str = "crash::random_faults_break_no_promise_and_everything_is_decided_when_they_are_over";
/// What the loop says when a promise is broken.
const BROKEN: &str = "BROKEN PROMISE";
/// Environment missing.
const MISSING: u8 = 3;

#[derive(clap::Args)]
pub struct Args {
    /// How long faults are made, in minutes.
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// Decides the faults, as far as real processes can be told.
    #[arg(long)]
    seed: Option<u64>,
    /// Build with optimisation.
    #[arg(long)]
    release: bool,
    /// End with exit code 3 where there is no root, instead of leaving out full disks.
    #[arg(long)]
    all_faults: bool,
    /// Use disks whose sync does nothing where they are to lose what was not synced. A promise must be seen to be broken, and
    /// the command succeeds when one is.
    #[arg(long)]
    without_sync: bool,
}

/// Builds the loop, runs it and hands on whether every promise held.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    ensure!(args.minutes > 0.0, "no time, no faults");
    let namespaces = ["--net", "--mount"];
    let is_root = Command::new("unshare")
        .args(namespaces)
        .args(["sh", "-c", "ip link set lo up && nsenter --version && mount --version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !is_root {
        println!("without root, unshare, nsenter, ip and mount: links are cut by proxies, and no disk is filled");
        if args.all_faults {
            return Ok(ExitCode::from(MISSING));
        }
    }
    let test = build(args.release)?;
    let mut command = match is_root {
        false => Command::new(test),
        true => {
            // Whatever is mounted or linked in there goes with its last process.
            let mut command = Command::new("unshare");
            command.args(namespaces).arg("--").arg(test);
            command
        }
    };
    let seed = args.seed.unwrap_or_else(|| u64::from(std::process::id()));
    command
        .args(["--exact", TEST, "--nocapture"])
        .env("RUST_BACKTRACE", "0")
        .env(
            "SETTLE_CRASH_SECONDS",
            ((args.minutes * 60.0).ceil() as u64).to_string(),
        )
        .env("SETTLE_CRASH_SEED", seed.to_string())
        .env("SETTLE_CRASH_ROOT", u8::from(is_root).to_string())
        .current_dir(crate::root());
    if args.without_sync {
        return without_sync(command);
    }
    let status = command.status().context("start the crash loop")?;
    println!("again: cargo xtask crash --minutes {} --seed {seed}", args.minutes);
    Ok(match status.success() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn without_sync(mut command: Command) -> anyhow::Result<ExitCode> {
    // What a failing loop keeps is of no interest here.
    let scratch = tempfile::tempdir().context("make a temporary directory")?;
    let output = command
        .env("TMPDIR", scratch.path())
        .env("SETTLE_CRASH_DISK", "lossy-without-sync")
        .output()
        .context("start the crash loop")?;
    let printed = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    if output.status.success() {
        bail!("disks whose sync does nothing were not noticed:\n{printed}");
    }
    let Some(broken) = printed.lines().find(|line| line.contains(BROKEN)) else {
        bail!("the loop failed for another reason:\n{printed}");
    };
    println!(
        "The loop fails on disks whose sync does nothing, as it must:\n  {}",
        broken.trim()
    );
    Ok(ExitCode::SUCCESS)
}

/// The program of the tests on real processes.
fn build(release: bool) -> anyhow::Result<PathBuf> {
    let mut command = crate::cargo();
    command.args(["test", "--no-run", "--package", "settle", "--test", "processes"]);
    command.arg("--message-format=json-render-diagnostics");
    if release {
        command.arg("--release");
    }
    let output = command
        .current_dir(crate::root())
        .stderr(Stdio::inherit())
        .output()
        .context("start cargo to build the crash loop")?;
    ensure!(output.status.success(), "the crash loop does not build");
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(line).context("read what cargo says")?;
        if message["target"]["name"] == "processes"
            && let Some(executable) = message["executable"].as_str()
        {
            return Ok(executable.into());
        }
    }
    bail!("cargo does not say where the crash loop is")
}
