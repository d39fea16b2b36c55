//! How a region lies in its engine: under one prefix of its own, by kind, then by key.

use bytes::Bytes;
use settle_base::{GroupTime, Index};
use settle_storage::KeyRange;

use crate::{
    Found,
    encoding::{DecodeError, Reader, put_bytes, put_option, put_u64},
    limits::{CONTEXT_MAX, KEPT_REPLY_MAX, OWNER_MAX, VALUE_MAX},
};

/// Where one replica of a region lies in its node's engine. Never used twice while anything of it may be left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Space(pub u64);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    /// [`Standing`](crate::Standing), under the empty key.
    Standing = 0x01,
    /// [`Descriptor`](crate::Descriptor), under the empty key.
    Descriptor = 0x02,
    Data = 0x10,
    Sequence = 0x20,
    Lock = 0x30,
    Session = 0x40,
    /// What ends when: follows from the rows.
    Deadline = 0x50,
}

/// Kinds that are keyed by what clients name, so that a split divides them.
pub(crate) const KEYED: [Kind; 3] = [Kind::Data, Kind::Sequence, Kind::Lock];

impl Space {
    pub(crate) fn key(self, kind: Kind, key: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(9 + key.len());
        out.extend_from_slice(&self.0.to_be_bytes());
        out.push(kind as u8);
        out.extend_from_slice(key);
        out.into()
    }

    pub(crate) fn all(self) -> KeyRange {
        KeyRange::prefixed(self.0.to_be_bytes().to_vec())
    }

    pub(crate) fn of_kind(self, kind: Kind) -> KeyRange {
        KeyRange::prefixed(self.key(kind, b""))
    }

    /// The part of a kind whose keys are in `range`.
    pub(crate) fn range(self, kind: Kind, range: &KeyRange) -> KeyRange {
        KeyRange {
            start: self.key(kind, &range.start),
            end: match &range.end {
                Some(end) => Some(self.key(kind, end)),
                None => self.of_kind(kind).end,
            },
        }
    }

    /// Under which a row of `kind` and `key` is to end at `deadline`.
    pub(crate) fn deadline(self, deadline: GroupTime, kind: Kind, key: &[u8]) -> Bytes {
        let mut of = Vec::with_capacity(9 + key.len());
        of.extend_from_slice(&deadline.0.to_be_bytes());
        of.push(kind as u8);
        of.extend_from_slice(key);
        self.key(Kind::Deadline, &of)
    }
}

/// What the engine's key says behind space and kind.
pub(crate) fn bare(key: &Bytes) -> Bytes {
    key.slice(9..)
}

/// A deadline's key, read back.
pub(crate) fn due(key: &Bytes) -> Result<(GroupTime, Kind, Bytes), DecodeError> {
    let bare = bare(key);
    let damaged = DecodeError {
        at: 0,
        what: "a deadline's key",
    };
    let (time, kind) = (bare.get(..8), bare.get(8));
    let kind = KEYED.into_iter().find(|known| kind == Some(&(*known as u8)));
    match (time.and_then(|time| time.try_into().ok()), kind) {
        (Some(time), Some(kind)) => Ok((GroupTime(u64::from_be_bytes(time)), kind, bare.slice(9..))),
        _ => Err(damaged),
    }
}

/// A key's value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    pub value: Bytes,
    pub created: u64,
    pub modified: u64,
    pub version: u64,
    pub deadline: Option<GroupTime>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LockRow {
    pub owner: Bytes,
    pub token: u64,
    pub deadline: GroupTime,
    pub holds: u32,
    pub context: Bytes,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SequenceRow {
    pub generation: u64,
    pub next: u64,
}

/// A session's last request that was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SessionRow {
    pub number: u64,
    pub index: Index,
    /// Encoded; `None` when it was too long to be kept.
    pub reply: Option<Bytes>,
}

impl Row {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(24 + self.value.len());
        put_u64(&mut out, self.created);
        put_u64(&mut out, self.modified);
        put_u64(&mut out, self.version);
        put_option(&mut out, self.deadline, |out, deadline| put_u64(out, deadline.0));
        out.extend_from_slice(&self.value);
        out.into()
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Row, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (created, modified, version) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let deadline = reader.option(|reader| reader.u64().map(GroupTime))?;
        let value = reader.rest();
        if value.len() > VALUE_MAX {
            return Err(reader.error("longer than a value may be"));
        }
        Ok(Row {
            value,
            created,
            modified,
            version,
            deadline,
        })
    }

    pub(crate) fn found(self, time: GroupTime) -> Found {
        Found {
            left_ms: self.deadline.map(|deadline| deadline.0.saturating_sub(time.0)),
            value: self.value,
            created: self.created,
            modified: self.modified,
            version: self.version,
        }
    }
}

impl LockRow {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        put_bytes(&mut out, &self.owner);
        put_u64(&mut out, self.token);
        put_u64(&mut out, self.deadline.0);
        put_u64(&mut out, u64::from(self.holds));
        put_bytes(&mut out, &self.context);
        out.into()
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<LockRow, DecodeError> {
        let mut reader = Reader::new(bytes);
        let row = LockRow {
            owner: reader.bytes(OWNER_MAX)?,
            token: reader.u64()?,
            deadline: GroupTime(reader.u64()?),
            holds: reader.u32()?,
            context: reader.bytes(CONTEXT_MAX)?,
        };
        if row.holds == 0 {
            return Err(reader.error("a lock that nobody holds"));
        }
        reader.finish()?;
        Ok(row)
    }
}

impl SequenceRow {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        put_u64(&mut out, self.generation);
        put_u64(&mut out, self.next);
        out.into()
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<SequenceRow, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (generation, next) = (reader.u64()?, reader.u64()?);
        reader.finish()?;
        Ok(SequenceRow { generation, next })
    }
}

impl SessionRow {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        put_u64(&mut out, self.number);
        put_u64(&mut out, self.index);
        put_option(&mut out, self.reply.as_ref(), |out, reply| put_bytes(out, reply));
        out.into()
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<SessionRow, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (number, index) = (reader.u64()?, reader.u64()?);
        let reply = reader.option(|reader| reader.bytes(KEPT_REPLY_MAX))?;
        reader.finish()?;
        Ok(SessionRow { number, index, reply })
    }
}
