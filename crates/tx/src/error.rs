use std::sync::Arc;

use settle_base::{ErrorCode, Retryable};

use crate::{ActKind, BranchId, BranchStatus, GlobalStatus, LockKeyError, Tid};

/// Why a command was refused. A refusal changes nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TxError {
    #[error("no transaction {tid} was ever begun here")]
    UnknownXid { tid: Tid },
    #[error("transaction {tid} takes no more branches: it is {status}")]
    NotActive { tid: Tid, status: GlobalStatus },
    #[error("row {row} is locked by {holder_xid}")]
    LockConflict {
        /// `resource^^^table^^^pk`, its first 256 bytes.
        row: Arc<str>,
        holder: Tid,
        holder_xid: Arc<str>,
        /// The holder is rolling back and the asker holds its database connection: waiting could deadlock.
        fail_fast: bool,
    },
    #[error("transaction {tid} has no branch {branch}")]
    UnknownBranch { tid: Tid, branch: BranchId },
    #[error("cannot read the lock keys of a branch of transaction {tid}: {reason}")]
    BadLockKey { tid: Tid, reason: LockKeyError },
    #[error("cannot begin: {open} transactions are open, the limit is {limit}")]
    TooManyTransactions { open: u64, limit: u64 },
    #[error("transaction {tid} has {limit} branches, which is the limit")]
    TooManyBranches { tid: Tid, limit: u32 },
    #[error("cannot lock rows for transaction {tid}: the lock table has reached its limit of {limit} bytes")]
    LockTableFull { tid: Tid, limit: u64 },
    #[error("cannot keep more of transaction {tid}'s branches: they have reached the group's limit of {limit} bytes")]
    BranchSpaceFull { tid: Tid, limit: u64 },
    #[error("branch {branch} of transaction {tid} cannot take the status {status} by this message")]
    BadBranchStatus {
        tid: Tid,
        branch: BranchId,
        status: BranchStatus,
    },
    #[error("branch {branch} of transaction {tid} claims {fact}, which contradicts {status}")]
    Contradiction {
        tid: Tid,
        branch: BranchId,
        fact: BranchStatus,
        status: GlobalStatus,
    },
    #[error("branch {branch} claims {fact}, but transaction {tid} is not decided")]
    NotDecided {
        tid: Tid,
        branch: BranchId,
        fact: BranchStatus,
    },
    #[error("transaction {tid} cannot go from {from} to {to} by a report")]
    IllegalEnd {
        tid: Tid,
        from: GlobalStatus,
        to: GlobalStatus,
    },
    #[error("the outcome of transaction {tid} is no longer kept")]
    OutcomeEvicted { tid: Tid },
    #[error("transaction {tid} is decided and stands at {status}: nothing decides it otherwise")]
    ContradictsDecision { tid: Tid, status: GlobalStatus },
    #[error("{act} of transaction {tid} is not possible: it is {status}")]
    ActNotPossible {
        tid: Tid,
        act: ActKind,
        status: GlobalStatus,
    },
    #[error("the group is being restored from a backup and does nothing else until that is done")]
    BeingRestored,
    #[error("only a group that has never begun anything takes a backup: this one has begun {begun} transactions")]
    NotNew { begun: u64 },
    #[error("this is not the next part of a backup: {reason}")]
    BadPart { reason: Arc<str> },
    /// The application that asks has not begun it, and what it asks is not for others.
    #[error(
        "transaction {tid} is another application's: only that one ends it, others may join it where they are granted \
         its service group, and each reports on branches of its own"
    )]
    OfAnother { tid: Tid },
    /// The gate asks where it begins now, and holds the request meanwhile.
    #[error("service group `{service_group}` is moving to group {to}: nothing of it begins here by move {epoch}")]
    ServiceGroupClosed {
        service_group: Arc<str>,
        epoch: u64,
        to: u8,
    },
    #[error("service group `{service_group}` is moving already")]
    ServiceGroupMoving { service_group: Arc<str> },
    #[error(
        "service group `{service_group}` is in group {group} and `{first}` in group {first_group}: what moves together is \
         in one"
    )]
    ServiceGroupsApart {
        service_group: Arc<str>,
        group: u8,
        first: Arc<str>,
        first_group: u8,
    },
    #[error("no more than {limit} service groups can have been moved")]
    TooManyServiceGroups { limit: u64 },
    #[error("service group `{service_group}` is not moving")]
    NotMoving { service_group: Arc<str> },
    #[error(
        "the move of service group `{service_group}` makes sure that nothing of it is open elsewhere, and is not cancelled"
    )]
    NotCancellable { service_group: Arc<str> },
    #[error("this needs cluster version {needed}, and {in_force} is in force")]
    VersionTooLow { needed: u32, in_force: u32 },
    #[error(
        "a group that was told of a move of service groups takes no backup any more: the first group is restored last"
    )]
    ToldOfMoves,
    #[error("the request is too old to be told whether it was done")]
    RequestExpired,
}

