//! What can be wrong with bytes from a bolt peer, or with a frame that shall become bytes.

use settle_base::ErrorCode;

/// A part of a frame that has its own length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    Class,
    Header,
    Content,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Part::Class => "class name",
            Part::Header => "header",
            Part::Content => "content",
        })
    }
}

/// A frame that breaks the protocol or a limit. One that was met while reading a frame is fatal for its connection:
/// after it, the position in the byte stream cannot be trusted.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
pub enum BoltError {
    #[error("read a frame: it starts with {first:#04x} instead of 1 or 2; the peer does not speak bolt")]
    UnknownProtocol { first: u8 },
    #[error("read a frame of protocol 2: its version is {version}, and only 1 and 2 are known")]
    UnknownVersion { version: u8 },
    #[error("read a frame: its type is {kind}, and only 0 (response), 1 (request) and 2 (oneway) are known")]
    UnknownKind { kind: u8 },
    #[error("read a frame: command {command} does not go with type {kind}")]
    UnknownCommand { kind: u8, command: i16 },
    #[error("read a frame: the switch {value:#04x} is none that Java can hold (0 to 0x7f)")]
    BadSwitch { value: u8 },
    #[error("read a frame: the length of its {part} is {length}")]
    NegativeLength { part: Part, length: i32 },
    #[error("read a frame: its class name has {bytes} bytes, the limit is {max}")]
    ClassTooLong { bytes: usize, max: usize },
    #[error("read a frame: its header has {bytes} bytes, the limit is {max}")]
    HeaderTooLong { bytes: usize, max: usize },
    #[error("a frame of {bytes} bytes is above the limit of {max} bytes")]
    FrameTooLong { bytes: u64, max: usize },
    #[error("read a frame: its checksum is {found:#010x}, its bytes give {computed:#010x}")]
    BadChecksum { found: u32, computed: u32 },
    #[error("read a heartbeat: it has a body of {bytes} bytes")]
    HeartbeatBody { bytes: usize },
    #[error("header: {problem}")]
    HeaderMap { problem: &'static str },
    #[error("read a class name of {bytes} bytes: it is not UTF-8")]
    ClassText { bytes: usize },
    #[error("write a frame: its {part} has {bytes} bytes, and Java reads at most {max}")]
    PartTooLong { part: Part, bytes: usize, max: usize },
    #[error("write a response: Java knows no status {value:#06x} and would close the connection")]
    UnlistedStatus { value: i16 },
    #[error("write a frame of protocol 1: it has no place for the switch {value:#04x}")]
    SwitchWithoutPlace { value: u8 },
    #[error("read a request: its id {id} is that of one that is not answered yet")]
    DuplicateId { id: i32 },
}

impl BoltError {
    /// The stable code of this error, area `BO`.
    pub const fn code(&self) -> ErrorCode {
        const fn bo(number: u16) -> ErrorCode {
            ErrorCode::new("BO", number)
        }
        match self {
            BoltError::UnknownProtocol { .. } => bo(1),
            BoltError::UnknownVersion { .. } => bo(2),
            BoltError::UnknownKind { .. } => bo(3),
            BoltError::UnknownCommand { .. } => bo(4),
            BoltError::BadSwitch { .. } => bo(5),
            BoltError::NegativeLength { .. } => bo(6),
            BoltError::ClassTooLong { .. } => bo(7),
            BoltError::HeaderTooLong { .. } => bo(8),
            BoltError::FrameTooLong { .. } => bo(9),
            BoltError::BadChecksum { .. } => bo(10),
            BoltError::HeartbeatBody { .. } => bo(11),
            BoltError::HeaderMap { .. } => bo(12),
            BoltError::ClassText { .. } => bo(13),
            BoltError::PartTooLong { .. } => bo(14),
            BoltError::UnlistedStatus { .. } => bo(15),
            BoltError::SwitchWithoutPlace { .. } => bo(16),
            BoltError::DuplicateId { .. } => bo(17),
        }
    }
}
