//! The messages of the `seata` serializer, one struct per payload layout.
//!
//! Strings are empty where Java has null or "". Ids and times keep Java's signed types.

use crate::enums::{BranchStatus, BranchType, ExceptionCode, GlobalStatus};

/// Type codes (`org.apache.seata.core.protocol.MessageType`).
pub mod type_code {
    pub const GLOBAL_BEGIN: i16 = 1;
    pub const GLOBAL_BEGIN_RESPONSE: i16 = 2;
    pub const BRANCH_COMMIT: i16 = 3;
    pub const BRANCH_COMMIT_RESPONSE: i16 = 4;
    pub const BRANCH_ROLLBACK: i16 = 5;
    pub const BRANCH_ROLLBACK_RESPONSE: i16 = 6;
    pub const GLOBAL_COMMIT: i16 = 7;
    pub const GLOBAL_COMMIT_RESPONSE: i16 = 8;
    pub const GLOBAL_ROLLBACK: i16 = 9;
    pub const GLOBAL_ROLLBACK_RESPONSE: i16 = 10;
    pub const BRANCH_REGISTER: i16 = 11;
    pub const BRANCH_REGISTER_RESPONSE: i16 = 12;
    pub const BRANCH_REPORT: i16 = 13;
    pub const BRANCH_REPORT_RESPONSE: i16 = 14;
    pub const GLOBAL_STATUS: i16 = 15;
    pub const GLOBAL_STATUS_RESPONSE: i16 = 16;
    pub const GLOBAL_REPORT: i16 = 17;
    pub const GLOBAL_REPORT_RESPONSE: i16 = 18;
    pub const GLOBAL_LOCK_QUERY: i16 = 21;
    pub const GLOBAL_LOCK_QUERY_RESPONSE: i16 = 22;
    pub const MERGED: i16 = 59;
    pub const MERGE_RESULT: i16 = 60;
    pub const REGISTER_TM: i16 = 101;
    pub const REGISTER_TM_RESPONSE: i16 = 102;
    pub const REGISTER_RM: i16 = 103;
    pub const REGISTER_RM_RESPONSE: i16 = 104;
    pub const UNREGISTER_RM: i16 = 105;
    pub const UNREGISTER_RM_RESPONSE: i16 = 106;
    pub const UNDO_LOG_DELETE: i16 = 111;
    pub const BATCH_RESULT: i16 = 121;
}

/// One message body. A heartbeat (type 120) is a frame without one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// 101, TM → TC: the first message of a TM's connection.
    RegisterTmRequest(Identity),
    /// 102
    RegisterTmResponse(RegisterResponse),
    /// 103, RM → TC: the first message of an RM's connection; repeated calls add resources.
    RegisterRmRequest(RegisterRm),
    /// 104
    RegisterRmResponse(RegisterResponse),
    /// 105, RM → TC: takes resources away again (Seata 2.7).
    UnregisterRmRequest(RegisterRm),
    /// 106
    UnregisterRmResponse(RegisterResponse),
    /// 1, TM → TC
    GlobalBegin(GlobalBegin),
    /// 2
    GlobalBeginResponse(GlobalBeginResponse),
    /// 7, TM → TC
    GlobalCommit(GlobalEnd),
    /// 8
    GlobalCommitResponse(GlobalEndResponse),
    /// 9, TM → TC
    GlobalRollback(GlobalEnd),
    /// 10
    GlobalRollbackResponse(GlobalEndResponse),
    /// 15, TM → TC
    GlobalStatus(GlobalEnd),
    /// 16
    GlobalStatusResponse(GlobalEndResponse),
    /// 17, TM → TC: a saga's state machine tells its outcome.
    GlobalReport(GlobalReport),
    /// 18
    GlobalReportResponse(GlobalEndResponse),
    /// 11, RM → TC
    BranchRegister(BranchRegister),
    /// 12
    BranchRegisterResponse(BranchRegisterResponse),
    /// 13, RM → TC
    BranchReport(BranchReport),
    /// 14
    BranchReportResponse(TxResult),
    /// 21, RM → TC: could these rows be locked? Same layout as a registration.
    GlobalLockQuery(BranchRegister),
    /// 22
    GlobalLockQueryResponse(GlobalLockQueryResponse),
    /// 3, TC → RM
    BranchCommit(BranchEnd),
    /// 4
    BranchCommitResponse(BranchEndResponse),
    /// 5, TC → RM
    BranchRollback(BranchEnd),
    /// 6
    BranchRollbackResponse(BranchEndResponse),
    /// 111, TC → RM, oneway and never answered.
    UndoLogDelete(UndoLogDelete),
    /// 59, client → TC: several requests in one frame.
    Merged(MergedRequest),
    /// 60, TC → client: the answers to a 59 in request order, under the 59's request id.
    MergeResult(Vec<Message>),
    /// 121, TC → client (1.5 and newer): answers to requests of a 59, each with its message id.
    BatchResult { items: Vec<(i32, Message)> },
}

/// Who a client is, as it says itself.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Identity {
    /// The Seata version the client claims to be.
    pub version: String,
    pub application_id: String,
    pub transaction_service_group: String,
    /// `key=value` lines: vgroup, ip, ak, digest, timestamp, authVersion.
    pub extra_data: String,
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RegisterRm {
    pub identity: Identity,
    /// Comma-separated; may be empty.
    pub resource_ids: String,
}

/// The answer to a (un)registration. Clients look at `identified` only.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegisterResponse {
    /// Carried by protocol version 2 only, and there not by 106. Otherwise it is lost on the wire and a reader gets
    /// what `identified` says.
    pub outcome: Outcome,
    pub identified: bool,
    /// The version the coordinator announces; it switches features of the client on.
    pub version: String,
}

