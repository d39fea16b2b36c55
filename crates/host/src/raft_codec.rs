//! Bytes of the messages of consensus, many groups' in one batch: whose they are stands once, what repeats is told as a
//! difference, numbers take as many bytes as they need. So the heartbeat of one group among thousands costs a few bytes.

use bytes::BufMut;
use settle_base::{GroupId, GroupTime, Index, PeerId, Term};
use settle_raft::{Body, ConfState, Entry, EntryKind, Message, Reject, SnapshotMeta};

use crate::wire::{Decoded, Reader, put_bytes, put_count, put_varint};

/// Messages of one batch at most, however short they are.
pub(crate) const BATCH_MESSAGES_MAX: usize = 65_536;
/// Kind, group, term and the shortest body.
const MESSAGE_BYTES_MIN: usize = 3;
/// Term, index, kind, time, length.
const ENTRY_BYTES_MIN: usize = 5;
/// Set in a message's kind when it is not between the replicas that the batch names.
const OTHER_REPLICAS: u8 = 0x80;

/// About how long a message is once encoded, in bytes.
pub(crate) fn message_bytes(message: &Message) -> usize {
    let header = 24;
    header
        + match &message.body {
            Body::Append { entries, .. } => entries.iter().map(|e| header + e.data.len()).sum(),
            _ => 0,
        }
}

/// Replicas and group that the previous message was of.
struct Previous {
    from: PeerId,
    to: PeerId,
    group: GroupId,
}

/// # Panics
/// When there are more than [`BATCH_MESSAGES_MAX`].
pub(crate) fn put_batch(out: &mut Vec<u8>, messages: &[Message]) {
    assert!(messages.len() <= BATCH_MESSAGES_MAX, "a batch is cut where it is made");
    put_count(out, messages.len());
    let Some(first) = messages.first() else { return };
    out.put_u64_le(first.from.0);
    out.put_u64_le(first.to.0);
    let mut previous = Previous {
        from: first.from,
        to: first.to,
        group: GroupId(0),
    };
    for message in messages {
        let is_other = (message.from, message.to) != (previous.from, previous.to);
        out.put_u8(kind_of(&message.body) | if is_other { OTHER_REPLICAS } else { 0 });
        if is_other {
            out.put_u64_le(message.from.0);
            out.put_u64_le(message.to.0);
        }
        put_difference(out, previous.group.0, message.group.0);
        put_varint(out, message.term);
        put_body(out, message.term, &message.body);
        previous = Previous {
            from: message.from,
            to: message.to,
            group: message.group,
        };
    }
}

pub(crate) fn batch(reader: &mut Reader) -> Decoded<Vec<Message>> {
    let count = reader.count(MESSAGE_BYTES_MIN)?;
    if count > BATCH_MESSAGES_MAX {
        return reader.malformed();
    }
    if count == 0 {
        return Ok(Vec::new());
    }
    let mut previous = Previous {
        from: PeerId(reader.u64()?),
        to: PeerId(reader.u64()?),
        group: GroupId(0),
    };
    let mut messages = Vec::with_capacity(count);
    for _ in 0..count {
        let kind = reader.u8()?;
        if kind & OTHER_REPLICAS != 0 {
            let (from, to) = (PeerId(reader.u64()?), PeerId(reader.u64()?));
            if (from, to) == (previous.from, previous.to) {
                return reader.malformed();
            }
            (previous.from, previous.to) = (from, to);
        }
        previous.group = GroupId(difference(reader, previous.group.0)?);
        let term = reader.varint()?;
        messages.push(Message {
            group: previous.group,
            from: previous.from,
            to: previous.to,
            term,
            body: body(reader, kind & !OTHER_REPLICAS, term)?,
        });
    }
    Ok(messages)
}

/// A batch of exactly one.
pub(crate) fn single(reader: &mut Reader) -> Decoded<Message> {
    let mut messages = batch(reader)?;
    match messages.pop() {
        Some(message) if messages.is_empty() => Ok(message),
        _ => reader.malformed(),
    }
}

fn kind_of(body: &Body) -> u8 {
    match body {
        Body::PreVote { .. } => 1,
        Body::PreVoteReply { .. } => 2,
        Body::Vote { .. } => 3,
        Body::VoteReply { .. } => 4,
        Body::Append { .. } => 5,
        Body::AppendReply { .. } => 6,
        Body::Heartbeat { .. } => 7,
        Body::HeartbeatReply { .. } => 8,
        Body::Snapshot { .. } => 9,
        Body::TimeoutNow => 10,
        Body::ReadIndex { .. } => 11,
        Body::ReadIndexReply { .. } => 12,
        Body::Held { .. } => 13,
    }
}

