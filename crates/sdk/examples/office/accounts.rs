//! An office's accounts in its own SQLite file, and what the coordinator calls them for: try, confirm and cancel.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use rusqlite::{Connection, TransactionBehavior};
use serde::{Deserialize, Serialize};
use settle_sdk::{
    BranchCall, Rm, TccError, TccFuture, TccResource,
    fence::{self, FenceKey, Pass, SQLITE_SCHEMA},
};

/// What one branch does: adds `amount`, which is negative for a withdrawal.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Movement {
    pub account: i64,
    pub amount: i64,
}

/// The accounts, and what the coordinator calls them for.
pub struct Accounts {
    name: String,
    database: Arc<Mutex<Connection>>,
}

impl Accounts {
    pub fn open(name: &str, file: &Path) -> rusqlite::Result<Accounts> {
        let database = Connection::open(file)?;
        database.execute_batch(SQLITE_SCHEMA)?;
        database
            .execute_batch("CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)")?;
        Ok(Accounts {
            name: name.to_owned(),
            database: Arc::new(Mutex::new(database)),
        })
    }

    /// Runs `work` in one database transaction, where it may block.
    async fn within<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut rusqlite::Transaction<'_>) -> Result<T, TccError> + Send + 'static,
    ) -> Result<T, TccError> {
        let database = self.database.clone();
        let done = tokio::task::spawn_blocking(move || {
            let mut database = database
                .lock()
                .map_err(|_| TccError::retryable("the database is lost"))?;
            let begun = database.transaction_with_behavior(TransactionBehavior::Immediate);
            let mut tx = begun.map_err(TccError::retryable)?;
            let done = work(&mut tx)?;
            tx.commit().map_err(TccError::retryable)?;
            Ok(done)
        });
        done.await.map_err(TccError::retryable)?
    }

    /// A branch of the transaction `xid`, registered and prepared.
    pub async fn move_money(
        &self,
        rm: &Rm,
        xid: &str,
        movement: Movement,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let branch_id = rm.register(xid, &self.name, &movement).await?;
        Ok(self.prepare(xid.to_owned(), branch_id, movement).await?)
    }

    /// A new account with so much in it, outside of any transaction.
    pub async fn create(&self, id: i64, balance: i64) -> Result<(), TccError> {
        let sql = "INSERT INTO account VALUES (?1, ?2)";
        let created = self.within(move |tx| tx.execute(sql, (id, balance)).map_err(TccError::unretryable));
        created.await.map(drop)
    }

    pub async fn balance(&self, id: i64) -> Result<i64, TccError> {
        let sql = "SELECT balance FROM account WHERE id = ?1";
        self.within(move |tx| tx.query_row(sql, [id], |row| row.get(0)).map_err(TccError::unretryable))
            .await
    }

    /// Phase one: what is withdrawn is gone from the balance, what is deposited is not there yet.
    async fn prepare(&self, xid: String, branch_id: i64, movement: Movement) -> Result<(), TccError> {
        let action = self.name.clone();
        self.within(move |tx| {
            let key = FenceKey {
                xid: &xid,
                branch_id,
                action: &action,
            };
            fence::prepare(tx, key)?;
            let sql = "UPDATE account SET balance = balance + min(?2, 0) WHERE id = ?1 AND balance + ?2 >= 0";
            match tx
                .execute(sql, (movement.account, movement.amount))
                .map_err(TccError::retryable)?
            {
                1 => Ok(()),
                _ => Err(TccError::unretryable("no such account, or not enough money in it")),
            }
        })
        .await
    }

    /// Phase two: a deposit arrives, or a withdrawal comes back.
    async fn end(&self, call: &BranchCall, is_commit: bool) -> Result<(), TccError> {
        let movement: Movement = call.context().map_err(TccError::unretryable)?;
        let call = call.clone();
        self.within(move |tx| {
            let (pass, sql) = if is_commit {
                let sql = "UPDATE account SET balance = balance + max(?2, 0) WHERE id = ?1";
                (fence::commit(tx, FenceKey::from(&call))?, sql)
            } else {
                let sql = "UPDATE account SET balance = balance - min(?2, 0) WHERE id = ?1";
                (fence::rollback(tx, FenceKey::from(&call))?, sql)
            };
            if pass == Pass::Do {
                tx.execute(sql, (movement.account, movement.amount))
                    .map_err(TccError::retryable)?;
            }
            Ok(())
        })
        .await
    }
}

impl TccResource for Accounts {
    fn name(&self) -> &str {
        &self.name
    }

    fn commit<'a>(&'a self, call: &'a BranchCall) -> TccFuture<'a> {
        Box::pin(self.end(call, true))
    }

    fn rollback<'a>(&'a self, call: &'a BranchCall) -> TccFuture<'a> {
        Box::pin(self.end(call, false))
    }
}
