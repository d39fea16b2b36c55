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

const fn mutant(name: &'static str, scenario: &'static str, what: &'static str) -> Mutant {
    let seeds_max = 500;
    Mutant {
        name,
        scenario,
        seeds_max,
        what,
    }
}

pub const MUTANTS: &[Mutant] = &[
    mutant("vote_before_store", "raft", "a vote is sent before it is stored"),
    mutant(
        "ack_before_sync",
        "raft",
        "a follower acknowledges entries before they are synced",
    ),
    mutant(
        "commit_old_term",
        "raft",
        "a leader commits an entry of an earlier term by counting its copies",
    ),
    mutant(
        "torn_tail_valid",
        "raft",
        "recovery takes a torn batch at the end of the log as valid",
    ),
    mutant(
        "grant_after_failed_write",
        "raft",
        "a vote counts as stored although its write was dropped",
    ),
    mutant(
        "two_votes_in_a_term",
        "raft",
        "a follower votes for two candidates of one term",
    ),
    mutant(
        "learned_commit_of_another_log",
        "raft",
        "a voter or candidate takes over what the other knows to be committed without comparing the logs",
    ),
    mutant(
        "vote_despite_newer_log",
        "raft",
        "a voter elects a candidate whose log is behind its own",
    ),
    mutant(
        "recovering_votes",
        "raft",
        "a replica that lost the tail of its log votes and acks like a whole one",
    ),
    mutant(
        "append_ignores_prev_term",
        "raft",
        "a follower appends without comparing the entry before",
    ),
    mutant(
        "commit_past_the_match",
        "raft",
        "a heartbeat commits entries that the follower is not known to hold",
    ),
    mutant(
        "wrong_suffix_truncation",
        "raft",
        "overwritten entries behind the new ones come back after a restart",
    ),
    mutant(
        "next_not_above_match",
        "raft",
        "a leader goes back before what a follower has acknowledged",
    ),
    mutant(
        "removed_peer_counted",
        "raft",
        "a leader counts the copies of replicas that are no voters any more",
    ),
    mutant(
        "joint_commits_count_one_side",
        "raft",
        "during a change of members entries are committed by the new voters alone",
    ),
    mutant(
        "joint_reads_count_one_side",
        "raft",
        "during a change of members reads are confirmed by the new voters alone",
    ),
    mutant(
        "stale_read_after_transfer",
        "raft",
        "a new leader answers reads before it has committed in its own term",
    ),
    mutant(
        "read_without_quorum_round",
        "raft",
        "a leader answers reads without asking whether it still leads",
    ),
    mutant(
        "conf_change_applied_when_appended",
        "raft",
        "a change of members takes effect when it is appended, and a truncation does not undo it",
    ),
    mutant(
        "decide_ignores_expect",
        "tx",
        "a decision is applied although another was there before it",
    ),
    mutant(
        "hibernated_dead_leader",
        "raft",
        "a group at rest does not learn that its leader's node is gone",
    ),
    mutant(
        "learner_counted",
        "raft",
        "a leader counts learners among those that hold an entry",
    ),
    mutant(
        "peer_id_reuse",
        "raft",
        "a lost directory's successor takes the same name in consensus",
    ),
    mutant(
        "wiped_voter_votes",
        "raft",
        "a node with an empty directory takes up the vote of the one that it lost",
    ),
    mutant(
        "failed_sync_retried",
        "raft",
        "a failed sync is tried again, and what it lost is taken for durable",
    ),
    mutant(
        "middle_damage_ignored",
        "raft",
        "a replica whose log is damaged in the middle goes on as if it had lost nothing",
    ),
    mutant(
        "purge_too_early",
        "raft",
        "segments are purged before what replaced them is durable",
    ),
    mutant(
        "load_without_clearing",
        "raft",
        "a snapshot is loaded over what was there before",
    ),
    mutant(
        "snapshot_index_before_state",
        "raft",
        "a snapshot says that it is of an entry before the last one in it",
    ),
    mutant(
        "purge_before_snapshot_durable",
        "raft",
        "the log is told of a snapshot, and cut, before the snapshot's file is durable",
    ),
    mutant(
        "version_gate_ignored",
        "raft",
        "a cluster version is raised and followed although a node's build cannot apply it",
    ),
    mutant(
        "apply_differs_once",
        "raft",
        "one replica applies one entry unlike the others",
    ),
    mutant(
        "destroyed_group_returns",
        "range",
        "a group that was destroyed is taken for one that never was here",
    ),
    mutant(
        "split_loses_log_hold",
        "range",
        "a log is compacted beyond a split whose child is not safe yet",
    ),
    mutant(
        "epoch_not_checked_at_apply",
        "range",
        "a write that was proposed before a split is applied after it",
    ),
    mutant(
        "merge_absorbs_unapplied_source",
        "range",
        "a target absorbs a source that has not applied all of its log",
    ),
    mutant(
        "region_not_checked_at_apply",
        "kv",
        "a command that was proposed before a split or a merge is applied after it, whatever the region is by then",
    ),
    mutant(
        "child_begins_with_own_marks",
        "kv",
        "a region that is split off gives tokens and generations from the first on",
    ),
    mutant(
        "merge_keeps_own_marks",
        "kv",
        "a region that takes another in goes on with its own tokens and generations alone",
    ),
    mutant(
        "merge_forgets_sessions",
        "kv",
        "a region that takes another in does not know what was asked there",
    ),
    mutant(
        "snapshot_ends_at_an_empty_kind",
        "kv",
        "a snapshot leaves out the kinds of rows behind one that has none",
    ),
    mutant(
        "decision_by_anybody",
        "tx",
        "a transaction is ended by an application that has not begun it",
    ),
    mutant(
        "report_by_anybody",
        "tx",
        "a branch is reported on by an application that has not registered it",
    ),
    mutant(
        "branch_joins_decided",
        "tx",
        "a branch is registered with a transaction that is decided",
    ),
    mutant(
        "rollback_frees_locks_early",
        "tx",
        "a rollback lets go of its rows before they are undone",
    ),
    mutant(
        "locks_free_before_the_decision_is_durable",
        "tx",
        "a row counts as free as soon as its holder's commit is asked for",
    ),
    mutant(
        "commit_answered_before_the_decision",
        "tx",
        "a commit is answered when it is proposed",
    ),
    mutant(
        "rollback_told_as_it_is",
        "tx",
        "the commit of a rolled-back transaction is answered with a status that Java takes for success",
    ),
    mutant(
        "finished_told_of_what_has_ended",
        "tx",
        "an end that is asked for again is answered with Finished",
    ),
    mutant(
        "hold_answered_with_begin",
        "tx",
        "a commit that cannot be decided in time is answered with Begin",
    ),
    mutant(
        "status_of_a_stale_replica",
        "tx",
        "a status is answered by whatever replica is at hand",
    ),
    mutant(
        "deposed_leader_drives",
        "tx",
        "a node that leads no more goes on driving",
    ),
    mutant(
        "timeout_of_a_deposed_leader",
        "tx",
        "a timeout that a leader has judged gets into the log of the next one",
    ),
    mutant(
        "wall_clock_in_a_timeout",
        "tx",
        "timeouts are judged by the clock of the leader's machine",
    ),
    mutant(
        "new_leader_ends_all_open",
        "tx",
        "a new leader rolls back what it finds undecided",
    ),
    mutant(
        "rollback_in_order_of_registration",
        "tx",
        "the branch that was registered first is rolled back first",
    ),
    mutant(
        "repeated_request_done_again",
        "tx",
        "a request that is proposed again since its result was slow is done again",
    ),
    mutant(
        "token_of_a_registration_ignored",
        "tx",
        "a registration that comes again with its token is a branch of its own",
    ),
    mutant(
        "requests_of_all_gates_alike",
        "tx",
        "requests of two gates with one number are taken for one",
    ),
    mutant(
        "tcc_call_to_another_application",
        "tx",
        "a TCC branch is called at another application that serves its resource",
    ),
    mutant(
        "failed_answer_taken_for_done",
        "tx",
        "an answer that says failed and done counts as done",
    ),
    mutant(
        "silence_taken_for_done",
        "tx",
        "a call that was never answered counts as done",
    ),
    mutant(
        "unknown_xa_branch_done_at_once",
        "tx",
        "an XA branch that its database does not know (yet) counts as done",
    ),
    mutant(
        "sessions_told_only_when_nodes_meet",
        "tx",
        "nodes tell each other of their clients when they meet, and of later ones never",
    ),
    mutant(
        "outcomes_of_another_group",
        "tx",
        "an outcome is looked up in the table of the next group",
    ),
    mutant(
        "move_without_drain",
        "tx",
        "a service group moves although transactions of it are open where it was",
    ),
    mutant(
        "begins_where_it_is_closed",
        "tx",
        "a group lets begin what has moved away from it",
    ),
    mutant(
        "late_step_of_a_move",
        "tx",
        "a step of an earlier move is done after a later one",
    ),
    mutant(
        "lock_query_of_a_drained_group",
        "tx",
        "a group that a service group has left says that its rows are free",
    ),
];
