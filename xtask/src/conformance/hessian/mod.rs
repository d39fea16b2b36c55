//! `cargo xtask conformance hessian`: the Java libraries, npm's and ours read what the other wrote.
//!
//! The Java side makes the cases from a seed. Each case goes both ways: the library's bytes must be read here as the
//! values that it was asked to write, and what is written here for those values, which must be the same bytes, must be
//! read by the library as its own are.

mod calls;
mod node;
mod random;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, ensure};
use settle_hessian::{ClassNames, DecodeOptions, Dialect, Document, Library};

use super::{
    maven, target_dir,
    versions::{self, HessianDialect, HessianPeer},
};

#[derive(clap::Args)]
pub struct Args {
    /// The seed of the cases.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How often each kind of case is made, each time with other content.
    #[arg(long, default_value_t = 4)]
    rounds: u32,
    /// How many values from the seed npm's libraries and ours let each other read.
    #[arg(long, default_value_t = 500)]
    values: u64,
    /// Only these libraries, by the names in conformance/versions.toml; may be repeated.
    #[arg(long)]
    peer: Vec<String>,
    /// Only cases of Java's libraries whose name begins so.
    #[arg(long)]
    case: Option<String>,
    /// Write the short cases to conformance/hessian/vectors, so that tests need no JVM.
    #[arg(long)]
    write_vectors: bool,
    /// Only download and build the Java side, so that a later run needs no network.
    #[arg(long)]
    prepare: bool,
}

/// Longer cases are not kept as vectors.
const VECTOR_BYTES: usize = 900;

pub const NEEDED: [&str; 4] = ["java", "mvn", "node", "npm"];

/// What a Java library cannot do with values of its own language on the JDK of this suite, by library and kind of case.
/// The bytes are compared all the same. COMPAT.md says why; a row that is no longer true fails the suite.
const JAVA_CANNOT: &[(&str, &str, Cannot)] = &[
    ("sofa", "map-true-first", Cannot::Read),
    ("sofa", "enum-with-a-body", Cannot::Read),
    ("sofa", "url", Cannot::Read),
    ("sofa4", "list-of", Cannot::Read),
    ("sofa4", "url", Cannot::Read),
    ("caucho", "local-date", Cannot::Write),
    ("caucho", "local-time", Cannot::Write),
    ("caucho", "local-date-time", Cannot::Write),
    ("caucho", "instant", Cannot::Write),
    ("caucho", "duration-period", Cannot::Write),
    ("caucho", "years", Cannot::Write),
    ("caucho", "offsets", Cannot::Write),
    ("caucho", "zoned", Cannot::Write),
    ("caucho", "list-of", Cannot::Read),
    ("caucho", "url", Cannot::Read),
    ("hessian-lite", "list-of", Cannot::Read),
    ("hessian-lite", "iterators", Cannot::Read),
    ("hessian-lite", "url", Cannot::Read),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cannot {
    /// It writes the values and fails at its own bytes.
    Read,
    Write,
}

/// Exit code 0 when all passed, 1 when a case failed, 3 when something it needs is missing under CI.
pub fn run(args: &Args) -> Result<ExitCode> {
    let root = &crate::root().canonicalize().context("find the repository")?;
    let pins = versions::read(&root.join("conformance/versions.toml"))?.hessian;
    let out = target_dir(root)?.join("conformance/hessian");
    let java = root.join("conformance/hessian/java");
    let is_wanted = |name: &str| args.peer.is_empty() || args.peer.iter().any(|wanted| wanted == name);
    let (mut passed, mut failed) = (0, 0);
    for peer in pins.peer.iter().filter(|peer| is_wanted(&peer.name)) {
        let class_path = maven::build_hessian_peer(&java, &out, &pins, peer)?;
        if args.prepare {
            println!("ready: {}:{}:{}", peer.group, peer.artifact, peer.version);
            continue;
        }
        let started = Peer::start(peer, &class_path, args, &pins.open)?;
        if args.write_vectors {
            let file = root
                .join("conformance/hessian/vectors")
                .join(format!("{}.txt", peer.name));
            std::fs::write(&file, started.vectors(args)).with_context(|| format!("write {}", file.display()))?;
        }
        let tally = started.play()?;
        println!(
            "{:<12} {:<7} cases {:>4}: read {:>4}, written {:>4}; {} methods of the test service; {} that Java cannot",
            peer.name, peer.version, tally.cases, tally.read, tally.written, tally.service, tally.java_cannot
        );
        passed += tally.read + tally.written;
        failed += tally.failed;
    }
    let npm = target_dir(root)?.join("conformance/hessian-node");
    node::install(root, &npm, &pins.npm)?;
    if args.prepare {
        println!(
            "ready: npm hessian.js {}, sofa-hessian-node {}",
            pins.npm.hessian_js, pins.npm.sofa_hessian_node
        );
    } else {
        if args.case.is_none() {
            let tally = node::play(&npm, args.seed, args.values, is_wanted)?;
            passed += tally.passed;
            failed += tally.failed;
        }
        ensure!(passed + failed > 0, "no case fits the filters");
        println!("{passed} passed, {failed} failed");
    }
    Ok(ExitCode::from(u8::from(failed > 0)))
}

/// `cargo xtask compare hessian`: builds the Java side and runs the bench that measures both.
pub fn beside_java(names: &[String]) -> Result<ExitCode> {
    let root = &crate::root().canonicalize().context("find the repository")?;
    let pins = versions::read(&root.join("conformance/versions.toml"))?.hessian;
    let mut told = pins.open.join("\t");
    for peer in &pins.peer {
        if !names.is_empty() && !names.contains(&peer.name) {
            continue;
        }
        let dialect = match peer.dialect {
            HessianDialect::Sofa3 => "sofa3",
            HessianDialect::Hessian2 | HessianDialect::Hessian2Caucho => "hessian2",
        };
        let out = target_dir(root)?.join("conformance/hessian");
        let class_path = maven::build_hessian_peer(&root.join("conformance/hessian/java"), &out, &pins, peer)?;
        told += &format!("\n{}\t{dialect}\t{class_path}", peer.name);
    }
    let status = crate::cargo()
        .args([
            "bench",
            "--quiet",
            "--package",
            "xtask",
            "--bench",
            "hessian_beside_java",
        ])
        .env("SETTLE_HESSIAN_JAVA", told)
        // Freed memory stays with the process, as Java's heap does; else the half of a large message's time is the
        // kernel's, which takes the pages back and gives them again for each.
        .env("MALLOC_TRIM_THRESHOLD_", "1073741824")
        .env("MALLOC_MMAP_THRESHOLD_", "1073741824")
        .current_dir(root)
        .status()
        .context("start cargo to run the bench")?;
    Ok(ExitCode::from(u8::from(!status.success())))
}

struct Case {
    name: String,
    bytes: Vec<u8>,
    calls: String,
}

#[derive(Default)]
struct Tally {
    cases: usize,
    /// Java's bytes were read as the values that Java meant.
    read: usize,
    /// Our bytes are Java's, and Java reads them as its own.
    written: usize,
    /// Cases that are methods of Caucho's test service.
    service: usize,
    java_cannot: usize,
    failed: usize,
}

struct Peer<'a> {
    child: std::process::Child,
    peer: &'a HessianPeer,
    cases: Vec<Case>,
    tally: Tally,
    out: BufReader<std::process::ChildStdout>,
}

