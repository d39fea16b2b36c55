//! How the results of requests are written in a snapshot: a tag, then the fields. Errors have tags from 32.

use std::sync::Arc;

use crate::{
    DecodeError, LockKeyError, Reply, Stage, TxError,
    command::{get_branch, get_branch_or_saga, get_code, get_tid, put_branch, put_tid},
    encoding::{Reader, put_str, put_u64},
};

pub(crate) fn put_result(out: &mut Vec<u8>, result: &Result<Reply, TxError>) {
    match result {
        Ok(reply) => put_reply(out, reply),
        Err(error) => put_error(out, error),
    }
}

fn put_reply(out: &mut Vec<u8>, reply: &Reply) {
    match reply {
        Reply::Begun { tid, xid } => {
            out.push(1);
            put_tid(out, *tid);
            put_str(out, xid);
        }
        Reply::Branch { branch } => {
            out.push(2);
            put_branch(out, *branch);
        }
        Reply::Reported => out.push(3),
        Reply::Decided { status } => out.extend_from_slice(&[4, status.as_u8()]),
        Reply::Done => out.push(5),
        Reply::Ended { status } => out.extend_from_slice(&[6, status.as_u8()]),
        Reply::Operated { status, acted } => out.extend_from_slice(&[7, status.as_u8(), u8::from(*acted)]),
        Reply::Restored { parts, is_done } => {
            out.push(8);
            put_u64(out, *parts);
            out.push(u8::from(*is_done));
        }
        Reply::Moving { epoch, acted } => {
            out.push(9);
            put_u64(out, *epoch);
            out.push(u8::from(*acted));
        }
        Reply::Stepped { stage, left } => {
            out.push(10);
            out.push(stage.map_or(0, |stage| stage as u8));
            put_u64(out, *left);
        }
    }
}

