//! What each call does, by the row it finds: the same for every database.

use std::time::Duration;

use super::{FenceError, FenceKey, FenceStatus, KEEP_AT_LEAST};

/// What to write, if anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Nothing,
    /// Insert a suspended row: a phase one that is still on its way must not be done.
    Suspend,
    /// Insert a committed row.
    Complete,
    /// From tried.
    Move {
        to: FenceStatus,
    },
    Refuse(Refusal),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    TooLate,
    Repeated,
    NeverTried,
    Contradicted(FenceStatus),
    Raced,
}

impl Refusal {
    pub fn error<E: std::error::Error + 'static>(self, key: FenceKey<'_>) -> FenceError<E> {
        let (xid, branch_id) = (key.xid.to_owned(), key.branch_id);
        match self {
            Refusal::TooLate => FenceError::TooLate { xid, branch_id },
            Refusal::Repeated => FenceError::Repeated { xid, branch_id },
            Refusal::NeverTried => FenceError::NeverTried { xid, branch_id },
            Refusal::Contradicted(status) => FenceError::Contradicted { xid, branch_id, status },
            Refusal::Raced => FenceError::Raced { xid, branch_id },
        }
    }
}

/// Phase one met a row.
pub(super) fn prepare_met(row: Option<FenceStatus>) -> Refusal {
    match row {
        Some(FenceStatus::RolledBack | FenceStatus::Suspended) => Refusal::TooLate,
        Some(FenceStatus::Tried | FenceStatus::Committed) => Refusal::Repeated,
        None => Refusal::Raced,
    }
}

pub(super) fn commit(row: Option<FenceStatus>) -> Step {
    match row {
        None => Step::Refuse(Refusal::NeverTried),
        Some(FenceStatus::Tried) => Step::Move {
            to: FenceStatus::Committed,
        },
        Some(FenceStatus::Committed) => Step::Nothing,
        Some(status @ (FenceStatus::RolledBack | FenceStatus::Suspended)) => {
            Step::Refuse(Refusal::Contradicted(status))
        }
    }
}

pub(super) fn rollback(row: Option<FenceStatus>) -> Step {
    match row {
        None => Step::Suspend,
        Some(FenceStatus::Tried) => Step::Move {
            to: FenceStatus::RolledBack,
        },
        Some(FenceStatus::RolledBack | FenceStatus::Suspended) => Step::Nothing,
        Some(status @ FenceStatus::Committed) => Step::Refuse(Refusal::Contradicted(status)),
    }
}

pub(super) fn once(row: Option<FenceStatus>) -> Step {
    match row {
        None => Step::Complete,
        Some(FenceStatus::Committed) => Step::Nothing,
        Some(status) => Step::Refuse(Refusal::Contradicted(status)),
    }
}

/// How old a row must be to be deleted.
pub(super) fn seconds(older_than: Duration) -> i64 {
    // A hundred years: databases end somewhere.
    older_than.max(KEEP_AT_LEAST).as_secs().min(3_155_760_000) as i64
}
