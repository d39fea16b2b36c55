//! One node's turn: its host takes what came, and what it wants is done and judged.

use settle_base::{GroupId, Mono, PeerId};
use settle_host::{HostAction, HostError, HostEvent, HostNote, OperatorDone, OperatorError, OperatorRequest};
use settle_machine::StateMachine;

use crate::{
    invariants::{Broken, Checked},
    workload::{ResponseOf, Workload},
    world::{Happening, World, with_source},
};

impl<W: Workload> World<W> {
    pub(crate) fn turn(&mut self, node: usize) -> Checked {
        let now_us = self.now_us;
        let n = &mut self.nodes[node];
        n.is_turn_due = false;
        if n.paused_until > now_us {
            n.is_turn_due = true;
            let (wait, boot) = (n.paused_until - now_us, n.boot);
            self.schedule(wait, Happening::Turn { node, boot });
            return Ok(());
        }
        n.disk.advance(Mono(now_us));
        let local = self.local(&self.nodes[node]);
        let shows = self.script.shows(now_us, self.nodes[node].id);
        let n = &mut self.nodes[node];
        let mut out = std::mem::take(&mut self.actions);
        let events = std::mem::take(&mut n.inbox);
        if shows {
            self.script.events(now_us, n.id, &events);
        }
        let host = n.host.as_mut().expect("only running nodes have turns");
        let pauses = host.counters().applies_paused;
        let count = events.len();
        for event in events {
            host.step(event, local, &mut out);
        }
        host.flush(local, &mut out);
        host.carried_out(local);
        let has_paused = host.counters().applies_paused > pauses;
        let applied: u64 = self
            .groups
            .iter()
            .filter_map(|g| host.raft(*g))
            .map(|raft| raft.applied())
            .sum();
        if shows {
            self.script.actions(host, &self.groups, &out);
        }
        self.trace(format_args!(
            "turn {node} events {count} actions {} applied {applied}",
            out.len()
        ));
        let mut fatal = None;
        for action in out.drain(..) {
            self.act(node, action, &mut fatal)
                .map_err(|broken| broken.at(format_args!("node {}", self.nodes[node].id)))?;
        }
        self.actions = out;
        if has_paused {
            self.machine_waits(node);
        }
        self.observe(node, fatal.is_some())
            .map_err(|broken| broken.at(format_args!("node {}", self.nodes[node].id)))?;
        if let Some(error) = fatal {
            return self.died(node, error);
        }
        self.wake_for_disk(node);
        Ok(())
    }

    fn wake_for_disk(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        let Some(due) = n.disk.next_due() else { return };
        let due = due.0.max(self.now_us);
        if n.disk_wake.is_none_or(|at| at > due) {
            n.disk_wake = Some(due);
            let (after, boot) = (due - self.now_us, n.boot);
            self.schedule(after, Happening::DiskDue { node, boot });
        }
    }

    fn act(&mut self, node: usize, action: HostAction<ResponseOf<W>>, fatal: &mut Option<HostError>) -> Checked {
        match action {
            HostAction::Send { to, lane, message } => self.send(node, (to.0 - 1) as usize, lane, message),
            HostAction::Respond(response) => {
                let after = self.prng.between(50, 2_000);
                self.schedule(after, Happening::Answer { node, response });
                Ok(())
            }
            HostAction::ClosePeer { reason, .. } => {
                let what = format!("it accuses a peer: {}", with_source(&reason));
                Err(Broken::new("no honest peer is accused", what))
            }
            HostAction::Discard(_) => Ok(()),
            HostAction::Note(note) => self.noted(node, &note),
            HostAction::Fatal(error) => {
                *fatal = Some(error);
                Ok(())
            }
        }
    }

    /// A child has the members that its parent had at the split: among them perhaps a directory that was lost, and that
    /// has been replaced in the parent by now. The operator has to do it there too.
    fn born_with(&mut self, voters: &[PeerId]) {
        let directories = voters.iter().filter_map(|peer| self.invariants.directory_of(*peer));
        for (id, generation) in directories.collect::<Vec<_>>() {
            let node = (id.0 - 1) as usize;
            let n = &mut self.nodes[node];
            if generation == n.generation {
                continue;
            }
            n.is_impaired = true;
            n.is_voter = false;
            if !self.auto_replace && !self.operator_replaces.contains(&node) {
                self.operator_replaces.push(node);
            }
        }
    }

