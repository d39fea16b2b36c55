//! A file past 800 lines says in its head why it is one idea and not two.

use anyhow::Context as _;
use walkdir::WalkDir;

use super::{Findings, Place, workspace::Workspace};

/// Lines a source file may have without a reason.
const LINES_MAX: usize = 800;
const REASON: &str = "//! Long because: ";

/// Checks every Rust file of every member.
pub fn check(workspace: &Workspace, findings: &mut Findings) -> anyhow::Result<()> {
    for package in workspace.members() {
        let folder = package.manifest_path.parent().expect("a manifest lies in a folder");
        for entry in WalkDir::new(folder) {
            let entry = entry.with_context(|| format!("list {folder}"))?;
            if entry.path().extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text =
                std::fs::read_to_string(entry.path()).with_context(|| format!("read {}", entry.path().display()))?;
            let lines = text.lines().count();
            if lines > LINES_MAX && !has_reason(&text) {
                let message = format!(
                    "{lines} lines, more than {LINES_MAX}: two ideas? If it is one, say so in its head: `{REASON}…`"
                );
                findings.add(Place::file(workspace.below_root(entry.path())), "file-length", message);
            }
        }
    }
    Ok(())
}

fn has_reason(text: &str) -> bool {
    let head = text
        .lines()
        .take_while(|line| line.starts_with("//!") || line.trim().is_empty());
    head.filter_map(|line| line.strip_prefix(REASON))
        .any(|reason| !reason.trim().is_empty())
}
