//! Phase one: a local transaction whose changes can be taken back.

use settle_sdk::{BranchStatus, Current, ExceptionCode};
use sqlx::{
    MySqlConnection,
    mysql::{MySqlQueryResult, MySqlRow},
};
use tokio::time::sleep;

use crate::{
    At, AtError, Value,
    change::Changes,
    local::Local,
    session::{self, Session, is_duplicate},
    statement::{Statement, Understood, Unprotected, understand},
    undo::{self, BranchUndo, UndoError},
    undo_rows::{undo_rows, undo_state},
};

/// Whose local transaction it is.
#[derive(Clone)]
pub(crate) enum Scope {
    /// A global transaction's.
    Branch { xid: String },
    /// Nobody's: it keeps off the rows that global ones hold.
    Outside,
}

impl Scope {
    /// None is the xid of nobody to the coordinator too.
    fn xid(&self) -> &str {
        match self {
            Scope::Branch { xid } => xid,
            Scope::Outside => "",
        }
    }
}

/// One local transaction of a global one, or [outside](At::begin_outside) of any. Each statement is read first, and refused if it could not be taken back; the
/// rows that it changes are kept as they were and as they are then.
///
/// Dropped, it is rolled back. After an error other than a duplicate key nothing more is done in it.
pub struct AtTransaction {
    at: At,
    scope: Scope,
    tx: Local,
    session: Session,
    changes: Changes,
    /// The coordinator may tell a conflict at once when it has to wait for a rollback, since who waits holds rows.
    is_whole_retried: bool,
    /// A statement failed, so that the transaction is not what it should be.
    is_broken: bool,
    /// It met rows that another global transaction holds, and is to be done again without them in its hands.
    pub(crate) has_met_conflict: bool,
}

/// How a statement ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    /// For an `UPDATE`, those that its condition fits.
    pub rows: u64,
    /// Of the first row of an `INSERT` with an automatic id.
    pub last_insert_id: u64,
}

impl AtTransaction {
    pub(crate) async fn begin(at: At, scope: Scope, is_whole_retried: bool) -> Result<AtTransaction, AtError> {
        let mut tx = Local::begin(at.resource().pool()).await?;
        let session = Session::of(&mut tx).await?;
        Ok(AtTransaction {
            at,
            changes: Changes::new(matches!(scope, Scope::Branch { .. })),
            scope,
            tx,
            session,
            is_whole_retried,
            is_broken: false,
            has_met_conflict: false,
        })
    }

    /// Of the global transaction; empty outside of any.
    pub fn xid(&self) -> &str {
        self.scope.xid()
    }

    /// Runs an `INSERT`, `UPDATE` or `DELETE`: see the [table](crate#sql) of what is supported.
    ///
    /// # Errors
    /// [`AtError::Unprotected`], [`AtError::Table`], [`AtError::Params`] and [`AtError::TooMuch`] before anything was
    /// changed.
    pub async fn execute(&mut self, sql: &str, params: &[Value]) -> Result<Done, AtError> {
        let understood = self.understand(sql, params).await?;
        self.is_broken = true;
        let connection = &mut *self.tx;
        let changes = &mut self.changes;
        let done = match understood.statement {
            Statement::Update { rows, columns, query } => {
                let update = changes.update(&self.at, connection, &self.session, &rows, &columns, &query, params);
                update.await
            }
            Statement::Delete(rows) => changes.delete(&self.at, connection, &self.session, &rows, params).await,
            Statement::Insert {
                table,
                columns,
                rows,
                upsert: None,
            } => {
                let insert = (sql, params);
                let insert = changes.insert(&self.at, connection, &self.session, &table, columns, &rows, insert);
                insert.await
            }
            Statement::Insert {
                table,
                columns,
                rows,
                upsert: Some(upsert),
            } => {
                let insert = (sql, params);
                let upsert = changes.upsert(
                    &self.at,
                    connection,
                    &self.session,
                    &table,
                    columns,
                    &rows,
                    &upsert,
                    insert,
                );
                upsert.await
            }
            Statement::Read | Statement::Lock { .. } => Err(Unprotected::Form {
                what: "a SELECT that is executed instead of fetched",
            }
            .into()),
        };
        self.mend(&done);
        done
    }

