//! The `protobuf` serializer: the length (i32) and full name of a message type, then the message.
//!
//! The same types stand under two packages, and a reader knows only one of them: answer in the one that was received.
//! Enumerations go by their names, as in Java, and their lists are shorter than Java's own; the exception codes are
//! numbered unlike those of the `seata` serializer. What a list lacks is told by what comes nearest, or not at all.
//!
//! Source: the field numbers and the conversions of `seata-serializer-protobuf` 1.8.0 and of Seata's main branch.

use bytes::{BufMut, BytesMut};

use crate::{
    codec::check_mergeable,
    enums::{BranchStatus, BranchType, ExceptionCode, GlobalStatus},
    error::WireError,
    frame::Takes,
    message::*,
    proto_fields::{Fields, each, put_nested, put_number, put_text},
};

/// Where the message types stand.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Package {
    /// `io.seata.protocol.protobuf`, up to Seata 2.0.
    Io,
    /// `org.apache.seata.protocol.protobuf`, since then.
    Apache,
}

impl Package {
    const ALL: [Package; 2] = [Package::Io, Package::Apache];

    const fn name(self) -> &'static str {
        match self {
            Package::Io => "io.seata.protocol.protobuf",
            Package::Apache => "org.apache.seata.protocol.protobuf",
        }
    }
}

const ANY_URL: &str = "type.googleapis.com/";

/// The types by the code of their message; the others are in no list of types.
const TYPES: &[(i16, &str)] = &[
    (type_code::GLOBAL_BEGIN, "GlobalBeginRequestProto"),
    (type_code::GLOBAL_BEGIN_RESPONSE, "GlobalBeginResponseProto"),
    (type_code::BRANCH_COMMIT, "BranchCommitRequestProto"),
    (type_code::BRANCH_COMMIT_RESPONSE, "BranchCommitResponseProto"),
    (type_code::BRANCH_ROLLBACK, "BranchRollbackRequestProto"),
    (type_code::BRANCH_ROLLBACK_RESPONSE, "BranchRollbackResponseProto"),
    (type_code::GLOBAL_COMMIT, "GlobalCommitRequestProto"),
    (type_code::GLOBAL_COMMIT_RESPONSE, "GlobalCommitResponseProto"),
    (type_code::GLOBAL_ROLLBACK, "GlobalRollbackRequestProto"),
    (type_code::GLOBAL_ROLLBACK_RESPONSE, "GlobalRollbackResponseProto"),
    (type_code::BRANCH_REGISTER, "BranchRegisterRequestProto"),
    (type_code::BRANCH_REGISTER_RESPONSE, "BranchRegisterResponseProto"),
    (type_code::BRANCH_REPORT, "BranchReportRequestProto"),
    (type_code::BRANCH_REPORT_RESPONSE, "BranchReportResponseProto"),
    (type_code::GLOBAL_STATUS, "GlobalStatusRequestProto"),
    (type_code::GLOBAL_STATUS_RESPONSE, "GlobalStatusResponseProto"),
    (type_code::GLOBAL_REPORT, "GlobalReportRequestProto"),
    (type_code::GLOBAL_REPORT_RESPONSE, "GlobalReportResponseProto"),
    (type_code::GLOBAL_LOCK_QUERY, "GlobalLockQueryRequestProto"),
    (type_code::GLOBAL_LOCK_QUERY_RESPONSE, "GlobalLockQueryResponseProto"),
    (type_code::MERGED, "MergedWarpMessageProto"),
    (type_code::MERGE_RESULT, "MergedResultMessageProto"),
    (type_code::REGISTER_TM, "RegisterTMRequestProto"),
    (type_code::REGISTER_TM_RESPONSE, "RegisterTMResponseProto"),
    (type_code::REGISTER_RM, "RegisterRMRequestProto"),
    (type_code::REGISTER_RM_RESPONSE, "RegisterRMResponseProto"),
    (type_code::UNDO_LOG_DELETE, "UndoLogDeleteRequestProto"),
    (type_code::BATCH_RESULT, "BatchResultMessageProto"),
];

