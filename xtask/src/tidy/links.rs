//! A relative link in a page leads to a file that exists.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use walkdir::WalkDir;

use super::{Findings, Place, workspace::Workspace};

/// Checks the pages in the root and everything below docs/.
pub fn check(workspace: &Workspace, findings: &mut Findings) -> anyhow::Result<()> {
    let mut pages: Vec<PathBuf> = Vec::new();
    for (folder, depth) in [(workspace.root.clone(), 1), (workspace.root.join("docs"), usize::MAX)] {
        if !folder.is_dir() {
            continue;
        }
        for entry in WalkDir::new(&folder).max_depth(depth) {
            let entry = entry.with_context(|| format!("list {}", folder.display()))?;
            if entry.path().extension().is_some_and(|extension| extension == "md") {
                pages.push(entry.into_path());
            }
        }
    }
    for page in pages {
        let text = std::fs::read_to_string(&page).with_context(|| format!("read {}", page.display()))?;
        let folder = page.parent().expect("a page lies in a folder");
        for (at, line) in text.lines().enumerate() {
            for target in targets(line) {
                if !leads_somewhere(folder, target) {
                    let place = Place::line(workspace.below_root(&page), at + 1);
                    findings.add(place, "links", format!("{target} does not exist"));
                }
            }
        }
    }
    Ok(())
}

/// What stands in the round brackets of `[text](target)`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target)
}

fn leads_somewhere(folder: &Path, target: &str) -> bool {
    let file = target.split('#').next().unwrap_or_default();
    file.is_empty() || file.contains("://") || file.starts_with("mailto:") || folder.join(file).exists()
}
