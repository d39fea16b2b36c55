//! What an operator may change about a group's members: one node, or all voters at once, always through a joint
//! configuration.

use std::collections::BTreeSet;

use settle_base::{GroupId, Mono, NodeId, PeerId};
use settle_machine::Service;
use settle_raft::{ConfChange, ConfChangeKind};
use settle_storage::{Disk, DiskRead};

use crate::{
    Host, HostAction, HostCommand, Member, MemberRole, OperatorDone, OperatorError, OperatorOutcome, PeerMessage,
    host::send, members::Book, versions::is_new_enough,
};

impl<S: Service, D: Disk + DiskRead> Host<S, D> {
    /// Proposes that `node`'s replica gets `role` in `group`. False when this replica does not lead the group, another
    /// change is under way, the node is not connected or of a build too old for the version in force, or it would have to catch up as a learner first.
    pub(crate) fn change_member(&mut self, group: GroupId, node: NodeId, role: MemberRole, now: Mono) -> bool {
        let (peer, witness) = match self.peers.get(&node) {
            _ if node == self.config.node => (Some(self.identity.incarnation), self.identity.witness),
            Some(peer) => (peer.is_linked.then_some(peer.hello.incarnation), peer.hello.witness),
            None => (None, false),
        };
        let build = self.peers.get(&node).map(|p| p.hello.build);
        let configured = self.config.nodes.iter().find(|(n, _)| *n == node);
        let configured = configured.map(|(_, address)| address.clone());
        let promote_within = self.config.promote_within_entries;
        let Some(g) = self.groups.get_mut(&group).filter(|g| g.is_ready_leader()) else {
            return false;
        };
        let is_brought = role != MemberRole::Removed;
        if is_brought && build.is_some_and(|build| !is_new_enough(build, g.book.cluster_version())) {
            return false;
        }
        let known = g.book.iter().find(|m| m.node == node).map(|m| m.address.clone());
        let address = configured.or(known).unwrap_or_default();
        let here: Vec<PeerId> = g.book.iter().filter(|m| m.node == node).map(|m| m.peer).collect();
        let conf = g.raft.conf();
        let (changes, context) = match (role, peer) {
            (MemberRole::Removed, _) if !here.is_empty() => {
                let changes = here.into_iter().map(ConfChangeKind::Remove).collect();
                (changes, Book::default().encode())
            }
            // It has nothing to catch up with, and nothing to learn.
            (MemberRole::Voter, Some(peer)) if witness && !conf.is_voter(peer) => {
                let member = Member {
                    peer,
                    node,
                    address,
                    witness,
                };
                (vec![ConfChangeKind::AddWitness(peer)], Book::new([member]).encode())
            }
            (MemberRole::Learner, Some(peer)) if !witness && !conf.learners.contains(&peer) => {
                let member = Member {
                    peer,
                    node,
                    address,
                    witness,
                };
                (vec![ConfChangeKind::AddLearner(peer)], Book::new([member]).encode())
            }
            (MemberRole::Voter, Some(peer)) if conf.learners.contains(&peer) => {
                if !g.has_caught_up(peer, promote_within) {
                    return false;
                }
                let member = Member {
                    peer,
                    node,
                    address,
                    witness,
                };
                (vec![ConfChangeKind::AddVoter(peer)], Book::new([member]).encode())
            }
            _ => return false,
        };
        let time = g.time(now);
        g.raft
            .propose_conf_change(ConfChange { changes, context }, time)
            .is_ok()
    }

