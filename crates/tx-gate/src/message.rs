//! What gates tell each other, and its bytes: `version u8, kind u8, fields`. Integers are big-endian, texts are
//! `u32 length, UTF-8`. Nothing is allocated ahead of the bytes that are there.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use settle_base::{GroupId, Term, fingerprint};
use settle_tx::{BranchId, BranchType, CallFailure, CallKind, Tid};

use crate::{BranchCall, ConnId, SessionInfo};

const VERSION: u8 = 2;
/// No gate sends more, so no gate reads more.
pub(crate) const MAX_MESSAGE_BYTES: usize = 8 << 20;
/// Sessions are synced in messages of about this size.
pub(crate) const SYNC_CHUNK_BYTES: usize = 64 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateMessage {
    /// The leader of `group` asks the node that holds a channel to make a second-phase call on it.
    Call(PeerCall),
    /// That call came to nothing; how the branch stands is unknown.
    CallFailed {
        group: GroupId,
        term: Term,
        tid: Tid,
        branch: BranchId,
        attempt: u32,
        why: CallFailure,
    },
    /// A session is new, or serves other resources than before. `run` is the sender's gate, here and below: what was
    /// known of another run of that node is over.
    SessionUp {
        run: u64,
        info: SessionInfo,
    },
    SessionDown {
        run: u64,
        conn: ConnId,
    },
    /// A part of all sessions of the sender; the `first` part replaces what was known before.
    SessionsSync {
        run: u64,
        first: bool,
        sessions: Vec<SessionInfo>,
    },
    /// The sender does not know the receiver's sessions (any more) and wants them all.
    SyncRequest,
    /// What the receiver should know of the sender's sessions, told every second: news may be lost.
    Digest {
        run: u64,
        digest: SessionsDigest,
    },
}

/// Stands for all sessions of one node: equal when they are, for all practical purposes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SessionsDigest {
    pub sessions: u64,
    /// The wrapping sum of the sessions' fingerprints.
    pub hash: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerCall {
    pub group: GroupId,
    pub term: Term,
    pub tid: Tid,
    pub branch: BranchId,
    /// The leader's count, echoed when the call comes to nothing.
    pub attempt: u32,
    /// The run of the gate that holds the channel: another run numbers its channels anew.
    pub run: u64,
    /// The channel, as its node numbers it.
    pub conn: ConnId,
    pub body: BranchCall,
}

