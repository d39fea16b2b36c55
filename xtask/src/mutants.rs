//! `cargo xtask mutants`: the simulator, run with one deliberate bug at a time, must fail each time.

use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, bail, ensure};

#[derive(clap::Args)]
pub struct Args {
    /// Only these; may be repeated. `cargo xtask sim mutants` lists them.
    #[arg(long)]
    only: Vec<String>,
}

struct Mutant {
    name: String,
    scenario: String,
    seeds: String,
    what: String,
}

/// Builds and runs each mutant; good when the simulator catches all of them.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mutants = list()?;
    for name in &args.only {
        ensure!(mutants.iter().any(|mutant| mutant.name == *name), "no mutant `{name}`");
    }
    let (mut caught, mut missed) = (0, 0);
    for mutant in mutants {
        if !args.only.is_empty() && !args.only.contains(&mutant.name) {
            continue;
        }
        println!("{}: {}", mutant.name, mutant.what);
        match catch(&mutant)? {
            Some(evidence) => {
                caught += 1;
                println!("  caught: {evidence}");
            }
            None => {
                missed += 1;
                println!("  MISSED in {} seeds of `{}`", mutant.seeds, mutant.scenario);
            }
        }
    }
    println!("{caught} passed, {missed} failed");
    Ok(ExitCode::from(u8::from(missed > 0)))
}

fn list() -> anyhow::Result<Vec<Mutant>> {
    let output = crate::cargo()
        .args([
            "run",
            "--quiet",
            "--profile",
            "sim",
            "--package",
            "settle-sim",
            "--",
            "mutants",
        ])
        .stderr(Stdio::inherit())
        .output()
        .context("start cargo to build the simulator")?;
    ensure!(output.status.success(), "the simulator does not list its mutants");
    let text = String::from_utf8(output.stdout).context("the list of mutants")?;
    text.lines()
        .map(|line| {
            let mut fields = line.split('\t').map(str::to_owned);
            let mut next = || fields.next().with_context(|| format!("the list of mutants: `{line}`"));
            Ok(Mutant {
                name: next()?,
                scenario: next()?,
                seeds: next()?,
                what: next()?,
            })
        })
        .collect()
}

/// The line that shows what the simulator found; `None` when it found nothing.
fn catch(mutant: &Mutant) -> anyhow::Result<Option<String>> {
    let output = crate::cargo()
        .args(["run", "--quiet", "--profile", "sim", "--package", "settle-sim"])
        // A target directory of its own: a mutant must never be taken for the product.
        .args(["--target-dir", "target/mutants"])
        .env("RUSTFLAGS", "--cfg settle_mutants")
        .current_dir(crate::root())
        .args(["--", "--no-coverage", "--mutant", &mutant.name])
        .args(["--scenario", &mutant.scenario, "--seeds", &mutant.seeds])
        .output()
        .context("start the simulator")?;
    if output.status.success() {
        return Ok(None);
    }
    let printed = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .concat();
    let is_evidence =
        |line: &&str| line.starts_with("seed ") && (line.contains(" failed ") || line.contains(" panicked"));
    match printed.lines().find(is_evidence) {
        Some(line) => Ok(Some(line.trim().to_owned())),
        None => bail!("the simulator failed for another reason:\n{printed}"),
    }
}
