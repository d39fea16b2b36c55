//! The fence for asynchronous databases: the same rules, awaited.
//!
//! With `sqlx` the store is the connection under an open transaction: `nonblocking::commit(&mut *tx, call.into()).await`.

use std::time::Duration;

use super::{FenceError, FenceKey, FenceStatus, Pass, rules, rules::Step};

/// As [`FenceStore`](super::FenceStore).
pub trait FenceStore: Send {
    type Error: std::error::Error + Send + Sync + 'static;

    /// The row's status, locked until the transaction ends.
    fn load(&mut self, key: FenceKey<'_>) -> impl Future<Output = Result<Option<FenceStatus>, Self::Error>> + Send;

    /// Whether there may be a row, without a lock where there is none.
    fn is_there(&mut self, key: FenceKey<'_>) -> impl Future<Output = Result<bool, Self::Error>> + Send {
        let _ = key;
        async { Ok(true) }
    }

    /// Writes a new row; false, and nothing written, when there is one.
    fn insert(
        &mut self,
        key: FenceKey<'_>,
        status: FenceStatus,
    ) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Changes the status; false, and nothing changed, when it is not `from`.
    fn change(
        &mut self,
        key: FenceKey<'_>,
        from: FenceStatus,
        to: FenceStatus,
    ) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Deletes at most `limit` rows that ended more than `seconds` ago, and says how many.
    fn delete_ended(&mut self, seconds: i64, limit: u32) -> impl Future<Output = Result<u64, Self::Error>> + Send;
}

/// As [`prepare`](super::prepare).
///
/// # Errors
/// Those of [`prepare`](super::prepare).
pub async fn prepare<S: FenceStore>(store: &mut S, key: FenceKey<'_>) -> Result<(), FenceError<S::Error>> {
    if store.insert(key, FenceStatus::Tried).await? {
        return Ok(());
    }
    Err(rules::prepare_met(store.load(key).await?).error(key))
}

/// As [`commit`](super::commit).
///
/// # Errors
/// Those of [`commit`](super::commit).
pub async fn commit<S: FenceStore>(store: &mut S, key: FenceKey<'_>) -> Result<Pass, FenceError<S::Error>> {
    let step = rules::commit(find(store, key).await?);
    follow(store, key, step).await
}

/// As [`rollback`](super::rollback).
///
/// # Errors
/// Those of [`rollback`](super::rollback).
pub async fn rollback<S: FenceStore>(store: &mut S, key: FenceKey<'_>) -> Result<Pass, FenceError<S::Error>> {
    let step = rules::rollback(find(store, key).await?);
    follow(store, key, step).await
}

/// As [`once`](super::once).
///
/// # Errors
/// Those of [`once`](super::once).
pub async fn once<S: FenceStore>(store: &mut S, key: FenceKey<'_>) -> Result<Pass, FenceError<S::Error>> {
    let step = rules::once(find(store, key).await?);
    follow(store, key, step).await
}

/// As [`clean`](super::clean).
///
/// # Errors
/// Those of [`clean`](super::clean).
pub async fn clean<S: FenceStore>(
    store: &mut S,
    older_than: Duration,
    limit: u32,
) -> Result<u64, FenceError<S::Error>> {
    Ok(store.delete_ended(rules::seconds(older_than), limit).await?)
}

async fn find<S: FenceStore>(store: &mut S, key: FenceKey<'_>) -> Result<Option<FenceStatus>, S::Error> {
    match store.is_there(key).await? {
        true => store.load(key).await,
        false => Ok(None),
    }
}

async fn follow<S: FenceStore>(store: &mut S, key: FenceKey<'_>, step: Step) -> Result<Pass, FenceError<S::Error>> {
    let (was_written, pass) = match step {
        Step::Nothing => (true, Pass::Nothing),
        Step::Suspend => (store.insert(key, FenceStatus::Suspended).await?, Pass::Nothing),
        Step::Complete => (store.insert(key, FenceStatus::Committed).await?, Pass::Do),
        Step::Move { to } => (store.change(key, FenceStatus::Tried, to).await?, Pass::Do),
        Step::Refuse(refusal) => return Err(refusal.error(key)),
    };
    if was_written {
        Ok(pass)
    } else {
        Err(rules::Refusal::Raced.error(key))
    }
}
