//! The repository's own tools, run as `cargo xtask <command>`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod conformance;
mod sim;
mod tidy;

/// The repository's own tools. Exit codes: 0 good, 1 a check failed, 2 usage, 3 environment missing.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Checks the walls of the design and the pages that must agree with the code.
    Tidy(tidy::Args),
    /// Runs official clients against a running cluster.
    Conformance(conformance::Args),
    /// Builds the simulator with optimisation and runs it; every argument is passed on.
    Sim(sim::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Tidy(args) => tidy::run(&args),
        Command::Conformance(args) => conformance::run(&args),
        Command::Sim(args) => sim::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
