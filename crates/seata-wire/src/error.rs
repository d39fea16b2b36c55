//! What can be wrong with bytes from a Seata peer, or with a message that shall become bytes.

use crate::frame::Compressor;
use settle_base::ErrorCode;

/// A frame or message that breaks the protocol. Always fatal for its connection: after one, the position in the byte
/// stream cannot be trusted.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
pub enum WireError {
    #[error("read a frame: it starts with {found:#06x} instead of 0xdada; the peer does not speak the Seata protocol")]
    BadMagic { found: u16 },
    #[error("read a frame: protocol version {version} is not supported (1 and 2 are; 0 is Seata 0.7.1 and older)")]
    UnsupportedVersion { version: u8 },
    #[error("a frame of {bytes} bytes is above the limit of {max} bytes")]
    FrameTooLong { bytes: u64, max: usize },
    #[error("read a frame: lengths contradict each other (frame {full}, head {head}, fixed part 16 bytes)")]
    FrameLengths { full: u32, head: u16 },
    #[error("read a frame: unknown message type {value}")]
    UnknownMsgType { value: u8 },
    #[error(
        "read a frame: serializer {name} (code {code:#04x}) is not supported; set transport.serialization to seata or protobuf"
    )]
    UnsupportedSerializer { code: u8, name: &'static str },
    #[error(
        "read a frame: compressor {name} (code {code}) is not supported; set transport.compressor to none, gzip, lz4, deflater or zstd"
    )]
    UnsupportedCompressor { code: u8, name: &'static str },
    #[error("head map: {problem}")]
    HeadMap { problem: &'static str },
    #[error("a frame of type {msg_type} must {expected} a body")]
    BodyPresence { msg_type: u8, expected: &'static str },
    #[error("decompress a {compressor:?} body of {bytes} bytes: {problem}")]
    Decompress {
        compressor: Compressor,
        bytes: usize,
        problem: &'static str,
    },
    #[error("decompress a {compressor:?} body: more than {max} bytes come out")]
    DecompressedTooLong { compressor: Compressor, max: usize },
    #[error("compress a body of {bytes} bytes with {compressor:?}")]
    Compress { compressor: Compressor, bytes: usize },
    #[error("read a message: unknown type code {type_code}")]
    UnknownMessage { type_code: i16 },
    #[error("read message {type_code}: {field} needs {needed} bytes and {left} are left")]
    Truncated {
        type_code: i16,
        field: &'static str,
        needed: usize,
        left: usize,
    },
    #[error("read message {type_code}: {count} bytes are left over")]
    TrailingBytes { type_code: i16, count: usize },
    #[error("read message {type_code}: {field} has the negative length {length}")]
    NegativeLength {
        type_code: i16,
        field: &'static str,
        length: i32,
    },
    #[error("read message {type_code}: {field} is not UTF-8")]
    InvalidUtf8 { type_code: i16, field: &'static str },
    #[error("unknown {kind} {value}")]
    UnknownValue { kind: &'static str, value: u8 },
    #[error("message {type_code} may not be inside message {outer}")]
    NotMergeable { outer: i16, type_code: i16 },
    #[error("message {type_code}: {problem}")]
    MergeShape { type_code: i16, problem: &'static str },
    #[error("write message {type_code}: {field} has {bytes} bytes, the format carries at most {max}")]
    StringTooLong {
        type_code: i16,
        field: &'static str,
        bytes: usize,
        max: usize,
    },
    #[error("read a message of the serializer protobuf: {problem}")]
    Protobuf { problem: &'static str },
    #[error("read HTTP/2: {problem}")]
    Http2 { problem: &'static str },
    #[error("read a message of the gRPC transport: {problem}")]
    Grpc { problem: &'static str },
    #[error("a message of a client that has not registered, and is no registration")]
    NotARegistration,
    #[error("the serializer protobuf has no {kind} {value}; set transport.serialization=seata")]
    NotInSerializer { kind: &'static str, value: i16 },
}

impl WireError {
    /// The stable code of this error, area `SW`.
    pub const fn code(&self) -> ErrorCode {
        const fn sw(number: u16) -> ErrorCode {
            ErrorCode::new("SW", number)
        }
        match self {
            WireError::BadMagic { .. } => sw(1),
            WireError::UnsupportedVersion { .. } => sw(2),
            WireError::FrameTooLong { .. } => sw(3),
            WireError::FrameLengths { .. } => sw(4),
            WireError::UnknownMsgType { .. } => sw(5),
            WireError::UnsupportedSerializer { .. } => sw(6),
            WireError::UnsupportedCompressor { .. } => sw(7),
            WireError::HeadMap { .. } => sw(8),
            WireError::BodyPresence { .. } => sw(9),
            WireError::Decompress { .. } => sw(10),
            WireError::DecompressedTooLong { .. } => sw(11),
            WireError::Compress { .. } => sw(12),
            WireError::UnknownMessage { .. } => sw(13),
            WireError::Truncated { .. } => sw(14),
            WireError::TrailingBytes { .. } => sw(15),
            WireError::NegativeLength { .. } => sw(16),
            WireError::InvalidUtf8 { .. } => sw(17),
            WireError::UnknownValue { .. } => sw(18),
            WireError::NotMergeable { .. } => sw(19),
            WireError::MergeShape { .. } => sw(20),
            WireError::StringTooLong { .. } => sw(21),
            WireError::Protobuf { .. } => sw(22),
            WireError::NotInSerializer { .. } => sw(23),
            WireError::Http2 { .. } => sw(24),
            WireError::Grpc { .. } => sw(25),
            WireError::NotARegistration => sw(26),
        }
    }
}
