//! Whether a world has healed, and what to say when it has not.

use settle_base::GroupId;
use settle_machine::StateMachine;

use crate::{
    workload::Workload,
    world::{Node, World},
};

impl<W: Workload> World<W> {
    /// Every replica is up, equal and a voter, a full one leads, and every client has its answer.
    pub(crate) fn is_healed(&self) -> bool {
        let mut machines = Vec::with_capacity(self.groups.len());
        for &group in &self.groups {
            let is_gone = |node: &Node<W>| node.host.as_ref().is_some_and(|host| host.raft(group).is_none());
            if !self.config.groups.contains(&group) && self.nodes.iter().all(is_gone) {
                continue;
            }
            let Some(leader) = self.leader(group) else { return false };
            let Some(first @ (applied, Some(_))) = self.state(&self.nodes[leader], group) else {
                return false;
            };
            let is_equal = |node: &Node<W>| match node.is_witness {
                true => self.state(node, group) == Some((applied, None)),
                false => self.state(node, group) == Some(first),
            };
            if !self.nodes.iter().all(is_equal) {
                return false;
            }
            let host = self.nodes[leader].host.as_ref();
            machines.extend(
                host.and_then(|host| host.machine(group))
                    .map(|machine| (group, machine)),
            );
        }
        self.workload.as_ref().is_some_and(|w| w.is_idle(&machines))
    }

    /// Of a replica that lacks nothing: what it has applied, and the hash of that unless it is a witness.
    fn state(&self, node: &Node<W>, group: GroupId) -> Option<(u64, Option<u64>)> {
        let host = node.host.as_ref()?;
        let raft = host.raft(group)?;
        let conf = raft.conf();
        let is_whole = conf.voters.contains(&raft.id())
            && conf.voters.len() == self.nodes.len()
            && conf.outgoing.is_empty()
            && !raft.is_recovering()
            && raft.applied() == raft.last_index();
        is_whole.then(|| (raft.applied(), host.machine(group).map(|m| m.state_hash())))
    }

    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            let Some(host) = &node.host else {
                text += &format!("node {} is down; ", node.id);
                continue;
            };
            let linked = host.status(self.local(node)).peers;
            text += &format!("node {} with peers {linked:?}", node.id);
            for &group in &self.groups {
                let Some(raft) = host.raft(group) else {
                    text += &format!(" has no group {group}");
                    continue;
                };
                let s = raft.status();
                text += &format!(
                    "\n  group {group} ({}) {:?} term {} leader {} commit {} applied {} last {} voters {:?} outgoing {:?} learners {:?}{}",
                    s.id,
                    s.role,
                    s.term,
                    s.leader,
                    s.commit,
                    s.applied,
                    s.last_index,
                    s.conf.voters,
                    s.conf.outgoing,
                    s.conf.learners,
                    if s.recovering { " recovering" } else { "" }
                );
                if let (Some(workload), Some(machine)) = (&self.workload, host.machine(group)) {
                    text += &workload.describe_machine(machine);
                }
                for p in &s.progress {
                    text += &format!(" [{}: match {} next {} {:?}]", p.peer, p.matched, p.next, p.state);
                }
            }
            text += "; ";
        }
        if let Some(workload) = &self.workload {
            text += &workload.describe();
        }
        text
    }
}
