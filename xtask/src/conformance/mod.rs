//! `cargo xtask conformance seata`: unmodified Seata clients against a running cluster. `… hessian`: Java's libraries
//! against our codec.

#![allow(
    clippy::disallowed_methods,
    reason = "the driver watches foreign processes: wall clock, files and polling with a deadline are its trade"
)]

mod bank;
mod beside;
mod bolt;
mod books;
mod cases;
mod cluster;
mod go;
pub mod hessian;
mod kept;
mod mariadb;
mod maven;
mod npm;
mod process;
mod record;
mod report;
mod run;
mod together;
mod versions;
mod virtual_address;
pub mod wait;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use bank::Bank;
use cases::{Case, Place, Scenario, Subset};
use cluster::{Addressing, Cluster, Original, Settle};
use kept::Kept;
use mariadb::MariaDb;
use report::Row;
use run::{Part, Stage};
use versions::Language;

/// Runs official clients and libraries against this system, or against the original that it replaces.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(clap::Subcommand)]
enum Suite {
    /// Seata's Java clients move money between two MariaDB databases.
    Seata(SeataArgs),
    /// Java's Hessian libraries and ours read what the other wrote.
    Hessian(hessian::Args),
    /// Java's bolt library and ours as client and server of each other.
    Bolt(bolt::Args),
}

#[derive(clap::Args)]
struct SeataArgs {
    /// The servers under test.
    #[arg(long, value_enum, default_value_t = Target::Settle)]
    target: Target,
    #[arg(long, value_enum, default_value_t = Subset::All)]
    subset: Subset,
    /// Everything that has not passed before, as kept below the target directory; several may run at once, each with other
    /// clients. At the end the whole matrix: client × mode × serializer/transport/compressor × peace and kills.
    #[arg(long, conflicts_with = "subset")]
    full: bool,
    /// With `--full`: play what has passed before too.
    #[arg(long, requires = "full")]
    again: bool,
    /// With `--full`: play nothing, only write the matrix to this file.
    #[arg(long, requires = "full", value_name = "FILE")]
    page: Option<PathBuf>,
    /// Only these cases; may be repeated.
    #[arg(long, value_enum)]
    case: Vec<Case>,
    /// Only these client versions, e.g. 1.8.0; may be repeated.
    #[arg(long)]
    client: Vec<String>,
    /// Only these scenarios; may be repeated.
    #[arg(long, value_enum)]
    scenario: Vec<Scenario>,
    /// Only these places of the client's transaction; may be repeated.
    #[arg(long, value_enum)]
    place: Vec<Place>,
    /// How clients find the servers.
    #[arg(long, value_enum, default_value_t = Addressing::List)]
    addressing: Addressing,
    /// Let the servers ask every client who it is, and the bank sign with its access key.
    #[arg(long)]
    signed: bool,
    /// The settle executable; built with `cargo build --release` when absent.
    #[arg(long, value_name = "FILE")]
    settle_bin: Option<PathBuf>,
    /// Play the kills against the original too: it is started again at once, as there is no one to take over.
    #[arg(long)]
    restart_original: bool,
    /// Put a proxy in front of the first node, list only that one, and write every frame to this directory.
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
    /// Write the undo logs of `at-beside-rust` to this directory.
    #[arg(long, value_name = "DIR")]
    record_undo: Option<PathBuf>,
    /// Keep the logs and data directories.
    #[arg(long)]
    keep: bool,
    /// Only download and build the Java side, so that a later run needs no network.
    #[arg(long)]
    prepare: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Target {
    /// Three nodes of this system.
    Settle,
    /// One original seata-server from Maven Central; only in peace, unless --restart-original is given.
    Original,
}

const NEEDED: [&str; 5] = ["java", "mvn", "mariadbd", "mariadb-install-db", "mariadb"];

/// Runs the suite: exit code 0 when all passed, 1 when a case failed, 3 when something it needs is missing under CI.
pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.suite {
        Suite::Seata(args) => match skipped(&NEEDED) {
            Some(code) => Ok(code),
            None => seata(args),
        },
        Suite::Hessian(args) => match skipped(&hessian::NEEDED) {
            Some(code) => Ok(code),
            None => hessian::run(args),
        },
        Suite::Bolt(args) => match skipped(&bolt::NEEDED) {
            Some(code) => Ok(code),
            None => bolt::run(args),
        },
    }
}

