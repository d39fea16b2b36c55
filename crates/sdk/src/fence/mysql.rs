//! The fence in MySQL and MariaDB, through `sqlx`. The table is the one of Seata's `script/client/tcc/db/mysql.sql`.

use sqlx::mysql::MySqlConnection;

use super::{FenceKey, FenceStatus, nonblocking::FenceStore};

type Told<T> = Result<T, sqlx::Error>;

impl FenceStore for MySqlConnection {
    type Error = sqlx::Error;

    async fn load(&mut self, key: FenceKey<'_>) -> Told<Option<FenceStatus>> {
        let sql = "SELECT status FROM tcc_fence_log WHERE xid = ? AND branch_id = ? FOR UPDATE";
        let row: Option<i8> = sqlx::query_scalar(sql)
            .bind(key.xid)
            .bind(key.branch_id)
            .fetch_optional(self)
            .await?;
        row.map(|status| FenceStatus::try_from(i64::from(status)).map_err(|error| sqlx::Error::Decode(Box::new(error))))
            .transpose()
    }

    /// Under REPEATABLE READ, `FOR UPDATE` on a missing row locks the gap that it would lie in: branches that are rolled
    /// back before their phase one would wait for each other, and die of the deadlock.
    async fn is_there(&mut self, key: FenceKey<'_>) -> Told<bool> {
        let sql = "SELECT 1 FROM tcc_fence_log WHERE xid = ? AND branch_id = ?";
        let row: Option<i64> = sqlx::query_scalar(sql)
            .bind(key.xid)
            .bind(key.branch_id)
            .fetch_optional(self)
            .await?;
        Ok(row.is_some())
    }

    async fn insert(&mut self, key: FenceKey<'_>, status: FenceStatus) -> Told<bool> {
        let sql = "INSERT INTO tcc_fence_log (xid, branch_id, action_name, status, gmt_create, gmt_modified) \
                   VALUES (?, ?, ?, ?, NOW(3), NOW(3))";
        let inserted = sqlx::query(sql)
            .bind(key.xid)
            .bind(key.branch_id)
            .bind(key.action)
            .bind(status as u8)
            .execute(self)
            .await;
        match inserted {
            Ok(_) => Ok(true),
            // Takes back the statement alone: the transaction goes on.
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn change(&mut self, key: FenceKey<'_>, from: FenceStatus, to: FenceStatus) -> Told<bool> {
        let sql = "UPDATE tcc_fence_log SET status = ?, gmt_modified = NOW(3) \
                   WHERE xid = ? AND branch_id = ? AND status = ?";
        let changed = sqlx::query(sql)
            .bind(to as u8)
            .bind(key.xid)
            .bind(key.branch_id)
            .bind(from as u8)
            .execute(self)
            .await?;
        Ok(changed.rows_affected() == 1)
    }

    async fn delete_ended(&mut self, seconds: i64, limit: u32) -> Told<u64> {
        let sql = "DELETE FROM tcc_fence_log WHERE status IN (2, 3, 4) AND gmt_modified < NOW(3) - INTERVAL ? SECOND \
                   LIMIT ?";
        let deleted = sqlx::query(sql).bind(seconds).bind(limit).execute(self).await?;
        Ok(deleted.rows_affected())
    }
}
