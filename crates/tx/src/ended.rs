//! A transaction as it ended, for a record that outlives its state: who took part, when, and what went wrong. The
//! outcome itself is kept by the machine; this is for people.
//!
//! Format 1: the byte 1, then the fields in the order of [`EndedRecord`]. Numbers are LEB128, text is a length and UTF-8.

use std::sync::Arc;

use settle_base::{GroupTime, Index};

use crate::{
    BranchId, BranchStatus, BranchType, DecodeError, Global, GlobalStatus, Tid,
    command::{get_branch, get_code, get_tid, put_branch, put_tid},
    encoding::{Reader, get_option, put_option, put_str, put_u64},
};

const FORMAT: u8 = 1;

/// What [`TxEffect::Ended`](crate::TxEffect::Ended) tells beyond the outcome. Shares what the machine held; nothing is
/// copied for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// As it was when it ended, with no locks and data left.
    pub global: Arc<Global>,
    pub status: GlobalStatus,
    /// Of the entry that ended it.
    pub index: Index,
    pub at: GroupTime,
}

/// What was written of an [`Ended`]. Times are group times, in milliseconds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndedRecord {
    pub tid: Tid,
    pub status: GlobalStatus,
    pub xid: String,
    pub application: String,
    pub service_group: String,
    pub name: String,
    pub timeout_ms: u32,
    pub begun_at: GroupTime,
    pub decided_at: Option<GroupTime>,
    pub ended_at: GroupTime,
    /// In registration order.
    pub branches: Vec<EndedBranch>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndedBranch {
    pub id: BranchId,
    pub branch_type: BranchType,
    pub resource: String,
    pub client: String,
    /// The last that it told; of one that was given up this is no second-phase success.
    pub status: BranchStatus,
    /// Since the transaction's begin.
    pub registered_after_ms: u32,
    /// Since the transaction's begin. `None`: its second phase was not needed, or given up.
    pub done_after_ms: Option<u32>,
    /// Failures of its second phase that came to the log.
    pub failures: u16,
    pub last_failure: Option<BranchStatus>,
}

impl Ended {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let global = &*self.global;
        out.push(FORMAT);
        put_tid(out, global.tid);
        out.push(self.status.as_u8());
        put_str(out, &global.xid.to_string());
        put_str(out, &global.application);
        put_str(out, &global.service_group);
        put_str(out, &global.name);
        put_u64(out, u64::from(global.timeout_ms));
        put_u64(out, global.begun_at.0);
        put_option(out, global.decided_at().map(|at| at.0));
        put_u64(out, self.at.0);
        put_u64(out, global.branches.len() as u64);
        for branch in &global.branches {
            put_branch(out, branch.id);
            out.push(branch.branch_type.as_u8());
            put_str(out, &branch.resource);
            put_str(out, &branch.client);
            out.push(branch.status.as_u8());
            put_u64(out, u64::from(branch.registered_after_ms));
            put_option(out, branch.done_after_ms.map(u64::from));
            put_u64(out, u64::from(branch.failures));
            put_option(out, branch.last_failure.map(|status| u64::from(status.as_u8())));
        }
    }
}

impl EndedRecord {
    /// # Errors
    /// When the bytes are no record of format 1. Nothing is allocated ahead of the bytes that are there.
    pub fn decode(bytes: &[u8]) -> Result<EndedRecord, DecodeError> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != FORMAT {
            return Err(reader.error("an unknown format of an ended transaction"));
        }
        let mut record = EndedRecord {
            tid: get_tid(&mut reader)?,
            status: get_code(&mut reader)?,
            xid: reader.str()?.to_owned(),
            application: reader.str()?.to_owned(),
            service_group: reader.str()?.to_owned(),
            name: reader.str()?.to_owned(),
            timeout_ms: reader.u32()?,
            begun_at: GroupTime(reader.u64()?),
            decided_at: get_option(&mut reader)?.map(GroupTime),
            ended_at: GroupTime(reader.u64()?),
            branches: Vec::new(),
        };
        for _ in 0..reader.u64()? {
            record.branches.push(EndedBranch {
                id: get_branch(&mut reader)?,
                branch_type: get_code(&mut reader)?,
                resource: reader.str()?.to_owned(),
                client: reader.str()?.to_owned(),
                status: get_code(&mut reader)?,
                registered_after_ms: reader.u32()?,
                done_after_ms: match get_option(&mut reader)? {
                    None => None,
                    Some(ms) => Some(u32::try_from(ms).map_err(|_| reader.error("a number past 32 bits"))?),
                },
                failures: {
                    let failures = reader.u64()?;
                    u16::try_from(failures).map_err(|_| reader.error("a number past 16 bits"))?
                },
                last_failure: match get_option(&mut reader)? {
                    None => None,
                    Some(code) => {
                        let code = u8::try_from(code)
                            .ok()
                            .and_then(|code| BranchStatus::try_from(code).ok());
                        Some(code.ok_or(reader.error("an unknown code"))?)
                    }
                },
            });
        }
        reader.finish()?;
        Ok(record)
    }

    /// Something in it did not go as it should: it failed, timed out or had to be tried again.
    pub fn is_troubled(&self) -> bool {
        self.status.is_timeout() || self.branches.iter().any(|branch| branch.failures > 0)
    }
}
