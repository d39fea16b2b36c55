//! `cargo xtask sim --mutants` (and `cargo xtask mutants`): the simulator, run with one deliberate bug at a time, must
//! catch it, in each of several disjoint ranges of seeds. What caught it and how soon is a page of the documentation.
//!
//! All of them run on one build, each with its ranges spread over the cores. What is measured is kept beside that build,
//! so that a run that was stopped goes on where it was: see [`Measured`].

use std::{
    fmt::Write as _,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, bail, ensure};

/// Where the table is committed.
const PAGE: &str = "docs/mutants.md";

#[derive(clap::Args)]
pub struct Args {
    /// Only these; may be repeated, or a list with commas. `cargo xtask sim mutants` lists them. The page is then left alone.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Disjoint ranges of seeds, in each of which it must be caught.
    #[arg(long, default_value_t = 20)]
    ranges: u64,
    /// Threads of the simulator. Default: one per core.
    #[arg(long)]
    threads: Option<u64>,
    /// Measures again what was measured with the same build.
    #[arg(long)]
    again: bool,
    /// The build of an earlier run, as that named it: to go on with it although the sources have changed since.
    #[arg(long)]
    simulator: Option<PathBuf>,
}

struct Mutant {
    name: String,
    seeds: String,
    what: String,
}

/// One mutant's line of the simulator.
struct Catch {
    scenario: String,
    caught: u64,
    ranges: u64,
    median_seeds: String,
    median_minutes: String,
    invariants: String,
}

/// Builds and runs each mutant; good when the simulator catches all of them everywhere.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let simulator = args.simulator.clone().map_or_else(build, Ok)?;
    eprintln!("measured with --simulator {}", simulator.display());
    let mutants = list(&simulator)?;
    for name in &args.only {
        ensure!(mutants.iter().any(|mutant| mutant.name == *name), "no mutant `{name}`");
    }
    let mut page = String::from(HEAD);
    let (mut caught, mut missed) = (0, 0);
    for mutant in mutants {
        if !args.only.is_empty() && !args.only.contains(&mutant.name) {
            continue;
        }
        let Catch {
            scenario,
            caught: here,
            ranges,
            median_seeds,
            median_minutes,
            invariants,
        } = catch(&simulator, &mutant, args)?;
        let is_caught = here == ranges;
        *if is_caught { &mut caught } else { &mut missed } += 1;
        let verdict = if is_caught { "" } else { "MISSED, " };
        println!(
            "{:<36} {scenario:<5} {verdict}{here} of {ranges}, median {median_seeds} seeds, {median_minutes} min: {invariants}",
            mutant.name
        );
        let Mutant { name, what, seeds } = &mutant;
        writeln!(
            page,
            "| `{name}` | {what} | {scenario} | {here} of {ranges} × {seeds} | {median_seeds} | {median_minutes} | {invariants} |"
        )?;
    }
    println!("{caught} caught, {missed} missed");
    if args.only.is_empty() {
        let path = crate::root().join(PAGE);
        fs::write(&path, page).with_context(|| format!("write {}", path.display()))?;
        println!("wrote {PAGE}");
    }
    Ok(ExitCode::from(u8::from(missed > 0)))
}

const HEAD: &str = "# Deliberate bugs
Each is a bug that a real system shipped or that a rule of Settle forbids, planted where the rule is kept and compiled in
only under `--cfg settle_mutants`, which the server refuses to be built with. The simulator must catch each of them in
every range of seeds. Written by `cargo xtask sim --mutants`.

*Seeds* and *minutes* are medians over the ranges: seeds run until the first failure, and simulated minutes of the cluster.
*Caught by* names the invariant that was broken first, and in how many ranges.

| mutant | what it does | scenario | ranges × seeds | seeds | minutes | caught by |
|---|---|---|---|---|---|---|
";

