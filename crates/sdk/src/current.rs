//! The transaction that a task is in.

use std::sync::Arc;

pub use crate::marks::Unsure;
use crate::{
    Error,
    marks::{Closing, Mark},
};

tokio::task_local! {
    static CURRENT: Option<Current>;
}

/// A transaction that work is done in, by whoever began it. All of one transaction in this process are marked together,
/// and what marks it as to be rolled back only is remembered when nobody is in it any more, within the bounds of
/// [`Options::max_marks`](crate::Options::max_marks) and [`Options::marks_kept_for`](crate::Options::marks_kept_for).
#[derive(Clone, Debug)]
pub struct Current {
    mark: Arc<Mark>,
}

impl Current {
    /// A transaction that a caller told about.
    pub fn joined(xid: impl Into<Arc<str>>) -> Current {
        Current {
            mark: Mark::of(xid.into()),
        }
    }

    /// A transaction that was begun just now.
    pub(crate) fn begun(xid: Arc<str>) -> Current {
        Current { mark: Mark::begun(xid) }
    }

    pub fn xid(&self) -> &str {
        self.mark.xid()
    }

    pub(crate) fn shared_xid(&self) -> Arc<str> {
        self.mark.xid().clone()
    }

    /// From now on this process asks for no commit of it, only for a rollback, and registers no branch of it. It counts in
    /// this process: where the transaction was only joined, give the caller an error as well.
    ///
    /// False when its commit was asked for before: then this comes too late.
    pub fn set_rollback_only(&self) -> bool {
        self.mark.doom()
    }

    /// Whether it was marked so, or a branch of it may be registered that nobody knows of.
    pub fn is_rollback_only(&self) -> bool {
        self.mark.is_rollback_only()
    }

    /// A branch is about to be registered, or a step to be done: until that is known to be done or not
    /// ([`Unsure::sure`]), this process does not commit the transaction; given up, it never does.
    ///
    /// # Errors
    /// [`Error::RollbackOnly`], and [`Error::Ending`] when its commit was asked for: nothing more can belong to it.
    pub fn unsure(&self) -> Result<Unsure, Error> {
        self.mark.unsure()
    }

    /// Its commit is about to be asked for. None when it may not commit.
    pub(crate) fn close(&self) -> Option<Closing> {
        self.mark.close()
    }

    /// A coordinator told how it is decided.
    pub(crate) fn settle(&self) {
        self.mark.settle();
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
