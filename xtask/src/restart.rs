//! `cargo xtask restart`: how long a node with a large log and many groups takes from its start to serving.

use std::process::ExitCode;

use anyhow::Context as _;

#[derive(clap::Args)]
pub struct Args {
    /// Log to be written, in MiB.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Groups that share it.
    #[arg(long, default_value_t = 100)]
    groups: u64,
}

/// Builds the measurement with optimisation and runs it; it prints a line for each start.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut command = crate::cargo();
    command.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "settle-node",
        "--example",
        "restart",
        "--",
    ]);
    let bytes = args.mib << 20;
    command.args([bytes.to_string(), args.groups.to_string()]);
    let status = command
        .current_dir(crate::root())
        .status()
        .context("start cargo to run the measurement")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
