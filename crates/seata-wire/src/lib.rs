//! The Seata wire: bytes ⇄ types, for both ends of a connection. No sockets, no clock, no state besides a frame decoder.
//!
//! - [`frame`]: the 16-byte head, head map, compression; protocol versions 1 (Seata 0.8 to 2.6, seata-go) and 2 (2.7).
//! - [`Message`]: every message, one typed struct per layout, and two serializers of it: `seata` and `protobuf`.
//! - [`signature`]: how a client's registration is signed with an access key.
//! - [`token`]: how a branch is registered once although it is asked for twice, which Seata has no place for.
//! - [`WireError`]: everything that can be wrong, each with a stable code; fatal for the connection it came from.
//!
//! Java's codec writes a null and an empty string alike as length 0; strings here are plain `String`s, empty for both.
//! Where Java ignores what it cannot place (bytes after a message, a body on a heartbeat), this crate refuses it.
//! The rules were taken from `io.seata:seata-all` 1.8.0 and `org.apache.seata:seata-all` 2.6.0; vectors made by both
//! jars are under `conformance/seata/vectors`.

mod codec;
mod compress;
mod enums;
mod error;
pub mod frame;
mod grpc;
mod http2;
mod lz4;
mod message;
mod proto_fields;
mod protobuf;
mod read;
pub mod signature;
pub mod token;
mod transport;
mod write;

pub use enums::{BranchStatus, BranchType, ExceptionCode, GlobalStatus};
pub use error::WireError;
pub use frame::{
    Codec, Compressor, Frame, FrameDecoder, HeadMap, Lz4Format, MAX_FRAME_BYTES_DEFAULT, MsgType, ProtocolVersion,
};
pub use message::*;
pub use protobuf::Package;
pub use transport::{Received, Transport};
