//! What operators did: the last acts of a group, the same on every replica.

use std::{collections::VecDeque, sync::Arc};

use settle_base::{GroupTime, fingerprint};

use crate::{
    ActKind, BranchId, DecodeError, GlobalStatus, Tid,
    command::{get_code, put_tid},
    encoding::{Reader, put_str, put_u64},
};

/// Acts that a group keeps; the oldest goes first. At most about 3 KiB each.
pub const AUDIT_MAX: usize = 1_024;
/// Characters of an operator's name that are kept.
pub const OPERATOR_CHARS_MAX: usize = 64;
/// Characters of a reason that are kept.
pub const REASON_CHARS_MAX: usize = 512;
/// Characters of what an act was about that are kept.
pub(crate) const SUBJECT_CHARS_MAX: usize = 256;

/// An act of an operator that changed something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditRecord {
    /// Counts the group's acts from 1.
    pub number: u64,
    pub at: GroupTime,
    /// Wall time of the server that was asked, in milliseconds since 1970.
    pub at_ms: u64,
    /// `None` of an act on service groups.
    pub tid: Option<Tid>,
    pub act: ActKind,
    /// For a release of locks: the branch, and the rows when some were named. For a move of service groups: from where, to
    /// where, and which. Else empty.
    pub subject: Box<str>,
    pub operator: Box<str>,
    pub reason: Box<str>,
    /// How the transaction stood afterwards; `UnKnown` without one.
    pub status: GlobalStatus,
}

impl AuditRecord {
    pub(crate) fn subject(branch: BranchId, rows: &str) -> Box<str> {
        match rows {
            "" => format!("branch {branch}").into(),
            rows => cut(&format!("branch {branch}: {rows}"), SUBJECT_CHARS_MAX),
        }
    }
}

pub(crate) fn cut(text: &str, chars_max: usize) -> Box<str> {
    match text.char_indices().nth(chars_max) {
        None => text.into(),
        Some((end, _)) => text[..end].into(),
    }
}

#[derive(Clone, Default)]
pub(crate) struct Audit {
    /// Oldest first, numbered without gaps.
    records: VecDeque<Arc<AuditRecord>>,
    /// Of the last act.
    last_number: u64,
    /// The sum of the records' fingerprints.
    digest: u64,
}

impl Audit {
    pub fn next_number(&self) -> u64 {
        self.last_number + 1
    }

    pub fn last_number(&self) -> u64 {
        self.last_number
    }

    pub fn add(&mut self, record: Arc<AuditRecord>) {
        assert_eq!(record.number, self.next_number(), "acts are numbered without gaps");
        self.last_number = record.number;
        self.digest = self.digest.wrapping_add(digest_of(&record));
        self.records.push_back(record);
        if self.records.len() > AUDIT_MAX
            && let Some(oldest) = self.records.pop_front()
        {
            self.digest = self.digest.wrapping_sub(digest_of(&oldest));
        }
    }

    /// Oldest first.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = &Arc<AuditRecord>> + ExactSizeIterator {
        self.records.iter()
    }

    pub fn into_records(self) -> impl Iterator<Item = Arc<AuditRecord>> {
        self.records.into_iter()
    }

    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// What a snapshot says of the acts that are gone: the first record that follows has the next number.
    pub fn start_behind(&mut self, number: u64) {
        self.last_number = number;
    }

    /// Takes in a record of a snapshot; false when it is not the next.
    pub fn load(&mut self, record: AuditRecord) -> bool {
        let is_next = self.last_number < u64::MAX && record.number == self.next_number();
        if !is_next || self.records.len() == AUDIT_MAX {
            return false;
        }
        self.add(Arc::new(record));
        true
    }

    /// # Panics
    /// When the digest is not that of the records, or there are too many.
    pub fn check(&self) {
        assert!(self.records.len() <= AUDIT_MAX);
        let digest = self.records.iter().map(|record| digest_of(record));
        assert_eq!(
            digest.fold(0, u64::wrapping_add),
            self.digest,
            "the digest of the audit"
        );
    }
}

fn digest_of(record: &AuditRecord) -> u64 {
    let mut bytes = Vec::with_capacity(128);
    put_record(&mut bytes, record);
    fingerprint(&bytes)
}

pub(crate) fn put_record(out: &mut Vec<u8>, record: &AuditRecord) {
    put_u64(out, record.number);
    put_u64(out, record.at.0);
    put_u64(out, record.at_ms);
    match record.tid {
        Some(tid) => put_tid(out, tid),
        None => put_u64(out, 0),
    }
    out.push(record.act.as_u8());
    put_str(out, &record.subject);
    put_str(out, &record.operator);
    put_str(out, &record.reason);
    out.push(record.status.as_u8());
}

pub(crate) fn get_record(reader: &mut Reader<'_>) -> Result<AuditRecord, DecodeError> {
    let record = AuditRecord {
        number: reader.u64()?,
        at: GroupTime(reader.u64()?),
        at_ms: reader.u64()?,
        tid: match reader.u64()? {
            0 => None,
            id => Some(Tid::try_from_i64(id as i64).ok_or(reader.error("no transaction id"))?),
        },
        act: get_code(reader)?,
        subject: reader.str()?.into(),
        operator: reader.str()?.into(),
        reason: reader.str()?.into(),
        status: get_code(reader)?,
    };
    if record.tid.is_none() != record.act.is_on_service_groups() {
        return Err(reader.error("an act on nothing"));
    }
    let is_short = |text: &str, chars_max: usize| text.chars().count() <= chars_max;
    if !is_short(&record.subject, SUBJECT_CHARS_MAX)
        || !is_short(&record.operator, OPERATOR_CHARS_MAX)
        || !is_short(&record.reason, REASON_CHARS_MAX)
    {
        return Err(reader.error("an act with a text that is too long"));
    }
    Ok(record)
}