    /// That it waits, and for what, is in no log: a process that ends now has to find out again.
    fn machine_waits(&mut self, node: usize) {
        if !self.are_faults_off && !self.cut.hunts_nobody && self.prng.percent(10) {
            let most = [200, 5_000, 60_000][self.prng.below(3) as usize];
            let (after, boot) = (self.prng.below(most), self.nodes[node].boot);
            self.schedule(after, Happening::PowerFails { node, boot });
        }
        self.merges(node);
    }

    fn noted(&mut self, node: usize, note: &HostNote) -> Checked {
        self.tell(format_args!("node {} notes {note:?}", self.id(node)));
        match note {
            HostNote::BecameLeader { .. } => {
                self.coverage.elections += 1;
                self.coverage.witnesses_lead += u64::from(self.nodes[node].is_witness);
                if self.hunts_leaders && !self.are_faults_off && self.prng.percent(60) {
                    // Before its first entry has reached anybody, or while it brings the others up to date.
                    let most = [200, 5_000, 60_000, 200_000][self.prng.below(4) as usize];
                    let (after, boot) = (self.prng.below(most), self.nodes[node].boot);
                    self.schedule(after, Happening::Hunt { node, boot });
                }
                Ok(())
            }
            HostNote::MembersChanged { group, index, conf } => {
                self.members_changed(node, *group, conf);
                self.invariants.changed_members(*group, *index, conf)
            }
            HostNote::Adopted { as_founder, .. } => {
                let n = &self.nodes[node];
                let incarnation = n.host.as_ref().expect("it just spoke").identity().incarnation;
                if *as_founder {
                    if n.was_wiped {
                        let what = "a wiped node takes itself for a founder";
                        return Err(Broken::new("incarnation safety", what));
                    }
                    for &group in &self.groups {
                        self.invariants.may_vote(group, &[incarnation]);
                    }
                } else if !n.is_witness {
                    self.invariants.is_born(incarnation);
                }
                Ok(())
            }
            HostNote::GroupCreated { group, conf } => {
                if !self.groups.contains(group) {
                    self.groups.push(*group);
                }
                self.invariants.may_vote(*group, &conf.voters);
                self.born_with(&conf.voters);
                Ok(())
            }
            HostNote::GroupDestroyed { group } => {
                let n = &mut self.nodes[node];
                n.destroyed.insert(*group);
                n.seen.remove(group);
                Ok(())
            }
            HostNote::Founded { .. } if self.invariants.has_history() => {
                Err(Broken::new("incarnation safety", "a second cluster was founded"))
            }
            HostNote::Operated {
                outcome: Ok(OperatorDone::RaisingVersion { groups, .. }),
                ..
            } => {
                self.coverage.versions_raised += *groups as u64;
                Ok(())
            }
            HostNote::Operated {
                outcome: Err(OperatorError::OldBuild { .. } | OperatorError::UnknownBuild { .. }),
                ..
            } => {
                self.coverage.raises_refused += 1;
                Ok(())
            }
            HostNote::Quarantined { group, status } => {
                self.coverage.quarantines += 1;
                let what = format!("a replica of group {group} was quarantined: {status:?}");
                self.only_after_a_slip(*group, what)
            }
            HostNote::HashesDivided { group, index, .. } => {
                let what = format!("the replicas of group {group} agree on no state at {index}");
                self.only_after_a_slip(*group, what)
            }
            HostNote::Rebuilt { .. } => {
                self.coverage.rebuilt += 1;
                Ok(())
            }
            HostNote::LogDamaged { .. } => {
                self.coverage.logs_mended += 1;
                Ok(())
            }
            HostNote::SnapshotDamaged { .. } => {
                self.coverage.snapshots_unreadable += 1;
                Ok(())
            }
            HostNote::Recovered { .. } => {
                self.coverage.recovered += 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Where no machine slipped, none is to be found unlike the others.
    fn only_after_a_slip(&self, group: GroupId, what: String) -> Checked {
        let workload = self.workload.as_ref().expect("it is lent only during a call");
        let hosts = self.nodes.iter().filter_map(|node| node.host.as_ref());
        // Perhaps in this very turn.
        let mut machines = hosts.filter_map(|host| host.machine(group));
        let has_slipped = machines.any(|machine| workload.slips_of(machine) != 0);
        match has_slipped || self.slipped.contains(&group) {
            true => Ok(()),
            false => Err(Broken::new("state equality", what)),
        }
    }

    fn observe(&mut self, node: usize, is_dying: bool) -> Checked {
        let mut is_voter = true;
        let mut is_recovering = false;
        for i in 0..self.groups.len() {
            let group = self.groups[i];
            let n = &mut self.nodes[node];
            let Some(host) = &n.host else { return Ok(()) };
            let Some(raft) = host.raft(group) else {
                if self.config.groups.contains(&group) {
                    return Ok(());
                }
                // One that came later: until it is here, this node is not whole.
                is_voter &= host.is_tombstoned(group);
                continue;
            };
            if n.destroyed.contains(&group) {
                let what = format!("group {group} is here again");
                return Err(Broken::new("a destroyed group never returns", what));
            }
            let seen = n.seen.entry(group).or_default();
            let applied = seen.applied;
            self.invariants.observe(group, raft, seen)?;
            if raft.applied() != applied {
                self.observe_machine(node, group)?;
            }
            let host = self.nodes[node].host.as_ref().expect("it just had its turn");
            let raft = host.raft(group).expect("it was there above");
            is_voter &= raft.conf().voters.contains(&raft.id()) && raft.conf().outgoing.is_empty();
            is_recovering |= raft.is_recovering();
            if self.drain.is_some() && raft.is_leader() {
                self.drain_on(node, group);
            }
            let host = self.nodes[node].host.as_ref().expect("it just had its turn");
            let raft = host.raft(group).expect("it was there above");
            if self.moves.contains_key(&group) && raft.is_leader() {
                self.move_on(node, group);
            }
            let host = self.nodes[node].host.as_ref().expect("it just had its turn");
            let raft = host.raft(group).expect("it was there above");
            let is_calm = self.are_faults_off && self.churns_members;
            if is_calm && raft.is_leader() && self.nodes[node].inbox.is_empty() && self.prng.percent(5) {
                self.restore_members(node, group);
            }
        }
        let host = self.nodes[node].host.as_ref().expect("it just had its turn");
        let workload = self.workload.as_ref().expect("it is lent only during a call");
        // A host that fails in the middle of a turn tells its service nothing more, and acts on nothing more.
        if !is_dying {
            workload.check_node(host, self.local(&self.nodes[node]))?;
        }
        let n = &mut self.nodes[node];
        let host = n.host.as_ref().expect("it just had its turn");
        if !is_voter {
            n.is_voter = false;
        } else if !n.is_voter && host.is_written() {
            // Also after a restart it will know.
            n.is_voter = true;
            if std::mem::take(&mut n.was_wiped) {
                self.coverage.members_replaced += 1;
            }
        }
        // That it is whole again is in its log, too: a start before that recovers once more.
        if n.is_impaired && n.is_voter && !is_recovering && host.is_written() {
            n.is_impaired = false;
            n.is_damaged = false;
            self.operator_replaces.retain(|other| *other != node);
        }
        let is_asked = host.groups_led() > 0 && n.inbox.is_empty();
        let is_asked = is_asked && self.upgrades.as_mut().is_some_and(|own| own.percent(1));
        if is_asked
            && host
                .versions()
                .in_force
                .is_some_and(|(lowest, _)| lowest < self.newest_build)
        {
            let request = OperatorRequest::RaiseClusterVersion {
                version: self.newest_build,
                at_ms: 0,
            };
            self.give(node, HostEvent::Operator(request));
        }
        let host = self.nodes[node].host.as_ref().expect("it just had its turn");
        if host.groups_led() > 0 && !self.operator_replaces.is_empty() {
            for lost in self.operator_replaces.clone() {
                let request = OperatorRequest::ReplaceMember {
                    node: self.nodes[lost].id,
                    at_ms: 0,
                };
                if self.nodes[node].inbox.is_empty() && self.prng.percent(5) {
                    self.give(node, HostEvent::Operator(request));
                }
            }
        }
        Ok(())
    }

    fn observe_machine(&mut self, node: usize, group: GroupId) -> Checked {
        let host = self.nodes[node].host.as_ref().expect("it just had its turn");
        let raft = host.raft(group).expect("it was seen just now");
        let Some(machine) = host.machine(group) else {
            assert!(self.nodes[node].is_witness, "a full replica has its machine");
            return Ok(());
        };
        let applied = raft.applied();
        let workload = self.workload.as_ref().expect("it is lent only during a call");
        let slips = workload.slips_of(machine);
        if slips != 0 {
            self.slipped.insert(group);
        }
        if applied.is_multiple_of(4) {
            self.invariants
                .applied(group, applied, slips, machine.state_hash(), raft.id())?;
        }
        let workload = self.workload.as_mut().expect("it is lent only during a call");
        workload.check_machine(group, applied, machine)
    }
}
