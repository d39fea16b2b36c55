//! What operators ask of a node, and what they are told: each request is answered by one
//! [`HostNote::Operated`] in the same step. What it begins may take longer; the other notes tell how it went on.

use std::time::Duration;

use settle_base::{ErrorCode, GroupId, Mono, NodeId, PeerId, Retryable};
use settle_machine::Service;
use settle_raft::{ConfState, LossWindow, ResetError};
use settle_storage::{Disk, DiskRead};

use crate::{Host, HostAction, HostNote, members::Book};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OperatorRequest {
    /// The node's data directory is lost for good; let its new, empty one in, in every group known here. The permission
    /// is part of the groups' history, so that no later leader asks for it again, and ends with the replacement or after
    /// [`HostConfig::replace_permission`](crate::HostConfig::replace_permission). Asked of any member; `at_ms` is the
    /// wall time, for display.
    ReplaceMember {
        node: NodeId,
        at_ms: u64,
    },
    TransferLeader {
        group: GroupId,
        to: NodeId,
    },
    TakeSnapshot {
        group: GroupId,
    },
    /// Makes `node`'s replica a learner, a voter (once it has caught up as a learner), or no member any more. To be asked
    /// of the group's leader.
    ChangeMember {
        group: GroupId,
        node: NodeId,
        role: MemberRole,
    },
    /// Makes the replicas of exactly these nodes the voters of the group, in one change, and removes the others. Whoever
    /// is new must have caught up as a learner before, but for witnesses; learners that are not named stay learners. To
    /// be asked of the group's leader, which may be among those that leave.
    ChangeVoters {
        group: GroupId,
        voters: Vec<NodeId>,
    },
    /// Machines are to apply as of cluster version `version` in every group that is led here. Every member of every
    /// group here must be connected, of a build that can. `at_ms` is the wall time, for display.
    RaiseClusterVersion {
        version: u32,
        at_ms: u64,
    },
    /// This process is about to stop: hand over whatever it leads, and take no more.
    HandOverAll,
    /// A majority of the group's voters is lost for good: go on with the voters that live on `survivors`. Asked of one of
    /// them, best of that whose log reaches furthest, and again should it restart before the members have changed.
    /// What may be lost is told by [`OperatorDone::Reset`].
    ResetMembers {
        group: GroupId,
        survivors: Vec<NodeId>,
    },
}

/// What a node's replica is to be in a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemberRole {
    Voter,
    /// Gets everything, decides nothing.
    Learner,
    Removed,
}

/// What an operator's request has led to so far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OperatorDone {
    /// It is under way.
    Begun,
    /// So many groups are led here, and are being handed over; [`Host::groups_led`] tells how many are left.
    HandingOver {
        groups: usize,
    },
    Reset(ResetReport),
    /// It is proposed in so many groups. Others have a lower version too, and are led by the nodes `ask` or, as far as is
    /// known here, by nobody.
    RaisingVersion {
        groups: usize,
        ask: Vec<NodeId>,
        leaderless: usize,
    },
}

