//! The fence in PostgreSQL, through `sqlx`. The table is the one of Seata's `script/client/tcc/db/postgresql.sql`.

use sqlx::postgres::PgConnection;

use super::{FenceKey, FenceStatus, nonblocking::FenceStore};

type Told<T> = Result<T, sqlx::Error>;

impl FenceStore for PgConnection {
    type Error = sqlx::Error;

    async fn load(&mut self, key: FenceKey<'_>) -> Told<Option<FenceStatus>> {
        let sql = "SELECT status FROM tcc_fence_log WHERE xid = $1 AND branch_id = $2 FOR UPDATE";
        let row: Option<i16> = sqlx::query_scalar(sql)
            .bind(key.xid)
            .bind(key.branch_id)
            .fetch_optional(self)
            .await?;
        row.map(|status| FenceStatus::try_from(i64::from(status)).map_err(|error| sqlx::Error::Decode(Box::new(error))))
            .transpose()
    }

    async fn insert(&mut self, key: FenceKey<'_>, status: FenceStatus) -> Told<bool> {
        // A violated key would break the whole transaction; this waits for whoever holds the row, and says so.
        let sql = "INSERT INTO tcc_fence_log (xid, branch_id, action_name, status, gmt_create, gmt_modified) \
                   VALUES ($1, $2, $3, $4, clock_timestamp()::timestamp(3), clock_timestamp()::timestamp(3)) \
                   ON CONFLICT (xid, branch_id) DO NOTHING";
        let inserted = sqlx::query(sql)
            .bind(key.xid)
            .bind(key.branch_id)
            .bind(key.action)
            .bind(i16::from(status as u8))
            .execute(self)
            .await?;
        Ok(inserted.rows_affected() == 1)
    }

    async fn change(&mut self, key: FenceKey<'_>, from: FenceStatus, to: FenceStatus) -> Told<bool> {
        let sql = "UPDATE tcc_fence_log SET status = $1, gmt_modified = clock_timestamp()::timestamp(3) \
                   WHERE xid = $2 AND branch_id = $3 AND status = $4";
        let changed = sqlx::query(sql)
            .bind(i16::from(to as u8))
            .bind(key.xid)
            .bind(key.branch_id)
            .bind(i16::from(from as u8))
            .execute(self)
            .await?;
        Ok(changed.rows_affected() == 1)
    }

    async fn delete_ended(&mut self, seconds: i64, limit: u32) -> Told<u64> {
        let sql = "DELETE FROM tcc_fence_log WHERE ctid IN (SELECT ctid FROM tcc_fence_log WHERE status IN (2, 3, 4) \
                   AND gmt_modified < clock_timestamp()::timestamp(3) - make_interval(secs => $1::float8) LIMIT $2)";
        let deleted = sqlx::query(sql)
            .bind(seconds)
            .bind(i64::from(limit))
            .execute(self)
            .await?;
        Ok(deleted.rows_affected())
    }
}
