//! What a connection tells its driver, and what it refuses.

use std::time::Duration;

use settle_base::ErrorCode;

use crate::{Body, BoltError, Codec, Status};

/// A call of this side, until its [`Event::Done`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CallId(pub(crate) i32);

impl CallId {
    /// The request id on the wire.
    pub const fn request_id(self) -> i32 {
        self.0
    }
}

/// A request of the other side that waits for its answer. An id on the wire may come again; this does not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServedId {
    pub(crate) id: i32,
    pub(crate) serial: u64,
}

impl ServedId {
    /// The request id on the wire.
    pub const fn request_id(self) -> i32 {
        self.id
    }
}

/// What happened. Act on it in the order given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The other side asks; answer with [`Connection::respond`](crate::Connection::respond).
    Request {
        served: ServedId,
        codec: Codec,
        /// How long the other side waits; an answer after that is not sent. `None`: for ever.
        timeout: Option<Duration>,
        body: Body,
    },
    /// The other side tells; no answer is possible.
    Oneway { codec: Codec, body: Body },
    /// A call of this side ended. Each call ends exactly once, unless it was abandoned.
    Done { call: CallId, outcome: Outcome },
    /// The last event. Write what is still unsent if the transport takes it, then close it.
    Closed(CloseReason),
}

/// How a call ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Answer {
        status: Status,
        codec: Codec,
        body: Body,
    },
    /// Whether the other side carried it out is not known.
    Timeout,
    /// Whether the other side carried it out is not known.
    ConnectionClosed,
}

/// Why a connection ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// [`Connection::transport_closed`](crate::Connection::transport_closed): the other side or the network.
    Transport,
    /// [`Connection::close`](crate::Connection::close).
    Local,
    /// [`Connection::drain`](crate::Connection::drain), and nothing was left in either direction.
    Drained,
    /// The time given to [`Connection::drain`](crate::Connection::drain) ran out with work left.
    DrainTimeout,
    /// The other side answered none of the last heartbeats.
    HeartbeatsMissed,
    /// Nothing in either direction for [`Config::idle_close`](crate::Config::idle_close).
    Idle,
    /// The other side broke the protocol.
    Protocol(BoltError),
}

/// Why a call or a oneway did not begin. Nothing of it was sent.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
pub enum CallError {
    #[error("begin a call: the connection is closed")]
    Closed,
    #[error("begin a call: the connection is draining")]
    Draining,
    #[error("begin a call: {max} calls are waiting for answers, the limit")]
    TooManyCalls { max: usize },
    #[error("begin a call: {bytes} bytes are unsent, the limit is {max}; the other side does not read")]
    Backlog { bytes: usize, max: usize },
    #[error("begin a call: the other side has not spoken yet, so its version is not known")]
    VersionUnknown,
    #[error(transparent)]
    Frame(#[from] BoltError),
}

impl CallError {
    /// The stable code of this error, area `BO`.
    pub const fn code(&self) -> ErrorCode {
        match self {
            CallError::Closed => ErrorCode::new("BO", 20),
            CallError::Draining => ErrorCode::new("BO", 21),
            CallError::TooManyCalls { .. } => ErrorCode::new("BO", 22),
            CallError::Backlog { .. } => ErrorCode::new("BO", 23),
            CallError::VersionUnknown => ErrorCode::new("BO", 24),
            CallError::Frame(error) => error.code(),
        }
    }
}

/// Why an answer was not sent.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
pub enum RespondError {
    #[error("answer request {id}: it was answered, its time ran out, or the connection is closed")]
    NotServed { id: i32 },
    /// The request still waits: answer it with something else.
    #[error(transparent)]
    Frame(#[from] BoltError),
}

impl RespondError {
    /// The stable code of this error, area `BO`.
    pub const fn code(&self) -> ErrorCode {
        match self {
            RespondError::NotServed { .. } => ErrorCode::new("BO", 25),
            RespondError::Frame(error) => error.code(),
        }
    }
}
