//! A rollback puts back what one statement changed.

use std::sync::Arc;

use sqlx::{MySqlConnection, error::ErrorKind};

use crate::{
    AtError, AtResource, DirtyCause, Value,
    image::{Kept, Rows},
    references::is_referred,
    restore::{Step, concerned, step},
    session::{Session, Unread, key_is, run, select_by_key},
    table::{Follow, Reference, Table},
    undo::{BranchUndo, ChangeKind, StatementUndo},
    value::quoted,
};

/// Puts the rows of a statement back, or finds that nobody has to.
///
/// # Errors
/// [`AtError::Dirty`] when one cannot be, which only a person can mend.
pub async fn put_back(
    resource: &AtResource,
    on: &mut MySqlConnection,
    session: &Session,
    undo: &BranchUndo,
    statement: &StatementUndo,
) -> Result<(), AtError> {
    let mut name = &statement.before.table;
    if name.is_empty() {
        name = &statement.after.table;
    }
    let (schema, database) = (resource.schema(), &session.database);
    let mut table = schema.table(on, database, name).await?;
    let mut is_anew = false;
    let (before, after, current) = loop {
        let zone = resource.options().zone_micros();
        let before = Kept::read(&table, &statement.before, zone)?;
        let after = Kept::read(&table, &statement.after, zone)?;
        match current(on, session, &table, statement.kind, &before, &after).await {
            Ok(current) => break (before, after, current),
            Err(Unread::Altered) if !is_anew => {
                schema.forget(database, name);
                table = schema.table(on, database, name).await?;
                is_anew = true;
            }
            Err(Unread::Altered) => return Err(AtError::table(name, "its columns cannot be told")),
            Err(Unread::Failed(error)) => return Err(error),
        }
    };
    let dirty = |key: String, cause: DirtyCause| AtError::Dirty {
        xid: undo.xid.clone(),
        branch_id: undo.branch_id,
        table: table.name.clone(),
        key,
        cause,
    };
    let step = step(&table, statement.kind, &before, &after, &current);
    let step = step.map_err(|changed| dirty(changed.key, DirtyCause::Changed))?;
    if step == Step::Nothing {
        return Ok(());
    }
    // What has been done can be taken back in its reverse order. The images are not always in that order, so whatever
    // stands in the way of a row may be another that is still to be put back.
    let mut waiting: Vec<&Kept> = concerned(statement.kind, &before, &after).iter().rev().collect();
    loop {
        let (tried, mut first) = (waiting.len(), None);
        let mut blocked = Vec::new();
        for row in waiting {
            if let Some(cause) = put_back_row(on, session, &table, statement.kind, row).await? {
                first.get_or_insert_with(|| dirty(row.name(), cause));
                blocked.push(row);
            }
        }
        let Some(first) = first else {
            return Ok(());
        };
        if blocked.len() == tried {
            return Err(first);
        }
        blocked.reverse();
        waiting = blocked;
    }
}

/// The concerned rows as they are, locked, with the columns of the images.
async fn current(
    on: &mut MySqlConnection,
    session: &Session,
    table: &Arc<Table>,
    kind: ChangeKind,
    before: &[Kept],
    after: &[Kept],
) -> Result<Rows, Unread> {
    let values = before.iter().chain(after).flat_map(|row| &row.values);
    let mut columns: Vec<usize> = values.map(|(at, _)| *at).chain(table.key.iter().copied()).collect();
    columns.sort_unstable();
    columns.dedup();
    table.check(&columns)?;
    session.check(table, &columns)?;
    let keys: Vec<Value> = concerned(kind, before, after)
        .iter()
        .flat_map(|row| row.key.clone())
        .collect();
    select_by_key(on, table, &columns, &keys).await
}

