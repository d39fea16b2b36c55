//! `cargo xtask conformance bolt`: Java's bolt library, SOFARPC and `sofa-bolt-node`, and ours, as
//! client and server of each other.

mod java;
mod java_client;
mod java_server;
mod link;
mod node;
mod sofarpc_client;
mod sofarpc_server;

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use settle_bolt::{Switch, Version};

use super::{maven, target_dir, versions};

#[derive(clap::Args)]
pub struct Args {
    /// Only cases whose name begins so.
    #[arg(long)]
    case: Option<String>,
    /// Write `conformance/bolt/vectors` anew from the encoders of the library.
    #[arg(long)]
    record: bool,
    /// Only download and build the Java side, so that a later run needs no network.
    #[arg(long)]
    prepare: bool,
}

pub const NEEDED: [&str; 4] = ["java", "mvn", "node", "npm"];

/// What is spoken, and how Java's client is told to.
const SPOKEN: [(&str, Version, Switch, &str); 3] = [
    ("v1", Version::V1, Switch::NONE, "?_PROTOCOL=1"),
    ("v2", Version::V2Plain, Switch::CHECKSUM, "?_PROTOCOL=2&_VERSION=1"),
    (
        "v2 checked",
        Version::V2Checked,
        Switch::CHECKSUM,
        "?_PROTOCOL=2&_VERSION=2",
    ),
];

/// Exit code 0 when all passed, 1 when a case failed, 3 when something it needs is missing under CI.
pub fn run(args: &Args) -> Result<ExitCode> {
    let root = &crate::root().canonicalize().context("find the repository")?;
    let pins = versions::read(&root.join("conformance/versions.toml"))?;
    let out = target_dir(root)?.join("conformance/bolt");
    let class_path = maven::build_bolt_peer(&root.join("conformance/bolt/java"), &out, &pins.bolt)?;
    let peer = format!("com.alipay.sofa:bolt:{}", pins.bolt.version);
    let sofarpc_path = maven::build_sofarpc_peer(
        &root.join("conformance/bolt/sofarpc"),
        &target_dir(root)?.join("conformance/sofarpc"),
        &pins.bolt,
    )?;
    let sofarpc = format!("com.alipay.sofa:sofa-rpc-all:{}", pins.bolt.sofarpc["sofarpc"]);
    let script = node::install(root, &target_dir(root)?.join("conformance/bolt-node"), &pins.bolt.node)?;
    let node = format!("npm sofa-bolt-node {}", pins.bolt.node);
    if args.prepare {
        println!("ready: {peer}, {sofarpc}, {node}");
        return Ok(ExitCode::SUCCESS);
    }
    let mut report = Report {
        filter: args.case.clone().unwrap_or_default(),
        passed: 0,
        failed: 0,
    };
    let file = root.join(format!("conformance/bolt/vectors/bolt-{}.txt", pins.bolt.version));
    let vectors = vectors(&class_path)?;
    if args.record {
        std::fs::write(&file, &vectors)?;
    }
    report.part(&peer, "encoders", "all", |case| {
        case("the-vectors-are-what-the-library-writes", &mut || {
            ensure!(std::fs::read_to_string(&file)? == vectors, "{} differs", file.display());
            Ok(())
        });
        Ok(())
    })?;
    for (name, version, switch, query) in SPOKEN {
        report.part(&peer, "client", name, |case| {
            java_client::play(&class_path, &pins.hessian.open, (version, switch), query, case)
        })?;
        report.part(&peer, "server", name, |case| {
            java_server::play(&class_path, &pins.hessian.open, (version, switch), case)
        })?;
    }
    report.part(&sofarpc, "client", "v1", |case| {
        sofarpc_client::play(&sofarpc_path, &pins.hessian.open, case)
    })?;
    report.part(&sofarpc, "server", "v1", |case| {
        sofarpc_server::play(&sofarpc_path, &pins.hessian.open, case)
    })?;
    for (name, version, switch, words) in node::SPOKEN {
        report.part(&node, "client", name, |case| {
            node::play_client(&script, (version, switch), words, case)
        })?;
        report.part(&node, "server", name, |case| {
            node::play_server(&script, (version, switch), words, case)
        })?;
    }
    ensure!(report.passed + report.failed > 0, "no case fits the filter");
    println!("{} passed, {} failed", report.passed, report.failed);
    Ok(ExitCode::from(u8::from(report.failed > 0)))
}

/// Runs a case unless the filter leaves it out.
type Case<'a> = dyn FnMut(&str, &mut dyn FnMut() -> Result<()>) + 'a;

struct Report {
    filter: String,
    passed: usize,
    failed: usize,
}

impl Report {
    /// Plays one role of one peer in one version.
    fn part(
        &mut self,
        peer: &str,
        role: &str,
        spoken: &str,
        play: impl FnOnce(&mut Case<'_>) -> Result<()>,
    ) -> Result<()> {
        let (mut passed, mut failed) = (0, 0);
        let filter = &self.filter;
        play(&mut |name, run| {
            if !name.starts_with(filter.as_str()) {
                return;
            }
            match run() {
                Ok(()) => passed += 1,
                Err(error) => {
                    failed += 1;
                    println!("FAIL {peer} as {role}, {spoken}, {name}: {error:#}");
                }
            }
        })
        .with_context(|| format!("{peer} as {role}, {spoken}"))?;
        println!("{peer:<37} as {role:<8} {spoken:<10} {passed:>3} passed, {failed} failed");
        self.passed += passed;
        self.failed += failed;
        Ok(())
    }
}

fn vectors(class_path: &str) -> Result<String> {
    let out = Command::new("java")
        .args(["-cp", class_path, "settle.conformance.bolt.Vectors"])
        .output()
        .context("run java")?;
    if !out.status.success() {
        bail!("java failed: {}", String::from_utf8_lossy(&out.stderr));
    }
    let frames = String::from_utf8(out.stdout)?;
    let head = "# Frames as the encoders of com.alipay.sofa:bolt write them: what each says | its bytes.\n\
                # Made by `cargo xtask conformance bolt --record`.\n";
    Ok(format!("{head}{frames}"))
}
