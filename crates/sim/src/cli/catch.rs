//! How long it takes to catch a deliberate bug.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use settle_sim::{Options, Scenario, mutants::Mutant, run};

use super::arguments::Arguments;

/// One range of seeds: whether and where it was caught.
struct Catch {
    seeds: u64,
    simulated_us: u64,
    invariant: Option<&'static str>,
}

/// Prints one line: name, scenario, ranges in which it was caught, all ranges, median seeds, median simulated minutes,
/// the invariants with how often each was the one. False when it was missed in a range.
pub(crate) fn catch(mutant: &Mutant, arguments: &Arguments) -> bool {
    let scenario = Scenario::from_name(mutant.scenario).expect("a mutant's scenario exists");
    let next = AtomicU64::new(0);
    let catches = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                loop {
                    let range = next.fetch_add(1, Ordering::Relaxed);
                    if range >= arguments.ranges {
                        return;
                    }
                    let caught = one_range(scenario, range * mutant.seeds_max, mutant.seeds_max);
                    catches
                        .lock()
                        .unwrap_or_else(|poisoned| poisoned.into_inner())
                        .push(caught);
                }
            });
        }
    });
    let mut catches = catches.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    catches.sort_by_key(|c| c.simulated_us);
    let caught = catches.iter().filter(|c| c.invariant.is_some()).count();
    let mut invariants: BTreeMap<&str, u64> = BTreeMap::new();
    for name in catches.iter().filter_map(|c| c.invariant) {
        *invariants.entry(name).or_insert(0) += 1;
    }
    let mut invariants: Vec<_> = invariants.into_iter().collect();
    invariants.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let invariants: Vec<_> = invariants
        .iter()
        .map(|(name, count)| format!("{name} ({count})"))
        .collect();
    let median = catches.get(catches.len() / 2);
    println!(
        "{}\t{}\t{caught}\t{}\t{}\t{:.1}\t{}",
        mutant.name,
        mutant.scenario,
        catches.len(),
        median.map_or(0, |c| c.seeds),
        median.map_or(0, |c| c.simulated_us) as f64 / 60e6,
        invariants.join(", ")
    );
    caught == catches.len()
}

fn one_range(scenario: Scenario, first: u64, most: u64) -> Catch {
    let mut simulated_us = 0;
    for seed in first..first + most {
        let report = run(scenario, seed, Options::default());
        simulated_us += report.simulated_us;
        if let Some(violation) = report.violation {
            return Catch {
                seeds: seed - first + 1,
                simulated_us,
                invariant: Some(violation.invariant),
            };
        }
    }
    Catch {
        seeds: most,
        simulated_us,
        invariant: None,
    }
}
