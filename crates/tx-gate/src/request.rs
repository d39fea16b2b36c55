//! What the front door asks of the gate and what the gate tells it to do, free of any wire.

use std::{fmt, sync::Arc};

use settle_base::{ErrorCode, GroupId, Index};
use settle_tx::{BranchStatus, BranchType, CallKind, Ended, GlobalStatus, TxError};

use crate::{
    GateError, GateNote,
    admin::{AdminAnswer, AdminRequest},
};

/// One connection of a client with this node. Never used twice while the node runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// Chosen by the front door for one request of one connection, and echoed in its answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestKey(pub u64);

/// Chosen by the gate for one second-phase call; unique on this node while it runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CallId(pub u64);

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {}", self.0)
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call {}", self.0)
    }
}

#[derive(Clone, Debug)]
pub enum GateRequest {
    /// A client connected. `port` is the client's own.
    Open {
        conn: ConnId,
        ip: String,
        port: u16,
    },
    Close {
        conn: ConnId,
    },
    Call {
        conn: ConnId,
        key: RequestKey,
        /// From a door that authenticates its clients: the service groups that the client's application is granted, names
        /// or their beginning and a `*`. It may then do with the transactions of others what these say. `None`: the
        /// client is taken for what it says, and obeyed.
        granted: Option<Arc<[String]>>,
        body: ClientRequest,
    },
    CallAnswer {
        conn: ConnId,
        call: CallId,
        answer: RmAnswer,
    },
    /// An operator's question; needs no session.
    Admin {
        key: RequestKey,
        body: AdminRequest,
    },
}

/// Who a client says that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ident {
    pub application: String,
    pub service_group: String,
    pub version: String,
}

#[derive(Clone, Debug)]
pub enum ClientRequest {
    RegisterTm {
        ident: Ident,
    },
    /// Repeated calls add resources.
    RegisterRm {
        ident: Ident,
        resources: Vec<String>,
    },
    /// Takes resources back; none named means all of them.
    UnregisterRm {
        resources: Vec<String>,
    },
    Begin {
        timeout_ms: i32,
        name: String,
    },
    Commit {
        xid: String,
    },
    Rollback {
        xid: String,
    },
    Status {
        xid: String,
    },
    /// A client-driven saga tells how it ended.
    Report {
        xid: String,
        status: GlobalStatus,
    },
    RegisterBranch(BranchRegistration),
    ReportBranch {
        xid: String,
        branch: i64,
        status: BranchStatus,
        application_data: Option<String>,
    },
    /// `xid` is empty when asked from outside a transaction (`@GlobalLock`).
    LockQuery {
        xid: String,
        resource: String,
        lock_keys: String,
    },
}

#[derive(Clone, Debug)]
pub struct BranchRegistration {
    pub xid: String,
    pub branch_type: BranchType,
    pub resource: String,
    /// `table:pk,pk;table2:pk`; empty for no locks.
    pub lock_keys: String,
    pub application_data: String,
}

/// What a resource manager says of a second-phase call.
#[derive(Clone, Debug)]
pub struct RmAnswer {
    /// Its result code was success.
    pub ok: bool,
    /// None when the byte on the wire was no branch status.
    pub branch_status: Option<BranchStatus>,
    pub xid: String,
    pub branch: i64,
}

#[derive(Debug)]
pub enum GateResponse {
    Answer {
        conn: ConnId,
        key: RequestKey,
        answer: ClientAnswer,
    },
    /// This request is never answered, on purpose: the client's timeout and retry are safe, any answer would be a lie.
    Dropped {
        conn: ConnId,
        key: RequestKey,
        why: DropReason,
    },
    Call {
        conn: ConnId,
        call: CallId,
        body: BranchCall,
    },
    CloseConn {
        conn: ConnId,
        error: GateError,
    },
    Admin {
        key: RequestKey,
        result: Result<AdminAnswer, RefusalError>,
    },
    Note(GateNote),
    /// Transactions that have ended, as this node applied it. Again after a restart, from the last snapshot on.
    Ended(Vec<Ended>),
    /// A snapshot took the place of this node's replica up to this index: of what ended before, nothing more is told.
    Reloaded {
        group: GroupId,
        index: Index,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// Not decided within the hold.
    HoldExpired,
    /// A limit was met by a request whose refusal the Java client would take for success.
    Refused(GateError),
    /// As `Refused`, by the replicated machine.
    RefusedByMachine(TxError),
    /// It may have been done, but the result is no longer kept.
    OutcomeLost,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAnswer {
    TmRegistered,
    RmRegistered,
    RmUnregistered,
    Begun {
        xid: String,
    },
    /// To a commit, a rollback or a saga's report.
    Ended {
        status: GlobalStatus,
    },
    Status {
        status: GlobalStatus,
    },
    BranchRegistered {
        branch: i64,
    },
    BranchReported,
    Lockable {
        lockable: bool,
    },
    /// Nothing happened. Only answers requests whose clients look at the result code.
    Refused(Refusal),
}

/// Why a request failed, in the words of the client's protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub error: RefusalError,
    /// The ordinal in Seata's `TransactionExceptionCode` (of 2.x).
    pub exception: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusalError {
    #[error("{}: {_0}", _0.code())]
    Gate(GateError),
    #[error("{}: {_0}", _0.code())]
    Tx(TxError),
}

impl RefusalError {
    pub fn code(&self) -> ErrorCode {
        match self {
            RefusalError::Gate(error) => error.code(),
            RefusalError::Tx(error) => error.code(),
        }
    }
}

/// A second-phase call, complete for the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchCall {
    pub kind: CallKind,
    pub xid: String,
    pub branch: i64,
    pub branch_type: BranchType,
    pub resource: String,
    pub application_data: String,
}
