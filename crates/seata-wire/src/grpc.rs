//! Messages of the gRPC transport (Seata 2.3 and later, `transport.protocol=grpc`): a frame's fields as a
//! `GrpcMessageProto`, whose body is a protobuf message in an `Any`.
//!
//! Source: `core/rpc/netty/grpc/{GrpcEncoder,GrpcDecoder}`, `serializer/protobuf/GrpcSerializer` of Seata 2.3 and 2.6.

use bytes::{BufMut, BytesMut};

use crate::{
    compress::{Decompress, compress},
    error::WireError,
    frame::{Codec, Compressor, Frame, HeadMap, MAX_FRAME_BYTES_DEFAULT, MsgType, ProtocolVersion, Takes},
    lz4,
    proto_fields::{Fields, each, put_nested, put_number, put_text, put_varint},
    protobuf::{self, Package},
};

const CODEC_KEY: &str = "codec-type";
const COMPRESSOR_KEY: &str = "compress-type";
/// `SerializerType.GRPC`: an `Any` of a type of [`protobuf`].
const ANY: u8 = 40;
/// All entries of one head, which is as much as a frame has room for.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// How the bodies of one stream are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Body {
    Any,
    /// As in a frame of this serializer.
    Plain,
}

/// The messages of one stream, both ways.
pub(crate) struct GrpcCodec {
    max_bytes: usize,
    takes: Takes,
    /// Of the client's last message: it is answered in it.
    body: Body,
    decompress: Decompress,
}

impl GrpcCodec {
    pub(crate) fn new(takes: Takes, max_bytes: usize) -> GrpcCodec {
        GrpcCodec {
            max_bytes,
            takes,
            body: Body::Any,
            decompress: Decompress::default(),
        }
    }

    pub(crate) fn take_all(&mut self, max_bytes: usize) {
        (self.takes, self.max_bytes) = (Takes::All, max_bytes);
    }

    pub(crate) fn decode(&mut self, bytes: &[u8]) -> Result<Frame, WireError> {
        let fields = Fields::of(bytes)?;
        let msg_type = MsgType::try_from(u8::try_from(fields.i32(2)?).unwrap_or(u8::MAX))?;
        self.takes.check_kind(msg_type)?;
        let (mut codec, mut compressor, mut head_bytes) = (None, Compressor::None, 0);
        for entry in each(bytes, 3) {
            let entry = entry?.bytes()?;
            head_bytes += entry.len();
            if head_bytes > MAX_HEAD_BYTES {
                return Err(broken("a head of more than 64 KiB"));
            }
            let entry = Fields::of(entry)?;
            // Nothing else in a head means anything here; an entry of two bytes must not become fifty that are kept.
            match entry.bytes(1)? {
                key if key == CODEC_KEY.as_bytes() => codec = Some(number(entry.bytes(2)?)?),
                key if key == COMPRESSOR_KEY.as_bytes() => {
                    compressor = Compressor::try_from(number(entry.bytes(2)?)?)?;
                }
                _ => {}
            }
        }
        let mut frame = Frame {
            version: ProtocolVersion::V1,
            msg_type,
            codec: Codec::Protobuf(Package::Apache),
            compressor,
            request_id: fields.i32(1)?,
            head: HeadMap::new(),
            body: None,
        };
        if msg_type.is_heartbeat() {
            return Ok(frame);
        }
        let body = fields.bytes(4)?;
        if let Compressor::Lz4(format) = &mut frame.compressor {
            *format = lz4::format_of(body);
        }
        let inflated = match frame.compressor {
            Compressor::None => None,
            compressor => Some(self.decompress.run(compressor, body, self.max_bytes)?),
        };
        let body = inflated.as_deref().unwrap_or(body);
        let (codec, message) = match codec.ok_or(broken("a message without its codec-type"))? {
            ANY => {
                self.body = Body::Any;
                let (package, message) = protobuf::decode_any(body, self.takes)?;
                (Codec::Protobuf(package), message)
            }
            code => {
                self.body = Body::Plain;
                Codec::try_from(code)?.get(frame.version, body, self.takes)?
            }
        };
        (frame.codec, frame.body) = (codec, Some(message));
        Ok(frame)
    }

