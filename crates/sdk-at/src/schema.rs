//! Looks tables up in `information_schema`, and keeps them for a while.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use sqlx::{Row, mysql::MySqlConnection};
use tokio::time::Instant;

use crate::{
    AtError,
    grants::Grants,
    kind::Kind,
    references,
    table::{Column, Table, java_order},
};

/// Tables that are kept; over that, all are looked up again.
const TABLES_MAX: usize = 4_096;
/// Stored functions that are known by name; a database with more is refused.
const FUNCTIONS_MAX: i64 = 10_000;

/// What is known of the database of each connection, for a while.
pub struct Schema {
    max_age: Duration,
    /// What the account may not see is taken not to be there.
    trusts_unseen: bool,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    tables: BTreeMap<(String, String), (Instant, Arc<Table>)>,
    functions: BTreeMap<String, (Instant, Arc<BTreeSet<String>>)>,
}

impl Schema {
    pub fn new(max_age: Duration, trusts_unseen: bool) -> Schema {
        Schema {
            max_age,
            trusts_unseen,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no holder of this lock panics")
    }

    /// # Errors
    /// [`AtError::Table`] when it is none that can be protected.
    pub async fn table(&self, on: &mut MySqlConnection, database: &str, name: &str) -> Result<Arc<Table>, AtError> {
        let key = (database.to_owned(), name.to_owned());
        if let Some((since, table)) = self.known().tables.get(&key)
            && since.elapsed() < self.max_age
        {
            return Ok(table.clone());
        }
        let table = Arc::new(look_up(on, name).await?);
        if !self.trusts_unseen {
            check_seen(on, database, &table).await?;
        }
        let mut known = self.known();
        if known.tables.len() >= TABLES_MAX {
            known.tables.clear();
        }
        known.tables.insert(key, (Instant::now(), table.clone()));
        Ok(table)
    }

    /// The next question looks it up again.
    pub fn forget(&self, database: &str, name: &str) {
        self.known().tables.remove(&(database.to_owned(), name.to_owned()));
    }

    /// The database's stored functions, in lower case.
    pub async fn functions(&self, on: &mut MySqlConnection, database: &str) -> Result<Arc<BTreeSet<String>>, AtError> {
        if let Some((since, functions)) = self.known().functions.get(database)
            && since.elapsed() < self.max_age
        {
            return Ok(functions.clone());
        }
        let sql = "SELECT CAST(ROUTINE_NAME AS CHAR) FROM information_schema.ROUTINES \
                   WHERE ROUTINE_SCHEMA = DATABASE() AND ROUTINE_TYPE = 'FUNCTION' LIMIT ?";
        let names: Vec<String> = sqlx::query_scalar(sql).bind(FUNCTIONS_MAX).fetch_all(on).await?;
        if names.len() as i64 >= FUNCTIONS_MAX {
            return Err(AtError::setup(
                "the database has too many stored functions to know them by name",
            ));
        }
        let functions: Arc<BTreeSet<String>> = Arc::new(names.iter().map(|name| name.to_lowercase()).collect());
        let mut known = self.known();
        if known.functions.len() >= TABLES_MAX {
            known.functions.clear();
        }
        known
            .functions
            .insert(database.to_owned(), (Instant::now(), functions.clone()));
        Ok(functions)
    }
}

/// Whether the account sees what a change of this table may take along.
async fn check_seen(on: &mut MySqlConnection, database: &str, table: &Table) -> Result<(), AtError> {
    let grants = Grants::of(on).await?;
    let problem = if !grants.see_triggers(database, &table.name) {
        "its triggers cannot be seen without the privilege TRIGGER on it (or set the option `trust_unseen`)"
    } else if !grants.see_references(database) {
        "foreign keys that follow it cannot be seen without a privilege to write in the whole database (or set the \
         option `trust_unseen`)"
    } else {
        return Ok(());
    };
    Err(AtError::table(&table.name, problem))
}

async fn look_up(on: &mut MySqlConnection, name: &str) -> Result<Table, AtError> {
    let sql = "SELECT CAST(TABLE_NAME AS CHAR), CAST(TABLE_TYPE AS CHAR), CAST(ENGINE AS CHAR) \
               FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?";
    let found = sqlx::query(sql).bind(name).fetch_all(&mut *on).await?;
    let mut tables = Vec::with_capacity(found.len());
    for row in &found {
        let (name, kind, engine) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        tables.push((name, kind, engine));
    }
    // The comparison there takes no care of case, and the server's file system may.
    let exact = tables
        .iter()
        .position(|(found, ..): &(String, String, Option<String>)| found == name);
    let Some((table, kind, engine)) = exact
        .or((tables.len() == 1).then_some(0))
        .map(|at| tables.swap_remove(at))
    else {
        return Err(AtError::table(name, "the database has no table of this name"));
    };
    if kind != "BASE TABLE" {
        return Err(AtError::table(&table, format!("it is a {}", kind.to_lowercase())));
    }
    match engine.as_deref() {
        Some("InnoDB") => {}
        other => {
            let problem = format!("its engine is {}, and only InnoDB is tried", other.unwrap_or("unknown"));
            return Err(AtError::table(&table, problem));
        }
    }
    let sql = "SELECT COUNT(*) FROM information_schema.TRIGGERS \
               WHERE EVENT_OBJECT_SCHEMA = DATABASE() AND EVENT_OBJECT_TABLE = ?";
    let triggers: i64 = sqlx::query_scalar(sql).bind(&table).fetch_one(&mut *on).await?;
    if triggers > 0 {
        return Err(AtError::table(&table, "it has triggers, which may change anything"));
    }
    let columns = columns(on, &table).await?;
    let sql = "SELECT CAST(COLUMN_NAME AS CHAR) FROM information_schema.STATISTICS \
               WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND INDEX_NAME = 'PRIMARY' ORDER BY SEQ_IN_INDEX";
    let names: Vec<String> = sqlx::query_scalar(sql).bind(&table).fetch_all(&mut *on).await?;
    if names.is_empty() {
        return Err(AtError::table(&table, "it has no primary key"));
    }
    let at = |name: &String| columns.iter().position(|column| column.name == *name);
    let key: Option<Vec<usize>> = names.iter().map(at).collect();
    let key = key.ok_or_else(|| AtError::table(&table, "its primary key is over a column that it does not have"))?;
    if key.iter().any(|at| columns[*at].is_generated) {
        return Err(AtError::table(&table, "its primary key is computed by the database"));
    }
    let key = java_order(key, |at: &usize| &columns[*at].name);
    let sql = "SELECT COUNT(*) FROM information_schema.STATISTICS \
               WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND INDEX_NAME <> 'PRIMARY' AND NON_UNIQUE = 0";
    let unique: i64 = sqlx::query_scalar(sql).bind(&table).fetch_one(&mut *on).await?;
    Ok(Table {
        has_more_unique: unique > 0,
        references: references::look_up(on, &table, &columns).await?,
        name: table,
        columns,
        key,
    })
}

async fn columns(on: &mut MySqlConnection, table: &str) -> Result<Vec<Column>, AtError> {
    let sql = "SELECT CAST(COLUMN_NAME AS CHAR), CAST(DATA_TYPE AS CHAR), CAST(COLUMN_TYPE AS CHAR), CAST(EXTRA AS CHAR) \
               FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? \
               ORDER BY ORDINAL_POSITION";
    let rows = sqlx::query(sql).bind(table).fetch_all(on).await?;
    let mut columns = Vec::with_capacity(rows.len());
    for row in rows {
        let (data_type, column_type): (String, String) = (row.try_get(1)?, row.try_get(2)?);
        let extra: String = row.try_get(3)?;
        let extra = extra.to_lowercase();
        if extra.contains("invisible") {
            return Err(AtError::table(table, "it has an invisible column"));
        }
        columns.push(Column {
            name: row.try_get(0)?,
            kind: Kind::of(&data_type.to_lowercase(), &column_type.to_lowercase()),
            is_auto_increment: extra.contains("auto_increment"),
            is_generated: ["virtual generated", "stored generated", "persistent"]
                .iter()
                .any(|word| extra.contains(word)),
            is_on_update: extra.contains("on update"),
        });
    }
    Ok(columns)
}
