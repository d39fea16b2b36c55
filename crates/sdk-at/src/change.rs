//! Changes of rows: looked at before and after, so that both are exactly those that the statement changed.

use std::sync::Arc;

use sqlx::MySqlConnection;

use crate::{
    At, AtError, Value,
    branch::Done,
    image::Rows,
    session::{PARAMS_MAX, Session, Unread, key_in, run, run_for_rows, select, select_by_key},
    statement::{self, Cell, Picking, TableName, Unprotected, Upsert},
    table::Table,
    undo::{ChangeKind, Image, StatementUndo},
    value::quoted,
};

/// What a local transaction has changed so far.
pub struct Changes {
    /// It can be taken back; else only the rows' locks matter.
    is_branch: bool,
    pub statements: Vec<StatementUndo>,
    /// Each once, in the order of the statements.
    pub locks: Vec<String>,
    /// About what the undo log will weigh.
    weight: usize,
}

impl Changes {
    pub fn new(is_branch: bool) -> Changes {
        Changes {
            is_branch,
            statements: Vec::new(),
            locks: Vec::new(),
            weight: 0,
        }
    }

    /// Of these columns, those that are looked at.
    fn kept(&self, table: &Table, columns: Vec<usize>) -> Vec<usize> {
        if self.is_branch { columns } else { table.key.clone() }
    }

    /// The condition picks rows, which are locked and kept; then exactly these are updated, by their keys, whatever the
    /// condition would pick a second time.
    #[allow(clippy::too_many_arguments, reason = "the parts of one statement, and where it runs")]
    pub async fn update(
        &mut self,
        at: &At,
        on: &mut MySqlConnection,
        session: &Session,
        rows: &statement::Rows,
        columns: &[String],
        query: &Picking,
        params: &[Value],
    ) -> Result<Done, AtError> {
        let mut table = find(at, on, session, &rows.table).await?;
        let params_of_rows = &params[rows.params_before..];
        let (kept, before) = loop {
            let kept = updated(&table, columns)?;
            table.check_update(&kept)?;
            let kept = self.kept(&table, kept);
            match picked(at, on, session, &table, &kept, rows, params_of_rows).await {
                Ok(before) => break (kept, before),
                Err(Unread::Altered) => table = find_anew(at, on, session, &table).await?,
                Err(Unread::Failed(error)) => return Err(error),
            }
        };
        if before.rows.is_empty() {
            return Ok(NOTHING);
        }
        let keys = before.keys(&table);
        let (sql, all) = query.over(&key_in(&table, before.len()), &keys, params);
        fits(&all)?;
        let done = run_for_rows(on, &sql, &all).await?;
        check(&table, "updated", before.len(), done.rows_affected())?;
        let after = by_key(on, &table, &kept, &keys).await?;
        check(&table, "found again", before.len(), after.len() as u64)?;
        let lock = after.lock_key(&table)?;
        self.push(at, &table, ChangeKind::Update, Some(&before), Some(&after), lock)?;
        Ok(done.into())
    }

    /// As an update: exactly the rows that were picked and kept are deleted.
    pub async fn delete(
        &mut self,
        at: &At,
        on: &mut MySqlConnection,
        session: &Session,
        rows: &statement::Rows,
        params: &[Value],
    ) -> Result<Done, AtError> {
        let mut table = find(at, on, session, &rows.table).await?;
        let before = loop {
            table.check_delete()?;
            let kept = self.kept(&table, written(&table));
            match picked(at, on, session, &table, &kept, rows, &params[rows.params_before..]).await {
                Ok(before) => break before,
                Err(Unread::Altered) => table = find_anew(at, on, session, &table).await?,
                Err(Unread::Failed(error)) => return Err(error),
            }
        };
        if before.rows.is_empty() {
            return Ok(NOTHING);
        }
        let keys = before.keys(&table);
        fits(&keys)?;
        let sql = format!(
            "DELETE FROM {} WHERE {}",
            quoted(&table.name),
            key_in(&table, before.len())
        );
        let done = run_for_rows(on, &sql, &keys).await?;
        check(&table, "deleted", before.len(), done.rows_affected())?;
        let lock = before.lock_key(&table)?;
        self.push(at, &table, ChangeKind::Delete, Some(&before), None, lock)?;
        Ok(done.into())
    }