/// Bytes from a peer that are no [`GateMessage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("the message is {bytes} bytes long, over the limit of {MAX_MESSAGE_BYTES}")]
    TooLong { bytes: usize },
    #[error("the message ends inside its {field}")]
    Truncated { field: &'static str },
    #[error("the message has version {version}; this build reads {VERSION}")]
    Version { version: u8 },
    #[error("the message's {field} cannot be {value}")]
    BadValue { field: &'static str, value: u64 },
    #[error("the message's {field} is not UTF-8")]
    NotText { field: &'static str },
    #[error("the message has {bytes} bytes after its end")]
    Trailing { bytes: usize },
}

const CALL: u8 = 1;
const CALL_FAILED: u8 = 2;
const SESSION_UP: u8 = 3;
const SESSION_DOWN: u8 = 4;
const SESSIONS_SYNC: u8 = 5;
const SYNC_REQUEST: u8 = 6;
const DIGEST: u8 = 7;

impl GateMessage {
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        out.put_u8(VERSION);
        match self {
            GateMessage::Call(call) => {
                out.put_u8(CALL);
                out.put_u64(call.group.0);
                out.put_u64(call.term);
                out.put_i64(call.tid.as_i64());
                out.put_i64(call.branch.as_i64());
                out.put_u32(call.attempt);
                out.put_u64(call.run);
                out.put_u64(call.conn.0);
                put_body(&mut out, &call.body);
            }
            GateMessage::CallFailed {
                group,
                term,
                tid,
                branch,
                attempt,
                why,
            } => {
                out.put_u8(CALL_FAILED);
                out.put_u64(group.0);
                out.put_u64(*term);
                out.put_i64(tid.as_i64());
                out.put_i64(branch.as_i64());
                out.put_u32(*attempt);
                out.put_u8(failure_byte(*why));
            }
            GateMessage::SessionUp { run, info } => {
                out.put_u8(SESSION_UP);
                out.put_u64(*run);
                put_session(&mut out, info);
            }
            GateMessage::SessionDown { run, conn } => {
                out.put_u8(SESSION_DOWN);
                out.put_u64(*run);
                out.put_u64(conn.0);
            }
            GateMessage::SyncRequest => out.put_u8(SYNC_REQUEST),
            GateMessage::Digest { run, digest } => {
                out.put_u8(DIGEST);
                out.put_u64(*run);
                out.put_u64(digest.sessions);
                out.put_u64(digest.hash);
            }
            GateMessage::SessionsSync { run, first, sessions } => {
                out.put_u8(SESSIONS_SYNC);
                out.put_u64(*run);
                out.put_u8(u8::from(*first));
                out.put_u32(sessions.len() as u32);
                for info in sessions {
                    put_session(&mut out, info);
                }
            }
        }
        out.freeze()
    }

    /// # Errors
    /// When `bytes` is not exactly one message of this version.
    pub fn decode(bytes: &[u8]) -> Result<GateMessage, MessageError> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(MessageError::TooLong { bytes: bytes.len() });
        }
        let mut reader = Reader { rest: bytes };
        let version = reader.u8("version")?;
        if version != VERSION {
            return Err(MessageError::Version { version });
        }
        let message = match reader.u8("kind")? {
            CALL => {
                let group = GroupId(reader.u64("group")?);
                let term = reader.u64("term")?;
                let tid = reader.tid()?;
                let branch = reader.branch()?;
                let attempt = reader.u32("attempt")?;
                let run = reader.u64("run")?;
                let conn = ConnId(reader.u64("session")?);
                GateMessage::Call(PeerCall {
                    group,
                    term,
                    tid,
                    branch,
                    attempt,
                    run,
                    conn,
                    body: reader.body(branch)?,
                })
            }
            CALL_FAILED => GateMessage::CallFailed {
                group: GroupId(reader.u64("group")?),
                term: reader.u64("term")?,
                tid: reader.tid()?,
                branch: reader.branch()?,
                attempt: reader.u32("attempt")?,
                why: reader.failure()?,
            },
            SESSION_UP => GateMessage::SessionUp {
                run: reader.u64("run")?,
                info: reader.session()?,
            },
            SESSION_DOWN => GateMessage::SessionDown {
                run: reader.u64("run")?,
                conn: ConnId(reader.u64("session")?),
            },
            SYNC_REQUEST => GateMessage::SyncRequest,
            DIGEST => GateMessage::Digest {
                run: reader.u64("run")?,
                digest: SessionsDigest {
                    sessions: reader.u64("session count")?,
                    hash: reader.u64("hash")?,
                },
            },
            SESSIONS_SYNC => {
                let run = reader.u64("run")?;
                let first = reader.u8("first mark")? != 0;
                let mut sessions = Vec::new();
                for _ in 0..reader.u32("session count")? {
                    sessions.push(reader.session()?);
                }
                GateMessage::SessionsSync { run, first, sessions }
            }
            kind => {
                return Err(MessageError::BadValue {
                    field: "kind",
                    value: u64::from(kind),
                });
            }
        };
        match reader.rest.len() {
            0 => Ok(message),
            bytes => Err(MessageError::Trailing { bytes }),
        }
    }
}

fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u32(text.len() as u32);
    out.put_slice(text.as_bytes());
}

/// Tells a session from any other and from itself with other resources.
pub(crate) fn session_hash(info: &SessionInfo) -> u64 {
    let mut bytes = BytesMut::with_capacity(session_bytes(info));
    put_session(&mut bytes, info);
    fingerprint(&bytes)
}