    /// Runs a `SELECT`. With `FOR UPDATE`, waits until no other global transaction holds the rows, as long as the options
    /// say.
    ///
    /// # Errors
    /// As [`execute`](AtTransaction::execute); [`AtError::LockConflict`] when the rows stay held.
    pub async fn fetch_all(&mut self, sql: &str, params: &[Value]) -> Result<Vec<MySqlRow>, AtError> {
        let understood = self.understand(sql, params).await?;
        self.is_broken = true;
        let connection = &mut *self.tx;
        let rows = match understood.statement {
            Statement::Read => session::fetch(connection, sql, params).await.map_err(AtError::from),
            Statement::Lock { rows, query } => {
                let picked = self
                    .changes
                    .pick(&self.at, connection, &self.session, &rows, params)
                    .await;
                match picked {
                    Err(error) => Err(error),
                    Ok(picked) => {
                        let waited = match &picked.lock_keys {
                            Some(lock_keys) => {
                                wait_for(&self.at, self.scope.xid(), lock_keys, self.is_whole_retried).await
                            }
                            None => Ok(()),
                        };
                        match waited {
                            Err(error) => Err(error),
                            Ok(()) => {
                                let (mut sql, values) = query.over(&picked.condition, &picked.keys, params);
                                sql.push_str("\nFOR UPDATE");
                                session::fetch_for_rows(connection, &sql, &values)
                                    .await
                                    .map_err(AtError::from)
                            }
                        }
                    }
                }
            }
            _ => Err(Unprotected::Form {
                what: "a change that is fetched instead of executed",
            }
            .into()),
        };
        self.mend(&rows);
        self.has_met_conflict |= matches!(rows, Err(AtError::LockConflict { .. }));
        rows
    }

    /// Reads the statement, and checks what can be told without its table.
    async fn understand(&mut self, sql: &str, params: &[Value]) -> Result<Understood, AtError> {
        if self.is_broken {
            return Err(AtError::Broken);
        }
        let limit = self.at.options().statement_bytes_max;
        if sql.len() > limit {
            return Err(AtError::TooMuch {
                what: "a statement",
                limit,
                option: "statement_bytes_max",
            });
        }
        let understood = understand(sql)?;
        if understood.params != params.len() {
            return Err(AtError::Params {
                wanted: understood.params,
                given: params.len(),
            });
        }
        if !understood.called.is_empty() {
            let schema = self.at.resource().schema();
            let stored = schema.functions(&mut self.tx, &self.session.database).await?;
            let is_stored = |name: &&String| stored.contains(&name.to_lowercase());
            if let Some(name) = understood.called.iter().find(is_stored) {
                return Err(Unprotected::Function { name: name.clone() }.into());
            }
        }
        Ok(understood)
    }

    /// After a statement that was refused, or found its row there already, the transaction is as it was before it.
    fn mend<T>(&mut self, done: &Result<T, AtError>) {
        self.is_broken = match done {
            Ok(_) => false,
            Err(AtError::Unprotected(_)) => false,
            Err(AtError::Database(error)) => !is_duplicate(error),
            Err(_) => true,
        };
    }

    /// Registers the branch with the global locks of its rows, and commits with the undo log in one local transaction.
    /// Without changes there is no branch. [Outside](At::begin_outside) of a global transaction it waits for those that
    /// hold its rows, and commits.
    ///
    /// # Errors
    /// After any error the local work does not stand, and the global transaction must be rolled back or the work done
    /// again; but after [`AtError::CommitUnknown`] it may stand, so the global transaction must be rolled back. A task
    /// that is in it is kept from committing then, also when this is dropped before its end.
    pub async fn commit(self) -> Result<(), AtError> {
        if self.is_broken {
            return Err(AtError::Broken);
        }
        let AtTransaction {
            at, scope, tx, changes, ..
        } = self;
        let xid = match scope {
            // Whoever takes a lock on these rows from here on has changed them before, and nobody can while they are
            // locked here.
            Scope::Outside if !changes.locks.is_empty() => {
                let waited = wait_for(&at, "", &changes.locks.join(";"), self.is_whole_retried).await;
                if let Err(error) = waited {
                    roll_back(tx).await;
                    return Err(error);
                }
                return tx.commit().await.map_err(AtError::from);
            }
            Scope::Branch { xid } if !changes.statements.is_empty() => xid,
            _ => return tx.commit().await.map_err(AtError::from),
        };
        // From here on the branch may be registered, and its changes may stand or not: whoever drops this future never
        // learns it.
        let unsure = Current::joined(xid.as_str()).unsure()?;
        let done = commit_branch(&at, &xid, tx, changes, self.is_whole_retried).await;
        if !matches!(done, Err(AtError::CommitUnknown { .. })) {
            unsure.sure();
        }
        done
    }

    /// Rolls back: there is no branch.
    ///
    /// # Errors
    /// [`AtError::Database`]; the server rolls back all the same, at the latest with the connection's end.
    pub async fn rollback(self) -> Result<(), AtError> {
        Ok(self.tx.rollback().await?)
    }
}