/// The exception codes that have a name there, by their numbers.
const EXCEPTIONS: &[ExceptionCode] = &[
    ExceptionCode::Unknown,
    ExceptionCode::LockKeyConflict,
    ExceptionCode::Io,
    ExceptionCode::BranchRollbackFailedRetriable,
    ExceptionCode::BranchRollbackFailedUnretriable,
    ExceptionCode::BranchRegisterFailed,
    ExceptionCode::BranchReportFailed,
    ExceptionCode::LockableCheckFailed,
    ExceptionCode::BranchTransactionNotExist,
    ExceptionCode::GlobalTransactionNotExist,
    ExceptionCode::GlobalTransactionNotActive,
    ExceptionCode::GlobalTransactionStatusInvalid,
    ExceptionCode::FailedToSendBranchCommitRequest,
    ExceptionCode::FailedToSendBranchRollbackRequest,
    ExceptionCode::FailedToAddBranch,
    ExceptionCode::FailedLockGlobalTransaction,
    ExceptionCode::FailedWriteSession,
    ExceptionCode::FailedStore,
];

/// Appends the name of the type and the message.
///
/// # Errors
/// When the serializer has no such message or value. `out` then ends with a part of the message; cut it off.
pub(crate) fn encode(message: &Message, package: Package, out: &mut BytesMut) -> Result<(), WireError> {
    let name = type_name(message.type_code())?;
    let bytes = package.name().len() + 1 + name.len();
    out.put_u32(bytes as u32);
    out.put_slice(package.name().as_bytes());
    out.put_u8(b'.');
    out.put_slice(name.as_bytes());
    put_message(message, package, out)
}

/// Reads one message, which must fill `bytes` exactly.
pub(crate) fn decode(bytes: &[u8], takes: Takes) -> Result<(Package, Message), WireError> {
    let (length, rest) = bytes
        .split_first_chunk()
        .ok_or(broken("it ends before the name of its type"))?;
    let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| broken("the name has a negative length"))?;
    let (name, body) = rest
        .split_at_checked(length)
        .ok_or(broken("it ends within the name of its type"))?;
    let name = str::from_utf8(name).map_err(|_| broken("the name of its type is not UTF-8"))?;
    let (package, type_code) = type_of(name)?;
    takes.check(type_code)?;
    Ok((package, message(type_code, package, body)?))
}

/// Appends the message in an `Any`, as the gRPC transport has it.
///
/// # Errors
/// As [`encode`].
pub(crate) fn encode_any(message: &Message, package: Package, out: &mut BytesMut) -> Result<(), WireError> {
    let url = format!("{ANY_URL}{}.{}", package.name(), type_name(message.type_code())?);
    put_text(out, 1, &url);
    let mut result = Ok(());
    put_nested(out, 2, |out| result = put_message(message, package, out));
    result
}

/// Reads the message in an `Any`.
pub(crate) fn decode_any(bytes: &[u8], takes: Takes) -> Result<(Package, Message), WireError> {
    let any = Fields::of(bytes)?;
    let (package, type_code) = type_of(any_name(&any.text(1)?)?)?;
    takes.check(type_code)?;
    Ok((package, message(type_code, package, any.bytes(2)?)?))
}

fn any_name(url: &str) -> Result<&str, WireError> {
    let (_, name) = url.rsplit_once('/').ok_or(broken("the type in an Any has no name"))?;
    Ok(name)
}

fn type_name(type_code: i16) -> Result<&'static str, WireError> {
    let entry = TYPES.iter().find(|(code, _)| *code == type_code);
    entry.map(|(_, name)| *name).ok_or(WireError::NotInSerializer {
        kind: "message",
        value: type_code,
    })
}