/// Says what is missing, if anything is, and how the suite ends then.
fn skipped(needed: &[&'static str]) -> Option<ExitCode> {
    let missing: Vec<&str> = needed
        .iter()
        .copied()
        .filter(|program| !process::in_path(program))
        .collect();
    if missing.is_empty() {
        return None;
    }
    println!("skipped: needs {}", missing.join(", "));
    let ci = std::env::var("CI").is_ok_and(|value| value == "true");
    Some(ExitCode::from(if ci { 3 } else { 0 }))
}

fn seata(args: &SeataArgs) -> Result<ExitCode> {
    let started = Instant::now();
    let root = &crate::root().canonicalize().context("find the repository")?;
    let pins = versions::read(&root.join("conformance/versions.toml"))?.seata;
    let unknown: Vec<&String> = args
        .client
        .iter()
        .filter(|name| !pins.client.iter().any(|client| client.name == **name))
        .collect();
    ensure!(unknown.is_empty(), "no client {unknown:?} in conformance/versions.toml");
    let target_dir = target_dir(root)?;
    let out = target_dir.join("conformance/seata");
    let java = root.join("conformance/seata/java");
    let has_go = process::in_path("go");
    let build = |client: &versions::Client| match client.language {
        Language::Java => maven::build_bank(&java, &out, &pins, client).map(Program::Java),
        Language::Go => go::build_bank(&root.join("conformance/seata/go"), &out, client).map(Program::Go),
    };
    let can_be_built = |client: &versions::Client| client.language == Language::Java || has_go;
    if args.prepare {
        for client in pins.client.iter().filter(|client| can_be_built(client)) {
            build(client)?;
            println!("ready: the bank with {} {}", client.group, client.version);
        }
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(
        !args.full || args.addressing == Addressing::List,
        "the matrix is of clients with a list of addresses"
    );
    let kept = match args.full {
        true => Some(Kept::open(out.join("results"))?),
        false => None,
    };
    if let (Some(page), Some(kept)) = (&args.page, &kept) {
        std::fs::write(page, report::page(&kept.all()?, &pins.client))?;
        return Ok(ExitCode::SUCCESS);
    }
    let temp = tempfile::Builder::new().prefix("settle-conformance-").tempdir()?;
    let dir = temp.path().to_owned();
    let temp = if args.keep {
        println!("logs and data: {}", temp.keep().display());
        None
    } else {
        Some(temp)
    };

    println!("Starting MariaDB and the servers …");
    let db = MariaDb::start(&dir, &root.join("conformance/seata/schema.sql"))?;
    let mut cluster: Box<dyn Cluster> = match args.target {
        Target::Settle => {
            let binary = match &args.settle_bin {
                Some(file) => file
                    .canonicalize()
                    .with_context(|| format!("find {}", file.display()))?,
                None => build_settle(root, &target_dir)?,
            };
            Box::new(Settle::start(&binary, &dir, args.addressing, args.signed)?)
        }
        Target::Original => {
            let class_path = maven::resolve_server(&java, &out, &pins)?;
            Box::new(Original::start(
                class_path,
                &pins.server.version,
                &dir,
                args.restart_original,
            )?)
        }
    };
    println!("{} at {}", cluster.name(), cluster.addresses().join(", "));

    let teller = build_teller(root, &target_dir)?;
    let mut rows = Vec::new();
    let mut account = 0;
    for client in &pins.client {
        let is_wanted = match args.client.is_empty() {
            true => args.subset == Subset::All || client.ci,
            false => args.client.contains(&client.name),
        };
        if !is_wanted {
            continue;
        }
        if !can_be_built(client) {
            println!("\nskipped: {} needs go", client.name);
            continue;
        }
        println!("\nBuilding the bank with {} {} …", client.group, client.version);
        let mut player = Player {
            program: build(client)?,
            only: Cell::new(None),
            dir: dir.clone(),
            client,
            db: &db,
            record: args.record.as_deref(),
            record_undo: args.record_undo.as_ref().map(|dir| dir.join(&client.name)),
            teller: &teller,
            is_signed: args.signed,
            bank: None,
            banks_started: Cell::new(0),
        };
        let mut heading_due = true;
        let places = if args.record.is_none() { cluster.places() } else { &[] };
        let mut plans = Vec::new();
        for plan in cases::plans(args.subset, client, places) {
            let wanted = (args.case.is_empty() || args.case.contains(&plan.case))
                && (args.place.is_empty() || args.place.contains(&plan.place))
                && (args.scenario.is_empty() || args.scenario.contains(&plan.scenario));
            let has_passed = match &kept {
                Some(kept) => !args.again && kept.has_passed(&client.name, plan)?,
                None => false,
            };
            if wanted && !has_passed {
                plans.push(plan);
            }
        }
        for group in cases::share(plans, client) {
            let parts: Vec<Part> = group
                .into_iter()
                .map(|plan| {
                    account += 2;
                    Part { plan, account }
                })
                .collect();
            let outcomes = player.play(cluster.as_mut(), &parts);
            if heading_due {
                println!("{}", report::heading());
                heading_due = false;
            }
            for (part, outcome) in parts.iter().zip(outcomes) {
                let row = Row {
                    client: client.name.clone(),
                    case: part.plan.case,
                    scenario: part.plan.scenario,
                    place: part.plan.place.name(),
                    outcome,
                };
                println!("{}", report::line(&row));
                if let Some(kept) = &kept {
                    kept.keep(&row)?;
                }
                rows.push(row);
            }
        }
    }
    ensure!(!rows.is_empty() || kept.is_some(), "no run fits the filters");

    if let Some(kept) = &kept {
        println!("\nThe matrix, runs that passed of all that there are:");
        report::matrix(&kept.all()?, &pins.client)
            .iter()
            .for_each(|line| println!("  {line}"));
    }
    println!("\nLongest stall that Java saw (from the kill, or from the call, until the business was told):");
    report::stalls(&rows).iter().for_each(|line| println!("  {line}"));
    let whole = check_whole(&db)?;
    let failed = rows.iter().filter(|row| row.outcome.is_err()).count() + usize::from(!whole);
    let passed = rows.len() + 1 - failed;
    println!(
        "{passed} passed, {failed} failed ({} s; the check over all accounts counts as one)",
        started.elapsed().as_secs()
    );
    drop(cluster);
    drop(db);
    drop(temp);
    Ok(ExitCode::from(u8::from(failed > 0)))
}

/// What a bank is started from.
enum Program {
    /// A class path.
    Java(String),
    Go(PathBuf),
}

/// Keeps the bank between runs in peace; a run with a kill gets a fresh one, so that no run inherits dead connections.
struct Player<'a> {
    program: Program,
    /// The node that a client knows which can have but one.
    only: Cell<Option<usize>>,
    dir: PathBuf,
    client: &'a versions::Client,
    db: &'a MariaDb,
    record: Option<&'a Path>,
    record_undo: Option<PathBuf>,
    /// The program of the bank in Rust.
    teller: &'a Path,
    is_signed: bool,
    bank: Option<Bank>,
    banks_started: Cell<usize>,
}

impl Player<'_> {
    /// Plays runs that share a bank; gives what each came to, in their order.
    fn play(&mut self, cluster: &mut dyn Cluster, parts: &[Part]) -> Vec<Result<report::Finding, String>> {
        match self.play_all(cluster, parts) {
            Ok(outcomes) => outcomes
                .into_iter()
                .map(|outcome| outcome.map_err(|error| format!("{error:#}")))
                .collect(),
            Err(error) => parts.iter().map(|_| Err(format!("{error:#}"))).collect(),
        }
    }

    fn play_all(&mut self, cluster: &mut dyn Cluster, parts: &[Part]) -> Result<Vec<Result<report::Finding>>> {
        let place = parts.first().context("there is something to play")?.plan.place;
        if place != Place::Any {
            self.bank = None;
        }
        if self.bank.is_none() {
            let node = match place {
                Place::Killed => cluster.leader()?,
                _ => (cluster.leader()? + 1) % cluster.nodes(),
            };
            cluster.prefer(node);
            self.only.set((self.client.language == Language::Go).then_some(node));
        }
        let mut bank = match self.bank.take() {
            Some(bank) => bank,
            None => self.start_bank(cluster)?,
        };
        let played = Stage {
            cluster: &mut *cluster,
            bank: &mut bank,
            db: self.db,
            another_bank: &|cluster| {
                // Not on the node that was killed.
                let nodes = cluster.nodes();
                self.only.set(self.only.get().map(|only| (only + 1) % nodes));
                self.start_bank(cluster)
            },
            is_lost_with_its_server: self.client.language == Language::Go,
            rust_bank: &|cluster| self.start_teller(cluster),
            record: self.record_undo.as_deref(),
        }
        .play(parts);
        let log = format!("client log {}", bank.log().display());
        cluster.heal().context("after the run")?;
        let played = played.with_context(|| log.clone())?;
        if played.iter().all(Result::is_ok) {
            self.bank = Some(bank);
        }
        Ok(played
            .into_iter()
            .map(|outcome| outcome.map_err(|error| error.context(log.clone())))
            .collect())
    }

    fn start_teller(&self, cluster: &dyn Cluster) -> Result<Bank> {
        self.banks_started.update(|started| started + 1);
        let dir = self
            .dir
            .join(format!("teller-{}-{}", self.client.name, self.banks_started.get()));
        let servers = cluster.addresses();
        Bank::start_rust(self.teller, self.client, &dir, &servers, self.db, self.is_signed)
    }

    fn start_bank(&self, cluster: &dyn Cluster) -> Result<Bank> {
        self.banks_started.update(|started| started + 1);
        let dir = self
            .dir
            .join(format!("bank-{}-{}", self.client.name, self.banks_started.get()));
        let servers = match (self.record, cluster.addresses()) {
            (None, all) => all,
            (Some(dir), all) => vec![record::proxy(
                all[0].clone(),
                dir,
                &format!("seata-all-{}", self.client.name),
            )?],
        };
        let class_path = match &self.program {
            Program::Java(class_path) => class_path,
            Program::Go(program) => {
                let only = self.only.get().and_then(|only| servers.get(only));
                let servers = only.map_or(servers.clone(), |only| vec![only.clone()]);
                return Bank::start_go(program, &dir, &servers, self.db);
            }
        };
        let bank = Bank::start(
            class_path,
            self.client,
            run::SAGA_TIMEOUT,
            &dir,
            &servers,
            self.db,
            self.is_signed,
        )?;
        if let (1, Some(ready)) = (self.banks_started.get(), bank.ready()) {
            println!("seata-all {}; its effective configuration:", ready.text("client"));
            for (key, value) in ready.field("config").as_object().into_iter().flatten() {
                println!("  {key} = {value}");
            }
        }
        Ok(bank)
    }
}