async fn commit_branch(
    at: &At,
    xid: &str,
    mut tx: Local,
    changes: Changes,
    is_whole_retried: bool,
) -> Result<(), AtError> {
    let lock_keys = changes.locks.join(";");
    let branch_id = match register(at, xid, &lock_keys, is_whole_retried).await {
        Ok(branch_id) => branch_id,
        Err(error) => {
            roll_back(tx).await;
            return Err(error);
        }
    };
    let undo = BranchUndo {
        xid: xid.to_owned(),
        branch_id,
        statements: changes.statements,
    };
    if let Err(error) = write_undo(at, &mut tx, &undo).await {
        // The local commit was never asked for: the branch has failed for good.
        roll_back(tx).await;
        report_failed(at, xid, branch_id).await;
        return Err(error);
    }
    // Not reported as failed when it is not answered: it may have been done, and then it has to be taken back.
    tx.commit().await.map_err(|source| AtError::CommitUnknown {
        xid: xid.to_owned(),
        branch_id,
        source,
    })
}

async fn roll_back(tx: Local) {
    if let Err(error) = tx.rollback().await {
        tracing::debug!(%error, "a local rollback was not answered: the server does it with the connection's end");
    }
}

/// # Errors
/// [`AtError::LockConflict`] after so many attempts, or at once when the holder is being rolled back and needs the rows
/// that this transaction holds.
async fn register(at: &At, xid: &str, lock_keys: &str, is_whole_retried: bool) -> Result<i64, AtError> {
    let options = at.options();
    // As Java tells the coordinator that this client waits with rows in its hands (`ConnectionContext.getApplicationData`).
    let data = if is_whole_retried { "" } else { "{\"autoCommit\":false}" };
    let mut left = if is_whole_retried { 0 } else { options.lock_retry_times };
    loop {
        let registered = at.rm().register_at(xid, &options.resource_id, lock_keys, data).await;
        match registered {
            Ok(branch_id) => return Ok(branch_id),
            Err(error) => {
                let Some(message) = conflict(&error) else {
                    return Err(error.into());
                };
                if left == 0 || is_fail_fast(&error) {
                    let lock_keys = lock_keys.to_owned();
                    return Err(AtError::LockConflict { lock_keys, message });
                }
            }
        }
        left -= 1;
        sleep(options.lock_retry_interval).await;
    }
}

fn conflict(error: &settle_sdk::Error) -> Option<String> {
    match error {
        settle_sdk::Error::Refused {
            exception: ExceptionCode::LockKeyConflict | ExceptionCode::LockKeyConflictFailFast,
            message,
            ..
        } => Some(message.clone()),
        _ => None,
    }
}

fn is_fail_fast(error: &settle_sdk::Error) -> bool {
    let settle_sdk::Error::Refused { exception, .. } = error else {
        return false;
    };
    *exception == ExceptionCode::LockKeyConflictFailFast
}

/// Waits until nobody else holds these rows.
async fn wait_for(at: &At, xid: &str, lock_keys: &str, is_whole_retried: bool) -> Result<(), AtError> {
    let options = at.options();
    let mut left = if is_whole_retried { 0 } else { options.lock_retry_times };
    loop {
        let message = match at.rm().can_lock(xid, &options.resource_id, lock_keys).await {
            Ok(true) => return Ok(()),
            Ok(false) => "they are locked".to_owned(),
            Err(error) => conflict(&error).ok_or(error)?,
        };
        if left == 0 {
            let lock_keys = lock_keys.to_owned();
            return Err(AtError::LockConflict { lock_keys, message });
        }
        left -= 1;
        sleep(options.lock_retry_interval).await;
    }
}

async fn write_undo(at: &At, on: &mut MySqlConnection, undo: &BranchUndo) -> Result<(), AtError> {
    let options = at.options();
    let content = undo::encode(undo, options.java_package);
    if content.len() > options.undo_bytes_max {
        return Err(UndoError::TooLarge {
            limit: options.undo_bytes_max,
        }
        .into());
    }
    // Whatever cannot be read back would be found out when it is too late.
    if undo::decode(&content)? != *undo {
        return Err(UndoError::Json {
            problem: "what was written reads as something else".to_owned(),
        }
        .into());
    }
    let rows = undo_rows(options);
    let is_first = rows.insert(on, &undo.xid, undo.branch_id, content, undo_state::NORMAL);
    if is_first.await? {
        return Ok(());
    }
    // A rollback that came first has left its row there.
    Err(AtError::TooLate {
        xid: undo.xid.clone(),
        branch_id: undo.branch_id,
    })
}

async fn report_failed(at: &At, xid: &str, branch_id: i64) {
    let resource = &at.options().resource_id;
    let reported = at
        .rm()
        .report_at(xid, branch_id, resource, BranchStatus::PhaseOneFailed)
        .await;
    if let Err(error) = reported {
        // It is called to roll back then, and finds nothing to do.
        tracing::warn!(%xid, branch = branch_id, %error, "a failed phase one could not be reported");
    }
}

impl From<MySqlQueryResult> for Done {
    fn from(result: MySqlQueryResult) -> Done {
        Done {
            rows: result.rows_affected(),
            last_insert_id: result.last_insert_id(),
        }
    }
}
