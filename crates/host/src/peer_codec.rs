//! Bytes of [`PeerMessage`] and [`Hello`]: one version byte, one kind byte, little-endian fields. Decoding takes any
//! bytes: it never panics and never allocates more than they pay for.

use bytes::{BufMut, Bytes};
use settle_base::{GroupId, GroupTime, Index, NodeId, PeerId, Term};
use settle_raft::{Body, ConfState, Entry, EntryKind, Message, Reject, SnapshotMeta};

use crate::{
    ClusterId,
    identity::{members, put_members},
    message::{ChunkContent, Hello, JoinMessage, PeerMessage, SnapshotChunk},
    wire::{Decoded, Malformed, Reader, put_bytes, put_count},
};

/// The format that this build speaks.
pub const PROTOCOL_VERSION: u16 = 1;
/// The longest encoded message; a transport refuses longer frames unread.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
const MESSAGE_VERSION: u8 = 1;
const HELLO_MAGIC: u64 = u64::from_le_bytes(*b"settle/p");

pub fn encode_hello(hello: &Hello) -> Bytes {
    let mut out = Vec::with_capacity(38);
    out.put_u64_le(HELLO_MAGIC);
    out.put_u16_le(hello.protocol);
    out.put_u128_le(hello.cluster.map_or(0, |c| c.0));
    out.put_u32_le(hello.node.0);
    out.put_u64_le(hello.incarnation.0);
    out.into()
}

/// # Errors
/// When the bytes are no hello. A newer protocol's hello may be longer; its extra bytes are ignored.
pub fn decode_hello(bytes: Bytes) -> Result<Hello, Malformed> {
    let mut reader = Reader::new(bytes, "a peer's hello");
    if reader.u64()? != HELLO_MAGIC {
        return reader.malformed();
    }
    Ok(Hello {
        protocol: reader.u16()?,
        cluster: Some(ClusterId(reader.u128()?)).filter(|c| c.0 != 0),
        node: NodeId(reader.u32()?),
        incarnation: PeerId(reader.u64()?),
    })
}

pub fn encode(message: &PeerMessage) -> Bytes {
    let mut out = Vec::with_capacity(64 + payload_bytes(message));
    out.put_u8(MESSAGE_VERSION);
    match message {
        PeerMessage::Raft(messages) => {
            out.put_u8(1);
            put_count(&mut out, messages.len());
            for message in messages {
                put_message(&mut out, message);
            }
        }
        PeerMessage::SnapshotChunk(chunk) => {
            out.put_u8(2);
            out.put_u64_le(chunk.group.0);
            out.put_u64_le(chunk.stream);
            out.put_u32_le(chunk.number);
            out.put_u32_le(chunk.crc);
            match &chunk.content {
                ChunkContent::Start(message) => {
                    out.put_u8(1);
                    put_message(&mut out, message);
                }
                ChunkContent::Data(data) => {
                    out.put_u8(2);
                    put_bytes(&mut out, data);
                }
                ChunkContent::End { bytes } => {
                    out.put_u8(3);
                    out.put_u64_le(*bytes);
                }
            }
        }
        PeerMessage::SnapshotAck { group, stream, next } => {
            out.put_u8(3);
            out.put_u64_le(group.0);
            out.put_u64_le(*stream);
            out.put_u32_le(*next);
        }
        PeerMessage::SnapshotReject { group, stream } => {
            out.put_u8(4);
            out.put_u64_le(group.0);
            out.put_u64_le(*stream);
        }
        PeerMessage::Propose { group, command } => {
            out.put_u8(5);
            out.put_u64_le(group.0);
            put_bytes(&mut out, command);
        }
        PeerMessage::Service(body) => {
            out.put_u8(6);
            put_bytes(&mut out, body);
        }
        PeerMessage::Join(JoinMessage::Found { cluster, founders }) => {
            out.put_u8(7);
            out.put_u128_le(cluster.0);
            put_members(&mut out, founders);
        }
        PeerMessage::Join(JoinMessage::Adopted { cluster }) => {
            out.put_u8(8);
            out.put_u128_le(cluster.0);
        }
    }
    out.into()
}

