//! What clients ask of a region.

use bytes::Bytes;
use settle_machine::Ticket;
use settle_storage::Direction;

use crate::{
    encoding::{DecodeError, Reader, put_bytes, put_list, put_option, put_u64},
    limits::{CONTEXT_MAX, KEY_MAX, OPS_MAX, OWNER_MAX, VALUE_MAX},
};

/// One request of a client: done once, however often it is proposed, when it is remembered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Whose answer it is.
    pub ticket: Ticket,
    /// Remember it with its answer. One that is not may be done twice when it is proposed twice.
    pub is_remembered: bool,
    pub op: Op,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    Read(Query),
    /// Answered by [`Reply::Done`](crate::Reply).
    Put(Put),
    /// Answered by what was there: nothing when it was done.
    PutIfAbsent(Put),
    /// Answered by what was there.
    GetAndPut(Put),
    /// Done when the value there is the one expected; `None`: when there is none.
    CompareAndPut {
        expect: Option<Bytes>,
        put: Put,
    },
    /// Makes a new value of the one there and the operand, on the server. It expires when the old one would have.
    Merge {
        key: Bytes,
        operator: Operator,
        operand: Bytes,
    },
    Delete {
        key: Bytes,
    },
    /// Deletes up to `limit` keys, from the front. The answer says where to go on.
    DeleteRange {
        start: Bytes,
        end: Option<Bytes>,
        limit: u32,
    },
    /// Takes the next `count` numbers of a sequence.
    Sequence {
        key: Bytes,
        count: u64,
    },
    /// The sequence begins at 0 again, in a new generation.
    SequenceReset {
        key: Bytes,
    },
    /// Takes a lock, or once more when the owner holds it.
    Lock {
        key: Bytes,
        owner: Bytes,
        lease_ms: u64,
        /// Shown to those who find it held.
        context: Bytes,
    },
    /// Makes the lease of a lock that is held last so long from now.
    KeepLock {
        key: Bytes,
        owner: Bytes,
        token: u64,
        lease_ms: u64,
    },
    /// Gives a lock back that was taken once.
    Unlock {
        key: Bytes,
        owner: Bytes,
        token: u64,
    },
    /// All of `then` when every comparison holds, else all of `otherwise`: together, or not at all when one of them is
    /// refused. Not within another.
    Txn {
        compare: Vec<Compare>,
        then: Vec<Op>,
        otherwise: Vec<Op>,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Put {
    pub key: Bytes,
    pub value: Bytes,
    /// Gone so much of the group's time later; at least 1.
    pub ttl_ms: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operator {
    /// The operand behind the value.
    Append,
    /// Both are little-endian `i64`s; no value is 0.
    AddI64,
    /// The greater in the order of bytes.
    Max,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Query {
    Get {
        key: Bytes,
    },
    /// Up to `limit` keys from the front, or from the back. Of the asked range the part that is here; the answer says
    /// where to go on.
    Scan {
        start: Bytes,
        end: Option<Bytes>,
        direction: Direction,
        limit: u32,
        keys_only: bool,
    },
    /// The next number of a sequence.
    SequenceLatest {
        key: Bytes,
    },
    /// Who holds a lock.
    LockHolder {
        key: Bytes,
    },
}

/// `key`'s `what` stands in `relation` to what is given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Compare {
    pub key: Bytes,
    pub what: What,
    pub relation: Relation,
}

/// The numbers of a key that is not there are 0; its value stands in no relation to any.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    Value(Bytes),
    Version(u64),
    Created(u64),
    Modified(u64),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
    Equal,
    NotEqual,
    Less,
    Greater,
}

impl Op {
    /// What must be within a region for it to take this.
    pub(crate) fn visit_keys<'a>(&'a self, visit: &mut dyn FnMut(Asked<'a>)) {
        match self {
            Op::Read(query) => query.visit_keys(visit),
            Op::Put(put) | Op::PutIfAbsent(put) | Op::GetAndPut(put) | Op::CompareAndPut { put, .. } => {
                visit(Asked::Key(&put.key));
            }
            Op::Merge { key, .. }
            | Op::Delete { key }
            | Op::Sequence { key, .. }
            | Op::SequenceReset { key }
            | Op::Lock { key, .. }
            | Op::KeepLock { key, .. }
            | Op::Unlock { key, .. } => visit(Asked::Key(key)),
            Op::DeleteRange { start, .. } => visit(Asked::Key(start)),
            Op::Txn {
                compare,
                then,
                otherwise,
            } => {
                compare.iter().for_each(|compare| visit(Asked::Key(&compare.key)));
                then.iter().chain(otherwise).for_each(|op| op.visit_keys(visit));
            }
        }
    }

    /// How long what it makes is to last.
    pub(crate) fn visit_times(&self, visit: &mut dyn FnMut(u64)) {
        match self {
            Op::Put(put) | Op::PutIfAbsent(put) | Op::GetAndPut(put) | Op::CompareAndPut { put, .. } => {
                put.ttl_ms.into_iter().for_each(visit);
            }
            Op::Lock { lease_ms, .. } | Op::KeepLock { lease_ms, .. } => visit(*lease_ms),
            Op::Txn { then, otherwise, .. } => then.iter().chain(otherwise).for_each(|op| op.visit_times(visit)),
            Op::Read(_)
            | Op::Merge { .. }
            | Op::Delete { .. }
            | Op::DeleteRange { .. }
            | Op::Sequence { .. }
            | Op::SequenceReset { .. }
            | Op::Unlock { .. } => {}
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Op::Read(query) => {
                out.push(1);
                query.encode(out);
            }
            Op::Put(put) => {
                out.push(2);
                put.encode(out);
            }
            Op::PutIfAbsent(put) => {
                out.push(3);
                put.encode(out);
            }
            Op::GetAndPut(put) => {
                out.push(4);
                put.encode(out);
            }
            Op::CompareAndPut { expect, put } => {
                out.push(5);
                put_option(out, expect.as_ref(), |out, value| put_bytes(out, value));
                put.encode(out);
            }
            Op::Merge { key, operator, operand } => {
                out.push(6);
                put_bytes(out, key);
                out.push(match operator {
                    Operator::Append => 1,
                    Operator::AddI64 => 2,
                    Operator::Max => 3,
                });
                put_bytes(out, operand);
            }
            Op::Delete { key } => {
                out.push(7);
                put_bytes(out, key);
            }
            Op::DeleteRange { start, end, limit } => {
                out.push(8);
                put_bytes(out, start);
                put_option(out, end.as_ref(), |out, end| put_bytes(out, end));
                put_u64(out, u64::from(*limit));
            }
            Op::Sequence { key, count } => {
                out.push(9);
                put_bytes(out, key);
                put_u64(out, *count);
            }
            Op::SequenceReset { key } => {
                out.push(10);
                put_bytes(out, key);
            }
            Op::Lock {
                key,
                owner,
                lease_ms,
                context,
            } => {
                out.push(11);
                put_bytes(out, key);
                put_bytes(out, owner);
                put_u64(out, *lease_ms);
                put_bytes(out, context);
            }
            Op::KeepLock {
                key,
                owner,
                token,
                lease_ms,
            } => {
                out.push(12);
                put_bytes(out, key);
                put_bytes(out, owner);
                put_u64(out, *token);
                put_u64(out, *lease_ms);
            }
            Op::Unlock { key, owner, token } => {
                out.push(13);
                put_bytes(out, key);
                put_bytes(out, owner);
                put_u64(out, *token);
            }
            Op::Txn {
                compare,
                then,
                otherwise,
            } => {
                out.push(14);
                put_list(out, compare, |out, compare| compare.encode(out));
                put_list(out, then, |out, op| op.encode(out));
                put_list(out, otherwise, |out, op| op.encode(out));
            }
        }
    }

    pub(crate) fn decode(reader: &mut Reader, is_inside: bool) -> Result<Op, DecodeError> {
        let key = |reader: &mut Reader| reader.bytes(KEY_MAX);
        let owner = |reader: &mut Reader| reader.bytes(OWNER_MAX);
        Ok(match reader.u8()? {
            1 => Op::Read(Query::decode(reader)?),
            2 => Op::Put(Put::decode(reader)?),
            3 => Op::PutIfAbsent(Put::decode(reader)?),
            4 => Op::GetAndPut(Put::decode(reader)?),
            5 => Op::CompareAndPut {
                expect: reader.option(|reader| reader.bytes(VALUE_MAX))?,
                put: Put::decode(reader)?,
            },
            6 => Op::Merge {
                key: key(reader)?,
                operator: match reader.u8()? {
                    1 => Operator::Append,
                    2 => Operator::AddI64,
                    3 => Operator::Max,
                    _ => return Err(reader.error("an unknown operator")),
                },
                operand: reader.bytes(VALUE_MAX)?,
            },
            7 => Op::Delete { key: key(reader)? },
            8 => Op::DeleteRange {
                start: key(reader)?,
                end: reader.option(key)?,
                limit: reader.u32()?,
            },
            9 => Op::Sequence {
                key: key(reader)?,
                count: reader.u64()?,
            },
            10 => Op::SequenceReset { key: key(reader)? },
            11 => Op::Lock {
                key: key(reader)?,
                owner: owner(reader)?,
                lease_ms: duration(reader)?,
                context: reader.bytes(CONTEXT_MAX)?,
            },
            12 => Op::KeepLock {
                key: key(reader)?,
                owner: owner(reader)?,
                token: reader.u64()?,
                lease_ms: duration(reader)?,
            },
            13 => Op::Unlock {
                key: key(reader)?,
                owner: owner(reader)?,
                token: reader.u64()?,
            },
            14 if !is_inside => Op::Txn {
                compare: reader.list(OPS_MAX, Compare::decode)?,
                then: reader.list(OPS_MAX, |reader| Op::decode(reader, true))?,
                otherwise: reader.list(OPS_MAX, |reader| Op::decode(reader, true))?,
            },
            14 => return Err(reader.error("a transaction within another")),
            _ => return Err(reader.error("an unknown operation")),
        })
    }
}

/// What is asked for: a key, or (of a scan from the back) what is before the end of a range.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asked<'a> {
    Key(&'a Bytes),
    Before(Option<&'a Bytes>),
}

fn duration(reader: &mut Reader) -> Result<u64, DecodeError> {
    match reader.u64()? {
        0 => Err(reader.error("a time of nothing")),
        ms => Ok(ms),
    }
}

impl Put {
    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, &self.key);
        put_bytes(out, &self.value);
        put_option(out, self.ttl_ms, put_u64);
    }

    fn decode(reader: &mut Reader) -> Result<Put, DecodeError> {
        Ok(Put {
            key: reader.bytes(KEY_MAX)?,
            value: reader.bytes(VALUE_MAX)?,
            ttl_ms: reader.option(duration)?,
        })
    }
}

