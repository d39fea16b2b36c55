//! A node that operators take out of all groups, and bring back to one while that takes another in: it has never heard of
//! what is merged there, or remembers what that was before.

use std::collections::BTreeSet;

use settle_base::GroupId;
use settle_host::{HostEvent, MemberRole, OperatorRequest};
use settle_raft::ConfState;

use crate::{
    workload::Workload,
    world::{Happening, World},
};

/// A node that is to be in no group, but for those.
pub(crate) struct Drain {
    node: usize,
    but: BTreeSet<GroupId>,
}

impl<W: Workload> World<W> {
    pub(crate) fn drain(&mut self, node: usize) {
        self.coverage.nodes_drained += 1;
        self.tell(format_args!("operator: node {} is to be in no group", self.id(node)));
        let but = BTreeSet::new();
        self.drain = Some(Drain { node, but });
    }

    /// A machine waited on `node`, if only for an instant: another group is being taken in.
    pub(crate) fn merges(&mut self, node: usize) {
        if self.are_faults_off || self.drain.is_none() {
            return;
        }
        let workload = self.workload.as_ref().expect("it is lent only during a call");
        let host = self.nodes[node].host.as_ref().expect("it just had its turn");
        let is_merging = |group: &GroupId| host.machine(*group).is_some_and(|m| workload.is_merging(m));
        let merging = self.groups.iter().copied().filter(is_merging);
        for group in host.waiting_groups().chain(merging).collect::<BTreeSet<_>>() {
            let most = [1, 5_000, 300_000][self.prng.below(3) as usize];
            let after = self.prng.below(most);
            self.schedule(after, Happening::Joins { group });
        }
    }

    pub(crate) fn joins(&mut self, group: GroupId) {
        if let Some(drain) = &mut self.drain
            && drain.but.insert(group)
        {
            let node = drain.node;
            self.coverage.joins_while_merging += 1;
            self.tell(format_args!(
                "operator: node {} is to join group {group}",
                self.id(node)
            ));
        }
    }

    /// The operator asks the leader of `group` for what he wants.
    pub(crate) fn drain_on(&mut self, leader: usize, group: GroupId) {
        let Some(drain) = &self.drain else { return };
        let host = self.nodes[leader].host.as_ref().expect("it leads");
        let conf = host.raft(group).expect("it leads").conf();
        let node = drain.node;
        let Some(is_in) = self.part_in(node, conf) else { return };
        let wants_in = drain.but.contains(&group);
        let is_spare = conf.voters.len() > 2 && !conf.is_joint();
        let role = match is_in {
            true if !wants_in && is_spare => MemberRole::Removed,
            false if wants_in && !self.nodes[node].is_witness => MemberRole::Learner,
            _ => return,
        };
        if self.are_faults_off || !self.nodes[leader].inbox.is_empty() || !self.prng.percent(20) {
            return;
        }
        let node = self.id(node);
        let request = OperatorRequest::ChangeMember { group, node, role };
        self.give(leader, HostEvent::Operator(request));
    }

    /// Whether a node that is up is a member.
    fn part_in(&self, node: usize, conf: &ConfState) -> Option<bool> {
        let host = self.nodes[node].host.as_ref()?;
        Some(conf.peers().contains(&host.identity().incarnation))
    }
}
