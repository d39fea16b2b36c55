//! The servers under test.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::process::{Leashed, free_ports};
use super::wait;

/// Nodes that clients can talk to and that the driver can kill.
pub trait Cluster {
    /// What the table calls it.
    fn name(&self) -> String;
    /// The transaction address of every node, in a fixed order: what clients list.
    fn addresses(&self) -> Vec<String>;
    /// Index of the node that decides transactions now; fails when there is none within a few seconds.
    fn leader(&mut self) -> Result<usize>;
    /// `kill -9`; returns when the process is gone.
    fn kill(&mut self, node: usize) -> Result<()>;
    /// Starts every dead node again and waits until the whole cluster is ready.
    fn heal(&mut self) -> Result<()>;
    /// False when killing a node would only prove that it is dead.
    fn survives_a_kill(&self) -> bool;
}

/// Three `settle server` processes.
pub struct Settle {
    binary: PathBuf,
    dir: PathBuf,
    nodes: Vec<SettleNode>,
}

struct SettleNode {
    tx: u16,
    http: u16,
    peer: u16,
    process: Option<Leashed>,
}

/// The group that carries the transactions of `default_tx_group`.
const TRANSACTION_GROUP: u64 = 1;

impl Settle {
    /// Starts three nodes with their data under `dir` and waits until they are ready.
    pub fn start(binary: &Path, dir: &Path) -> Result<Self> {
        ensure!(binary.is_file(), "no settle binary at {}", binary.display());
        let ports = free_ports(9)?;
        let nodes = ports
            .chunks(3)
            .map(|chunk| SettleNode {
                tx: chunk[0],
                http: chunk[1],
                peer: chunk[2],
                process: None,
            })
            .collect();
        let mut cluster = Self {
            binary: binary.to_owned(),
            dir: dir.join("settle"),
            nodes,
        };
        std::fs::create_dir_all(&cluster.dir)?;
        cluster.heal()?;
        Ok(cluster)
    }

    /// The one place that knows the server's configuration: addresses and data directory, defaults otherwise.
    fn config(&self, index: usize) -> String {
        let node = &self.nodes[index];
        let peers: Vec<String> = self
            .nodes
            .iter()
            .enumerate()
            .map(|(i, node)| format!("\"{}@127.0.0.1:{}\"", i + 1, node.peer))
            .collect();
        format!(
            "[node]\nid = {}\ndata-dir = {:?}\n\n[cluster]\npeers = [{}]\n\n\
             [listen]\ntx = \"127.0.0.1:{}\"\nhttp = \"127.0.0.1:{}\"\npeer = \"127.0.0.1:{}\"\n",
            index + 1,
            self.dir.join(format!("node{}", index + 1)).display().to_string(),
            peers.join(", "),
            node.tx,
            node.http,
            node.peer
        )
    }

    fn spawn(&mut self, index: usize) -> Result<()> {
        let config = self.dir.join(format!("node{}.toml", index + 1));
        std::fs::write(&config, self.config(index))?;
        let args = ["server".to_owned(), "--config".to_owned(), config.display().to_string()];
        let log = self.dir.join(format!("node{}.log", index + 1));
        let process = Leashed::spawn(
            &format!("settle node {}", index + 1),
            &self.binary,
            &args,
            &self.dir,
            log,
        )?;
        self.nodes[index].process = Some(process);
        Ok(())
    }

    /// The leader that live node `index` believes in: `{"groups":[{"group":1,"role":"leader","leader":1,"term":3}]}`.
    fn leader_seen_by(&self, index: usize) -> Result<Option<usize>> {
        let body = http_get(self.nodes[index].http, "/v1/node")?;
        let status: Value = serde_json::from_str(&body).context("parse /v1/node")?;
        let groups = status["groups"].as_array().context("/v1/node lists groups")?;
        let group = groups
            .iter()
            .find(|group| group["group"].as_u64() == Some(TRANSACTION_GROUP))
            .with_context(|| format!("/v1/node lists group {TRANSACTION_GROUP}"))?;
        let is_leader = group["role"]
            .as_str()
            .is_some_and(|role| role.eq_ignore_ascii_case("leader"));
        Ok(is_leader.then_some(index))
    }
}

