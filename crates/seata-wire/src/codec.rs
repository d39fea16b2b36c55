//! The `seata` serializer: an i16 type code, then the payload; big-endian, no padding, no length around a message.
//!
//! Source: `ser/protocol/**` of `seata-serializer-seata` 1.8.0; its classes are the same in 2.6.0.

use crate::error::WireError;
use crate::frame::ProtocolVersion;
use crate::message::*;
use crate::read::Reader;
use crate::write::Writer;
use bytes::{BufMut, BytesMut};

/// The shortest message inside a merge: a type code and a successful `TxResult`.
const MERGED_ITEM_BYTES_MIN: usize = 4;

impl Message {
    /// Appends the type code and the payload to `out`.
    ///
    /// # Errors
    /// When a string is longer than the format carries, or a merge holds what it may not. `out` then ends with a part
    /// of the message; cut it off.
    pub fn encode(&self, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), WireError> {
        let mut writer = Writer::new(out, self.type_code());
        write_message(self, version, &mut writer)
    }

    /// Reads one message, which must fill `bytes` exactly.
    pub fn decode(version: ProtocolVersion, bytes: &[u8]) -> Result<Message, WireError> {
        let mut reader = Reader::new(bytes, 0);
        let type_code = reader.i16("type code")?;
        reader.enter(type_code);
        let message = read_payload(type_code, version, &mut reader)?;
        reader.finish()?;
        Ok(message)
    }
}

fn write_message(message: &Message, version: ProtocolVersion, w: &mut Writer<'_>) -> Result<(), WireError> {
    w.out.put_i16(message.type_code());
    match message {
        Message::RegisterTmRequest(m) => write_identity(m, w),
        Message::RegisterRmRequest(m) | Message::UnregisterRmRequest(m) => {
            write_identity(&m.identity, w)?;
            w.s32("resource ids", &m.resource_ids)
        }
        Message::RegisterTmResponse(m) | Message::RegisterRmResponse(m) => {
            if version == ProtocolVersion::V2 {
                write_outcome(&m.outcome, w);
            }
            write_identified(m, w)
        }
        Message::UnregisterRmResponse(m) => write_identified(m, w),
        Message::GlobalBegin(m) => {
            w.out.put_i32(m.timeout_ms);
            w.s16("transaction name", &m.transaction_name)
        }
        Message::GlobalBeginResponse(m) => {
            write_result(&m.result, w);
            w.s16("xid", &m.xid)?;
            w.s16("extra data", &m.extra_data)
        }
        Message::GlobalCommit(m) | Message::GlobalRollback(m) | Message::GlobalStatus(m) => {
            w.s16("xid", &m.xid)?;
            w.s16("extra data", &m.extra_data)
        }
        Message::GlobalReport(m) => {
            w.s16("xid", &m.xid)?;
            w.s16("extra data", &m.extra_data)?;
            w.out.put_u8(m.status.map_or(NULL_STATUS, |status| status.as_u8()));
            Ok(())
        }
        Message::GlobalCommitResponse(m)
        | Message::GlobalRollbackResponse(m)
        | Message::GlobalStatusResponse(m)
        | Message::GlobalReportResponse(m) => {
            write_result(&m.result, w);
            w.out.put_u8(m.status.as_u8());
            Ok(())
        }
        Message::BranchRegister(m) | Message::GlobalLockQuery(m) => {
            w.s16("xid", &m.xid)?;
            w.out.put_u8(m.branch_type.as_u8());
            w.s16("resource id", &m.resource_id)?;
            w.s32("lock key", &m.lock_key)?;
            w.s32("application data", &m.application_data)
        }
        Message::BranchRegisterResponse(m) => {
            write_result(&m.result, w);
            w.out.put_i64(m.branch_id);
            Ok(())
        }
        Message::BranchReport(m) => {
            w.s16("xid", &m.xid)?;
            w.out.put_i64(m.branch_id);
            w.out.put_u8(m.status.as_u8());
            w.s16("resource id", &m.resource_id)?;
            w.s32("application data", &m.application_data)?;
            w.out.put_u8(m.branch_type.as_u8());
            Ok(())
        }
        Message::BranchReportResponse(m) => {
            write_result(m, w);
            Ok(())
        }
        Message::GlobalLockQueryResponse(m) => {
            write_result(&m.result, w);
            w.out.put_i16(i16::from(m.lockable));
            Ok(())
        }
        Message::BranchCommit(m) | Message::BranchRollback(m) => {
            w.s16("xid", &m.xid)?;
            w.out.put_i64(m.branch_id);
            w.out.put_u8(m.branch_type.as_u8());
            w.s16("resource id", &m.resource_id)?;
            w.s32("application data", &m.application_data)
        }
        Message::BranchCommitResponse(m) | Message::BranchRollbackResponse(m) => {
            write_result(&m.result, w);
            w.s16("xid", &m.xid)?;
            w.out.put_i64(m.branch_id);
            w.out.put_u8(m.status.as_u8());
            Ok(())
        }
        Message::UndoLogDelete(m) => {
            w.out.put_u8(m.branch_type.as_u8());
            w.s16("resource id", &m.resource_id)?;
            w.out.put_i16(m.save_days);
            Ok(())
        }
        Message::Merged(m) => {
            let with_ids = m.items.iter().filter(|(id, _)| id.is_some()).count();
            if with_ids != 0 && with_ids != m.items.len() {
                return Err(WireError::MergeShape {
                    type_code: type_code::MERGED,
                    problem: "either all items carry a message id or none does",
                });
            }
            let messages = m.items.iter().map(|(_, message)| message);
            write_merge(
                type_code::MERGED,
                messages,
                m.items.iter().filter_map(|(id, _)| *id),
                version,
                w,
            )
        }
        Message::MergeResult(messages) => {
            write_merge(type_code::MERGE_RESULT, messages.iter(), std::iter::empty(), version, w)
        }
        Message::BatchResult { items } => {
            let messages = items.iter().map(|(_, message)| message);
            write_merge(
                type_code::BATCH_RESULT,
                messages,
                items.iter().map(|(id, _)| *id),
                version,
                w,
            )
        }
    }
}

