//! A database under AT.

use std::sync::Arc;

use settle_sdk::{Options, Rm};
use sqlx::MySqlPool;
use tokio::time::sleep;

use crate::{AtError, AtOptions, AtResource, AtTransaction};

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
        AtTransaction::begin(self.clone(), xid, false).await
    }

    /// Does `work` in a local transaction, commits it, and after a conflict of global locks rolls it back and does all of
    /// it again: nobody waits for rows that this one holds.
    ///
    /// # Errors
    /// The work's own, after which it is rolled back; those of [`begin`](At::begin) and [`AtTransaction::commit`].
    pub async fn run<T, E: From<AtError>>(
        &self,
        xid: &str,
        mut work: impl AsyncFnMut(&mut AtTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut left = self.options().lock_retry_times;
        loop {
            let mut transaction = AtTransaction::begin(self.clone(), xid, true).await?;
            let done = match work(&mut transaction).await {
                Ok(done) => done,
                Err(error) => {
                    if let Err(error) = transaction.rollback().await {
                        tracing::debug!(%error, "a local rollback was not answered");
                    }
                    return Err(error);
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
