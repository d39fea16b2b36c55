//! What clients were told, and whether it is still true.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use anyhow::Result;
use settle_sdk::{GlobalStatus, connection::Phase};

/// Something that a client was told is not true (any more).
#[derive(Debug, thiserror::Error)]
#[error("BROKEN PROMISE: {0}")]
pub struct BrokenPromise(pub String);

/// Which way a transaction ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Commit,
    Rollback,
}

/// The way of a standing or final status; `None` when it says neither.
pub fn way(status: GlobalStatus) -> Option<End> {
    use GlobalStatus::*;
    match status {
        Committing | CommitRetrying | AsyncCommitting | Committed => Some(End::Commit),
        Rollbacking
        | RollbackRetrying
        | TimeoutRollbacking
        | TimeoutRollbackRetrying
        | Rollbacked
        | TimeoutRollbacked => Some(End::Rollback),
        _ => None,
    }
}

#[derive(Clone, Default, Debug)]
pub struct Told {
    /// Id and lock key of each branch that was told to be registered.
    pub branches: Vec<(i64, String)>,
    /// What was asked, answered or not.
    pub asked: Vec<End>,
    /// What every answer to that said.
    pub decided: Option<End>,
}

impl Told {
    /// Whether a status read now agrees with all that was told.
    pub fn agrees_with(&self, status: GlobalStatus) -> bool {
        match (self.decided, way(status)) {
            (Some(told), now) => now == Some(told),
            (None, Some(now)) => self.asked.contains(&now),
            (None, None) => status == GlobalStatus::Begin,
        }
    }

    /// Whether the transaction may still change its status by itself.
    pub fn is_settled_by(&self, status: GlobalStatus) -> bool {
        match way(status) {
            Some(_) => {
                use GlobalStatus::*;
                matches!(status, Committed | Rollbacked | TimeoutRollbacked)
            }
            None => true,
        }
    }

    /// Nobody has asked for its end, so it is open and holds its locks.
    pub fn is_open(&self) -> bool {
        self.asked.is_empty()
    }
}

#[derive(Default)]
struct Books {
    told: BTreeMap<String, Told>,
    /// Who was last told to hold a row.
    holders: BTreeMap<String, String>,
    /// The way of the phase-two calls of each branch.
    phases: BTreeMap<i64, Phase>,
    facts: usize,
    broken: Vec<String>,
}

/// Shared by all clients of a test.
#[derive(Default)]
pub struct Ledger {
    books: Mutex<Books>,
}

impl Ledger {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("no holder of this lock panics")
    }

    /// How many answers were noted.
    pub fn facts(&self) -> usize {
        self.books().facts
    }

    pub fn all(&self) -> Vec<(String, Told)> {
        self.books()
            .told
            .iter()
            .map(|(xid, told)| (xid.clone(), told.clone()))
            .collect()
    }

    pub fn begun(&self, xid: &str) {
        let mut books = self.books();
        books.facts += 1;
        if books.told.insert(xid.to_owned(), Told::default()).is_some() {
            books.broken.push(format!("{xid} was given twice"));
        }
    }

    pub fn registered(&self, xid: &str, branch: i64, lock_key: &str) {
        let mut books = self.books();
        books.facts += 1;
        // Before it was told to anybody else, the one that was told to hold the row must have been asked to end.
        if let Some(holder) = books.holders.insert(lock_key.to_owned(), xid.to_owned())
            && holder != xid
            && books.told[&holder].is_open()
        {
            books
                .broken
                .push(format!("{xid} was given {lock_key}, which {holder} holds"));
        }
        let told = books.told.get_mut(xid).expect("it was begun");
        told.branches.push((branch, lock_key.to_owned()));
    }

    /// To be called before the request leaves.
    pub fn asking(&self, xid: &str, end: End) {
        self.books().told.get_mut(xid).expect("it was begun").asked.push(end);
    }

    pub fn told(&self, xid: &str, asked: End, status: GlobalStatus) {
        let mut books = self.books();
        books.facts += 1;
        let told = books.told.get_mut(xid).expect("it was begun");
        let before = told.decided;
        let now = way(status);
        told.decided = before.or(now);
        if now.is_none() || told.decided != now {
            books.broken.push(format!(
                "{xid}: {asked:?} was answered {status:?} after {before:?} was told"
            ));
        }
    }

    /// A phase-two call arrived at a resource manager.
    pub fn called(&self, phase: Phase, branch: i64, xid: &str) {
        let mut books = self.books();
        let first = *books.phases.entry(branch).or_insert(phase);
        if first != phase {
            books.broken.push(format!(
                "branch {branch} of {xid} was called to {first:?} and then to {phase:?}"
            ));
        }
        let end = match phase {
            Phase::Commit => End::Commit,
            Phase::Rollback => End::Rollback,
        };
        // The call may have been logged before the answer to `begin` was noted.
        let Some(told) = books.told.get(xid) else { return };
        let is_wanted = told.decided.map_or(told.asked.contains(&end), |decided| decided == end);
        if !is_wanted {
            let told = format!("{told:?}");
            books
                .broken
                .push(format!("branch {branch} of {xid} was called to {phase:?}, but {told}"));
        }
    }

    /// Notes what contradicts.
    pub fn broken(&self, what: String) {
        self.books().broken.push(what);
    }

    /// # Errors
    /// With the first contradictions, when there were any.
    pub fn verdict(&self) -> Result<()> {
        let books = self.books();
        if books.broken.is_empty() {
            return Ok(());
        }
        let shown: Vec<&str> = books.broken.iter().take(3).map(String::as_str).collect();
        Err(BrokenPromise(format!("{} contradictions: {}", books.broken.len(), shown.join("; "))).into())
    }
}

#[test]
fn the_ledger_sees_each_kind_of_contradiction() {
    let broken = |act: fn(&Ledger)| {
        let ledger = Ledger::default();
        ledger.begun("a");
        ledger.begun("b");
        act(&ledger);
        ledger.verdict().is_err()
    };
    assert!(!broken(|ledger| {
        ledger.registered("a", 1, "row");
        ledger.asking("a", End::Commit);
        ledger.called(Phase::Commit, 1, "a");
        ledger.told("a", End::Commit, GlobalStatus::Committed);
        ledger.registered("b", 2, "row");
    }));
    assert!(broken(|ledger| ledger.begun("a")), "an xid given twice");
    assert!(
        broken(|ledger| {
            ledger.registered("a", 1, "row");
            ledger.registered("b", 2, "row");
        }),
        "a row with two holders"
    );
    assert!(
        broken(|ledger| {
            ledger.asking("a", End::Commit);
            ledger.asking("a", End::Rollback);
            ledger.told("a", End::Commit, GlobalStatus::Committed);
            ledger.told("a", End::Rollback, GlobalStatus::Rollbacked);
        }),
        "two decisions"
    );
    assert!(
        broken(|ledger| {
            ledger.asking("a", End::Commit);
            ledger.told("a", End::Commit, GlobalStatus::Finished);
        }),
        "a forgotten transaction"
    );
    assert!(
        broken(|ledger| ledger.called(Phase::Rollback, 1, "a")),
        "a call that nobody asked for"
    );
    let told = Told {
        decided: Some(End::Commit),
        ..Told::default()
    };
    assert!(told.agrees_with(GlobalStatus::AsyncCommitting) && !told.agrees_with(GlobalStatus::Begin));
    assert!(!told.agrees_with(GlobalStatus::Finished) && !told.agrees_with(GlobalStatus::Rollbacked));
}
