//! One executable: `settle demo`, `dev`, `server`, `ctl`, `bench`, `config`.

#[cfg(settle_mutants)]
compile_error!("deliberate bugs are for the simulator: this program must not be built with them");

use std::process::ExitCode;

use clap::{Parser, Subcommand};
#[cfg(feature = "demo")]
use settle::demo;
use settle::{bench, config, ctl, dev, server};

/// The financial-grade distributed stack as one program.
#[derive(Parser)]
#[command(name = "settle", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// See for yourself: money moves while servers are killed, and none is lost.
    #[cfg(feature = "demo")]
    Demo(demo::DemoArgs),
    /// One account service of the demo.
    #[cfg(feature = "demo")]
    #[command(hide = true)]
    DemoAccount(demo::AccountArgs),
    /// The bank of the demo beside servers that run already.
    #[cfg(feature = "demo")]
    #[command(hide = true)]
    DemoBank(demo::BankArgs),
    /// Run a whole cluster on this machine, for development.
    Dev(dev::DevArgs),
    /// Run one server of a cluster.
    Server(server::ServerArgs),
    /// Look into a running cluster and act on it.
    Ctl(ctl::CtlArgs),
    /// Measure a server with the wire of the system it replaces, or replication alone.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Print every configuration key with its default.
    Config,
}

/// Exit codes: 0 good, 1 a check failed, 2 usage (clap's and a bad configuration), 3 the environment lacks something.
fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("settle: cannot start: {error}");
            return ExitCode::from(3);
        }
    };
    let code = run(cli.command, &runtime);
    // Everything is joined by now but a read of standard input, which nothing can interrupt.
    runtime.shutdown_background();
    code
}

fn run(command: Command, runtime: &tokio::runtime::Runtime) -> ExitCode {
    let result = match command {
        #[cfg(feature = "demo")]
        Command::Demo(args) => return runtime.block_on(demo::run(args)),
        #[cfg(feature = "demo")]
        Command::DemoAccount(args) => return runtime.block_on(demo::run_account(args)),
        #[cfg(feature = "demo")]
        Command::DemoBank(args) => return runtime.block_on(demo::run_bank(args)),
        Command::Server(args) => return runtime.block_on(server::run(args)),
        Command::Dev(args) => runtime.block_on(dev::run(args)),
        Command::Ctl(args) => ctl::run(args),
        Command::Bench(command) => runtime.block_on(bench::run(command)),
        Command::Config => {
            print!("{}", config::reference());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("settle: {error:#}");
            match error.is::<ctl::EnvironmentMissing>() {
                true => ExitCode::from(3),
                false => ExitCode::FAILURE,
            }
        }
    }
}