/// # Errors
/// When the bytes are no message of this version; nothing of them is used then.
pub fn decode(bytes: Bytes) -> Result<PeerMessage, Malformed> {
    let mut reader = Reader::new(bytes, "a peer's message");
    if reader.u8()? != MESSAGE_VERSION {
        return reader.malformed();
    }
    let message = match reader.u8()? {
        1 => {
            let count = reader.count(33)?;
            let mut messages = Vec::with_capacity(count);
            for _ in 0..count {
                messages.push(message(&mut reader)?);
            }
            PeerMessage::Raft(messages)
        }
        2 => PeerMessage::SnapshotChunk(SnapshotChunk {
            group: GroupId(reader.u64()?),
            stream: reader.u64()?,
            number: reader.u32()?,
            crc: reader.u32()?,
            content: match reader.u8()? {
                1 => ChunkContent::Start(Box::new(message(&mut reader)?)),
                2 => ChunkContent::Data(reader.bytes()?),
                3 => ChunkContent::End { bytes: reader.u64()? },
                _ => return reader.malformed(),
            },
        }),
        3 => PeerMessage::SnapshotAck {
            group: GroupId(reader.u64()?),
            stream: reader.u64()?,
            next: reader.u32()?,
        },
        4 => PeerMessage::SnapshotReject {
            group: GroupId(reader.u64()?),
            stream: reader.u64()?,
        },
        5 => PeerMessage::Propose {
            group: GroupId(reader.u64()?),
            command: reader.bytes()?,
        },
        6 => PeerMessage::Service(reader.bytes()?),
        7 => PeerMessage::Join(JoinMessage::Found {
            cluster: ClusterId(reader.u128()?),
            founders: members(&mut reader)?,
        }),
        8 => PeerMessage::Join(JoinMessage::Adopted {
            cluster: ClusterId(reader.u128()?),
        }),
        _ => return reader.malformed(),
    };
    reader.finish()?;
    Ok(message)
}

fn payload_bytes(message: &PeerMessage) -> usize {
    match message {
        PeerMessage::Raft(messages) => messages.iter().map(message_bytes).sum(),
        PeerMessage::SnapshotChunk(SnapshotChunk {
            content: ChunkContent::Data(data),
            ..
        }) => data.len(),
        PeerMessage::Propose { command, .. } => command.len(),
        PeerMessage::Service(body) => body.len(),
        _ => 0,
    }
}

/// About how long a message is once encoded, in bytes.
pub(crate) fn message_bytes(message: &Message) -> usize {
    64 + match &message.body {
        Body::Append { entries, .. } => entries.iter().map(|e| ENTRY_HEADER_BYTES + e.data.len()).sum(),
        _ => 0,
    }
}

const ENTRY_HEADER_BYTES: usize = 29;

