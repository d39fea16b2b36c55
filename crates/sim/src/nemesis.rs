//! What goes wrong, and when.

use std::collections::BTreeSet;

use settle_base::{GroupId, PeerId, Prng};
use settle_host::{Host, HostEvent, MemberRole, OperatorRequest};
use settle_storage::{DiskRead, Latency, MemDisk};

use crate::{
    workload::Workload,
    world::{Happening, World},
};

/// What ends by itself later.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spell {
    Partition,
    SlowDisk(usize),
    FullDisk(usize),
    Sluggish(usize),
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

impl<W: Workload> World<W> {
    /// Act number `act`, and when the next comes. All that it draws depends on the seed and its number alone, so that it
    /// stays the same when another is left out.
    pub(crate) fn nemesis(&mut self, act: u64) {
        let own = Prng::from_parts(&[self.seed, 0xac7, act]);
        let shared = std::mem::replace(&mut self.prng, own);
        let pause = self.prng.between(50_000, self.pause_us_max);
        if !self.cut.without_acts.contains(&act) {
            self.acts.push(act);
            self.act_out();
        }
        self.prng = shared;
        self.schedule(pause, Happening::Nemesis { act: act + 1 });
    }

    fn act_out(&mut self) {
        let node = self.prng.below(self.nodes.len() as u64) as usize;
        if self.may_slip && self.prng.percent(4) {
            return self.slip(node);
        }
        if self.moves_groups && self.prng.percent(50) {
            return self.begin_move();
        }
        match self.prng.below(126) {
            0..18 => self.crash(node, true, None),
            18..21 => self.crash(node, false, None),
            21..23 => self.crash_leader(),
            23..25 => self.crash_all(),
            25..26 => self.crash_leader(),
            26..34 => self.pause(node),
            34..40 => self.partition(),
            40..44 => self.bridge_or_ring(),
            44..52 => self.block_one_way(),
            52..56 => self.isolate_leader(),
            56..62 => self.break_some_connection(node),
            62..69 => self.slow_disk(node),
            69..74 => self.fill_disk(node),
            74..77 => self.fail_sync(node),
            77..79 => self.lose_device(node),
            79..86 => self.wipe(node),
            86..95 => self.ask_for_transfer(node),
            95..104 => self.ask_for_snapshot(node),
            104..109 => self.slow_process(node),
            109..112 => self.snapshot_and_crash(node),
            112..119 => self.damage_disk(node),
            119..126 => self.churn_members(node),
            _ => unreachable!("below 126"),
        }
    }

    pub(crate) fn some_group(&mut self) -> GroupId {
        self.groups[self.prng.below(self.groups.len() as u64) as usize]
    }

    fn some_leader(&mut self) -> Option<usize> {
        let group = self.some_group();
        self.leader(group)
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
        if let Some(leader) = self.some_leader() {
            let down_for = self.prng.between(5_000, 300_000);
            self.crash(leader, true, Some(down_for));
        }
    }

    fn pause(&mut self, node: usize) {
        self.coverage.pauses += 1;
        let until = self.now_us + self.prng.between(50_000, 3_000_000);
        self.tell(format_args!("node {} pauses until {until}", self.id(node)));
        let paused = &mut self.nodes[node].paused_until;
        *paused = until.max(*paused);
    }

    /// Every turn of its loop comes late.
    fn slow_process(&mut self, node: usize) {
        self.coverage.slow_processes += 1;
        let late = self.prng.between(5_000, 120_000);
        self.nodes[node].sluggish_us = late;
        self.tell(format_args!("node {} is slow by {late} us", self.id(node)));
        self.end_later(Spell::Sluggish(node), 500_000, 5_000_000);
    }