fn put_error(out: &mut Vec<u8>, error: &TxError) {
    let (tag, tid) = match error {
        TxError::UnknownXid { tid } => (32, tid),
        TxError::NotActive { tid, .. } => (33, tid),
        TxError::LockConflict { holder, .. } => (34, holder),
        TxError::UnknownBranch { tid, .. } => (35, tid),
        TxError::BadLockKey { tid, .. } => (36, tid),
        TxError::TooManyTransactions { open, limit } => {
            out.push(37);
            put_u64(out, *open);
            return put_u64(out, *limit);
        }
        TxError::TooManyBranches { tid, .. } => (38, tid),
        TxError::LockTableFull { tid, .. } => (39, tid),
        TxError::BadBranchStatus { tid, .. } => (40, tid),
        TxError::Contradiction { tid, .. } => (41, tid),
        TxError::NotDecided { tid, .. } => (42, tid),
        TxError::IllegalEnd { tid, .. } => (43, tid),
        TxError::OutcomeEvicted { tid } => (44, tid),
        TxError::RequestExpired => return out.push(45),
        TxError::BranchSpaceFull { tid, .. } => (46, tid),
        TxError::ContradictsDecision { tid, .. } => (47, tid),
        TxError::ActNotPossible { tid, .. } => (48, tid),
        TxError::OfAnother { tid } => (52, tid),
        TxError::BeingRestored => return out.push(49),
        TxError::NotNew { begun } => {
            out.push(50);
            return put_u64(out, *begun);
        }
        TxError::BadPart { reason } => {
            out.push(51);
            return put_str(out, reason);
        }
        TxError::ServiceGroupClosed {
            service_group,
            epoch,
            to,
        } => {
            out.push(53);
            put_str(out, service_group);
            put_u64(out, *epoch);
            return out.push(*to);
        }
        TxError::ServiceGroupMoving { service_group } => {
            out.push(54);
            return put_str(out, service_group);
        }
        TxError::ServiceGroupsApart {
            service_group,
            group,
            first,
            first_group,
        } => {
            out.push(55);
            put_str(out, service_group);
            put_str(out, first);
            return out.extend([*group, *first_group]);
        }
        TxError::TooManyServiceGroups { limit } => {
            out.push(56);
            return put_u64(out, *limit);
        }
        TxError::NotMoving { service_group } => {
            out.push(57);
            return put_str(out, service_group);
        }
        TxError::NotCancellable { service_group } => {
            out.push(58);
            return put_str(out, service_group);
        }
        TxError::VersionTooLow { needed, in_force } => {
            out.push(59);
            put_u64(out, u64::from(*needed));
            return put_u64(out, u64::from(*in_force));
        }
        TxError::ToldOfMoves => return out.push(60),
    };
    out.push(tag);
    put_tid(out, *tid);
    match error {
        TxError::NotActive { status, .. } | TxError::ContradictsDecision { status, .. } => out.push(status.as_u8()),
        TxError::ActNotPossible { act, status, .. } => out.extend_from_slice(&[act.as_u8(), status.as_u8()]),
        TxError::LockConflict {
            row,
            holder_xid,
            fail_fast,
            ..
        } => {
            put_str(out, row);
            put_str(out, holder_xid);
            out.push(u8::from(*fail_fast));
        }
        TxError::UnknownBranch { branch, .. } => put_branch(out, *branch),
        TxError::BadLockKey { reason, .. } => {
            let (tag, part) = match reason {
                LockKeyError::NoColon { part } => (1, part),
                LockKeyError::NoTable { part } => (2, part),
            };
            out.push(tag);
            put_u64(out, u64::from(*part));
        }
        TxError::TooManyBranches { limit, .. } => put_u64(out, u64::from(*limit)),
        TxError::LockTableFull { limit, .. } | TxError::BranchSpaceFull { limit, .. } => put_u64(out, *limit),
        TxError::BadBranchStatus { branch, status, .. } => {
            put_branch(out, *branch);
            out.push(status.as_u8());
        }
        TxError::Contradiction {
            branch, fact, status, ..
        } => {
            put_branch(out, *branch);
            out.extend_from_slice(&[fact.as_u8(), status.as_u8()]);
        }
        TxError::NotDecided { branch, fact, .. } => {
            put_branch(out, *branch);
            out.push(fact.as_u8());
        }
        TxError::IllegalEnd { from, to, .. } => out.extend_from_slice(&[from.as_u8(), to.as_u8()]),
        TxError::UnknownXid { .. }
        | TxError::OfAnother { .. }
        | TxError::OutcomeEvicted { .. }
        | TxError::TooManyTransactions { .. }
        | TxError::BeingRestored
        | TxError::NotNew { .. }
        | TxError::BadPart { .. }
        | TxError::ServiceGroupClosed { .. }
        | TxError::ServiceGroupMoving { .. }
        | TxError::ServiceGroupsApart { .. }
        | TxError::TooManyServiceGroups { .. }
        | TxError::NotMoving { .. }
        | TxError::NotCancellable { .. }
        | TxError::VersionTooLow { .. }
        | TxError::ToldOfMoves
        | TxError::RequestExpired => {}
    }
}

pub(crate) fn get_result(reader: &mut Reader<'_>) -> Result<Result<Reply, TxError>, DecodeError> {
    Ok(Ok(match reader.u8()? {
        1 => Reply::Begun {
            tid: get_tid(reader)?,
            xid: Arc::from(reader.str()?),
        },
        2 => Reply::Branch {
            branch: get_branch(reader)?,
        },
        3 => Reply::Reported,
        4 => Reply::Decided {
            status: get_code(reader)?,
        },
        5 => Reply::Done,
        6 => Reply::Ended {
            status: get_code(reader)?,
        },
        7 => Reply::Operated {
            status: get_code(reader)?,
            acted: reader.bool()?,
        },
        8 => Reply::Restored {
            parts: reader.u64()?,
            is_done: reader.bool()?,
        },
        9 => Reply::Moving {
            epoch: reader.u64()?,
            acted: reader.bool()?,
        },
        10 => Reply::Stepped {
            stage: match reader.u8()? {
                0 => None,
                code => Some(Stage::try_from(code).map_err(|_| reader.error("an unknown code"))?),
            },
            left: reader.u64()?,
        },
        tag => return get_error(reader, tag).map(Err),
    }))
}

