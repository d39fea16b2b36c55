//! What an operator may change about a group's members: one node at a time, always through a joint configuration.

use settle_base::{GroupId, Mono, NodeId, PeerId};
use settle_machine::Service;
use settle_raft::{ConfChange, ConfChangeKind};
use settle_storage::{Disk, DiskRead};

use crate::{Host, Member, MemberRole, members::Book, versions::is_new_enough};

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
                let status = g.raft.status();
                let lag = |p: &settle_raft::PeerStatus| status.last_index.saturating_sub(p.matched);
                let is_close = |p: &settle_raft::PeerStatus| p.peer == peer && p.recent_active && !p.recovering;
                if !status.progress.iter().any(|p| is_close(p) && lag(p) <= promote_within) {
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
}
