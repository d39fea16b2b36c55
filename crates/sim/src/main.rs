//! `settle-sim`: runs scenarios over many seeds on all cores, prints what they covered, and how to replay a failure.

use std::{
    fs::File,
    io::BufWriter,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use settle_sim::{Coverage, Options, Report, Scenario, mutants::MUTANTS, run};

const USAGE: &str = "usage: settle-sim [--scenario NAME|all] [--seeds N] [--first N] [--seed S] [--trace FILE] [--threads N] [--no-coverage] [--mutant NAME]
       settle-sim mutants

  --scenario     register, tx, or all (default)
  --seeds N      run seeds FIRST..FIRST+N (default 20)
  --first N      the first seed (default 0)
  --seed S       run this seed only
  --trace FILE   with --seed: write one line per event
  --threads N    default: one per core
  --no-coverage  do not fail when something was not covered
  --mutant NAME  with this deliberate bug; needs a build with `--cfg settle_mutants`
  mutants        print the deliberate bugs to be caught: name, scenario, seeds, meaning";

struct Arguments {
    scenarios: Vec<Scenario>,
    seeds: u64,
    first: u64,
    seed: Option<u64>,
    trace: Option<String>,
    threads: usize,
    checks_coverage: bool,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|w| w == "mutants") {
        for m in MUTANTS {
            println!("{}\t{}\t{}\t{}", m.name, m.scenario, m.seeds_max, m.what);
        }
        return ExitCode::SUCCESS;
    }
    match parse(&words) {
        Ok(arguments) => simulate(&arguments),
        Err(what) => {
            eprintln!("{what}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(words: &[String]) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        scenarios: Scenario::ALL.to_vec(),
        seeds: 20,
        first: 0,
        seed: None,
        trace: None,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        checks_coverage: true,
    };
    let mut words = words.iter();
    while let Some(flag) = words.next() {
        if flag == "--no-coverage" {
            arguments.checks_coverage = false;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{flag} needs a value"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("{flag} needs a whole number, not `{value}`"))
        };
        match flag.as_str() {
            "--scenario" if value == "all" => arguments.scenarios = Scenario::ALL.to_vec(),
            "--scenario" => {
                let scenario = Scenario::from_name(value).ok_or_else(|| format!("no scenario `{value}`"))?;
                arguments.scenarios = vec![scenario];
            }
            "--seeds" => arguments.seeds = number()?,
            "--first" => arguments.first = number()?,
            "--seed" => arguments.seed = Some(number()?),
            "--trace" => arguments.trace = Some(value.clone()),
            "--mutant" => switch_on(value)?,
            "--threads" => arguments.threads = number()?.clamp(1, 64) as usize,
            _ => return Err(format!("unknown flag {flag}")),
        }
    }
    Ok(arguments)
}

#[cfg(settle_mutants)]
fn switch_on(mutant: &str) -> Result<(), String> {
    if !MUTANTS.iter().any(|m| m.name == mutant) {
        return Err(format!("no mutant `{mutant}`"));
    }
    settle_base::mutants::switch_on(mutant);
    Ok(())
}

#[cfg(not(settle_mutants))]
fn switch_on(_mutant: &str) -> Result<(), String> {
    Err("this build has no mutants: it needs `--cfg settle_mutants`".to_owned())
}

fn simulate(arguments: &Arguments) -> ExitCode {
    let mut good = true;
    for &scenario in &arguments.scenarios {
        good &= match arguments.seed {
            Some(seed) => one_seed(scenario, seed, arguments),
            None => many_seeds(scenario, arguments),
        };
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn one_seed(scenario: Scenario, seed: u64, arguments: &Arguments) -> bool {
    let mut options = Options::default();
    if let Some(path) = &arguments.trace {
        match File::create(path) {
            Ok(file) => options.trace = Some(Box::new(BufWriter::new(file))),
            Err(error) => {
                eprintln!("cannot write {path}: {error}");
                return false;
            }
        }
    }
    announce_panics_of(scenario, seed);
    let report = run(scenario, seed, options);
    print_coverage(scenario, &report.coverage);
    println!("scenario {} seed {seed} digest {:016x}", scenario.name(), report.digest);
    tell(&report)
}

fn many_seeds(scenario: Scenario, arguments: &Arguments) -> bool {
    let next = AtomicU64::new(arguments.first);
    let end = arguments.first + arguments.seeds;
    let failed = AtomicBool::new(false);
    let total = Mutex::new((Coverage::default(), 0u64, 0u64));
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    announce_panics_of(scenario, seed);
                    let report = run(scenario, seed, Options::default());
                    let mut total = total.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    total.0.add(&report.coverage);
                    total.1 += 1;
                    total.2 += report.simulated_us;
                    if !tell(&report) {
                        failed.store(true, Ordering::Relaxed);
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
    !failed.load(Ordering::Relaxed) && is_covered
}

/// Says how to replay when the code under test panics: the release profile aborts.
fn announce_panics_of(scenario: Scenario, seed: u64) {
    thread_local! {
        static CURRENT: std::cell::Cell<Option<(Scenario, u64)>> = const { std::cell::Cell::new(None) };
    }
    static HOOK: std::sync::Once = std::sync::Once::new();
    CURRENT.set(Some((scenario, seed)));
    HOOK.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            default(info);
            if let Some((scenario, seed)) = CURRENT.get() {
                eprintln!(
                    "seed {seed} of scenario {} panicked; replay: {}",
                    scenario.name(),
                    replay(scenario, seed)
                );
            }
        }));
    });
}

fn replay(scenario: Scenario, seed: u64) -> String {
    format!("cargo xtask sim --scenario {} --seed {seed}", scenario.name())
}

fn tell(report: &Report) -> bool {
    let Some(violation) = &report.violation else {
        return true;
    };
    let (scenario, seed) = (report.scenario, report.seed);
    println!("seed {seed} of scenario {} failed {violation}", scenario.name());
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
