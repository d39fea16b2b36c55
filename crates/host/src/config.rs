use std::time::Duration;

use settle_base::{GroupId, NodeId};
use settle_wal::WalOptions;

/// How one node's host works. Every bound has its field here.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// This node.
    pub node: NodeId,
    /// All configured nodes with their peer addresses, this one included. They are who a new cluster is founded of.
    pub nodes: Vec<(NodeId, String)>,
    /// The groups a new cluster is founded with.
    pub groups: Vec<GroupId>,
    /// Decides election jitter, stream ids and, when this node founds one, the cluster id: random for each process.
    pub seed: u64,
    /// How often the owner sends [`HostEvent::Tick`](crate::HostEvent::Tick).
    pub tick: Duration,
    pub election_ticks: u32,
    pub heartbeat_ticks: u32,
    /// A group rests when nothing happened in it for so many ticks: it costs nothing until something does. 0 is never.
    pub hibernate_after_ticks: u32,
    /// Entries of one append message, in bytes; a longer entry travels alone.
    pub append_bytes_max: usize,
    /// Append messages on the way to one follower.
    pub appends_in_flight_max: usize,
    /// A group takes a snapshot when it has applied this many bytes of log since its last one; the further back a node
    /// stands in `nodes`, the earlier, up to a quarter: so its replicas are not all busy with it at the same moment.
    pub snapshot_after_bytes: u64,
    /// And when the oldest of them was applied so long ago.
    pub snapshot_after: Duration,
    /// When the logs of all groups since their last snapshots take more bytes than this, the groups with the largest
    /// ones take theirs early. So memory is bounded whatever the number of groups.
    pub log_memory_max: u64,
    /// A snapshot's piece, in a file and on its way to a peer.
    pub snapshot_chunk_bytes: usize,
    /// What this node sends of snapshots in a second, in bytes, to all its peers together.
    ///
    /// The default leaves the writers their throughput: with two cores, 1 GiB sent at 32 MiB/s left them all of it, at
    /// 128 MiB/s a little more than half.
    pub snapshot_bytes_per_second: u64,
    /// What this node writes of its own snapshots in a second, in bytes, those of all groups together; and two bytes more
    /// for each by which a log grows, so that a snapshot is done before it is worth little. While the logs take more than
    /// half of `log_memory_max`, as fast as the disk does.
    pub snapshot_write_bytes_per_second: u64,
    /// How long a transfer that makes no progress, as when the connection is broken, may still go on from where it was.
    pub snapshot_resume: Duration,
    /// Entries before a snapshot that stay in memory for followers that are a little behind.
    pub keep_tail_entries: u64,
    /// Whether a node that comes back with an empty disk is replaced without an operator.
    pub auto_replace: bool,
    /// For how many election timeouts the lost replica must not have been connected before that: a node that was
    /// started twice by mistake, once on an empty directory, is not to lose the other.
    pub auto_replace_after_elections: u32,
    /// For how long, of a group's time, an operator's permission to replace a node's lost directory is good.
    pub replace_permission: Duration,
    /// A learner is promoted when it lacks at most this many entries.
    pub promote_within_entries: u64,
    /// A leader whose oldest write has waited this long for the disk hands leadership over.
    pub slow_disk: Duration,
    /// A leader that has committed so many entries more than it has applied hands leadership over too.
    pub apply_lag_max: u64,
    /// This node's replicas keep the log but no machine: they vote and acknowledge, so that a group of two full replicas
    /// and a witness goes on without either, at the cost of two. Decided by the first start of a data directory.
    pub witness: bool,
    /// What a witness keeps of one group's log, in bytes, for a full voter that is behind. Beyond it the witness drops what
    /// it has applied, and such a voter can be brought up to date by another full voter only.
    pub witness_log_bytes_max: u64,
    /// Entries that a replica which does not lead may have to apply yet before it could answer a linearizable read. A read
    /// that would have to wait for more is dropped at once.
    pub read_lag_max: u64,
    /// How willing this node is to lead, up to [`settle_raft::PRIORITY_MAX`]; 0 is only when nobody else can.
    pub election_priority: u8,
    /// Leaderships that a node which leads more than its share gives away in a second; 0 leaves them where they are.
    pub leader_moves_per_second: u32,
    /// The log may be this many times as large as what lives in it (and two segments beside the current one in any
    /// case). Beyond it the few live entries that keep its oldest segment are written again at its end.
    pub log_space_factor: u64,
    /// Of one group, in bytes; a group with more live entries takes a snapshot instead. Also the most that is written
    /// again in one tick, but for a group that was stopped: up to a batch of the log.
    pub log_rewrite_bytes_max: u64,
    /// The whole way of one proposal in so many is kept ([`Host::timelines`](crate::Host::timelines)); 0 keeps none.
    pub stage_sample_every: u64,
    /// The highest cluster version that this binary's machines can apply. Told to every peer.
    pub build_version: u32,
    /// After so many commands the leader has the replicas' machines compared, when their hash is cheap
    /// ([`settle_machine::StateMachine::is_hash_cheap`]); 0 is never.
    pub state_hash_every: u64,
    pub limits: Limits,
    pub wal: WalOptions,
}