fn type_of(full_name: &str) -> Result<(Package, i16), WireError> {
    let found = full_name.rsplit_once('.').and_then(|(package, name)| {
        let package = Package::ALL.into_iter().find(|known| known.name() == package)?;
        let (code, _) = TYPES.iter().find(|(_, known)| *known == name)?;
        Some((package, *code))
    });
    found.ok_or(broken("its type is none of Seata's"))
}

fn broken(problem: &'static str) -> WireError {
    WireError::Protobuf { problem }
}

fn put_message(message: &Message, package: Package, out: &mut BytesMut) -> Result<(), WireError> {
    let type_code = message.type_code();
    match message {
        Message::RegisterTmRequest(m) => put_nested(out, 1, |out| put_identity(type_code, m, out)),
        Message::RegisterRmRequest(m) | Message::UnregisterRmRequest(m) => {
            put_nested(out, 1, |out| put_identity(type_code, &m.identity, out));
            put_text(out, 2, &m.resource_ids);
        }
        Message::RegisterTmResponse(m) | Message::RegisterRmResponse(m) | Message::UnregisterRmResponse(m) => {
            put_nested(out, 1, |out| {
                put_nested(out, 1, |out| put_outcome(type_code, &m.outcome, out));
                put_text(out, 2, &m.version);
                put_number(out, 4, u64::from(m.identified));
            });
        }
        Message::GlobalBegin(m) => {
            put_nested(out, 1, |out| put_head(type_code, out));
            put_number(out, 2, i64::from(m.timeout_ms).cast_unsigned());
            put_text(out, 3, &m.transaction_name);
        }
        Message::GlobalBeginResponse(m) => {
            put_nested(out, 1, |out| put_result(type_code, &m.result, out));
            put_text(out, 2, &m.xid);
            put_text(out, 3, &m.extra_data);
        }
        Message::GlobalCommit(m) | Message::GlobalRollback(m) | Message::GlobalStatus(m) => {
            put_nested(out, 1, |out| put_global_end(type_code, &m.xid, &m.extra_data, out));
        }
        Message::GlobalReport(m) => {
            put_nested(out, 1, |out| put_global_end(type_code, &m.xid, &m.extra_data, out));
            put_number(out, 2, global_status(m.status.unwrap_or(GlobalStatus::Unknown)));
        }
        Message::GlobalCommitResponse(m)
        | Message::GlobalRollbackResponse(m)
        | Message::GlobalStatusResponse(m)
        | Message::GlobalReportResponse(m) => put_nested(out, 1, |out| {
            put_nested(out, 1, |out| put_result(type_code, &m.result, out));
            put_number(out, 2, global_status(m.status));
        }),
        Message::BranchRegister(m) => put_branch_register(type_code, m, branch_type(m.branch_type)?, out),
        Message::GlobalLockQuery(m) => {
            let branch_type = branch_type(m.branch_type)?;
            put_nested(out, 1, |out| put_branch_register(type_code, m, branch_type, out));
        }
        Message::BranchRegisterResponse(m) => {
            put_nested(out, 1, |out| put_result(type_code, &m.result, out));
            put_number(out, 2, m.branch_id.cast_unsigned());
        }
        Message::BranchReport(m) => {
            put_nested(out, 1, |out| put_head(type_code, out));
            put_text(out, 2, &m.xid);
            put_number(out, 3, m.branch_id.cast_unsigned());
            put_text(out, 4, &m.resource_id);
            put_number(out, 5, branch_status(m.status)?);
            put_text(out, 6, &m.application_data);
            put_number(out, 7, branch_type(m.branch_type)?);
        }
        Message::BranchReportResponse(m) => put_nested(out, 1, |out| put_result(type_code, m, out)),
        Message::GlobalLockQueryResponse(m) => {
            put_nested(out, 1, |out| put_result(type_code, &m.result, out));
            put_number(out, 2, u64::from(m.lockable));
        }
        Message::BranchCommit(m) | Message::BranchRollback(m) => {
            let branch_type = branch_type(m.branch_type)?;
            put_nested(out, 1, |out| {
                put_nested(out, 1, |out| put_head(type_code, out));
                put_text(out, 2, &m.xid);
                put_number(out, 3, m.branch_id.cast_unsigned());
                put_number(out, 4, branch_type);
                put_text(out, 5, &m.resource_id);
                put_text(out, 6, &m.application_data);
            });
        }
        Message::BranchCommitResponse(m) | Message::BranchRollbackResponse(m) => {
            let status = branch_status(m.status)?;
            put_nested(out, 1, |out| {
                put_nested(out, 1, |out| put_result(type_code, &m.result, out));
                put_text(out, 2, &m.xid);
                put_number(out, 3, m.branch_id.cast_unsigned());
                put_number(out, 4, status);
            });
        }
        Message::UndoLogDelete(m) => {
            put_nested(out, 1, |out| put_head(type_code, out));
            put_text(out, 2, &m.resource_id);
            put_number(out, 3, i64::from(m.save_days).cast_unsigned());
            put_number(out, 4, branch_type(m.branch_type)?);
        }
        Message::Merged(m) => {
            let items = m.items.iter().map(|(id, message)| (*id, message));
            put_merge(type_code, items, package, out)?;
        }
        Message::MergeResult(messages) => {
            put_merge(type_code, messages.iter().map(|message| (None, message)), package, out)?;
        }
        Message::BatchResult { items } => {
            put_merge(
                type_code,
                items.iter().map(|(id, message)| (Some(*id), message)),
                package,
                out,
            )?;
        }
    }
    Ok(())
}

