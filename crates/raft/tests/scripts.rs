//! Consensus as reviewable text, in the style of etcd's interaction tests: `tests/scripts/*.txt` hold commands, `----`,
//! and the whole trace that they cause. `UPDATE_EXPECT=1 cargo test -p settle-raft --test scripts` rewrites the traces;
//! review the diff. Each script begins with the rule that it shows and where the rule comes from.
//!
//! # The trace
//! `1>2 Append t3 after 2/6 commit 5 [3/7:x]` is a message as it leaves: from 1 to 2 in term 3; `3/7:x` is the entry of
//! term 3 at index 7. It arrives unless `lost` follows. `2: Follower t3 vote 1 leader 1; commit 5` tells what changed of
//! a peer. `1 writes #4: …; 2 messages wait` hands a write to the disk; with `1 wrote #4` it is durable and what waited
//! leaves (or is `stale` by then).
//!
//! # Commands
//! * The group: `cluster 1 2 3 / 4 append-bytes=1 2:priority=0` (voters / peers without a configuration, settings
//!   of `Config` at all or one),
//!   `lead N` (elects it without a trace), `settle` (everybody works and everything arrives until it is quiet),
//!   `tick-all COUNT`, `status [N…]`, `log N…`, `quietly COMMAND`.
//! * A peer: `campaign N`, `tick N [COUNT]`, `propose N DATA…`, `propose-in N TERM DATA`, `propose-host N DATA`,
//!   `change N +4 ~3 -2 ^5` (voter, learner, remove, witness), `reset-conf N 1 ^2` (voters, witnesses), `transfer N TO`, `read N CTX`, `withdraw N CTX`,
//!   `unreachable N PEER`, `rest N`, `wake N`, `leader-is-down N`.
//! * Its host: `ready N`, `persist N` (one write), `apply N` (one entry), `work N` (all of these), `compact N KEEP`,
//!   `slow-disk N`, `quick-disk N`, `slow-machine N`, `quick-machine N`.
//! * What befalls it: `pause N`, `go-on N`, `crash N`, `rot N WRITES` (its last durable writes are gone), `wipe N`,
//!   `restart N [damaged]`, `disconnect N`.
//! * The network: `deliver [A>B] [KIND]`, `duplicate …` (arrives, and will again), `drop …`, `hold …` and `unhold`
//!   (arrives late, even after a disconnect), `reverse`, `sent`,
//!   `cut A B`, `cut A>B`, `isolate N…`, `heal`. `*` is any peer.

mod cluster;
mod script;

/// One test per script file, all of them named here: the walls keep tests from listing a folder too.
macro_rules! scripts {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            let file = expect_test::expect_file![concat!("scripts/", stringify!($name), ".txt")];
            file.assert_eq(&script::run(&file.data()));
        })*
    };
}

scripts! {
    election
    election_candidate_crash
    election_check_quorum
    election_grant_lost
    election_one_way_link
    election_pre_vote
    election_priority
    election_priority_liveness
    election_removed_peer
    election_single_voter
    election_split_vote
    election_stale_term
    election_up_to_date
    election_vote_in_known_term
    hibernation_dead_leader
    hibernation_late_request
    hibernation_leader_is_down
    hibernation_refused
    hibernation_rest
    hibernation_restart
    joint_commit
    joint_demoted_voter
    joint_election
    joint_enter_and_leave
    joint_leader_removed
    joint_learner
    joint_lost_enter
    joint_lost_leave
    joint_pending
    joint_reads
    joint_unapplied
    read_before_first_commit
    read_dropped
    read_follower
    read_lag
    read_leader
    read_limits
    recovering_again
    recovering_late_ack
    recovering_leader_steps_down
    recovering_learner
    recovering_lost_tail
    recovering_lost_vote
    recovering_power_cut
    recovering_silence
    recovering_single_voter
    replication_conflict
    replication_figure_8
    replication_lost_append
    replication_lost_disk
    replication_overwritten_write
    replication_probe
    replication_refused_proposals
    replication_reordered
    replication_slow_follower_disk
    replication_slow_leader_disk
    replication_window
    reset_conf
    reset_conf_damaged
    reset_conf_refused
    snapshot_compaction
    snapshot_crash
    snapshot_failed
    snapshot_install
    snapshot_silent_peer
    snapshot_stale
    transfer
    transfer_joint
    transfer_lagging
    transfer_refused
    transfer_timeout
    witness_hands_over
    witness_keeps_the_log
    witness_refused
}
