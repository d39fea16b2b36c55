//! How the nodes of a world die and come back.

use settle_base::{Mono, PeerId};
use settle_host::{Host, HostConfig, HostError, OpenError};
use settle_raft::Status;
use settle_storage::{Act, DiskErrorKind, Latency, MemDisk};
use settle_wal::WalError;

use crate::{
    invariants::{Broken, Checked},
    workload::Workload,
    world::{Happening, TICK_US, World, with_source},
};

impl<W: Workload> World<W> {
    /// The host said that it must stop.
    pub(crate) fn died(&mut self, node: usize, error: HostError) -> Checked {
        let is_of_disk = matches!(
            error,
            HostError::Log {
                source: WalError::Failed { .. } | WalError::Open { .. }
            } | HostError::Disk { .. }
        );
        // A node that joins a cluster stops on a full disk, and tries again when it is started.
        let is_full = matches!(&error, HostError::Disk { source } if source.kind == DiskErrorKind::NoSpace);
        if !(is_of_disk && self.nodes[node].is_disk_faulty || is_full) {
            let invariant = match &error {
                HostError::SentBeforeDurable { .. } | HostError::AppliedBeforeDurable { .. } => "durability contract",
                _ => "a node stops only for its disk",
            };
            let what = format!("node {} stops: {}", self.nodes[node].id, with_source(&error));
            return Err(Broken::new(invariant, what));
        }
        self.tell(format_args!("node {} stops: {error}", self.id(node)));
        let mut power = true;
        match error {
            HostError::Log {
                source: WalError::Failed { source },
            } if source.act == Act::Sync => {
                self.coverage.syncs_failed += 1;
                // What the disk does not have is still in the system's cache, for the next process to read.
                power = self.prng.percent(50);
            }
            _ => self.coverage.devices_lost += 1,
        }
        self.crash(node, power, None);
        Ok(())
    }

