//! What a rollback has to do about one statement: put back what it changed, unless nobody has to or somebody else has
//! been there.

use crate::{
    Value,
    image::{Kept, Rows},
    table::Table,
    undo::ChangeKind,
};

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The rows are as they were.
    Nothing,
    Restore,
}

/// A row is neither as the branch left it nor as it was before.
#[derive(PartialEq, Debug)]
pub struct DirtyRow {
    pub key: String,
}

/// The rows that a rollback looks at: those of before, or of an insert those of after.
pub fn concerned<'a>(kind: ChangeKind, before: &'a [Kept], after: &'a [Kept]) -> &'a [Kept] {
    match kind {
        ChangeKind::Insert => after,
        ChangeKind::Update | ChangeKind::Delete => before,
    }
}

/// Compares (`AbstractUndoExecutor.dataValidationAndGoOn`). `current` are the concerned rows with all columns.
pub fn step(
    table: &Table,
    kind: ChangeKind,
    before: &[Kept],
    after: &[Kept],
    current: &Rows,
) -> Result<Step, DirtyRow> {
    let is_unchanged = before.len() == after.len()
        && before.iter().all(|row| {
            let other = after.iter().find(|other| other.key == row.key);
            other.is_some_and(|other| row.values.iter().all(|value| other.values.contains(value)))
        });
    if is_unchanged {
        return Ok(Step::Nothing);
    }
    let now: Vec<(Vec<Value>, &Vec<Value>)> = current
        .rows
        .iter()
        .enumerate()
        .map(|(n, row)| (current.key(table, n), row))
        .collect();
    let is_now = |row: &Kept| {
        let found = now.iter().find(|(key, _)| *key == row.key);
        found.is_some_and(|(_, found)| {
            let same = |(column, value): &(usize, Value)| {
                let at = current.columns.iter().position(|have| have == column);
                at.is_some_and(|at| found[at] == *value)
            };
            row.values.iter().all(same)
        })
    };
    let is = |rows: &[Kept]| rows.len() == now.len() && rows.iter().all(is_now);
    if is(after) {
        return Ok(Step::Restore);
    }
    if is(before) {
        return Ok(Step::Nothing);
    }
    let dirty = concerned(kind, before, after).iter().find(|row| !is_now(row));
    Err(DirtyRow {
        key: dirty
            .or(before.first())
            .or(after.first())
            .map(Kept::name)
            .unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tests::table;

    fn kept(id: i64, balance: i64) -> Kept {
        let (id, balance) = (Value::Int(id), Value::Int(balance));
        Kept {
            key: vec![id.clone()],
            values: vec![(0, id), (1, balance)],
        }
    }

    /// Each row: the change, its rows before and after, the rows now, and what has to happen.
    #[test]
    fn only_what_the_branch_itself_left_is_put_back() {
        use ChangeKind::*;
        let account = table(
            "account",
            &[("id", "int(11)"), ("balance", "bigint(20)"), ("note", "text")],
            &["id"],
        );
        let dirty = |key: &str| Err(DirtyRow { key: key.to_owned() });
        let (restore, nothing) = (Ok(Step::Restore), Ok(Step::Nothing));
        for (kind, before, after, now, expected) in [
            (
                Update,
                &[(1, 10), (2, 10)][..],
                &[(1, 5), (2, 5)][..],
                &[(2, 5), (1, 5)][..],
                restore,
            ),
            (Update, &[(1, 10)], &[(1, 5)], &[(1, 10)], nothing),
            (Update, &[(1, 10)], &[(1, 10)], &[(1, 99)], Ok(Step::Nothing)),
            (Update, &[(1, 10)], &[(1, 5)], &[(1, 6)], dirty("Int(1)")),
            (Update, &[(1, 10)], &[(1, 5)], &[], dirty("Int(1)")),
            (
                Update,
                &[(1, 10), (2, 10)],
                &[(1, 5), (2, 5)],
                &[(1, 5), (2, 10)],
                dirty("Int(1)"),
            ),
            (Insert, &[], &[(1, 5)], &[(1, 5)], Ok(Step::Restore)),
            (Insert, &[], &[(1, 5)], &[], Ok(Step::Nothing)),
            (Insert, &[], &[(1, 5)], &[(1, 6)], dirty("Int(1)")),
            (Delete, &[(1, 5)], &[], &[], Ok(Step::Restore)),
            (Delete, &[(1, 5)], &[], &[(1, 5)], Ok(Step::Nothing)),
            (Delete, &[(1, 5)], &[], &[(1, 6)], dirty("Int(1)")),
        ] {
            let rows = |rows: &[(i64, i64)]| rows.iter().map(|(id, balance)| kept(*id, *balance)).collect::<Vec<_>>();
            let full = |(id, balance): &(i64, i64)| vec![Value::Int(*id), Value::Int(*balance), Value::Null];
            let current = Rows {
                columns: vec![0, 1, 2],
                rows: now.iter().map(full).collect(),
            };
            let told = step(&account, kind, &rows(before), &rows(after), &current);
            // Of several rows, which one is named does not matter.
            match (&told, &expected) {
                (Err(_), Err(_)) => {}
                _ => assert_eq!(told, expected, "{kind:?} {before:?} {after:?} {now:?}"),
            }
        }
    }
}
