//! docs/bad-input.md: what the outside may do wrong, the test that does it, and the error code that answers.

use super::{
    Findings, Place,
    error_codes::Codes,
    source::{Index, Tests},
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
    let tests = Tests::of(index);
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
        if !tests.has(row.test) {
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
