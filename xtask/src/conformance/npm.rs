//! Packages of npm with the pinned versions.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};

/// Brings `packages` (name and version) to `out`, unless they are there.
pub fn install(out: &Path, packages: &[(&str, &str)]) -> Result<()> {
    std::fs::create_dir_all(out)?;
    let is_there = |(name, version): &(&str, &str)| {
        let manifest = out.join("node_modules").join(name).join("package.json");
        std::fs::read_to_string(manifest).is_ok_and(|text| text.contains(&format!("\"version\": \"{version}\"")))
    };
    if packages.iter().all(is_there) {
        return Ok(());
    }
    std::fs::write(out.join("package.json"), "{\"private\": true}\n")?;
    let run = Command::new("npm")
        .args(["install", "--no-audit", "--no-fund", "--no-package-lock"])
        .args(packages.iter().map(|(name, version)| format!("{name}@{version}")))
        .current_dir(out)
        .output()
        .context("run npm")?;
    ensure!(
        run.status.success(),
        "npm failed:\n{}",
        String::from_utf8_lossy(&run.stderr)
    );
    Ok(())
}
