//! What the demo found, for people and as JSON.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::Serialize;

use super::{
    Played,
    board::{PHASES, Phase},
    evidence::Evidence,
    judge::{Promise, Verdict},
    nemesis::{Kill, VICTIMS},
};
use crate::bench::grouped;

/// A call through a surviving node may take so long, and what the machine itself was late by.
pub const STALL_MAX: Duration = Duration::from_secs(2);
/// Findings of one promise that are printed.
const SHOWN: usize = 3;

#[derive(Serialize)]
pub struct Report {
    pub is_good: bool,
    pub seconds: f64,
    /// What was there until then is judged.
    pub is_interrupted: bool,
    pub verdict: Verdict,
    pub kills: usize,
    pub kills_by_victim: BTreeMap<&'static str, usize>,
    /// Transfers under way at a kill, by what was killed and where they were.
    pub met: BTreeMap<&'static str, BTreeMap<&'static str, usize>>,
    pub longest_stall_ms: u64,
    pub stall_allowed_ms: u64,
    /// How late the machine was with a task that was due, at most. Part of what is allowed.
    pub machine_late_ms: u64,
    /// The longest begin by the SDK, which knows all nodes.
    pub longest_begin_ms: u64,
    pub failed_calls: u64,
    pub first_failed_call: Option<String>,
    /// What went wrong with the run itself.
    pub trouble: Vec<String>,
    pub data: Option<PathBuf>,
}

impl Report {
    pub fn new(verdict: Verdict, evidence: &Evidence, played: &Played) -> Report {
        let Played { board, kills, .. } = played;
        let mut trouble = played.trouble.clone();
        let mut kills_by_victim: BTreeMap<&str, usize> = VICTIMS.iter().map(|victim| (victim.name(), 0)).collect();
        let mut met: BTreeMap<&str, BTreeMap<&str, usize>> = BTreeMap::new();
        for kill in kills {
            *kills_by_victim.entry(kill.victim.name()).or_default() += 1;
            let phases = met.entry(kill.victim.name()).or_default();
            for transfer in &kill.met {
                *phases.entry(phase_at(kill, transfer, evidence).name()).or_default() += 1;
            }
        }
        if kills.is_empty() {
            trouble.push("nothing was killed, so nothing is shown".to_owned());
        }
        if verdict.whole == 0 {
            trouble.push("no transfer was committed, so nothing is shown".to_owned());
        }
        let (failed_calls, first_failed_call) = board.failed_calls();
        let stall_allowed = STALL_MAX + board.machine_share();
        let is_good = verdict.is_good()
            && trouble.is_empty()
            && failed_calls == 0
            && board.longest_stall().max(board.longest_begin()) <= stall_allowed;
        Report {
            is_good,
            seconds: played.time.as_secs_f64(),
            is_interrupted: played.is_interrupted,
            verdict,
            kills: kills.len(),
            kills_by_victim,
            met,
            longest_stall_ms: millis(board.longest_stall()),
            stall_allowed_ms: millis(stall_allowed),
            machine_late_ms: millis(board.machine_share()),
            longest_begin_ms: millis(board.longest_begin()),
            failed_calls,
            first_failed_call,
            trouble,
            data: None,
        }
    }

    pub fn print(&self) {
        let verdict = &self.verdict;
        println!(
            "{:.0} s{}, {} transfers, {} kills. Judged from the two SQLite files and the journals of calls:\n",
            self.seconds,
            if self.is_interrupted {
                " until the interruption"
            } else {
                ""
            },
            grouped(verdict.transfers as u64),
            self.kills
        );
        self.promise(
            Promise::Sum,
            "same sum",
            format!(
                "{} at the start, {} at the end",
                grouped(verdict.opening as u64),
                grouped(verdict.closing as u64)
            ),
        );
        self.promise(
            Promise::Whole,
            "whole or absent",
            format!(
                "{} whole, {} absent",
                grouped(verdict.whole as u64),
                grouped(verdict.absent as u64)
            ),
        );
        self.promise(
            Promise::Outcome,
            "one outcome",
            "what the teller was told, the money, both fences and both journals agree".to_owned(),
        );
        self.promise(
            Promise::Calls,
            "no contradiction",
            format!(
                "{} calls of phase two, {} of them repeated, {} to cancel what was never tried",
                grouped(verdict.calls as u64),
                grouped(verdict.repeated_calls as u64),
                grouped(verdict.empty_cancels as u64)
            ),
        );
        self.promise(
            Promise::Decided,
            "none undecided",
            "nothing is left reserved".to_owned(),
        );
        self.print_stall();
        self.print_kills();
        for trouble in &self.trouble {
            println!("\n  {trouble}");
        }
        println!();
        if self.is_good {
            println!("Every promise was kept.");
        } else {
            println!("A PROMISE WAS BROKEN.");
        }
        if let Some(data) = &self.data {
            println!("Files, journals and logs are in {}", data.display());
        }
    }

    fn promise(&self, promise: Promise, name: &str, what: String) {
        let findings: Vec<_> = self.verdict.of(promise).collect();
        if findings.is_empty() {
            return println!("  kept    {name:<17} {what}");
        }
        println!("  BROKEN  {name:<17} {} times:", findings.len());
        for finding in findings.iter().take(SHOWN) {
            println!("            {}", finding.what);
        }
        if findings.len() > SHOWN {
            println!("            … and {} more", findings.len() - SHOWN);
        }
    }

    fn print_stall(&self) {
        let seconds = |ms: u64| format!("{}.{:02} s", ms / 1_000, ms % 1_000 / 10);
        let is_kept =
            self.failed_calls == 0 && self.longest_stall_ms.max(self.longest_begin_ms) <= self.stall_allowed_ms;
        println!(
            "  {}  {:<17} {} at most through a surviving node, {} with the SDK; allowed are {}",
            if is_kept { "kept  " } else { "BROKEN" },
            "no long stall",
            seconds(self.longest_stall_ms),
            seconds(self.longest_begin_ms),
            seconds(self.stall_allowed_ms)
        );
        if self.machine_late_ms >= 100 {
            let late = seconds(self.machine_late_ms);
            println!("            the machine itself was late by up to {late}, which is allowed on top of 2 s");
        }
        if let Some(first) = &self.first_failed_call {
            println!("            {} calls failed, the first: {first}", self.failed_calls);
        }
    }

    fn print_kills(&self) {
        println!("\n  {:<17} {:>6}   transfers under way, by phase", "killed", "times");
        print!("  {:<17} {:>6}", "", "");
        for phase in PHASES {
            print!("  {:>10}", phase.name());
        }
        println!();
        for victim in VICTIMS {
            print!("  {:<17} {:>6}", victim.name(), self.kills_by_victim[victim.name()]);
            for phase in PHASES {
                let met = self.met.get(victim.name()).and_then(|met| met.get(phase.name()));
                print!("  {:>10}", met.copied().unwrap_or_default());
            }
            println!();
        }
    }
}

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}

/// Where a transfer was when a kill met it. The teller cannot see when phase two begins; the journals tell.
fn phase_at(kill: &Kill, transfer: &super::board::UnderWay, evidence: &Evidence) -> Phase {
    let was_called = evidence
        .called_at
        .get(&transfer.xid)
        .is_some_and(|at_ms| *at_ms <= kill.at_ms);
    if transfer.phase == Phase::Decision && was_called {
        Phase::Ending
    } else {
        transfer.phase
    }
}