    /// The rows are inserted as asked, then found by the keys that they were given.
    #[allow(clippy::too_many_arguments, reason = "the parts of one statement, and where it runs")]
    pub async fn insert(
        &mut self,
        at: &At,
        on: &mut MySqlConnection,
        session: &Session,
        name: &TableName,
        columns: Option<Vec<String>>,
        cells: &[Vec<Cell>],
        (sql, params): (&str, &[Value]),
    ) -> Result<Done, AtError> {
        limit_rows(at, cells.len())?;
        let mut table = find(at, on, session, name).await?;
        // Nothing is read before, so what the table is now is asked anew; the insert then keeps it from changing.
        if columns.is_none() {
            table = find_anew(at, on, session, &table).await?;
        }
        let kept = self.kept(&table, written(&table));
        table.check(&kept)?;
        if self.is_branch {
            table.check_insert()?;
        }
        session.check(&table, &kept)?;
        let keys = keys(&table, columns.as_deref(), cells, params)?;
        let done = run(on, sql, params).await?;
        check(&table, "inserted", cells.len(), done.rows_affected())?;
        let first = i64::try_from(done.last_insert_id());
        let generated = |row: usize| {
            let first = *first
                .as_ref()
                .map_err(|_| AtError::table(&table.name, "its automatic id is out of range"))?;
            let step = i64::try_from(row)
                .unwrap_or(i64::MAX)
                .saturating_mul(session.auto_increment);
            Ok::<Value, AtError>(Value::Int(first.saturating_add(step)))
        };
        let mut values = Vec::with_capacity(cells.len() * table.key.len());
        for (row, key) in keys.into_iter().enumerate() {
            for part in key {
                values.push(match part {
                    Some(value) => value,
                    None => generated(row)?,
                });
            }
        }
        let after = match select_by_key(on, &table, &kept, &values).await {
            Ok(after) => after,
            // It cannot change any more: it was altered before the insert.
            Err(Unread::Altered) => {
                table = find_anew(at, on, session, &table).await?;
                let kept = self.kept(&table, written(&table));
                table.check(&kept)?;
                by_key(on, &table, &kept, &values).await?
            }
            Err(Unread::Failed(error)) => return Err(error),
        };
        check(&table, "found again", cells.len(), after.len() as u64)?;
        let lock = after.lock_key(&table)?;
        self.push(at, &table, ChangeKind::Insert, None, Some(&after), lock)?;
        Ok(done.into())
    }

    /// The row is looked for and locked: it is updated where it is there, and inserted where it is not, when one that comes
    /// in between is a duplicate.
    #[allow(clippy::too_many_arguments, reason = "the parts of one statement, and where it runs")]
    pub async fn upsert(
        &mut self,
        at: &At,
        on: &mut MySqlConnection,
        session: &Session,
        name: &TableName,
        columns: Option<Vec<String>>,
        cells: &[Vec<Cell>],
        upsert: &Upsert,
        (sql, params): (&str, &[Value]),
    ) -> Result<Done, AtError> {
        let mut table = find(at, on, session, name).await?;
        let (kept, key, before) = loop {
            if table.has_more_unique {
                let problem = "ON DUPLICATE KEY UPDATE could be about another row: it has a further unique key";
                return Err(AtError::table(&table.name, problem));
            }
            let kept = updated(&table, &upsert.columns)?;
            table.check_update(&kept)?;
            let kept = self.kept(&table, kept);
            table.check(&kept)?;
            session.check(&table, &kept)?;
            let key = keys(&table, columns.as_deref(), cells, params)?.into_iter().flatten();
            let key: Option<Vec<Value>> = key.collect();
            let what = "ON DUPLICATE KEY UPDATE without the primary key";
            let key = key.ok_or(Unprotected::Form { what })?;
            match select_by_key(on, &table, &kept, &key).await {
                Ok(before) => break (kept, key, before),
                Err(Unread::Altered) => table = find_anew(at, on, session, &table).await?,
                Err(Unread::Failed(error)) => return Err(error),
            }
        };
        if before.rows.is_empty() {
            let insert = (upsert.insert.as_str(), &params[..upsert.params]);
            return self.insert(at, on, session, name, columns, cells, insert).await;
        }
        let done = run(on, sql, params).await?;
        let after = by_key(on, &table, &kept, &key).await?;
        check(&table, "found again", before.len(), after.len() as u64)?;
        let lock = after.lock_key(&table)?;
        self.push(at, &table, ChangeKind::Update, Some(&before), Some(&after), lock)?;
        Ok(done.into())
    }