    /// Proposes that the replicas of exactly `nodes` are voters. An error names the node for which it cannot be: the first
    /// one that is not connected, of a build too old or not caught up, or this one, which does not lead or has another
    /// change under way.
    pub(crate) fn change_voters(&mut self, group: GroupId, nodes: &[NodeId], now: Mono) -> Result<(), NodeId> {
        let own = self.config.node;
        let g = self.groups.get(&group).filter(|g| g.is_ready_leader()).ok_or(own)?;
        let conf = g.raft.conf();
        let promote_within = self.config.promote_within_entries;
        let has_caught_up = |peer: PeerId| conf.learners.contains(&peer) && g.has_caught_up(peer, promote_within);
        let (mut stay, mut brought, mut changes) = (Vec::new(), Vec::new(), Vec::new());
        for &node in nodes {
            let is_voter = |m: &&Member| m.node == node && conf.voters.contains(&m.peer);
            if let Some(member) = g.book.iter().find(is_voter) {
                stay.push(member.peer);
                continue;
            }
            let peer = self.peers.get(&node).filter(|peer| peer.is_linked).ok_or(node)?;
            let hello = &peer.hello;
            let (peer, witness) = (hello.incarnation, hello.witness);
            if !is_new_enough(hello.build, g.book.cluster_version()) || !(witness || has_caught_up(peer)) {
                return Err(node);
            }
            let known = g.book.iter().find(|m| m.node == node).map(|m| m.address.clone());
            let configured = self.config.nodes.iter().find(|(n, _)| *n == node);
            let address = configured.map(|(_, address)| address.clone()).or(known);
            brought.push(Member {
                peer,
                node,
                address: address.unwrap_or_default(),
                witness,
            });
            changes.push(match witness {
                true => ConfChangeKind::AddWitness(peer),
                false => ConfChangeKind::AddVoter(peer),
            });
        }
        let leave = conf.voters.iter().filter(|peer| !stay.contains(peer));
        changes.extend(leave.map(|peer| ConfChangeKind::Remove(*peer)));
        if changes.is_empty() {
            return Ok(());
        }
        let context = Book::new(brought).encode();
        let group = self.groups.get_mut(&group).expect("it was just asked");
        let time = group.time(now);
        let change = ConfChange { changes, context };
        group.raft.propose_conf_change(change, time).map(drop).map_err(|_| own)
    }

    /// Lets `node`'s lost directory be replaced in all groups that it is known here to be a member of: proposes that in
    /// those led here, and passes it on to the leaders of the others.
    pub(crate) fn allow_replace(
        &mut self,
        node: NodeId,
        at_ms: u64,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> OperatorOutcome {
        let (mut is_known, mut leaderless, mut ask) = (false, 0, BTreeSet::new());
        for group in self.groups.values().filter(|g| g.book.knows_node(node)) {
            is_known = true;
            match self.node_of(group.raft.leader()) {
                Some(leader) if leader == self.config.node => {}
                Some(leader) => _ = ask.insert(leader),
                None => leaderless += 1,
            }
        }
        if !is_known {
            return Err(OperatorError::UnknownMember { node });
        }
        let groups = leaderless + self.allow_replace_here(node, self.config.node, at_ms, now);
        for leader in ask {
            send(out, leader, PeerMessage::AllowReplace { node, at_ms });
        }
        match groups {
            0 => Ok(OperatorDone::Begun),
            groups => Err(OperatorError::NotTaken { node, groups }),
        }
    }

    /// The same for the groups that are led here; how many of them did not take it. One that is in force for long enough, or
    /// on its way into the log, is not given again: who asks often does not fill the log, least of all of a group that
    /// commits nothing.
    pub(crate) fn allow_replace_here(&mut self, node: NodeId, by: NodeId, at_ms: u64, now: Mono) -> usize {
        let valid = self.config.replace_permission;
        let command = HostCommand::AllowReplace {
            node,
            by,
            at_ms,
            valid_ms: valid.as_millis() as u64,
        };
        let mut not_taken = 0;
        for id in self.groups.led_by(self.identity.incarnation) {
            let group = self.groups.get(&id).expect("only groups that are here are filed");
            let time = group.time(now);
            if !group.book.knows_node(node) || group.book.may_replace(node, time + valid / 2) {
                continue;
            }
            let group = self.groups.get_mut(&id).expect("it was just asked");
            let (own_term, applied) = (group.raft.term(), group.applied.index);
            group
                .allowing
                .retain(|(_, term, index)| *term == own_term && *index > applied);
            if group.allowing.iter().any(|(allowed, ..)| *allowed == node) {
                continue;
            }
            match group.raft.propose_host(command.encode(), time, None) {
                Ok((term, index)) => group.allowing.push((node, term, index)),
                Err(_) => not_taken += 1,
            }
        }
        not_taken
    }
}
