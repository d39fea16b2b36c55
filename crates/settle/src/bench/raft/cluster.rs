//! Three servers as processes of their own, made by the bench.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use settle_telemetry::Clock;

use super::client::{figures, pause};
use crate::bench::figures::Figures;

const NODES: usize = 3;
const READY_WITHIN: Duration = Duration::from_secs(30);
/// Below the ports that the system gives to outgoing connections: a killed server must get its own back.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// The servers and their data, which go with it.
pub struct Cluster {
    dir: PathBuf,
    nodes: Vec<Node>,
    peers: String,
    /// The hidden subcommand of `settle bench` that is one server.
    program: &'static str,
    options: Vec<String>,
}

struct Node {
    clients: SocketAddr,
    child: Option<Child>,
}

impl Cluster {
    /// Starts three servers with fresh data in a folder of `dir`, and waits until one leads and all are connected.
    ///
    /// # Errors
    /// When they do not come up.
    pub fn start(dir: &Path, options: Vec<String>) -> anyhow::Result<Cluster> {
        Cluster::start_program("raft-node", dir, options)
    }

    /// The same with servers of another kind, which take the same arguments.
    ///
    /// # Errors
    /// When they do not come up.
    pub fn start_program(program: &'static str, dir: &Path, options: Vec<String>) -> anyhow::Result<Cluster> {
        let dir = dir.join(format!("settle-bench-raft-{}", std::process::id()));
        std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let ports = free_ports(2 * NODES)?;
        let address = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let peers: Vec<String> = ports[..NODES].iter().map(|port| address(*port).to_string()).collect();
        let nodes = ports[NODES..].iter().map(|port| Node {
            clients: address(*port),
            child: None,
        });
        let mut cluster = Cluster {
            dir,
            nodes: nodes.collect(),
            peers: peers.join(","),
            program,
            options,
        };
        for node in 0..NODES {
            cluster.restart(node)?;
        }
        cluster.wait_until_ready()?;
        Ok(cluster)
    }

    /// Starts server `node` (counted from 0) on the data that it has.
    ///
    /// # Errors
    /// When the process cannot be made.
    pub fn restart(&mut self, node: usize) -> anyhow::Result<()> {
        let log = self.dir.join(format!("node{}.log", node + 1));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let child = Command::new(std::env::current_exe().context("cannot find this executable")?)
            .args(["bench", self.program, "--node", &(node + 1).to_string()])
            .args([
                "--listen",
                &self.nodes[node].clients.to_string(),
                "--peers",
                &self.peers,
            ])
            .arg("--data")
            .arg(self.data(node))
            .args(&self.options)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start server {}", node + 1))?;
        self.nodes[node].child = Some(child);
        Ok(())
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&mut self, node: usize) -> anyhow::Result<()> {
        if let Some(mut child) = self.nodes[node].child.take() {
            child.kill().context("kill a server")?;
            child.wait().context("wait for a killed server")?;
        }
        Ok(())
    }

    /// Takes a server's data away. It must not be running.
    ///
    /// # Errors
    /// When the files cannot be removed.
    pub fn wipe(&self, node: usize) -> anyhow::Result<()> {
        let data = self.data(node);
        std::fs::remove_dir_all(&data).with_context(|| format!("remove {}", data.display()))
    }

    fn data(&self, node: usize) -> PathBuf {
        self.dir.join(format!("node{}", node + 1))
    }

    pub fn targets(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.clients).collect()
    }

    /// Of those that run, in order.
    pub fn pids(&self) -> Vec<u32> {
        let children = self.nodes.iter().filter_map(|node| node.child.as_ref());
        children.map(Child::id).collect()
    }

    /// # Errors
    /// When that takes longer than half a minute; the end of the logs is in the message.
    pub fn wait_until_ready(&self) -> anyhow::Result<()> {
        let clock = Clock::start();
        loop {
            let all: Vec<_> = self
                .targets()
                .into_iter()
                .map(|t| figures(t).map(|t| Figures::read(&t)))
                .collect();
            let is_up = |f: &Figures| f.value("bench_peers") as usize == NODES - 1 && f.value("bench_leader") > 0.0;
            let is_ready = |f: &Figures| f.value("bench_is_ready") > 0.0;
            if all.iter().all(|f| f.as_ref().is_ok_and(is_up)) && all.iter().flatten().any(is_ready) {
                return Ok(());
            }
            if clock.now().since(settle_base::Mono::ZERO) > READY_WITHIN {
                bail!("the servers are not ready:\n{}", self.last_lines());
            }
            pause(Duration::from_millis(50));
        }
    }

    fn last_lines(&self) -> String {
        let mut text = String::new();
        for node in 1..=NODES {
            let log = std::fs::read_to_string(self.dir.join(format!("node{node}.log"))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().rev().take(10).collect();
            for line in lines.into_iter().rev() {
                text.push_str(&format!("  {node}: {line}\n"));
            }
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mut child) = node.child.take() {
                // It may have ended by itself.
                let _ = child.kill();
                let _ = child.wait();
            }
        }
        if std::env::var_os("SETTLE_BENCH_KEEP").is_some() {
            let _ = writeln!(std::io::stderr(), "the servers' data is in {}", self.dir.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

/// Ports below those that the system gives to outgoing connections, free at this moment.
///
/// # Errors
/// When there are not so many.
pub fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let span = PORTS.end - PORTS.start;
    let first = (std::process::id().wrapping_mul(31) % u32::from(span)) as u16;
    let ports = (0..span).map(|i| PORTS.start + (first + i) % span);
    let free = ports.filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    let found: Vec<u16> = free.take(count).collect();
    anyhow::ensure!(found.len() == count, "no {count} free ports");
    Ok(found)
}