fn put_body(out: &mut Vec<u8>, term: Term, body: &Body) {
    match body {
        Body::PreVote {
            last_index,
            last_term,
            commit,
            priority,
        } => {
            put_candidate(out, *last_index, *last_term, *priority);
            put_commit(out, *commit);
        }
        Body::Vote {
            last_index,
            last_term,
            force,
        } => put_candidate(out, *last_index, *last_term, u8::from(*force)),
        Body::PreVoteReply {
            granted,
            commit,
            recovering,
        } => {
            out.put_u8(u8::from(*granted));
            put_option(out, *recovering);
            put_commit(out, *commit);
        }
        Body::VoteReply { granted, recovering } => {
            out.put_u8(u8::from(*granted));
            put_option(out, *recovering);
        }
        Body::Append {
            prev_index,
            prev_term,
            commit,
            entries,
        } => {
            put_varint(out, *prev_index);
            put_varint(out, *prev_term);
            put_varint(out, *commit);
            put_count(out, entries.len());
            let (mut index, mut time) = (*prev_index, 0);
            for entry in entries {
                // An entry's term is not above its message's, its index the next one: differences are small.
                put_varint(out, term.wrapping_sub(entry.term));
                put_varint(out, entry.index.wrapping_sub(index).wrapping_sub(1));
                out.put_u8(kind_to_u8(entry.kind));
                put_difference(out, time, entry.time.0);
                put_varint(out, entry.data.len() as u64);
                out.put_slice(&entry.data);
                (index, time) = (entry.index, entry.time.0);
            }
        }
        Body::AppendReply { result, recovering } => {
            match result {
                Ok(index) => {
                    out.put_u8(1);
                    put_varint(out, *index);
                }
                Err(reject) => {
                    out.put_u8(0);
                    put_varint(out, reject.prev_index);
                    put_varint(out, reject.hint_index);
                    put_varint(out, reject.hint_term);
                }
            }
            put_option(out, *recovering);
        }
        Body::Heartbeat {
            commit,
            read_seq,
            recover_to,
            rest,
        } => {
            put_varint(out, *commit);
            put_varint(out, *read_seq);
            put_option(out, recover_to.map(|(number, _)| number));
            if let Some((_, index)) = recover_to {
                put_varint(out, *index);
            }
            out.put_u8(u8::from(*rest));
        }
        Body::HeartbeatReply {
            read_seq,
            recovering,
            rested,
        } => {
            put_varint(out, *read_seq);
            put_option(out, *recovering);
            out.put_u8(u8::from(*rested));
        }
        Body::Snapshot { meta } => put_meta(out, meta),
        Body::TimeoutNow => {}
        Body::ReadIndex { ctx } => out.put_u64_le(*ctx),
        Body::ReadIndexReply { ctx, index } => {
            out.put_u64_le(*ctx);
            put_varint(out, *index);
        }
        Body::Held { index } => put_varint(out, *index),
    }
}

fn body(reader: &mut Reader, kind: u8, term: Term) -> Decoded<Body> {
    Ok(match kind {
        1 => Body::PreVote {
            last_index: reader.varint()?,
            last_term: reader.varint()?,
            priority: reader.u8()?,
            commit: commit(reader)?,
        },
        2 => Body::PreVoteReply {
            granted: reader.bool()?,
            recovering: option(reader)?,
            commit: commit(reader)?,
        },
        3 => Body::Vote {
            last_index: reader.varint()?,
            last_term: reader.varint()?,
            force: reader.bool()?,
        },
        4 => Body::VoteReply {
            granted: reader.bool()?,
            recovering: option(reader)?,
        },
        5 => {
            let prev_index = reader.varint()?;
            Body::Append {
                prev_index,
                prev_term: reader.varint()?,
                commit: reader.varint()?,
                entries: entries(reader, term, prev_index)?,
            }
        }
        6 => Body::AppendReply {
            result: if reader.bool()? {
                Ok(reader.varint()?)
            } else {
                Err(Reject {
                    prev_index: reader.varint()?,
                    hint_index: reader.varint()?,
                    hint_term: reader.varint()?,
                })
            },
            recovering: option(reader)?,
        },
        7 => Body::Heartbeat {
            commit: reader.varint()?,
            read_seq: reader.varint()?,
            recover_to: match option(reader)? {
                Some(number) => Some((number, reader.varint()?)),
                None => None,
            },
            rest: reader.bool()?,
        },
        8 => Body::HeartbeatReply {
            read_seq: reader.varint()?,
            recovering: option(reader)?,
            rested: reader.bool()?,
        },
        9 => Body::Snapshot { meta: meta(reader)? },
        10 => Body::TimeoutNow,
        11 => Body::ReadIndex { ctx: reader.u64()? },
        12 => Body::ReadIndexReply {
            ctx: reader.u64()?,
            index: reader.varint()?,
        },
        13 => Body::Held {
            index: reader.varint()?,
        },
        _ => return reader.malformed(),
    })
}

