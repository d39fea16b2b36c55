use settle_base::{ErrorCode, GroupId, Retryable};

use settle_tx::ActKind;

use crate::{CallId, ConnId};

/// What the gate refuses by itself, before or instead of the replicated machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    #[error("{conn} sent a request before it registered as a transaction or resource manager")]
    NotRegistered { conn: ConnId },
    #[error("this node has {limit} sessions, the most it takes")]
    TooManySessions { limit: usize },
    #[error("this node has {limit} requests in flight, the most it takes")]
    TooManyRequests { limit: usize },
    #[error("{conn} has {limit} requests in flight, the most one session may have")]
    TooManySessionRequests { conn: ConnId, limit: usize },
    #[error("this node has {bytes} bytes of commands in flight, over the limit of {limit}")]
    TooManyPendingBytes { bytes: u64, limit: u64 },
    #[error("transaction {xid} has {limit} branches, the most one may have")]
    TooManyBranches { xid: String, limit: usize },
    #[error("the group has {limit} open transactions, the most it takes")]
    TooManyTransactions { limit: u64 },
    #[error("the locks of open transactions take {bytes} bytes, over the limit of {limit}")]
    LockSpaceFull { bytes: u64, limit: u64 },
    #[error("the branch's lock keys are {bytes} bytes long, over the limit of {limit}")]
    LockKeysTooLong { bytes: u64, limit: u64 },
    #[error("the branch's application data is {bytes} bytes long, over the limit of {limit}")]
    ApplicationDataTooLong { bytes: u64, limit: u64 },
    #[error("the {field} is {bytes} bytes long, over the limit of {limit}")]
    NameTooLong {
        field: &'static str,
        bytes: usize,
        limit: usize,
    },
    #[error("{conn} registered {limit} resources, the most one session may have")]
    TooManyResources { conn: ConnId, limit: usize },
    #[error("a transaction cannot begin with a timeout of {timeout_ms} ms")]
    BadTimeout { timeout_ms: i64 },
    #[error("`{xid}` is not a transaction of this cluster")]
    UnknownXid { xid: String },
    #[error("{conn} registered as application `{first}` and then as `{second}`")]
    IdentityChanged {
        conn: ConnId,
        first: String,
        second: String,
    },
    #[error("{conn} is not open")]
    UnknownConnection { conn: ConnId },
    #[error("{conn} answered {call} for `{xid}` branch {branch}, which is not what it was asked")]
    WrongAnswer {
        conn: ConnId,
        call: CallId,
        xid: String,
        branch: i64,
    },
    #[error("application id `{application}` has a colon, so that its clients' ids could not be told apart")]
    BadApplicationId { application: String },
    #[error("`{branch}` is no branch of transaction {xid}")]
    UnknownBranch { xid: String, branch: i64 },
    #[error("the group of the transaction could not be read in time: it has no leader that this node can reach")]
    ReadTimedOut,
    #[error("it is not known whether this was done: the group had no leader that this node could reach in time")]
    ActTimedOut,
    #[error("an act of an operator is signed: {field} is missing")]
    NotSigned { field: &'static str },
    #[error("{act} is right only when the branch is settled, and nobody says that it is")]
    NotClaimed { act: ActKind },
    #[error("the {field} has {chars} characters, over the limit of {limit}")]
    TextTooLong {
        field: &'static str,
        chars: usize,
        limit: usize,
    },
    #[error("a part of a backup has {bytes} bytes, over the limit of {limit}")]
    PartTooLarge { bytes: usize, limit: usize },
    #[error("there is no group {group} of transactions here")]
    UnknownGroup { group: GroupId },
    #[error(
        "it cannot be told where service group `{service_group}` is: group {group} knows of a move that the first group does \
         not know of"
    )]
    ServiceGroupUnplaced { service_group: String, group: GroupId },
    #[error("group {group} goes by cluster version {in_force}, and moves of service groups need {needed}")]
    VersionTooLow { group: GroupId, needed: u32, in_force: u32 },
    #[error("a move is of 1 to {limit} service groups that have names, not of {names}")]
    ServiceGroupCount { names: usize, limit: usize },
}

impl GateError {
    /// The stable code, with a page under `docs/errors/`.
    pub fn code(&self) -> ErrorCode {
        let number = match self {
            GateError::NotRegistered { .. } => 1,
            GateError::TooManySessions { .. } => 2,
            GateError::TooManyRequests { .. } => 3,
            GateError::TooManySessionRequests { .. } => 4,
            GateError::TooManyPendingBytes { .. } => 5,
            GateError::TooManyBranches { .. } => 6,
            GateError::TooManyTransactions { .. } => 7,
            GateError::LockSpaceFull { .. } => 8,
            GateError::LockKeysTooLong { .. } => 9,
            GateError::ApplicationDataTooLong { .. } => 10,
            GateError::NameTooLong { .. } => 11,
            GateError::TooManyResources { .. } => 12,
            GateError::BadTimeout { .. } => 13,
            GateError::UnknownXid { .. } => 14,
            GateError::IdentityChanged { .. } => 15,
            GateError::UnknownConnection { .. } => 16,
            GateError::WrongAnswer { .. } => 17,
            GateError::ReadTimedOut => 18,
            GateError::BadApplicationId { .. } => 19,
            GateError::UnknownBranch { .. } => 20,
            GateError::ActTimedOut => 21,
            GateError::NotSigned { .. } => 22,
            GateError::NotClaimed { .. } => 23,
            GateError::UnknownGroup { .. } => 24,
            GateError::TextTooLong { .. } => 25,
            GateError::PartTooLarge { .. } => 26,
            GateError::ServiceGroupUnplaced { .. } => 27,
            GateError::VersionTooLow { .. } => 28,
            GateError::ServiceGroupCount { .. } => 29,
        };
        ErrorCode::new("TG", number)
    }

    /// Whether the same request can succeed later.
    pub fn retryable(&self) -> Retryable {
        match self {
            GateError::TooManySessions { .. }
            | GateError::TooManyRequests { .. }
            | GateError::TooManySessionRequests { .. }
            | GateError::TooManyPendingBytes { .. }
            | GateError::TooManyTransactions { .. }
            | GateError::LockSpaceFull { .. }
            | GateError::ServiceGroupUnplaced { .. }
            | GateError::ReadTimedOut => Retryable::Yes,
            GateError::NotRegistered { .. }
            | GateError::TooManyBranches { .. }
            | GateError::LockKeysTooLong { .. }
            | GateError::ApplicationDataTooLong { .. }
            | GateError::NameTooLong { .. }
            | GateError::TooManyResources { .. }
            | GateError::BadTimeout { .. }
            | GateError::UnknownXid { .. }
            | GateError::IdentityChanged { .. }
            | GateError::UnknownConnection { .. }
            | GateError::WrongAnswer { .. }
            | GateError::BadApplicationId { .. }
            | GateError::UnknownBranch { .. }
            | GateError::NotSigned { .. }
            | GateError::NotClaimed { .. }
            | GateError::UnknownGroup { .. }
            | GateError::TextTooLong { .. }
            | GateError::VersionTooLow { .. }
            | GateError::ServiceGroupCount { .. }
            | GateError::PartTooLarge { .. } => Retryable::No,
            GateError::ActTimedOut => Retryable::Unknown,
        }
    }
}
