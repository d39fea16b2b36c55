//! The servers under test.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::bank::{ACCESS_KEY, SECRET_KEY};
use super::cases::Place;
use super::process::{Leashed, free_ports};
use super::virtual_address::VirtualAddress;
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
    /// The node to which clients send requests for `xid`; none when it names no listed address.
    fn node_of(&self, xid: &str) -> Option<usize>;
    /// Waits until the transaction is open no more; fails at `deadline`.
    fn until_ended(&self, xid: &str, deadline: Instant) -> Result<()>;
    /// Behind a virtual address: the node that the next connections go to.
    fn prefer(&mut self, _node: usize) {}
    /// How many nodes there are to be killed.
    fn nodes(&self) -> usize;
    /// Where a client's transaction can be when the leader is killed; empty when no kill makes sense.
    fn places(&self) -> &'static [Place];
}

/// How clients find the nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Addressing {
    /// A list of all, and xids name the node that they were begun through.
    List,
    /// A list of all, and xids carry an address that is not in it (`tx.advertise`), so that clients spread their requests.
    Unlisted,
    /// One address that stands for all, which xids carry too.
    Virtual,
}

/// Three `settle server` processes.
pub struct Settle {
    binary: PathBuf,
    dir: PathBuf,
    nodes: Vec<SettleNode>,
    /// The address that xids carry, when it is not the one on which the node listens.
    advertise: Option<String>,
    /// All that clients list.
    virtual_address: Option<VirtualAddress>,
    /// Clients have to say who they are.
    is_signed: bool,
}

/// An address for xids that no client has in its list: one that stands for the cluster, like a virtual one.
const UNLISTED: &str = "127.0.0.254:8091";

struct SettleNode {
    tx: u16,
    http: u16,
    peer: u16,
    process: Option<Leashed>,
}

/// The group that carries the transactions of `default_tx_group`.
const TRANSACTION_GROUP: u64 = 1;

impl Settle {
    /// Starts three nodes with their data under `dir` and waits until they are ready. With `is_signed` nobody but the bank is
    /// let in.
    pub fn start(binary: &Path, dir: &Path, addressing: Addressing, is_signed: bool) -> Result<Self> {
        ensure!(binary.is_file(), "no settle binary at {}", binary.display());
        let ports = free_ports(9)?;
        let nodes: Vec<SettleNode> = ports
            .chunks(3)
            .map(|chunk| SettleNode {
                tx: chunk[0],
                http: chunk[1],
                peer: chunk[2],
                process: None,
            })
            .collect();
        let virtual_address = match addressing {
            Addressing::Virtual => {
                let nodes = nodes.iter().map(|node| (Ipv4Addr::LOCALHOST, node.tx).into());
                Some(VirtualAddress::open(nodes.collect())?)
            }
            Addressing::List | Addressing::Unlisted => None,
        };
        let mut cluster = Self {
            binary: binary.to_owned(),
            dir: dir.join("settle"),
            nodes,
            advertise: match addressing {
                Addressing::List => None,
                Addressing::Unlisted => Some(UNLISTED.to_owned()),
                Addressing::Virtual => virtual_address.as_ref().map(|all| all.address().to_string()),
            },
            virtual_address,
            is_signed,
        };
        std::fs::create_dir_all(&cluster.dir)?;
        if is_signed {
            std::fs::write(cluster.policy(), policy())?;
        }
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
        let advertise = self
            .advertise
            .as_ref()
            .map_or_else(String::new, |address| format!("\n[tx]\nadvertise = {address:?}\n"));
        let auth = match self.is_signed {
            // Java's resource managers do not sign.
            true => format!(
                "\n[auth]\nclients = \"required\"\npolicy = {:?}\n\
                 unsigned-resource-managers = \"beside-a-transaction-manager\"\n",
                self.policy().display().to_string()
            ),
            false => String::new(),
        };
        format!(
            "[node]\nid = {}\ndata-dir = {:?}\n\n[cluster]\npeers = [{}]\n\n\
             [listen]\ntx = \"127.0.0.1:{}\"\nhttp = \"127.0.0.1:{}\"\npeer = \"127.0.0.1:{}\"\n{advertise}{auth}",
            index + 1,
            self.dir.join(format!("node{}", index + 1)).display().to_string(),
            peers.join(", "),
            node.tx,
            node.http,
            node.peer
        )
    }

