//! Frames to bytes.

use bytes::{BufMut, BytesMut};

use crate::frame::{
    COMMAND_HEARTBEAT, COMMAND_REQUEST, COMMAND_RESPONSE, KIND_ONEWAY, KIND_REQUEST, KIND_RESPONSE, PROTOCOL_1,
    PROTOCOL_2,
};
use crate::{Body, BoltError, Command, Frame, Part, Status, Switch, Version};

impl Frame {
    /// Appends this frame to `out`.
    ///
    /// # Errors
    /// A part is longer than Java's signed length of it can say, or the frame says what Java would close the connection
    /// over. `out` is then as before.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), BoltError> {
        let (kind, command, body) = match &self.command {
            Command::Heartbeat { .. } => (KIND_REQUEST, COMMAND_HEARTBEAT, &Body::EMPTY),
            Command::HeartbeatAck { .. } => (KIND_RESPONSE, COMMAND_HEARTBEAT, &Body::EMPTY),
            Command::Request { body, .. } => (KIND_REQUEST, COMMAND_REQUEST, body),
            Command::Oneway { body, .. } => (KIND_ONEWAY, COMMAND_REQUEST, body),
            Command::Response { body, .. } => (KIND_RESPONSE, COMMAND_RESPONSE, body),
        };
        let class_bytes = short(Part::Class, body.class.len())?;
        let header_bytes = short(Part::Header, body.header.len())?;
        let content_bytes = i32::try_from(body.content.len()).map_err(|_| BoltError::PartTooLong {
            part: Part::Content,
            bytes: body.content.len(),
            max: i32::MAX as usize,
        })?;
        match self.command {
            Command::HeartbeatAck {
                status: Status::Unlisted(value),
            }
            | Command::Response {
                status: Status::Unlisted(value),
                ..
            } => return Err(BoltError::UnlistedStatus { value }),
            _ => {}
        }
        if self.version == Version::V1 && self.switch != Switch::NONE {
            return Err(BoltError::SwitchWithoutPlace {
                value: self.switch.bits(),
            });
        }
        let start = out.len();
        // 24 bytes of head and 4 of checksum are the most that there can be.
        out.reserve(28 + body.bytes());
        match self.version {
            Version::V1 => out.put_u8(PROTOCOL_1),
            Version::V2Plain => out.put_slice(&[PROTOCOL_2, 1]),
            Version::V2Checked => out.put_slice(&[PROTOCOL_2, 2]),
        }
        out.put_u8(kind);
        out.put_i16(command);
        out.put_u8(self.command_version);
        out.put_i32(self.id);
        out.put_u8(self.codec.0);
        if self.version != Version::V1 {
            out.put_u8(self.switch.bits());
        }
        match self.command {
            Command::Heartbeat { timeout_ms }
            | Command::Request { timeout_ms, .. }
            | Command::Oneway { timeout_ms, .. } => out.put_i32(timeout_ms),
            Command::HeartbeatAck { status } | Command::Response { status, .. } => out.put_i16(status.value()),
        }
        out.put_i16(class_bytes);
        out.put_i16(header_bytes);
        out.put_i32(content_bytes);
        out.put_slice(&body.class);
        out.put_slice(&body.header);
        out.put_slice(&body.content);
        if self.has_checksum() {
            let checksum = crc32fast::hash(&out[start..]);
            out.put_u32(checksum);
        }
        Ok(())
    }
}

fn short(part: Part, bytes: usize) -> Result<i16, BoltError> {
    i16::try_from(bytes).map_err(|_| BoltError::PartTooLong {
        part,
        bytes,
        max: i16::MAX as usize,
    })
}