fn put_session(out: &mut BytesMut, info: &SessionInfo) {
    out.put_u64(info.conn.0);
    put_text(out, &info.application);
    put_text(out, &info.ip);
    out.put_u16(info.port);
    out.put_u32(info.resources.len() as u32);
    for resource in &info.resources {
        put_text(out, resource);
    }
}

fn put_body(out: &mut BytesMut, body: &BranchCall) {
    out.put_u8(match body.kind {
        CallKind::Commit => 0,
        CallKind::Rollback => 1,
    });
    put_text(out, &body.xid);
    out.put_u8(body.branch_type.as_u8());
    put_text(out, &body.resource);
    put_text(out, &body.application_data);
}

fn failure_byte(why: CallFailure) -> u8 {
    match why {
        CallFailure::NoChannel => 0,
        CallFailure::Timeout => 1,
        CallFailure::Refused => 2,
        CallFailure::Disconnected => 3,
    }
}

/// How many bytes a session takes in a message.
pub(crate) fn session_bytes(info: &SessionInfo) -> usize {
    let texts = info.resources.iter().map(|resource| 4 + resource.len()).sum::<usize>();
    22 + info.application.len() + info.ip.len() + texts
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], MessageError> {
        if count > self.rest.len() {
            return Err(MessageError::Truncated { field });
        }
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(taken)
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, MessageError> {
        Ok(self.take(1, field)?.get_u8())
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, MessageError> {
        Ok(self.take(2, field)?.get_u16())
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, MessageError> {
        Ok(self.take(4, field)?.get_u32())
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, MessageError> {
        Ok(self.take(8, field)?.get_u64())
    }

    fn text(&mut self, field: &'static str) -> Result<String, MessageError> {
        let bytes = self.u32(field)? as usize;
        match std::str::from_utf8(self.take(bytes, field)?) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(MessageError::NotText { field }),
        }
    }

    fn tid(&mut self) -> Result<Tid, MessageError> {
        let value = self.u64("transaction id")?;
        Tid::try_from_i64(value as i64).ok_or(MessageError::BadValue {
            field: "transaction id",
            value,
        })
    }

    fn branch(&mut self) -> Result<BranchId, MessageError> {
        let value = self.u64("branch id")?;
        BranchId::try_from_own(value as i64).ok_or(MessageError::BadValue {
            field: "branch id",
            value,
        })
    }

    fn failure(&mut self) -> Result<CallFailure, MessageError> {
        match self.u8("failure")? {
            0 => Ok(CallFailure::NoChannel),
            1 => Ok(CallFailure::Timeout),
            2 => Ok(CallFailure::Refused),
            3 => Ok(CallFailure::Disconnected),
            value => Err(MessageError::BadValue {
                field: "failure",
                value: u64::from(value),
            }),
        }
    }

    fn body(&mut self, branch: BranchId) -> Result<BranchCall, MessageError> {
        let kind = match self.u8("call kind")? {
            0 => CallKind::Commit,
            1 => CallKind::Rollback,
            value => {
                return Err(MessageError::BadValue {
                    field: "call kind",
                    value: u64::from(value),
                });
            }
        };
        let xid = self.text("xid")?;
        let value = self.u8("branch type")?;
        let branch_type = BranchType::try_from(value).map_err(|_| MessageError::BadValue {
            field: "branch type",
            value: u64::from(value),
        })?;
        Ok(BranchCall {
            kind,
            xid,
            branch: branch.on_the_wire(),
            branch_type,
            resource: self.text("resource")?,
            application_data: self.text("application data")?,
        })
    }

    fn session(&mut self) -> Result<SessionInfo, MessageError> {
        let conn = ConnId(self.u64("session")?);
        let application = self.text("application")?;
        let ip = self.text("ip")?;
        let port = self.u16("port")?;
        let mut resources = Vec::new();
        for _ in 0..self.u32("resource count")? {
            resources.push(self.text("resource")?);
        }
        Ok(SessionInfo {
            conn,
            application,
            ip,
            port,
            resources,
        })
    }
}
