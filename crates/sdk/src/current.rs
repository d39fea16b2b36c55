//! The transaction that a task is in.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

tokio::task_local! {
    static CURRENT: Option<Current>;
}

/// A transaction that work is done in, by whoever began it. All of one transaction in this process are marked together.
#[derive(Clone, Debug)]
pub struct Current {
    mark: Arc<Mark>,
}

/// What this process knows of a transaction while anybody here is in it.
#[derive(Debug)]
struct Mark {
    xid: Arc<str>,
    is_rollback_only: AtomicBool,
    /// Registrations of branches that are not known to be done or not: under way, or given up.
    unsure: AtomicUsize,
}

/// Every transaction that anybody here is in: who registers a branch may know no more than the id.
static MARKS: Mutex<BTreeMap<Arc<str>, Weak<Mark>>> = Mutex::new(BTreeMap::new());

fn marks() -> MutexGuard<'static, BTreeMap<Arc<str>, Weak<Mark>>> {
    MARKS.lock().expect("no holder of this lock panics")
}

impl Drop for Mark {
    fn drop(&mut self) {
        let mut marks = marks();
        // Another of the same id may have been made meanwhile.
        if marks.get(&self.xid).is_some_and(|mark| mark.strong_count() == 0) {
            marks.remove(&self.xid);
        }
    }
}

impl Current {
    /// A transaction that a caller told about.
    pub fn joined(xid: impl Into<Arc<str>>) -> Current {
        let xid = xid.into();
        let mut marks = marks();
        if let Some(mark) = marks.get(&xid).and_then(Weak::upgrade) {
            drop(marks);
            return Current { mark };
        }
        let mark = Arc::new(Mark {
            xid: xid.clone(),
            is_rollback_only: AtomicBool::new(false),
            unsure: AtomicUsize::new(0),
        });
        marks.insert(xid, Arc::downgrade(&mark));
        Current { mark }
    }

    pub fn xid(&self) -> &str {
        &self.mark.xid
    }

    pub(crate) fn shared_xid(&self) -> Arc<str> {
        self.mark.xid.clone()
    }

    /// Its commit will not be asked for: a rollback will. Counts in this process, which must be the one that began it;
    /// elsewhere, give the caller an error.
    pub fn set_rollback_only(&self) {
        self.mark.is_rollback_only.store(true, Ordering::SeqCst);
    }

    /// Whether it was marked so, or a branch of it may be registered that nobody knows of.
    pub fn is_rollback_only(&self) -> bool {
        self.mark.is_rollback_only.load(Ordering::SeqCst) || self.mark.unsure.load(Ordering::SeqCst) > 0
    }

    /// A branch is about to be registered: until that is known to be done or not, the transaction may not commit. Whoever
    /// gives up asking never says [`sure`](Current::sure).
    pub fn unsure(&self) {
        self.mark.unsure.fetch_add(1, Ordering::SeqCst);
    }

    /// A registration that [`unsure`](Current::unsure) told of is known to be done or not.
    pub fn sure(&self) {
        let before = self.mark.unsure.fetch_sub(1, Ordering::SeqCst);
        assert!(before > 0, "a registration ended that was not begun");
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
