//! The fence: one row for each branch, written in the application's own database transaction together with what the
//! branch does there. It makes repeated calls harmless, a rollback without a phase one empty, and a phase one that comes
//! after its rollback impossible.
//!
//! The table is `tcc_fence_log`, as Seata's Java clients create and fill it, so that instances in both languages may
//! serve one resource over one database.
//!
//! | call | no row | tried | committed | rolled back or suspended |
//! |---|---|---|---|---|
//! | [`prepare`] | writes *tried*, do it | [`FenceError::Repeated`] | [`FenceError::Repeated`] | [`FenceError::TooLate`] |
//! | [`commit`] | [`FenceError::NeverTried`] | writes *committed*, do it | nothing to do | [`FenceError::Contradicted`] |
//! | [`rollback`] | writes *suspended*, nothing to do | writes *rolled back*, undo it | [`FenceError::Contradicted`] | nothing to do |
//! | [`once`] | writes *committed*, do it | [`FenceError::Contradicted`] | nothing to do | [`FenceError::Contradicted`] |
//!
//! After [`Pass::Do`] the application makes its changes in the same database transaction and commits it; after
//! [`Pass::Nothing`] it commits it without any; after an error it rolls it back.
//!
//! These four block, for databases like SQLite; [`nonblocking`] has them for asynchronous ones.

#[cfg(feature = "sqlx-mysql")]
mod mysql;
pub mod nonblocking;
#[cfg(feature = "sqlx-postgres")]
mod postgres;
mod rules;
#[cfg(feature = "rusqlite")]
mod sqlite;

use std::time::Duration;

use settle_base::{ErrorCode, Retryable};

use crate::{BranchCall, TccError};

use rules::Step;
#[cfg(feature = "rusqlite")]
pub use sqlite::SQLITE_SCHEMA;

/// A row's `status`, with Java's numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum FenceStatus {
    /// Phase one was done.
    Tried = 1,
    Committed = 2,
    RolledBack = 3,
    /// Rolled back before phase one came, which may not come any more.
    Suspended = 4,
}

impl TryFrom<i64> for FenceStatus {
    type Error = UnknownStatus;

    fn try_from(status: i64) -> Result<FenceStatus, UnknownStatus> {
        match status {
            1 => Ok(FenceStatus::Tried),
            2 => Ok(FenceStatus::Committed),
            3 => Ok(FenceStatus::RolledBack),
            4 => Ok(FenceStatus::Suspended),
            _ => Err(UnknownStatus { status }),
        }
    }
}

/// A row that neither this nor Java's fence wrote.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{status} is no status of the fence")]
pub struct UnknownStatus {
    pub status: i64,
}

/// Whose row it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FenceKey<'a> {
    pub xid: &'a str,
    pub branch_id: i64,
    /// The resource's name: what Java calls the action. At most 64 characters, which the table holds.
    pub action: &'a str,
}

impl<'a> From<&'a BranchCall> for FenceKey<'a> {
    fn from(call: &'a BranchCall) -> FenceKey<'a> {
        FenceKey {
            xid: &call.xid,
            branch_id: call.branch_id,
            action: &call.resource,
        }
    }
}

/// What the application does next, in the same database transaction.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pass {
    /// Its part of the call, and commit.
    Do,
    /// Nothing but commit: it was done before, or there is nothing to undo.
    Nothing,
}

/// The application's open database transaction, as the fence uses it.
pub trait FenceStore {
    type Error: std::error::Error + Send + Sync + 'static;