fn read_payload(type_code: i16, version: ProtocolVersion, r: &mut Reader<'_>) -> Result<Message, WireError> {
    Ok(match type_code {
        type_code::REGISTER_TM => Message::RegisterTmRequest(read_identity(r)?),
        type_code::REGISTER_RM => Message::RegisterRmRequest(read_register_rm(r)?),
        type_code::UNREGISTER_RM => Message::UnregisterRmRequest(read_register_rm(r)?),
        type_code::REGISTER_TM_RESPONSE => Message::RegisterTmResponse(read_register_response(version, r)?),
        type_code::REGISTER_RM_RESPONSE => Message::RegisterRmResponse(read_register_response(version, r)?),
        // Seata 2.7 has no second codec for 106: it stays as in version 1.
        type_code::UNREGISTER_RM_RESPONSE => {
            Message::UnregisterRmResponse(read_register_response(ProtocolVersion::V1, r)?)
        }
        type_code::GLOBAL_BEGIN => Message::GlobalBegin(GlobalBegin {
            timeout_ms: r.i32("timeout")?,
            transaction_name: r.s16("transaction name")?,
        }),
        type_code::GLOBAL_BEGIN_RESPONSE => Message::GlobalBeginResponse(GlobalBeginResponse {
            result: read_result(r)?,
            xid: r.s16("xid")?,
            extra_data: r.s16("extra data")?,
        }),
        type_code::GLOBAL_COMMIT => Message::GlobalCommit(read_global_end(r)?),
        type_code::GLOBAL_ROLLBACK => Message::GlobalRollback(read_global_end(r)?),
        type_code::GLOBAL_STATUS => Message::GlobalStatus(read_global_end(r)?),
        type_code::GLOBAL_REPORT => Message::GlobalReport(GlobalReport {
            xid: r.s16("xid")?,
            extra_data: r.s16("extra data")?,
            status: match r.u8("global status")? {
                // Java takes every negative byte for null.
                negative if negative > i8::MAX as u8 => None,
                value => Some(value.try_into()?),
            },
        }),
        type_code::GLOBAL_COMMIT_RESPONSE => Message::GlobalCommitResponse(read_global_end_response(r)?),
        type_code::GLOBAL_ROLLBACK_RESPONSE => Message::GlobalRollbackResponse(read_global_end_response(r)?),
        type_code::GLOBAL_STATUS_RESPONSE => Message::GlobalStatusResponse(read_global_end_response(r)?),
        type_code::GLOBAL_REPORT_RESPONSE => Message::GlobalReportResponse(read_global_end_response(r)?),
        type_code::BRANCH_REGISTER => Message::BranchRegister(read_branch_register(r)?),
        type_code::GLOBAL_LOCK_QUERY => Message::GlobalLockQuery(read_branch_register(r)?),
        type_code::BRANCH_REGISTER_RESPONSE => Message::BranchRegisterResponse(BranchRegisterResponse {
            result: read_result(r)?,
            branch_id: r.i64("branch id")?,
        }),
        type_code::BRANCH_REPORT => Message::BranchReport(BranchReport {
            xid: r.s16("xid")?,
            branch_id: r.i64("branch id")?,
            status: r.u8("branch status")?.try_into()?,
            resource_id: r.s16("resource id")?,
            application_data: r.s32("application data")?,
            branch_type: r.u8("branch type")?.try_into()?,
        }),
        type_code::BRANCH_REPORT_RESPONSE => Message::BranchReportResponse(read_result(r)?),
        type_code::GLOBAL_LOCK_QUERY_RESPONSE => Message::GlobalLockQueryResponse(GlobalLockQueryResponse {
            result: read_result(r)?,
            lockable: r.i16("lockable")? == 1,
        }),
        type_code::BRANCH_COMMIT => Message::BranchCommit(read_branch_end(r)?),
        type_code::BRANCH_ROLLBACK => Message::BranchRollback(read_branch_end(r)?),
        type_code::BRANCH_COMMIT_RESPONSE => Message::BranchCommitResponse(read_branch_end_response(r)?),
        type_code::BRANCH_ROLLBACK_RESPONSE => Message::BranchRollbackResponse(read_branch_end_response(r)?),
        type_code::UNDO_LOG_DELETE => Message::UndoLogDelete(UndoLogDelete {
            branch_type: r.u8("branch type")?.try_into()?,
            resource_id: r.s16("resource id")?,
            save_days: r.i16("save days")?,
        }),
        type_code::MERGED => {
            let (messages, ids) = read_merge(version, r)?;
            let items = match ids {
                Some(ids) => ids.into_iter().map(Some).zip(messages).collect(),
                None => messages.into_iter().map(|message| (None, message)).collect(),
            };
            Message::Merged(MergedRequest { items })
        }
        type_code::MERGE_RESULT => match read_merge(version, r)? {
            (messages, None) => Message::MergeResult(messages),
            (_, Some(ids)) => {
                return Err(WireError::TrailingBytes {
                    type_code,
                    count: ids.len() * size_of::<i32>(),
                });
            }
        },
        type_code::BATCH_RESULT => match read_merge(version, r)? {
            (messages, Some(ids)) => Message::BatchResult {
                items: ids.into_iter().zip(messages).collect(),
            },
            (messages, None) if messages.is_empty() => Message::BatchResult { items: Vec::new() },
            (_, None) => {
                return Err(WireError::MergeShape {
                    type_code,
                    problem: "the message ids are missing",
                });
            }
        },
        _ => return Err(WireError::UnknownMessage { type_code }),
    })
}