fn message(type_code: i16, package: Package, bytes: &[u8]) -> Result<Message, WireError> {
    let fields = Fields::of(bytes)?;
    Ok(match type_code {
        type_code::REGISTER_TM => Message::RegisterTmRequest(identity(&fields)?),
        type_code::REGISTER_RM => Message::RegisterRmRequest(RegisterRm {
            identity: identity(&fields)?,
            resource_ids: fields.text(2)?,
        }),
        type_code::REGISTER_TM_RESPONSE => Message::RegisterTmResponse(register_response(&fields)?),
        type_code::REGISTER_RM_RESPONSE => Message::RegisterRmResponse(register_response(&fields)?),
        type_code::GLOBAL_BEGIN => Message::GlobalBegin(GlobalBegin {
            timeout_ms: fields.i32(2)?,
            transaction_name: fields.text(3)?,
        }),
        type_code::GLOBAL_BEGIN_RESPONSE => Message::GlobalBeginResponse(GlobalBeginResponse {
            result: result(&fields)?,
            xid: fields.text(2)?,
            extra_data: fields.text(3)?,
        }),
        type_code::GLOBAL_COMMIT => Message::GlobalCommit(global_end(&fields)?),
        type_code::GLOBAL_ROLLBACK => Message::GlobalRollback(global_end(&fields)?),
        type_code::GLOBAL_STATUS => Message::GlobalStatus(global_end(&fields)?),
        type_code::GLOBAL_REPORT => {
            let GlobalEnd { xid, extra_data } = global_end(&fields)?;
            Message::GlobalReport(GlobalReport {
                xid,
                extra_data,
                status: Some(read_global_status(&fields, 2)?),
            })
        }
        type_code::GLOBAL_COMMIT_RESPONSE => Message::GlobalCommitResponse(global_end_response(&fields)?),
        type_code::GLOBAL_ROLLBACK_RESPONSE => Message::GlobalRollbackResponse(global_end_response(&fields)?),
        type_code::GLOBAL_STATUS_RESPONSE => Message::GlobalStatusResponse(global_end_response(&fields)?),
        type_code::GLOBAL_REPORT_RESPONSE => Message::GlobalReportResponse(global_end_response(&fields)?),
        type_code::BRANCH_REGISTER => Message::BranchRegister(branch_register(&fields)?),
        type_code::GLOBAL_LOCK_QUERY => Message::GlobalLockQuery(branch_register(&fields.nested(1)?)?),
        type_code::BRANCH_REGISTER_RESPONSE => Message::BranchRegisterResponse(BranchRegisterResponse {
            result: result(&fields)?,
            branch_id: fields.i64(2)?,
        }),
        type_code::BRANCH_REPORT => Message::BranchReport(BranchReport {
            xid: fields.text(2)?,
            branch_id: fields.i64(3)?,
            resource_id: fields.text(4)?,
            status: read_branch_status(&fields, 5)?,
            application_data: fields.text(6)?,
            branch_type: read_branch_type(&fields, 7)?,
        }),
        type_code::BRANCH_REPORT_RESPONSE => Message::BranchReportResponse(result(&fields)?),
        type_code::GLOBAL_LOCK_QUERY_RESPONSE => Message::GlobalLockQueryResponse(GlobalLockQueryResponse {
            result: result(&fields)?,
            lockable: fields.number(2)? != 0,
        }),
        type_code::BRANCH_COMMIT => Message::BranchCommit(branch_end(&fields)?),
        type_code::BRANCH_ROLLBACK => Message::BranchRollback(branch_end(&fields)?),
        type_code::BRANCH_COMMIT_RESPONSE => Message::BranchCommitResponse(branch_end_response(&fields)?),
        type_code::BRANCH_ROLLBACK_RESPONSE => Message::BranchRollbackResponse(branch_end_response(&fields)?),
        type_code::UNDO_LOG_DELETE => Message::UndoLogDelete(UndoLogDelete {
            resource_id: fields.text(2)?,
            save_days: i16::try_from(fields.i32(3)?).map_err(|_| broken("the days do not fit 16 bits"))?,
            branch_type: read_branch_type(&fields, 4)?,
        }),
        type_code::MERGED => {
            let (messages, ids) = merge(type_code, package, bytes)?;
            let ids = match ids.is_empty() {
                true => vec![None; messages.len()],
                false => ids.into_iter().map(Some).collect(),
            };
            let items = zip(type_code, ids, messages)?;
            Message::Merged(MergedRequest { items })
        }
        type_code::MERGE_RESULT => Message::MergeResult(merge(type_code, package, bytes)?.0),
        type_code::BATCH_RESULT => {
            let (messages, ids) = merge(type_code, package, bytes)?;
            let items = zip(type_code, ids, messages)?;
            Message::BatchResult { items }
        }
        _ => return Err(WireError::UnknownMessage { type_code }),
    })
}