    fn policy(&self) -> PathBuf {
        self.dir.join("policy.toml")
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

/// Who is let in: the bank and the one in Rust, to their databases and actions.
fn policy() -> String {
    let banks = ["settle-bank", "teller"];
    let applications = banks.map(|id| {
        format!("[[application]]\nid = \"{id}\"\nservice-groups = [\"default_tx_group\"]\nresources = [\"*\"]\n")
    });
    let key = format!("[[key]]\naccess = \"{ACCESS_KEY}\"\nsecret = \"{SECRET_KEY}\"\napplications = {banks:?}\n");
    applications.concat() + &key
}

impl Cluster for Settle {
    fn name(&self) -> String {
        match self.is_signed {
            true => "settle × 3, clients sign".to_owned(),
            false => "settle × 3".to_owned(),
        }
    }

    fn addresses(&self) -> Vec<String> {
        match &self.virtual_address {
            Some(all) => vec![all.address().to_string()],
            None => self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.tx)).collect(),
        }
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

    fn node_of(&self, xid: &str) -> Option<usize> {
        if let Some(all) = &self.virtual_address {
            return Some(all.preferred());
        }
        let (address, _) = xid.rsplit_once(':')?;
        self.addresses().iter().position(|known| known == address)
    }

    fn until_ended(&self, xid: &str, deadline: Instant) -> Result<()> {
        let alive = self
            .nodes
            .iter()
            .find(|node| node.process.is_some())
            .context("a node is alive")?;
        let limit = deadline.saturating_duration_since(Instant::now());
        wait::until("the transaction has ended", limit, || {
            Ok(match http_get(alive.http, &format!("/v1/tx/{xid}")) {
                Ok(body) => match serde_json::from_str::<Value>(&body) {
                    Ok(view) if view["ended"] == true => Ok(()),
                    Ok(_) => Err(format!("it is open: {body}")),
                    Err(error) => Err(error.to_string()),
                },
                Err(error) => Err(format!("{error:#}")),
            })
        })
    }

    fn prefer(&mut self, node: usize) {
        if let Some(all) = &self.virtual_address {
            all.prefer(node);
        }
    }

    fn nodes(&self) -> usize {
        self.nodes.len()
    }

    fn places(&self) -> &'static [Place] {
        if self.advertise.is_some() && self.virtual_address.is_none() {
            &[Place::Spread]
        } else {
            &[Place::Survivor, Place::Killed]
        }
    }
}

/// One original seata-server in file mode. It has no one to take over from it: when kills are asked for, the killed server
/// is started again at once over its own store.
pub struct Original {
    version: String,
    class_path: String,
    dir: PathBuf,
    tx: u16,
    http: u16,
    with_kills: bool,
    process: Option<Leashed>,
}

impl Original {
    /// Starts the server from `class_path` with its store under `dir` and waits until it listens.
    pub fn start(class_path: String, version: &str, dir: &Path, with_kills: bool) -> Result<Self> {
        let ports = free_ports(2)?;
        let dir = dir.join("original");
        std::fs::create_dir_all(&dir)?;
        let (tx, http) = (ports[0], ports[1]);
        let mut server = Self {
            version: version.to_owned(),
            class_path,
            dir,
            tx,
            http,
            with_kills,
            process: None,
        };
        server.spawn()?;
        server.heal()?;
        Ok(server)
    }

    fn spawn(&mut self) -> Result<()> {
        let dir = self.dir.display();
        let args = [
            "-Xmx512m".to_owned(),
            format!("-Duser.home={dir}"),
            format!("-Dlog.home={dir}/log"),
            format!("-Dserver.port={}", self.http),
            format!("-Dseata.server.service-port={}", self.tx),
            "-Dseata.store.mode=file".to_owned(),
            format!("-Dseata.store.file.dir={dir}/store"),
            "-cp".to_owned(),
            self.class_path.clone(),
            "io.seata.server.ServerApplication".to_owned(),
            "-p".to_owned(),
            self.tx.to_string(),
            "-m".to_owned(),
            "file".to_owned(),
        ];
        let log = self.dir.join("server.log");
        self.process = Some(Leashed::spawn(
            "seata-server",
            Path::new("java"),
            &args,
            &self.dir,
            log,
        )?);
        Ok(())
    }
}

impl Cluster for Original {
    fn name(&self) -> String {
        format!("seata-server {} × 1", self.version)
    }

    fn addresses(&self) -> Vec<String> {
        vec![format!("127.0.0.1:{}", self.tx)]
    }

    fn leader(&mut self) -> Result<usize> {
        Ok(0)
    }

    fn kill(&mut self, _node: usize) -> Result<()> {
        self.process.take().context("the server is alive")?.kill()?;
        self.spawn()
    }

    fn heal(&mut self) -> Result<()> {
        let process = self.process.as_mut().context("the server was started")?;
        wait::until("seata-server listens", Duration::from_secs(90), || {
            process.check_alive()?;
            Ok(TcpStream::connect(("127.0.0.1", self.tx))
                .map(drop)
                .map_err(|error| error.to_string()))
        })
    }

    fn nodes(&self) -> usize {
        1
    }

    /// Its xids carry the machine's outer address, which no client lists; there is one node all the same.
    fn node_of(&self, _xid: &str) -> Option<usize> {
        Some(0)
    }

    /// Its databases tell; it has no API that does.
    fn until_ended(&self, _xid: &str, _deadline: Instant) -> Result<()> {
        Ok(())
    }

    fn places(&self) -> &'static [Place] {
        if self.with_kills { &[Place::Killed] } else { &[] }
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
