//! What goes wrong, and when.

use settle_base::{GroupId, Prng};
use settle_host::{HostEvent, OperatorRequest};
use settle_machine::Service;
use settle_raft::Role;
use settle_storage::Latency;

use crate::{
    workload::Workload,
    world::{Happening, World},
};

pub(crate) const GROUP: GroupId = GroupId(1);

/// What ends by itself later.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spell {
    Partition,
    SlowDisk(usize),
    FullDisk(usize),
}

pub(crate) fn disk_of_a_good_day(prng: &mut Prng) -> Latency {
    let base = [50, 300, 2_000][prng.below(3) as usize];
    Latency {
        write_us: base / 4..base,
        sync_us: base..base * 4,
        other_us: base..base * 2,
        stalls_per_million: [0, 200, 2_000][prng.below(3) as usize],
        stall_us: 20_000..400_000,
    }
}

impl<W: Workload> World<W>
where
    W::Service: Service,
{
    /// One act, and when the next comes.
    pub(crate) fn nemesis(&mut self) -> Result<(), String> {
        let node = self.prng.below(self.nodes.len() as u64) as usize;
        match self.prng.below(100) {
            0..18 => self.crash(node, true, None),
            18..21 => self.crash(node, false, None),
            21..23 => self.crash_leader(),
            23..25 => self.crash_all(),
            25..26 => self.crash_leader(),
            26..34 => self.pause(node),
            34..44 => self.partition(),
            44..52 => self.block_one_way(),
            52..56 => self.isolate_leader(),
            56..62 => self.break_some_connection(node),
            62..69 => self.slow_disk(node),
            69..74 => self.fill_disk(node),
            74..77 => self.fail_sync(node),
            77..79 => self.lose_device(node),
            79..86 => self.wipe(node),
            86..93 => self.ask_for_transfer(node),
            93..100 => self.ask_for_snapshot(node),
            _ => unreachable!("below 100"),
        }
        let pause = self.prng.between(50_000, self.pause_us_max);
        self.schedule(pause, Happening::Nemesis);
        Ok(())
    }

    fn crash_all(&mut self) {
        self.coverage.crashes_all += 1;
        for node in 0..self.nodes.len() {
            let down_for = self.prng.between(50_000, 500_000);
            self.crash(node, true, Some(down_for));
        }
    }

    /// And it is back before the others have got over it.
    fn crash_leader(&mut self) {
        if let Some(leader) = self.leader() {
            let down_for = self.prng.between(5_000, 300_000);
            self.crash(leader, true, Some(down_for));
        }
    }

    fn pause(&mut self, node: usize) {
        self.coverage.pauses += 1;
        let until = self.now_us + self.prng.between(50_000, 3_000_000);
        let paused = &mut self.nodes[node].paused_until;
        *paused = until.max(*paused);
    }

    /// Cuts the nodes in two.
    fn partition(&mut self) {
        if self.nodes.len() < 2 {
            return;
        }
        self.coverage.partitions += 1;
        let sides: Vec<bool> = (0..self.nodes.len()).map(|_| self.prng.percent(50)).collect();
        for a in 0..sides.len() {
            for b in 0..sides.len() {
                if a != b && sides[a] != sides[b] {
                    self.block(a, b);
                }
            }
        }
        self.end_later(Spell::Partition, 300_000, 5_000_000);
    }

    /// Takes a leader away for a short while.
    pub(crate) fn strike(&mut self, leader: usize) {
        if self.prng.percent(60) {
            // Mostly longer than the others need to elect another.
            let most = [300_000, 4_000_000, 4_000_000][self.prng.below(3) as usize];
            let down_for = self.prng.between(20_000, most);
            return self.crash(leader, true, Some(down_for));
        }
        self.isolate(leader);
        self.end_later(Spell::Partition, 200_000, 3_000_000);
    }

    fn isolate(&mut self, node: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            self.block(node, other);
            self.block(other, node);
        }
    }

    fn isolate_leader(&mut self) {
        let Some(leader) = self.leader().filter(|_| self.nodes.len() > 1) else {
            return;
        };
        self.coverage.partitions += 1;
        self.isolate(leader);
        self.end_later(Spell::Partition, 300_000, 4_000_000);
    }

    fn block_one_way(&mut self) {
        if self.nodes.len() < 2 {
            return;
        }
        self.coverage.one_way_blocks += 1;
        let from = self.prng.below(self.nodes.len() as u64) as usize;
        for to in (0..self.nodes.len()).filter(|to| *to != from) {
            if self.prng.percent(60) {
                self.block(from, to);
            }
        }
        self.end_later(Spell::Partition, 300_000, 4_000_000);
    }

    fn break_some_connection(&mut self, node: usize) {
        let other = self.prng.below(self.nodes.len() as u64) as usize;
        if other != node {
            self.break_connection(node, other);
        }
    }

    fn slow_disk(&mut self, node: usize) {
        self.coverage.disks_slow += 1;
        let slow = Latency {
            write_us: 1_000..20_000,
            sync_us: 5_000..[50_000, 800_000, 6_000_000][self.prng.below(3) as usize],
            other_us: 1_000..20_000,
            stalls_per_million: 20_000,
            stall_us: 100_000..2_000_000,
        };
        self.nodes[node].disk.set_latency(slow);
        self.end_later(Spell::SlowDisk(node), 500_000, 6_000_000);
    }

    fn fill_disk(&mut self, node: usize) {
        let disk = &self.nodes[node].disk;
        disk.set_capacity(Some(disk.used()));
        self.end_later(Spell::FullDisk(node), 300_000, 4_000_000);
    }

    fn fail_sync(&mut self, node: usize) {
        if self.nodes[node].host.is_some() {
            self.nodes[node].disk.fail_syncs(1);
            self.nodes[node].is_disk_faulty = true;
        }
    }

    fn lose_device(&mut self, node: usize) {
        if self.nodes[node].host.is_some() {
            let ops = self.prng.below(30);
            self.nodes[node].disk.die_after(ops);
            self.nodes[node].is_disk_faulty = true;
        }
    }

    /// The node comes back under its name with an empty directory. Only while nobody else has lost anything.
    fn wipe(&mut self, node: usize) {
        let voters = self.nodes.len();
        let is_settled = self.nodes.iter().all(|n| !n.is_impaired && n.is_voter);
        if voters < 3 || !is_settled {
            return;
        }
        self.crash(node, true, None);
        self.nodes[node].disk.wipe();
        self.nodes[node].is_impaired = true;
        self.nodes[node].is_voter = false;
        self.nodes[node].was_wiped = true;
        self.coverage.disks_wiped += 1;
        self.note(node, "wiped");
        if !self.auto_replace {
            self.operator_replaces.push(node);
        }
    }

    fn ask_for_transfer(&mut self, to: usize) {
        if let Some(leader) = self.leader() {
            self.coverage.transfers += 1;
            let to = self.nodes[to].id;
            let request = OperatorRequest::TransferLeader { group: GROUP, to };
            self.give(leader, HostEvent::Operator(request));
        }
    }

    fn ask_for_snapshot(&mut self, node: usize) {
        if self.nodes[node].host.is_some() {
            let request = OperatorRequest::TakeSnapshot { group: GROUP };
            self.give(node, HostEvent::Operator(request));
        }
    }

    fn end_later(&mut self, spell: Spell, least_us: u64, most_us: u64) {
        let after = self.prng.between(least_us, most_us);
        self.schedule(after, Happening::Ends(spell));
    }

    pub(crate) fn end(&mut self, spell: Spell) {
        match spell {
            Spell::Partition => self.unblock_all(),
            Spell::SlowDisk(node) => self.nodes[node].disk.set_latency(self.good_disk.clone()),
            Spell::FullDisk(node) => self.nodes[node].disk.set_capacity(None),
        }
    }

    /// From now on nothing goes wrong any more.
    pub(crate) fn faults_off(&mut self) {
        self.are_faults_off = true;
        self.network.weather.calm();
        self.unblock_all();
        for node in 0..self.nodes.len() {
            let n = &mut self.nodes[node];
            n.paused_until = n.paused_until.min(self.now_us);
            n.disk.set_latency(Latency {
                stalls_per_million: 0,
                ..self.good_disk.clone()
            });
            n.disk.set_capacity(None);
            n.disk.fail_syncs(0);
        }
    }

    pub(crate) fn leader(&self) -> Option<usize> {
        let leads = |host: &settle_host::Host<W::Service, settle_storage::MemDisk>| {
            host.raft(GROUP)
                .filter(|raft| raft.role() == Role::Leader)
                .map(|raft| raft.term())
        };
        let terms = self
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(i, n)| Some((leads(n.host.as_ref()?)?, i)));
        terms.max().map(|(_, i)| i)
    }
}