fn put_head(type_code: i16, out: &mut BytesMut) {
    put_nested(out, 1, |out| put_number(out, 1, type_code.unsigned_abs().into()));
}

fn put_outcome(type_code: i16, outcome: &Outcome, out: &mut BytesMut) {
    put_head(type_code, out);
    match outcome {
        Outcome::Success => put_number(out, 2, 1),
        Outcome::Failed { message } => put_text(out, 3, message),
    }
}

fn outcome(fields: &Fields<'_>) -> Result<Outcome, WireError> {
    let message = fields.text(3)?;
    match fields.value(2)? {
        0 => Ok(Outcome::Failed { message }),
        1 => Ok(Outcome::Success),
        value => Err(WireError::UnknownValue {
            kind: "result code",
            value,
        }),
    }
}

fn put_result(type_code: i16, result: &TxResult, out: &mut BytesMut) {
    put_nested(out, 1, |out| put_outcome(type_code, &result.outcome, out));
    put_number(out, 2, exception(result.exception_code));
}

/// Of the message that holds it in its first field.
fn result(fields: &Fields<'_>) -> Result<TxResult, WireError> {
    let fields = fields.nested(1)?;
    let value = fields.value(2)?;
    Ok(TxResult {
        outcome: outcome(&fields.nested(1)?)?,
        exception_code: *EXCEPTIONS.get(usize::from(value)).ok_or(WireError::UnknownValue {
            kind: "exception code",
            value,
        })?,
    })
}

