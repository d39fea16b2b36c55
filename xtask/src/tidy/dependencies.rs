//! The layer walls in the dependency graph: direction for every kind of dependency, and what L0–L2 may pull in.

use std::collections::{BTreeMap, VecDeque};

use cargo_metadata::{DependencyKind, NodeDep, PackageId, TargetKind};

use super::{
    Findings, Place,
    layers::{layer_of, may_use},
    workspace::Workspace,
};

/// Packages that bring a clock, a socket, a thread pool or an entropy source: never below an L0–L2 crate, in tests
/// neither, because a test that depends on them cannot be replayed.
pub const IMPURE_PACKAGES: &[(&str, &str)] = &[
    ("tokio", "a runtime"),
    ("tokio-util", "a runtime"),
    ("async-std", "a runtime"),
    ("smol", "a runtime"),
    ("async-io", "a runtime"),
    ("async-executor", "a runtime"),
    ("glommio", "a runtime"),
    ("monoio", "a runtime"),
    ("futures-timer", "a clock"),
    ("mio", "sockets"),
    ("polling", "sockets"),
    ("socket2", "sockets"),
    ("hyper", "sockets"),
    ("rayon", "threads"),
    ("rayon-core", "threads"),
    ("threadpool", "threads"),
    ("crossbeam-channel", "threads"),
    ("getrandom", "unseeded randomness"),
    ("fastrand", "unseeded randomness"),
    ("rand", "unseeded randomness (its thread_rng)"),
    ("uuid", "unseeded randomness"),
    ("ahash", "unseeded randomness"),
    ("chrono", "a clock"),
    ("time", "a clock"),
    ("jiff", "a clock"),
    ("quanta", "a clock"),
    ("minstant", "a clock"),
    ("coarsetime", "a clock"),
    ("instant", "a clock"),
    ("web-time", "a clock"),
    ("tempfile", "files"),
    ("walkdir", "files"),
    ("memmap2", "files"),
    ("fs2", "files"),
    ("nix", "system calls"),
    ("rustix", "system calls"),
];

/// A subtree that may bring impure packages after all, with the reason.
struct Exception {
    /// The folder of the crate that has it; `None`: any.
    user: Option<&'static str>,
    kind: DependencyKind,
    /// The direct dependency whose subtree is excused.
    through: &'static str,
    /// The packages excused; empty: all of them.
    packages: &'static [&'static str],
    #[allow(dead_code, reason = "the table must say why; only its reader needs it")]
    reason: &'static str,
}

const EXCEPTIONS: &[Exception] = &[
    Exception {
        user: Some("crates/raft"),
        kind: DependencyKind::Development,
        through: "raft",
        packages: &[],
        reason: "the oracle of the differential test; it is driven by the same script as our core, tick by tick",
    },
    Exception {
        user: None,
        kind: DependencyKind::Development,
        through: "proptest",
        packages: &["rand", "getrandom"],
        reason: "proptest draws the seed of a run from the system and prints it with a failure, which replays it",
    },
];

/// Checks every dependency of every member.
pub fn check(workspace: &Workspace, findings: &mut Findings) {
    for package in workspace.members() {
        let folder = workspace.folder(package);
        let manifest = || Place::file(format!("{folder}/Cargo.toml"));
        let Some(layer) = layer_of(&folder) else {
            let message = format!("{folder} is in no layer: add it to xtask/src/tidy/layers.rs");
            findings.add(manifest(), "layers", message);
            continue;
        };
        for dependency in &package.dependencies {
            let Some(used) = workspace.member_named(&dependency.name) else {
                continue;
            };
            let used_folder = workspace.folder(used);
            let Some(used_layer) = layer_of(&used_folder) else {
                continue;
            };
            if let Err(why) = may_use((&folder, layer), (&used_folder, used_layer), dependency.kind) {
                let message = format!("{why} (a {} dependency)", kind_name(dependency.kind));
                findings.add(manifest(), "layers", message);
            }
        }
        if layer.is_pure() {
            for kind in [
                DependencyKind::Normal,
                DependencyKind::Development,
                DependencyKind::Build,
            ] {
                for (found, what, path) in impure_below(workspace, &package.id, &folder, kind) {
                    let message = format!(
                        "{folder} (L0–L2) pulls in {found}, {what}, through a {} dependency: {path}",
                        kind_name(kind)
                    );
                    findings.add(manifest(), "pure-dependencies", message);
                }
            }
        }
    }
}

/// Impure packages reachable from `start` over a first edge of `kind`: name, what it brings, the way there.
///
/// Below the first edge only normal dependencies count: build scripts and procedural macros of others run in the
/// compiler, not in the core. Features are as the whole workspace unifies them, on every platform.
fn impure_below(
    workspace: &Workspace,
    start: &PackageId,
    folder: &str,
    kind: DependencyKind,
) -> Vec<(String, &'static str, String)> {
    let mut found = BTreeMap::new();
    for first in workspace.node(start).deps.iter().filter(|dep| has_kind(dep, kind)) {
        let through = workspace.package(&first.pkg).name.to_string();
        let mut paths = BTreeMap::from([(first.pkg.clone(), through.clone())]);
        let mut queue = VecDeque::from([first.pkg.clone()]);
        while let Some(id) = queue.pop_front() {
            let package = workspace.package(&id);
            let path = paths[&id].clone();
            if let Some(&(name, what)) = IMPURE_PACKAGES.iter().find(|(name, _)| *name == *package.name) {
                if !excused(folder, kind, &through, name) {
                    found.entry(name).or_insert((name.to_string(), what, path.clone()));
                }
                continue;
            }
            if package
                .targets
                .iter()
                .any(|target| target.kind.contains(&TargetKind::ProcMacro))
            {
                continue;
            }
            for next in workspace
                .node(&id)
                .deps
                .iter()
                .filter(|dep| has_kind(dep, DependencyKind::Normal))
            {
                if !paths.contains_key(&next.pkg) {
                    paths.insert(
                        next.pkg.clone(),
                        format!("{path} → {}", workspace.package(&next.pkg).name),
                    );
                    queue.push_back(next.pkg.clone());
                }
            }
        }
    }
    found.into_values().collect()
}

fn has_kind(dependency: &NodeDep, kind: DependencyKind) -> bool {
    dependency.dep_kinds.iter().any(|info| info.kind == kind)
}

fn excused(folder: &str, kind: DependencyKind, through: &str, package: &str) -> bool {
    EXCEPTIONS.iter().any(|exception| {
        exception.user.is_none_or(|user| user == folder)
            && exception.kind == kind
            && exception.through == through
            && (exception.packages.is_empty() || exception.packages.contains(&package))
    })
}

fn kind_name(kind: DependencyKind) -> &'static str {
    match kind {
        DependencyKind::Development => "dev",
        DependencyKind::Build => "build",
        _ => "normal",
    }
}
