//! The transaction that a task is in.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

tokio::task_local! {
    static CURRENT: Option<Current>;
}

/// A transaction that work is done in, by whoever began it.
#[derive(Clone, Debug)]
pub struct Current {
    xid: Arc<str>,
    is_rollback_only: Arc<AtomicBool>,
}

impl Current {
    /// A transaction that a caller told about.
    pub fn joined(xid: impl Into<Arc<str>>) -> Current {
        Current {
            xid: xid.into(),
            is_rollback_only: Arc::default(),
        }
    }

    pub fn xid(&self) -> &str {
        &self.xid
    }

    pub(crate) fn shared_xid(&self) -> Arc<str> {
        self.xid.clone()
    }

    /// Its commit will not be asked for: a rollback will. Counts in this process, which must be the one that began it;
    /// elsewhere, give the caller an error.
    pub fn set_rollback_only(&self) {
        self.is_rollback_only.store(true, Ordering::SeqCst);
    }

    pub fn is_rollback_only(&self) -> bool {
        self.is_rollback_only.load(Ordering::SeqCst)
    }
}

/// The transaction that this task is in. A spawned task is in none: give it this with [`within`].
pub fn current() -> Option<Current> {
    CURRENT.try_with(Clone::clone).ok().flatten()
}

/// Runs `work` in a transaction, or with `None` in none, whatever the task is in.
pub fn within<F: Future>(transaction: Option<Current>, work: F) -> Within<F> {
    CURRENT.scope(transaction, work)
}

/// What [`within`] gives.
pub type Within<F> = tokio::task::futures::TaskLocalFuture<Option<Current>, F>;

/// As [`within`], for what does not wait.
pub fn within_sync<T>(transaction: Option<Current>, work: impl FnOnce() -> T) -> T {
    CURRENT.sync_scope(transaction, work)
}
