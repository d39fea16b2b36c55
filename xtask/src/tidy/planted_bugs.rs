//! Every deliberate bug that the simulator lists is planted somewhere, and the server cannot be built with any.

use std::collections::BTreeSet;

use anyhow::Context as _;
use walkdir::WalkDir;

use super::{Findings, Place, workspace::Workspace};

const LIST: &str = "crates/sim/src/mutants.rs";
const SERVER: &str = "crates/settle/src/main.rs";
const REFUSAL: &str = "#[cfg(settle_mutants)]\ncompile_error!(";
const PLANT: &str = "mutant!(\"";

/// Checks both ways, as far as the list is there.
pub fn check(workspace: &Workspace, findings: &mut Findings) -> anyhow::Result<()> {
    let (mut planted, mut listed) = (BTreeSet::new(), BTreeSet::new());
    let (mut has_list, mut refuses) = (false, None);
    for package in workspace.members() {
        let folder = package.manifest_path.parent().expect("a manifest lies in a folder");
        for entry in WalkDir::new(folder.join("src")).into_iter().filter_map(Result::ok) {
            if entry.path().extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text =
                std::fs::read_to_string(entry.path()).with_context(|| format!("read {}", entry.path().display()))?;
            let name = workspace.below_root(entry.path());
            if name == LIST {
                has_list = true;
                listed.extend(quoted_after(&text, "mutant("));
            } else if name == SERVER {
                refuses = Some(text.contains(REFUSAL));
            } else {
                planted.extend(quoted_after(&text, "mutant!("));
            }
        }
    }
    if refuses == Some(false) {
        let message = format!("lost the lines that refuse deliberate bugs: `{REFUSAL}…`");
        findings.add(Place::file(SERVER), "planted-bugs", message);
    }
    if has_list {
        for name in listed.difference(&planted) {
            let message = format!("lists `{name}`, but nothing says `{PLANT}{name}\")`");
            findings.add(Place::file(LIST), "planted-bugs", message);
        }
    }
    Ok(())
}

/// The first string literal behind each `call`.
fn quoted_after(text: &str, call: &str) -> Vec<String> {
    let name = |rest: &str| {
        let literal = rest.trim_start().strip_prefix('"')?;
        Some(literal.split_once('"')?.0.to_owned())
    };
    text.split(call).skip(1).filter_map(name).collect()
}

#[test]
fn names_are_found_on_the_same_line_and_on_the_next() {
    assert_eq!(
        quoted_after("a mutant(\"x\", 1) mutant(\n    \"y\") mutant(name)", "mutant("),
        ["x", "y"]
    );
}
