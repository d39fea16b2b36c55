//! What goes wrong, and when: a seed decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use settle_base::Prng;
use settle_testkit::Cluster;
use tokio::time::{sleep, timeout};

use crate::ledger::BrokenPromise;

/// How long a fault lasts, and how long there is none afterwards, in milliseconds.
const FAULT_MS: std::ops::Range<u64> = 300..4_000;
const REST_MS: std::ops::Range<u64> = 300..2_500;
/// Of 100 rounds, so many have two faults at once; a majority may be gone then.
const TWO_PERCENT: u64 = 30;
/// Of 100 starts, so many are on a disk that loses what was not synced when its server is killed.
const LOSSY_PERCENT: u64 = 75;
/// A server that does not say by then who leads is asleep.
const LOOK_WITHIN: Duration = Duration::from_millis(300);
const DISK: &str = "64m";

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    KillOne,
    KillAll,
    Sleep,
    Isolate,
    CutOneWay,
    CutPair,
    FillDisk,
}

use Fault::{CutOneWay, CutPair, FillDisk, Isolate, KillAll, KillOne, Sleep};

const ANYWHERE: [Fault; 6] = [KillOne, KillAll, Sleep, Isolate, CutOneWay, CutPair];
const AS_ROOT: [Fault; 7] = [KillOne, KillAll, Sleep, Isolate, CutOneWay, CutPair, FillDisk];

impl Fault {
    fn name(self) -> &'static str {
        match self {
            KillOne => "kill -9 of one server",
            KillAll => "kill -9 of all servers at once",
            Sleep => "a server asleep (SIGSTOP)",
            Isolate => "a server cut off from all others, not from its clients",
            CutOneWay => "a link cut one way",
            CutPair => "a link cut both ways",
            FillDisk => "a full disk",
        }
    }
}

const LEADER: &str = "of these, faults of the leader";
const UNSYNCED: &str = "kills on a disk that then lost what was not synced";
const STOPPED: &str = "servers that stopped because their disk was full";
const TWO: &str = "rounds with two faults at once";

/// A fault that lasts.
enum Active {
    Dead(Vec<u32>),
    Asleep(u32),
    Cut(Vec<(u32, u32)>),
    Full(u32),
}

pub struct Nemesis<'a> {
    cluster: &'a mut Cluster,
    prng: Prng,
    kinds: &'static [Fault],
    /// What the schedule still has to come to before it comes to everything again.
    bag: Vec<Fault>,
    lossy: BTreeSet<u32>,
    /// What a disk is that loses something.
    lossy_disk: String,
    full: BTreeSet<u32>,
    counts: BTreeMap<&'static str, u64>,
}

