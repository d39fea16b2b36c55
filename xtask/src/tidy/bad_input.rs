//! docs/bad-input.md: what the outside may do wrong, the test that does it, and the error code that answers.

use std::collections::BTreeMap;

use syn::visit::Visit;

use super::{
    Findings, Place,
    error_codes::Codes,
    source::{Index, is_test_only},
    workspace::Workspace,
};

const RULE: &str = "bad-input";
const PAGE: &str = "docs/bad-input.md";

/// Checks that each row of the table names a test that exists and a code that the code knows.
pub fn check(workspace: &Workspace, index: &Index, codes: &Codes, findings: &mut Findings) -> anyhow::Result<()> {
    let Ok(text) = std::fs::read_to_string(workspace.root.join(PAGE)) else {
        findings.add(Place::file(PAGE), RULE, "the page is missing".to_string());
        return Ok(());
    };
    let tests = tests_by_crate(index);
    for (at, line) in text.lines().enumerate() {
        let Some(row) = Row::of(line) else {
            continue;
        };
        let mut complain = |message| findings.add(Place::line(PAGE, at + 1), RULE, message);
        let row = match row {
            Ok(row) => row,
            Err(message) => {
                complain(message);
                continue;
            }
        };
        if !names_a_test(row.test, &tests) {
            complain(format!("no test is called `{}`", row.test));
        }
        if !row.code.starts_with("none (") && !codes.contains(row.code) {
            complain(format!("no code says `ErrorCode::new` for {}", row.code));
        }
    }
    Ok(())
}

/// One line of the table.
struct Row<'a> {
    test: &'a str,
    code: &'a str,
}

impl Row<'_> {
    /// `None` for prose, the table's head and its rule.
    fn of(line: &str) -> Option<Result<Row<'_>, String>> {
        let cells = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        let cells: Vec<&str> = cells.split('|').map(str::trim).collect();
        let is_head =
            cells.first() == Some(&"case") || cells.iter().all(|cell| cell.trim_matches(['-', ':']).is_empty());
        if is_head {
            return None;
        }
        Some(match cells.as_slice() {
            [_, test, code] => Ok(Row {
                test: test.trim_matches('`'),
                code: code.trim_matches('`'),
            }),
            _ => Err(format!(
                "a row is `| case | test | error code |`, this one has {} cells",
                cells.len()
            )),
        })
    }
}

/// Crate name as code writes it → the full path of each of its tests.
fn tests_by_crate(index: &Index) -> BTreeMap<String, Vec<Vec<String>>> {
    let mut tests: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    for module in &index.modules {
        let name = module.folder.strip_prefix("crates/").unwrap_or(&module.folder);
        let krate = if name == "settle" {
            name.to_string()
        } else {
            format!("settle_{}", name.replace('-', "_"))
        };
        let mut path = Vec::new();
        // An integration test is a crate of its own; its file gives the name.
        if let Some(file) = module.file.strip_prefix(&format!("{}/tests/", module.folder)) {
            path.extend(
                file.split('/')
                    .next()
                    .map(|file| file.trim_end_matches(".rs").to_string()),
            );
        }
        path.extend(module.path.iter().cloned());
        let mut reader = Reader {
            path,
            tests: tests.entry(krate).or_default(),
        };
        for item in &module.code {
            reader.visit_item(item);
        }
    }
    tests
}

/// Whether `path` is `crate::…::name` of some test; modules in between may be left out from the front.
fn names_a_test(path: &str, tests: &BTreeMap<String, Vec<Vec<String>>>) -> bool {
    let Some((krate, rest)) = path.split_once("::") else {
        return false;
    };
    let rest: Vec<&str> = rest.split("::").collect();
    tests.get(krate).is_some_and(|paths| {
        paths
            .iter()
            .any(|full| full.len() >= rest.len() && full[full.len() - rest.len()..].iter().eq(&rest))
    })
}

struct Reader<'a> {
    path: Vec<String>,
    tests: &'a mut Vec<Vec<String>>,
}

impl Reader<'_> {
    fn add(&mut self, name: String) {
        self.tests.push(self.path.iter().cloned().chain([name]).collect());
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if is_test_only(&item.attrs) {
            self.add(item.sig.ident.to_string());
        }
    }

    /// `proptest! { #[test] fn name(…) { … } }`: every `fn name` right after a `#[test]`.
    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let text = call.tokens.to_string();
        for after in text.split("#[test]").skip(1).chain(text.split("# [test]").skip(1)) {
            let name = after.split("fn ").nth(1).unwrap_or_default();
            let name: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !name.is_empty() {
                self.add(name);
            }
        }
    }
}
