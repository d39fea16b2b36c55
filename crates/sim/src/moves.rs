//! Groups that move: an operator brings learners to other nodes, lets them catch up, and then replaces most of the voters
//! in one change. And what networks do in just that moment.

use std::collections::BTreeSet;

use settle_base::{GroupId, NodeId, PeerId};
use settle_host::{HostEvent, MemberRole, OperatorRequest};
use settle_raft::ConfState;

use crate::{
    nemesis::Spell,
    workload::Workload,
    world::{Happening, World},
};

impl<W: Workload> World<W> {
    /// Three nodes are to have some group. Most often one of them has it already.
    pub(crate) fn begin_move(&mut self) {
        let group = self.some_group();
        let Some(leader) = self.leader(group) else { return };
        let host = self.nodes[leader].host.as_ref().expect("it leads");
        let conf = host.raft(group).expect("it leads").conf();
        let (here, there) = self.split_nodes(&conf.voters);
        let stay = if here.len() > 3 {
            3
        } else {
            [1, 1, 2][self.prng.below(3) as usize]
        };
        let mut target = BTreeSet::new();
        if self.prng.percent(50) {
            target.insert(leader);
        }
        for (nodes, most) in [(&here, stay), (&there, 3), (&here, 3)] {
            let mut nodes: Vec<usize> = nodes.iter().copied().collect();
            while target.len() < most && !nodes.is_empty() {
                let at = self.prng.below(nodes.len() as u64) as usize;
                target.insert(nodes.swap_remove(at));
            }
        }
        // With them alone nobody could apply anything.
        if target.iter().filter(|node| self.nodes[**node].is_witness).count() > 1 {
            return;
        }
        let target: BTreeSet<NodeId> = target.into_iter().map(|node| self.id(node)).collect();
        self.coverage.moves_begun += 1;
        self.tell(format_args!("operator: group {group} is to move to {target:?}"));
        self.moves.insert(group, target);
    }

    /// Nodes that `peers` live on, and the others.
    fn split_nodes(&self, peers: &[PeerId]) -> (BTreeSet<usize>, BTreeSet<usize>) {
        let is_among = |node: &usize| {
            let host = self.nodes[*node].host.as_ref();
            host.is_some_and(|host| peers.contains(&host.identity().incarnation))
        };
        (0..self.nodes.len()).partition(is_among)
    }

    /// The operator asks the leader for the next step.
    pub(crate) fn move_on(&mut self, leader: usize, group: GroupId) {
        if self.are_faults_off || !self.nodes[leader].inbox.is_empty() || !self.prng.percent(20) {
            return;
        }
        let target = self.moves[&group].clone();
        let host = self.nodes[leader].host.as_ref().expect("it leads");
        let conf = host.raft(group).expect("it leads").conf();
        let is_in = |peers: &[PeerId], node: usize| {
            let host = self.nodes[node].host.as_ref();
            host.is_some_and(|host| peers.contains(&host.identity().incarnation))
        };
        let wanted = (0..self.nodes.len()).filter(|node| target.contains(&self.id(*node)));
        let wanted: Vec<usize> = wanted.collect();
        if conf.is_joint() {
            return;
        }
        if conf.voters.len() == wanted.len() && wanted.iter().all(|node| is_in(&conf.voters, *node)) {
            self.coverage.moves_made += 1;
            self.moves.remove(&group);
            return;
        }
        let is_known = |node: usize| is_in(&conf.voters, node) || is_in(&conf.learners, node);
        let stranger = wanted
            .iter()
            .find(|node| !is_known(**node) && !self.nodes[**node].is_witness);
        let request = match stranger {
            Some(&node) => OperatorRequest::ChangeMember {
                group,
                node: self.id(node),
                role: MemberRole::Learner,
            },
            None => OperatorRequest::ChangeVoters {
                group,
                voters: target.into_iter().collect(),
            },
        };
        self.give(leader, HostEvent::Operator(request));
    }

    /// A leader enters a joint configuration: often the network breaks just then.
    pub(crate) fn members_changed(&mut self, node: usize, group: GroupId, conf: &ConfState) {
        if !self.moves_groups || self.are_faults_off || !conf.is_joint() || self.leader(group) != Some(node) {
            return;
        }
        if self.prng.percent(80) {
            match self.prng.below(4) {
                // Before anybody else can hear that the change is committed: the others go by the members of before.
                0..2 => self.cut_change(group),
                2 => self.schedule(0, Happening::CutChange { group }),
                _ => {
                    let after = self.prng.below(2_000);
                    self.schedule(after, Happening::CutChange { group });
                }
            }
        }
    }

    /// On one side the leader with a majority of the new voters, those who come first; on the other all who are left.
    pub(crate) fn cut_change(&mut self, group: GroupId) {
        let Some(leader) = self.leader(group) else { return };
        let host = self.nodes[leader].host.as_ref().expect("it leads");
        let conf = host.raft(group).expect("it leads").conf().clone();
        if !conf.is_joint() {
            return;
        }
        let (voters, _) = self.split_nodes(&conf.voters);
        let (outgoing, _) = self.split_nodes(&conf.outgoing);
        let mut side: BTreeSet<usize> = voters.difference(&outgoing).copied().chain([leader]).collect();
        for &voter in &voters {
            if 2 * side.intersection(&voters).count() <= conf.voters.len() {
                side.insert(voter);
            }
        }
        // Who else could elect a leader by the members of before? Without them there are no two leaders to be heard.
        let others = outgoing.difference(&side).count();
        if 2 * others <= conf.outgoing.len() {
            return;
        }
        self.coverage.changes_cut += 1;
        self.tell(format_args!(
            "nodes {} are cut off in the middle of a change of group {group}",
            self.names(&side)
        ));
        let crosses = |a: usize, b: usize| side.contains(&a) != side.contains(&b);
        self.block_pairs(crosses);
        if self.prng.percent(85) {
            // They notice at once.
            for a in 0..self.nodes.len() {
                (a + 1..self.nodes.len())
                    .filter(|b| crosses(a, *b))
                    .for_each(|b| self.break_connection(a, b));
            }
        }
        // Both sides need the time in which one of them elects and the other does not know it yet.
        let lasts = self.prng.between(1_000_000, 3_000_000);
        self.cut_until = self.now_us + lasts;
        self.schedule(lasts, Happening::Ends(Spell::Partition));
    }
}