/// A refusal for a client: what Seata's wire carries of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub code: ErrorCode,
    pub retryable: Retryable,
    /// Ordinal of Seata's `TransactionExceptionCode`.
    pub exception_code: u8,
}

impl TxError {
    pub fn refusal(&self) -> Refusal {
        use Retryable::{No, Unknown, Yes};
        let (number, retryable, exception_code) = match self {
            TxError::UnknownXid { .. } => (1, No, 10),
            TxError::NotActive { .. } => (2, No, 11),
            TxError::LockConflict { fail_fast: false, .. } => (3, Yes, 2),
            TxError::LockConflict { fail_fast: true, .. } => (3, Yes, 20),
            TxError::UnknownBranch { .. } => (4, No, 9),
            TxError::BadLockKey { .. } => (5, No, 6),
            TxError::TooManyTransactions { .. } => (6, Yes, 1),
            TxError::TooManyBranches { .. } => (7, No, 15),
            TxError::LockTableFull { .. } => (8, Yes, 6),
            TxError::BadBranchStatus { .. } => (9, No, 7),
            TxError::Contradiction { .. } => (10, No, 12),
            TxError::NotDecided { .. } => (11, No, 12),
            TxError::IllegalEnd { .. } => (12, No, 12),
            TxError::OutcomeEvicted { .. } => (13, No, 10),
            TxError::RequestExpired => (14, Unknown, 0),
            TxError::BranchSpaceFull { .. } => (15, Yes, 6),
            TxError::ContradictsDecision { .. } => (16, No, 12),
            TxError::ActNotPossible { .. } => (17, No, 12),
            TxError::BeingRestored => (18, Yes, 1),
            TxError::NotNew { .. } => (19, No, 0),
            TxError::BadPart { .. } => (20, No, 0),
            TxError::OfAnother { .. } => (21, No, 10),
            TxError::ServiceGroupClosed { .. } => (22, Yes, 1),
            TxError::ServiceGroupMoving { .. } => (23, No, 0),
            TxError::ServiceGroupsApart { .. } => (24, No, 0),
            TxError::TooManyServiceGroups { .. } => (25, No, 0),
            TxError::NotMoving { .. } => (26, No, 0),
            TxError::NotCancellable { .. } => (27, No, 0),
            TxError::VersionTooLow { .. } => (28, No, 0),
            TxError::ToldOfMoves => (29, No, 0),
        };
        Refusal {
            code: ErrorCode::new("TX", number),
            retryable,
            exception_code,
        }
    }

    /// The stable code; its page is `docs/errors/<code>.md`.
    pub fn code(&self) -> ErrorCode {
        self.refusal().code
    }

    pub fn retryable(&self) -> Retryable {
        self.refusal().retryable
    }

    /// Ordinal of Seata's `TransactionExceptionCode`.
    pub fn exception_code(&self) -> u8 {
        self.refusal().exception_code
    }
}