impl<'a> Peer<'a> {
    fn start(peer: &'a HessianPeer, class_path: &str, args: &Args, open: &[String]) -> Result<Peer<'a>> {
        let mut command = Command::new("java");
        for package in open {
            command.arg("--add-opens").arg(format!("{package}=ALL-UNNAMED"));
        }
        let mut child = command
            .args(["-cp", class_path, "settle.hessian.Peer"])
            .args([args.seed.to_string(), args.rounds.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start java")?;
        let mut out = BufReader::new(child.stdout.take().context("the output is piped")?);
        let (mut cases, mut tally) = (Vec::new(), Tally::default());
        loop {
            let mut line = String::new();
            ensure!(
                out.read_line(&mut line)? > 0,
                "the Java side of {} ended early",
                peer.name
            );
            let line = line.trim_end_matches('\n');
            if line == "end" {
                break;
            }
            let fields: Vec<&str> = line.split('\t').collect();
            let &[name, ref rest @ ..] = fields.as_slice() else {
                continue;
            };
            if args
                .case
                .as_ref()
                .is_some_and(|wanted| !name.starts_with(wanted.as_str()))
            {
                continue;
            }
            match rest {
                ["!", error] => tally.java_cannot(peer, name, Cannot::Write, error),
                [_, bytes, calls] => cases.push(Case {
                    name: name.to_owned(),
                    bytes: calls::bytes(bytes)?,
                    calls: (*calls).to_owned(),
                }),
                _ => anyhow::bail!("the Java side of {} said {line:?}", peer.name),
            }
        }
        Ok(Peer {
            child,
            peer,
            cases,
            tally,
            out,
        })
    }

    /// The short cases, one a line: name, bytes and calls.
    fn vectors(&self, args: &Args) -> String {
        let mut out = format!(
            "# Written by {}:{}:{}: cargo xtask conformance hessian --seed {} --rounds {} --write-vectors\n",
            self.peer.group, self.peer.artifact, self.peer.version, args.seed, args.rounds
        );
        for case in self.cases.iter().filter(|case| case.bytes.len() <= VECTOR_BYTES) {
            out += &format!("{}\t{}\t{}\n", case.name, calls::hex(&case.bytes), case.calls);
        }
        out
    }

    fn play(mut self) -> Result<Tally> {
        let (dialect, library) = match self.peer.dialect {
            HessianDialect::Sofa3 => (Dialect::Sofa3, Library::default()),
            HessianDialect::Hessian2 => (Dialect::Hessian2, Library::HessianLite),
            HessianDialect::Hessian2Caucho => (Dialect::Hessian2, Library::Caucho),
        };
        let mut options = DecodeOptions::new(dialect);
        options.class_names = ClassNames::any();
        let mut stdin = self.child.stdin.take().context("the input is piped")?;
        for case in &self.cases {
            let (tally, name) = (&mut self.tally, &case.name);
            tally.cases += 1;
            tally.service += usize::from(name.starts_with("service-"));
            match read(case, &options) {
                Ok(()) => tally.read += 1,
                Err(error) => tally.fail(self.peer, name, &format!("is not read: {error:#}")),
            }
            let document = calls::document(&case.calls).with_context(|| format!("understand {name}"))?;
            let written = document.encode_with(dialect, library)?;
            writeln!(stdin, "{name}\t{}", calls::hex(&written))?;
            stdin.flush()?;
            let mut line = String::new();
            ensure!(self.out.read_line(&mut line)? > 0, "the Java side ended at {name}");
            let verdict = line.trim_end().split_once('\t').context("a verdict has a name")?.1;
            let unreadable = verdict.strip_prefix("unreadable ");
            if let Some(error) = unreadable {
                tally.java_cannot(self.peer, name, Cannot::Read, error);
            } else if is_listed(self.peer, name).is_some() {
                tally.fail(self.peer, name, "is listed as what Java cannot, and it can");
            }
            if written != case.bytes[..] {
                tally.fail(
                    self.peer,
                    name,
                    &format!("is written as other bytes: {}", difference(&written, &case.bytes)),
                );
            } else if verdict == "ok" || unreadable.is_some() {
                tally.written += 1;
            } else {
                tally.fail(self.peer, name, &format!("is not taken by Java: {verdict}"));
            }
        }
        drop(stdin);
        self.child.wait()?;
        Ok(self.tally)
    }
}

impl Tally {
    fn fail(&mut self, peer: &HessianPeer, case: &str, what: &str) {
        println!("FAIL {}: {case} {what}", peer.name);
        self.failed += 1;
    }

    fn java_cannot(&mut self, peer: &HessianPeer, case: &str, cannot: Cannot, error: &str) {
        self.java_cannot += 1;
        if is_listed(peer, case) != Some(cannot) {
            self.fail(
                peer,
                case,
                &format!("fails in Java ({cannot:?}), which is not listed: {error}"),
            );
        }
    }
}

fn is_listed(peer: &HessianPeer, case: &str) -> Option<Cannot> {
    let (kind, _round) = case.rsplit_once('-')?;
    let listed = JAVA_CANNOT
        .iter()
        .find(|(name, listed, _)| *name == peer.name && *listed == kind);
    listed.map(|(.., cannot)| *cannot)
}

fn read(case: &Case, options: &DecodeOptions) -> Result<()> {
    let document = Document::decode(&case.bytes, options)?;
    let calls = calls::of(&document);
    ensure!(
        calls == case.calls,
        "{}",
        difference(calls.as_bytes(), case.calls.as_bytes())
    );
    Ok(())
}

fn difference(ours: &[u8], theirs: &[u8]) -> String {
    let at = ours
        .iter()
        .zip(theirs)
        .take_while(|(ours, theirs)| ours == theirs)
        .count();
    let around = |all: &[u8]| {
        let part = &all[at.saturating_sub(20)..all.len().min(at + 40)];
        match std::str::from_utf8(part) {
            Ok(text) if !text.contains(|char: char| char.is_control()) => text.to_owned(),
            _ => calls::hex(part),
        }
    };
    format!("differs at {at}: ours {} | theirs {}", around(ours), around(theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_documents_say_the_same() {
        let text = "[2:005b0069006e0074 I1 R0 ] {0061 S0062 N } C0061002e0042,0078 O0 O0 R1 Yff D0 Sd800";
        let document = calls::document(text).unwrap();
        assert_eq!(calls::of(&document), text);
    }

    /// SOFAHessian 4.0.4 mended two faults of tables that all its threads share; there is none here. This test is in
    /// the tools, since a codec starts no thread.
    #[test]
    fn sixty_four_threads_read_and_write_at_once_as_one_does() {
        let text = include_str!("../../../../conformance/hessian/vectors/sofa.txt");
        let mut options = DecodeOptions::new(Dialect::Sofa3);
        options.class_names = ClassNames::any();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let vectors: Vec<(Vec<u8>, &str)> = lines
            .map(|line| {
                let fields: Vec<&str> = line.split('\t').collect();
                (calls::bytes(fields[1]).unwrap(), fields[2])
            })
            .collect();
        let start = std::sync::Barrier::new(64);
        std::thread::scope(|scope| {
            for thread in 0..64 {
                let (vectors, options, start) = (&vectors, &options, &start);
                scope.spawn(move || {
                    start.wait();
                    for index in 0..vectors.len() {
                        // Each thread begins elsewhere, so that different classes meet.
                        let (bytes, expected) = &vectors[(index + thread) % vectors.len()];
                        let document = Document::decode(bytes, options).unwrap();
                        assert_eq!(calls::of(&document), *expected);
                        assert_eq!(document.encode(Dialect::Sofa3).unwrap(), bytes[..]);
                    }
                });
            }
        });
    }
}