    /// Cuts the nodes in two.
    fn partition(&mut self) {
        if self.nodes.len() < 2 {
            return;
        }
        self.coverage.partitions += 1;
        let sides: Vec<bool> = (0..self.nodes.len()).map(|_| self.prng.percent(50)).collect();
        self.block_pairs(|a, b| sides[a] != sides[b]);
        let side: BTreeSet<usize> = (0..sides.len()).filter(|n| sides[*n]).collect();
        self.tell(format_args!("nodes {} are cut off from the others", self.names(&side)));
        self.end_later(Spell::Partition, 300_000, 5_000_000);
    }

    /// One node sees all of two halves that do not see each other; or every node sees a majority, no two the same.
    fn bridge_or_ring(&mut self) {
        let count = self.nodes.len();
        if count < 3 {
            return self.partition();
        }
        let at = self.prng.below(count as u64) as usize;
        if self.prng.percent(50) {
            self.coverage.bridges += 1;
            let half = |n: usize| (n + count - at) % count > count / 2;
            self.block_pairs(|a, b| a != at && b != at && half(a) != half(b));
            self.tell(format_args!("only node {} sees both halves", self.id(at)));
        } else {
            self.coverage.rings += 1;
            let step = |a: usize, b: usize| (a + count - b) % count;
            // With three, each sees one neighbour of its two.
            let sees = |a, b| step(a, b) == 1 || (count > 3 && step(b, a) == 1);
            self.block_pairs(|a, b| !sees(a, b));
            self.tell(format_args!("the nodes see only their neighbours in a ring"));
        }
        self.end_later(Spell::Partition, 300_000, 5_000_000);
    }

