//! What can go wrong with AT, and whether anything happened.

use settle_base::{ErrorCode, Retryable};

use crate::{statement::Unprotected, undo::UndoError};

/// Why something was not done. After an error within a transaction, drop it: what it did locally is rolled back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AtError {
    /// The options, the database's settings or the session's do not fit.
    #[error("AT cannot work here: {problem}")]
    Setup { problem: String },
    /// The statement would change what cannot be taken back, or what it would change cannot be told. It was not run.
    #[error("the statement cannot be protected: {_0}")]
    Unprotected(#[from] Unprotected),
    /// The table, or what a row of it holds, cannot be kept in an undo log that Java reads exactly.
    #[error("table `{table}` cannot be protected: {problem}")]
    Table { table: String, problem: String },
    /// The number of values is not that of the statement's `?`.
    #[error("the statement has {wanted} `?`, and {given} values were given")]
    Params { wanted: usize, given: usize },
    /// A statement or a transaction is larger than an option allows.
    #[error("{what} is over the limit of {limit} (option `{option}`)")]
    TooMuch {
        what: &'static str,
        limit: usize,
        option: &'static str,
    },
    /// What was changed is not what was looked at before: nothing of it stands.
    #[error("{expected} rows of `{table}` were to be {act}, and {found} were")]
    Moved {
        table: String,
        act: &'static str,
        expected: usize,
        found: usize,
    },
    /// Another global transaction holds a row, and did so for all attempts.
    #[error("another global transaction holds rows of `{lock_keys}`: {message}")]
    LockConflict { lock_keys: String, message: String },
    /// The branch was rolled back before its phase one ended: the transaction is over.
    #[error("branch {branch_id} of `{xid}` was rolled back before its local commit")]
    TooLate { xid: String, branch_id: i64 },
    /// The local commit was not answered. The global transaction must be rolled back, which takes back what may have been
    /// committed.
    #[error("the local commit of branch {branch_id} of `{xid}` was not answered: it may have been done")]
    CommitUnknown {
        xid: String,
        branch_id: i64,
        source: sqlx::Error,
    },
    /// An undo row that cannot be read or written.
    #[error("an undo log: {_0}")]
    Undo(#[from] UndoError),
    /// Between the branch's commit and its rollback somebody outside did what keeps a row from being put back: an operator
    /// has to look.
    #[error(
        "the row of `{table}` with key `{key}` cannot be put back as it was before branch {branch_id} of `{xid}`: {cause}"
    )]
    Dirty {
        xid: String,
        branch_id: i64,
        table: String,
        key: String,
        cause: DirtyCause,
    },
    /// The table of undo logs cannot carry what is rested on it.
    #[error("the table `{table}` of undo logs is not fit: {problem}")]
    UndoTable { table: String, problem: String },
    /// An earlier statement failed: the transaction can only be rolled back.
    #[error("an earlier statement of the local transaction failed: it can only be rolled back")]
    Broken,
    /// The coordinator.
    #[error(transparent)]
    Coordinator(#[from] settle_sdk::Error),
    /// The database.
    #[error("the database: {_0}")]
    Database(#[from] sqlx::Error),
}

/// What keeps a row from being put back.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirtyCause {
    #[error("somebody else has changed it since")]
    Changed,
    /// The foreign key takes these along when the row is deleted.
    #[error("rows of `{by}` refer to it by now, and would be changed with it")]
    Referred { by: String },
    /// A unique or foreign key, or another constraint.
    #[error("{message}")]
    Constraint { message: String },
}

impl AtError {
    pub(crate) fn setup(problem: impl Into<String>) -> AtError {
        AtError::Setup {
            problem: problem.into(),
        }
    }

    pub(crate) fn table(table: &str, problem: impl Into<String>) -> AtError {
        AtError::Table {
            table: table.to_owned(),
            problem: problem.into(),
        }
    }

    /// The stable code, with a page under `docs/errors/`.
    pub fn code(&self) -> ErrorCode {
        if let AtError::Coordinator(error) = self {
            return error.code();
        }
        let number = match self {
            AtError::Setup { .. } => 1,
            AtError::Unprotected(_) => 2,
            AtError::Table { .. } => 3,
            AtError::Params { .. } => 4,
            AtError::TooMuch { .. } => 5,
            AtError::Moved { .. } => 6,
            AtError::LockConflict { .. } => 7,
            AtError::TooLate { .. } => 8,
            AtError::CommitUnknown { .. } => 9,
            AtError::Undo(_) => 10,
            AtError::Dirty { .. } => 11,
            // The coordinator's have their own.
            AtError::Database(_) | AtError::Coordinator(_) => 12,
            AtError::Broken => 13,
            AtError::UndoTable { .. } => 14,
        };
        ErrorCode::new("AT", number)
    }

    /// `Yes`: nothing happened, and the local work may succeed when it is done again. `No`: nothing happened, and it never
    /// will. `Unknown`: it may have happened.
    pub fn retryable(&self) -> Retryable {
        match self {
            AtError::Coordinator(error) => error.retryable(),
            AtError::LockConflict { .. } | AtError::Moved { .. } => Retryable::Yes,
            AtError::CommitUnknown { .. } | AtError::Database(_) => Retryable::Unknown,
            AtError::Setup { .. }
            | AtError::UndoTable { .. }
            | AtError::Unprotected(_)
            | AtError::Table { .. }
            | AtError::Params { .. }
            | AtError::TooMuch { .. }
            | AtError::TooLate { .. }
            | AtError::Broken
            | AtError::Undo(_)
            | AtError::Dirty { .. } => Retryable::No,
        }
    }
}
