//! The frame: 16 bytes, an optional head map, the body.
//!
//! ```text
//! 0      2         3            7            9          10      11           12          16
//! | dada | version | fullLength | headLength | msgType | codec | compressor | requestId | head map … | body …
//! |  u16 |      u8 |        u32 |        u16 |      u8 |    u8 |         u8 |       i32 |
//! ```
//! Source: `core/rpc/netty/v1/ProtocolV1{En,De}coder` of Seata 1.8.0 (`ProtocolEncoderV1` in 2.6.0). Version 2, from
//! Seata 2.7, has the same frame with version byte 2; only the answers to registrations differ.

use crate::compress::{Decompress, compress};
use crate::error::WireError;
use crate::lz4;
use crate::message::{Message, type_code};
use crate::protobuf::{self, Package};
use bytes::{Buf, BufMut, BytesMut};

/// The longest frame that Java's decoder takes (`ProtocolConstants.MAX_FRAME_LENGTH`).
pub const MAX_FRAME_BYTES_DEFAULT: usize = 8 << 20;

const MAGIC: u16 = 0xdada;
const HEAD_BYTES: usize = 16;
const FULL_LENGTH_AT: usize = 3;
const HEAD_LENGTH_AT: usize = 7;

/// What a frame is for. The peer answers both kinds of request with a `Response` of the same request id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum MsgType {
    RequestSync = 0,
    Response = 1,
    /// Java waits for answers to these too.
    RequestOneway = 2,
    HeartbeatRequest = 3,
    HeartbeatResponse = 4,
}

impl MsgType {
    pub const fn is_heartbeat(self) -> bool {
        matches!(self, MsgType::HeartbeatRequest | MsgType::HeartbeatResponse)
    }
}

impl TryFrom<u8> for MsgType {
    type Error = WireError;

    fn try_from(value: u8) -> Result<MsgType, WireError> {
        match value {
            0 => Ok(MsgType::RequestSync),
            1 => Ok(MsgType::Response),
            2 => Ok(MsgType::RequestOneway),
            3 => Ok(MsgType::HeartbeatRequest),
            4 => Ok(MsgType::HeartbeatResponse),
            _ => Err(WireError::UnknownMsgType { value }),
        }
    }
}

/// The serializer of a body. Others carry Java class names and are refused by name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Codec {
    #[default]
    Seata,
    /// Of a heartbeat, which has no body and so no package, [`Package::Apache`] is read.
    Protobuf(Package),
}

impl Codec {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Codec::Seata => 0x01,
            Codec::Protobuf(_) => 0x02,
        }
    }

    pub(crate) fn put(self, message: &Message, version: ProtocolVersion, out: &mut BytesMut) -> Result<(), WireError> {
        match self {
            Codec::Seata => message.encode(version, out),
            Codec::Protobuf(package) => protobuf::encode(message, package, out),
        }
    }

    /// The message, and the codec with what only the body tells of it.
    pub(crate) fn get(
        self,
        version: ProtocolVersion,
        body: &[u8],
        takes: Takes,
    ) -> Result<(Codec, Message), WireError> {
        match self {
            Codec::Seata => {
                if let Some((type_code, _)) = body.split_first_chunk() {
                    takes.check(i16::from_be_bytes(*type_code))?;
                }
                Ok((self, Message::decode(version, body)?))
            }
            Codec::Protobuf(_) => {
                let (package, message) = protobuf::decode(body, takes)?;
                Ok((Codec::Protobuf(package), message))
            }
        }
    }
}

impl TryFrom<u8> for Codec {
    type Error = WireError;

    /// Codes: `core/serializer/SerializerType`. HESSIAN really is 0x16.
    fn try_from(code: u8) -> Result<Codec, WireError> {
        let name = match code {
            0x01 => return Ok(Codec::Seata),
            0x02 => return Ok(Codec::Protobuf(Package::Apache)),
            0x04 => "kryo",
            0x08 => "fst",
            0x16 => "hessian",
            0x32 => "jackson",
            0x64 => "fastjson2",
            _ => "unknown",
        };
        Err(WireError::UnsupportedSerializer { code, name })
    }
}

/// The compression of a body.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Compressor {
    #[default]
    None,
    Gzip,
    /// The code is the same for two formats that do not read each other; only the body tells which it is. Answer in the
    /// one that was received. Of a heartbeat, which has no body, the frame format is read.
    Lz4(Lz4Format),
    /// A zlib stream, as by `java.util.zip.Deflater`.
    Deflater,
    Zstd,
}