fn put_identity(type_code: i16, identity: &Identity, out: &mut BytesMut) {
    put_head(type_code, out);
    put_text(out, 2, &identity.version);
    put_text(out, 3, &identity.application_id);
    put_text(out, 4, &identity.transaction_service_group);
    put_text(out, 5, &identity.extra_data);
}

fn identity(fields: &Fields<'_>) -> Result<Identity, WireError> {
    let fields = fields.nested(1)?;
    Ok(Identity {
        version: fields.text(2)?,
        application_id: fields.text(3)?,
        transaction_service_group: fields.text(4)?,
        extra_data: fields.text(5)?,
    })
}

fn register_response(fields: &Fields<'_>) -> Result<RegisterResponse, WireError> {
    let fields = fields.nested(1)?;
    Ok(RegisterResponse {
        outcome: outcome(&fields.nested(1)?)?,
        version: fields.text(2)?,
        identified: fields.number(4)? != 0,
    })
}

fn put_global_end(type_code: i16, xid: &str, extra_data: &str, out: &mut BytesMut) {
    put_nested(out, 1, |out| put_head(type_code, out));
    put_text(out, 2, xid);
    put_text(out, 3, extra_data);
}

fn global_end(fields: &Fields<'_>) -> Result<GlobalEnd, WireError> {
    let fields = fields.nested(1)?;
    Ok(GlobalEnd {
        xid: fields.text(2)?,
        extra_data: fields.text(3)?,
    })
}

fn global_end_response(fields: &Fields<'_>) -> Result<GlobalEndResponse, WireError> {
    let fields = fields.nested(1)?;
    Ok(GlobalEndResponse {
        result: result(&fields)?,
        status: read_global_status(&fields, 2)?,
    })
}

fn put_branch_register(type_code: i16, m: &BranchRegister, branch_type: u64, out: &mut BytesMut) {
    put_nested(out, 1, |out| put_head(type_code, out));
    put_text(out, 2, &m.xid);
    put_number(out, 3, branch_type);
    put_text(out, 4, &m.resource_id);
    put_text(out, 5, &m.lock_key);
    put_text(out, 6, &m.application_data);
}

fn branch_register(fields: &Fields<'_>) -> Result<BranchRegister, WireError> {
    Ok(BranchRegister {
        xid: fields.text(2)?,
        branch_type: read_branch_type(fields, 3)?,
        resource_id: fields.text(4)?,
        lock_key: fields.text(5)?,
        application_data: fields.text(6)?,
    })
}

fn branch_end(fields: &Fields<'_>) -> Result<BranchEnd, WireError> {
    let fields = fields.nested(1)?;
    Ok(BranchEnd {
        xid: fields.text(2)?,
        branch_id: fields.i64(3)?,
        branch_type: read_branch_type(&fields, 4)?,
        resource_id: fields.text(5)?,
        application_data: fields.text(6)?,
    })
}

fn branch_end_response(fields: &Fields<'_>) -> Result<BranchEndResponse, WireError> {
    let fields = fields.nested(1)?;
    Ok(BranchEndResponse {
        result: result(&fields)?,
        xid: fields.text(2)?,
        branch_id: fields.i64(3)?,
        status: read_branch_status(&fields, 4)?,
    })
}

fn put_merge<'m>(
    outer: i16,
    items: impl Iterator<Item = (Option<i32>, &'m Message)>,
    package: Package,
    out: &mut BytesMut,
) -> Result<(), WireError> {
    put_head(outer, out);
    let mut ids = BytesMut::new();
    for (id, message) in items {
        let inner = message.type_code();
        check_mergeable(outer, inner)?;
        let mut result = Ok(());
        put_nested(out, 2, |out| result = encode_any(message, package, out));
        result?;
        if let Some(id) = id {
            crate::proto_fields::put_varint(&mut ids, i64::from(id).cast_unsigned());
        }
    }
    if !ids.is_empty() {
        put_nested(out, 3, |out| out.put_slice(&ids));
    }
    Ok(())
}

