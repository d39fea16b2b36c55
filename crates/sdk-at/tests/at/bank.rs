//! A database with tables and undo logs, an application's AT over it, and its coordinator.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use settle_sdk::{BranchStatus, BranchType, ExceptionCode};
use settle_sdk_at::{At, AtOptions};
use settle_seata_wire::{BranchEnd, BranchRegisterResponse, BranchReport, GlobalLockQueryResponse, Message, TxResult};
use settle_testkit::{Database, until};
use sqlx::{
    MySqlPool, Row,
    mysql::{MySqlConnectOptions, MySqlPoolOptions},
};

use tokio::sync::oneshot;

use crate::fake::{self, Fake, Reaction};

pub const XID: &str = "127.0.0.1:8091:7";
pub const URL: &str = "jdbc:mysql://127.0.0.1:3306/bank?useSSL=false";
pub const RESOURCE: &str = "jdbc:mysql://127.0.0.1:3306/bank";

const UP_WITHIN: Duration = Duration::from_secs(90);

const UNDO_LOG: &str = "CREATE TABLE undo_log (branch_id BIGINT NOT NULL, xid VARCHAR(128) NOT NULL, \
    context VARCHAR(128) NOT NULL, rollback_info LONGBLOB NOT NULL, log_status INT(11) NOT NULL, \
    log_created DATETIME(6) NOT NULL, log_modified DATETIME(6) NOT NULL, \
    UNIQUE KEY ux_undo_log (xid, branch_id), KEY ix_log_created (log_created)) ENGINE = InnoDB";

/// Branches, locks and reports, as a coordinator has them.
#[derive(Default)]
pub struct Desk {
    pub branches: Vec<String>,
    /// Row locks with their transactions.
    pub locks: BTreeMap<String, String>,
    pub reports: Vec<BranchReport>,
    /// What application data the last branch was registered with.
    pub data: String,
    /// How often a conflict was told.
    pub conflicts: usize,
}

impl Desk {
    fn conflict(&mut self, xid: &str, lock_key: &str) -> bool {
        let is_taken = rows(lock_key)
            .iter()
            .any(|row| self.locks.get(row).is_some_and(|holder| holder != xid));
        self.conflicts += usize::from(is_taken);
        is_taken
    }

    fn react(&mut self, message: &Message) -> Message {
        match message {
            Message::BranchRegister(branch) => {
                let is_taken = self.conflict(&branch.xid, &branch.lock_key);
                self.data.clone_from(&branch.application_data);
                let result = if is_taken {
                    TxResult::failed(ExceptionCode::LockKeyConflict, "held")
                } else {
                    for row in rows(&branch.lock_key) {
                        self.locks.insert(row, branch.xid.clone());
                    }
                    self.branches.push(branch.lock_key.clone());
                    TxResult::SUCCESS
                };
                let branch_id = self.branches.len() as i64;
                Message::BranchRegisterResponse(BranchRegisterResponse { result, branch_id })
            }
            Message::GlobalLockQuery(query) => Message::GlobalLockQueryResponse(GlobalLockQueryResponse {
                result: TxResult::SUCCESS,
                lockable: !self.conflict(&query.xid, &query.lock_key),
            }),
            Message::BranchReport(report) => {
                self.reports.push(report.clone());
                Message::BranchReportResponse(TxResult::SUCCESS)
            }
            other => fake::oblige(other),
        }
    }
}

/// The single rows of a lock key.
fn rows(lock_key: &str) -> Vec<String> {
    let table = |part: &str| {
        let (table, keys) = part.split_once(':').expect("`table:keys`");
        keys.split(',').map(|key| format!("{table}:{key}")).collect::<Vec<_>>()
    };
    lock_key.split(';').flat_map(table).collect()
}

/// A pool over a database of its own.
async fn connect(server: &Database) -> Result<MySqlPool> {
    let options = MySqlConnectOptions::new()
        .host("127.0.0.1")
        .port(server.port())
        .username("root");
    until("mariadbd answers", UP_WITHIN, async || {
        let root = MySqlPoolOptions::new().max_connections(1);
        let root = root.connect_with(options.clone()).await?;
        sqlx::query("CREATE DATABASE IF NOT EXISTS bank").execute(&root).await?;
        root.close().await;
        let pool = MySqlPoolOptions::new().max_connections(4);
        pool.connect_with(options.clone().database("bank")).await
    })
    .await
}

pub struct Bank {
    pub at: At,
    pub pool: MySqlPool,
    pub fake: Fake,
    desk: Arc<Mutex<Desk>>,
    server: Database,
}