fn put_message(out: &mut Vec<u8>, message: &Message) {
    out.put_u64_le(message.group.0);
    out.put_u64_le(message.from.0);
    out.put_u64_le(message.to.0);
    out.put_u64_le(message.term);
    match &message.body {
        Body::PreVote {
            last_index,
            last_term,
            priority,
        } => {
            out.put_u8(1);
            put_candidate(out, *last_index, *last_term, *priority);
        }
        Body::PreVoteReply { granted, recovering } => {
            out.put_u8(2);
            out.put_u8(u8::from(*granted));
            put_option(out, *recovering);
        }
        Body::Vote {
            last_index,
            last_term,
            force,
        } => {
            out.put_u8(3);
            put_candidate(out, *last_index, *last_term, u8::from(*force));
        }
        Body::VoteReply { granted, recovering } => {
            out.put_u8(4);
            out.put_u8(u8::from(*granted));
            put_option(out, *recovering);
        }
        Body::Append {
            prev_index,
            prev_term,
            commit,
            entries,
        } => {
            out.put_u8(5);
            out.put_u64_le(*prev_index);
            out.put_u64_le(*prev_term);
            out.put_u64_le(*commit);
            put_count(out, entries.len());
            for entry in entries {
                put_entry(out, entry);
            }
        }
        Body::AppendReply { result, recovering } => {
            out.put_u8(6);
            match result {
                Ok(index) => {
                    out.put_u8(1);
                    out.put_u64_le(*index);
                }
                Err(reject) => {
                    out.put_u8(0);
                    out.put_u64_le(reject.prev_index);
                    out.put_u64_le(reject.hint_index);
                    out.put_u64_le(reject.hint_term);
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
            out.put_u8(7);
            out.put_u64_le(*commit);
            out.put_u64_le(*read_seq);
            put_option(out, recover_to.map(|(number, _)| number));
            if let Some((_, index)) = recover_to {
                out.put_u64_le(*index);
            }
            out.put_u8(u8::from(*rest));
        }
        Body::HeartbeatReply {
            read_seq,
            recovering,
            rested,
        } => {
            out.put_u8(8);
            out.put_u64_le(*read_seq);
            put_option(out, *recovering);
            out.put_u8(u8::from(*rested));
        }
        Body::Snapshot { meta } => {
            out.put_u8(9);
            put_meta(out, meta);
        }
        Body::TimeoutNow => out.put_u8(10),
        Body::ReadIndex { ctx } => {
            out.put_u8(11);
            out.put_u64_le(*ctx);
        }
        Body::ReadIndexReply { ctx, index } => {
            out.put_u8(12);
            out.put_u64_le(*ctx);
            out.put_u64_le(*index);
        }
    }
}

fn message(reader: &mut Reader) -> Decoded<Message> {
    Ok(Message {
        group: GroupId(reader.u64()?),
        from: PeerId(reader.u64()?),
        to: PeerId(reader.u64()?),
        term: reader.u64()?,
        body: body(reader)?,
    })
}

fn body(reader: &mut Reader) -> Decoded<Body> {
    Ok(match reader.u8()? {
        1 => Body::PreVote {
            last_index: reader.u64()?,
            last_term: reader.u64()?,
            priority: reader.u8()?,
        },
        2 => Body::PreVoteReply {
            granted: reader.bool()?,
            recovering: option(reader)?,
        },
        3 => Body::Vote {
            last_index: reader.u64()?,
            last_term: reader.u64()?,
            force: reader.bool()?,
        },
        4 => Body::VoteReply {
            granted: reader.bool()?,
            recovering: option(reader)?,
        },
        5 => Body::Append {
            prev_index: reader.u64()?,
            prev_term: reader.u64()?,
            commit: reader.u64()?,
            entries: {
                let count = reader.count(ENTRY_HEADER_BYTES)?;
                let mut entries = Vec::with_capacity(count);
                for _ in 0..count {
                    entries.push(entry(reader)?);
                }
                entries
            },
        },
        6 => Body::AppendReply {
            result: if reader.bool()? {
                Ok(reader.u64()?)
            } else {
                Err(Reject {
                    prev_index: reader.u64()?,
                    hint_index: reader.u64()?,
                    hint_term: reader.u64()?,
                })
            },
            recovering: option(reader)?,
        },
        7 => Body::Heartbeat {
            commit: reader.u64()?,
            read_seq: reader.u64()?,
            recover_to: match option(reader)? {
                Some(number) => Some((number, reader.u64()?)),
                None => None,
            },
            rest: reader.bool()?,
        },
        8 => Body::HeartbeatReply {
            read_seq: reader.u64()?,
            recovering: option(reader)?,
            rested: reader.bool()?,
        },
        9 => Body::Snapshot { meta: meta(reader)? },
        10 => Body::TimeoutNow,
        11 => Body::ReadIndex { ctx: reader.u64()? },
        12 => Body::ReadIndexReply {
            ctx: reader.u64()?,
            index: reader.u64()?,
        },
        _ => return reader.malformed(),
    })
}

fn put_candidate(out: &mut Vec<u8>, last_index: Index, last_term: Term, how: u8) {
    out.put_u64_le(last_index);
    out.put_u64_le(last_term);
    out.put_u8(how);
}

fn put_option(out: &mut Vec<u8>, value: Option<u64>) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        out.put_u64_le(value);
    }
}

fn option(reader: &mut Reader) -> Decoded<Option<u64>> {
    Ok(if reader.bool()? { Some(reader.u64()?) } else { None })
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    out.put_u64_le(entry.term);
    out.put_u64_le(entry.index);
    out.put_u8(kind_to_u8(entry.kind));
    out.put_u64_le(entry.time.0);
    put_bytes(out, &entry.data);
}

fn entry(reader: &mut Reader) -> Decoded<Entry> {
    Ok(Entry {
        term: reader.u64()?,
        index: reader.u64()?,
        kind: match kind_from_u8(reader.u8()?) {
            Some(kind) => kind,
            None => return reader.malformed(),
        },
        time: GroupTime(reader.u64()?),
        data: reader.bytes()?,
    })
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
    for list in [&conf.voters, &conf.outgoing, &conf.learners, &conf.learners_next] {
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