impl Query {
    pub(crate) fn visit_keys<'a>(&'a self, visit: &mut dyn FnMut(Asked<'a>)) {
        visit(match self {
            Query::Get { key } | Query::SequenceLatest { key } | Query::LockHolder { key } => Asked::Key(key),
            Query::Scan {
                start,
                direction: Direction::Forward,
                ..
            } => Asked::Key(start),
            Query::Scan { end, .. } => Asked::Before(end.as_ref()),
        });
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Query::Get { key } => {
                out.push(1);
                put_bytes(out, key);
            }
            Query::Scan {
                start,
                end,
                direction,
                limit,
                keys_only,
            } => {
                out.push(2);
                put_bytes(out, start);
                put_option(out, end.as_ref(), |out, end| put_bytes(out, end));
                out.push(u8::from(*direction == Direction::Backward));
                put_u64(out, u64::from(*limit));
                out.push(u8::from(*keys_only));
            }
            Query::SequenceLatest { key } => {
                out.push(3);
                put_bytes(out, key);
            }
            Query::LockHolder { key } => {
                out.push(4);
                put_bytes(out, key);
            }
        }
    }

    fn decode(reader: &mut Reader) -> Result<Query, DecodeError> {
        Ok(match reader.u8()? {
            1 => Query::Get {
                key: reader.bytes(KEY_MAX)?,
            },
            2 => Query::Scan {
                start: reader.bytes(KEY_MAX)?,
                end: reader.option(|reader| reader.bytes(KEY_MAX))?,
                direction: match reader.bool()? {
                    false => Direction::Forward,
                    true => Direction::Backward,
                },
                limit: reader.u32()?,
                keys_only: reader.bool()?,
            },
            3 => Query::SequenceLatest {
                key: reader.bytes(KEY_MAX)?,
            },
            4 => Query::LockHolder {
                key: reader.bytes(KEY_MAX)?,
            },
            _ => return Err(reader.error("an unknown query")),
        })
    }
}