fn merge(outer: i16, package: Package, bytes: &[u8]) -> Result<(Vec<Message>, Vec<i32>), WireError> {
    let mut messages = Vec::new();
    for any in each(bytes, 2) {
        let any = Fields::of(any?.bytes()?)?;
        let (inner_package, inner) = type_of(any_name(&any.text(1)?)?)?;
        if inner_package != package {
            return Err(broken("a merged message is of another package"));
        }
        check_mergeable(outer, inner)?;
        messages.push(message(inner, package, any.bytes(2)?)?);
    }
    let mut ids = Vec::new();
    for field in each(bytes, 3) {
        // Packed or not, as a reader has to take both.
        field?.numbers(&mut |id| ids.push(id as i32))?;
    }
    Ok((messages, ids))
}

fn zip<T>(type_code: i16, ids: Vec<T>, messages: Vec<Message>) -> Result<Vec<(T, Message)>, WireError> {
    if ids.len() != messages.len() {
        return Err(WireError::MergeShape {
            type_code,
            problem: "what follows the messages is not one id for each",
        });
    }
    Ok(ids.into_iter().zip(messages).collect())
}

/// Java throws on a status above `Finished`, so the end of all retries is told as the failure that it is.
fn global_status(status: GlobalStatus) -> u64 {
    let status = match status {
        GlobalStatus::CommitRetryTimeout | GlobalStatus::StopCommitOrCommitRetry => GlobalStatus::CommitFailed,
        GlobalStatus::RollbackRetryTimeout | GlobalStatus::StopRollbackOrRollbackRetry => GlobalStatus::RollbackFailed,
        GlobalStatus::Deleting => GlobalStatus::Unknown,
        status => status,
    };
    status.as_u8().into()
}

fn branch_type(branch_type: BranchType) -> Result<u64, WireError> {
    match branch_type {
        BranchType::At | BranchType::Tcc | BranchType::Saga => Ok(branch_type.as_u8().into()),
        BranchType::Xa | BranchType::SagaAnnotation => Err(WireError::NotInSerializer {
            kind: "branch type",
            value: branch_type.as_u8().into(),
        }),
    }
}

fn branch_status(status: BranchStatus) -> Result<u64, WireError> {
    match status {
        BranchStatus::PhaseTwoCommitFailedXaerNotaRetryable
        | BranchStatus::PhaseTwoRollbackFailedXaerNotaRetryable
        | BranchStatus::StopRetry => Err(WireError::NotInSerializer {
            kind: "branch status",
            value: status.as_u8().into(),
        }),
        status => Ok(status.as_u8().into()),
    }
}

/// A code without a name there is told by the nearest one: a client that must not retry a lock then retries it in vain.
fn exception(code: ExceptionCode) -> u64 {
    let code = match code {
        ExceptionCode::LockKeyConflictFailFast => ExceptionCode::LockKeyConflict,
        code => code,
    };
    EXCEPTIONS.iter().position(|known| *known == code).unwrap_or_default() as u64
}

/// What the lists lack cannot have come from Java.
fn read_global_status(fields: &Fields<'_>, field: usize) -> Result<GlobalStatus, WireError> {
    let value = fields.value(field)?;
    let status = GlobalStatus::try_from(value)?;
    if status > GlobalStatus::Finished {
        let kind = "global status";
        return Err(WireError::UnknownValue { kind, value });
    }
    Ok(status)
}

fn read_branch_type(fields: &Fields<'_>, field: usize) -> Result<BranchType, WireError> {
    let found = BranchType::try_from(fields.value(field)?)?;
    branch_type(found).map(|_| found)
}

fn read_branch_status(fields: &Fields<'_>, field: usize) -> Result<BranchStatus, WireError> {
    let found = BranchStatus::try_from(fields.value(field)?)?;
    branch_status(found).map(|_| found)
}
