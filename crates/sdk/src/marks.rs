//! What this process knows of transactions beside the coordinator: which may not commit, and whose commit was asked for.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{Error, Options};

/// What this process knows of a transaction while anybody here is in it, and for a while longer when it is not to commit
/// or may be committing.
#[derive(Debug)]
pub(crate) struct Mark {
    xid: Arc<str>,
    state: Mutex<State>,
}

/// A commit is asked for only while nothing is unsure, and nothing becomes unsure once it was: both are decided under
/// this one lock.
#[derive(Default, Debug)]
struct State {
    /// It is to be rolled back only.
    is_doomed: bool,
    /// Branches and steps that are not known to be done or not.
    unsure: usize,
    /// Who is asking for its commit.
    closing: usize,
    /// A coordinator may know of a commit: the decision is its own.
    is_commit_sent: bool,
    /// A coordinator told how it is decided: there is nothing left to remember.
    is_settled: bool,
}

impl State {
    fn is_closed(&self) -> bool {
        self.closing > 0 || self.is_commit_sent
    }

    fn is_worth_keeping(&self) -> bool {
        !self.is_settled && (self.is_doomed || self.is_commit_sent)
    }
}

impl Mark {
    fn new(xid: Arc<str>) -> Arc<Mark> {
        let state = Mutex::default();
        Arc::new(Mark { xid, state })
    }

    /// The mark that everybody here shares who is in this transaction.
    pub fn of(xid: Arc<str>) -> Arc<Mark> {
        let mut table = table();
        // Let go only without the lock.
        let forgotten = table.forget_old(Instant::now(), Bounds::now());
        let mark = match table.find(&xid) {
            Some(mark) => mark,
            None => {
                let mark = Mark::new(xid);
                table.insert(&mark);
                mark
            }
        };
        drop(table);
        drop(forgotten);
        mark
    }

    /// The mark of a transaction that was begun just now. What is known of another by this id was of a cluster that is no
    /// more.
    pub fn begun(xid: Arc<str>) -> Arc<Mark> {
        let mark = Mark::new(xid);
        let mut table = table();
        let other = table.let_go(&mark.xid);
        table.insert(&mark);
        drop(table);
        drop(other);
        mark
    }

    pub fn xid(&self) -> &Arc<str> {
        &self.xid
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of this lock panics")
    }

    /// False when its commit may have been sent.
    pub fn doom(self: &Arc<Mark>) -> bool {
        let mut state = self.state();
        state.is_doomed = true;
        let (is_in_time, keeps) = (!state.is_closed(), state.is_worth_keeping());
        drop(state);
        if keeps {
            self.keep();
        }
        is_in_time
    }

    pub fn is_rollback_only(&self) -> bool {
        let state = self.state();
        !state.is_commit_sent && (state.is_doomed || state.unsure > 0)
    }

    /// # Errors
    /// [`Error::RollbackOnly`] and [`Error::Ending`].
    pub fn unsure(self: &Arc<Mark>) -> Result<Unsure, Error> {
        let mut state = self.state();
        let xid = || self.xid.to_string();
        if state.is_closed() {
            return Err(Error::Ending { xid: xid() });
        }
        if state.is_doomed {
            return Err(Error::RollbackOnly { xid: xid() });
        }
        state.unsure += 1;
        drop(state);
        Ok(Unsure {
            mark: self.clone(),
            is_sure: false,
        })
    }

    /// None when it may not commit: from now on it is to be rolled back only.
    pub fn close(self: &Arc<Mark>) -> Option<Closing> {
        let mut state = self.state();
        // What was asked for may be asked for again: it is decided once.
        if !state.is_closed() && (state.is_doomed || state.unsure > 0) {
            drop(state);
            self.doom();
            return None;
        }
        state.closing += 1;
        drop(state);
        Some(Closing {
            mark: self.clone(),
            sent: AtomicU32::new(0),
        })
    }

