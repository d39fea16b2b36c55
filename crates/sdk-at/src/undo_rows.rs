//! The table of undo logs: that it is fit, and its rows.

use std::collections::BTreeMap;

use sqlx::{MySqlConnection, Row};

use crate::{AtError, AtOptions, session::is_duplicate, undo::Context, value::quoted};

/// `log_status`.
pub mod undo_state {
    pub const NORMAL: i32 = 0;
    /// The branch was rolled back before its phase one.
    pub const DEFENCE: i32 = 1;
}

/// Xids have up to so many characters in Java's own table, and had these in its older ones.
const XID_CHARS_MIN: u64 = 100;

/// The table of undo logs.
pub struct UndoRows {
    table: String,
}

pub struct UndoRow {
    pub state: i32,
    pub context: String,
    pub content: Vec<u8>,
}

pub fn undo_rows(options: &AtOptions) -> UndoRows {
    UndoRows {
        table: quoted(&options.undo_table),
    }
}

/// Looks whether the table can carry what this crate rests on it: that a log and a defence of one branch exclude each
/// other, within a transaction, and that neither is cut off.
///
/// # Errors
/// [`AtError::UndoTable`].
pub async fn check(on: &mut MySqlConnection, options: &AtOptions) -> Result<(), AtError> {
    let name = &options.undo_table;
    let unfit = |problem: String| AtError::UndoTable {
        table: name.clone(),
        problem,
    };
    let sql = format!(
        "SELECT branch_id, xid, context, rollback_info, log_status, log_created, log_modified FROM {} LIMIT 1",
        quoted(name)
    );
    if let Err(error) = sqlx::query(&sql).fetch_optional(&mut *on).await {
        return Err(unfit(format!("it cannot be read: {error}")));
    }
    let sql = "SELECT CAST(ENGINE AS CHAR) FROM information_schema.TABLES \
               WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?";
    let engine: Option<Option<String>> = sqlx::query_scalar(sql).bind(name).fetch_optional(&mut *on).await?;
    let engine = engine.flatten().unwrap_or_else(|| "that of a view".to_owned());
    if engine != "InnoDB" {
        return Err(unfit(format!("its engine is {engine} and has to be InnoDB")));
    }
    let sql = "SELECT CAST(INDEX_NAME AS CHAR), CAST(COLUMN_NAME AS CHAR), SUB_PART IS NULL \
               FROM information_schema.STATISTICS \
               WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND NON_UNIQUE = 0";
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in sqlx::query(sql).bind(name).fetch_all(&mut *on).await? {
        let (index, column, is_whole): (String, String, bool) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let column = if is_whole { column.to_lowercase() } else { String::new() };
        keys.entry(index).or_default().push(column);
    }
    let is_it = |columns: &Vec<String>| {
        let has = |name: &str| columns.iter().any(|column| column == name);
        columns.len() == 2 && has("xid") && has("branch_id")
    };
    if !keys.values().any(is_it) {
        return Err(unfit("it has no unique key over `xid` and `branch_id`".to_owned()));
    }
    for (column, least) in [("xid", XID_CHARS_MIN), ("rollback_info", options.undo_bytes_max as u64)] {
        let sql = "SELECT CAST(CHARACTER_MAXIMUM_LENGTH AS UNSIGNED) FROM information_schema.COLUMNS \
                   WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND COLUMN_NAME = ?";
        let most: Option<Option<u64>> = sqlx::query_scalar(sql)
            .bind(name)
            .bind(column)
            .fetch_optional(&mut *on)
            .await?;
        let most = most.flatten().unwrap_or(0);
        if most < least {
            return Err(unfit(format!("its `{column}` takes {most}, and has to take {least}")));
        }
    }
    Ok(())
}

impl UndoRows {
    /// False when the branch has a row already, which is then of its other phase: its log, or its defence.
    pub async fn insert(
        &self,
        on: &mut MySqlConnection,
        xid: &str,
        branch_id: i64,
        content: Vec<u8>,
        state: i32,
    ) -> Result<bool, sqlx::Error> {
        let sql = format!(
            "INSERT INTO {} (branch_id, xid, context, rollback_info, log_status, log_created, log_modified) \
             VALUES (?, ?, ?, ?, ?, NOW(6), NOW(6))",
            self.table
        );
        let insert = sqlx::query(&sql).bind(branch_id).bind(xid).bind(Context::WRITTEN);
        match insert.bind(content).bind(state).execute(on).await {
            Ok(_) => Ok(true),
            Err(error) if is_duplicate(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub async fn is_there(&self, on: &mut MySqlConnection, xid: &str, branch_id: i64) -> Result<bool, sqlx::Error> {
        let sql = format!("SELECT COUNT(*) FROM {} WHERE branch_id = ? AND xid = ?", self.table);
        let count: i64 = sqlx::query_scalar(&sql).bind(branch_id).bind(xid).fetch_one(on).await?;
        Ok(count > 0)
    }

    pub async fn load(
        &self,
        on: &mut MySqlConnection,
        xid: &str,
        branch_id: i64,
    ) -> Result<Option<UndoRow>, sqlx::Error> {
        let sql = format!(
            "SELECT log_status, context, rollback_info FROM {} WHERE branch_id = ? AND xid = ? FOR UPDATE",
            self.table
        );
        let row = sqlx::query(&sql).bind(branch_id).bind(xid).fetch_optional(on).await?;
        row.map(|row| {
            Ok(UndoRow {
                state: row.try_get(0)?,
                context: row.try_get(1)?,
                content: row.try_get(2)?,
            })
        })
        .transpose()
    }

    /// With the further parts that a long log has.
    pub async fn delete(&self, on: &mut MySqlConnection, branches: &[(&str, i64)]) -> Result<(), sqlx::Error> {
        // Written out, since not every server finds rows by an index for a list of pairs.
        let one = |column: &str| vec![format!("(xid = ? AND {column} = ?)"); branches.len()].join(" OR ");
        let sql = format!("DELETE FROM {} WHERE {}", self.table, one("branch_id"));
        let mut delete = sqlx::query(&sql).persistent(branches.len() == 1);
        for (xid, branch_id) in branches {
            delete = delete.bind(*xid).bind(*branch_id);
        }
        delete.execute(&mut *on).await?;
        let sql = format!("DELETE FROM {} WHERE {}", self.table, one("context"));
        let mut delete = sqlx::query(&sql).persistent(branches.len() == 1);
        for (xid, branch_id) in branches {
            delete = delete.bind(*xid).bind(Context::of_parts(*branch_id));
        }
        delete.execute(on).await?;
        Ok(())
    }
}
