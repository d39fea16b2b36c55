//! Commands that build the program with optimisation and let its bench measure three processes.

use std::process::ExitCode;

use anyhow::Context as _;

#[derive(clap::Args)]
pub struct Args {
    /// Handed on; `--help` after `--` tells what there is.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Runs `settle bench <bench>` with the arguments; its exit code is this one's.
pub fn run(bench: &str, args: &Args) -> anyhow::Result<ExitCode> {
    let status = crate::cargo()
        .args([
            "run",
            "--quiet",
            "--release",
            "--package",
            "settle",
            "--",
            "bench",
            bench,
        ])
        .args(&args.arguments)
        .current_dir(crate::root())
        .status()
        .context("start cargo to run the bench")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
