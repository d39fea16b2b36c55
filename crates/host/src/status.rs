//! What can be seen of a host from outside.

use std::time::Duration;

use settle_base::{GroupId, GroupTime, Mono, NodeId, PeerId};
use settle_machine::{GroupRole, Service};
use settle_raft::Status;
use settle_storage::{Disk, DiskRead};
use settle_wal::WalStats;

use crate::{CheckerCounters, ClusterId, Host, Member, QuarantineStatus};

/// Counts since the process started.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct HostCounters {
    pub proposals: u64,
    pub proposals_forwarded: u64,
    /// Forwarded to this node by others.
    pub proposals_taken_over: u64,
    pub dropped_no_leader: u64,
    pub dropped_not_leader: u64,
    pub dropped_too_long: u64,
    pub dropped_full: u64,
    pub dropped_disk_full: u64,
    pub dropped_unknown_group: u64,
    /// Asked for in a term that was over.
    pub dropped_term_changed: u64,
    /// Commands that no replica could have applied.
    pub dropped_unreadable: u64,
    pub reads: u64,
    pub reads_answered: u64,
    pub reads_dropped: u64,
    /// Of those: this replica is too far behind, see [`HostConfig::read_lag_max`](crate::HostConfig::read_lag_max).
    pub reads_behind: u64,
    pub entries_applied: u64,
    pub conf_changes: u64,
    pub joint_entered: u64,
    pub elections_won: u64,
    pub handed_over: u64,
    /// After the loss of a majority, by an operator.
    pub members_reset: u64,
    /// Given away to spread leaderships evenly.
    pub leaders_moved: u64,
    pub disk_full: u64,
    /// Live entries of a group written again at the log's end, so that its oldest segment could go.
    pub groups_rewritten: u64,
    pub groups_created: u64,
    pub groups_destroyed: u64,
    /// Replicas that were stopped, see [`HostNote::GroupStopped`](crate::HostNote::GroupStopped).
    pub groups_stopped: u64,
    /// Machines stopped before an entry that needed something.
    pub applies_paused: u64,
    /// Ends of another group's history that a log took, or had.
    pub handed_entries: u64,
    /// Machines that waited before an entry and took the leader's state instead.
    pub states_taken: u64,
    pub snapshots_taken: u64,
    pub snapshots_given_up: u64,
    pub snapshots_sent: u64,
    /// Windows of chunks that were sent again.
    pub snapshots_resumed: u64,
    pub snapshots_installed: u64,
    /// Logs of a witness cut back to what the full voters hold.
    pub witness_cuts: u64,
    /// Places in the logs at which a machine's hash was noted.
    pub hash_marks: u64,
    /// Verdicts of a majority on such hashes that were met.
    pub hash_verdicts: u64,
    /// Led here, and no majority agreed.
    pub hash_marks_divided: u64,
    /// Replicas here whose machine was found wrong.
    pub quarantines: u64,
    /// From a peer that is not (yet) of our cluster, or for a group that is not here.
    pub messages_ignored: u64,
    /// Waited for a write and were overtaken by a later term or log.
    pub messages_outdated: u64,
    /// Nothing was heard from a connected peer for an election timeout.
    pub peers_fell_silent: u64,
    /// To a peer that is not connected.
    pub messages_undeliverable: u64,
}

/// So many groups stand in a [`HostStatus`] at most.
pub const GROUPS_TOLD: usize = 100;

/// How many of a node's groups are how.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct GroupCounts {
    pub here: usize,
    /// The others rest: they count no time and send nothing until something happens.
    pub awake: usize,
    /// Led by this node's replica.
    pub led: usize,
    /// This node's replica knows no leader, or is not connected with it.
    pub leaderless: usize,
    /// Stopped here, and not among those above: see [`Host::stopped_groups`].
    pub stopped: usize,
}

#[derive(Clone, Debug)]
pub struct HostStatus {
    pub node: NodeId,
    pub incarnation: PeerId,
    pub cluster: Option<ClusterId>,
    pub counts: GroupCounts,
    /// The first [`GROUPS_TOLD`]; [`Host::group_statuses`] tells of others.
    pub groups: Vec<GroupStatus>,
    /// Snapshots that are to be sent when others have ended.
    pub snapshots_waiting: usize,
    /// Nodes that a connection is up with, and whether they belong to our cluster.
    pub peers: Vec<(NodeId, PeerId, bool)>,
    pub counters: HostCounters,
    pub checker: CheckerCounters,
    pub wal: Option<WalStats>,
    pub disk_is_full: bool,
    /// How long the oldest unwritten batch has waited, and the last durable one had.
    pub disk_wait: Duration,
    pub disk_wait_last: Duration,
    pub is_dead: bool,
}

#[derive(Clone, Debug)]
pub struct GroupStatus {
    pub group: GroupId,
    pub role: GroupRole,
    pub time: GroupTime,
    pub members: Vec<Member>,
    /// It counts no time and sends nothing until something happens.
    pub is_resting: bool,
    /// Its machine was found wrong: it serves nothing until it is rebuilt.
    pub quarantine: Option<QuarantineStatus>,
    pub raft: Status,
}

impl<S: Service, D: Disk + DiskRead> Host<S, D> {
    pub fn counters(&self) -> &HostCounters {
        &self.counters
    }

    /// What the log has done since the process started; zeros before there is one.
    pub fn wal_stats(&self) -> WalStats {
        self.wal.as_ref().map(|wal| wal.stats()).unwrap_or_default()
    }

    /// Costs the same however many groups there are.
    pub fn group_counts(&self) -> GroupCounts {
        GroupCounts {
            here: self.groups.len(),
            awake: self.groups.awake_count(),
            led: self.groups_led(),
            leaderless: {
                let lost = self.groups.leaders().filter(|(peer, _)| self.node_of(*peer).is_none());
                lost.map(|(_, groups)| groups).sum()
            },
            stopped: self.stopped.len(),
        }
    }

    /// Groups whose leader this node's replica is.
    pub fn groups_led(&self) -> usize {
        self.groups.led_by_count(self.identity.incarnation)
    }

    /// In the order of their ids.
    pub fn group_ids(&self) -> impl Iterator<Item = GroupId> {
        self.groups.values().map(|group| group.id)
    }

    /// The first `limit` groups after `after`, in full.
    pub fn group_statuses(&self, after: Option<GroupId>, limit: usize, now: Mono) -> Vec<GroupStatus> {
        let groups = self.groups.after(after).take(limit).map(|g| GroupStatus {
            group: g.id,
            role: g.role,
            time: g.time(now),
            members: g.book.iter().cloned().collect(),
            is_resting: g.raft.is_resting(),
            quarantine: g.quarantine(),
            raft: g.raft.status(),
        });
        groups.collect()
    }

    /// Costs the same however many groups there are.
    pub fn status(&self, now: Mono) -> HostStatus {
        let peers = self.peers.iter();
        HostStatus {
            node: self.config.node,
            incarnation: self.identity.incarnation,
            cluster: self.identity.cluster,
            counts: self.group_counts(),
            groups: self.group_statuses(None, GROUPS_TOLD, now),
            snapshots_waiting: self.transfers_waiting.len(),
            peers: peers
                .map(|(node, p)| (*node, p.hello.incarnation, p.is_linked))
                .collect(),
            counters: self.counters,
            checker: self.checker.counters(),
            wal: self.wal.as_ref().map(|wal| wal.stats()),
            disk_is_full: self.disk_is_full,
            disk_wait: self.disk_wait(now),
            disk_wait_last: self.sync_last,
            is_dead: self.is_dead,
        }
    }
}