fn get_error(reader: &mut Reader<'_>, tag: u8) -> Result<TxError, DecodeError> {
    match tag {
        37 => {
            return Ok(TxError::TooManyTransactions {
                open: reader.u64()?,
                limit: reader.u64()?,
            });
        }
        45 => return Ok(TxError::RequestExpired),
        49 => return Ok(TxError::BeingRestored),
        50 => return Ok(TxError::NotNew { begun: reader.u64()? }),
        51 => {
            return Ok(TxError::BadPart {
                reason: Arc::from(reader.str()?),
            });
        }
        53 => {
            return Ok(TxError::ServiceGroupClosed {
                service_group: Arc::from(reader.str()?),
                epoch: reader.u64()?,
                to: reader.u8()?,
            });
        }
        54 | 57 | 58 => {
            let service_group = Arc::from(reader.str()?);
            return Ok(match tag {
                54 => TxError::ServiceGroupMoving { service_group },
                57 => TxError::NotMoving { service_group },
                _ => TxError::NotCancellable { service_group },
            });
        }
        55 => {
            return Ok(TxError::ServiceGroupsApart {
                service_group: Arc::from(reader.str()?),
                first: Arc::from(reader.str()?),
                group: reader.u8()?,
                first_group: reader.u8()?,
            });
        }
        56 => return Ok(TxError::TooManyServiceGroups { limit: reader.u64()? }),
        59 => {
            return Ok(TxError::VersionTooLow {
                needed: reader.u32()?,
                in_force: reader.u32()?,
            });
        }
        60 => return Ok(TxError::ToldOfMoves),
        _ => {}
    }
    let tid = get_tid(reader)?;
    Ok(match tag {
        32 => TxError::UnknownXid { tid },
        33 => TxError::NotActive {
            tid,
            status: get_code(reader)?,
        },
        34 => TxError::LockConflict {
            row: Arc::from(reader.str()?),
            holder: tid,
            holder_xid: Arc::from(reader.str()?),
            fail_fast: reader.bool()?,
        },
        35 => TxError::UnknownBranch {
            tid,
            branch: get_branch_or_saga(reader)?,
        },
        36 => {
            let reason = match (reader.u8()?, reader.u32()?) {
                (1, part) => LockKeyError::NoColon { part },
                (2, part) => LockKeyError::NoTable { part },
                _ => return Err(reader.error("an unknown lock key error")),
            };
            TxError::BadLockKey { tid, reason }
        }
        38 => TxError::TooManyBranches {
            tid,
            limit: reader.u32()?,
        },
        39 => TxError::LockTableFull {
            tid,
            limit: reader.u64()?,
        },
        40 => TxError::BadBranchStatus {
            tid,
            branch: get_branch_or_saga(reader)?,
            status: get_code(reader)?,
        },
        41 => TxError::Contradiction {
            tid,
            branch: get_branch_or_saga(reader)?,
            fact: get_code(reader)?,
            status: get_code(reader)?,
        },
        42 => TxError::NotDecided {
            tid,
            branch: get_branch_or_saga(reader)?,
            fact: get_code(reader)?,
        },
        43 => TxError::IllegalEnd {
            tid,
            from: get_code(reader)?,
            to: get_code(reader)?,
        },
        44 => TxError::OutcomeEvicted { tid },
        52 => TxError::OfAnother { tid },
        46 => TxError::BranchSpaceFull {
            tid,
            limit: reader.u64()?,
        },
        47 => TxError::ContradictsDecision {
            tid,
            status: get_code(reader)?,
        },
        48 => TxError::ActNotPossible {
            tid,
            act: get_code(reader)?,
            status: get_code(reader)?,
        },
        _ => return Err(reader.error("an unknown result")),
    })
}
