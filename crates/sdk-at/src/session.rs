//! One connection in a local transaction: what its session is set to, and rows read exactly.

use std::sync::Arc;

use sqlx::{
    Column as _, MySqlConnection, Row, ValueRef,
    mysql::{MySqlArguments, MySqlQueryResult, MySqlRow},
    query::Query,
};

use crate::{
    AtError, Value,
    image::{Rows, column_problem},
    kind::Kind,
    table::Table,
    value::quoted,
};

/// The most `?` that one statement takes.
pub const PARAMS_MAX: usize = u16::MAX as usize;

/// How a session is set.
pub struct Session {
    pub database: String,
    pub auto_increment: i64,
    /// A 0 for an automatic key is another word for the next number.
    pub numbers_zero: bool,
    is_utc: bool,
}

impl Session {
    /// # Errors
    /// [`AtError::Setup`] when the session reads SQL in another way than this crate does.
    pub async fn of(on: &mut MySqlConnection) -> Result<Session, AtError> {
        let sql = "SELECT CAST(@@session.sql_mode AS CHAR), CAST(@@session.time_zone AS CHAR), \
                   CAST(DATABASE() AS CHAR), CAST(@@session.auto_increment_increment AS CHAR)";
        let row = sqlx::query(sql).fetch_one(on).await?;
        let mode: String = row.try_get(0)?;
        let is_odd = |mode: &&str| ["ANSI_QUOTES", "NO_BACKSLASH_ESCAPES"].contains(mode);
        if let Some(mode) = mode.split(',').find(is_odd) {
            return Err(AtError::setup(format!(
                "the session's sql_mode has {mode}, which changes how SQL is read"
            )));
        }
        let database: Option<String> = row.try_get(2)?;
        let zone: String = row.try_get(1)?;
        let step: String = row.try_get(3)?;
        Ok(Session {
            database: database.ok_or_else(|| AtError::setup("the connection has no database"))?,
            auto_increment: step
                .parse()
                .map_err(|_| AtError::setup("auto_increment_increment is no number"))?,
            numbers_zero: !mode.split(',').any(|mode| mode == "NO_AUTO_VALUE_ON_ZERO"),
            is_utc: zone == "+00:00",
        })
    }

    /// # Errors
    /// [`AtError::Setup`] when a column among these cannot be read exactly in this session.
    pub fn check(&self, table: &Table, columns: &[usize]) -> Result<(), AtError> {
        let is_moment = |at: &usize| table.columns[*at].kind == Kind::Timestamp;
        if !self.is_utc && columns.iter().any(is_moment) {
            let problem = "a TIMESTAMP is only read in a session whose time_zone is '+00:00', which is sqlx's default";
            return Err(AtError::setup(problem));
        }
        Ok(())
    }
}

fn query<'q>(sql: &'q str, params: &[Value]) -> Query<'q, sqlx::MySql, MySqlArguments> {
    let mut query = sqlx::query(sql);
    for param in params {
        query = match param {
            Value::Null => query.bind(None::<i64>),
            Value::Int(value) => query.bind(*value),
            Value::UInt(value) => query.bind(*value),
            Value::Double(value) => query.bind(*value),
            Value::Text(value) => query.bind(value.clone()),
            Value::Bytes(value) => query.bind(value.clone()),
        };
    }
    query
}

/// Runs a statement.
pub async fn run(on: &mut MySqlConnection, sql: &str, params: &[Value]) -> Result<MySqlQueryResult, sqlx::Error> {
    query(sql, params).execute(on).await
}

/// Runs a statement whose text depends on the number of rows.
pub async fn run_for_rows(
    on: &mut MySqlConnection,
    sql: &str,
    params: &[Value],
) -> Result<MySqlQueryResult, sqlx::Error> {
    query(sql, params).persistent(is_usual(params)).execute(on).await
}

/// For few rows the same statement comes again, and the server may keep it.
fn is_usual(params: &[Value]) -> bool {
    params.len() <= 16
}