/// Java's `AbstractResultMessage`: a message travels only with a failure.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum Outcome {
    #[default]
    Success,
    /// At most 32767 bytes of `message` are written; the rest is cut off at a character boundary.
    Failed { message: String },
}

/// Java's `AbstractTransactionResponse`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TxResult {
    pub outcome: Outcome,
    /// Travels on success too, then `Unknown`.
    pub exception_code: ExceptionCode,
}

impl TxResult {
    pub const SUCCESS: TxResult = TxResult {
        outcome: Outcome::Success,
        exception_code: ExceptionCode::Unknown,
    };

    pub fn failed(exception_code: ExceptionCode, message: impl Into<String>) -> TxResult {
        TxResult {
            outcome: Outcome::Failed {
                message: message.into(),
            },
            exception_code,
        }
    }

    pub fn is_success(&self) -> bool {
        self.outcome == Outcome::Success
    }
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct GlobalBegin {
    pub timeout_ms: i32,
    pub transaction_name: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GlobalBeginResponse {
    pub result: TxResult,
    pub xid: String,
    pub extra_data: String,
}

/// Commit, roll back or ask for the status of a global transaction.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct GlobalEnd {
    pub xid: String,
    pub extra_data: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GlobalEndResponse {
    pub result: TxResult,
    /// What clients really look at: they ignore `result`.
    pub status: GlobalStatus,
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct GlobalReport {
    pub xid: String,
    pub extra_data: String,
    /// Java's null is -1 on the wire.
    pub status: Option<GlobalStatus>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BranchRegister {
    pub xid: String,
    pub branch_type: BranchType,
    pub resource_id: String,
    /// `table:pk,pk;table:pk`, empty without row locks.
    pub lock_key: String,
    pub application_data: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BranchRegisterResponse {
    pub result: TxResult,
    pub branch_id: i64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BranchReport {
    pub xid: String,
    pub branch_id: i64,
    pub status: BranchStatus,
    pub resource_id: String,
    pub application_data: String,
    pub branch_type: BranchType,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GlobalLockQueryResponse {
    pub result: TxResult,
    pub lockable: bool,
}

/// Phase two of one branch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BranchEnd {
    pub xid: String,
    pub branch_id: i64,
    pub branch_type: BranchType,
    /// Must not be empty: Java's decoder stops reading there and loses `application_data`.
    pub resource_id: String,
    pub application_data: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BranchEndResponse {
    pub result: TxResult,
    pub xid: String,
    pub branch_id: i64,
    pub status: BranchStatus,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UndoLogDelete {
    pub branch_type: BranchType,
    pub resource_id: String,
    /// Undo logs older than this are deleted.
    pub save_days: i16,
}

/// Requests in the order they were made.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct MergedRequest {
    /// Each with the id under which the client waits for it. Clients before 1.5 send no ids: then all are `None`.
    pub items: Vec<(Option<i32>, Message)>,
}

impl Message {
    /// The code that precedes the payload on the wire.
    pub const fn type_code(&self) -> i16 {
        match self {
            Message::RegisterTmRequest(_) => type_code::REGISTER_TM,
            Message::RegisterTmResponse(_) => type_code::REGISTER_TM_RESPONSE,
            Message::RegisterRmRequest(_) => type_code::REGISTER_RM,
            Message::RegisterRmResponse(_) => type_code::REGISTER_RM_RESPONSE,
            Message::UnregisterRmRequest(_) => type_code::UNREGISTER_RM,
            Message::UnregisterRmResponse(_) => type_code::UNREGISTER_RM_RESPONSE,
            Message::GlobalBegin(_) => type_code::GLOBAL_BEGIN,
            Message::GlobalBeginResponse(_) => type_code::GLOBAL_BEGIN_RESPONSE,
            Message::GlobalCommit(_) => type_code::GLOBAL_COMMIT,
            Message::GlobalCommitResponse(_) => type_code::GLOBAL_COMMIT_RESPONSE,
            Message::GlobalRollback(_) => type_code::GLOBAL_ROLLBACK,
            Message::GlobalRollbackResponse(_) => type_code::GLOBAL_ROLLBACK_RESPONSE,
            Message::GlobalStatus(_) => type_code::GLOBAL_STATUS,
            Message::GlobalStatusResponse(_) => type_code::GLOBAL_STATUS_RESPONSE,
            Message::GlobalReport(_) => type_code::GLOBAL_REPORT,
            Message::GlobalReportResponse(_) => type_code::GLOBAL_REPORT_RESPONSE,
            Message::BranchRegister(_) => type_code::BRANCH_REGISTER,
            Message::BranchRegisterResponse(_) => type_code::BRANCH_REGISTER_RESPONSE,
            Message::BranchReport(_) => type_code::BRANCH_REPORT,
            Message::BranchReportResponse(_) => type_code::BRANCH_REPORT_RESPONSE,
            Message::GlobalLockQuery(_) => type_code::GLOBAL_LOCK_QUERY,
            Message::GlobalLockQueryResponse(_) => type_code::GLOBAL_LOCK_QUERY_RESPONSE,
            Message::BranchCommit(_) => type_code::BRANCH_COMMIT,
            Message::BranchCommitResponse(_) => type_code::BRANCH_COMMIT_RESPONSE,
            Message::BranchRollback(_) => type_code::BRANCH_ROLLBACK,
            Message::BranchRollbackResponse(_) => type_code::BRANCH_ROLLBACK_RESPONSE,
            Message::UndoLogDelete(_) => type_code::UNDO_LOG_DELETE,
            Message::Merged(_) => type_code::MERGED,
            Message::MergeResult(_) => type_code::MERGE_RESULT,
            Message::BatchResult { .. } => type_code::BATCH_RESULT,
        }
    }
}
