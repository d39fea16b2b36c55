//! What is going on right now: the transfers under way and the counts that the progress line shows.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::Serialize;

/// Where a transfer is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    Begin,
    FirstTry,
    SecondTry,
    /// Its end is asked for, and no account service was called yet, as far as the journals tell.
    Decision,
    Ending,
}

pub const PHASES: [Phase; 5] = [
    Phase::Begin,
    Phase::FirstTry,
    Phase::SecondTry,
    Phase::Decision,
    Phase::Ending,
];

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Phase::Begin => "begin",
            Phase::FirstTry => "first try",
            Phase::SecondTry => "second try",
            Phase::Decision => "decision",
            Phase::Ending => "phase two",
        }
    }
}

/// A transfer that a kill met.
#[derive(Clone, Debug)]
pub struct UnderWay {
    /// Empty until it is begun.
    pub xid: String,
    pub phase: Phase,
}

#[derive(Default)]
pub struct Board {
    under_way: Mutex<BTreeMap<u64, UnderWay>>,
    next: AtomicU64,
    pub committed: AtomicU64,
    pub rolled_back: AtomicU64,
    pub kills: AtomicUsize,
    /// The longest call through a surviving node and the longest begin by the SDK, in microseconds.
    stall_us: AtomicU64,
    begin_us: AtomicU64,
    /// How late a task was that wanted to run every 10 ms, at most: the machine's own share of a stall.
    machine_us: AtomicU64,
    /// Calls that failed although no server that they needed was dead: how many, and the first.
    failures: Mutex<(u64, Option<String>)>,
    /// What happens at the moment.
    news: Mutex<String>,
}

/// One transfer's place on the board; leaves it when dropped.
pub struct Place<'a> {
    board: &'a Board,
    number: u64,
}

impl Board {
    fn under_way(&self) -> MutexGuard<'_, BTreeMap<u64, UnderWay>> {
        self.under_way.lock().expect("no holder of this lock panics")
    }

    pub fn enter(&self) -> Place<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let new = UnderWay {
            xid: String::new(),
            phase: Phase::Begin,
        };
        self.under_way().insert(number, new);
        Place { board: self, number }
    }

    pub fn in_flight(&self) -> usize {
        self.under_way().len()
    }

    pub fn look(&self) -> Vec<UnderWay> {
        self.under_way().values().cloned().collect()
    }

    pub fn done(&self) -> u64 {
        self.committed.load(Ordering::Relaxed) + self.rolled_back.load(Ordering::Relaxed)
    }

    pub fn ended(&self, committed: bool) {
        let count = if committed { &self.committed } else { &self.rolled_back };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// A call failed that must not.
    pub fn call_failed(&self, what: String) {
        let mut failures = self.failures.lock().expect("no holder of this lock panics");
        failures.0 += 1;
        failures.1.get_or_insert(what);
    }

    /// Calls that failed, and the first of them.
    pub fn failed_calls(&self) -> (u64, Option<String>) {
        self.failures.lock().expect("no holder of this lock panics").clone()
    }

    pub fn tell(&self, news: String) {
        *self.news.lock().expect("no holder of this lock panics") = news;
    }

    pub fn news(&self) -> String {
        self.news.lock().expect("no holder of this lock panics").clone()
    }

    pub fn stalled(&self, time: Duration) {
        self.stall_us.fetch_max(micros(time), Ordering::Relaxed);
    }

    pub fn begun_in(&self, time: Duration) {
        self.begin_us.fetch_max(micros(time), Ordering::Relaxed);
    }

    pub fn was_late(&self, time: Duration) {
        self.machine_us.fetch_max(micros(time), Ordering::Relaxed);
    }

    pub fn longest_stall(&self) -> Duration {
        Duration::from_micros(self.stall_us.load(Ordering::Relaxed))
    }

    pub fn longest_begin(&self) -> Duration {
        Duration::from_micros(self.begin_us.load(Ordering::Relaxed))
    }

    pub fn machine_share(&self) -> Duration {
        Duration::from_micros(self.machine_us.load(Ordering::Relaxed))
    }
}

fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}

impl Place<'_> {
    pub fn begun(&self, xid: &str) {
        if let Some(transfer) = self.board.under_way().get_mut(&self.number) {
            transfer.xid = xid.to_owned();
        }
    }

    pub fn phase(&self, phase: Phase) {
        if let Some(transfer) = self.board.under_way().get_mut(&self.number) {
            transfer.phase = phase;
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.board.under_way().remove(&self.number);
    }
}