/// Java writes a null status as -1.
const NULL_STATUS: u8 = u8::MAX;

fn write_identity(m: &Identity, w: &mut Writer<'_>) -> Result<(), WireError> {
    w.s16("version", &m.version)?;
    w.s16("application id", &m.application_id)?;
    w.s16("transaction service group", &m.transaction_service_group)?;
    w.s16("extra data", &m.extra_data)
}

fn read_identity(r: &mut Reader<'_>) -> Result<Identity, WireError> {
    Ok(Identity {
        version: r.s16("version")?,
        application_id: r.s16("application id")?,
        transaction_service_group: r.s16("transaction service group")?,
        extra_data: r.s16("extra data")?,
    })
}

fn read_register_rm(r: &mut Reader<'_>) -> Result<RegisterRm, WireError> {
    Ok(RegisterRm {
        identity: read_identity(r)?,
        resource_ids: r.s32("resource ids")?,
    })
}

fn write_identified(m: &RegisterResponse, w: &mut Writer<'_>) -> Result<(), WireError> {
    w.out.put_u8(u8::from(m.identified));
    w.s16("version", &m.version)
}

fn read_register_response(version: ProtocolVersion, r: &mut Reader<'_>) -> Result<RegisterResponse, WireError> {
    let told = match version {
        ProtocolVersion::V1 => None,
        ProtocolVersion::V2 => Some(read_outcome(r)?),
    };
    let identified = r.u8("identified")? == 1;
    let implied = || {
        if identified {
            Outcome::Success
        } else {
            Outcome::Failed { message: String::new() }
        }
    };
    Ok(RegisterResponse {
        outcome: told.unwrap_or_else(implied),
        identified,
        version: r.s16("version")?,
    })
}