    /// The rows that a `SELECT … FOR UPDATE` is about, which are locked here.
    pub async fn pick(
        &self,
        at: &At,
        on: &mut MySqlConnection,
        session: &Session,
        rows: &statement::Rows,
        params: &[Value],
    ) -> Result<Picked, AtError> {
        let mut table = find(at, on, session, &rows.table).await?;
        let params = &params[rows.params_before..][..rows.params];
        let found = loop {
            let kept = table.key.clone();
            match picked(at, on, session, &table, &kept, rows, params).await {
                Ok(found) => break found,
                Err(Unread::Altered) => table = find_anew(at, on, session, &table).await?,
                Err(Unread::Failed(error)) => return Err(error),
            }
        };
        let keys = found.keys(&table);
        fits(&keys)?;
        Ok(Picked {
            lock_keys: found.lock_key(&table)?,
            condition: match found.len() {
                0 => "1 = 0".to_owned(),
                rows => key_in(&table, rows),
            },
            keys,
        })
    }

    fn push(
        &mut self,
        at: &At,
        table: &Table,
        kind: ChangeKind,
        before: Option<&Rows>,
        after: Option<&Rows>,
        lock: Option<String>,
    ) -> Result<(), AtError> {
        if let Some(lock) = lock.filter(|lock| !self.locks.contains(lock)) {
            self.locks.push(lock);
        }
        if !self.is_branch {
            return Ok(());
        }
        let options = at.options();
        self.weight += [before, after].into_iter().flatten().map(Rows::weight).sum::<usize>();
        if self.weight > options.undo_bytes_max {
            return Err(AtError::TooMuch {
                what: "what the transaction changes",
                limit: options.undo_bytes_max,
                option: "undo_bytes_max",
            });
        }
        let image = |rows: Option<&Rows>| match rows {
            Some(rows) => rows.image(table, options.zone_micros()),
            None => Ok(Image::empty(&table.name)),
        };
        self.statements.push(StatementUndo {
            kind,
            table: table.name.clone(),
            before: image(before)?,
            after: image(after)?,
        });
        Ok(())
    }
}

/// Rows that were picked and locked.
pub struct Picked {
    /// Their global locks; none without rows.
    pub lock_keys: Option<String>,
    /// What fits them alone, with a `?` for each of the keys.
    pub condition: String,
    pub keys: Vec<Value>,
}

const NOTHING: Done = Done {
    rows: 0,
    last_insert_id: 0,
};

async fn find(at: &At, on: &mut MySqlConnection, session: &Session, name: &TableName) -> Result<Arc<Table>, AtError> {
    if let Some(schema) = name.schema.as_ref().filter(|schema| **schema != session.database) {
        let name = format!("{schema}.{}", name.name);
        return Err(Unprotected::Elsewhere { name }.into());
    }
    if name.name.eq_ignore_ascii_case(&at.options().undo_table) {
        return Err(AtError::table(&name.name, "it holds the undo logs"));
    }
    at.resource().schema().table(on, &session.database, &name.name).await
}

async fn find_anew(at: &At, on: &mut MySqlConnection, session: &Session, table: &Table) -> Result<Arc<Table>, AtError> {
    let schema = at.resource().schema();
    schema.forget(&session.database, &table.name);
    schema.table(on, &session.database, &table.name).await
}

/// The columns that can be written.
fn written(table: &Table) -> Vec<usize> {
    (0..table.columns.len())
        .filter(|at| !table.columns[*at].is_generated)
        .collect()
}

/// The columns of an update's images: the key, those that are set, and those that the database sets itself, as Java
/// keeps them (`client.undo.onlyCareUpdateColumns`).
fn updated(table: &Table, columns: &[String]) -> Result<Vec<usize>, AtError> {
    let mut kept = table.key.clone();
    for name in columns {
        let at = table.column(name);
        let at = at.ok_or_else(|| AtError::table(&table.name, format!("it has no column `{name}`")))?;
        if table.is_key(at) {
            return Err(Unprotected::Key { column: name.clone() }.into());
        }
        kept.push(at);
    }
    kept.extend((0..table.columns.len()).filter(|at| table.columns[*at].is_on_update));
    kept.retain(|at| !table.columns[*at].is_generated || table.is_key(*at));
    kept.sort_unstable();
    kept.dedup();
    Ok(kept)
}

