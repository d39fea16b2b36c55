//! Whole clusters under simulation: the real host, consensus, log and machines over disks in memory, a network of events
//! and a clock that is a number. A seed decides everything, so a failure is a seed.
//!
//! `world.rs` is the loop, `turns.rs` a node's turn, `links.rs` and `lives.rs` its connections and its lives;
//! `network.rs`, `nemesis.rs` what goes wrong, `moves.rs` what operators do meanwhile; `invariants/` what must hold at
//! every step, one property per file; `register/`, `range/`, `kv/` and `tx/` bring clients and the judge of their history. A seed
//! ends with a liveness phase: faults off, everything must heal and every replica be equal; and some then lose a leader in
//! its sleep (`rest.rs`). `script.rs` and `shrink.rs` make a failure readable.
//!
//! The fault model: a disk keeps what was synced; fewer than a quorum of the voters have lost anything at one time
//! (a wiped directory, or a log tail that may have held something acknowledged).

mod clients;
mod coverage;
mod drains;
mod failure;
mod health;
mod invariants;
mod kv;
mod links;
mod lives;
mod moves;
pub mod mutants;
mod nemesis;
mod network;
mod plan;
mod range;
mod register;
mod rest;
mod script;
mod shape;
pub mod shrink;
mod turns;
mod tx;
mod workload;
mod world;

pub use coverage::Coverage;
pub use plan::{Plan, check};
pub use script::Show;
pub use shape::{Cut, Shape};

use std::{fmt, io::Write};

use invariants::Broken;

/// What a run may be told besides its seed.
#[derive(Default)]
pub struct Options {
    /// Receives one line per event: the same bytes for the same seed, in every process.
    pub trace: Option<Box<dyn Write>>,
    pub shape: Shape,
    pub cut: Cut,
    /// Prints turns as they happen.
    pub show: Option<Show>,
    /// Keeps what happened as lines of text, for [`Report::script`].
    pub keeps_script: bool,
}

/// A kind of workload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scenario {
    /// Several groups of versioned registers; clients check that their history is linearizable.
    Raft,
    /// Money moved by global transactions through the door's gate.
    Tx,
    /// Ranges that split and merge, each a group.
    Range,
    /// The KV store, whose regions split and merge.
    Kv,
}

impl Scenario {
    pub const ALL: [Scenario; 4] = [Scenario::Raft, Scenario::Tx, Scenario::Range, Scenario::Kv];

    /// `register` is the old name of `raft`.
    pub fn from_name(name: &str) -> Option<Scenario> {
        let name = if name == "register" { "raft" } else { name };
        Scenario::ALL.into_iter().find(|s| s.name() == name)
    }

    /// Counters that this scenario cannot move.
    pub fn leaves_at_zero(self, counter: &str) -> bool {
        if counter.starts_with("kv_") && self != Scenario::Kv {
            return true;
        }
        match self {
            Scenario::Raft => counter.starts_with("tx_") || is_of_ranges(counter),
            Scenario::Tx => {
                let others = ["reproposals", "reads", "reads_dropped"];
                let is_compared = ["hash_marks", "hash_verdicts"].contains(&counter);
                let is_of_others = is_of_ranges(counter) || is_of_registers(counter) || is_of_moves(counter);
                others.contains(&counter) || (is_of_others && !is_compared)
            }
            Scenario::Range | Scenario::Kv => {
                counter.starts_with("tx_") || is_of_registers(counter) || is_of_moves(counter)
            }
        }
    }

    /// Seeds that once failed. They are run with every first range of seeds; what each has shown has a smaller test too,
    /// since another build makes another story of a seed.
    pub fn once_failed(self) -> &'static [u64] {
        match self {
            Scenario::Raft => &[386, 446, 601, 673, 1271, 2096, 2657],
            Scenario::Tx => &[1379],
            Scenario::Range => &[322, 468],
            Scenario::Kv => &[],
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Scenario::Raft => "raft",
            Scenario::Tx => "tx",
            Scenario::Range => "range",
            Scenario::Kv => "kv",
        }
    }
}

/// Only groups that come and go move these.
fn is_of_ranges(counter: &str) -> bool {
    let others = [
        "groups_created",
        "groups_destroyed",
        "applies_paused",
        "entries_handed",
        "states_taken",
        "joins_while_merging",
        "nodes_drained",
    ];
    counter.starts_with("range_") || counter.starts_with("restarts_while_") || others.contains(&counter)
}

/// Only clusters with nodes to spare move these.
fn is_of_moves(counter: &str) -> bool {
    ["moves_begun", "moves_made", "changes_cut"].contains(&counter)
}

/// Only machines whose hash is cheap, and which can slip, and clusters with witnesses move these.
fn is_of_registers(counter: &str) -> bool {
    let all = [
        "hash_marks",
        "hash_verdicts",
        "machines_slipped",
        "quarantines",
        "rebuilt",
    ];
    counter.starts_with("witness") || all.contains(&counter)
}

/// A promise that was broken, and when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// In simulated microseconds.
    pub at_us: u64,
    /// The property that does not hold.
    pub invariant: &'static str,
    pub what: String,
}

impl Violation {
    fn of(at_us: u64, broken: Broken) -> Violation {
        let Broken { invariant, what } = broken;
        Violation { at_us, invariant, what }
    }

    /// The run was only told to stop there: see [`Cut::until_us`].
    pub fn is_stop(&self) -> bool {
        self.invariant == failure::STOPPED
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (secs, us) = (self.at_us / 1_000_000, self.at_us % 1_000_000);
        write!(f, "at {secs}.{us:06} s: {}: {}", self.invariant, self.what)
    }
}

/// How one seed went.
#[derive(Clone, Debug)]
pub struct Report {
    pub scenario: String,
    pub seed: u64,
    pub violation: Option<Violation>,
    pub coverage: Coverage,
    /// Depends on every event in order.
    pub digest: u64,
    pub simulated_us: u64,
    pub nodes: u32,
    pub groups: u64,
    pub clients: usize,
    /// Numbers of the acts of the nemesis that happened.
    pub acts: Vec<u64>,
    /// What happened, when it was asked for.
    pub script: Vec<String>,
}

/// Runs one seed to its end, or to the first violation. A panic of the code under test is a violation where panics unwind.
pub fn run(scenario: Scenario, seed: u64, mut options: Options) -> Report {
    match scenario {
        Scenario::Raft => {
            options.shape.varies_members = true;
            world::run(scenario.name(), seed, options, register::Registers::new)
        }
        Scenario::Tx => {
            options.shape.groups = 1 + seed % 3;
            world::run(scenario.name(), seed, options, tx::Apps::new)
        }
        Scenario::Range => {
            options.shape.groups = 1;
            world::run(scenario.name(), seed, options, range::Ranges::new)
        }
        Scenario::Kv => {
            options.shape.groups = 1;
            world::run(scenario.name(), seed, options, kv::Store::new)
        }
    }
}