fn write_outcome(outcome: &Outcome, w: &mut Writer<'_>) {
    match outcome {
        Outcome::Success => w.out.put_u8(1),
        Outcome::Failed { message } => {
            w.out.put_u8(0);
            w.s16_cut(message);
        }
    }
}

fn read_outcome(r: &mut Reader<'_>) -> Result<Outcome, WireError> {
    match r.u8("result code")? {
        0 => Ok(Outcome::Failed {
            message: r.s16("failure message")?,
        }),
        1 => Ok(Outcome::Success),
        value => Err(WireError::UnknownValue {
            kind: "result code",
            value,
        }),
    }
}

fn write_result(result: &TxResult, w: &mut Writer<'_>) {
    write_outcome(&result.outcome, w);
    w.out.put_u8(result.exception_code.as_u8());
}

fn read_result(r: &mut Reader<'_>) -> Result<TxResult, WireError> {
    Ok(TxResult {
        outcome: read_outcome(r)?,
        exception_code: r.u8("exception code")?.try_into()?,
    })
}

fn read_global_end(r: &mut Reader<'_>) -> Result<GlobalEnd, WireError> {
    Ok(GlobalEnd {
        xid: r.s16("xid")?,
        extra_data: r.s16("extra data")?,
    })
}

fn read_global_end_response(r: &mut Reader<'_>) -> Result<GlobalEndResponse, WireError> {
    Ok(GlobalEndResponse {
        result: read_result(r)?,
        status: r.u8("global status")?.try_into()?,
    })
}

fn read_branch_register(r: &mut Reader<'_>) -> Result<BranchRegister, WireError> {
    Ok(BranchRegister {
        xid: r.s16("xid")?,
        branch_type: r.u8("branch type")?.try_into()?,
        resource_id: r.s16("resource id")?,
        lock_key: r.s32("lock key")?,
        application_data: r.s32("application data")?,
    })
}

fn read_branch_end(r: &mut Reader<'_>) -> Result<BranchEnd, WireError> {
    Ok(BranchEnd {
        xid: r.s16("xid")?,
        branch_id: r.i64("branch id")?,
        branch_type: r.u8("branch type")?.try_into()?,
        resource_id: r.s16("resource id")?,
        application_data: r.s32("application data")?,
    })
}

fn read_branch_end_response(r: &mut Reader<'_>) -> Result<BranchEndResponse, WireError> {
    Ok(BranchEndResponse {
        result: read_result(r)?,
        xid: r.s16("xid")?,
        branch_id: r.i64("branch id")?,
        status: r.u8("branch status")?.try_into()?,
    })
}

