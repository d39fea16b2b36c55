//! Every crate takes lints, versions and its package fields from the workspace, and is named after its folder.

use anyhow::Context as _;
use toml::{Table, Value};

use super::{Findings, Place, workspace::Workspace};

const RULE: &str = "manifests";
const INHERITED_FIELDS: [&str; 5] = ["version", "edition", "rust-version", "license", "publish"];
const DEPENDENCY_TABLES: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

/// Checks the manifest of every member.
pub fn check(workspace: &Workspace, findings: &mut Findings) -> anyhow::Result<()> {
    for package in workspace.members() {
        let folder = workspace.folder(package);
        let file = format!("{folder}/Cargo.toml");
        let text = std::fs::read_to_string(&package.manifest_path).with_context(|| format!("read {file}"))?;
        let manifest: Table = text.parse().with_context(|| format!("parse {file}"))?;
        let mut complain = |message: String| findings.add(Place::file(&file), RULE, message);

        let expected = match folder.strip_prefix("crates/") {
            Some("settle") => "settle".to_string(),
            Some(name) => format!("settle-{name}"),
            None => match folder.strip_prefix("examples/") {
                Some(name) => format!("settle-example-{name}"),
                None => folder.clone(),
            },
        };
        if *package.name != expected {
            complain(format!(
                "the package in {folder} is called {}, not {expected}",
                package.name
            ));
        }
        if !inherits(manifest.get("lints")) {
            complain("lints are not the workspace's: write `[lints]` and `workspace = true`".to_string());
        }
        let fields = manifest.get("package").and_then(Value::as_table);
        for field in INHERITED_FIELDS {
            if !inherits(fields.and_then(|fields| fields.get(field))) {
                complain(format!(
                    "`{field}` is not the workspace's: write `{field}.workspace = true`"
                ));
            }
        }
        for (table, name) in foreign_dependencies(&manifest) {
            complain(format!(
                "[{table}] {name} has its own source or version: name it in [workspace.dependencies] and write `{name}.workspace = true`"
            ));
        }
    }
    Ok(())
}

fn inherits(value: Option<&Value>) -> bool {
    value.and_then(|value| value.get("workspace")).and_then(Value::as_bool) == Some(true)
}

/// The dependencies that do not say `workspace = true`, with the table that has them.
fn foreign_dependencies(manifest: &Table) -> Vec<(String, String)> {
    let mut foreign = Vec::new();
    let mut look = |prefix: &str, tables: &Table| {
        for table in DEPENDENCY_TABLES {
            for (name, value) in tables.get(table).and_then(Value::as_table).into_iter().flatten() {
                if !inherits(Some(value)) {
                    foreign.push((format!("{prefix}{table}"), name.clone()));
                }
            }
        }
    };
    look("", manifest);
    for (target, tables) in manifest.get("target").and_then(Value::as_table).into_iter().flatten() {
        if let Some(tables) = tables.as_table() {
            look(&format!("target.{target}."), tables);
        }
    }
    foreign
}
