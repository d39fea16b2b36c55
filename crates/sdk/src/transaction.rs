//! One open global transaction, owned by who began it.

use std::sync::Arc;

use crate::{Current, Error, Outcome, Tm};

/// A global transaction that was begun here. Dropped open (by an error's `?`, a panic, a cancelled task), it is rolled
/// back in the background; [`Tm::flush`] waits for that. Should that fail, or the process die, the coordinator rolls it
/// back when its time is over.
#[must_use = "a transaction that is dropped is rolled back"]
pub struct Transaction {
    tm: Tm,
    current: Current,
    is_open: bool,
}

impl Transaction {
    pub(crate) fn new(tm: Tm, xid: Arc<str>) -> Transaction {
        Transaction {
            tm,
            current: Current::begun(xid),
            is_open: true,
        }
    }

    /// The id under which every participant registers its branches.
    pub fn xid(&self) -> &str {
        self.current.xid()
    }

    /// For [`within`](crate::within): work that is done in this transaction.
    pub fn current(&self) -> Current {
        self.current.clone()
    }

    /// Commits: `Ok` means decided for good, whatever fails from now on; [`Outcome::progress`] tells how far the branches
    /// are. From its start on, no branch is registered in this process.
    ///
    /// # Errors
    /// [`Error::RolledBack`] when it was decided otherwise (its time was over, somebody rolled it back).
    /// [`Error::RollbackOnly`] when it was marked so here, or a branch of it may be registered that nobody knows of: it is
    /// rolled back, at the latest when its time is over. ([`Error::Committed`] instead when a process where it is not
    /// marked has committed it.)
    /// [`Error::Unreachable`] and [`Error::Busy`] when the commit could not be sent for `end_timeout`: it is being rolled
    /// back.
    /// [`Error::Unanswered`] when no coordinator answered: it may be committed. Ask [`Tm::commit`] again, which is safe,
    /// or [`Tm::status`]. The same holds when this future is dropped before its end; dropped before it could be sent, it is
    /// rolled back.
    pub async fn commit(mut self) -> Result<Outcome, Error> {
        let told = self.tm.commit_in(&self.current).await;
        // Its rollback was asked for already.
        self.is_open = !matches!(told, Err(Error::RollbackOnly { .. }));
        told
    }

    /// Rolls back. Whatever comes, this process does not commit it any more.
    ///
    /// # Errors
    /// [`Error::Unanswered`] when no coordinator answered: it is not committed, and will be rolled back when its time is
    /// over.
    pub async fn rollback(mut self) -> Result<Outcome, Error> {
        let outcome = self.tm.rollback_in(&self.current).await;
        self.is_open = false;
        outcome
    }

    /// Neither commits nor rolls back, now or when dropped: whoever knows the id has to.
    pub fn forget(mut self) -> Arc<str> {
        self.is_open = false;
        self.current.shared_xid()
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        // Once its commit was sent, the decision is the coordinator's.
        if self.is_open && self.current.set_rollback_only() {
            self.tm.drop_open(self.current.shared_xid());
        }
    }
}

impl std::fmt::Debug for Transaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transaction")
            .field("xid", &self.current.xid())
            .field("is_open", &self.is_open)
            .finish_non_exhaustive()
    }
}
