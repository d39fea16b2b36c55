//! Servers in network namespaces of their own, on one bridge, so that the links between them can be cut one way.
//!
//! All of it lives in the network namespace of the process that makes it, which has to be one of its own (`unshare --net`),
//! and goes with that.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{Process, until};

/// The bridge's own address is the last of the network.
const NETWORK: [u8; 3] = [10, 77, 0];
const BRIDGE: &str = "bridge0";
/// A hardware address that nobody has: what is sent there is lost without a word.
const NOBODY: &str = "02:00:00:00:ff:ff";

const READY_WITHIN: Duration = Duration::from_secs(10);

/// The namespaces of servers numbered from 1.
pub struct Namespaces {
    holders: Vec<Process>,
}

impl Namespaces {
    /// Makes `nodes` namespaces. `scratch` is for what their processes print.
    ///
    /// # Errors
    /// When this process may not, or is in the machine's own network namespace.
    pub async fn new(nodes: u32, scratch: &Path) -> Result<Namespaces> {
        let interfaces = std::fs::read_to_string("/proc/self/net/dev").context("look at the network interfaces")?;
        let foreign = interfaces
            .lines()
            .skip(2)
            .find(|line| !line.trim_start().starts_with("lo:"));
        if let Some(foreign) = foreign {
            bail!("this is not a network namespace of its own: it has {}", foreign.trim());
        }
        ip(&["link", "set", "lo", "up"])?;
        ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        ip(&["addr", "add", &format!("{}/24", host(254)), "dev", BRIDGE])?;
        ip(&["link", "set", BRIDGE, "up"])?;
        let mut namespaces = Namespaces { holders: Vec::new() };
        for node in 1..=nodes {
            namespaces.add(node, scratch).await?;
        }
        for from in 1..=nodes {
            for to in (1..=nodes).filter(|to| *to != from) {
                namespaces.heal(from, to)?;
            }
        }
        Ok(namespaces)
    }

    async fn add(&mut self, node: u32, scratch: &Path) -> Result<()> {
        // It ends when its standard input does, which is with this process.
        let holder = "ip link set lo up && echo ready && exec cat";
        let log = scratch.join(format!("namespace{node}.log"));
        let mut process = Process::spawn(
            &format!("namespace {node}"),
            Path::new("unshare"),
            &["--net", "sh", "-c", holder],
            &log,
        )?;
        until(&format!("namespace {node} is there"), READY_WITHIN, async || {
            process.check_alive()?;
            ensure!(process.output().contains("ready"), "nothing of it is heard");
            Ok(())
        })
        .await?;
        let pid = process.pid().context("a namespace ended")?.to_string();
        self.holders.push(process);
        let (outer, inner) = (format!("node{node}"), format!("inner{node}"));
        ip(&["link", "add", &outer, "type", "veth", "peer", "name", &inner])?;
        ip(&["link", "set", &inner, "address", &hardware(node)])?;
        ip(&["link", "set", &inner, "netns", &pid])?;
        ip(&["link", "set", &outer, "master", BRIDGE, "up"])?;
        self.ip_in(node, &["link", "set", &inner, "name", "eth0"])?;
        self.ip_in(
            node,
            &["addr", "add", &format!("{}/24", self.address(node)), "dev", "eth0"],
        )?;
        self.ip_in(node, &["link", "set", "eth0", "up"])
    }

    /// Where a server listens.
    pub fn address(&self, node: u32) -> Ipv4Addr {
        host(node as u8)
    }

    /// The command that runs `binary` with `args` in the namespace of a server, as the same process.
    pub fn enter(&self, node: u32, binary: &Path, args: &[&str]) -> Result<(PathBuf, Vec<String>)> {
        let pid = self.pid(node)?;
        let mut all = vec!["--net".to_owned(), "--target".to_owned(), pid, "--".to_owned()];
        all.push(binary.display().to_string());
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        Ok((PathBuf::from("nsenter"), all))
    }

    /// What `from` sends to `to` is lost from now on.
    pub fn cut(&self, from: u32, to: u32) -> Result<()> {
        self.point(from, to, NOBODY)
    }

    /// What `from` sends to `to` arrives again.
    pub fn heal(&self, from: u32, to: u32) -> Result<()> {
        self.point(from, to, &hardware(to))
    }

    fn point(&self, from: u32, to: u32, hardware: &str) -> Result<()> {
        let to = self.address(to).to_string();
        self.ip_in(
            from,
            &[
                "neigh",
                "replace",
                &to,
                "lladdr",
                hardware,
                "dev",
                "eth0",
                "nud",
                "permanent",
            ],
        )
    }

    fn ip_in(&self, node: u32, args: &[&str]) -> Result<()> {
        let pid = self.pid(node)?;
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &pid, "--", "ip"]).args(args);
        run(command)
    }

    fn pid(&self, node: u32) -> Result<String> {
        let holder = self.holders.get(node as usize - 1).context("there is no such node")?;
        Ok(holder.pid().context("a namespace ended")?.to_string())
    }
}

fn host(number: u8) -> Ipv4Addr {
    let [a, b, c] = NETWORK;
    Ipv4Addr::new(a, b, c, number)
}

fn hardware(node: u32) -> String {
    format!("02:00:00:00:00:{node:02x}")
}

fn ip(args: &[&str]) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(args);
    run(command)
}

fn run(mut command: Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
