//! The repository's own tools, run as `cargo xtask <command>`.

use std::{
    env,
    path::PathBuf,
    process::{self, ExitCode},
};

use clap::{Parser, Subcommand};

mod api;
mod conformance;
mod crash;
mod durability;
mod load;
mod mutants;
mod restart;
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
    /// Lets schemathesis hold a running server's HTTP API against its own description.
    Api(api::Args),
    /// Runs official clients against a running cluster.
    Conformance(conformance::Args),
    /// Breaks servers, disks and links under load for minutes, and checks the books.
    Crash(crash::Args),
    /// Kills all nodes of a cluster under load, on a disk that loses what was not synced, and checks what was told.
    Durability(durability::Args),
    /// Kills the leader of three servers under load, again and again, and measures how long nothing is written.
    Failover(load::Args),
    /// Puts the same load on Settle and on another system, in turn, and prints the ratio.
    Compare(load::CompareArgs),
    /// Sends a snapshot of 1 GiB while three servers serve, and measures what is left for the clients.
    SnapshotUnderLoad(load::Args),
    /// Ten thousand groups on three servers: memory and CPU at rest, and how soon those of a killed leader serve.
    ManyGroups(load::Args),
    /// A million open transactions on three servers: memory, throughput during a snapshot, a restart.
    OpenTransactions(load::Args),
    /// The same as `sim --mutants`: one deliberate bug at a time, and how soon the simulator catches it.
    Mutants(mutants::Args),
    /// Writes a large log of many groups and measures how long a start takes until all serve.
    Restart(restart::Args),
    /// Builds the simulator with optimisation and runs it; every argument is passed on.
    Sim(sim::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Tidy(args) => tidy::run(&args),
        Command::Api(args) => api::run(&args),
        Command::Conformance(args) => conformance::run(&args),
        Command::Crash(args) => crash::run(&args),
        Command::Durability(args) => durability::run(&args),
        Command::Failover(args) => load::run("failover", &args),
        Command::Compare(args) => load::compare(&args),
        Command::SnapshotUnderLoad(args) => load::run("snapshot", &args),
        Command::ManyGroups(args) => load::run("groups", &args),
        Command::OpenTransactions(args) => load::run("open", &args),
        Command::Mutants(args) => mutants::run(&args),
        Command::Restart(args) => restart::run(&args),
        Command::Sim(args) => sim::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

/// The root of the repository, as cargo says at run time: a build cache may outlive the clone that it was built from.
fn root() -> PathBuf {
    env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from("."), |xtask| PathBuf::from(xtask).join(".."))
}

/// The cargo that runs this.
fn cargo() -> process::Command {
    process::Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