impl Compare {
    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, &self.key);
        match &self.what {
            What::Value(value) => {
                out.push(1);
                put_bytes(out, value);
            }
            What::Version(n) => {
                out.push(2);
                put_u64(out, *n);
            }
            What::Created(n) => {
                out.push(3);
                put_u64(out, *n);
            }
            What::Modified(n) => {
                out.push(4);
                put_u64(out, *n);
            }
        }
        out.push(match self.relation {
            Relation::Equal => 1,
            Relation::NotEqual => 2,
            Relation::Less => 3,
            Relation::Greater => 4,
        });
    }

    fn decode(reader: &mut Reader) -> Result<Compare, DecodeError> {
        let key = reader.bytes(KEY_MAX)?;
        let what = match reader.u8()? {
            1 => What::Value(reader.bytes(VALUE_MAX)?),
            2 => What::Version(reader.u64()?),
            3 => What::Created(reader.u64()?),
            4 => What::Modified(reader.u64()?),
            _ => return Err(reader.error("an unknown comparison")),
        };
        let relation = match reader.u8()? {
            1 => Relation::Equal,
            2 => Relation::NotEqual,
            3 => Relation::Less,
            4 => Relation::Greater,
            _ => return Err(reader.error("an unknown relation")),
        };
        Ok(Compare { key, what, relation })
    }
}

impl Request {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.ticket.session);
        put_u64(out, self.ticket.number);
        out.push(u8::from(self.is_remembered));
        self.op.encode(out);
    }

    pub(crate) fn decode(reader: &mut Reader) -> Result<Request, DecodeError> {
        let (session, number) = (reader.u64()?, reader.u64()?);
        Ok(Request {
            ticket: Ticket { session, number },
            is_remembered: reader.bool()?,
            op: Op::decode(reader, false)?,
        })
    }
}