/// What a forced change of members may cost: entries after `window.last` that the lost voters had acknowledged are gone,
/// those after `window.commit` up to there are kept although nobody may have been told of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResetReport {
    pub group: GroupId,
    pub window: LossWindow,
    /// The survivors that vote from now on.
    pub voters: Vec<PeerId>,
    /// Who does not any more, and for how long it has not been connected here. Clients can have been answered since
    /// then only by these.
    pub lost: Vec<LostMember>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LostMember {
    pub node: NodeId,
    pub peer: PeerId,
    pub unconnected_for: Duration,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OperatorError {
    #[error("group {group} has no replica on this node")]
    UnknownGroup { group: GroupId },
    #[error("this node does not lead group {group}{}", leader.map_or(String::new(), |node| format!(": ask node {node}")))]
    NotLeader { group: GroupId, leader: Option<NodeId> },
    #[error("node {to} cannot lead group {group} now: it is not connected, no full voter, or not whole")]
    NoHeir { group: GroupId, to: NodeId },
    #[error("a snapshot of group {group} would hold nothing new, or one is under way")]
    NothingToTake { group: GroupId },
    #[error(
        "group {group} has a leader, or a majority of its voters is connected: its members can be changed without loss"
    )]
    HasQuorum { group: GroupId, leader: Option<NodeId> },
    #[error(
        "node {node} cannot become that in group {group} now: this node does not lead it, another change is under way, \
             the node is not connected, or it has to catch up as a learner first"
    )]
    NoChange { group: GroupId, node: NodeId },
    #[error("no group here has node {node} as a member: ask a node that is in a group with it")]
    UnknownMember { node: NodeId },
    #[error(
        "the permission to replace node {node} did not reach {groups} groups, which have no leader that is known here or \
             take nothing now: ask again, or ask their leaders' nodes"
    )]
    NotTaken { node: NodeId, groups: usize },
    #[error("cluster version {version} cannot be raised to: node {node} runs build {build}")]
    OldBuild { node: NodeId, build: u32, version: u32 },
    #[error("cluster version {version} cannot be raised to: node {node} is not connected, so its build is not known")]
    UnknownBuild { node: NodeId, version: u32 },
    #[error(
        "this node's replica of group {group} is in quarantine: its state is wrong, and nobody would be left to rebuild it"
    )]
    Quarantined { group: GroupId },
    #[error("the members of group {group} cannot be reset")]
    Reset { group: GroupId, source: ResetError },
}

impl OperatorError {
    pub fn code(&self) -> ErrorCode {
        let number = match self {
            OperatorError::UnknownGroup { .. } => 61,
            OperatorError::NotLeader { .. } => 62,
            OperatorError::NoHeir { .. } => 63,
            OperatorError::NothingToTake { .. } => 64,
            OperatorError::HasQuorum { .. } => 65,
            OperatorError::Reset { .. } => 66,
            OperatorError::NoChange { .. } => 67,
            OperatorError::UnknownMember { .. } => 68,
            OperatorError::NotTaken { .. } => 69,
            OperatorError::OldBuild { .. } => 70,
            OperatorError::UnknownBuild { .. } => 71,
            OperatorError::Quarantined { .. } => 72,
        };
        ErrorCode::new("HO", number)
    }

    pub fn retryable(&self) -> Retryable {
        match self {
            OperatorError::NotLeader { .. }
            | OperatorError::NoChange { .. }
            | OperatorError::NoHeir { .. }
            | OperatorError::NotTaken { .. }
            | OperatorError::UnknownBuild { .. }
            | OperatorError::NothingToTake { .. } => Retryable::Yes,
            _ => Retryable::No,
        }
    }
}

pub type OperatorOutcome = Result<OperatorDone, OperatorError>;

impl<S: Service, D: Disk + DiskRead> Host<S, D> {
    pub(crate) fn operator(&mut self, request: OperatorRequest, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        let outcome = match &request {
            OperatorRequest::ReplaceMember { node, at_ms } => self.allow_replace(*node, *at_ms, now, out),
            OperatorRequest::TransferLeader { group, to } => self.transfer_leader(*group, *to),
            OperatorRequest::TakeSnapshot { group } => {
                let is_here = self.groups.get(group).is_some();
                match is_here && self.begin_snapshot(*group, now) {
                    true => Ok(OperatorDone::Begun),
                    false if is_here => Err(OperatorError::NothingToTake { group: *group }),
                    false => Err(OperatorError::UnknownGroup { group: *group }),
                }
            }
            OperatorRequest::ChangeMember { group, node, role } => {
                let (group, node) = (*group, *node);
                let is_proposed = self.change_member(group, node, *role, now);
                is_proposed
                    .then_some(OperatorDone::Begun)
                    .ok_or(OperatorError::NoChange { group, node })
            }
            OperatorRequest::ChangeVoters { group, voters } => {
                let group = *group;
                let changed = self.change_voters(group, voters, now);
                changed
                    .map(|()| OperatorDone::Begun)
                    .map_err(|node| OperatorError::NoChange { group, node })
            }
            OperatorRequest::RaiseClusterVersion { version, at_ms } => {
                self.raise_cluster_version(*version, *at_ms, now)
            }
            OperatorRequest::HandOverAll => {
                self.is_leaving = true;
                let groups = self.groups_led();
                self.hand_over_all(self.disk_wait(now), out);
                Ok(OperatorDone::HandingOver { groups })
            }
            OperatorRequest::ResetMembers { group, survivors } => self.reset_members(*group, survivors, now),
        };
        out.push(HostAction::Note(HostNote::Operated { request, outcome }));
    }

