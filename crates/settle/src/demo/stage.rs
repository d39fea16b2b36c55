//! The processes of the demo and the directory that everything is in.

use std::{
    ffi::OsString,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use super::account::{journal_path, money_path};
use crate::local::{ChildProcess, LocalCluster};

const NODES: u16 = 3;
pub const SERVICES: [&str; 2] = ["north", "south"];
/// A service's port without the offset, plus this for each one before it.
const SERVICE_PORT: u16 = 9_091;
const SERVICE_PORTS_APART: u16 = 100;
/// Below the local ports of outgoing connections, which could take the port of one that is dead for a moment. The step is
/// larger than the span of the ports of one demo, so that two offsets share none.
const OFFSETS: std::ops::RangeInclusive<u16> = 1_000..=21_500;
const OFFSET_STEP: usize = 2_200;

pub struct AccountService {
    pub name: &'static str,
    pub process: ChildProcess,
    /// The base URL of its HTTP API.
    pub url: String,
}

impl AccountService {
    /// Starts the process and waits until it serves.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.process.start()?;
        let url = format!("{}/ready", self.url);
        self.process.wait_until_ready(&url).await
    }
}

pub struct Stage {
    pub data: PathBuf,
    pub cluster: LocalCluster,
    pub services: [AccountService; 2],
}

impl Stage {
    /// Writes what the processes need below `data`, which must be empty; nothing runs yet. `settings` is TOML for every
    /// server.
    ///
    /// # Errors
    /// When the directory cannot be used, or there are no free ports.
    pub fn prepare(data: &Path, settings: &str) -> anyhow::Result<Stage> {
        std::fs::create_dir_all(data).with_context(|| format!("cannot create the directory {}", data.display()))?;
        let data = data.canonicalize()?;
        if std::fs::read_dir(&data)?.next().is_some() {
            bail!(
                "{} is not empty: the judge would take what is in it for evidence",
                data.display()
            );
        }
        let offset = free_offset()?;
        let cluster = LocalCluster::prepare(NODES, &data, offset, settings)?;
        let transactions = cluster.tx_addresses().join(",");
        let services = std::array::from_fn(|at| {
            let name = SERVICES[at];
            let listen = format!("127.0.0.1:{}", service_port(at, offset));
            let arguments: Vec<OsString> = vec![
                "demo-account".into(),
                "--name".into(),
                name.into(),
                "--data".into(),
                data.clone().into(),
                "--listen".into(),
                listen.clone().into(),
                "--transactions".into(),
                transactions.clone().into(),
            ];
            AccountService {
                name,
                process: ChildProcess::new(
                    format!("Account service {name}"),
                    arguments,
                    data.join(format!("{name}.log")),
                ),
                url: format!("http://{listen}"),
            }
        });
        Ok(Stage {
            data,
            cluster,
            services,
        })
    }

    /// # Errors
    /// When a process does not begin to serve.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.cluster.start().await?;
        for service in &mut self.services {
            service.start().await?;
        }
        Ok(())
    }

    /// Starts what does not run, and waits until it serves.
    ///
    /// # Errors
    /// When something does not.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        for server in &mut self.cluster.servers {
            if !server.process.is_running() {
                server.process.start()?;
                server.wait_until_ready().await?;
            }
        }
        for service in &mut self.services {
            if !service.process.is_running() {
                service.start().await?;
            }
        }
        Ok(())
    }

    /// Stops everything in order, and says what did not stop as it should.
    pub async fn stop(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        for service in &mut self.services {
            said.extend(service.process.stop().await);
        }
        said.extend(self.cluster.stop().await);
        said.retain(|line| !line.ends_with("stopped."));
        said
    }

    pub fn money(&self, side: usize) -> PathBuf {
        money_path(&self.data, SERVICES[side])
    }

    pub fn journal(&self, side: usize) -> PathBuf {
        journal_path(&self.data, SERVICES[side])
    }

    pub fn teller_journal(&self) -> PathBuf {
        journal_path(&self.data, "teller")
    }
}

fn service_port(at: usize, offset: u16) -> u16 {
    SERVICE_PORT + SERVICE_PORTS_APART * at as u16 + offset
}

/// An offset under which all ports are free; another one for each process that looks at the same time, most likely.
fn free_offset() -> anyhow::Result<u16> {
    let offsets: Vec<u16> = OFFSETS.step_by(OFFSET_STEP).collect();
    let first = std::process::id() as usize % offsets.len();
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    for turn in 0..offsets.len() {
        let offset = offsets[(first + turn) % offsets.len()];
        let servers = [7_070, 7_091, 8_091]
            .into_iter()
            .flat_map(|port| (0..NODES).map(move |node| port + 100 * node + offset));
        if servers
            .chain((0..SERVICES.len()).map(|at| service_port(at, offset)))
            .all(is_free)
        {
            return Ok(offset);
        }
    }
    bail!("there are no free ports for a cluster between 8000 and 31000");
}