fn put_candidate(out: &mut Vec<u8>, last_index: Index, last_term: Term, how: u8) {
    put_varint(out, last_index);
    put_varint(out, last_term);
    out.put_u8(how);
}

fn put_commit(out: &mut Vec<u8>, (index, term): (Index, Term)) {
    put_varint(out, index);
    put_varint(out, term);
}

fn commit(reader: &mut Reader) -> Decoded<(Index, Term)> {
    Ok((reader.varint()?, reader.varint()?))
}

fn entries(reader: &mut Reader, message_term: Term, prev_index: Index) -> Decoded<Vec<Entry>> {
    let count = reader.count(ENTRY_BYTES_MIN)?;
    let mut entries = Vec::with_capacity(count);
    let (mut index, mut time) = (prev_index, 0);
    for _ in 0..count {
        let term = message_term.wrapping_sub(reader.varint()?);
        index = index.wrapping_add(reader.varint()?).wrapping_add(1);
        let Some(kind) = kind_from_u8(reader.u8()?) else {
            return reader.malformed();
        };
        time = difference(reader, time)?;
        let len = reader.varint()?;
        let data = reader.slice(len)?;
        let time = GroupTime(time);
        entries.push(Entry {
            term,
            index,
            kind,
            time,
            data,
        });
    }
    Ok(entries)
}

/// The random number that names a loss.
fn put_option(out: &mut Vec<u8>, value: Option<u64>) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        out.put_u64_le(value);
    }
}

fn option(reader: &mut Reader) -> Decoded<Option<u64>> {
    Ok(if reader.bool()? { Some(reader.u64()?) } else { None })
}

/// From one number to the next one of its kind, up or down.
fn put_difference(out: &mut Vec<u8>, previous: u64, value: u64) {
    let up = value.wrapping_sub(previous).cast_signed();
    put_varint(out, ((up << 1) ^ (up >> 63)).cast_unsigned());
}

fn difference(reader: &mut Reader, previous: u64) -> Decoded<u64> {
    let folded = reader.varint()?;
    let up = (folded >> 1) ^ (folded & 1).wrapping_neg();
    Ok(previous.wrapping_add(up))
}

pub(crate) fn kind_to_u8(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::Normal => 0,
        EntryKind::ConfChange => 1,
        EntryKind::Noop => 2,
        EntryKind::Host => 3,
    }
}

pub(crate) fn kind_from_u8(kind: u8) -> Option<EntryKind> {
    match kind {
        0 => Some(EntryKind::Normal),
        1 => Some(EntryKind::ConfChange),
        2 => Some(EntryKind::Noop),
        3 => Some(EntryKind::Host),
        _ => None,
    }
}

pub(crate) fn put_meta(out: &mut Vec<u8>, meta: &SnapshotMeta) {
    out.put_u64_le(meta.index);
    out.put_u64_le(meta.term);
    out.put_u64_le(meta.time.0);
    put_conf(out, &meta.conf);
    put_bytes(out, &meta.context);
}

pub(crate) fn meta(reader: &mut Reader) -> Decoded<SnapshotMeta> {
    Ok(SnapshotMeta {
        index: reader.u64()?,
        term: reader.u64()?,
        time: GroupTime(reader.u64()?),
        conf: conf(reader)?,
        context: reader.bytes()?,
    })
}

pub(crate) fn put_conf(out: &mut Vec<u8>, conf: &ConfState) {
    let lists = [
        &conf.voters,
        &conf.outgoing,
        &conf.learners,
        &conf.learners_next,
        &conf.witnesses,
    ];
    for list in lists {
        put_count(out, list.len());
        for peer in list {
            out.put_u64_le(peer.0);
        }
    }
    out.put_u8(u8::from(conf.auto_leave));
}

pub(crate) fn conf(reader: &mut Reader) -> Decoded<ConfState> {
    Ok(ConfState {
        voters: peers(reader)?,
        outgoing: peers(reader)?,
        learners: peers(reader)?,
        learners_next: peers(reader)?,
        witnesses: peers(reader)?,
        auto_leave: reader.bool()?,
    })
}

fn peers(reader: &mut Reader) -> Decoded<Vec<PeerId>> {
    let count = reader.count(8)?;
    let mut peers = Vec::with_capacity(count);
    for _ in 0..count {
        peers.push(PeerId(reader.u64()?));
    }
    Ok(peers)
}
