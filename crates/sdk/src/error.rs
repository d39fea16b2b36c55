//! What can go wrong, and whether it may have happened all the same.

use std::time::Duration;

use settle_base::{ErrorCode, Retryable};
use settle_seata_wire::{ExceptionCode, GlobalStatus, WireError};

/// What was asked of the coordinator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    Begin,
    Commit,
    Rollback,
    Status,
    RegisterBranch,
    ReportBranch,
    QueryLock,
}

impl Act {
    /// Whether it asks for a decision.
    pub(crate) fn is_end(self) -> bool {
        matches!(self, Act::Commit | Act::Rollback)
    }
}

impl std::fmt::Display for Act {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Act::Begin => "begin",
            Act::Commit => "commit",
            Act::Rollback => "rollback",
            Act::Status => "status",
            Act::RegisterBranch => "branch registration",
            Act::ReportBranch => "branch report",
            Act::QueryLock => "question for locks",
        })
    }
}

/// Why something was not done, or is not known to be. [`retryable`](Error::retryable) tells the two apart.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The options cannot work.
    #[error("the options of the transaction client cannot work: {problem}")]
    Options { problem: &'static str },
    /// No coordinator could be asked in time; nothing was sent.
    #[error("no coordinator could be asked for the {act} within {waited:?}: {why}")]
    Unreachable { act: Act, waited: Duration, why: String },
    /// Every connection has as many requests under way as it may; nothing was sent.
    #[error("{limit} requests are under way on each connection, the most there may be")]
    Busy { limit: usize },
    /// The coordinator said no: nothing happened.
    #[error("the {act} was refused ({exception:?}): {message}")]
    Refused {
        act: Act,
        exception: ExceptionCode,
        message: String,
    },
    /// It was sent and no answer came: it may have been done.
    #[error("the {act} of `{xid}` was not answered within {waited:?}: it may have been done")]
    Unanswered { act: Act, xid: String, waited: Duration },
    /// Asked to commit, and decided otherwise.
    #[error("`{xid}` was not committed: it is {status:?}")]
    RolledBack { xid: String, status: GlobalStatus },
    /// Asked to roll back, and decided otherwise.
    #[error("`{xid}` was not rolled back: it is {status:?}")]
    Committed { xid: String, status: GlobalStatus },
    /// The coordinator does not know the transaction (any more).
    #[error("the coordinator does not know how `{xid}` ended")]
    Forgotten { xid: String },
    /// This process knows that the transaction must not commit: asked to, it asked for a rollback instead. A branch was
    /// not registered.
    #[error("`{xid}` is to be rolled back only: no commit of it is asked for, and no branch is registered")]
    RollbackOnly { xid: String },
    /// The commit was asked for in this process, so that nothing more can belong to the transaction; nothing was sent.
    #[error("the commit of `{xid}` was asked for before: no branch is registered any more")]
    Ending { xid: String },
    /// A message that the wire cannot carry; nothing was sent.
    #[error("the {act} cannot be sent: {problem}")]
    Unsendable { act: Act, problem: String },
    /// The answer to something else.
    #[error("the {act} was answered with a message of type {type_code}")]
    Unexpected { act: Act, type_code: i16 },
}

impl Error {
    pub(crate) fn unsendable(act: Act, problem: &WireError) -> Error {
        Error::Unsendable {
            act,
            problem: problem.to_string(),
        }
    }

    /// The stable code, with a page under `docs/errors/`.
    pub fn code(&self) -> ErrorCode {
        let number = match self {
            Error::Options { .. } => 1,
            Error::Unreachable { .. } => 2,
            Error::Busy { .. } => 3,
            Error::Refused { .. } => 4,
            Error::Unanswered { .. } => 5,
            Error::RolledBack { .. } => 6,
            Error::Committed { .. } => 7,
            Error::Forgotten { .. } => 8,
            Error::RollbackOnly { .. } => 9,
            Error::Unsendable { .. } => 10,
            Error::Unexpected { .. } => 11,
            Error::Ending { .. } => 15,
        };
        ErrorCode::new("SD", number)
    }

    /// `Yes`: nothing happened and it may work later. `No`: nothing of what was asked happened, and it never will.
    /// `Unknown`: it may have happened. To ask the same commit, rollback or status again is always safe.
    pub fn retryable(&self) -> Retryable {
        match self {
            Error::Unreachable { .. } | Error::Busy { .. } => Retryable::Yes,
            Error::Refused { exception, .. } => match exception {
                ExceptionCode::LockKeyConflict | ExceptionCode::LockKeyConflictFailFast => Retryable::Yes,
                _ => Retryable::No,
            },
            Error::Options { .. }
            | Error::RolledBack { .. }
            | Error::Committed { .. }
            | Error::RollbackOnly { .. }
            | Error::Ending { .. }
            | Error::Unsendable { .. } => Retryable::No,
            Error::Unanswered { .. } | Error::Forgotten { .. } | Error::Unexpected { .. } => Retryable::Unknown,
        }
    }

    /// Whether what was asked may have been done all the same.
    pub fn is_outcome_unknown(&self) -> bool {
        self.retryable() == Retryable::Unknown
    }
}
