//! `cargo xtask sim`: the simulator, built with optimisation and with assertions on.

use std::process::ExitCode;

use anyhow::Context as _;

/// What is passed on to the simulator.
#[derive(clap::Args)]
pub struct Args {
    /// The simulator's own arguments, e.g. `--scenario all --seeds 300`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Runs the simulator and hands its exit code on.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let status = crate::cargo()
        .args(["run", "--quiet", "--profile", "sim", "--package", "settle-sim", "--"])
        .args(&args.rest)
        .status()
        .context("start cargo to build the simulator")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
