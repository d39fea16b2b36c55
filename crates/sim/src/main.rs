//! `settle-sim`: runs scenarios over many seeds on all cores, prints what they covered, and how to replay a failure.

mod cli;

use std::process::ExitCode;

use settle_sim::mutants::MUTANTS;

use cli::{
    arguments::{Arguments, USAGE},
    catch, seeds,
};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|w| w == "mutants") {
        for m in MUTANTS {
            println!("{}\t{}\t{}\t{}", m.name, m.scenario, m.seeds_max, m.what);
        }
        return ExitCode::SUCCESS;
    }
    let arguments = Arguments::parse(&words).and_then(|arguments| {
        arguments.mutant.as_deref().map_or(Ok(()), switch_on)?;
        Ok(arguments)
    });
    match arguments {
        Ok(arguments) => simulate(&arguments),
        Err(what) => {
            eprintln!("{what}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

#[cfg(settle_mutants)]
fn switch_on(mutant: &str) -> Result<(), String> {
    settle_base::mutants::switch_on(mutant);
    Ok(())
}

#[cfg(not(settle_mutants))]
fn switch_on(_mutant: &str) -> Result<(), String> {
    Err("this build has no mutants: it needs `--cfg settle_mutants`".to_owned())
}

fn simulate(arguments: &Arguments) -> ExitCode {
    let mut good = true;
    let mutant = arguments
        .mutant
        .as_ref()
        .and_then(|name| MUTANTS.iter().find(|m| m.name == *name));
    if let Some(mutant) = mutant.filter(|_| arguments.ranges > 0) {
        good = catch::catch(mutant, arguments);
    } else {
        for &scenario in &arguments.scenarios {
            good &= match arguments.seed {
                Some(seed) => seeds::one(scenario, seed, arguments),
                None => seeds::many(scenario, arguments),
            };
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
