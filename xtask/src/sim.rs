//! `cargo xtask sim`: the simulator, built with optimisation and with assertions on.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;

use crate::mutants;

/// What is passed on to the simulator.
#[derive(clap::Args)]
pub struct Args {
    /// The simulator's own arguments, e.g. `--scenario raft --seeds 300`; or `--mutants` and what `cargo xtask mutants` takes.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

#[derive(Parser)]
struct MutantsCli {
    #[command(flatten)]
    args: mutants::Args,
}

/// Runs the simulator and hands its exit code on.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.rest.first().is_some_and(|first| first == "--mutants") {
        let cli = MutantsCli::try_parse_from(&args.rest).unwrap_or_else(|error| error.exit());
        return mutants::run(&cli.args);
    }
    let status = crate::cargo()
        .args(["run", "--quiet", "--profile", "sim", "--package", "settle-sim", "--"])
        .args(&args.rest)
        .status()
        .context("start cargo to build the simulator")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