    /// The row's status. Where the database can, the row is locked until the transaction ends.
    fn load(&mut self, key: FenceKey<'_>) -> Result<Option<FenceStatus>, Self::Error>;

    /// Whether there may be a row, without a lock where there is none: some databases (InnoDB under REPEATABLE READ) lock
    /// the gap that a missing row would lie in, and so the rows of other branches. What is wrong here shows when the row
    /// is loaded or inserted.
    fn is_there(&mut self, key: FenceKey<'_>) -> Result<bool, Self::Error> {
        let _ = key;
        Ok(true)
    }

    /// Writes a new row. False, and nothing written, when there is one: it waits for a transaction that has just
    /// written it.
    fn insert(&mut self, key: FenceKey<'_>, status: FenceStatus) -> Result<bool, Self::Error>;

    /// Changes the status. False, and nothing changed, when it is not `from`.
    fn change(&mut self, key: FenceKey<'_>, from: FenceStatus, to: FenceStatus) -> Result<bool, Self::Error>;

    /// Deletes at most `limit` rows that ended more than `seconds` ago, and says how many.
    fn delete_ended(&mut self, seconds: i64, limit: u32) -> Result<u64, Self::Error>;
}

/// Rows that ended later than this are never deleted: a phase one or a repeated call may still come for them.
///
/// A row's time is the local time of whoever wrote it: of the database session's zone here, of the JVM's in Java. Two
/// zones are up to 26 hours apart (UTC−12 and UTC+14), so a row of an hour ago may look 27 hours old; the hour is for
/// calls that are late.
pub const KEEP_AT_LEAST: Duration = Duration::from_secs(27 * 3_600);

/// Why the fence lets nobody through. The database transaction is to be rolled back.
#[derive(Debug, thiserror::Error)]
pub enum FenceError<E: std::error::Error + 'static> {
    #[error("phase one of branch {branch_id} of `{xid}` came after its rollback, and may not be done any more")]
    TooLate { xid: String, branch_id: i64 },
    #[error("phase one of branch {branch_id} of `{xid}` was done before")]
    Repeated { xid: String, branch_id: i64 },
    #[error("branch {branch_id} of `{xid}` is to be committed, but its phase one was never done")]
    NeverTried { xid: String, branch_id: i64 },
    #[error("branch {branch_id} of `{xid}` is {status:?} and was called the other way")]
    Contradicted {
        xid: String,
        branch_id: i64,
        status: FenceStatus,
    },
    #[error("another call for branch {branch_id} of `{xid}` was faster")]
    Raced { xid: String, branch_id: i64 },
    #[error("the fence cannot be read or written")]
    Store(#[from] E),
}

impl<E: std::error::Error + 'static> FenceError<E> {
    /// The stable code, with a page under `docs/errors/`.
    pub fn code(&self) -> ErrorCode {
        let number = match self {
            FenceError::TooLate { .. } => 21,
            FenceError::Repeated { .. } => 22,
            FenceError::NeverTried { .. } => 23,
            FenceError::Contradicted { .. } => 24,
            FenceError::Raced { .. } => 25,
            FenceError::Store(_) => 26,
        };
        ErrorCode::new("SD", number)
    }

    /// Whether the same call can pass later.
    pub fn retryable(&self) -> Retryable {
        match self {
            FenceError::Raced { .. } | FenceError::Store(_) | FenceError::NeverTried { .. } => Retryable::Yes,
            FenceError::TooLate { .. } | FenceError::Repeated { .. } | FenceError::Contradicted { .. } => Retryable::No,
        }
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<FenceError<E>> for TccError {
    fn from(error: FenceError<E>) -> TccError {
        match error.retryable() {
            Retryable::No => TccError::unretryable(error),
            Retryable::Yes | Retryable::Unknown => TccError::retryable(error),
        }
    }
}

/// Before phase one.
///
/// # Errors
/// Phase one must not be done: [`FenceError::TooLate`], [`FenceError::Repeated`], [`FenceError::Store`].
pub fn prepare<S: FenceStore>(store: &mut S, key: FenceKey<'_>) -> Result<(), FenceError<S::Error>> {
    if store.insert(key, FenceStatus::Tried)? {
        return Ok(());
    }
    Err(rules::prepare_met(store.load(key)?).error(key))
}

/// Before the commit of a branch.
///
/// # Errors
/// All but [`FenceError::TooLate`] and [`FenceError::Repeated`].
pub fn commit<S: FenceStore>(store: &mut S, key: FenceKey<'_>) -> Result<Pass, FenceError<S::Error>> {
    let step = rules::commit(find(store, key)?);
    follow(store, key, step)
}

/// Before the rollback of a branch.
///
/// # Errors
/// [`FenceError::Contradicted`], [`FenceError::Raced`], [`FenceError::Store`].
pub fn rollback<S: FenceStore>(store: &mut S, key: FenceKey<'_>) -> Result<Pass, FenceError<S::Error>> {
    let step = rules::rollback(find(store, key)?);
    follow(store, key, step)
}

/// Before what has no phase one and is done when its branch is committed: a step that a [`saga`](crate::saga) promised.
///
/// # Errors
/// [`FenceError::Contradicted`], [`FenceError::Raced`], [`FenceError::Store`].
pub fn once<S: FenceStore>(store: &mut S, key: FenceKey<'_>) -> Result<Pass, FenceError<S::Error>> {
    let step = rules::once(find(store, key)?);
    follow(store, key, step)
}

/// Deletes the rows of branches that ended more than `older_than` ago (at least [`KEEP_AT_LEAST`]), up to `limit` of them;
/// how many it were. The table grows for ever unless somebody calls this, or Java's cleaner, now and then. Choose it longer
/// than any call can be late, and by a day and two hours more where clocks of different time zones write the table. Java's
/// cleaner deletes by its own clock after a day, unless it is told otherwise. Rows of branches that were only tried stay.
///
/// # Errors
/// [`FenceError::Store`].
pub fn clean<S: FenceStore>(store: &mut S, older_than: Duration, limit: u32) -> Result<u64, FenceError<S::Error>> {
    Ok(store.delete_ended(rules::seconds(older_than), limit)?)
}

fn find<S: FenceStore>(store: &mut S, key: FenceKey<'_>) -> Result<Option<FenceStatus>, S::Error> {
    match store.is_there(key)? {
        true => store.load(key),
        false => Ok(None),
    }
}

fn follow<S: FenceStore>(store: &mut S, key: FenceKey<'_>, step: Step) -> Result<Pass, FenceError<S::Error>> {
    let (was_written, pass) = match step {
        Step::Nothing => (true, Pass::Nothing),
        Step::Suspend => (store.insert(key, FenceStatus::Suspended)?, Pass::Nothing),
        Step::Complete => (store.insert(key, FenceStatus::Committed)?, Pass::Do),
        Step::Move { to } => (store.change(key, FenceStatus::Tried, to)?, Pass::Do),
        Step::Refuse(refusal) => return Err(refusal.error(key)),
    };
    if was_written {
        Ok(pass)
    } else {
        Err(rules::Refusal::Raced.error(key))
    }
}