    pub(crate) fn block_pairs(&mut self, is_blocked: impl Fn(usize, usize) -> bool) {
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                if a != b && is_blocked(a, b) {
                    self.block(a, b);
                }
            }
        }
    }

    /// Takes a leader away for a short while.
    pub(crate) fn strike(&mut self, leader: usize) {
        self.coverage.leaders_hunted += 1;
        if self.prng.percent(60) {
            // Mostly longer than the others need to elect another.
            let most = [300_000, 4_000_000, 4_000_000][self.prng.below(3) as usize];
            let down_for = self.prng.between(20_000, most);
            return self.crash(leader, true, Some(down_for));
        }
        self.isolate(leader);
        self.end_later(Spell::Partition, 200_000, 3_000_000);
    }

    pub(crate) fn isolate(&mut self, node: usize) {
        self.tell(format_args!("node {} is isolated", self.id(node)));
        self.block_pairs(|a, b| a == node || b == node);
    }

    fn isolate_leader(&mut self) {
        let Some(leader) = self.some_leader().filter(|_| self.nodes.len() > 1) else {
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
        let deaf: BTreeSet<usize> = (0..self.nodes.len())
            .filter(|to| *to != from && self.prng.percent(60))
            .collect();
        for &to in &deaf {
            self.block(from, to);
        }
        self.tell(format_args!(
            "nodes {} do not hear node {}",
            self.names(&deaf),
            self.id(from)
        ));
        self.end_later(Spell::Partition, 300_000, 4_000_000);
    }

    fn break_some_connection(&mut self, node: usize) {
        let other = self.prng.below(self.nodes.len() as u64) as usize;
        if other != node {
            self.tell(format_args!(
                "nodes {} and {} lose their connection",
                self.id(node),
                self.id(other)
            ));
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
        self.tell(format_args!(
            "node {}: syncs take up to {} us",
            self.id(node),
            slow.sync_us.end
        ));
        self.nodes[node].disk.set_latency(slow);
        self.end_later(Spell::SlowDisk(node), 500_000, 6_000_000);
    }

    fn fill_disk(&mut self, node: usize) {
        let disk = &self.nodes[node].disk;
        disk.set_capacity(Some(disk.used()));
        self.tell(format_args!("node {}: the disk is full", self.id(node)));
        self.end_later(Spell::FullDisk(node), 300_000, 4_000_000);
    }

    fn fail_sync(&mut self, node: usize) {
        if self.nodes[node].host.is_some() {
            self.tell(format_args!("node {}: the next sync fails", self.id(node)));
            self.nodes[node].disk.fail_syncs(1);
            self.nodes[node].is_disk_faulty = true;
        }
    }

    fn lose_device(&mut self, node: usize) {
        if self.nodes[node].host.is_some() {
            let ops = self.prng.below(30);
            self.tell(format_args!(
                "node {}: the device fails after {ops} operations",
                self.id(node)
            ));
            self.nodes[node].disk.die_after(ops);
            self.nodes[node].is_disk_faulty = true;
        }
    }

    /// The node comes back under its name with an empty directory. Only while nobody else has lost anything.
    fn wipe(&mut self, node: usize) {
        if !self.may_lose_a_disk() {
            return;
        }
        self.crash(node, true, None);
        let n = &mut self.nodes[node];
        n.disk.wipe();
        n.destroyed.clear();
        n.is_impaired = true;
        n.is_voter = false;
        n.was_wiped = true;
        n.generation += 1;
        self.coverage.disks_wiped += 1;
        self.tell(format_args!("node {}: its directory is lost", self.id(node)));
        if !self.auto_replace {
            self.operator_replaces.push(node);
        }
    }

    /// One replica of at least three, nobody else has lost anything, and no operator is moving members about: with a
    /// change under way, the loss could leave no quorum of what comes. Nor do witnesses drop what a full replica lacks:
    /// the only one that has it could be lost.
    fn may_lose_a_disk(&self) -> bool {
        let is_settled = self.nodes.iter().all(|n| !n.is_impaired && n.is_voter);
        let is_kept = self.config.witness_log_bytes_max > 1 << 20 || self.nodes.iter().all(|n| !n.is_witness);
        self.nodes.len() >= 3 && is_settled && is_kept && !self.churns_members
    }

    /// Bytes that were synced long ago are not what was written: rot, a block that reads no more, a write that never reached
    /// the medium or reached it elsewhere. It is found when the node starts again.
    fn damage_disk(&mut self, node: usize) {
        if !self.may_lose_a_disk() {
            return;
        }
        self.crash(node, true, None);
        if self.nodes[node].is_impaired {
            return;
        }
        let disk = self.nodes[node].disk.clone();
        let files = disk.clone().list().unwrap_or_default();
        let is_data = |name: &str| name.starts_with("snap-") || name.ends_with(".seg");
        let files: Vec<_> = files
            .into_iter()
            .filter(|(file, len)| is_data(file.as_str()) && *len > 0)
            .collect();
        if files.is_empty() {
            return;
        }
        let some_file = |prng: &mut Prng| files[prng.below(files.len() as u64) as usize].clone();
        let before = disk.fork();
        let mut is_absent = false;
        for _ in 0..self.prng.between(1, 4) {
            let (file, len) = some_file(&mut self.prng);
            // Segments are reserved ahead: most of what was written is in front.
            let within = [len, len.min(4_096)][self.prng.below(2) as usize];
            let at = self.prng.below(within);
            match self.prng.below(5) {
                0 => disk.flip_bit(&file, at, self.prng.below(8) as u8),
                4 => {
                    self.coverage.blocks_unreadable += 1;
                    disk.make_unreadable(&file, at);
                }
                1 => disk.corrupt_sector(&file, at, &mut self.prng),
                2 => {
                    is_absent = true;
                    disk.lose_write(&file, at, self.prng.between(1, 2_000));
                }
                _ => {
                    is_absent = true;
                    let (to, to_len) = some_file(&mut self.prng);
                    let to_at = self.prng.below(to_len);
                    self.coverage.writes_misdirected += 1;
                    disk.misdirect(&file, at, self.prng.between(1, 2_000), &to, to_at);
                }
            }
        }
        let is_found = self.starts_impaired(node, &disk);
        let is_hidden = is_absent && self.hides_a_loss(node, &before, &disk);
        if is_hidden || self.is_unreadable(node, &disk) || self.brings_back(node, &disk) {
            // That the last batches were ever written, or that a group has ended, no log can know by itself.
            self.nodes[node].disk = before;
            return;
        }
        self.coverage.disks_damaged += 1;
        let n = &mut self.nodes[node];
        n.is_impaired |= is_found;
        n.is_damaged |= is_found;
        self.tell(format_args!("node {}: stored bytes are damaged", self.id(node)));
    }

    /// A node's memory or processor fails it: one entry does something else to a machine there than to the others. Only
    /// one replica at a time, so that a majority is right.
    fn slip(&mut self, node: usize) {
        let full = self.nodes.iter().filter(|node| !node.is_witness).count();
        if full < 3 || self.churns_members || !self.all_machines_agree() {
            return;
        }
        let which = self.prng.next_u64() | 1;
        let id = self.nodes[node].id;
        let workload = self.workload.as_mut().expect("it is lent only during a call");
        if self.nodes[node].host.is_some() && workload.slip(id, which) {
            self.coverage.machines_slipped += 1;
            self.tell(format_args!("node {id}: a machine goes wrong"));
        }
    }

    /// Of every group, every replica's machine: nothing is left in it of a fault that is not in the others.
    fn all_machines_agree(&self) -> bool {
        let workload = self.workload.as_ref().expect("it is lent only during a call");
        self.groups.iter().all(|group| {
            let full = self.nodes.iter().filter(|node| !node.is_witness);
            let slips = full.map(|node| {
                let machine = node.host.as_ref()?.machine(*group)?;
                Some(workload.slips_of(machine))
            });
            let slips: BTreeSet<_> = slips.collect();
            slips.len() == 1 && !slips.contains(&None)
        })
    }

    /// An operator wants a node out of all groups, or adds, demotes, promotes or removes a replica of one.
    fn churn_members(&mut self, node: usize) {
        let drains = self.workload.as_ref().is_some_and(Workload::drains_nodes);
        if drains && self.churns_members && self.prng.percent(60) {
            return self.drain(node);
        }
        let group = self.some_group();
        let Some(leader) = self.leader(group).filter(|_| self.churns_members) else {
            return;
        };
        let id = self.id(node);
        let peer = self.nodes[node].host.as_ref().map(|host| host.identity().incarnation);
        let host = self.nodes[leader].host.as_ref().expect("it leads");
        let conf = host.raft(group).expect("it leads").conf();
        let is_in = |peers: &[PeerId]| peer.is_some_and(|peer| peers.contains(&peer));
        let roles = match (is_in(&conf.voters), is_in(&conf.learners)) {
            (true, _) if conf.voters.len() <= 2 => return,
            (true, _) if self.nodes[node].is_witness => [MemberRole::Removed, MemberRole::Removed],
            (true, _) => [MemberRole::Learner, MemberRole::Removed],
            (_, true) => [MemberRole::Voter, MemberRole::Removed],
            (false, false) if self.nodes[node].is_witness => [MemberRole::Voter, MemberRole::Voter],
            (false, false) => [MemberRole::Learner, MemberRole::Learner],
        };
        let role = roles[self.prng.below(2) as usize];
        self.coverage.members_churned += 1;
        self.tell(format_args!("operator: node {id} in group {group} is to be {role:?}"));
        let request = OperatorRequest::ChangeMember { group, node: id, role };
        self.give(leader, HostEvent::Operator(request));
    }

    /// Once the faults are over, the operator brings everybody back.
    pub(crate) fn restore_members(&mut self, leader: usize, group: GroupId) {
        let peers: Vec<_> = self
            .nodes
            .iter()
            .map(|n| Some(n.host.as_ref()?.identity().incarnation))
            .collect();
        let host = self.nodes[leader].host.as_ref().expect("it leads");
        let conf = host.raft(group).expect("it leads").conf();
        let is_missing = |peer: &Option<PeerId>| peer.is_some_and(|peer| !conf.voters.contains(&peer));
        // Full replicas first: witnesses have to be a minority.
        let missing = (0..peers.len()).filter(|node| is_missing(&peers[*node]));
        let Some(node) = missing.min_by_key(|node| self.nodes[*node].is_witness) else {
            return;
        };
        let is_learner = peers[node].is_some_and(|peer| conf.learners.contains(&peer));
        let role = if is_learner || self.nodes[node].is_witness {
            MemberRole::Voter
        } else {
            MemberRole::Learner
        };
        let request = OperatorRequest::ChangeMember {
            group,
            node: self.id(node),
            role,
        };
        self.give(leader, HostEvent::Operator(request));
    }

    fn ask_for_transfer(&mut self, to: usize) {
        let group = self.some_group();
        if let Some(leader) = self.leader(group) {
            self.coverage.transfers += 1;
            let to = self.nodes[to].id;
            self.tell(format_args!("operator: node {to} is to lead group {group}"));
            let request = OperatorRequest::TransferLeader { group, to };
            self.give(leader, HostEvent::Operator(request));
        }
    }

    fn ask_for_snapshot(&mut self, node: usize) {
        let group = self.some_group();
        if self.nodes[node].host.is_some() {
            self.tell(format_args!(
                "operator: node {} is to take a snapshot of group {group}",
                self.id(node)
            ));
            let request = OperatorRequest::TakeSnapshot { group };
            self.give(node, HostEvent::Operator(request));
        }
    }

    /// In some phase of the snapshot the power goes.
    fn snapshot_and_crash(&mut self, node: usize) {
        if self.nodes[node].host.is_none() {
            return;
        }
        for group in self.groups.clone() {
            let request = OperatorRequest::TakeSnapshot { group };
            self.give(node, HostEvent::Operator(request));
        }
        let most = [2_000, 20_000, 200_000][self.prng.below(3) as usize];
        let (after, boot) = (self.prng.below(most), self.nodes[node].boot);
        self.tell(format_args!(
            "operator: node {} is to take snapshots; power fails after {after} us",
            self.id(node)
        ));
        self.schedule(after, Happening::PowerFails { node, boot });
    }

    pub(crate) fn end_later(&mut self, spell: Spell, least_us: u64, most_us: u64) {
        let after = self.prng.between(least_us, most_us);
        self.schedule(after, Happening::Ends(spell));
    }

    pub(crate) fn end(&mut self, spell: Spell) {
        match spell {
            Spell::Partition if self.now_us < self.cut_until => return,
            Spell::Partition => self.unblock_all(),
            Spell::SlowDisk(node) => self.nodes[node].disk.set_latency(self.good_disk.clone()),
            Spell::FullDisk(node) => self.nodes[node].disk.set_capacity(None),
            Spell::Sluggish(node) => self.nodes[node].sluggish_us = 0,
        }
        self.tell(format_args!("ends: {spell:?}"));
    }

    /// From now on nothing goes wrong any more.
    pub(crate) fn faults_off(&mut self) {
        self.are_faults_off = true;
        self.network.weather.calm();
        self.unblock_all();
        for node in 0..self.nodes.len() {
            let n = &mut self.nodes[node];
            n.paused_until = n.paused_until.min(self.now_us);
            n.sluggish_us = 0;
            n.disk.set_latency(Latency {
                stalls_per_million: 0,
                ..self.good_disk.clone()
            });
            n.disk.set_capacity(None);
            n.disk.fail_syncs(0);
        }
    }

    /// The node that leads `group`, in the latest term that anybody leads in.
    pub(crate) fn leader(&self, group: GroupId) -> Option<usize> {
        let leads =
            |host: &Host<W::Service, MemDisk>| host.raft(group).filter(|raft| raft.is_leader()).map(|raft| raft.term());
        let terms = self
            .nodes
            .iter()
            .enumerate()
            .filter_map(|(i, n)| Some((leads(n.host.as_ref()?)?, i)));
        terms.max().map(|(_, i)| i)
    }
}
