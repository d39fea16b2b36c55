//! The fence in SQLite, through `rusqlite`. Begin the transaction as immediate: two deferred ones that both want to write
//! cannot wait for each other, and one of them fails.

use rusqlite::{OptionalExtension, Transaction, types::Type};

use super::{FenceKey, FenceStatus, FenceStore};

/// Creates the table, unless it is there. The columns are those of Java's MySQL script.
pub const SQLITE_SCHEMA: &str = "\
CREATE TABLE IF NOT EXISTS tcc_fence_log (
  xid VARCHAR(128) NOT NULL,
  branch_id BIGINT NOT NULL,
  action_name VARCHAR(64),
  status TINYINT NOT NULL,
  gmt_create DATETIME NOT NULL,
  gmt_modified DATETIME NOT NULL,
  PRIMARY KEY (xid, branch_id)
);
CREATE INDEX IF NOT EXISTS tcc_fence_log_gmt_modified ON tcc_fence_log (gmt_modified);
CREATE INDEX IF NOT EXISTS tcc_fence_log_status ON tcc_fence_log (status);
";

impl FenceStore for Transaction<'_> {
    type Error = rusqlite::Error;

    fn load(&mut self, key: FenceKey<'_>) -> Result<Option<FenceStatus>, rusqlite::Error> {
        let mut select = self.prepare_cached("SELECT status FROM tcc_fence_log WHERE xid = ?1 AND branch_id = ?2")?;
        select
            .query_row((key.xid, key.branch_id), |row| {
                let status: i64 = row.get(0)?;
                FenceStatus::try_from(status)
                    .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Integer, Box::new(error)))
            })
            .optional()
    }

    fn insert(&mut self, key: FenceKey<'_>, status: FenceStatus) -> Result<bool, rusqlite::Error> {
        let mut insert = self.prepare_cached(
            "INSERT INTO tcc_fence_log (xid, branch_id, action_name, status, gmt_create, gmt_modified) \
             VALUES (?1, ?2, ?3, ?4, strftime('%Y-%m-%d %H:%M:%f', 'now'), strftime('%Y-%m-%d %H:%M:%f', 'now')) \
             ON CONFLICT (xid, branch_id) DO NOTHING",
        )?;
        let rows = insert.execute((key.xid, key.branch_id, key.action, status as u8))?;
        Ok(rows == 1)
    }

    fn change(&mut self, key: FenceKey<'_>, from: FenceStatus, to: FenceStatus) -> Result<bool, rusqlite::Error> {
        let mut update = self.prepare_cached(
            "UPDATE tcc_fence_log SET status = ?4, gmt_modified = strftime('%Y-%m-%d %H:%M:%f', 'now') \
             WHERE xid = ?1 AND branch_id = ?2 AND status = ?3",
        )?;
        let rows = update.execute((key.xid, key.branch_id, from as u8, to as u8))?;
        Ok(rows == 1)
    }

    fn delete_ended(&mut self, seconds: i64, limit: u32) -> Result<u64, rusqlite::Error> {
        let rows = self.execute(
            "DELETE FROM tcc_fence_log WHERE rowid IN (SELECT rowid FROM tcc_fence_log WHERE status IN (2, 3, 4) \
             AND gmt_modified < strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || ?1 || ' seconds') LIMIT ?2)",
            (seconds, limit),
        )?;
        Ok(rows as u64)
    }
}
