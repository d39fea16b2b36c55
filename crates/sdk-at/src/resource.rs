//! Phase two: undo logs of committed branches are deleted, rolled-back branches are taken back.

use std::sync::Arc;

use settle_sdk::{BranchCall, TccError, TccFuture, TccResource};
use sqlx::{MySqlConnection, MySqlPool, Row, mysql::MySqlQueryResult};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::{
    AtError, AtOptions, Value,
    branch::undo_state,
    image::{Kept, Rows},
    restore::{Step, concerned, step},
    schema::Schema,
    session::{Session, Unread, is_duplicate, key_is, run, select_by_key},
    table::{Table, quoted},
    undo::{self, BranchUndo, ChangeKind, Context, DEFENCE_CONTENT, StatementUndo, UndoError},
};

/// How often a rollback looks again when a phase one has come in between.
const LOOKS: usize = 3;

/// A database at the coordinator: give it to [`Rm::connect`](settle_sdk::Rm::connect), and then both to
/// [`At::new`](crate::At::new). [`At::connect`](crate::At::connect) does all three.
pub struct AtResource {
    options: AtOptions,
    pool: MySqlPool,
    schema: Schema,
    committed: mpsc::Sender<Committed>,
    _cleaner: JoinSet<()>,
}

/// A branch whose undo log is to be deleted.
struct Committed {
    xid: String,
    branch_id: i64,
    deleted: oneshot::Sender<Result<(), Arc<AtError>>>,
}