    /// A coordinator told how it is decided.
    pub fn settle(&self) {
        self.state().is_settled = true;
        let kept = table().unkeep(&self.xid);
        drop(kept);
    }

    fn keep(self: &Arc<Mark>) {
        let forgotten = table().keep(self, Instant::now(), Bounds::now());
        drop(forgotten);
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        table().remove_dead(&self.xid);
    }
}

/// Something of a transaction that is not known to be done or not. Unless it became [`sure`](Unsure::sure), the
/// transaction is to be rolled back only when this is dropped.
#[must_use = "a transaction does not commit after this was dropped"]
#[derive(Debug)]
pub struct Unsure {
    mark: Arc<Mark>,
    is_sure: bool,
}

impl Unsure {
    /// It is known to be done, or known not to be.
    pub fn sure(mut self) {
        self.is_sure = true;
    }
}

impl Drop for Unsure {
    fn drop(&mut self) {
        {
            let mut state = self.mark.state();
            assert!(state.unsure > 0, "what is unsure was counted");
            assert!(
                !state.is_closed(),
                "nothing is asked to commit while something is unsure"
            );
            state.unsure -= 1;
        }
        if !self.is_sure {
            self.mark.doom();
        }
    }
}

/// A commit that is being asked for.
pub(crate) struct Closing {
    mark: Arc<Mark>,
    sent: AtomicU32,
}

impl Closing {
    /// Counts how often it was sent: from the first on, a coordinator may know of it.
    pub fn sent(&self) -> &AtomicU32 {
        &self.sent
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        let mut state = self.mark.state();
        state.closing -= 1;
        state.is_commit_sent |= *self.sent.get_mut() > 0;
        let keeps = state.is_worth_keeping();
        drop(state);
        if keeps {
            self.mark.keep();
        }
    }
}

static TABLE: Mutex<Table> = Mutex::new(Table {
    by_xid: BTreeMap::new(),
    kept: BTreeMap::new(),
    next: 0,
});
/// The largest of [`Options::max_marks`] and [`Options::marks_kept_for`] of this process' clients.
static KEPT_MAX: AtomicUsize = AtomicUsize::new(0);
static KEPT_FOR_MILLIS: AtomicU64 = AtomicU64::new(0);

/// A client with these options was started.
pub(crate) fn allow(options: &Options) {
    KEPT_MAX.fetch_max(options.max_marks, Ordering::Relaxed);
    let millis = u64::try_from(options.marks_kept_for.as_millis()).unwrap_or(u64::MAX);
    KEPT_FOR_MILLIS.fetch_max(millis, Ordering::Relaxed);
}

/// What is remembered of transactions that nobody is in any more.
#[derive(Clone, Copy)]
struct Bounds {
    marks_max: usize,
    kept_for: Duration,
}

impl Bounds {
    fn now() -> Bounds {
        Bounds {
            marks_max: KEPT_MAX.load(Ordering::Relaxed),
            kept_for: Duration::from_millis(KEPT_FOR_MILLIS.load(Ordering::Relaxed)),
        }
    }
}

fn table() -> MutexGuard<'static, Table> {
    TABLE.lock().expect("no holder of this lock panics")
}

/// Every transaction that anybody here is in: who registers a branch may know no more than the id. A mark that it lets go
/// is given back, to be dropped without the lock, which that takes again.
struct Table {
    by_xid: BTreeMap<Arc<str>, Entry>,
    /// Those that nobody may be in any more, the oldest first.
    kept: BTreeMap<u64, (Instant, Arc<Mark>)>,
    next: u64,
}

struct Entry {
    mark: Weak<Mark>,
    kept: Option<u64>,
}

impl Table {
    fn find(&self, xid: &str) -> Option<Arc<Mark>> {
        self.by_xid.get(xid)?.mark.upgrade()
    }

