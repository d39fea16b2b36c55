//! Makes a failing run readable: leaves out acts of the nemesis, nodes, groups, clients and time, as long as the same
//! invariant is still broken.

use std::fmt::Write as _;

use crate::{Cut, Report, Violation};

/// Runs that may be spent on one failure.
const TRIES_MAX: u32 = 250;
/// What happened last is what a reader wants.
const LINES_MAX: usize = 120;

/// The smallest failing run that was found.
pub struct Shrunk {
    pub cut: Cut,
    pub report: Report,
    pub tries: u32,
}

struct Search<F> {
    run: F,
    invariant: &'static str,
    best: (Cut, Report),
    tries: u32,
}

/// `failed` is the whole run's report; `run` runs its seed again with something left out.
///
/// # Panics
/// When `failed` did not fail.
pub fn shrink(failed: Report, run: impl FnMut(Cut) -> Report) -> Shrunk {
    let violation = failed.violation.clone().expect("there is a failure to shrink");
    let at = violation.at_us;
    let mut search = Search {
        run,
        invariant: violation.invariant,
        best: (Cut::default(), failed),
        tries: 0,
    };
    // Nothing that comes later can be a cause.
    search.attempt(|cut| cut.faults_us = Some(at));
    search.attempt(|cut| cut.has_good_weather = true);
    search.attempt(|cut| cut.starts_well = true);
    search.attempt(|cut| cut.hunts_nobody = true);
    for groups in 1..search.best.1.groups {
        if search.attempt(|cut| cut.groups = Some(groups)) {
            break;
        }
    }
    for nodes in 1..search.best.1.nodes {
        if search.attempt(|cut| cut.nodes = Some(nodes)) {
            break;
        }
    }
    for clients in [1, 2, 3, 5] {
        if clients < search.best.1.clients && search.attempt(|cut| cut.clients = Some(clients)) {
            break;
        }
    }
    search.leave_out_acts();
    search.attempt(|cut| cut.has_good_weather = true);
    search.attempt(|cut| cut.hunts_nobody = true);
    if search.tries == 0 || search.best.1.script.is_empty() {
        search.tries = 0;
        search.attempt(|_| ());
    }
    let (cut, report) = search.best;
    Shrunk {
        cut,
        report,
        tries: search.tries,
    }
}

impl<F: FnMut(Cut) -> Report> Search<F> {
    /// Whether the run still fails alike with this change; then it is the best so far.
    fn attempt(&mut self, change: impl FnOnce(&mut Cut)) -> bool {
        if self.tries >= TRIES_MAX {
            return false;
        }
        self.tries += 1;
        let mut cut = self.best.0.clone();
        change(&mut cut);
        let report = (self.run)(cut.clone());
        let fails_alike = report.violation.as_ref().is_some_and(|v| v.invariant == self.invariant);
        if fails_alike {
            self.best = (cut, report);
        }
        fails_alike
    }

    /// Zeller's delta debugging, greedily: ever smaller runs of acts.
    fn leave_out_acts(&mut self) {
        let mut size = self.best.1.acts.len().div_ceil(2);
        while size > 0 {
            let mut from = 0;
            while from < self.best.1.acts.len() {
                let acts = &self.best.1.acts;
                let out: Vec<u64> = acts[from..(from + size).min(acts.len())].to_vec();
                if !self.attempt(|cut| cut.without_acts.extend(out)) {
                    from += size;
                }
                if self.tries >= TRIES_MAX {
                    return;
                }
            }
            size = if size == 1 { 0 } else { size / 2 };
        }
    }
}

impl Shrunk {
    pub fn violation(&self) -> &Violation {
        self.report.violation.as_ref().expect("only failing runs are kept")
    }

    /// The run as text.
    pub fn text(&self) -> String {
        let Report {
            scenario,
            seed,
            nodes,
            groups,
            clients,
            acts,
            script,
            ..
        } = &self.report;
        let mut text = format!(
            "# scenario {scenario} seed {seed}: {nodes} nodes, {groups} groups, {clients} clients, {} faults; {} tries\n",
            acts.len(),
            self.tries
        );
        let skipped = script.len().saturating_sub(LINES_MAX);
        if skipped > 0 {
            let _ = writeln!(text, "… {skipped} lines before");
        }
        for line in &script[skipped..] {
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    /// What a command line needs to run it again.
    pub fn flags(&self) -> String {
        let cut = &self.cut;
        let mut flags = String::new();
        let numbers = [
            ("nodes", cut.nodes.map(u64::from)),
            ("groups", cut.groups),
            ("clients", cut.clients.map(|n| n as u64)),
        ];
        for (flag, number) in numbers {
            if let Some(number) = number {
                let _ = write!(flags, " --{flag} {number}");
            }
        }
        if let Some(us) = cut.faults_us {
            let _ = write!(flags, " --faults-until {}.{:06}", us / 1_000_000, us % 1_000_000);
        }
        let switches = [
            ("no-hunts", cut.hunts_nobody),
            ("good-weather", cut.has_good_weather),
            ("good-starts", cut.starts_well),
        ];
        for (flag, is_set) in switches {
            if is_set {
                let _ = write!(flags, " --{flag}");
            }
        }
        if !cut.without_acts.is_empty() {
            let _ = write!(flags, " --without {}", ranges(cut.without_acts.iter().copied()));
        }
        flags
    }
}

/// `3,4,10-17`.
fn ranges(numbers: impl Iterator<Item = u64>) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, high)) if *high + 1 == number => *high = number,
            _ => runs.push((number, number)),
        }
    }
    let text = |(low, high): &(u64, u64)| match low == high {
        true => low.to_string(),
        false => format!("{low}-{high}"),
    };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{Coverage, invariants::Broken};

    /// Fails while acts 7 and 19 both happen.
    fn run(cut: &Cut) -> Report {
        let acts: Vec<u64> = (0..40).filter(|act| !cut.without_acts.contains(act)).collect();
        let fails = acts.contains(&7) && acts.contains(&19) && cut.groups.is_none_or(|groups| groups > 1);
        Report {
            scenario: "made up".to_owned(),
            seed: 5,
            violation: fails.then(|| Violation::of(1_500_000, Broken::new("state equality", "they differ"))),
            coverage: Coverage::default(),
            digest: 0,
            simulated_us: 2_000_000,
            nodes: 3,
            groups: cut.groups.unwrap_or(4),
            clients: cut.clients.unwrap_or(6),
            acts,
            script: vec!["  1.500000 they differ".to_owned()],
        }
    }

    #[test]
    fn only_what_the_failure_needs_is_left_and_the_flags_say_how_to_run_it_again() {
        let shrunk = shrink(run(&Cut::default()), |cut| run(&cut));
        assert_eq!(shrunk.report.acts, [7, 19]);
        assert_eq!(
            (shrunk.cut.groups, shrunk.cut.clients, shrunk.cut.nodes),
            (Some(2), Some(1), Some(1))
        );
        let without: BTreeSet<u64> = (0..40).filter(|act| ![7, 19].contains(act)).collect();
        assert_eq!(shrunk.cut.without_acts, without);
        assert_eq!(
            shrunk.flags(),
            " --nodes 1 --groups 2 --clients 1 --faults-until 1.500000 --no-hunts --good-weather --good-starts \
             --without 0-6,8-18,20-39"
        );
        assert!(shrunk.text().contains("they differ"));
        assert!(shrunk.tries < TRIES_MAX);
    }
}