impl Nemesis<'_> {
    pub fn new<'a>(cluster: &'a mut Cluster, seed: u64, is_root: bool, lossy_disk: &str) -> Nemesis<'a> {
        let kinds: &[Fault] = if is_root { &AS_ROOT } else { &ANYWHERE };
        let names = kinds.iter().map(|kind| kind.name()).chain([LEADER, UNSYNCED, TWO]);
        Nemesis {
            cluster,
            prng: Prng::from_parts(&[seed, 7]),
            kinds,
            bag: Vec::new(),
            lossy: BTreeSet::new(),
            lossy_disk: format!("{lossy_disk:?}"),
            full: BTreeSet::new(),
            counts: names.map(|name| (name, 0)).collect(),
        }
    }

    /// A rest, and then one fault or two that overlap.
    pub async fn one_round(&mut self) -> Result<()> {
        self.pass(REST_MS).await?;
        let mut active = vec![self.begin().await?];
        if self.prng.percent(TWO_PERCENT) {
            self.pass(FAULT_MS).await?;
            self.count(TWO);
            active.push(self.begin().await?);
        }
        self.pass(FAULT_MS).await?;
        for fault in active.into_iter().flatten() {
            self.end(fault)?;
        }
        Ok(())
    }

    /// Nothing is broken any more; how often what was.
    pub async fn heal_all(mut self) -> Result<Vec<(&'static str, u64)>> {
        self.look_at_all()?;
        for node in self.cluster.nodes() {
            if !self.cluster.is_running(node) {
                self.start(node)?;
            }
        }
        Ok(self.counts.into_iter().collect())
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    async fn pass(&mut self, milliseconds: std::ops::Range<u64>) -> Result<()> {
        let time = self.prng.between(milliseconds.start, milliseconds.end);
        sleep(Duration::from_millis(time)).await;
        self.look_at_all()
    }

    /// Nobody ends by itself, unless its disk is full.
    fn look_at_all(&mut self) -> Result<()> {
        for node in self.cluster.nodes() {
            let Some(status) = self.cluster.ended(node)? else {
                continue;
            };
            if !self.full.contains(&node) {
                let log = self.cluster.log(node);
                let last: Vec<&str> = log.lines().rev().take(15).collect();
                let last: String = last.into_iter().rev().map(|line| format!("{line}\n")).collect();
                return Err(BrokenPromise(format!("node {node} ended by itself ({status}):\n{last}")).into());
            }
            self.count(STOPPED);
        }
        Ok(())
    }

    /// Each kind as often as the others, in any order. `None`: there is nobody left to whom it could happen.
    async fn begin(&mut self) -> Result<Option<Active>> {
        if self.bag.is_empty() {
            self.bag.extend(self.kinds);
        }
        let fault = self.bag.swap_remove(self.prng.below(self.bag.len() as u64) as usize);
        let running: Vec<u32> = self
            .cluster
            .nodes()
            .filter(|node| self.cluster.is_running(*node))
            .collect();
        let leader = self.leader().await;
        let victim = match leader {
            Some(leader) if self.prng.percent(50) => leader,
            _ if running.is_empty() => return Ok(None),
            _ => running[self.prng.below(running.len() as u64) as usize],
        };
        if !running.contains(&victim) || (fault == FillDisk && self.full.contains(&victim)) {
            return Ok(None);
        }
        println!("{} (node {victim}, leader {leader:?})", fault.name());
        self.count(fault.name());
        if leader == Some(victim) && fault != KillAll {
            self.count(LEADER);
        }
        let others: Vec<u32> = self.cluster.nodes().filter(|node| *node != victim).collect();
        let other = others[self.prng.below(others.len() as u64) as usize];
        Ok(Some(match fault {
            KillOne => {
                self.note_kill(victim);
                self.cluster.kill(victim).await?;
                Active::Dead(vec![victim])
            }
            KillAll => {
                running.iter().for_each(|node| self.note_kill(*node));
                self.cluster.kill_all().await?;
                Active::Dead(running)
            }
            Sleep => {
                self.cluster.pause(victim).await?;
                Active::Asleep(victim)
            }
            Isolate => self.cut(
                others
                    .iter()
                    .flat_map(|other| [(victim, *other), (*other, victim)])
                    .collect(),
            )?,
            CutOneWay => self.cut(vec![(victim, other)])?,
            CutPair => self.cut(vec![(victim, other), (other, victim)])?,
            FillDisk => {
                self.full.insert(victim);
                fill(&ballast(self.cluster, victim))?;
                Active::Full(victim)
            }
        }))
    }

    fn end(&mut self, fault: Active) -> Result<()> {
        match fault {
            Active::Dead(nodes) => {
                for node in nodes {
                    self.start(node)?;
                }
            }
            // It may have been killed in its sleep.
            Active::Asleep(node) if self.cluster.is_running(node) => self.cluster.resume(node)?,
            Active::Asleep(_) => {}
            Active::Cut(links) => {
                for (from, to) in links {
                    self.cluster.cut(from, to, false)?;
                }
            }
            Active::Full(node) => {
                std::fs::remove_file(ballast(self.cluster, node)).context("empty the disk")?;
                self.look_at_all()?;
                self.full.remove(&node);
                self.start(node)?;
            }
        }
        Ok(())
    }

    /// Unless it runs. On which disk, the seed decides.
    fn start(&mut self, node: u32) -> Result<()> {
        if self.cluster.is_running(node) {
            return Ok(());
        }
        let is_lossy = self.prng.percent(LOSSY_PERCENT);
        match is_lossy {
            true => self.lossy.insert(node),
            false => self.lossy.remove(&node),
        };
        let disk = if is_lossy { &self.lossy_disk } else { "\"real\"" };
        self.cluster.set_at(node, "test.disk", disk)?;
        self.cluster.spawn(node)
    }

    fn note_kill(&mut self, node: u32) {
        if self.lossy.contains(&node) {
            self.count(UNSYNCED);
        }
    }

    fn cut(&self, links: Vec<(u32, u32)>) -> Result<Active> {
        for (from, to) in &links {
            self.cluster.cut(*from, *to, true)?;
        }
        Ok(Active::Cut(links))
    }

    /// Who leads the transactions, as somebody who answers sees it.
    async fn leader(&self) -> Option<u32> {
        for node in self.cluster.nodes() {
            if let Ok(Ok(view)) = timeout(LOOK_WITHIN, self.cluster.view(node)).await
                && let Ok(group) = view.tx_group()
                && group.leader.is_some()
            {
                return group.leader;
            }
        }
        None
    }
}

/// Gives each server a disk of its own that a test can fill.
pub fn mount_small_disks(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let folder = cluster.data_dir(node);
        std::fs::create_dir_all(&folder)?;
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={DISK}"))
            .arg("settle-crash")
            .arg(&folder))?;
    }
    Ok(())
}

/// Copies what is on the disks, which go with this process.
pub fn keep_small_disks(cluster: &Cluster, kept: &Path) -> Result<()> {
    cluster.nodes().try_for_each(|node| {
        run(Command::new("cp")
            .args(["--recursive", "--sparse=always"])
            .arg(cluster.data_dir(node))
            .arg(kept))
    })
}

pub fn unmount_small_disks(cluster: &Cluster) -> Result<()> {
    cluster
        .nodes()
        .try_for_each(|node| run(Command::new("umount").arg("--lazy").arg(cluster.data_dir(node))))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

fn ballast(cluster: &Cluster, node: u32) -> PathBuf {
    cluster.data_dir(node).join("ballast")
}

/// Writes until there is no room.
fn fill(path: &PathBuf) -> Result<()> {
    let mut file = std::fs::File::create(path).with_context(|| format!("create {}", path.display()))?;
    let block = vec![0; 4096];
    loop {
        match file.write_all(&block) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error).context("fill the disk"),
        }
    }
}
