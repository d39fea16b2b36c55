//! An orderly end: who leads next is settled before this server goes.

use settle_base::{GroupId, NodeId};
use settle_host::HostStatus;
use settle_raft::Role;

/// For each group that this node leads, the connected voter that lacks least. Groups without one are left out.
pub(crate) fn heirs(status: &HostStatus) -> Vec<(GroupId, NodeId)> {
    let is_led = |group: &&settle_host::GroupStatus| group.raft.role == Role::Leader;
    let of_group = |group: &settle_host::GroupStatus| {
        let conf = &group.raft.conf;
        let able = group.raft.progress.iter().filter(|peer| {
            let is_voter = conf.voters.contains(&peer.peer) && !conf.witnesses.contains(&peer.peer);
            is_voter && peer.recent_active && !peer.recovering
        });
        let connected = able.filter_map(|peer| {
            let (node, ..) = status
                .peers
                .iter()
                .find(|(_, id, linked)| *id == peer.peer && *linked)?;
            Some((peer.matched, *node))
        });
        connected.max().map(|(_, node)| (group.group, node))
    };
    status.groups.iter().filter(is_led).filter_map(of_group).collect()
}

/// Whether nobody waits for this node's leadership any more: another leads each of `groups`.
pub(crate) fn is_done(status: &HostStatus, groups: &[(GroupId, NodeId)]) -> bool {
    let led_elsewhere = |id: GroupId| {
        let group = status.groups.iter().find(|group| group.group == id);
        group.is_none_or(|group| group.role.leader.is_some_and(|leader| leader != status.node))
    };
    groups.iter().all(|(id, _)| led_elsewhere(*id))
}
