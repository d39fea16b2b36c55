//! ARCHITECTURE.md maps every crate, with the invariant that it must keep, and no crate that is gone.

use std::collections::BTreeSet;

use super::{Findings, Place, workspace::Workspace};

const RULE: &str = "code-map";
const PAGE: &str = "ARCHITECTURE.md";
const INVARIANT: &str = "*Architecture invariant:*";

/// Compares the entries of the map, which start with a bold folder (``**`crates/tx`**``), with the members.
pub fn check(workspace: &Workspace, findings: &mut Findings) {
    let text = std::fs::read_to_string(workspace.root.join(PAGE)).unwrap_or_default();
    let mut mapped = BTreeSet::new();
    for (at, entry) in entries(&text) {
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
