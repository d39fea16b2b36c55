//! What a region answers. Answers are part of the state, for as long as their request is remembered.

use bytes::Bytes;
use settle_machine::ranges::Epoch;
use settle_storage::KeyRange;

use crate::{
    descriptor::{get_epoch, get_range, put_epoch, put_range},
    encoding::{DecodeError, Reader, put_bytes, put_i64, put_list, put_option, put_u64},
    limits::{CONTEXT_MAX, KEY_MAX, OPS_MAX, OWNER_MAX, ROWS_MAX, VALUE_MAX},
};

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// In this revision.
    Done {
        revision: u64,
    },
    /// What was there.
    Previous(Option<Found>),
    /// A compare-and-put, and what it found.
    Compared {
        is_done: bool,
        found: Option<Found>,
    },
    /// The sum of an [`AddI64`](crate::Operator::AddI64).
    Sum(i64),
    /// So many keys were deleted; from `rest` on nothing was looked at.
    Deleted {
        count: u64,
        rest: Option<KeyRange>,
    },
    Found(Option<Found>),
    Rows {
        rows: Vec<(Bytes, Found)>,
        /// What was not looked at, here or in the next region. There may be such also when there are no rows.
        rest: Option<KeyRange>,
    },
    /// `count` numbers from `first` on. A number never comes twice in a generation, a generation never for a key.
    Sequence {
        generation: u64,
        first: u64,
        count: u64,
    },
    /// Taken by who asked, so many times.
    Locked {
        token: u64,
        holds: u32,
        left_ms: u64,
    },
    /// Held by another, or who it is.
    Held {
        owner: Bytes,
        token: u64,
        left_ms: u64,
        context: Bytes,
    },
    /// Held by nobody.
    Free,
    /// Still taken so many times.
    Unlocked {
        holds: u32,
    },
    Txn {
        is_met: bool,
        replies: Vec<Reply>,
    },
    /// Nothing was done.
    Refused(Refusal),
    /// It, or a later one of its session, was asked before. What came of it is not known any more: it may have been done,
    /// refused, or not been due.
    Forgotten,
}

/// A key's value and its history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    pub value: Bytes,
    /// The revision that made the key, and that of its last change.
    pub created: u64,
    pub modified: u64,
    /// Changes since it was made, counted from 1.
    pub version: u64,
    pub left_ms: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Not a key of this region, or not of this epoch of it: what there is now. Ask where the key is.
    Elsewhere { epoch: Epoch, range: KeyRange },
    /// The region is being merged into another and serves nothing, or is not whole yet: ask again.
    Silent,
    /// The value, or the operand, is no little-endian `i64`.
    NotANumber,
    /// It would pass 64 bits.
    Overflow,
    /// The value or the answer would be larger than it may be, or too many keys would be touched at once.
    TooLarge,
    /// Who asked does not hold the lock under that token.
    NotHeld,
}