    fn insert(&mut self, mark: &Arc<Mark>) {
        let entry = Entry {
            mark: Arc::downgrade(mark),
            kept: None,
        };
        self.by_xid.insert(mark.xid.clone(), entry);
    }

    /// Another of the same id may have been made meanwhile.
    fn remove_dead(&mut self, xid: &str) {
        if self.by_xid.get(xid).is_some_and(|entry| entry.mark.strong_count() == 0) {
            self.by_xid.remove(xid);
        }
    }

    fn keep(&mut self, mark: &Arc<Mark>, now: Instant, bounds: Bounds) -> Vec<Arc<Mark>> {
        let Some(entry) = self.by_xid.get_mut(&mark.xid) else {
            return Vec::new();
        };
        // One that was begun under the same id counts, not this one.
        if entry.kept.is_some() || !std::ptr::eq(entry.mark.as_ptr(), Arc::as_ptr(mark)) {
            return Vec::new();
        }
        entry.kept = Some(self.next);
        self.kept.insert(self.next, (now, mark.clone()));
        self.next += 1;
        let mut forgotten = self.forget_old(now, bounds);
        while self.kept.len() > bounds.marks_max {
            forgotten.extend(self.pop_oldest());
        }
        forgotten
    }

    fn forget_old(&mut self, now: Instant, bounds: Bounds) -> Vec<Arc<Mark>> {
        let mut forgotten = Vec::new();
        while self
            .kept
            .first_key_value()
            .is_some_and(|(_, (since, _))| now.duration_since(*since) > bounds.kept_for)
        {
            forgotten.extend(self.pop_oldest());
        }
        forgotten
    }

    fn pop_oldest(&mut self) -> Option<Arc<Mark>> {
        let (_, (_, mark)) = self.kept.pop_first()?;
        if let Some(entry) = self.by_xid.get_mut(&mark.xid) {
            entry.kept = None;
        }
        Some(mark)
    }

    fn unkeep(&mut self, xid: &str) -> Option<Arc<Mark>> {
        let serial = self.by_xid.get_mut(xid)?.kept.take()?;
        let (_, mark) = self.kept.remove(&serial)?;
        Some(mark)
    }

    fn let_go(&mut self, xid: &str) -> Option<Arc<Mark>> {
        let kept = self.unkeep(xid);
        self.by_xid.remove(xid);
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        marks_max: 2,
        kept_for: Duration::from_secs(60),
    };

    fn table() -> Table {
        Table {
            by_xid: BTreeMap::new(),
            kept: BTreeMap::new(),
            next: 0,
        }
    }

    #[test]
    fn so_many_marks_are_kept_for_so_long_and_the_oldest_go_first() {
        let mut table = table();
        let marks = ["a", "b", "c"].map(|xid| Mark::new(xid.into()));
        for mark in &marks {
            table.insert(mark);
            let forgotten = table.keep(mark, Instant::now(), BOUNDS);
            let is_over = Arc::ptr_eq(mark, &marks[2]);
            assert_eq!(forgotten.len(), usize::from(is_over));
            assert!(forgotten.iter().all(|forgotten| Arc::ptr_eq(forgotten, &marks[0])));
        }
        // Who is in it still finds it.
        assert!(table.find("a").is_some());
        drop(table.unkeep("b"));
        assert_eq!(table.kept.len(), 1);
        assert!(
            table.keep(&marks[0], Instant::now(), BOUNDS).is_empty(),
            "there is room again"
        );
    }

    #[test]
    fn a_mark_of_an_id_that_was_begun_anew_is_not_kept() {
        let mut table = table();
        let (old, new) = (Mark::new("a".into()), Mark::new("a".into()));
        table.insert(&old);
        drop(table.let_go("a"));
        table.insert(&new);
        drop(table.keep(&old, Instant::now(), BOUNDS));
        assert!(table.kept.is_empty());
        assert!(table.find("a").is_some_and(|found| Arc::ptr_eq(&found, &new)));
    }
}