impl AtResource {
    /// Looks whether the database has its table of undo logs.
    ///
    /// # Errors
    /// [`AtError::Setup`], [`AtError::Database`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn open(options: AtOptions, pool: MySqlPool) -> Result<Arc<AtResource>, AtError> {
        options.check()?;
        let mut connection = pool.acquire().await?;
        Session::of(&mut connection).await?;
        let sql = format!(
            "SELECT branch_id, xid, context, rollback_info, log_status, log_created, log_modified FROM {} LIMIT 1",
            quoted(&options.undo_table)
        );
        if let Err(error) = sqlx::query(&sql).fetch_optional(&mut *connection).await {
            let table = &options.undo_table;
            return Err(AtError::setup(format!(
                "there is no table `{table}` of undo logs here: {error}"
            )));
        }
        let (committed, queue) = mpsc::channel(options.delete_waiting);
        let mut cleaner = JoinSet::new();
        cleaner.spawn(delete_committed(options.clone(), pool.clone(), queue));
        Ok(Arc::new(AtResource {
            schema: Schema::new(options.table_max_age),
            options,
            pool,
            committed,
            _cleaner: cleaner,
        }))
    }

    pub(crate) fn options(&self) -> &AtOptions {
        &self.options
    }

    pub(crate) fn pool(&self) -> &MySqlPool {
        &self.pool
    }

    pub(crate) fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Takes a branch back, in one local transaction.
    ///
    /// # Errors
    /// [`AtError::Dirty`] is for an operator; after any other nothing happened, and it is to be tried again.
    pub async fn roll_back(&self, xid: &str, branch_id: i64) -> Result<(), AtError> {
        let mut looks = 0;
        loop {
            looks += 1;
            match self.roll_back_once(xid, branch_id).await {
                // Its phase one has committed since it was looked for.
                Err(AtError::Database(error)) if is_duplicate(&error) && looks < LOOKS => {}
                done => return done,
            }
        }
    }

    async fn roll_back_once(&self, xid: &str, branch_id: i64) -> Result<(), AtError> {
        let rows = undo_rows(&self.options);
        let mut tx = self.pool.begin().await?;
        let session = Session::of(&mut tx).await?;
        // Looked for without a lock first: InnoDB would lock the gap where nothing is found, and rollbacks of other branches
        // would wait for each other there.
        let row = match rows.is_there(&mut tx, xid, branch_id).await? {
            true => rows.load(&mut tx, xid, branch_id).await?,
            false => None,
        };
        let Some(row) = row else {
            // From now on its phase one cannot commit.
            let content = DEFENCE_CONTENT.to_vec();
            rows.insert(&mut tx, xid, branch_id, content, undo_state::DEFENCE)
                .await?;
            tx.commit().await?;
            tracing::debug!(xid, branch = branch_id, "rolled back before its phase one");
            return Ok(());
        };
        if row.state != undo_state::NORMAL {
            return Ok(());
        }
        let undo = self.read(&mut tx, xid, branch_id, row).await?;
        for statement in undo.statements.iter().rev() {
            self.restore(&mut tx, &session, &undo, statement).await?;
        }
        rows.delete(&mut tx, &[(xid, branch_id)]).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn read(
        &self,
        on: &mut MySqlConnection,
        xid: &str,
        branch_id: i64,
        row: UndoRow,
    ) -> Result<BranchUndo, AtError> {
        let context = Context::parse(&row.context)?;
        let max = self.options.undo_bytes_max;
        let mut content = row.content;
        for part in &context.parts {
            let part = undo_rows(&self.options).load(on, xid, *part).await?;
            let part = part.ok_or(UndoError::Packed {
                problem: "a part of it is missing",
            })?;
            content.extend(part.content);
            if content.len() > max {
                return Err(UndoError::TooLarge { limit: max }.into());
            }
        }
        let undo = undo::decode(&context.compressor.unpack(content, max)?)?;
        if undo.xid != xid || undo.branch_id != branch_id {
            let BranchUndo { xid, branch_id, .. } = undo;
            return Err(UndoError::Another { xid, branch_id }.into());
        }
        Ok(undo)
    }

    async fn restore(
        &self,
        on: &mut MySqlConnection,
        session: &Session,
        undo: &BranchUndo,
        statement: &StatementUndo,
    ) -> Result<(), AtError> {
        let mut name = &statement.before.table;
        if name.is_empty() {
            name = &statement.after.table;
        }
        let mut table = self.schema.table(on, &session.database, name).await?;
        let mut is_anew = false;
        let (before, after, current) = loop {
            let zone = self.options.zone_micros();
            let before = Kept::read(&table, &statement.before, zone)?;
            let after = Kept::read(&table, &statement.after, zone)?;
            match self.current(on, session, &table, statement.kind, &before, &after).await {
                Ok(current) => break (before, after, current),
                Err(Unread::Altered) if !is_anew => {
                    self.schema.forget(&session.database, name);
                    table = self.schema.table(on, &session.database, name).await?;
                    is_anew = true;
                }
                Err(Unread::Altered) => return Err(AtError::table(name, "its columns cannot be told")),
                Err(Unread::Failed(error)) => return Err(error),
            }
        };
        let step = step(&table, statement.kind, &before, &after, &current);
        let step = step.map_err(|dirty| AtError::Dirty {
            xid: undo.xid.clone(),
            branch_id: undo.branch_id,
            table: table.name.clone(),
            key: dirty.key,
        })?;
        if step == Step::Nothing {
            return Ok(());
        }
        for row in concerned(statement.kind, &before, &after) {
            let (sql, params) = put_back(&table, statement.kind, row);
            let done = run(on, &sql, &params).await?;
            if done.rows_affected() != 1 {
                return Err(AtError::Moved {
                    table: table.name.clone(),
                    act: "put back",
                    expected: 1,
                    found: usize::try_from(done.rows_affected()).unwrap_or(usize::MAX),
                });
            }
        }
        Ok(())
    }

    /// The concerned rows as they are, locked, with the columns of the images.
    async fn current(
        &self,
        on: &mut MySqlConnection,
        session: &Session,
        table: &Arc<Table>,
        kind: ChangeKind,
        before: &[Kept],
        after: &[Kept],
    ) -> Result<Rows, Unread> {
        let values = before.iter().chain(after).flat_map(|row| &row.values);
        let mut columns: Vec<usize> = values.map(|(at, _)| *at).chain(table.key.iter().copied()).collect();
        columns.sort_unstable();
        columns.dedup();
        table.check(&columns)?;
        session.check(table, &columns)?;
        let keys: Vec<Value> = concerned(kind, before, after)
            .iter()
            .flat_map(|row| row.key.clone())
            .collect();
        select_by_key(on, table, &columns, &keys).await
    }
}

