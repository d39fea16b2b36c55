//! `cargo xtask tidy`: what no reviewer should have to remember.
//!
//! Each rule lives in the file named after it and adds to [`Findings`]; a finding says the place, the rule, and what to
//! do about it. Nothing is fixed silently: `--write` rewrites generated pages only.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;

mod bad_input;
mod code_map;
mod dependencies;
mod error_codes;
mod error_numbers;
mod file_length;
mod generated_pages;
mod layers;
mod links;
mod manifests;
mod planted_bugs;
mod source;
mod source_walls;
#[cfg(test)]
mod tests;
mod workspace;

use workspace::Workspace;

/// What to check.
#[derive(clap::Args)]
pub struct Args {
    /// The root of the repository to check; default: the one that `cargo xtask` is called in.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Rewrites generated pages that differ from what the code says, instead of reporting them.
    #[arg(long)]
    write: bool,
}

/// Checks the repository at `args.root` and prints each finding; exit code 1 when there is one.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let root = args.root.clone().unwrap_or_else(crate::root);
    let root = root
        .canonicalize()
        .with_context(|| format!("open the repository {}", root.display()))?;
    let mut findings = check(&root)?;
    generated_pages::check(&root, args.write, &mut findings)?;
    for finding in &findings.list {
        eprintln!("{finding}");
    }
    match findings.list.len() {
        0 => {
            println!("tidy: nothing to report");
            Ok(ExitCode::SUCCESS)
        }
        count => {
            eprintln!("tidy: {count} finding{}", if count == 1 { "" } else { "s" });
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Every rule that only reads.
fn check(root: &Path) -> anyhow::Result<Findings> {
    let workspace = Workspace::load(root)?;
    let mut findings = Findings::default();
    manifests::check(&workspace, &mut findings)?;
    dependencies::check(&workspace, &mut findings);
    let index = source::Index::build(&workspace, source_walls::SEALED)?;
    source_walls::check(&index, &mut findings);
    let codes = error_codes::check(&workspace, &index, &mut findings)?;
    bad_input::check(&workspace, &index, &codes, &mut findings)?;
    code_map::check(&workspace, &index, &mut findings);
    links::check(&workspace, &mut findings)?;
    file_length::check(&workspace, &mut findings)?;
    planted_bugs::check(&workspace, &mut findings)?;
    Ok(findings)
}

/// What was found, in order of place.
#[derive(Default, Debug)]
struct Findings {
    list: BTreeSet<Finding>,
}

impl Findings {
    fn add(&mut self, place: Place, rule: &'static str, message: String) {
        self.list.insert(Finding { place, rule, message });
    }
}

/// One broken rule.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Finding {
    place: Place,
    rule: &'static str,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: [{}] {}", self.place, self.rule, self.message)
    }
}

/// A file below the root and, where it makes sense, a line.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place {
    file: String,
    line: Option<usize>,
}

impl Place {
    fn file(file: impl Into<String>) -> Place {
        let file = file.into();
        Place { file, line: None }
    }

    fn line(file: impl Into<String>, line: usize) -> Place {
        let (file, line) = (file.into(), Some(line));
        Place { file, line }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.file),
            None => f.write_str(&self.file),
        }
    }
}