/// What may be held at once.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The longest command, in bytes. Longer ones are refused.
    pub proposal_bytes_max: usize,
    /// Groups on this node, those included that were destroyed: their ids are remembered for ever. No more are created.
    pub groups_max: usize,
    /// What may wait in a group's log for a machine that cannot go on, in bytes: one that waits for what an entry needs,
    /// or for its rebuilding. Beyond it a leader takes no commands and a follower no entries.
    pub paused_log_bytes_max: usize,
    /// Linearizable reads waiting, per group. Further ones are dropped.
    pub reads_in_flight_max: usize,
    /// A snapshot being received is given up beyond this size, in bytes.
    pub snapshot_bytes_max: u64,
    /// Snapshots on their way from this node at once, and how many of them to one peer. Further ones wait for their turn.
    pub snapshots_sent_max: usize,
    pub snapshots_sent_to_peer_max: usize,
    /// Raft messages to one peer are cut into batches of about this many bytes.
    pub peer_batch_bytes: usize,
    /// When a node is about to stop, or its disk is too slow: groups that it asks others to lead in one tick. Each costs a
    /// few messages and an election.
    pub hand_overs_per_tick: usize,
    /// When a node is lost: groups that ask for another leader in one tick.
    pub takeovers_per_tick: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            proposal_bytes_max: 8 << 20,
            groups_max: 1 << 20,
            paused_log_bytes_max: 64 << 20,
            reads_in_flight_max: 65_536,
            snapshot_bytes_max: 4 << 30,
            snapshots_sent_max: 16,
            snapshots_sent_to_peer_max: 8,
            peer_batch_bytes: 1 << 20,
            hand_overs_per_tick: 1_024,
            takeovers_per_tick: 512,
        }
    }
}

impl HostConfig {
    /// The defaults of a node of a cluster of `nodes`.
    pub fn new(node: NodeId, nodes: Vec<(NodeId, String)>, seed: u64) -> HostConfig {
        HostConfig {
            node,
            nodes,
            groups: vec![GroupId(1)],
            seed,
            tick: Duration::from_millis(50),
            election_ticks: 10,
            heartbeat_ticks: 2,
            hibernate_after_ticks: 200,
            append_bytes_max: 256 << 10,
            appends_in_flight_max: 256,
            snapshot_after_bytes: 64 << 20,
            snapshot_after: Duration::from_secs(3_600),
            log_memory_max: 512 << 20,
            snapshot_chunk_bytes: 64 << 10,
            snapshot_bytes_per_second: 32 << 20,
            snapshot_write_bytes_per_second: 24 << 20,
            snapshot_resume: Duration::from_secs(60),
            keep_tail_entries: 1_000,
            auto_replace: true,
            auto_replace_after_elections: 10,
            replace_permission: Duration::from_secs(3_600),
            promote_within_entries: 64,
            slow_disk: Duration::from_secs(2),
            apply_lag_max: 100_000,
            witness: false,
            witness_log_bytes_max: 256 << 20,
            read_lag_max: 65_536,
            election_priority: settle_raft::PRIORITY_MAX,
            leader_moves_per_second: 5,
            log_space_factor: 2,
            log_rewrite_bytes_max: 1 << 20,
            stage_sample_every: 1_000,
            build_version: 1,
            state_hash_every: 65_536,
            limits: Limits::default(),
            wal: WalOptions::default(),
        }
    }
}