    pub(crate) fn encode(&self, frame: &Frame, out: &mut BytesMut) -> Result<(), WireError> {
        let mut body = BytesMut::new();
        let codec = match (self.body, frame.codec) {
            (Body::Any, Codec::Protobuf(package)) => {
                if let Some(message) = &frame.body {
                    protobuf::encode_any(message, package, &mut body)?;
                }
                ANY
            }
            (_, codec) => {
                if let Some(message) = &frame.body {
                    codec.put(message, frame.version, &mut body)?;
                }
                codec.code()
            }
        };
        if body.len() > MAX_FRAME_BYTES_DEFAULT {
            return Err(WireError::FrameTooLong {
                bytes: body.len() as u64,
                max: MAX_FRAME_BYTES_DEFAULT,
            });
        }
        let packed = match frame.compressor {
            Compressor::None => None,
            _ if frame.body.is_none() => None,
            compressor => Some(compress(compressor, &body)?),
        };
        put_number(out, 1, i64::from(frame.request_id).cast_unsigned());
        put_number(out, 2, u64::from(frame.msg_type as u8));
        let ours = [(CODEC_KEY, codec), (COMPRESSOR_KEY, frame.compressor.code())];
        for (key, value) in ours {
            put_nested(out, 3, |out| {
                put_text(out, 1, key);
                put_text(out, 2, &value.to_string());
            });
        }
        let body = packed.as_deref().unwrap_or(&body);
        if !body.is_empty() {
            put_varint(out, 4 << 3 | 2);
            put_varint(out, body.len() as u64);
            out.put_slice(body);
        }
        Ok(())
    }
}

fn number(text: &[u8]) -> Result<u8, WireError> {
    str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(broken("a codec-type or compress-type that is no number"))
}

fn broken(problem: &'static str) -> WireError {
    WireError::Grpc { problem }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{GlobalBegin, Message};

    fn sample(message: Message) -> Frame {
        Frame {
            codec: Codec::Protobuf(Package::Apache),
            ..Frame::request(ProtocolVersion::V1, MsgType::RequestSync, 7, message)
        }
    }

    #[test]
    fn a_message_survives_with_every_compressor_and_is_answered_as_it_came() {
        let begin = Message::GlobalBegin(GlobalBegin {
            timeout_ms: 60_000,
            transaction_name: "purchase".repeat(20),
        });
        for code in [0, 1, 5, 6, 7] {
            let mut frame = sample(begin.clone());
            frame.compressor = Compressor::try_from(code).unwrap();
            let mut codec = GrpcCodec::new(Takes::All, 1 << 20);
            let mut bytes = BytesMut::new();
            codec.encode(&frame, &mut bytes).unwrap();
            assert_eq!(codec.decode(&bytes).unwrap(), frame);
            assert!(codec.decode(&bytes[..bytes.len() - 1]).is_err());
        }
    }

    #[test]
    fn of_a_head_nothing_is_kept_and_its_size_is_bounded() {
        let mut codec = GrpcCodec::new(Takes::All, 1 << 20);
        let heartbeat = [0x08, 7, 0x10, 3];
        let head = |entries: usize, bytes: usize| {
            let mut message = BytesMut::from(&heartbeat[..]);
            for _ in 0..entries {
                put_nested(&mut message, 3, |out| put_text(out, 1, &"k".repeat(bytes)));
            }
            message
        };
        assert_eq!(codec.decode(&head(30_000, 0)).unwrap().head.capacity(), 0);
        assert!(codec.decode(&head(1, 65_000)).is_ok());
        assert!(matches!(codec.decode(&head(2, 40_000)), Err(WireError::Grpc { .. })));
        assert!(matches!(codec.decode(&head(30_000, 1)), Err(WireError::Grpc { .. })));
    }

    #[test]
    fn a_heartbeat_needs_no_codec_and_anything_else_does() {
        let mut codec = GrpcCodec::new(Takes::All, 1 << 20);
        let read = codec.decode(&[0x08, 7, 0x10, 3]).unwrap();
        assert_eq!((read.msg_type, read.request_id), (MsgType::HeartbeatRequest, 7));
        assert!(matches!(codec.decode(&[0x08, 7]), Err(WireError::Grpc { .. })));
        assert!(codec.decode(&[0x10, 99]).is_err());
    }
}
