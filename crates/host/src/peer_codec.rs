//! Bytes of [`PeerMessage`] and [`Hello`]: one version byte, one kind byte, little-endian fields. Decoding takes any
//! bytes: it never panics and never allocates more than they pay for.

use bytes::{BufMut, Bytes};
use settle_base::{GroupId, NodeId, PeerId};

use crate::{
    ClusterId, Leads,
    identity::{members, put_members},
    message::{ChunkContent, Hello, JoinMessage, PeerMessage, SnapshotChunk},
    raft_codec,
    wire::{Malformed, Reader, put_bytes},
};

/// The newest format that this build speaks.
pub const PROTOCOL_VERSION: u16 = 1;
/// The oldest one that it still speaks: nodes are upgraded one by one, so that of the build before stays in the range.
pub const PROTOCOL_VERSION_MIN: u16 = 1;
/// The longest encoded message; a transport refuses longer frames unread.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
const MESSAGE_VERSION: u8 = 1;
const HELLO_MAGIC: u64 = u64::from_le_bytes(*b"settle/p");

pub fn encode_hello(hello: &Hello) -> Bytes {
    let mut out = Vec::with_capacity(44);
    out.put_u64_le(HELLO_MAGIC);
    out.put_u16_le(hello.protocol);
    out.put_u16_le(hello.protocol_min);
    out.put_u128_le(hello.cluster.map_or(0, |c| c.0));
    out.put_u32_le(hello.node.0);
    out.put_u64_le(hello.incarnation.0);
    out.put_u32_le(hello.build);
    out.put_u8(u8::from(hello.witness));
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
        protocol_min: reader.u16()?,
        cluster: Some(ClusterId(reader.u128()?)).filter(|c| c.0 != 0),
        node: NodeId(reader.u32()?),
        incarnation: PeerId(reader.u64()?),
        build: reader.u32()?,
        witness: reader.bool()?,
    })
}

pub fn encode(message: &PeerMessage) -> Bytes {
    let mut out = Vec::with_capacity(64 + payload_bytes(message));
    out.put_u8(MESSAGE_VERSION);
    match message {
        PeerMessage::Raft(messages) => {
            out.put_u8(1);
            raft_codec::put_batch(&mut out, messages);
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
                    raft_codec::put_batch(&mut out, std::slice::from_ref(message));
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
        PeerMessage::Propose {
            group,
            command,
            expected_term,
        } => {
            out.put_u8(5);
            out.put_u64_le(group.0);
            out.put_u8(u8::from(expected_term.is_some()));
            if let Some(term) = expected_term {
                out.put_u64_le(*term);
            }
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
        PeerMessage::Pulse { boot, leads } => {
            out.put_u8(9);
            out.put_u64_le(*boot);
            out.put_u32_le(leads.count);
            out.put_u8(leads.priority);
            out.put_u8(u8::from(leads.accepts));
        }
        PeerMessage::AllowReplace { node, at_ms } => {
            out.put_u8(10);
            out.put_u32_le(node.0);
            out.put_u64_le(*at_ms);
        }
        PeerMessage::StateHash { group, index, hash } => {
            out.put_u8(11);
            out.put_u64_le(group.0);
            out.put_u64_le(*index);
            out.put_u64_le(*hash);
        }
        PeerMessage::WantSnapshot { group } => {
            out.put_u8(12);
            out.put_u64_le(group.0);
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
        1 => PeerMessage::Raft(raft_codec::batch(&mut reader)?),
        2 => PeerMessage::SnapshotChunk(SnapshotChunk {
            group: GroupId(reader.u64()?),
            stream: reader.u64()?,
            number: reader.u32()?,
            crc: reader.u32()?,
            content: match reader.u8()? {
                1 => ChunkContent::Start(Box::new(raft_codec::single(&mut reader)?)),
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
            expected_term: match reader.bool()? {
                true => Some(reader.u64()?),
                false => None,
            },
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
        9 => PeerMessage::Pulse {
            boot: reader.u64()?,
            leads: Leads {
                count: reader.u32()?,
                priority: reader.u8()?,
                accepts: reader.bool()?,
            },
        },
        10 => PeerMessage::AllowReplace {
            node: NodeId(reader.u32()?),
            at_ms: reader.u64()?,
        },
        11 => PeerMessage::StateHash {
            group: GroupId(reader.u64()?),
            index: reader.u64()?,
            hash: reader.u64()?,
        },
        12 => PeerMessage::WantSnapshot {
            group: GroupId(reader.u64()?),
        },
        _ => return reader.malformed(),
    };
    reader.finish()?;
    Ok(message)
}

fn payload_bytes(message: &PeerMessage) -> usize {
    match message {
        PeerMessage::Raft(messages) => messages.iter().map(raft_codec::message_bytes).sum(),
        PeerMessage::SnapshotChunk(SnapshotChunk {
            content: ChunkContent::Data(data),
            ..
        }) => data.len(),
        PeerMessage::Propose { command, .. } => command.len(),
        PeerMessage::Service(body) => body.len(),
        _ => 0,
    }
}