pub async fn fetch(on: &mut MySqlConnection, sql: &str, params: &[Value]) -> Result<Vec<MySqlRow>, sqlx::Error> {
    query(sql, params).fetch_all(on).await
}

/// Fetches by a statement whose text depends on the number of rows.
pub async fn fetch_for_rows(
    on: &mut MySqlConnection,
    sql: &str,
    params: &[Value],
) -> Result<Vec<MySqlRow>, sqlx::Error> {
    query(sql, params).persistent(is_usual(params)).fetch_all(on).await
}

/// Why rows could not be read.
pub enum Unread {
    /// The table is not what it was taken for: it has been altered.
    Altered,
    Failed(AtError),
}

impl From<AtError> for Unread {
    fn from(error: AtError) -> Unread {
        Unread::Failed(error)
    }
}

impl From<sqlx::Error> for Unread {
    fn from(error: sqlx::Error) -> Unread {
        Unread::Failed(error.into())
    }
}

/// Some columns of what `SELECT *` of a table found.
pub async fn select(
    on: &mut MySqlConnection,
    table: &Table,
    columns: &[usize],
    sql: &str,
    params: &[Value],
) -> Result<Rows, Unread> {
    let found = fetch_for_rows(on, sql, params).await?;
    let mut rows = Vec::with_capacity(found.len());
    if let Some(first) = found.first() {
        let names = first.columns().iter().map(|column| column.name());
        if !names.eq(table.columns.iter().map(|column| column.name.as_str())) {
            return Err(Unread::Altered);
        }
    }
    for row in &found {
        let value = |at: &usize| read(row, *at, &table.columns[*at].kind, table);
        let values: Result<Vec<Value>, AtError> = columns.iter().map(value).collect();
        rows.push(values?);
    }
    Ok(Rows {
        columns: columns.to_vec(),
        rows,
    })
}

fn read(row: &MySqlRow, at: usize, kind: &Kind, table: &Table) -> Result<Value, AtError> {
    let problem = |problem: &str| column_problem(table, &table.columns[at].name, problem);
    // The bytes as they came; a zero date is a null to the driver, and bytes all the same.
    let bytes: Result<&[u8], sqlx::Error> = row.try_get_unchecked(at);
    match bytes {
        Ok(bytes) => kind.read(bytes).map_err(|text| problem(&text)),
        Err(_) if row.try_get_raw(at)?.is_null() => Ok(Value::Null),
        Err(error) => Err(error.into()),
    }
}

/// `` `id` IN (?, ?) `` for so many rows, or with a composite key `` (`a` = ? AND `b` = ?) OR … ``, which finds them by
/// the index on every server.
pub fn key_in(table: &Table, rows: usize) -> String {
    let mut columns = table.key_columns();
    match (columns.next(), columns.next()) {
        (Some(only), None) => format!("{} IN ({})", quoted(&only.name), vec!["?"; rows].join(", ")),
        _ => vec![format!("({})", key_is(table)); rows].join(" OR "),
    }
}

/// `` `id` = ? `` for one row, with `AND` for a composite key.
pub fn key_is(table: &Table) -> String {
    let names: Vec<String> = table
        .key_columns()
        .map(|column| format!("{} = ?", quoted(&column.name)))
        .collect();
    names.join(" AND ")
}

/// Rows by their primary keys, locked; `keys` has the values of all, one behind the other.
pub async fn select_by_key(
    on: &mut MySqlConnection,
    table: &Arc<Table>,
    columns: &[usize],
    keys: &[Value],
) -> Result<Rows, Unread> {
    let at_once = PARAMS_MAX / table.key.len() * table.key.len();
    let mut all = Rows {
        columns: columns.to_vec(),
        rows: Vec::new(),
    };
    for keys in keys.chunks(at_once) {
        let condition = key_in(table, keys.len() / table.key.len());
        let sql = format!("SELECT * FROM {} WHERE {condition} FOR UPDATE", quoted(&table.name));
        all.rows.extend(select(on, table, columns, &sql, keys).await?.rows);
    }
    Ok(all)
}

/// Whether a row with this key was there already.
pub fn is_duplicate(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| error.is_unique_violation())
}