/// The statement that puts one row back.
fn put_back(table: &Table, kind: ChangeKind, row: &Kept) -> (String, Vec<Value>) {
    let name = quoted(&table.name);
    let column = |at: &usize| quoted(&table.columns[*at].name);
    match kind {
        ChangeKind::Insert => (format!("DELETE FROM {name} WHERE {}", key_is(table)), row.key.clone()),
        ChangeKind::Update => {
            let set = row.values.iter().filter(|(at, _)| !table.is_key(*at));
            let (columns, mut params): (Vec<String>, Vec<Value>) = set
                .map(|(at, value)| (format!("{} = ?", column(at)), value.clone()))
                .unzip();
            params.extend(row.key.iter().cloned());
            (
                format!("UPDATE {name} SET {} WHERE {}", columns.join(", "), key_is(table)),
                params,
            )
        }
        ChangeKind::Delete => {
            let (columns, params): (Vec<String>, Vec<Value>) =
                row.values.iter().map(|(at, value)| (column(at), value.clone())).unzip();
            let marks = vec!["?"; columns.len()].join(", ");
            (
                format!("INSERT INTO {name} ({}) VALUES ({marks})", columns.join(", ")),
                params,
            )
        }
    }
}

impl TccResource for AtResource {
    fn name(&self) -> &str {
        &self.options.resource_id
    }

    fn commit<'a>(&'a self, call: &'a BranchCall) -> TccFuture<'a> {
        Box::pin(async move {
            let (deleted, is_deleted) = oneshot::channel();
            let committed = Committed {
                xid: call.xid.clone(),
                branch_id: call.branch_id,
                deleted,
            };
            self.committed
                .try_send(committed)
                .map_err(|_| TccError::retryable("too many undo logs wait"))?;
            match is_deleted.await {
                Ok(deleted) => deleted.map_err(|error| TccError::retryable(error.to_string())),
                Err(_) => Err(TccError::retryable("the deletion of undo logs has ended")),
            }
        })
    }

    fn rollback<'a>(&'a self, call: &'a BranchCall) -> TccFuture<'a> {
        Box::pin(async move {
            let done = self.roll_back(&call.xid, call.branch_id).await;
            done.map_err(|error| match error {
                AtError::Dirty { .. } => TccError::unretryable(error),
                error => TccError::retryable(error),
            })
        })
    }
}

/// Deletes what waits, in batches: while one is under way, the next gathers. A branch is answered when its undo log is
/// gone, so that none is left behind when this process dies.
async fn delete_committed(options: AtOptions, pool: MySqlPool, mut queue: mpsc::Receiver<Committed>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, options.delete_at_once).await > 0 {
        let deleted = async {
            let keys: Vec<(&str, i64)> = batch
                .iter()
                .map(|branch| (branch.xid.as_str(), branch.branch_id))
                .collect();
            let mut connection = pool.acquire().await?;
            undo_rows(&options).delete(&mut connection, &keys).await
        };
        let deleted = deleted.await.map_err(|error| Arc::new(AtError::from(error)));
        for branch in batch.drain(..) {
            // Who asked may be gone; the coordinator asks again.
            let _ = branch.deleted.send(deleted.clone());
        }
    }
}

/// The table of undo logs.
pub struct UndoRows {
    table: String,
}

pub struct UndoRow {
    state: i32,
    context: String,
    content: Vec<u8>,
}

pub fn undo_rows(options: &AtOptions) -> UndoRows {
    UndoRows {
        table: quoted(&options.undo_table),
    }
}

impl UndoRows {
    pub async fn insert(
        &self,
        on: &mut MySqlConnection,
        xid: &str,
        branch_id: i64,
        content: Vec<u8>,
        state: i32,
    ) -> Result<MySqlQueryResult, sqlx::Error> {
        let sql = format!(
            "INSERT INTO {} (branch_id, xid, context, rollback_info, log_status, log_created, log_modified) \
             VALUES (?, ?, ?, ?, ?, NOW(6), NOW(6))",
            self.table
        );
        let insert = sqlx::query(&sql).bind(branch_id).bind(xid).bind(Context::WRITTEN);
        insert.bind(content).bind(state).execute(on).await
    }

    async fn is_there(&self, on: &mut MySqlConnection, xid: &str, branch_id: i64) -> Result<bool, sqlx::Error> {
        let sql = format!("SELECT COUNT(*) FROM {} WHERE branch_id = ? AND xid = ?", self.table);
        let count: i64 = sqlx::query_scalar(&sql).bind(branch_id).bind(xid).fetch_one(on).await?;
        Ok(count > 0)
    }

    async fn load(&self, on: &mut MySqlConnection, xid: &str, branch_id: i64) -> Result<Option<UndoRow>, sqlx::Error> {
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
    async fn delete(&self, on: &mut MySqlConnection, branches: &[(&str, i64)]) -> Result<(), sqlx::Error> {
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