/// Tells what keeps the row from being put back; then nothing has been done.
async fn put_back_row(
    on: &mut MySqlConnection,
    session: &Session,
    table: &Table,
    kind: ChangeKind,
    row: &Kept,
) -> Result<Option<DirtyCause>, AtError> {
    let is_set = |reference: &&Reference| row.values.iter().any(|(at, _)| reference.to.contains(at));
    let takes_along = |reference: &&Reference| match kind {
        ChangeKind::Insert => reference.on_delete != Follow::Never,
        // With a cascade they follow back.
        ChangeKind::Update => reference.on_update == Follow::Set && is_set(reference),
        ChangeKind::Delete => false,
    };
    for reference in table.references.iter().filter(takes_along) {
        if is_referred(on, table, row, reference).await? {
            return Ok(Some(DirtyCause::Referred {
                by: reference.table.clone(),
            }));
        }
    }
    let done = match kind {
        ChangeKind::Insert => {
            let sql = format!("DELETE FROM {} WHERE {}", quoted(&table.name), key_is(table));
            run(on, &sql, &row.key).await
        }
        ChangeKind::Update => {
            let values = row.values.iter().filter(|(at, _)| !table.is_key(*at));
            set(on, table, values, &row.key).await
        }
        ChangeKind::Delete => insert(on, table, row).await,
    };
    let done = match done {
        Err(error) => return constraint(error).map(Some),
        Ok(done) => done,
    };
    put_back_one(table, done.rows_affected())?;
    let is_zero = |(at, value): &&(usize, Value)| {
        table.columns[*at].is_auto_increment && matches!(value, Value::Int(0) | Value::UInt(0))
    };
    if kind == ChangeKind::Delete
        && session.numbers_zero
        && let Some((at, _)) = row.values.iter().find(is_zero)
    {
        return put_zero(on, table, row, *at, done.last_insert_id()).await;
    }
    Ok(None)
}

/// The database has given an automatic key for the 0 that was inserted: it becomes 0 again.
async fn put_zero(
    on: &mut MySqlConnection,
    table: &Table,
    row: &Kept,
    at: usize,
    given: u64,
) -> Result<Option<DirtyCause>, AtError> {
    let key: Vec<Value> = table
        .key
        .iter()
        .zip(&row.key)
        .map(|(column, value)| {
            if *column == at {
                Value::UInt(given)
            } else {
                value.clone()
            }
        })
        .collect();
    // The others are those that the database would set by itself.
    let is_set = |(column, _): &&(usize, Value)| *column == at || table.columns[*column].is_on_update;
    match set(on, table, row.values.iter().filter(is_set), &key).await {
        Err(error) => constraint(error).map(Some),
        Ok(done) => put_back_one(table, done.rows_affected()).map(|()| None),
    }
}

fn put_back_one(table: &Table, found: u64) -> Result<(), AtError> {
    if found == 1 {
        return Ok(());
    }
    Err(AtError::Moved {
        table: table.name.clone(),
        act: "put back",
        expected: 1,
        found: usize::try_from(found).unwrap_or(usize::MAX),
    })
}

async fn set(
    on: &mut MySqlConnection,
    table: &Table,
    values: impl Iterator<Item = &(usize, Value)>,
    key: &[Value],
) -> Result<sqlx::mysql::MySqlQueryResult, sqlx::Error> {
    let (columns, mut params): (Vec<String>, Vec<Value>) = values
        .map(|(at, value)| (format!("{} = ?", quoted(&table.columns[*at].name)), value.clone()))
        .unzip();
    params.extend(key.iter().cloned());
    let sql = format!(
        "UPDATE {} SET {} WHERE {}",
        quoted(&table.name),
        columns.join(", "),
        key_is(table)
    );
    run(on, &sql, &params).await
}

async fn insert(
    on: &mut MySqlConnection,
    table: &Table,
    row: &Kept,
) -> Result<sqlx::mysql::MySqlQueryResult, sqlx::Error> {
    let (columns, params): (Vec<String>, Vec<Value>) = row
        .values
        .iter()
        .map(|(at, value)| (quoted(&table.columns[*at].name), value.clone()))
        .unzip();
    let marks = vec!["?"; columns.len()].join(", ");
    let sql = format!(
        "INSERT INTO {} ({}) VALUES ({marks})",
        quoted(&table.name),
        columns.join(", ")
    );
    run(on, &sql, &params).await
}

/// What a constraint said, which stays so however often it is tried; any other error is given back.
fn constraint(error: sqlx::Error) -> Result<DirtyCause, AtError> {
    let Some(told) = error.as_database_error() else {
        return Err(error.into());
    };
    let is_kind = !matches!(told.kind(), ErrorKind::Other);
    if is_kind || told.code().is_some_and(|code| code.starts_with("23")) {
        return Ok(DirtyCause::Constraint {
            message: told.message().to_owned(),
        });
    }
    Err(error.into())
}