    /// `power`: the system goes, and with it what was not synced; else only the process.
    pub(crate) fn crash(&mut self, node: usize, power: bool, down_for: Option<u64>) {
        let n = &mut self.nodes[node];
        n.disk.advance(Mono(self.now_us));
        let was_running = n.host.is_some();
        if was_running {
            self.count_host(node);
        }
        let n = &mut self.nodes[node];
        n.host = None;
        n.boot += 1;
        n.inbox.clear();
        n.is_turn_due = false;
        n.disk_wake = None;
        n.paused_until = 0;
        n.is_disk_faulty = false;
        if power {
            self.coverage.crashes += 1;
            self.cut_power(node);
        } else {
            self.coverage.kills += 1;
            self.nodes[node].disk.kill();
        }
        let how = if power { "crashes" } else { "is killed" };
        self.tell(format_args!("node {} {how}", self.id(node)));
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.break_connection(node, other);
        }
        if was_running {
            let result = self.with_workload(|workload, io| {
                workload.node_down(node, io);
                Ok(())
            });
            result.expect("losing a connection is no violation");
        }
        let after = down_for.unwrap_or_else(|| self.prng.between(20_000, 4_000_000));
        let boot = self.nodes[node].boot;
        self.schedule(after, Happening::Start { node, boot });
    }

    /// Loses unsynced writes, but within the fault model: any number of voters may be left in doubt by torn tails, since
    /// all of them together elect a leader; while one is gone for good, fewer than a quorum of the rest may.
    pub(crate) fn cut_power(&mut self, node: usize) {
        let others = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(i, n)| *i != node && n.is_impaired)
            .count();
        let is_one_gone = self
            .nodes
            .iter()
            .any(|n| n.is_impaired && (!n.is_voter || n.is_damaged));
        let may_be_impaired = self.nodes[node].is_impaired || !is_one_gone || others < (self.nodes.len() - 1) / 2;
        for _ in 0..8 {
            let disk = self.nodes[node].disk.fork();
            let report = disk.crash(&mut self.prng);
            let impaired = self.starts_impaired(node, &disk);
            if impaired && !may_be_impaired {
                continue;
            }
            let n = &mut self.nodes[node];
            n.disk = disk;
            n.is_impaired |= impaired;
            self.coverage.writes_lost += report.writes_lost;
            self.coverage.writes_torn += report.writes_torn;
            return;
        }
        self.nodes[node].disk.kill();
    }

    /// Whether a start from a copy of `disk` would have to recover.
    pub(crate) fn starts_impaired(&mut self, node: usize, disk: &MemDisk) -> bool {
        let host = self.open_copy(node, disk);
        host.is_ok_and(|host| !host.recovering_groups().is_empty())
    }

    /// Whether not one batch of its log reads. The node refuses such a directory by name; an operator has to replace it.
    pub(crate) fn is_unreadable(&mut self, node: usize, disk: &MemDisk) -> bool {
        let opened = self.open_copy(node, disk);
        matches!(opened, Err(OpenError::Log { source: WalError::Corrupt { groups, .. } }) if groups.is_empty())
    }

    /// Whether some group would come back from `disk` with less than from `whole`, and would not know it.
    pub(crate) fn hides_a_loss(&mut self, node: usize, whole: &MemDisk, disk: &MemDisk) -> bool {
        let (Ok(whole), Ok(host)) = (self.open_copy(node, whole), self.open_copy(node, disk)) else {
            return false;
        };
        let groups = whole.group_statuses(None, usize::MAX, Mono::ZERO);
        groups.into_iter().any(|was| {
            let Some(raft) = host.raft(was.group) else { return true };
            let is = raft.status();
            let promises = |s: &Status| (s.term, s.vote, s.last_index);
            !is.recovering && promises(&is) != promises(&was.raft)
        })
    }

    /// Whether a group that was destroyed would be there again: damage took its tombstone.
    pub(crate) fn brings_back(&mut self, node: usize, disk: &MemDisk) -> bool {
        let destroyed = self.nodes[node].destroyed.clone();
        let host = self.open_copy(node, disk);
        host.is_ok_and(|host| destroyed.iter().any(|group| host.raft(*group).is_some()))
    }

    fn open_copy(&mut self, node: usize, disk: &MemDisk) -> Result<Host<W::Service, MemDisk>, OpenError> {
        let copy = disk.fork();
        copy.set_latency(Latency::NONE);
        copy.set_capacity(None);
        let workload = self.workload.as_mut().expect("it is lent only during a call");
        let service = workload.service(self.nodes[node].id, 0);
        let machine = workload.make_machine(self.nodes[node].build);
        let config = self.config_of(node, 0);
        Host::open(config, copy, service, machine, PeerId(1), Mono::ZERO)
    }

    pub(crate) fn config_of(&self, node: usize, seed: u64) -> HostConfig {
        HostConfig {
            node: self.nodes[node].id,
            seed,
            build_version: self.nodes[node].build,
            witness: self.nodes[node].is_witness,
            ..self.config.clone()
        }
    }

    pub(crate) fn start(&mut self, node: usize) -> Checked {
        let (seed, run, fresh) = (
            self.prng.next_u64(),
            self.prng.next_u64() >> 16,
            PeerId(self.prng.next_u64() | 1),
        );
        let workload = self.workload.as_mut().expect("it is lent only during a call");
        let service = workload.service(self.nodes[node].id, run);
        let machine = workload.make_machine(self.nodes[node].build);
        let disk = self.nodes[node].disk.clone();
        disk.advance(Mono(self.now_us));
        let is_dying = !self.are_faults_off && self.prng.percent(4) && !self.cut.starts_well;
        if is_dying {
            disk.die_after(self.prng.below(40));
            self.nodes[node].is_disk_faulty = true;
        }
        let now = self.local(&self.nodes[node]);
        let opened = Host::open(self.config_of(node, seed), disk, service, machine, fresh, now);
        let host = match opened {
            Ok(host) => host,
            Err(
                OpenError::Disk { .. }
                | OpenError::Log {
                    source: WalError::Open { .. } | WalError::Failed { .. },
                },
            ) if self.nodes[node].is_disk_faulty => {
                self.coverage.devices_lost += 1;
                self.crash(node, true, None);
                return Ok(());
            }
            // A full disk keeps a node from starting; it is tried again.
            Err(OpenError::Disk { source }) if source.kind == DiskErrorKind::NoSpace => {
                let boot = self.nodes[node].boot;
                self.schedule(500_000, Happening::Start { node, boot });
                return Ok(());
            }
            Err(OpenError::Log {
                source: WalError::Open { source },
            }) if source.kind == DiskErrorKind::NoSpace => {
                let boot = self.nodes[node].boot;
                self.schedule(500_000, Happening::Start { node, boot });
                return Ok(());
            }
            Err(error) => {
                let what = format!("node {} cannot start: {}", self.nodes[node].id, with_source(&error));
                return Err(Broken::new("a node starts from what it wrote", what));
            }
        };
        self.coverage.restarts += 1;
        let (id, generation) = (self.nodes[node].id, self.nodes[node].generation);
        self.invariants.is_named(host.identity().incarnation, id, generation)?;
        self.script.name(host.identity().incarnation, id, generation);
        // One that was created, durably, in the moment of the crash: nobody has heard of it.
        for group in host.status(now).groups {
            if !self.groups.contains(&group.group) {
                self.groups.push(group.group);
            }
            self.invariants.may_vote(group.group, &[]);
        }
        for &group in &self.groups {
            let Some(raft) = host.raft(group) else { continue };
            if !self.config.groups.contains(&group) {
                self.invariants.may_vote(group, &raft.conf().voters);
            }
            if raft.is_recovering() && self.nodes[node].is_damaged {
                self.invariants.forgives(group, raft.id());
            }
            self.invariants.restarted(group, raft)?;
            self.coverage.starts_from_snapshot += u64::from(raft.applied() > 1);
            self.coverage.recovering_starts += u64::from(raft.is_recovering());
            self.nodes[node].was_hurt |= self.nodes[node].is_impaired;
            let may_be_hidden = self.nodes[node].was_hurt && !self.config.groups.contains(&group);
            if raft.is_recovering() && !self.nodes[node].is_impaired && !may_be_hidden {
                let what = format!("node {id} recovers group {group} although nothing was damaged");
                return Err(Broken::new("a whole log needs no recovery", what));
            }
        }
        let n = &mut self.nodes[node];
        n.seen.clear();
        n.host = Some(host);
        let boot = n.boot;
        self.tell(format_args!("node {id} starts"));
        let first_tick = self.prng.below(TICK_US);
        self.schedule(first_tick, Happening::Tick { node, boot });
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.try_connect(node, other);
        }
        Ok(())
    }

    pub(crate) fn count_host(&mut self, node: usize) {
        let Some(host) = &self.nodes[node].host else { return };
        let c = host.counters();
        let coverage = &mut self.coverage;
        coverage.joint_changes += c.joint_entered;
        coverage.handed_over += c.handed_over;
        coverage.groups_created += c.groups_created;
        coverage.groups_destroyed += c.groups_destroyed;
        coverage.applies_paused += c.applies_paused;
        coverage.entries_handed += c.handed_entries;
        coverage.states_taken += c.states_taken;
        coverage.disks_full += c.disk_full;
        coverage.snapshots_taken += c.snapshots_taken;
        coverage.snapshots_sent += c.snapshots_sent;
        coverage.snapshots_resumed += c.snapshots_resumed;
        coverage.snapshots_installed += c.snapshots_installed;
        coverage.hash_marks += c.hash_marks;
        coverage.hash_verdicts += c.hash_verdicts;
        coverage.witness_cuts += c.witness_cuts;
        coverage.proposals += c.proposals;
        coverage.proposals_forwarded += c.proposals_forwarded;
        coverage.proposals_dropped += c.dropped_no_leader + c.dropped_not_leader + c.dropped_disk_full;
        coverage.reads += c.reads_answered;
        coverage.reads_dropped += c.reads_dropped;
        if let Some(workload) = &mut self.workload {
            workload.count_service(host.service());
        }
    }
}
