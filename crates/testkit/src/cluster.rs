//! A cluster of `settle server` processes on loopback.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;

use crate::{Answer, Namespaces, Ports, Process, Proxies, Scratch, http, last_lines, until};

/// The group of transactions.
pub const TX_GROUP: u64 = 1;
/// How long a cluster on a busy machine may take until it is ready, and until it has a leader.
const READY_WITHIN: Duration = Duration::from_secs(45);
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// How much of each log is shown when a test fails.
const LOG_LINES: usize = 30;

/// What to start.
#[derive(Clone)]
pub struct ClusterSpec {
    binary: PathBuf,
    nodes: u32,
    settings: BTreeMap<(String, String), String>,
}

impl ClusterSpec {
    /// `nodes` servers, numbered from 1, of the program `binary`: in a test of the `settle` crate
    /// `env!("CARGO_BIN_EXE_settle")`.
    pub fn new(binary: impl Into<PathBuf>, nodes: u32) -> ClusterSpec {
        ClusterSpec {
            binary: binary.into(),
            nodes,
            settings: BTreeMap::new(),
        }
    }

    /// Sets `section.key` for every server; `value` as TOML writes it.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> ClusterSpec {
        let (section, name) = key.split_once('.').expect("a key is `section.name`");
        self.settings
            .insert((section.to_owned(), name.to_owned()), value.to_owned());
        self
    }
}