async fn picked(
    at: &At,
    on: &mut MySqlConnection,
    session: &Session,
    table: &Table,
    kept: &[usize],
    rows: &statement::Rows,
    params: &[Value],
) -> Result<Rows, Unread> {
    table.check(kept)?;
    session.check(table, kept)?;
    let found = select(on, table, kept, &rows.select(at.options().rows_max), params).await?;
    limit_rows(at, found.len())?;
    Ok(found)
}

fn limit_rows(at: &At, rows: usize) -> Result<(), AtError> {
    let limit = at.options().rows_max;
    if rows <= limit {
        return Ok(());
    }
    Err(AtError::TooMuch {
        what: "the rows of a statement",
        limit,
        option: "rows_max",
    })
}

fn fits(params: &[Value]) -> Result<(), AtError> {
    if params.len() <= PARAMS_MAX {
        return Ok(());
    }
    Err(AtError::TooMuch {
        what: "the values and keys of a statement",
        limit: PARAMS_MAX,
        option: "rows_max",
    })
}

/// Rows of a table that this transaction has changed, so that it cannot be altered.
async fn by_key(on: &mut MySqlConnection, table: &Arc<Table>, kept: &[usize], keys: &[Value]) -> Result<Rows, AtError> {
    select_by_key(on, table, kept, keys)
        .await
        .map_err(|unread| match unread {
            Unread::Altered => AtError::table(&table.name, "it was altered within the transaction"),
            Unread::Failed(error) => error,
        })
}

fn check(table: &Table, act: &'static str, expected: usize, found: u64) -> Result<(), AtError> {
    let found = usize::try_from(found).unwrap_or(usize::MAX);
    if found == expected {
        return Ok(());
    }
    Err(AtError::Moved {
        table: table.name.clone(),
        act,
        expected,
        found,
    })
}

/// Of each row of an `INSERT` its key, with None for what the database numbers itself.
fn keys(
    table: &Table,
    columns: Option<&[String]>,
    cells: &[Vec<Cell>],
    params: &[Value],
) -> Result<Vec<Vec<Option<Value>>>, AtError> {
    let named: Vec<String> = match columns {
        Some(columns) => columns.to_vec(),
        None => table.columns.iter().map(|column| column.name.clone()).collect(),
    };
    let form = |what| AtError::from(Unprotected::Form { what });
    let mut keys = Vec::with_capacity(cells.len());
    for row in cells {
        if row.len() != named.len() {
            return Err(form("an INSERT with more or fewer values than columns"));
        }
        let mut key = Vec::with_capacity(table.key.len());
        for column in table.key_columns() {
            let at = named.iter().position(|name| name.eq_ignore_ascii_case(&column.name));
            let value = match at.map(|at| &row[at]) {
                Some(Cell::Param(n)) => Some(params[*n].clone()),
                Some(Cell::Literal(value)) => Some(value.clone()),
                Some(Cell::Expression) => return Err(form("a primary key given by an expression")),
                Some(Cell::Default) | None => None,
            };
            key.push(match value.filter(|value| !value.is_null()) {
                None if column.is_auto_increment => None,
                None => return Err(form("an INSERT without its primary key")),
                Some(value) => {
                    let value = column.kind.key(value);
                    let value = value.ok_or(form("a primary key of another type than its column"))?;
                    if column.is_auto_increment && matches!(value, Value::Int(0) | Value::UInt(0)) {
                        return Err(form("a 0 for an automatic primary key"));
                    }
                    Some(value)
                }
            });
        }
        keys.push(key);
    }
    let is_numbered = |key: &Vec<Option<Value>>| key.iter().any(Option::is_none);
    let numbered = keys.iter().filter(|key| is_numbered(key)).count();
    if numbered > 0 && numbered < keys.len() {
        return Err(form(
            "an INSERT that gives some automatic primary keys and leaves others",
        ));
    }
    Ok(keys)
}
