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
        name: "decide_ignores_expect",
        scenario: "tx",
        seeds_max: 500,
        what: "a decision is applied although another was there before it",
    },
];