impl Cluster for Settle {
    fn name(&self) -> String {
        "settle × 3".to_owned()
    }

    fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.tx)).collect()
    }

    fn leader(&mut self) -> Result<usize> {
        wait::until("a node says it leads", Duration::from_secs(20), || {
            let mut reason = "no node says so".to_owned();
            for index in 0..self.nodes.len() {
                if self.nodes[index].process.is_none() {
                    continue;
                }
                match self.leader_seen_by(index) {
                    Ok(Some(leader)) => return Ok(Ok(leader)),
                    Ok(None) => {}
                    Err(error) => reason = format!("{error:#}"),
                }
            }
            Ok(Err(reason))
        })
    }

    fn kill(&mut self, node: usize) -> Result<()> {
        let mut process = self.nodes[node].process.take().context("the node to kill is alive")?;
        process.kill()
    }

    fn heal(&mut self) -> Result<()> {
        for index in 0..self.nodes.len() {
            if self.nodes[index].process.is_none() {
                self.spawn(index)?;
            }
        }
        for node in &mut self.nodes {
            let http = node.http;
            let process = node.process.as_mut().context("all nodes were just started")?;
            wait::until("the node is ready", Duration::from_secs(30), || {
                process.check_alive()?;
                Ok(http_get(http, "/readyz").map_err(|error| format!("{error:#}")))
            })?;
        }
        Ok(())
    }

    fn survives_a_kill(&self) -> bool {
        true
    }
}

/// One original seata-server in file mode.
pub struct Original {
    version: String,
    port: u16,
    process: Leashed,
}

impl Original {
    /// Starts the server from `class_path` with its store under `dir` and waits until it listens.
    pub fn start(class_path: &str, version: &str, dir: &Path) -> Result<Self> {
        let ports = free_ports(2)?;
        let (port, http) = (ports[0], ports[1]);
        let dir = dir.join("original");
        std::fs::create_dir_all(&dir)?;
        let args = [
            "-Xmx512m".to_owned(),
            format!("-Duser.home={}", dir.display()),
            format!("-Dlog.home={}", dir.join("log").display()),
            format!("-Dserver.port={http}"),
            format!("-Dseata.server.service-port={port}"),
            "-Dseata.store.mode=file".to_owned(),
            format!("-Dseata.store.file.dir={}", dir.join("store").display()),
            "-cp".to_owned(),
            class_path.to_owned(),
            "io.seata.server.ServerApplication".to_owned(),
            "-p".to_owned(),
            port.to_string(),
            "-m".to_owned(),
            "file".to_owned(),
        ];
        let log = dir.join("server.log");
        let mut process = Leashed::spawn("seata-server", Path::new("java"), &args, &dir, log)?;
        wait::until("seata-server listens", Duration::from_secs(90), || {
            process.check_alive()?;
            Ok(TcpStream::connect(("127.0.0.1", port))
                .map(drop)
                .map_err(|error| error.to_string()))
        })?;
        Ok(Self {
            version: version.to_owned(),
            port,
            process,
        })
    }
}

impl Cluster for Original {
    fn name(&self) -> String {
        format!("seata-server {} (pid {})", self.version, self.process.pid())
    }

    fn addresses(&self) -> Vec<String> {
        vec![format!("127.0.0.1:{}", self.port)]
    }

    fn leader(&mut self) -> Result<usize> {
        self.process.check_alive()?;
        Ok(0)
    }

    fn kill(&mut self, _node: usize) -> Result<()> {
        bail!("a single seata-server has no one to take over")
    }

    fn heal(&mut self) -> Result<()> {
        self.process.check_alive()
    }

    fn survives_a_kill(&self) -> bool {
        false
    }
}

/// The body of a 200 answer to a plain GET on loopback.
fn http_get(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer has a head")?;
    let status = head.lines().next().unwrap_or("");
    ensure!(status.contains(" 200"), "GET {path}: {status}");
    Ok(body.to_owned())
}
