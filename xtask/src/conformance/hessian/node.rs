//! npm's `hessian.js` and `sofa-hessian-node` against ours: values from a seed, which each writes and the other reads.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use settle_base::Prng;
use settle_hessian::{DecodeOptions, Dialect, Document};

use super::{calls, difference, random, random::Shape};
use crate::conformance::{npm, versions::HessianNpm};

/// A library, what it speaks, and how it can be asked to write: as it finds the values, or by a function that it
/// compiles for each class.
const PEERS: [(&str, &str, Dialect, &[&str]); 3] = [
    ("hessian.js", "hessian.js", Dialect::Hessian2, &["plain"]),
    ("sofa-hessian-node", "v3", Dialect::Sofa3, &["plain", "compiled"]),
    ("sofa-hessian-node", "v4", Dialect::Hessian2, &["compiled"]),
];

#[derive(Default)]
pub struct Tally {
    pub passed: usize,
    /// Read there, but not written.
    pub cannot: usize,
    pub failed: usize,
}

/// How a compiled function fails at a class that it wrote before and now meets in a list without types, as COMPAT.md
/// says.
const COMPILED_CANNOT: &str = "Cannot read properties of undefined (reading 'length')";

enum Verdict {
    Same,
    Cannot,
    Differs(String),
}

/// Brings the packages and the script to `out`.
pub fn install(root: &Path, out: &Path, pins: &HessianNpm) -> Result<()> {
    npm::install(
        out,
        &[
            ("hessian.js", &pins.hessian_js),
            ("sofa-hessian-node", &pins.sofa_hessian_node),
        ],
    )?;
    std::fs::copy(root.join("conformance/hessian/node/peer.js"), out.join("peer.js"))?;
    Ok(())
}

/// Plays `cases` documents with each library whose name `is_wanted`.
pub fn play(out: &Path, seed: u64, cases: u64, is_wanted: impl Fn(&str) -> bool) -> Result<Tally> {
    let mut all = Tally::default();
    for (package, name, dialect, ways) in PEERS {
        if !is_wanted(package) {
            continue;
        }
        for way in ways {
            let tally = Peer::start(out, name, dialect)?.play(way, seed, cases)?;
            let told = format!("{package} {name}");
            println!(
                "{:<20} {way:<8} values {cases:>5}: both ways {:>5}; {} that it cannot write; {} differ",
                told.trim_end_matches(" hessian.js"),
                tally.passed,
                tally.cannot,
                tally.failed
            );
            all.passed += tally.passed;
            all.failed += tally.failed;
        }
    }
    Ok(all)
}

struct Peer {
    child: std::process::Child,
    orders: std::process::ChildStdin,
    answers: BufReader<std::process::ChildStdout>,
    name: &'static str,
    dialect: Dialect,
}

impl Peer {
    fn start(out: &Path, name: &'static str, dialect: Dialect) -> Result<Peer> {
        let mut child = Command::new("node")
            .arg(out.join("peer.js"))
            .arg(name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start node")?;
        Ok(Peer {
            orders: child.stdin.take().context("the input is piped")?,
            answers: BufReader::new(child.stdout.take().context("the output is piped")?),
            child,
            name,
            dialect,
        })
    }

    fn play(mut self, way: &str, seed: u64, cases: u64) -> Result<Tally> {
        let mut tally = Tally::default();
        for index in 0..cases {
            let mut prng = Prng::from_parts(&[seed, index]);
            let document = random::document(
                &mut prng,
                Shape {
                    shares: way == "plain",
                    any_key: way == "plain",
                    // What `sofa-hessian-node` is built on writes other maps as objects.
                    any_map: self.name == "hessian.js",
                    // Only a class can be compiled.
                    is_object: way == "compiled",
                },
            );
            match self.case(way, &document)? {
                Verdict::Same => tally.passed += 1,
                Verdict::Cannot => tally.cannot += 1,
                Verdict::Differs(difference) => {
                    tally.failed += 1;
                    let start: String = difference.chars().take(600).collect();
                    println!("FAIL {} {way}, seed {seed}, value {index}: {start}", self.name);
                }
            }
        }
        drop(self.orders);
        self.child.wait()?;
        Ok(tally)
    }

    /// What differs in one document, written there and read here and the other way round.
    fn case(&mut self, way: &str, document: &Document<'_>) -> Result<Verdict> {
        let meant = calls::of(document);
        let ours = calls::hex(&document.encode(self.dialect)?);
        writeln!(self.orders, "{way}\t{meant}\t{ours}")?;
        self.orders.flush()?;
        let mut line = String::new();
        ensure!(
            self.answers.read_line(&mut line)? > 0,
            "the side of {} ended",
            self.name
        );
        let (theirs, read) = line
            .trim_end_matches('\n')
            .split_once('\t')
            .context("an answer has two parts")?;
        if !read.is_empty() {
            return Ok(Verdict::Differs(format!("there: {read} | {meant}")));
        }
        if let Some(error) = theirs.strip_prefix('!') {
            return Ok(if way == "compiled" && error == COMPILED_CANNOT {
                Verdict::Cannot
            } else {
                Verdict::Differs(format!("is not written there: {error} | {meant}"))
            });
        }
        let bytes = calls::bytes(theirs)?;
        let options = DecodeOptions::new(self.dialect);
        Ok(match Document::decode(&bytes, &options) {
            Err(error) => Verdict::Differs(format!("is not read here: {error} | {theirs} | {meant}")),
            Ok(read) => {
                let read = calls::of(&read);
                match read == meant {
                    true => Verdict::Same,
                    false => Verdict::Differs(format!("here: {}", difference(read.as_bytes(), meant.as_bytes()))),
                }
            }
        })
    }
}
