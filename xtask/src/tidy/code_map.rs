//! ARCHITECTURE.md maps every crate, with the invariant that it must keep and the test that guards it, and no crate that
//! is gone.

use std::collections::BTreeSet;

use super::{
    Findings, Place,
    source::{Index, Tests},
    workspace::Workspace,
};

const RULE: &str = "code-map";
const PAGE: &str = "ARCHITECTURE.md";
const INVARIANT: &str = "*Architecture invariant:*";
/// What follows names tests, or a command of the repository.
const GUARD: &str = "*Guarded by:*";
const COMMAND: &str = "cargo xtask ";

/// Compares the entries of the map, which start with a bold folder (``**`crates/tx`**``), with the members.
pub fn check(workspace: &Workspace, index: &Index, findings: &mut Findings) {
    let tests = Tests::of(index);
    let text = std::fs::read_to_string(workspace.root.join(PAGE)).unwrap_or_default();
    let mut mapped = BTreeSet::new();
    for (at, entry) in entries(&text) {
        for complaint in guards(&entry, &tests) {
            findings.add(Place::line(PAGE, at), RULE, complaint);
        }
        let Some(folder) = entry
            .strip_prefix("**`")
            .and_then(|rest| rest.split_once("`**"))
            .map(|(name, _)| name)
        else {
            continue;
        };
        let place = Place::line(PAGE, at);
        if folder.starts_with("crates/") && !entry.contains(INVARIANT) {
            findings.add(place.clone(), RULE, format!("{folder} has no `{INVARIANT}`"));
        }
        if folder.starts_with("crates/") && !workspace.root.join(folder).join("Cargo.toml").is_file() {
            findings.add(place, RULE, format!("there is no crate {folder}"));
        }
        mapped.insert(folder.to_string());
    }
    for package in workspace.members() {
        let folder = workspace.folder(package);
        if !mapped.contains(&folder) {
            findings.add(
                Place::file(PAGE),
                RULE,
                format!("{folder} is not on the map: add **`{folder}`**"),
            );
        }
    }
}

/// What is wrong with the guards of an entry that states an invariant or, in a list, a contract.
fn guards(entry: &str, tests: &Tests) -> Vec<String> {
    let Some((_, named)) = entry.split_once(GUARD) else {
        let unguarded = entry.contains(INVARIANT).then(|| {
            let start: String = entry.chars().take(40).collect();
            format!("`{start}…` states an invariant; name the test that guards it after `{GUARD}`")
        });
        return unguarded.into_iter().collect();
    };
    let names: Vec<&str> = named.split('`').skip(1).step_by(2).collect();
    if names.is_empty() {
        return vec![format!("`{GUARD}` names no test")];
    }
    let is_unknown = |name: &&str| !name.starts_with(COMMAND) && !tests.has(name);
    let unknown = names.into_iter().filter(is_unknown);
    unknown.map(|name| format!("no test is called `{name}`")).collect()
}

/// The paragraphs of `text` with the lines they start at.
fn entries(text: &str) -> Vec<(usize, String)> {
    let mut entries: Vec<(usize, String)> = Vec::new();
    let mut is_inside = false;
    for (at, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            is_inside = false;
        } else if let (true, Some((_, entry))) = (is_inside, entries.last_mut()) {
            entry.push('\n');
            entry.push_str(line);
        } else {
            is_inside = true;
            entries.push((at + 1, line.to_string()));
        }
    }
    entries
}