/// Is `inner` allowed inside `outer`? A merge never nests, and only answers go into 60 and 121. (Java would recurse.)
pub(crate) fn check_mergeable(outer: i16, inner: i16) -> Result<(), WireError> {
    let nested = matches!(
        inner,
        type_code::MERGED | type_code::MERGE_RESULT | type_code::BATCH_RESULT
    );
    let is_response = matches!(
        inner,
        type_code::GLOBAL_BEGIN_RESPONSE
            | type_code::BRANCH_COMMIT_RESPONSE
            | type_code::BRANCH_ROLLBACK_RESPONSE
            | type_code::GLOBAL_COMMIT_RESPONSE
            | type_code::GLOBAL_ROLLBACK_RESPONSE
            | type_code::BRANCH_REGISTER_RESPONSE
            | type_code::BRANCH_REPORT_RESPONSE
            | type_code::GLOBAL_STATUS_RESPONSE
            | type_code::GLOBAL_REPORT_RESPONSE
            | type_code::GLOBAL_LOCK_QUERY_RESPONSE
            | type_code::REGISTER_TM_RESPONSE
            | type_code::REGISTER_RM_RESPONSE
            | type_code::UNREGISTER_RM_RESPONSE
    );
    if nested || (outer != type_code::MERGED && !is_response) {
        return Err(WireError::NotMergeable {
            outer,
            type_code: inner,
        });
    }
    Ok(())
}

/// i32 length of what follows, i16 count, the messages, their ids if any.
fn write_merge<'m>(
    outer: i16,
    messages: impl ExactSizeIterator<Item = &'m Message>,
    ids: impl Iterator<Item = i32>,
    version: ProtocolVersion,
    w: &mut Writer<'_>,
) -> Result<(), WireError> {
    let count = i16::try_from(messages.len()).map_err(|_| WireError::MergeShape {
        type_code: outer,
        problem: "more than 32767 messages",
    })?;
    let length_at = w.out.len();
    w.out.put_i32(0);
    w.out.put_i16(count);
    for message in messages {
        check_mergeable(outer, message.type_code())?;
        w.enter(message.type_code());
        write_message(message, version, w)?;
        w.enter(outer);
    }
    for id in ids {
        w.out.put_i32(id);
    }
    let length = i32::try_from(w.out.len() - length_at - size_of::<i32>()).map_err(|_| WireError::MergeShape {
        type_code: outer,
        problem: "longer than 2 GiB",
    })?;
    w.out[length_at..length_at + size_of::<i32>()].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

fn read_merge(version: ProtocolVersion, r: &mut Reader<'_>) -> Result<(Vec<Message>, Option<Vec<i32>>), WireError> {
    let outer = r.type_code();
    let length = r.i32("length")?;
    let length = usize::try_from(length).map_err(|_| WireError::NegativeLength {
        type_code: outer,
        field: "length",
        length,
    })?;
    let mut items = Reader::new(r.take("merged messages", length)?, outer);
    let count = items.i16("count")?;
    let count = usize::try_from(count).map_err(|_| WireError::NegativeLength {
        type_code: outer,
        field: "count",
        length: i32::from(count),
    })?;
    if count > items.left() / MERGED_ITEM_BYTES_MIN {
        let needed = count * MERGED_ITEM_BYTES_MIN;
        return Err(WireError::Truncated {
            type_code: outer,
            field: "merged messages",
            needed,
            left: items.left(),
        });
    }
    let mut messages = Vec::with_capacity(count);
    for _ in 0..count {
        let inner = items.i16("type code")?;
        check_mergeable(outer, inner)?;
        items.enter(inner);
        messages.push(read_payload(inner, version, &mut items)?);
        items.enter(outer);
    }
    if items.left() == 0 {
        return Ok((messages, None));
    }
    if items.left() != count * size_of::<i32>() {
        return Err(WireError::MergeShape {
            type_code: outer,
            problem: "what follows the messages is not one id for each",
        });
    }
    let ids = (0..count)
        .map(|_| items.i32("message id"))
        .collect::<Result<Vec<i32>, WireError>>()?;
    Ok((messages, Some(ids)))
}
