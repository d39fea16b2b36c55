//! Building the bank in Go.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::versions::Client;

/// Compiles the bank against `client`; gives the program.
pub fn build_bank(project: &Path, out: &Path, client: &Client) -> Result<PathBuf> {
    let pinned = format!("{} {}", client.group, client.version);
    let module = std::fs::read_to_string(project.join("go.mod")).context("read go.mod")?;
    ensure!(
        module.lines().any(|line| line.trim() == pinned),
        "go.mod of {} does not say `{pinned}`",
        project.display()
    );
    let program = out.join(format!("bank-{}", client.name)).join("bank");
    let built = Command::new("go")
        .args(["build", "-mod=readonly", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(project)
        .output()
        .context("run go")?;
    ensure!(
        built.status.success(),
        "go build failed in {}:\n{}",
        project.display(),
        String::from_utf8_lossy(&built.stderr)
    );
    Ok(program)
}