impl Reply {
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Done { revision } => {
                out.push(1);
                put_u64(out, *revision);
            }
            Reply::Previous(found) => {
                out.push(2);
                put_option(out, found.as_ref(), |out, found| found.encode(out));
            }
            Reply::Compared { is_done, found } => {
                out.push(3);
                out.push(u8::from(*is_done));
                put_option(out, found.as_ref(), |out, found| found.encode(out));
            }
            Reply::Sum(n) => {
                out.push(4);
                put_i64(out, *n);
            }
            Reply::Deleted { count, rest } => {
                out.push(5);
                put_u64(out, *count);
                put_option(out, rest.as_ref(), put_range);
            }
            Reply::Found(found) => {
                out.push(6);
                put_option(out, found.as_ref(), |out, found| found.encode(out));
            }
            Reply::Rows { rows, rest } => {
                out.push(7);
                put_list(out, rows, |out, (key, found)| {
                    put_bytes(out, key);
                    found.encode(out);
                });
                put_option(out, rest.as_ref(), put_range);
            }
            Reply::Sequence {
                generation,
                first,
                count,
            } => {
                out.push(8);
                put_u64(out, *generation);
                put_u64(out, *first);
                put_u64(out, *count);
            }
            Reply::Locked { token, holds, left_ms } => {
                out.push(9);
                put_u64(out, *token);
                put_u64(out, u64::from(*holds));
                put_u64(out, *left_ms);
            }
            Reply::Held {
                owner,
                token,
                left_ms,
                context,
            } => {
                out.push(10);
                put_bytes(out, owner);
                put_u64(out, *token);
                put_u64(out, *left_ms);
                put_bytes(out, context);
            }
            Reply::Free => out.push(11),
            Reply::Unlocked { holds } => {
                out.push(12);
                put_u64(out, u64::from(*holds));
            }
            Reply::Txn { is_met, replies } => {
                out.push(13);
                out.push(u8::from(*is_met));
                put_list(out, replies, |out, reply| reply.encode(out));
            }
            Reply::Refused(refusal) => {
                out.push(14);
                refusal.encode(out);
            }
            Reply::Forgotten => out.push(15),
        }
    }

    /// # Errors
    /// When `bytes` are no answer.
    pub fn decode(bytes: Bytes) -> Result<Reply, DecodeError> {
        let mut reader = Reader::new(bytes);
        let reply = Reply::read(&mut reader, false)?;
        reader.finish()?;
        Ok(reply)
    }

    fn read(reader: &mut Reader, is_inside: bool) -> Result<Reply, DecodeError> {
        Ok(match reader.u8()? {
            1 => Reply::Done {
                revision: reader.u64()?,
            },
            2 => Reply::Previous(reader.option(Found::read)?),
            3 => Reply::Compared {
                is_done: reader.bool()?,
                found: reader.option(Found::read)?,
            },
            4 => Reply::Sum(reader.i64()?),
            5 => Reply::Deleted {
                count: reader.u64()?,
                rest: reader.option(get_range)?,
            },
            6 => Reply::Found(reader.option(Found::read)?),
            7 => Reply::Rows {
                rows: reader.list(ROWS_MAX as usize, |reader| {
                    Ok((reader.bytes(KEY_MAX)?, Found::read(reader)?))
                })?,
                rest: reader.option(get_range)?,
            },
            8 => Reply::Sequence {
                generation: reader.u64()?,
                first: reader.u64()?,
                count: reader.u64()?,
            },
            9 => Reply::Locked {
                token: reader.u64()?,
                holds: reader.u32()?,
                left_ms: reader.u64()?,
            },
            10 => Reply::Held {
                owner: reader.bytes(OWNER_MAX)?,
                token: reader.u64()?,
                left_ms: reader.u64()?,
                context: reader.bytes(CONTEXT_MAX)?,
            },
            11 => Reply::Free,
            12 => Reply::Unlocked { holds: reader.u32()? },
            13 if !is_inside => Reply::Txn {
                is_met: reader.bool()?,
                replies: reader.list(OPS_MAX, |reader| Reply::read(reader, true))?,
            },
            14 => Reply::Refused(Refusal::read(reader)?),
            15 => Reply::Forgotten,
            _ => return Err(reader.error("an unknown answer")),
        })
    }
}

impl Found {
    /// In an answer, in bytes, about.
    pub(crate) fn size(&self) -> usize {
        self.value.len() + 32
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, &self.value);
        put_u64(out, self.created);
        put_u64(out, self.modified);
        put_u64(out, self.version);
        put_option(out, self.left_ms, put_u64);
    }

    fn read(reader: &mut Reader) -> Result<Found, DecodeError> {
        Ok(Found {
            value: reader.bytes(VALUE_MAX)?,
            created: reader.u64()?,
            modified: reader.u64()?,
            version: reader.u64()?,
            left_ms: reader.option(Reader::u64)?,
        })
    }
}

impl Refusal {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Refusal::Elsewhere { epoch, range } => {
                out.push(1);
                put_epoch(out, *epoch);
                put_range(out, range);
            }
            Refusal::Silent => out.push(2),
            Refusal::NotANumber => out.push(3),
            Refusal::Overflow => out.push(4),
            Refusal::TooLarge => out.push(5),
            Refusal::NotHeld => out.push(6),
        }
    }

    fn read(reader: &mut Reader) -> Result<Refusal, DecodeError> {
        Ok(match reader.u8()? {
            1 => Refusal::Elsewhere {
                epoch: get_epoch(reader)?,
                range: get_range(reader)?,
            },
            2 => Refusal::Silent,
            3 => Refusal::NotANumber,
            4 => Refusal::Overflow,
            5 => Refusal::TooLarge,
            6 => Refusal::NotHeld,
            _ => return Err(reader.error("an unknown refusal")),
        })
    }
}
