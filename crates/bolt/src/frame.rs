//! The frame and the values in its head.
//!
//! ```text
//! protocol 1   proto type command ver2 id codec        timeout|status class-len header-len content-len class header content
//! protocol 2   proto ver1 type command ver2 id codec switch timeout|status … content [crc32]
//! bytes        1     1    1    2       1    4  1     1      4      | 2     2         2          4
//! ```
//! All integers are big-endian and signed, as Java reads them. A request has a timeout, a response a status.
//! Source: `RpcProtocol`, `RpcProtocolV2` and their `RpcCommandEncoder`s in `com.alipay.remoting.rpc.protocol`.

use bytes::Bytes;

use crate::BoltError;

/// Which frame a connection speaks. A server answers in the version it was spoken to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub enum Version {
    /// Protocol 1: what SOFARPC's clients open.
    #[default]
    V1,
    /// Protocol 2 with `ver1` 1: has a switch, never a checksum.
    V2Plain,
    /// Protocol 2 with `ver1` 2: a checksum follows when the switch says so.
    V2Checked,
}

/// The switch byte of protocol 2. Java refuses the highest bit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Switch(pub(crate) u8);

impl Switch {
    pub const NONE: Switch = Switch(0);
    /// Bit 0: a CRC-32 of the frame follows it, if the version has one.
    pub const CHECKSUM: Switch = Switch(1);

    pub const fn has_checksum(self) -> bool {
        self.0 & 1 != 0
    }

    pub const fn bits(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for Switch {
    type Error = BoltError;

    fn try_from(value: u8) -> Result<Switch, BoltError> {
        match value {
            0..=0x7f => Ok(Switch(value)),
            _ => Err(BoltError::BadSwitch { value }),
        }
    }
}

/// The serializer of header and content. Any number may be registered on Java's side, so none is refused here.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Codec(pub u8);

impl Codec {
    /// Hessian 2 in the dialect of SOFAHessian 3.x; the default of bolt and of SOFARPC.
    pub const HESSIAN2: Codec = Codec(1);
    pub const JAVA: Codec = Codec(2);
    pub const PROTOBUF: Codec = Codec(11);
    pub const JSON: Codec = Codec(12);
    pub const MSGPACK: Codec = Codec(13);
    pub const PROTOSTUFF: Codec = Codec(14);
    pub const FURY: Codec = Codec(22);
    pub const FORY: Codec = Codec(23);
}

impl Default for Codec {
    fn default() -> Codec {
        Codec::HESSIAN2
    }
}

/// How a request ended on the side that answers it. Source: `ResponseStatus`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Status {
    #[default]
    Success,
    Error,
    /// The content is a `RpcServerException`.
    ServerException,
    Unknown,
    /// The request was not begun: it may be tried elsewhere.
    ServerThreadpoolBusy,
    ErrorComm,
    /// Named by Java, but answered by nobody: a request without a processor is told `ServerException`.
    NoProcessor,
    /// This and the next three are Java's words to its own caller; none travels.
    Timeout,
    ClientSendError,
    CodecException,
    ConnectionClosed,
    /// The answer could not be written; the content is a `RpcServerException`.
    ServerSerialException,
    /// The request could not be read; the content is a `RpcServerException`.
    ServerDeserialException,
    /// A number that is none of these. It can be received, where it fails one call; Java would close the connection
    /// over it, so it cannot be sent.
    Unlisted(i16),
}

const STATUSES: [(i16, Status); 13] = [
    (0, Status::Success),
    (1, Status::Error),
    (2, Status::ServerException),
    (3, Status::Unknown),
    (4, Status::ServerThreadpoolBusy),
    (5, Status::ErrorComm),
    (6, Status::NoProcessor),
    (7, Status::Timeout),
    (8, Status::ClientSendError),
    (9, Status::CodecException),
    (0x10, Status::ConnectionClosed),
    (0x11, Status::ServerSerialException),
    (0x12, Status::ServerDeserialException),
];

impl Status {
    pub(crate) fn of(value: i16) -> Status {
        let known = STATUSES.iter().find(|(number, _)| *number == value);
        known.map_or(Status::Unlisted(value), |&(_, status)| status)
    }

    /// The number on the wire.
    pub fn value(self) -> i16 {
        match self {
            Status::Unlisted(value) => value,
            _ => {
                let known = STATUSES.iter().find(|(_, status)| *status == self);
                known.expect("the table has every listed status").0
            }
        }
    }
}

/// What a request or an answer carries. A body that was read shares the memory that its frame arrived in, and keeps it
/// for as long as it lives: copy what is kept for long.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Body {
    /// UTF-8 name of the Java class that the content becomes; Java finds the processor of a request by it.
    pub class: Bytes,
    /// For SOFARPC a [`HeaderMap`](crate::HeaderMap).
    pub header: Bytes,
    pub content: Bytes,
}

impl Body {
    pub const EMPTY: Body = Body {
        class: Bytes::new(),
        header: Bytes::new(),
        content: Bytes::new(),
    };

    /// # Errors
    /// The name is not UTF-8. The frame itself is whole, so this costs one request and not the connection.
    pub fn class_name(&self) -> Result<&str, BoltError> {
        std::str::from_utf8(&self.class).map_err(|_| BoltError::ClassText {
            bytes: self.class.len(),
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.class.len() + self.header.len() + self.content.len()
    }
}

/// What a frame says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Answered by a [`HeartbeatAck`](Command::HeartbeatAck) of the same id, from either side.
    Heartbeat {
        timeout_ms: i32,
    },
    HeartbeatAck {
        status: Status,
    },
    /// Answered by a [`Response`](Command::Response) of the same id.
    Request {
        /// How long the asker waits; zero or less: for ever.
        timeout_ms: i32,
        body: Body,
    },
    /// Never answered, not even with an error.
    Oneway {
        timeout_ms: i32,
        body: Body,
    },
    Response {
        status: Status,
        body: Body,
    },
}

/// One frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    pub version: Version,
    /// [`Switch::NONE`] in version 1, which has no place for it.
    pub switch: Switch,
    /// Chosen by the asker, repeated in the answer; Java counts from 1 and wraps into the negative.
    pub id: i32,
    pub codec: Codec,
    /// `ver2`, which everyone writes as 1 and nobody reads.
    pub command_version: u8,
    pub command: Command,
}

pub(crate) const PROTOCOL_1: u8 = 1;
pub(crate) const PROTOCOL_2: u8 = 2;
pub(crate) const KIND_RESPONSE: u8 = 0;
pub(crate) const KIND_REQUEST: u8 = 1;
pub(crate) const KIND_ONEWAY: u8 = 2;
pub(crate) const COMMAND_HEARTBEAT: i16 = 0;
pub(crate) const COMMAND_REQUEST: i16 = 1;
pub(crate) const COMMAND_RESPONSE: i16 = 2;
/// What Java writes as `ver2`.
pub(crate) const COMMAND_VERSION: u8 = 1;
pub(crate) const CHECKSUM_BYTES: usize = 4;

impl Frame {
    /// A frame with the usual `ver2` and the default codec.
    pub fn new(version: Version, switch: Switch, id: i32, command: Command) -> Frame {
        Frame {
            version,
            switch,
            id,
            codec: Codec::default(),
            command_version: COMMAND_VERSION,
            command,
        }
    }

    pub(crate) fn has_checksum(&self) -> bool {
        self.version == Version::V2Checked && self.switch.has_checksum()
    }
}