/// What the compressor lz4 writes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Lz4Format {
    /// lz4-java's own block stream: 1.x to 2.3.
    Block,
    /// The LZ4 frame format: 2.6.
    Frame,
}

impl Compressor {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Compressor::None => 0,
            Compressor::Gzip => 1,
            Compressor::Lz4(_) => 5,
            Compressor::Deflater => 6,
            Compressor::Zstd => 7,
        }
    }
}

impl TryFrom<u8> for Compressor {
    type Error = WireError;

    /// Codes: `core/compressor/CompressorType`.
    fn try_from(code: u8) -> Result<Compressor, WireError> {
        let name = match code {
            0 => return Ok(Compressor::None),
            1 => return Ok(Compressor::Gzip),
            5 => return Ok(Compressor::Lz4(Lz4Format::Frame)),
            6 => return Ok(Compressor::Deflater),
            7 => return Ok(Compressor::Zstd),
            2 => "zip",
            3 => "7z",
            4 => "bzip2",
            _ => "unknown",
        };
        Err(WireError::UnsupportedCompressor { code, name })
    }
}

/// The version byte. Answer in the version that was received.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
#[repr(u8)]
pub enum ProtocolVersion {
    /// Seata 0.8 to 2.6 and seata-go.
    #[default]
    V1 = 1,
    /// Seata 2.7: answers to registrations carry a result.
    V2 = 2,
}

impl TryFrom<u8> for ProtocolVersion {
    type Error = WireError;

    fn try_from(version: u8) -> Result<ProtocolVersion, WireError> {
        match version {
            1 => Ok(ProtocolVersion::V1),
            2 => Ok(ProtocolVersion::V2),
            _ => Err(WireError::UnsupportedVersion { version }),
        }
    }
}

/// Key-value pairs in wire order; a value may be null. Normally empty.
pub type HeadMap = Vec<(String, Option<String>)>;

/// One frame with its body decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    pub version: ProtocolVersion,
    pub msg_type: MsgType,
    pub codec: Codec,
    pub compressor: Compressor,
    /// Chosen by the sender of a request, echoed in its answer.
    pub request_id: i32,
    pub head: HeadMap,
    /// `None` for heartbeats, and only for them.
    pub body: Option<Message>,
}

impl Frame {
    /// A request with the default codec, uncompressed.
    pub fn request(version: ProtocolVersion, msg_type: MsgType, request_id: i32, body: Message) -> Frame {
        Frame {
            version,
            msg_type,
            codec: Codec::Seata,
            compressor: Compressor::None,
            request_id,
            head: HeadMap::new(),
            body: Some(body),
        }
    }

    /// The answer to this request: same id, version, codec and compressor.
    pub fn response(&self, body: Message) -> Frame {
        Frame {
            msg_type: MsgType::Response,
            head: HeadMap::new(),
            body: Some(body),
            ..self.without_body()
        }
    }

    /// The answer to this heartbeat.
    pub fn pong(&self) -> Frame {
        Frame {
            msg_type: MsgType::HeartbeatResponse,
            head: HeadMap::new(),
            ..self.without_body()
        }
    }

    /// A heartbeat request.
    pub fn ping(version: ProtocolVersion, request_id: i32) -> Frame {
        Frame {
            version,
            msg_type: MsgType::HeartbeatRequest,
            codec: Codec::Seata,
            compressor: Compressor::None,
            request_id,
            head: HeadMap::new(),
            body: None,
        }
    }

    fn without_body(&self) -> Frame {
        Frame {
            version: self.version,
            msg_type: self.msg_type,
            codec: self.codec,
            compressor: self.compressor,
            request_id: self.request_id,
            head: HeadMap::new(),
            body: None,
        }
    }
}

/// The fixed part, checked.
struct Head {
    version: ProtocolVersion,
    full_bytes: usize,
    head_bytes: usize,
    msg_type: MsgType,
    codec: Codec,
    compressor: Compressor,
    request_id: i32,
}

/// Which messages are read at all; the others are refused by their type, unread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Takes {
    /// The registrations of a TM or RM: of a client that nobody knows yet.
    Registrations,
    All,
}

impl Takes {
    pub(crate) fn check(self, type_code: i16) -> Result<(), WireError> {
        match (self, type_code) {
            (Takes::All, _) | (Takes::Registrations, type_code::REGISTER_TM | type_code::REGISTER_RM) => Ok(()),
            (Takes::Registrations, _) => Err(WireError::NotARegistration),
        }
    }

    pub(crate) fn check_kind(self, msg_type: MsgType) -> Result<(), WireError> {
        match (self, msg_type) {
            (Takes::All, _) | (Takes::Registrations, MsgType::RequestSync | MsgType::RequestOneway) => Ok(()),
            (Takes::Registrations, _) => Err(WireError::NotARegistration),
        }
    }
}