    fn transfer_leader(&mut self, id: GroupId, to: NodeId) -> OperatorOutcome {
        let heir = match self.peers.get(&to) {
            Some(peer) => Some(peer.hello.incarnation),
            None => (to == self.config.node).then_some(self.identity.incarnation),
        };
        let (group, leader) = match self.groups.get(&id) {
            None => return Err(OperatorError::UnknownGroup { group: id }),
            Some(group) => (id, group.role.leader),
        };
        let replica = self.groups.get_mut(&id).expect("it was just asked");
        if !replica.raft.is_leader() {
            return Err(OperatorError::NotLeader { group, leader });
        }
        let is_begun = heir.is_some_and(|heir| replica.raft.transfer_leader(heir).is_ok());
        is_begun
            .then_some(OperatorDone::Begun)
            .ok_or(OperatorError::NoHeir { group, to })
    }

    fn reset_members(&mut self, id: GroupId, survivors: &[NodeId], now: Mono) -> OperatorOutcome {
        let Some(group) = self.groups.get(&id) else {
            return Err(OperatorError::UnknownGroup { group: id });
        };
        let leader = group.role.leader;
        let conf = group.raft.conf();
        let is_here = |peer: &&PeerId| self.node_of(**peer).is_some();
        let has_majority = |voters: &[PeerId]| 2 * voters.iter().filter(is_here).count() > voters.len();
        let is_joint_lost = conf.is_joint() && !has_majority(&conf.outgoing);
        if leader.is_some() || (has_majority(&conf.voters) && !is_joint_lost) {
            return Err(OperatorError::HasQuorum { group: id, leader });
        }
        if group.is_quarantined() {
            return Err(OperatorError::Quarantined { group: id });
        }
        let survives = |peer: &PeerId| {
            group
                .book
                .get(*peer)
                .is_some_and(|member| survivors.contains(&member.node))
        };
        let of = |peers: &[PeerId]| peers.iter().copied().filter(survives).collect::<Vec<_>>();
        let voters = of(&conf.voters);
        let forced = ConfState {
            learners: of(&conf.learners),
            // Those of the outgoing half alone are no voters any more.
            witnesses: of(&conf.witnesses)
                .into_iter()
                .filter(|id| voters.contains(id))
                .collect(),
            ..ConfState::of_voters(voters.iter().copied())
        };
        let lost = group.book.iter().filter(|member| !survivors.contains(&member.node));
        let lost = lost.map(|member| LostMember {
            node: member.node,
            peer: member.peer,
            unconnected_for: match self.node_of(member.peer) {
                Some(_) => Duration::ZERO,
                None => now.since(self.last_connected.get(&member.peer).copied().unwrap_or(self.started)),
            },
        });
        let lost = lost.collect();
        let kept = group.book.iter().filter(|member| survivors.contains(&member.node));
        let context = Book::new(kept.cloned()).encode();
        let replica = self.groups.get_mut(&id).expect("it was just asked");
        let reset = replica.raft.reset_conf(forced, context);
        let window = reset.map_err(|source| OperatorError::Reset { group: id, source })?;
        self.counters.members_reset += 1;
        Ok(OperatorDone::Reset(ResetReport {
            group: id,
            window,
            voters,
            lost,
        }))
    }
}
