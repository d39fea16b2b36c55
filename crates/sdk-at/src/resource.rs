//! Phase two: undo logs of committed branches are deleted, rolled-back branches are taken back.

use std::sync::Arc;

use settle_sdk::{BranchCall, TccError, TccFuture, TccResource};
use sqlx::{MySqlConnection, MySqlPool};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use crate::{
    AtError, AtOptions,
    local::Local,
    put_back::put_back,
    schema::Schema,
    session::Session,
    undo::{self, BranchUndo, Context, DEFENCE_CONTENT, UndoError},
    undo_rows::{self, UndoRow, undo_rows, undo_state},
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
    /// Looks whether the database has its table of undo logs, and whether that is fit.
    ///
    /// # Errors
    /// [`AtError::Setup`], [`AtError::UndoTable`], [`AtError::Database`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn open(options: AtOptions, pool: MySqlPool) -> Result<Arc<AtResource>, AtError> {
        options.check()?;
        let mut connection = pool.acquire().await?;
        Session::of(&mut connection).await?;
        undo_rows::check(&mut connection, &options).await?;
        let (committed, queue) = mpsc::channel(options.delete_waiting);
        let mut cleaner = JoinSet::new();
        cleaner.spawn(delete_committed(options.clone(), pool.clone(), queue));
        Ok(Arc::new(AtResource {
            schema: Schema::new(options.table_max_age, options.trust_unseen),
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
        for _ in 0..LOOKS {
            if self.roll_back_once(xid, branch_id).await? {
                return Ok(());
            }
        }
        // Its row is there for the unique key, and never for a look.
        Err(AtError::Moved {
            table: self.options.undo_table.clone(),
            act: "found",
            expected: 1,
            found: 0,
        })
    }

    /// False when its phase one has committed since it was looked for.
    async fn roll_back_once(&self, xid: &str, branch_id: i64) -> Result<bool, AtError> {
        let rows = undo_rows(&self.options);
        // Looked for without a lock first: InnoDB would lock the gap where nothing is found, and rollbacks of other branches
        // would wait for each other there. Before the transaction, in which every read is a locking one: none may be of
        // what was there when it began.
        let mut connection = self.pool.acquire().await?;
        let is_there = rows.is_there(&mut connection, xid, branch_id).await?;
        let mut tx = Local::begin_on(connection).await?;
        let session = Session::of(&mut tx).await?;
        let row = match is_there {
            true => rows.load(&mut tx, xid, branch_id).await?,
            false => None,
        };
        let Some(row) = row else {
            // From now on its phase one cannot commit.
            let content = DEFENCE_CONTENT.to_vec();
            let is_first = rows.insert(&mut tx, xid, branch_id, content, undo_state::DEFENCE);
            if !is_first.await? {
                return Ok(false);
            }
            tx.commit().await?;
            tracing::debug!(xid, branch = branch_id, "rolled back before its phase one");
            return Ok(true);
        };
        if row.state != undo_state::NORMAL {
            return Ok(true);
        }
        let undo = self.read(&mut tx, xid, branch_id, row).await?;
        for statement in undo.statements.iter().rev() {
            put_back(self, &mut tx, &session, &undo, statement).await?;
        }
        rows.delete(&mut tx, &[(xid, branch_id)]).await?;
        tx.commit().await?;
        Ok(true)
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
