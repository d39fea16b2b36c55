//! What a run has seen happen. A run over many seeds in which one of these stayed at zero has tested less than it says.

macro_rules! counters {
    ($($name:ident: $what:literal,)*) => {
        /// Counts of one seed, or of all.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct Coverage {
            $(#[doc = $what] pub $name: u64,)*
        }

        impl Coverage {
            pub fn add(&mut self, other: &Coverage) {
                $(self.$name += other.$name;)*
            }

            /// Name, meaning and count of each.
            pub fn rows(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), $what, self.$name),)*]
            }
        }
    };
}

counters! {
    events: "events processed",
    elections: "leaders elected",
    leaders_hunted: "leaders struck as soon as they were elected",
    crashes: "power failures of one node",
    crashes_all: "power failures of all nodes at once",
    kills: "processes killed without loss of the system",
    restarts: "nodes started again",
    writes_lost: "unsynced writes lost by a crash",
    writes_torn: "unsynced writes torn by a crash",
    recovering_starts: "starts with a damaged log tail",
    recovered: "replicas that recovered from it",
    pauses: "processes paused",
    slow_processes: "spells of a slow process",
    partitions: "symmetric partitions",
    bridges: "partitions that one node bridges",
    rings: "rings in which every node sees a part",
    one_way_blocks: "one-way partitions",
    connections_broken: "connections broken",
    messages_lost: "single messages lost",
    messages_doubled: "messages delivered twice",
    leaders_lost_at_rest: "leaders lost for good while their groups slept and nobody asked anything",
    disks_slow: "spells of a slow or stalling disk",
    disks_full: "full disks met by the log",
    syncs_failed: "failed syncs, after which the node stopped",
    devices_lost: "devices that failed under a running node",
    disks_damaged: "disks with acknowledged bytes rotten, lost or misdirected",
    writes_misdirected: "of the damages, writes that reached another place",
    blocks_unreadable: "of the damages, blocks that could not be read any more",
    logs_mended: "starts that mended a log damaged in its middle",
    snapshots_unreadable: "starts that gave a damaged snapshot up",
    disks_wiped: "data directories lost",
    members_replaced: "lost replicas replaced by new voters",
    members_churned: "members added, demoted, promoted or removed by operators",
    nodes_drained: "nodes removed from all groups at once by operators",
    moves_begun: "groups to be moved to other nodes",
    moves_made: "of them, moved: most of their voters at once",
    changes_cut: "changes of members cut in two by the network",
    joint_changes: "joint configurations entered",
    nodes_upgraded: "nodes started again with a newer build",
    raises_refused: "cluster versions not raised since a node could not or was not known to",
    versions_raised: "groups whose cluster version was raised",
    transfers: "leadership transfers asked for",
    handed_over: "leaders that handed over since their disk was slow",
    snapshots_taken: "snapshots taken",
    snapshots_sent: "snapshots sent",
    snapshots_resumed: "windows of snapshots sent again",
    snapshots_installed: "snapshots installed",
    witnesses_lead: "witnesses elected, until a full replica can take over",
    witness_cuts: "logs of witnesses cut back",
    starts_from_snapshot: "starts that loaded a snapshot file",
    proposals: "proposals",
    proposals_forwarded: "proposals sent to the leader's node",
    reproposals: "proposals made again by the service",
    proposals_dropped: "proposals dropped",
    reads: "linearizable reads answered",
    reads_dropped: "linearizable reads dropped and asked again",
    client_retries: "operations that a client tried again",
    hashes_compared: "replica states compared at the same index",
    hash_marks: "marks applied at which a replica's state was noted",
    hash_verdicts: "verdicts about such marks that a replica met",
    machines_slipped: "entries applied by one replica unlike the others",
    quarantines: "replicas that stopped serving since they differed",
    rebuilt: "of them, replicas that were rebuilt",
    tx_commits_told: "commits answered",
    tx_rollbacks_told: "rollbacks answered",
    tx_timeouts_told: "of them, timeouts decided by the server",
    tx_calls: "second-phase calls answered",
    tx_refused: "branches refused, mostly for a lock",
    range_splits: "splits applied by a replica",
    range_splits_replayed: "of them, met again by a replica whose child was there",
    range_refused: "writes refused at apply, since their range had changed",
    range_prepared: "merges prepared",
    range_absorbed: "merges committed",
    range_rolled_back: "merges rolled back",
    range_finished: "merges whose source may go",
    groups_created: "groups created while their node ran",
    groups_destroyed: "groups destroyed",
    applies_paused: "machines that waited for something before an entry",
    joins_while_merging: "members that were to join a group while it took another in",
    states_taken: "machines that waited and took the leader's state instead",
    entries_handed: "logs brought to their end by what another group's log holds",
    restarts_while_paused: "nodes that went down while a machine waited",
    restarts_while_merging: "nodes that went down with a silent source",
    restarts_while_creating: "nodes that went down before a new group was durable",
    commits_checked: "commits of a leader compared with the acks that were sent",
    promises_checked: "restarts compared with what was promised before",
}
