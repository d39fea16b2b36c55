//! `cargo xtask api`: schemathesis asks a running server whatever its own OpenAPI document allows, and what it does not,
//! and holds every answer against it. The server has transactions of every standing, so that acts find something to do.

mod transactions;

use std::{
    collections::BTreeMap,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::conformance::wait::until;
use transactions::Transactions;

/// Puts the ids of transactions that there are into requests.
const HOOKS: &str = include_str!("api/known_transactions.py");
/// What of its defaults does not fit.
const CONFIG: &str = include_str!("api/schemathesis.toml");
/// What an operator can do to a transaction, as the audit calls it.
const ACTS: [&str; 6] = [
    "commit",
    "rollback",
    "stop-retry",
    "resume-retry",
    "forget",
    "release-lock",
];

/// Moved by hand: another version may find other things.
const SCHEMATHESIS: &str = "4.32.5";

#[derive(clap::Args)]
pub struct Args {
    /// Requests tried for each operation and each way to make them.
    #[arg(long, default_value_t = 50)]
    examples: u32,
    /// What is tried is chosen by this.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs it and hands on whether every answer was as described.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Some(tool) = tool()? else {
        if std::env::var("CI").is_ok_and(|ci| ci == "true") {
            bail!("needs python3 with venv, and PyPI");
        }
        println!("skipped: needs python3 with venv, and PyPI");
        return Ok(ExitCode::SUCCESS);
    };
    let status = crate::cargo()
        .args(["build", "--quiet", "--package", "settle"])
        .current_dir(crate::root())
        .status()
        .context("start cargo to build the server")?;
    ensure!(status.success(), "the server does not build");
    let scratch = tempfile::tempdir().context("make a temporary directory")?;
    let server = Server::start(scratch.path())?;
    let transactions = Transactions::begin(&server.tx)?;
    let known = scratch.path().join("transactions.json");
    std::fs::write(&known, serde_json::to_vec(transactions.all())?).context("write down the transactions")?;
    std::fs::write(scratch.path().join("known_transactions.py"), HOOKS).context("write the hooks")?;
    std::fs::write(scratch.path().join("schemathesis.toml"), CONFIG).context("write the configuration")?;
    let status = Command::new(tool)
        .arg("run")
        .arg(format!("http://{}/v1/openapi.json", server.http))
        .args(["--max-examples", &args.examples.to_string()])
        .args(["--seed", &args.seed.to_string()])
        .args(["--request-timeout", "30", "--no-color"])
        .env("SCHEMATHESIS_HOOKS", "known_transactions")
        .env("PYTHONPATH", scratch.path())
        .env("SETTLE_KNOWN_TRANSACTIONS", &known)
        .current_dir(scratch.path())
        .status()
        .context("start schemathesis")?;
    // Not by what it answers: by what it does.
    ensure!(server.is_ready(), "the server is not ready any more:\n{}", server.log());
    let acts = server.acts()?;
    println!("Acts that changed a transaction, of the last that the server keeps: {acts:?}");
    let missing: Vec<&str> = ACTS.into_iter().filter(|act| !acts.contains_key(*act)).collect();
    ensure!(missing.is_empty(), "no request found anything to do for {missing:?}");
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        eprintln!("{}", server.log());
        ExitCode::FAILURE
    })
}

/// The program, in an environment of its own under the target directory; `None` when it cannot be had.
fn tool() -> anyhow::Result<Option<PathBuf>> {
    let folder = target().join(format!("schemathesis-{SCHEMATHESIS}"));
    let tool = folder.join("bin/schemathesis");
    if tool.exists() {
        return Ok(Some(tool));
    }
    let made = Command::new("python3").arg("-m").arg("venv").arg(&folder).status();
    if !made.is_ok_and(|status| status.success()) {
        return Ok(None);
    }
    let installed = Command::new(folder.join("bin/pip"))
        .args(["install", "--quiet", "--disable-pip-version-check"])
        .arg(format!("schemathesis=={SCHEMATHESIS}"))
        .status()
        .context("start pip")?;
    Ok(installed.success().then_some(tool))
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| crate::root().join("target"), PathBuf::from)
}

/// One server that ends with this.
struct Server {
    process: Child,
    tx: String,
    http: String,
    log: PathBuf,
}

impl Server {
    fn start(scratch: &Path) -> anyhow::Result<Server> {
        // Bound at once, so that they differ; free again when they are dropped.
        let ports: Vec<TcpListener> = (0..3)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<Result<_, _>>()
            .context("find free ports")?;
        let addresses: Vec<String> = ports
            .iter()
            .map(|port| port.local_addr().map(|address| address.to_string()))
            .collect::<Result<_, _>>()?;
        drop(ports);
        let log = scratch.join("server.log");
        let output = std::fs::File::create(&log).context("make the server's log")?;
        let process = Command::new(target().join("debug/settle"))
            .arg("server")
            .env("SETTLE_NODE_DATA_DIR", scratch.join("data"))
            .env("SETTLE_LISTEN_TX", &addresses[0])
            .env("SETTLE_LISTEN_HTTP", &addresses[1])
            .env("SETTLE_LISTEN_PEER", &addresses[2])
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("share the server's log")?)
            .stderr(output)
            .spawn()
            .context("start the server")?;
        let server = Server {
            process,
            tx: addresses[0].clone(),
            http: addresses[1].clone(),
            log,
        };
        until("the server is ready", Duration::from_secs(30), || {
            Ok(if server.is_ready() { Ok(()) } else { Err(server.log()) })
        })?;
        Ok(server)
    }

    fn is_ready(&self) -> bool {
        self.get("/readyz").is_ok()
    }

    /// How often each act changed something, by the server's own audit.
    fn acts(&self) -> anyhow::Result<BTreeMap<String, u32>> {
        let audit: Value = serde_json::from_str(&self.get("/v1/tx/audit?limit=1000")?).context("read the audit")?;
        let mut counts = BTreeMap::new();
        for record in audit["acts"].as_array().context("an audit lists acts")? {
            let act = record["act"].as_str().context("an act has a name")?;
            *counts.entry(act.to_owned()).or_default() += 1;
        }
        Ok(counts)
    }

    /// The body of an answer that is 200.
    fn get(&self, path: &str) -> anyhow::Result<String> {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(&self.http).context("connect to the server")?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            self.http
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "GET {path}: {answer}");
        let (_, body) = answer.split_once("\r\n\r\n").context("an answer has a head")?;
        Ok(body.to_owned())
    }

    fn log(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has no data that anybody wants.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
