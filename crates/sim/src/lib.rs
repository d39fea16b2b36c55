//! Whole clusters under simulation: the real host, consensus, log and machines over disks in memory, a network of events
//! and a clock that is a number. A seed decides everything, so a failure is a seed.
//!
//! `world.rs` is the loop, `links.rs` and `lives.rs` its connections and its nodes; `network.rs`, `nemesis.rs` what goes wrong; `invariants.rs` what must hold at every step;
//! `register/` and later workloads bring clients and the checker of their history. A seed ends with a liveness phase:
//! faults off, everything must heal and every replica be equal.
//!
//! The fault model: a disk keeps what was synced; fewer than a quorum of the voters have lost anything at one time
//! (a wiped directory, or a log tail that may have held something acknowledged).

mod coverage;
mod invariants;
mod links;
mod lives;
pub mod mutants;
mod nemesis;
mod network;
mod register;
mod tx;
mod workload;
mod world;

pub use coverage::Coverage;

use std::{fmt, io::Write};

/// What a run may be told besides its seed.
#[derive(Default)]
pub struct Options {
    /// Receives one line per event: the same bytes for the same seed, in every process.
    pub trace: Option<Box<dyn Write>>,
}

/// A kind of workload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scenario {
    /// Versioned registers; clients check that their history is linearizable.
    Register,
    /// Money moved by global transactions through the door's gate.
    Tx,
}

impl Scenario {
    pub const ALL: [Scenario; 2] = [Scenario::Register, Scenario::Tx];

    pub fn from_name(name: &str) -> Option<Scenario> {
        Scenario::ALL.into_iter().find(|s| s.name() == name)
    }

    /// Counters that this scenario cannot move.
    pub fn leaves_at_zero(self, counter: &str) -> bool {
        match self {
            Scenario::Register => counter.starts_with("tx_"),
            Scenario::Tx => ["reproposals", "reads", "reads_dropped"].contains(&counter),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Scenario::Register => "register",
            Scenario::Tx => "tx",
        }
    }
}

/// A promise that was broken, and when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// In simulated microseconds.
    pub at_us: u64,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (secs, us) = (self.at_us / 1_000_000, self.at_us % 1_000_000);
        write!(f, "at {secs}.{us:06} s: {}", self.what)
    }
}

/// How one seed went.
#[derive(Clone, Debug)]
pub struct Report {
    pub scenario: Scenario,
    pub seed: u64,
    pub violation: Option<Violation>,
    pub coverage: Coverage,
    /// Depends on every event in order.
    pub digest: u64,
    pub simulated_us: u64,
}

/// Runs one seed to its end, or to the first violation.
///
/// # Panics
/// When an assertion in the code under test does.
pub fn run(scenario: Scenario, seed: u64, options: Options) -> Report {
    match scenario {
        Scenario::Register => world::run(scenario, seed, options, register::Registers::new),
        Scenario::Tx => world::run(scenario, seed, options, tx::Apps::new),
    }
}
