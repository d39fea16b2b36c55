//! Commands that build with optimisation and measure: mostly the program's own bench with three processes.

use std::process::ExitCode;

use anyhow::Context as _;

use crate::conformance;

#[derive(clap::Args)]
pub struct Args {
    /// Handed on; `--help` after `--` tells what there is.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs `settle bench <bench>` with the arguments; its exit code is this one's.
pub fn run(bench: &str, args: &Args) -> anyhow::Result<ExitCode> {
    settle_bench(&[], bench, &args.arguments)
}

#[derive(clap::Args)]
pub struct CompareArgs {
    #[arg(value_enum)]
    with: Other,
    #[command(flatten)]
    args: Args,
}

/// What there is to compare with. It has to be installed.
#[derive(clap::ValueEnum, Clone, Copy)]
enum Other {
    /// etcd 3.4 (Debian: etcd-server).
    Etcd,
    /// Java's Hessian libraries, which write and read the messages of the codec's bench; needs a JDK and Maven. With
    /// arguments: only the libraries of these names.
    Hessian,
}

/// Runs the bench that starts both sides.
pub fn compare(args: &CompareArgs) -> anyhow::Result<ExitCode> {
    match args.with {
        Other::Etcd => settle_bench(&["--features", "bench-etcd"], "etcd", &args.args.arguments),
        Other::Hessian => conformance::hessian::beside_java(&args.args.arguments),
    }
}

fn settle_bench(build: &[&str], bench: &str, arguments: &[String]) -> anyhow::Result<ExitCode> {
    let status = crate::cargo()
        .args(["run", "--quiet", "--release", "--package", "settle"])
        .args(build)
        .args(["--", "bench", bench])
        .args(arguments)
        .current_dir(crate::root())
        .status()
        .context("start cargo to run the bench")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