/// Cuts a byte stream into frames. One per connection.
pub struct FrameDecoder {
    max_frame_bytes: usize,
    takes: Takes,
    decompress: Decompress,
}

impl FrameDecoder {
    /// `max_frame_bytes` bounds a frame as it arrives and its body when decompressed.
    pub fn new(max_frame_bytes: usize) -> FrameDecoder {
        FrameDecoder::taking(Takes::All, max_frame_bytes)
    }

    pub(crate) fn taking(takes: Takes, max_frame_bytes: usize) -> FrameDecoder {
        FrameDecoder {
            max_frame_bytes,
            takes,
            decompress: Decompress::default(),
        }
    }

    /// Takes the first frame out of `buf`; `None` until all of it is there. A frame that cannot become valid is
    /// refused at its first wrong byte. Never reserves space: how far `buf` may grow ahead is the caller's choice.
    ///
    /// # Errors
    /// Fatal: close the connection, do not call again.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Frame>, WireError> {
        let Some(mut head) = read_head(buf, self.max_frame_bytes)? else {
            return Ok(None);
        };
        self.takes.check_kind(head.msg_type)?;
        if buf.len() < head.full_bytes {
            return Ok(None);
        }
        let frame = buf.split_to(head.full_bytes);
        let head_map = read_head_map(&frame[HEAD_BYTES..head.head_bytes])?;
        let body = &frame[head.head_bytes..];
        let (codec, message) = match (head.msg_type.is_heartbeat(), body.is_empty()) {
            (true, true) => (head.codec, None),
            (true, false) => {
                return Err(WireError::BodyPresence {
                    msg_type: head.msg_type as u8,
                    expected: "not have",
                });
            }
            (false, true) => {
                return Err(WireError::BodyPresence {
                    msg_type: head.msg_type as u8,
                    expected: "have",
                });
            }
            (false, false) => {
                if let Compressor::Lz4(format) = &mut head.compressor {
                    *format = lz4::format_of(body);
                }
                let (codec, message) = match head.compressor {
                    Compressor::None => head.codec.get(head.version, body, self.takes)?,
                    compressor => {
                        let inflated = self.decompress.run(compressor, body, self.max_frame_bytes)?;
                        head.codec.get(head.version, &inflated, self.takes)?
                    }
                };
                (codec, Some(message))
            }
        };
        Ok(Some(Frame {
            version: head.version,
            msg_type: head.msg_type,
            codec,
            compressor: head.compressor,
            request_id: head.request_id,
            head: head_map,
            body: message,
        }))
    }
}

/// Checks as much of the fixed part as has arrived, in wire order; `None` until it is complete.
fn read_head(bytes: &[u8], max_frame_bytes: usize) -> Result<Option<Head>, WireError> {
    let magic = MAGIC.to_be_bytes();
    let found = [
        bytes.first().copied().unwrap_or(magic[0]),
        bytes.get(1).copied().unwrap_or(magic[1]),
    ];
    if found != magic {
        return Err(WireError::BadMagic {
            found: u16::from_be_bytes(found),
        });
    }
    let Some(&version) = bytes.get(2) else {
        return Ok(None);
    };
    let version = ProtocolVersion::try_from(version)?;
    let Some(mut rest) = bytes.get(FULL_LENGTH_AT..HEAD_LENGTH_AT) else {
        return Ok(None);
    };
    let full = rest.get_u32();
    if u64::from(full) > max_frame_bytes as u64 {
        return Err(WireError::FrameTooLong {
            bytes: u64::from(full),
            max: max_frame_bytes,
        });
    }
    if (full as usize) < HEAD_BYTES {
        return Err(WireError::FrameLengths { full, head: 0 });
    }
    let Some(mut rest) = bytes.get(HEAD_LENGTH_AT..HEAD_BYTES) else {
        return Ok(None);
    };
    let head = rest.get_u16();
    if usize::from(head) < HEAD_BYTES || u32::from(head) > full {
        return Err(WireError::FrameLengths { full, head });
    }
    Ok(Some(Head {
        version,
        full_bytes: full as usize,
        head_bytes: usize::from(head),
        msg_type: MsgType::try_from(rest.get_u8())?,
        codec: Codec::try_from(rest.get_u8())?,
        compressor: Compressor::try_from(rest.get_u8())?,
        request_id: rest.get_i32(),
    }))
}

