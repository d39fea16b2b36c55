//! Work in a transaction: begun, joined or left out as Seata's propagation modes say, and ended with the work.

use std::time::Duration;

use settle_base::{ErrorCode, Retryable};

use crate::{Current, Error, Outcome, Tm, current, within};

/// What a piece of work does about the transaction that its task is in (`org.apache.seata.tm.api.transaction.Propagation`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Propagation {
    /// In it, or in a new one.
    Required,
    /// In a new one; the task's own rests meanwhile.
    RequiresNew,
    /// In it, or in none.
    Supports,
    /// In none; the task's own rests meanwhile.
    NotSupported,
    /// In none, or not at all.
    Never,
    /// In it, or not at all.
    Mandatory,
}

/// Why [`Tm::run`] has no result.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError<E> {
    /// The work was not started.
    #[error("work with propagation {propagation:?} cannot run {}", place(xid.as_deref()))]
    NotAllowed {
        propagation: Propagation,
        /// The transaction that the task is in.
        xid: Option<String>,
    },
    /// No transaction could be begun; the work was not started.
    #[error("no transaction could be begun: {_0}")]
    Begin(#[source] Error),
    /// The work failed, and its transaction does not commit.
    #[error("{error}")]
    Work {
        error: E,
        /// How the rollback went, if the transaction was begun for this work. One that could not be asked for comes when
        /// the transaction's time is over.
        rollback: Option<Result<Outcome, Error>>,
    },
    /// The work was done, and its commit failed or is unknown.
    #[error("{_0}")]
    Commit(#[source] Error),
}

fn place(xid: Option<&str>) -> String {
    match xid {
        Some(xid) => format!("in transaction `{xid}`"),
        None => "outside a transaction".to_owned(),
    }
}

impl<E> ScopeError<E> {
    /// The stable code, with a page under `docs/errors/`; none of the work's own error.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ScopeError::NotAllowed { .. } => Some(ErrorCode::new("SD", 12)),
            ScopeError::Begin(error) | ScopeError::Commit(error) => Some(error.code()),
            ScopeError::Work { .. } => None,
        }
    }

    /// Whether the work may be committed all the same.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, ScopeError::Commit(error) if error.retryable() == Retryable::Unknown)
    }
}

impl Tm {
    /// Does `work` in a transaction, as `propagation` says. One that is begun for it, with `name` and `timeout`, is
    /// committed when the work is `Ok`, and rolled back when it is an error, panics or is dropped. `work` is given the
    /// transaction it is in, and [`current`] tells it as well.
    ///
    /// # Errors
    /// After [`ScopeError::Commit`] with an unknown outcome it may be committed; after any other error it is not, unless
    /// the work joined the transaction of somebody who commits in spite of it.
    pub async fn run<T, E, F>(
        &self,
        propagation: Propagation,
        name: &str,
        timeout: Duration,
        work: impl FnOnce(Option<Current>) -> F,
    ) -> Result<T, ScopeError<E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let met = current();
        let not_allowed = |met: Option<Current>| ScopeError::NotAllowed {
            propagation,
            xid: met.map(|current| current.xid().to_owned()),
        };
        let joined = match (propagation, met) {
            (Propagation::Required, None) | (Propagation::RequiresNew, _) => {
                return self.run_new(name, timeout, work).await;
            }
            (Propagation::Never, met @ Some(_)) | (Propagation::Mandatory, met @ None) => return Err(not_allowed(met)),
            (Propagation::NotSupported, _) | (Propagation::Never, None) => None,
            (Propagation::Required | Propagation::Supports | Propagation::Mandatory, met) => met,
        };
        let done = within(joined.clone(), async { work(joined).await });
        done.await.map_err(|error| ScopeError::Work { error, rollback: None })
    }

    async fn run_new<T, E, F>(
        &self,
        name: &str,
        timeout: Duration,
        work: impl FnOnce(Option<Current>) -> F,
    ) -> Result<T, ScopeError<E>>
    where
        F: Future<Output = Result<T, E>>,
    {
        let transaction = self.begin(name, timeout).await.map_err(ScopeError::Begin)?;
        let current = transaction.current();
        match within(Some(current.clone()), async { work(Some(current)).await }).await {
            Ok(done) => transaction.commit().await.map(|_| done).map_err(ScopeError::Commit),
            Err(error) => {
                let rollback = Some(transaction.rollback().await);
                Err(ScopeError::Work { error, rollback })
            }
        }
    }
}
