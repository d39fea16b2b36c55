//! A database under AT.

use std::sync::Arc;

use settle_sdk::{Options, Rm};
use sqlx::MySqlPool;
use tokio::time::sleep;

use crate::{AtError, AtOptions, AtResource, AtTransaction, branch::Scope};

/// Local transactions of global ones, in one database. Cheap to clone.
#[derive(Clone)]
pub struct At {
    rm: Rm,
    resource: Arc<AtResource>,
}

impl At {
    /// Opens the resource, and registers it alone.
    ///
    /// # Errors
    /// Those of [`AtResource::open`] and [`Rm::connect`].
    pub async fn connect(at: AtOptions, options: Options, pool: MySqlPool) -> Result<At, AtError> {
        let resource = AtResource::open(at, pool).await?;
        let rm = Rm::connect(options, vec![resource.clone()]).await?;
        Ok(At::new(rm, resource))
    }

    /// For a resource manager that serves `resource` among others.
    pub fn new(rm: Rm, resource: Arc<AtResource>) -> At {
        At { rm, resource }
    }

    pub fn resource(&self) -> &Arc<AtResource> {
        &self.resource
    }

    pub fn rm(&self) -> &Rm {
        &self.rm
    }

    pub(crate) fn options(&self) -> &AtOptions {
        self.resource.options()
    }

    /// Begins a local transaction of the global one `xid`. A conflict of global locks at its commit is waited for with the
    /// local locks held, as long as the options say.
    ///
    /// # Errors
    /// [`AtError::Setup`], [`AtError::Database`].
    pub async fn begin(&self, xid: &str) -> Result<AtTransaction, AtError> {
        AtTransaction::begin(self.clone(), Scope::Branch { xid: xid.to_owned() }, false).await
    }

    /// Begins a local transaction outside of any global one, which keeps off the rows that global ones hold: before its
    /// commit it waits for those that it changes, and for those that it selects `FOR UPDATE`. Java's `@GlobalLock`. It
    /// takes no global locks, and nobody takes it back.
    ///
    /// # Errors
    /// As [`begin`](At::begin).
    pub async fn begin_outside(&self) -> Result<AtTransaction, AtError> {
        AtTransaction::begin(self.clone(), Scope::Outside, false).await
    }

    /// Does `work` in a local transaction, commits it, and after a conflict of global locks, also one that a `SELECT … FOR
    /// UPDATE` met, rolls it back and does all of it again: nobody waits for rows that this one holds.
    ///
    /// # Errors
    /// The work's own, after which it is rolled back; those of [`begin`](At::begin) and [`AtTransaction::commit`].
    pub async fn run<T, E: From<AtError>>(
        &self,
        xid: &str,
        work: impl AsyncFnMut(&mut AtTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        self.run_in(Scope::Branch { xid: xid.to_owned() }, work).await
    }

    /// As [`run`](At::run), [outside](At::begin_outside) of any global transaction.
    ///
    /// # Errors
    /// As [`run`](At::run).
    pub async fn run_outside<T, E: From<AtError>>(
        &self,
        work: impl AsyncFnMut(&mut AtTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        self.run_in(Scope::Outside, work).await
    }

    async fn run_in<T, E: From<AtError>>(
        &self,
        scope: Scope,
        mut work: impl AsyncFnMut(&mut AtTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut left = self.options().lock_retry_times;
        loop {
            let mut transaction = AtTransaction::begin(self.clone(), scope.clone(), true).await?;
            let done = match work(&mut transaction).await {
                Ok(done) => done,
                Err(error) => {
                    let is_again = transaction.has_met_conflict && left > 0;
                    if let Err(error) = transaction.rollback().await {
                        tracing::debug!(%error, "a local rollback was not answered");
                    }
                    if !is_again {
                        return Err(error);
                    }
                    left -= 1;
                    sleep(self.options().lock_retry_interval).await;
                    continue;
                }
            };
            match transaction.commit().await {
                Ok(()) => return Ok(done),
                Err(AtError::LockConflict { .. }) if left > 0 => left -= 1,
                Err(error) => return Err(error.into()),
            }
            sleep(self.options().lock_retry_interval).await;
        }
    }
}