/// Repeated key and value, each an i16 length (-1: null) and UTF-8. Source: `core/rpc/netty/v1/HeadMapSerializer`.
fn read_head_map(mut bytes: &[u8]) -> Result<HeadMap, WireError> {
    let mut map = HeadMap::new();
    while !bytes.is_empty() {
        let Some(key) = read_head_string(&mut bytes)? else {
            return Err(WireError::HeadMap {
                problem: "a key is null",
            });
        };
        map.push((key, read_head_string(&mut bytes)?));
    }
    Ok(map)
}

fn read_head_string(bytes: &mut &[u8]) -> Result<Option<String>, WireError> {
    let cut = WireError::HeadMap {
        problem: "a string ends behind the head",
    };
    let Some((length, rest)) = bytes.split_first_chunk() else {
        return Err(cut);
    };
    let length = i16::from_be_bytes(*length);
    let Ok(length) = usize::try_from(length) else {
        // Java takes every negative length for null.
        *bytes = rest;
        return Ok(None);
    };
    let Some((text, rest)) = rest.split_at_checked(length) else {
        return Err(cut);
    };
    *bytes = rest;
    let text = std::str::from_utf8(text).map_err(|_| WireError::HeadMap {
        problem: "a string is not UTF-8",
    })?;
    Ok(Some(text.to_owned()))
}

fn write_head_string(text: Option<&str>, out: &mut BytesMut) -> Result<(), WireError> {
    let Some(text) = text else {
        out.put_i16(-1);
        return Ok(());
    };
    let length = i16::try_from(text.len()).map_err(|_| WireError::HeadMap {
        problem: "a string is longer than 32767 bytes",
    })?;
    out.put_i16(length);
    out.put_slice(text.as_bytes());
    Ok(())
}

/// Appends one frame to `out`.
///
/// # Errors
/// When the frame breaks a limit of the format or of [`MAX_FRAME_BYTES_DEFAULT`], beyond which Java closes the
/// connection. `out` is then as before.
pub fn encode(frame: &Frame, out: &mut BytesMut) -> Result<(), WireError> {
    let start = out.len();
    let result = write_frame(frame, out);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn write_frame(frame: &Frame, out: &mut BytesMut) -> Result<(), WireError> {
    let start = out.len();
    out.put_u16(MAGIC);
    out.put_u8(frame.version as u8);
    // Both lengths are filled in at the end.
    out.put_u32(0);
    out.put_u16(0);
    out.put_u8(frame.msg_type as u8);
    out.put_u8(frame.codec.code());
    out.put_u8(frame.compressor.code());
    out.put_i32(frame.request_id);
    for (key, value) in &frame.head {
        write_head_string(Some(key), out)?;
        write_head_string(value.as_deref(), out)?;
    }
    // Java reads the head length as a signed short.
    let head_bytes = i16::try_from(out.len() - start).map_err(|_| WireError::HeadMap {
        problem: "longer than 32767 bytes",
    })?;
    match (&frame.body, frame.msg_type.is_heartbeat()) {
        (None, true) => {}
        (Some(_), true) => {
            return Err(WireError::BodyPresence {
                msg_type: frame.msg_type as u8,
                expected: "not have",
            });
        }
        (None, false) => {
            return Err(WireError::BodyPresence {
                msg_type: frame.msg_type as u8,
                expected: "have",
            });
        }
        (Some(message), false) if frame.compressor == Compressor::None => {
            frame.codec.put(message, frame.version, out)?
        }
        (Some(message), false) => {
            let mut body = BytesMut::new();
            frame.codec.put(message, frame.version, &mut body)?;
            // What does not fit inflated would be refused by our own decoder, so it must not leave.
            if body.len() > MAX_FRAME_BYTES_DEFAULT {
                return Err(WireError::FrameTooLong {
                    bytes: body.len() as u64,
                    max: MAX_FRAME_BYTES_DEFAULT,
                });
            }
            out.put_slice(&compress(frame.compressor, &body)?);
        }
    }
    let full_bytes = out.len() - start;
    if full_bytes > MAX_FRAME_BYTES_DEFAULT {
        return Err(WireError::FrameTooLong {
            bytes: full_bytes as u64,
            max: MAX_FRAME_BYTES_DEFAULT,
        });
    }
    let full_length = u32::try_from(full_bytes).expect("the frame limit is below 4 GiB");
    let lengths = &mut out[start + FULL_LENGTH_AT..start + HEAD_LENGTH_AT + size_of::<u16>()];
    lengths[..size_of::<u32>()].copy_from_slice(&full_length.to_be_bytes());
    lengths[size_of::<u32>()..].copy_from_slice(&head_bytes.to_be_bytes());
    Ok(())
}
