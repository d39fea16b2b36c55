//! Bytes to frames.

use bytes::{Buf, BytesMut};

use crate::frame::{
    CHECKSUM_BYTES, COMMAND_HEARTBEAT, COMMAND_REQUEST, COMMAND_RESPONSE, KIND_ONEWAY, KIND_REQUEST, KIND_RESPONSE,
    PROTOCOL_1, PROTOCOL_2,
};
use crate::{Body, BoltError, Codec, Command, Frame, Limits, Part, Status, Switch, Version};

/// Cuts a byte stream into frames. One per direction of a connection.
#[derive(Clone, Debug, Default)]
pub struct FrameDecoder {
    limits: Limits,
}

/// The fixed part, checked.
struct Head {
    version: Version,
    switch: Switch,
    kind: u8,
    command: i16,
    command_version: u8,
    id: i32,
    codec: Codec,
    timeout_or_status: i32,
    head_bytes: usize,
    class_bytes: usize,
    header_bytes: usize,
    content_bytes: usize,
}

impl Head {
    fn has_checksum(&self) -> bool {
        self.version == Version::V2Checked && self.switch.has_checksum()
    }
}

impl FrameDecoder {
    pub fn new(limits: Limits) -> FrameDecoder {
        FrameDecoder { limits }
    }

    /// Takes the first frame out of `buf`; `None` until all of it is there. A frame that cannot become valid is refused
    /// as soon as its head shows it. Reserves nothing and copies nothing: a body shares the memory of `buf`.
    ///
    /// # Errors
    /// Fatal: close the connection, do not call again.
    pub fn decode(&self, buf: &mut BytesMut) -> Result<Option<Frame>, BoltError> {
        let Some(head) = read_head(buf, &self.limits)? else {
            return Ok(None);
        };
        let body_end = head.head_bytes + head.class_bytes + head.header_bytes + head.content_bytes;
        let checksum_bytes = if head.has_checksum() { CHECKSUM_BYTES } else { 0 };
        if buf.len() < body_end + checksum_bytes {
            return Ok(None);
        }
        if head.has_checksum() {
            let found = (&buf[body_end..]).get_u32();
            let computed = crc32fast::hash(&buf[..body_end]);
            if found != computed {
                return Err(BoltError::BadChecksum { found, computed });
            }
        }
        let mut rest = buf.split_to(body_end + checksum_bytes).freeze();
        rest.advance(head.head_bytes);
        let body = Body {
            class: rest.split_to(head.class_bytes),
            header: rest.split_to(head.header_bytes),
            content: rest.split_to(head.content_bytes),
        };
        let timeout_ms = head.timeout_or_status;
        let status = || Status::of(timeout_ms as i16);
        let command = match (head.kind, head.command) {
            (KIND_REQUEST, COMMAND_HEARTBEAT) => Command::Heartbeat { timeout_ms },
            (KIND_RESPONSE, COMMAND_HEARTBEAT) => Command::HeartbeatAck { status: status() },
            (KIND_REQUEST, _) => Command::Request { timeout_ms, body },
            (KIND_ONEWAY, _) => Command::Oneway { timeout_ms, body },
            _ => Command::Response { status: status(), body },
        };
        Ok(Some(Frame {
            version: head.version,
            switch: head.switch,
            id: head.id,
            codec: head.codec,
            command_version: head.command_version,
            command,
        }))
    }
}

/// Checks as much of the fixed part as has arrived; `None` until it is complete.
fn read_head(bytes: &[u8], limits: &Limits) -> Result<Option<Head>, BoltError> {
    let mut rest = bytes;
    let Some(&first) = rest.first() else {
        return Ok(None);
    };
    rest.advance(1);
    let version = match first {
        PROTOCOL_1 => Version::V1,
        PROTOCOL_2 => match rest.first() {
            None => return Ok(None),
            Some(1) => Version::V2Plain,
            Some(2) => Version::V2Checked,
            Some(&version) => return Err(BoltError::UnknownVersion { version }),
        },
        first => return Err(BoltError::UnknownProtocol { first }),
    };
    let has_switch = version != Version::V1;
    if has_switch {
        rest.advance(1);
    }
    let Some(&kind) = rest.first() else {
        return Ok(None);
    };
    rest.advance(1);
    let is_response = match kind {
        KIND_RESPONSE => true,
        KIND_REQUEST | KIND_ONEWAY => false,
        _ => return Err(BoltError::UnknownKind { kind }),
    };
    // command, ver2, id, codec, perhaps the switch; status or timeout; three lengths.
    let left = 8 + usize::from(has_switch) + if is_response { 2 } else { 4 } + 8;
    if rest.len() < left {
        return Ok(None);
    }
    let head_bytes = bytes.len() - rest.len() + left;
    let command = rest.get_i16();
    match (kind, command) {
        (KIND_REQUEST | KIND_RESPONSE, COMMAND_HEARTBEAT)
        | (KIND_REQUEST | KIND_ONEWAY, COMMAND_REQUEST)
        | (KIND_RESPONSE, COMMAND_RESPONSE) => {}
        _ => return Err(BoltError::UnknownCommand { kind, command }),
    }
    let command_version = rest.get_u8();
    let id = rest.get_i32();
    let codec = Codec(rest.get_u8());
    let switch = match has_switch {
        true => Switch::try_from(rest.get_u8())?,
        false => Switch::NONE,
    };
    let timeout_or_status = match is_response {
        true => i32::from(rest.get_i16()),
        false => rest.get_i32(),
    };
    let class_bytes = length(Part::Class, i32::from(rest.get_i16()))?;
    let header_bytes = length(Part::Header, i32::from(rest.get_i16()))?;
    let content_bytes = length(Part::Content, rest.get_i32())?;
    if class_bytes > limits.class_bytes {
        return Err(BoltError::ClassTooLong {
            bytes: class_bytes,
            max: limits.class_bytes,
        });
    }
    if header_bytes > limits.header_bytes {
        return Err(BoltError::HeaderTooLong {
            bytes: header_bytes,
            max: limits.header_bytes,
        });
    }
    if command == COMMAND_HEARTBEAT && class_bytes + header_bytes + content_bytes > 0 {
        return Err(BoltError::HeartbeatBody {
            bytes: class_bytes + header_bytes + content_bytes,
        });
    }
    let head = Head {
        version,
        switch,
        kind,
        command,
        command_version,
        id,
        codec,
        timeout_or_status,
        head_bytes,
        class_bytes,
        header_bytes,
        content_bytes,
    };
    let checksum_bytes = if head.has_checksum() { CHECKSUM_BYTES } else { 0 };
    let frame_bytes = head_bytes + class_bytes + header_bytes + checksum_bytes;
    let frame_bytes = frame_bytes as u64 + content_bytes as u64;
    if frame_bytes > limits.frame_bytes as u64 {
        return Err(BoltError::FrameTooLong {
            bytes: frame_bytes,
            max: limits.frame_bytes,
        });
    }
    Ok(Some(head))
}

fn length(part: Part, length: i32) -> Result<usize, BoltError> {
    usize::try_from(length).map_err(|_| BoltError::NegativeLength { part, length })
}