/// The one build that all are measured with, under a name of its own: whoever builds meanwhile does not change it.
fn build() -> anyhow::Result<PathBuf> {
    let target = target_dir();
    let status = crate::cargo()
        .args(["build", "--quiet", "--profile", "sim", "--package", "settle-sim"])
        // A target directory of its own: a mutant must never be taken for the product.
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", "--cfg settle_mutants")
        .current_dir(crate::root())
        .status()
        .context("start cargo to build the simulator")?;
    ensure!(status.success(), "the simulator does not build");
    let built = target.join("sim").join("settle-sim");
    let bytes = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let dir = target.join(format!("measured-{:016x}", hasher.finish()));
    fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let simulator = dir.join("settle-sim");
    if !simulator.exists() {
        let copy = dir.join("settle-sim.new");
        fs::copy(&built, &copy).with_context(|| format!("copy {}", built.display()))?;
        fs::rename(&copy, &simulator).with_context(|| format!("rename {}", copy.display()))?;
    }
    Ok(simulator)
}

fn list(simulator: &Path) -> anyhow::Result<Vec<Mutant>> {
    let output = Command::new(simulator)
        .arg("mutants")
        .stderr(Stdio::inherit())
        .output()
        .context("start the simulator")?;
    ensure!(output.status.success(), "the simulator does not list its mutants");
    let text = String::from_utf8(output.stdout).context("the list of mutants")?;
    text.lines()
        .map(|line| {
            let fields: Vec<_> = line.split('\t').map(str::to_owned).collect();
            let [name, _, seeds, what] =
                <[String; 4]>::try_from(fields).map_err(|_| anyhow::anyhow!("the list of mutants: `{line}`"))?;
            Ok(Mutant { name, seeds, what })
        })
        .collect()
}

/// Where the line of a mutant is kept: beside the build that it was measured with.
struct Measured(PathBuf);

impl Measured {
    fn of(simulator: &Path, mutant: &Mutant, ranges: u64) -> Measured {
        Measured(simulator.with_file_name(format!("{}-{ranges}", mutant.name)))
    }

    fn line(&self) -> Option<String> {
        fs::read_to_string(&self.0).ok()
    }

    fn keep(&self, line: &str) -> anyhow::Result<()> {
        fs::write(&self.0, line).with_context(|| format!("write {}", self.0.display()))
    }
}

fn catch(simulator: &Path, mutant: &Mutant, args: &Args) -> anyhow::Result<Catch> {
    let measured = Measured::of(simulator, mutant, args.ranges);
    if let Some(line) = measured.line().filter(|_| !args.again) {
        return Catch::parse(&line);
    }
    let mut command = Command::new(simulator);
    command.args(["--mutant", &mutant.name, "--ranges", &args.ranges.to_string()]);
    if let Some(threads) = args.threads {
        command.args(["--threads", &threads.to_string()]);
    }
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .context("start the simulator")?;
    let text = String::from_utf8(output.stdout).context("what the simulator says of a mutant")?;
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{}\t", mutant.name)));
    let Some(line) = line else {
        bail!("the simulator failed for another reason:\n{text}");
    };
    let catch = Catch::parse(line)?;
    measured.keep(line)?;
    Ok(catch)
}

impl Catch {
    fn parse(line: &str) -> anyhow::Result<Catch> {
        let fields: Vec<_> = line.split('\t').map(str::to_owned).collect();
        let [_, scenario, caught, ranges, median_seeds, median_minutes, invariants] =
            <[String; 7]>::try_from(fields)
                .map_err(|_| anyhow::anyhow!("what the simulator says of a mutant: `{line}`"))?;
        Ok(Catch {
            scenario,
            caught: caught.parse().context("ranges in which it was caught")?,
            ranges: ranges.parse().context("all ranges")?,
            median_seeds,
            median_minutes,
            invariants,
        })
    }
}

fn target_dir() -> PathBuf {
    let all = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| crate::root().join("target"), Into::into);
    all.join("mutants")
}
