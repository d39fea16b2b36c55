//! The processes of the demo and the directory that everything is in.

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use super::bank::Bank;
use crate::local::LocalCluster;

const NODES: u16 = 3;
/// Below the local ports of outgoing connections, which could take the port of one that is dead for a moment. The step is
/// larger than the span of the ports of one demo, so that two offsets share none.
const OFFSETS: std::ops::RangeInclusive<u16> = 1_000..=21_500;
const OFFSET_STEP: usize = 2_200;

pub struct Stage {
    pub data: PathBuf,
    pub cluster: LocalCluster,
    pub bank: Bank,
}

impl Stage {
    /// Writes what the processes need below `data`, which must be empty; nothing runs yet. `settings` is TOML for every
    /// server.
    ///
    /// # Errors
    /// When the directory cannot be used, or there are no free ports.
    pub fn prepare(data: &Path, settings: &str) -> anyhow::Result<Stage> {
        let data = empty_directory(data)?;
        let servers = [7_070, 7_091, 8_091]
            .into_iter()
            .flat_map(|port| (0..NODES).map(move |node| port + 100 * node));
        let offset = free_offset(servers)?;
        let cluster = LocalCluster::prepare(NODES, &data, offset, settings)?;
        let bank = Bank::prepare(&data, &cluster.tx_addresses(), offset);
        Ok(Stage { data, cluster, bank })
    }

    /// # Errors
    /// When a process does not begin to serve.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.cluster.start().await?;
        self.bank.start().await
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
        self.bank.start().await
    }

    /// Stops everything in order, and says what did not stop as it should.
    pub async fn stop(&mut self) -> Vec<String> {
        let mut said = self.bank.stop().await;
        said.extend(self.cluster.stop().await);
        said.retain(|line| !line.ends_with("stopped."));
        said
    }
}

/// The path of `data`, which is made when it is not there.
///
/// # Errors
/// When there is something in it.
pub fn empty_directory(data: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(data).with_context(|| format!("cannot create the directory {}", data.display()))?;
    let data = data.canonicalize()?;
    if std::fs::read_dir(&data)?.next().is_some() {
        bail!(
            "{} is not empty: the judge would take what is in it for evidence",
            data.display()
        );
    }
    Ok(data)
}

/// An offset under which the services' ports and these are free; another one for each process that looks at the same
/// time, most likely.
pub fn free_offset(ports: impl Iterator<Item = u16> + Clone) -> anyhow::Result<u16> {
    let offsets: Vec<u16> = OFFSETS.step_by(OFFSET_STEP).collect();
    let first = std::process::id() as usize % offsets.len();
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    for turn in 0..offsets.len() {
        let offset = offsets[(first + turn) % offsets.len()];
        let ports = ports.clone().map(|port| port + offset);
        if ports.chain(Bank::ports(offset)).all(is_free) {
            return Ok(offset);
        }
    }
    bail!("there are no free ports between 8000 and 31000");
}