/// What `GET /v1/node` tells.
#[derive(Clone, Debug, Deserialize)]
pub struct NodeView {
    pub node: u32,
    pub incarnation: String,
    pub cluster: Option<String>,
    pub connected: Vec<u32>,
    pub groups: Vec<GroupView>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct GroupView {
    pub group: u64,
    pub role: String,
    pub leader: Option<u32>,
    pub term: u64,
    pub last_index: u64,
    pub commit_index: u64,
    pub applied_index: u64,
    pub members: Vec<MemberView>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct MemberView {
    pub node: u32,
    pub incarnation: String,
    pub role: String,
    pub match_index: Option<u64>,
}

impl NodeView {
    /// The group of transactions as this server sees it.
    pub fn tx_group(&self) -> Result<&GroupView> {
        let group = self.groups.iter().find(|group| group.group == TX_GROUP);
        group.with_context(|| format!("node {} has no group {TX_GROUP}", self.node))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leader {
    pub node: u32,
    pub term: u64,
}

/// How servers reach each other, when their links can be cut.
enum Links {
    Namespaces(Namespaces),
    Proxies(Proxies),
}

/// Servers numbered from 1, their data and logs in a folder that goes with them. What is alive at the end is killed. A
/// cluster that is not [`finish`](Cluster::finish)ed belongs to a test that failed: the ends of all logs are printed, and
/// the folder is kept.
pub struct Cluster {
    spec: ClusterSpec,
    processes: BTreeMap<u32, Process>,
    ports: Ports,
    /// What differs from `spec` at one server.
    own_settings: BTreeMap<u32, BTreeMap<(String, String), String>>,
    links: Option<Links>,
    /// None once the test is finished.
    scratch: Option<Scratch>,
}

impl Cluster {
    /// Starts all servers and waits until each is ready.
    pub async fn start(spec: ClusterSpec) -> Result<Cluster> {
        let mut cluster = Cluster::prepare(spec)?;
        cluster.start_all().await?;
        Ok(cluster)
    }

    /// Ports and configurations, nothing running yet.
    pub fn prepare(spec: ClusterSpec) -> Result<Cluster> {
        Cluster::prepare_on(spec, None)
    }

    /// The same, each server in its own network namespace when there are any.
    pub fn prepare_on(spec: ClusterSpec, network: Option<Namespaces>) -> Result<Cluster> {
        let ports = Ports::reserve(3 * u16::try_from(spec.nodes)?)?;
        let cluster = Cluster {
            spec,
            processes: BTreeMap::new(),
            ports,
            own_settings: BTreeMap::new(),
            links: network.map(Links::Namespaces),
            scratch: Some(Scratch::new()?),
        };
        cluster.write_configs()?;
        Ok(cluster)
    }

    fn write_configs(&self) -> Result<()> {
        self.nodes().try_for_each(|node| self.write_config(node))
    }

    fn write_config(&self, node: u32) -> Result<()> {
        let path = self.config_path(node);
        std::fs::write(&path, self.config(node)).with_context(|| format!("write {}", path.display()))
    }

    /// Sets `section.key` for every server, from its next start.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        self.spec = self.spec.clone().set(key, value);
        self.write_configs()
    }

    /// Sets `section.key` for one server, from its next start.
    pub fn set_at(&mut self, node: u32, key: &str, value: &str) -> Result<()> {
        let (section, name) = key.split_once('.').expect("a key is `section.name`");
        let own = self.own_settings.entry(node).or_default();
        own.insert((section.to_owned(), name.to_owned()), value.to_owned());
        // Another may be starting, and read its own.
        self.write_config(node)
    }

    /// From the next starts on the servers reach each other through proxies.
    pub async fn put_proxies_between(&mut self) -> Result<()> {
        let peers = self.nodes().map(|node| (node, self.peer(node))).collect();
        self.links = Some(Links::Proxies(Proxies::new(&peers).await?));
        self.write_configs()
    }

    /// Cuts what `from` sends to `to`, or lets it through again. There have to be namespaces or proxies.
    pub fn cut(&self, from: u32, to: u32, is_cut: bool) -> Result<()> {
        match (&self.links, is_cut) {
            (Some(Links::Namespaces(network)), true) => network.cut(from, to),
            (Some(Links::Namespaces(network)), false) => network.heal(from, to),
            (Some(Links::Proxies(proxies)), _) => proxies.cut(from, to, is_cut),
            (None, _) => bail!("there is nothing between the servers that could cut a link"),
        }
    }

    pub fn nodes(&self) -> std::ops::RangeInclusive<u32> {
        1..=self.spec.nodes
    }

    pub fn binary(&self) -> &Path {
        &self.spec.binary
    }

    pub fn tx(&self, node: u32) -> SocketAddr {
        self.port(node, 0)
    }

    pub fn http(&self, node: u32) -> SocketAddr {
        self.port(node, 1)
    }

    pub fn peer(&self, node: u32) -> SocketAddr {
        self.port(node, 2)
    }

    fn peer_as_seen_by(&self, node: u32, peer: u32) -> SocketAddr {
        match &self.links {
            Some(Links::Proxies(proxies)) => proxies.address(node, peer).unwrap_or_else(|| self.peer(peer)),
            _ => self.peer(peer),
        }
    }

    pub fn data_dir(&self, node: u32) -> PathBuf {
        self.folder().join(format!("node{node}"))
    }

    pub fn config_path(&self, node: u32) -> PathBuf {
        self.folder().join(format!("node{node}.toml"))
    }

    fn folder(&self) -> &Path {
        self.scratch.as_ref().expect("it is there until the end").path()
    }

    /// The test is good: whatever still runs is killed, and the folder removed.
    pub fn finish(mut self) {
        // Before the folder goes: nobody shall write into it.
        self.processes.clear();
        if let Some(scratch) = self.scratch.take() {
            scratch.finish();
        }
    }

    fn port(&self, node: u32, kind: usize) -> SocketAddr {
        assert!(self.nodes().contains(&node), "there is no node {node}");
        let mut address = self.ports.address(3 * (node as usize - 1) + kind);
        if let Some(Links::Namespaces(network)) = &self.links {
            address.set_ip(IpAddr::V4(network.address(node)));
        }
        address
    }

    fn config(&self, node: u32) -> String {
        let quoted = |text: String| format!("{text:?}");
        let peers: Vec<String> = self
            .nodes()
            .map(|id| quoted(format!("{id}@{}", self.peer_as_seen_by(node, id))))
            .collect();
        let mut settings = self.spec.settings.clone();
        settings.extend(self.own_settings.get(&node).cloned().unwrap_or_default());
        if let Some(Links::Namespaces(_)) = &self.links {
            for listener in ["tx", "http", "peer"] {
                let allowed = ("listen".to_owned(), format!("{listener}-plaintext"));
                settings.insert(allowed, quoted("this network is trusted".to_owned()));
            }
        }
        for (section, name, value) in [
            ("node", "id", node.to_string()),
            ("node", "data-dir", quoted(self.data_dir(node).display().to_string())),
            ("cluster", "peers", format!("[{}]", peers.join(", "))),
            ("listen", "tx", quoted(self.tx(node).to_string())),
            ("listen", "http", quoted(self.http(node).to_string())),
            ("listen", "peer", quoted(self.peer(node).to_string())),
        ] {
            settings.insert((section.to_owned(), name.to_owned()), value);
        }
        let mut text = String::new();
        let mut in_section = "";
        for ((section, name), value) in &settings {
            if section != in_section {
                text.push_str(&format!("[{section}]\n"));
                in_section = section;
            }
            text.push_str(&format!("{name} = {value}\n"));
        }
        text
    }

    /// Starts one server and returns at once.
    pub fn spawn(&mut self, node: u32) -> Result<()> {
        ensure!(!self.processes.contains_key(&node), "node {node} runs already");
        let config = self.config_path(node).display().to_string();
        let args = ["server", "--stop-with-stdin", "--config", &config];
        let (binary, args) = match &self.links {
            Some(Links::Namespaces(network)) => network.enter(node, &self.spec.binary, &args)?,
            _ => (self.spec.binary.clone(), args.map(str::to_owned).to_vec()),
        };
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let process = Process::spawn(&format!("node {node}"), &binary, &args, &self.log_path(node))?;
        self.processes.insert(node, process);
        Ok(())
    }

    /// Starts every server that does not run and waits until all are ready.
    pub async fn start_all(&mut self) -> Result<()> {
        for node in self.nodes() {
            if !self.processes.contains_key(&node) {
                self.spawn(node)?;
            }
        }
        for node in self.nodes() {
            self.wait_ready(node).await?;
        }
        Ok(())
    }

    /// Waits until a server says that it is ready.
    ///
    /// # Errors
    /// When it ends, or not in time.
    pub async fn wait_ready(&mut self, node: u32) -> Result<()> {
        let address = self.http(node);
        let process = self
            .processes
            .get_mut(&node)
            .with_context(|| format!("node {node} does not run"))?;
        let what = format!("node {node} is ready");
        let ready = until(&what, READY_WITHIN, async || {
            if let Err(ended) = process.check_alive() {
                return Ok(Err(ended));
            }
            let answer = http::get(address, "/readyz").await?;
            ensure!(answer.status == 200, "{}", answer.body.trim());
            Ok::<_, anyhow::Error>(Ok(()))
        });
        ready.await?
    }

    /// Whether it was started and not killed or stopped since.
    pub fn is_running(&self, node: u32) -> bool {
        self.processes.contains_key(&node)
    }

    /// Takes note of a server that has ended by itself, and says how.
    pub fn ended(&mut self, node: u32) -> Result<Option<ExitStatus>> {
        let Some(process) = self.processes.get_mut(&node) else {
            return Ok(None);
        };
        let status = process.try_exit()?;
        if status.is_some() {
            self.processes.remove(&node);
        }
        Ok(status)
    }

    /// `kill -9`.
    pub async fn kill(&mut self, node: u32) -> Result<()> {
        let mut process = self
            .processes
            .remove(&node)
            .with_context(|| format!("node {node} does not run"))?;
        process.kill().await
    }

    /// `kill -9` to all that run, at once.
    pub async fn kill_all(&mut self) -> Result<()> {
        for process in self.processes.values_mut() {
            process.start_kill()?;
        }
        for (_, mut process) in std::mem::take(&mut self.processes) {
            process.kill().await?;
        }
        Ok(())
    }

    /// Asks a server to stop and waits for its end.
    pub async fn stop(&mut self, node: u32) -> Result<ExitStatus> {
        let mut process = self
            .processes
            .remove(&node)
            .with_context(|| format!("node {node} does not run"))?;
        process.terminate()?;
        process.exit(STOP_WITHIN).await
    }

    /// Stops a server from running until [`resume`](Cluster::resume).
    pub async fn pause(&self, node: u32) -> Result<()> {
        self.process(node)?.pause().await
    }

    pub fn resume(&self, node: u32) -> Result<()> {
        self.process(node)?.resume()
    }

    fn process(&self, node: u32) -> Result<&Process> {
        self.processes
            .get(&node)
            .with_context(|| format!("node {node} does not run"))
    }

    /// Removes the data of a server that does not run.
    pub fn wipe(&mut self, node: u32) -> Result<()> {
        ensure!(!self.processes.contains_key(&node), "node {node} runs");
        std::fs::remove_dir_all(self.data_dir(node)).with_context(|| format!("wipe node {node}"))
    }

    pub async fn get(&self, node: u32, path: &str) -> Result<Answer> {
        http::get(self.http(node), path).await
    }

    pub async fn post(&self, node: u32, path: &str, json: &str) -> Result<Answer> {
        http::post(self.http(node), path, json).await
    }

    pub async fn view(&self, node: u32) -> Result<NodeView> {
        self.get(node, "/v1/node").await?.json()
    }

    /// The leader of the transactions, once one of the running servers says that it is and all of them agree.
    pub async fn leader(&self) -> Result<Leader> {
        self.leader_among(self.processes.keys().copied()).await
    }

    /// The same of some servers: what the others believe does not count.
    pub async fn leader_among(&self, nodes: impl IntoIterator<Item = u32>) -> Result<Leader> {
        let nodes: Vec<u32> = nodes.into_iter().collect();
        until("the servers agree on a leader", READY_WITHIN, async || {
            let mut seen = Vec::new();
            let mut leader = None;
            for node in &nodes {
                let view = self.view(*node).await?;
                let group = view.tx_group()?;
                let term = group.term;
                if group.role == "leader" {
                    leader = Some(Leader { node: *node, term });
                }
                let node = group.leader.unwrap_or(0);
                seen.push(Leader { node, term });
            }
            match leader {
                Some(leader) if seen.iter().all(|other| *other == leader) => Ok(leader),
                _ => Err(anyhow!("they see {seen:?}")),
            }
        })
        .await
    }

    fn log_path(&self, node: u32) -> PathBuf {
        self.folder().join(format!("node{node}.log"))
    }

    /// All that the server has written to its log, over all its lives.
    pub fn log(&self, node: u32) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path(node)).unwrap_or_default()).into_owned()
    }

    /// The ends of all logs.
    pub fn log_ends(&self) -> String {
        let nodes = self.nodes();
        nodes
            .map(|node| format!("--- node {node}\n{}\n", last_lines(&self.log_path(node), LOG_LINES)))
            .collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.scratch.is_some() {
            eprintln!("{}", self.log_ends());
        }
    }
}
