//! Which version of `apply` the machines go by: every node tells what its build can do, an operator raises what is in
//! force once all members can, and a build that cannot never applies an entry.

use std::collections::BTreeSet;

use settle_base::{Mono, NodeId, mutant};
use settle_machine::Service;
use settle_storage::{Disk, DiskRead};

use crate::{Host, HostCommand, OperatorDone, OperatorError, OperatorOutcome};

/// Whether a node of this `build` can apply entries as of cluster version `version`.
pub(crate) fn is_new_enough(build: u32, version: u32) -> bool {
    build >= version || mutant!("version_gate_ignored")
}

/// What is known here of builds and versions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VersionStatus {
    /// The lowest and the highest cluster version in force among the groups here; `None` without any.
    pub in_force: Option<(u32, u32)>,
    /// Every configured node and every member of a group here, in order, with what it told of its build; `None` when
    /// it is not connected.
    pub builds: Vec<(NodeId, Option<u32>)>,
}

impl<S: Service, D: Disk + DiskRead> Host<S, D> {
    /// Looks at all groups: for operators.
    pub fn versions(&self) -> VersionStatus {
        let versions = || self.groups.values().map(|group| group.book.cluster_version());
        let members = self.groups.values().flat_map(|group| group.book.iter().map(|m| m.node));
        let nodes: BTreeSet<NodeId> = members.chain(self.config.nodes.iter().map(|(node, _)| *node)).collect();
        VersionStatus {
            in_force: versions().min().zip(versions().max()),
            builds: nodes.into_iter().map(|node| (node, self.build_of(node))).collect(),
        }
    }

    fn build_of(&self, node: NodeId) -> Option<u32> {
        match node == self.config.node {
            true => Some(self.config.build_version),
            false => self.peers.get(&node).filter(|p| p.is_linked).map(|p| p.hello.build),
        }
    }

    /// Proposes `version` in every group that is led here, when every member of every group here is connected and its
    /// build can do it.
    pub(crate) fn raise_cluster_version(&mut self, version: u32, at_ms: u64, now: Mono) -> OperatorOutcome {
        let mut members: BTreeSet<NodeId> = self.groups.books().flat_map(|b| b.iter().map(|m| m.node)).collect();
        members.insert(self.config.node);
        for node in members {
            match self.build_of(node) {
                Some(build) if is_new_enough(build, version) => {}
                Some(build) => return Err(OperatorError::OldBuild { node, build, version }),
                None => return Err(OperatorError::UnknownBuild { node, version }),
            }
        }
        let by = self.config.node;
        let command = HostCommand::ClusterVersion { version, by, at_ms }.encode();
        let is_lower = |group: &&crate::group::Group<S::Machine>| group.book.cluster_version() < version;
        let lower: Vec<_> = self
            .groups
            .values()
            .filter(is_lower)
            .map(|g| (g.id, g.role.leader))
            .collect();
        let (mut groups, mut ask, mut leaderless) = (0, BTreeSet::new(), 0);
        for (id, leader) in lower {
            let group = self.groups.get_mut(&id).expect("it was just listed");
            let time = group.time(now);
            if group.raft.propose_host(command.clone(), time, None).is_ok() {
                groups += 1;
            } else {
                match leader {
                    Some(leader) => drop(ask.insert(leader)),
                    None => leaderless += 1,
                }
            }
        }
        let ask = ask.into_iter().collect();
        Ok(OperatorDone::RaisingVersion {
            groups,
            ask,
            leaderless,
        })
    }
}