/// Money is neither lost nor made, and nothing is left half done anywhere. Each table was loaded with 10000 accounts of 1000.
fn check_whole(db: &MariaDb) -> Result<bool> {
    let at =
        db.number("SELECT (SELECT SUM(balance) FROM bank_a.account) + (SELECT SUM(balance) FROM bank_b.account)")?;
    let tcc = db.number("SELECT SUM(balance + frozen) FROM bank_a.tcc_account")?;
    let undo = db.number(&books::count_undo("log_status = 0"))?;
    let defence = db.number(&books::count_undo("log_status = 1"))?;
    let tried = db.number("SELECT COUNT(*) FROM bank_a.tcc_fence_log WHERE status = 1")?;
    let whole = (at, tcc, undo, tried) == (20_000_000, 10_000_000, 0, 0);
    println!(
        "Over all accounts: AT sum {at} (20000000), TCC sum {tcc} (10000000), undo_log rows with log_status 0: {undo} (0), \
         with log_status 1: {defence} (each explained above), open TCC fence rows: {tried} (0): {}",
        if whole { "pass" } else { "FAIL" }
    );
    Ok(whole)
}

fn target_dir(root: &Path) -> Result<PathBuf> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .current_dir(root)
        .no_deps()
        .exec()?;
    Ok(metadata.target_directory.into_std_path_buf())
}

/// The bank in Rust: an example of the SDK's AT.
fn build_teller(root: &Path, target_dir: &Path) -> Result<PathBuf> {
    println!("Building the bank in Rust …");
    let status = Command::new("cargo")
        .args(["build", "--package", "settle-sdk-at", "--example", "teller"])
        .current_dir(root)
        .status()?;
    if !status.success() {
        bail!("cargo build failed ({status})");
    }
    Ok(target_dir.join("debug/examples/teller"))
}

fn build_settle(root: &Path, target_dir: &Path) -> Result<PathBuf> {
    println!("Building settle …");
    let status = Command::new("cargo")
        .args(["build", "--release", "--package", "settle"])
        .current_dir(root)
        .status()?;
    if !status.success() {
        bail!("cargo build failed ({status})");
    }
    Ok(target_dir.join("release/settle"))
}
