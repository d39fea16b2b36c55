//! One seed, or many.

use std::{
    fs::File,
    io::BufWriter,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use settle_sim::{Coverage, Options, Report, Scenario, run, shrink};

use super::arguments::Arguments;

pub(crate) fn one(scenario: Scenario, seed: u64, arguments: &Arguments) -> bool {
    let mut options = Options {
        shape: arguments.shape,
        cut: arguments.cut.clone(),
        show: arguments.show,
        keeps_script: arguments.prints_script,
        ..Options::default()
    };
    if let Some(path) = &arguments.trace {
        match File::create(path) {
            Ok(file) => options.trace = Some(Box::new(BufWriter::new(file))),
            Err(error) => {
                eprintln!("cannot write {path}: {error}");
                return false;
            }
        }
    }
    let report = run(scenario, seed, options);
    for line in &report.script {
        println!("{line}");
    }
    if arguments.show.is_none() {
        print_coverage(scenario, &report.coverage);
    }
    println!("scenario {} seed {seed} digest {:016x}", scenario.name(), report.digest);
    let is_good = tell(&report);
    if !is_good && arguments.shrinks {
        print_shrunk(scenario, report);
    }
    is_good
}

pub(crate) fn many(scenario: Scenario, arguments: &Arguments) -> bool {
    let end = arguments.first + arguments.seeds;
    let again: &[u64] = match (arguments.first, &arguments.mutant) {
        (0, None) => scenario.once_failed(),
        _ => &[],
    };
    let queue = (arguments.first..end).chain(again.iter().copied().filter(|&seed| seed >= end));
    let queue = Mutex::new(queue);
    let failed = AtomicBool::new(false);
    let total = Mutex::new((Coverage::default(), 0u64, 0u64));
    let failure = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let seed = queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
                    let Some(seed) = seed else { return };
                    let options = Options {
                        shape: arguments.shape,
                        cut: arguments.cut.clone(),
                        ..Options::default()
                    };
                    let report = run(scenario, seed, options);
                    let mut total = total.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    total.0.add(&report.coverage);
                    total.1 += 1;
                    total.2 += report.simulated_us;
                    if !tell(&report) && !failed.swap(true, Ordering::Relaxed) {
                        *failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(report);
                    }
                }
            });
        }
    });
    let (coverage, seeds, simulated_us) = total.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    println!(
        "scenario {}: {seeds} seeds, {} simulated seconds",
        scenario.name(),
        simulated_us / 1_000_000
    );
    let is_covered = print_coverage(scenario, &coverage) || !arguments.checks_coverage;
    let failure = failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    let is_good = failure.is_none() && is_covered;
    // A mutant's failure is expected; nobody wants to read it.
    if let Some(report) = failure.filter(|_| arguments.mutant.is_none() || arguments.shrinks) {
        print_shrunk(scenario, report);
    }
    is_good
}

fn print_shrunk(scenario: Scenario, report: Report) {
    println!("shrinking…");
    let seed = report.seed;
    let shrunk = shrink::shrink(report, |cut| {
        let keeps_script = true;
        let options = Options {
            cut,
            keeps_script,
            ..Options::default()
        };
        run(scenario, seed, options)
    });
    print!("{}", shrunk.text());
    println!("replay: {}{}", replay(scenario.name(), seed), shrunk.flags());
}

fn replay(scenario: &str, seed: u64) -> String {
    format!("cargo xtask sim --scenario {scenario} --seed {seed}")
}

fn tell(report: &Report) -> bool {
    let Some(violation) = report.violation.as_ref().filter(|v| !v.is_stop()) else {
        return true;
    };
    let (scenario, seed) = (&report.scenario, report.seed);
    println!("seed {seed} of scenario {scenario} failed {violation}");
    println!("replay: {}", replay(scenario, seed));
    false
}

/// Prints the counters; false when one is zero.
fn print_coverage(scenario: Scenario, coverage: &Coverage) -> bool {
    let mut zeros = Vec::new();
    for (name, what, count) in coverage.rows() {
        if scenario.leaves_at_zero(name) {
            continue;
        }
        println!("  {count:>10}  {what}");
        if count == 0 {
            zeros.push(name);
        }
    }
    if !zeros.is_empty() {
        println!("not covered: {}", zeros.join(", "));
    }
    zeros.is_empty()
}