impl Bank {
    /// None where there is no MariaDB.
    pub async fn open(schema: &[&str]) -> Result<Option<Bank>> {
        Bank::with(schema, |_| {}).await
    }

    pub async fn with(schema: &[&str], set: impl FnOnce(&mut AtOptions)) -> Result<Option<Bank>> {
        let Some(server) = Database::mariadb()? else {
            return Ok(None);
        };
        let pool = connect(&server).await?;
        for statement in [UNDO_LOG].iter().chain(schema) {
            sqlx::raw_sql(statement)
                .execute(&pool)
                .await
                .with_context(|| (*statement).to_owned())?;
        }
        let desk: Arc<Mutex<Desk>> = Arc::default();
        let shared = desk.clone();
        let fake =
            Fake::start(move |message| Reaction::Answer(shared.lock().expect("no test panics with it").react(message)));
        let fake = fake.await?;
        let mut options = AtOptions::new(URL);
        options.lock_retry_interval = Duration::from_millis(1);
        set(&mut options);
        let at = At::connect(options, fake::options([&fake]), pool.clone()).await?;
        Ok(Some(Bank {
            at,
            pool,
            fake,
            desk,
            server,
        }))
    }

    pub async fn close(self) {
        self.pool.close().await;
        self.server.finish();
    }

    pub fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().expect("no test panics with it")
    }

    pub async fn sql(&self, sql: &str) -> Result<()> {
        sqlx::raw_sql(sql)
            .execute(&self.pool)
            .await
            .with_context(|| sql.to_owned())?;
        Ok(())
    }

    pub async fn number(&self, sql: &str) -> Result<i64> {
        Ok(sqlx::query_scalar(sql).fetch_one(&self.pool).await?)
    }

    pub async fn undo_logs(&self) -> Result<i64> {
        self.number("SELECT COUNT(*) FROM undo_log").await
    }

    /// All of some tables, as text.
    pub async fn dump(&self, tables: &[&str]) -> Result<String> {
        let mut text = String::new();
        for table in tables {
            let sql = "SELECT CAST(COLUMN_NAME AS CHAR) FROM information_schema.COLUMNS \
                       WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION";
            let columns: Vec<String> = sqlx::query_scalar(sql).bind(table).fetch_all(&self.pool).await?;
            ensure!(!columns.is_empty(), "there is no table {table}");
            let columns: Vec<String> = columns.iter().map(|column| format!("QUOTE(`{column}`)")).collect();
            let sql = format!(
                "SELECT CAST(CONCAT_WS(' ', {}) AS BINARY) FROM `{table}` ORDER BY 1",
                columns.join(", ")
            );
            for row in sqlx::query(&sql).fetch_all(&self.pool).await? {
                let row: Vec<u8> = row.try_get(0)?;
                text.push_str(&format!("{table}: {}\n", String::from_utf8_lossy(&row)));
            }
        }
        Ok(text)
    }

    /// One statement as a branch of its own; gives the branch's id, 0 when there was nothing to change.
    pub async fn branch(&self, statements: &[&str]) -> Result<i64> {
        let before = self.desk().branches.len();
        let mut local = self.at.begin(XID).await?;
        for sql in statements {
            local.execute(sql, &[]).await.with_context(|| (*sql).to_owned())?;
        }
        local.commit().await?;
        let after = self.desk().branches.len();
        Ok(if after > before { after as i64 } else { 0 })
    }

    /// Calls the second phase, as the coordinator does.
    pub async fn end(&self, branch_id: i64, is_commit: bool) -> Result<BranchStatus> {
        fake::status(self.call(branch_id, is_commit).await?).await
    }

    /// As [`Bank::end`], without waiting for the answer.
    pub async fn call(&self, branch_id: i64, is_commit: bool) -> Result<oneshot::Receiver<Message>> {
        self.call_in(XID, branch_id, is_commit).await
    }

    /// As [`Bank::call`], for a branch of another transaction.
    pub async fn call_in(&self, xid: &str, branch_id: i64, is_commit: bool) -> Result<oneshot::Receiver<Message>> {
        let call = BranchEnd {
            xid: xid.to_owned(),
            branch_id,
            branch_type: BranchType::At,
            resource_id: RESOURCE.to_owned(),
            application_data: String::new(),
        };
        let call = match is_commit {
            true => Message::BranchCommit(call),
            false => Message::BranchRollback(call),
        };
        self.fake.call(call).await
    }
}
