//! The historical bugs that these scenarios must catch.

/// One deliberate bug, switched on by `--mutant NAME` in a build with `--cfg settle_mutants`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mutant {
    pub name: &'static str,
    pub scenario: &'static str,
    /// It must be caught within this many seeds, whichever is the first.
    pub seeds_max: u64,
    pub what: &'static str,
}

pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "vote_before_store",
        scenario: "raft",
        seeds_max: 500,
        what: "a vote is sent before it is stored",
    },
    Mutant {
        name: "ack_before_sync",
        scenario: "raft",
        seeds_max: 500,
        what: "a follower acknowledges entries before they are synced",
    },
    Mutant {
        name: "commit_old_term",
        scenario: "raft",
        seeds_max: 500,
        what: "a leader commits an entry of an earlier term by counting its copies",
    },
    Mutant {
        name: "torn_tail_valid",
        scenario: "raft",
        seeds_max: 500,
        what: "recovery takes a torn batch at the end of the log as valid",
    },
    Mutant {
        name: "grant_after_failed_write",
        scenario: "register",
        seeds_max: 500,
        what: "a vote counts as stored although its write was dropped",
    },
    Mutant {
        name: "two_votes_in_a_term",
        scenario: "register",
        seeds_max: 500,
        what: "a follower votes for two candidates of one term",
    },
    Mutant {
        name: "vote_despite_newer_log",
        scenario: "register",
        seeds_max: 500,
        what: "a voter elects a candidate whose log is behind its own",
    },
    Mutant {
        name: "recovering_votes",
        scenario: "register",
        seeds_max: 500,
        what: "a replica that lost the tail of its log votes and acks like a whole one",
    },
    Mutant {
        name: "append_ignores_prev_term",
        scenario: "register",
        seeds_max: 500,
        what: "a follower appends without comparing the entry before",
    },
    Mutant {
        name: "commit_past_the_match",
        scenario: "register",
        seeds_max: 500,
        what: "a heartbeat commits entries that the follower is not known to hold",
    },
    Mutant {
        name: "wrong_suffix_truncation",
        scenario: "register",
        seeds_max: 500,
        what: "overwritten entries behind the new ones come back after a restart",
    },
    Mutant {
        name: "next_not_above_match",
        scenario: "register",
        seeds_max: 500,
        what: "a leader goes back before what a follower has acknowledged",
    },
    Mutant {
        name: "removed_peer_counted",
        scenario: "register",
        seeds_max: 500,
        what: "a leader counts the copies of replicas that are no voters any more",
    },
    Mutant {
        name: "joint_commits_count_one_side",
        scenario: "register",
        seeds_max: 500,
        what: "during a change of members entries are committed by the new voters alone",
    },
    Mutant {
        name: "joint_reads_count_one_side",
        scenario: "register",
        seeds_max: 500,
        what: "during a change of members reads are confirmed by the new voters alone",
    },
    Mutant {
        name: "stale_read_after_transfer",
        scenario: "register",
        seeds_max: 500,
        what: "a new leader answers reads before it has committed in its own term",
    },
    Mutant {
        name: "read_without_quorum_round",
        scenario: "register",
        seeds_max: 500,
        what: "a leader answers reads without asking whether it still leads",
    },
    Mutant {
        name: "conf_change_applied_when_appended",
        scenario: "register",
        seeds_max: 500,
        what: "a change of members takes effect when it is appended, and a truncation does not undo it",
    },
    Mutant {
        name: "decide_ignores_expect",
        scenario: "tx",
        seeds_max: 500,
        what: "a decision is applied although another was there before it",
    },
    Mutant {
        name: "hibernated_dead_leader",
        scenario: "register",
        seeds_max: 500,
        what: "a group at rest does not learn that its leader's node is gone",
    },
    Mutant {
        name: "load_without_clearing",
        scenario: "register",
        seeds_max: 500,
        what: "a snapshot is loaded over what was there before",
    },
    Mutant {
        name: "snapshot_index_before_state",
        scenario: "register",
        seeds_max: 500,
        what: "a snapshot says that it is of an entry before the last one in it",
    },
    Mutant {
        name: "purge_before_snapshot_durable",
        scenario: "register",
        seeds_max: 500,
        what: "the log is told of a snapshot, and cut, before the snapshot's file is durable",
    },
    Mutant {
        name: "destroyed_group_returns",
        scenario: "range",
        seeds_max: 500,
        what: "a group that was destroyed is taken for one that never was here",
    },
    Mutant {
        name: "split_loses_log_hold",
        scenario: "range",
        seeds_max: 500,
        what: "a log is compacted beyond a split whose child is not safe yet",
    },
    Mutant {
        name: "epoch_not_checked_at_apply",
        scenario: "range",
        seeds_max: 500,
        what: "a write that was proposed before a split is applied after it",
    },
    Mutant {
        name: "merge_absorbs_unapplied_source",
        scenario: "range",
        seeds_max: 500,
        what: "a target absorbs a source that has not applied all of its log",
    },
];
