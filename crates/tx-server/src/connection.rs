//! One client's connection: frames in, answers and calls out.

use bytes::BytesMut;
use settle_auth::{AuthError, Registration, Role};
use settle_base::{ErrorCode, FixedMap};
use settle_net::{Accepted, Stop, Stranger, Stream};
use settle_node::NodeStopped;
use settle_seata_wire::{Codec, Frame, Message, MsgType, ProtocolVersion, Received, Transport, WireError};
use settle_tx::{AuditRecord, TxError};
use settle_tx_gate::{CallId, ClientRequest, ConnId, GateError, GateNote, GateRequest, RequestKey};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    auth::Entrance,
    door::{Door, ToClient},
    merge::Pending,
    translate::{self, Dialect, RequestKind, TranslateError},
};

const BRANCH_STUCK: ErrorCode = ErrorCode::new("TS", 6);
const LOCK_HELD_LONG: ErrorCode = ErrorCode::new("TS", 13);
const RM_GONE: ErrorCode = ErrorCode::new("TS", 14);
const RETRIES_RISING: ErrorCode = ErrorCode::new("TS", 15);
const UNREGISTERED: ErrorCode = ErrorCode::new("TS", 16);

/// How much is gathered into one write, about.
const WRITE_BYTES: usize = 64 << 10;
/// Calls to one resource manager that may be unanswered on its connection.
const MAX_CALLS: usize = 65_536;

#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the client closed the connection")]
    ByClient,
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("{0}")]
    Translate(#[from] TranslateError),
    #[error("{0}")]
    Gate(GateError),
    #[error("{0}")]
    Auth(AuthError),
    #[error("the client has not registered in time")]
    Unregistered,
    #[error("nothing was heard from the client for too long")]
    Idle,
    #[error("the client does not read its answers")]
    Slow,
    #[error("this server is stopping")]
    Stopping,
}

impl From<NodeStopped> for Ended {
    fn from(_: NodeStopped) -> Ended {
        Ended::Stopping
    }
}

pub(crate) async fn serve(door: &Door, mut accepted: Accepted, mut stop: Stop) {
    let peer = accepted.peer;
    let stranger = accepted.stranger.take();
    let stream = tokio::select! {
        biased;
        () = stop.stopped() => return,
        opened = accepted.open() => match opened {
            Ok(stream) => stream,
            Err(error) => {
                door.metrics.refused_clients.inc();
                if let Some(left_out) = door.seldom.tell() {
                    tracing::warn!(code = %error.code(), %peer, %error, left_out, "connection closed");
                }
                return;
            }
        },
    };
    let (conn, queue) = door.enter();
    let opened = GateRequest::Open {
        conn,
        ip: peer.ip().to_string(),
        port: peer.port(),
    };
    if door.node.request(opened).await.is_ok() {
        let (transport, entrance) = match &door.config.auth {
            None => (Transport::new(door.config.max_frame_bytes), None),
            Some(auth) => (
                Transport::for_registrations(auth.config.max_registration_bytes),
                Some(Entrance::new(auth.clone(), peer.ip(), stream.names())),
            ),
        };
        let mut connection = Connection {
            door,
            conn,
            transport,
            entrance,
            stranger,
            opened: Instant::now(),
            version: ProtocolVersion::default(),
            codec: Codec::default(),
            dialect: Dialect::default(),
            pending: Pending::default(),
            calls: FixedMap::default(),
            next_call_id: 0,
        };
        let ended = tokio::select! {
            biased;
            () = stop.stopped() => Ended::Stopping,
            ended = connection.run(stream, queue) => ended,
        };
        log_end(door, conn, peer, &ended);
        // The gate may be gone already when the server stops.
        let _ = door.node.request(GateRequest::Close { conn }).await;
    }
    door.leave(conn);
}

fn log_end(door: &Door, conn: ConnId, peer: std::net::SocketAddr, ended: &Ended) {
    let (code, count) = match ended {
        Ended::ByClient | Ended::Io(_) | Ended::Stopping | Ended::Slow => {
            tracing::debug!(%conn, %peer, reason = %ended, "connection ended");
            return;
        }
        Ended::Idle => {
            tracing::info!(%conn, %peer, reason = %ended, "connection closed");
            return;
        }
        Ended::Wire(error) => (error.code(), &door.metrics.bad_frames),
        Ended::Translate(error) => (error.code(), &door.metrics.bad_frames),
        Ended::Gate(error) => (error.code(), &door.metrics.bad_frames),
        Ended::Auth(error) => (error.code(), &door.metrics.refused_clients),
        Ended::Unregistered => (UNREGISTERED, &door.metrics.refused_clients),
    };
    count.inc();
    // Whoever is closed can come again at once.
    if let Some(left_out) = door.seldom.tell() {
        tracing::warn!(%code, %conn, %peer, reason = %ended, left_out, "connection closed");
    }
}

struct Connection<'a> {
    door: &'a Door,
    conn: ConnId,
    transport: Transport,
    /// Of a door that authenticates its clients.
    entrance: Option<Entrance>,
    /// Until the client has registered.
    stranger: Option<Stranger>,
    opened: Instant,
    /// The version of the client's last frame: calls are made in it.
    version: ProtocolVersion,
    /// The serializer of the client's last message: calls are made in it.
    codec: Codec,
    /// Of the client's version; see [`Connection::dialect`].
    dialect: Dialect,
    pending: Pending,
    /// Phase-two calls by the request id they were sent under.
    calls: FixedMap<i32, CallId>,
    next_call_id: i32,
}

impl Connection<'_> {
    async fn run(&mut self, stream: Stream, mut queue: mpsc::Receiver<ToClient>) -> Ended {
        let (mut reading, mut writing) = stream.into_split();
        let mut buffer = BytesMut::with_capacity(8 << 10);
        let mut heard = Instant::now();
        loop {
            let idle_at = heard + self.door.config.idle_after;
            let step = tokio::select! {
                // A stranger that always has something to say is asked who he is all the same. Then answers: a client
                // that only sends must still be answered.
                biased;
                () = sleep_until(self.register_by()), if self.is_unknown() => Err(Ended::Unregistered),
                // What was taken away is not believed and not called any more, whatever waits to be said.
                () = changed(&mut self.entrance) => self.judge(),
                message = queue.recv() => self.drain(message, &mut queue),
                read = reading.read_buf(&mut buffer) => {
                    heard = Instant::now();
                    match read {
                        Ok(0) => Err(Ended::ByClient),
                        Ok(_) => self.take_frames(&mut buffer).await,
                        Err(error) => Err(error.into()),
                    }
                }
                () = sleep_until(idle_at) => Err(Ended::Idle),
            };
            let patience = match self.is_unknown() {
                true => self.register_by().saturating_duration_since(Instant::now()),
                false => self.door.config.idle_after,
            };
            // What was answered before the failure is still due.
            let written = match self.transport.out().is_empty() {
                true => Ok(()),
                // A client whose window is full must not keep its place for ever.
                false => {
                    let writing = async {
                        writing.write_all(self.transport.out()).await?;
                        writing.flush().await
                    };
                    match timeout(patience, writing).await {
                        Ok(written) => written,
                        Err(_) => return Ended::Slow,
                    }
                }
            };
            self.transport.out().clear();
            if let Err(ended) = step {
                return ended;
            }
            if let Err(error) = written {
                return error.into();
            }
            buffer.reserve(4 << 10);
        }
    }

    /// Whether the client would still be let in.
    fn judge(&mut self) -> Result<(), Ended> {
        match &mut self.entrance {
            Some(entrance) => entrance.judge().map_err(Ended::Auth),
            None => Ok(()),
        }
    }

    fn is_unknown(&self) -> bool {
        self.entrance.as_ref().is_some_and(|entrance| !entrance.is_open())
    }

    fn register_by(&self) -> Instant {
        let within = self.door.config.auth.as_ref().map(|auth| auth.config.register_within);
        self.opened + within.unwrap_or_default()
    }

    fn drain(&mut self, first: Option<ToClient>, queue: &mut mpsc::Receiver<ToClient>) -> Result<(), Ended> {
        let mut next = Some(first.ok_or(Ended::Slow)?);
        while let Some(message) = next {
            self.put(message)?;
            next = if self.transport.out().len() < WRITE_BYTES {
                queue.try_recv().ok()
            } else {
                None
            };
        }
        Ok(())
    }

    fn put(&mut self, message: ToClient) -> Result<(), Ended> {
        match message {
            ToClient::Answer { key, answer } => {
                tracing::debug!(conn = %self.conn, key = key.0, ?answer, "answer");
                self.door.metrics.answers.inc();
                if let Some(kind) = self.pending.kind(key.0) {
                    self.pending
                        .answer(key.0, kind.answer(answer, self.dialect()), &mut self.transport)?;
                }
                Ok(())
            }
            ToClient::Dropped { key } => Ok(self.pending.dropped(key.0, &mut self.transport)?),
            ToClient::Call { call, body } => {
                tracing::debug!(conn = %self.conn, %call, xid = body.xid, branch = body.branch, kind = ?body.kind, "call");
                // A client that never answers must not make the table grow: the gate's own timeout has long passed.
                if self.calls.len() >= MAX_CALLS {
                    self.calls.clear();
                }
                self.next_call_id = self.next_call_id.wrapping_add(1);
                self.calls.insert(self.next_call_id, call);
                let body = translate::branch_call(body);
                let request = Frame {
                    codec: self.codec,
                    ..Frame::request(self.version, MsgType::RequestSync, self.next_call_id, body)
                };
                match self.transport.send(&request) {
                    // Another process of the same application may understand it.
                    Err(error @ WireError::NotInSerializer { .. }) => {
                        self.calls.remove(&self.next_call_id);
                        tracing::error!(code = %error.code(), conn = %self.conn, %call, %error, "phase-two call not made");
                        Ok(())
                    }
                    encoded => Ok(encoded?),
                }
            }
            ToClient::Close { error } => Err(Ended::Gate(error)),
        }
    }

    /// How exception codes are numbered for this client. Protobuf has names for them, of which no version moved any.
    fn dialect(&self) -> Dialect {
        match self.codec {
            Codec::Seata => self.dialect,
            Codec::Protobuf(_) => Dialect::From2,
        }
    }

    async fn take_frames(&mut self, buffer: &mut BytesMut) -> Result<(), Ended> {
        loop {
            let frame = match self.transport.receive(buffer)? {
                Received::Frame(frame) => frame,
                Received::Nothing => return Ok(()),
                Received::Ended => return Err(Ended::ByClient),
            };
            // The task may not have come to hear of another policy yet.
            self.judge()?;
            self.version = frame.version;
            if frame.body.is_some() {
                self.codec = frame.codec;
            }
            match frame.msg_type {
                MsgType::HeartbeatRequest => self.transport.send(&frame.pong())?,
                MsgType::HeartbeatResponse => {}
                MsgType::Response => self.take_answer(frame).await?,
                // Oneway requests are answered like the others: Java sends all of an RM's as oneway and waits.
                MsgType::RequestSync | MsgType::RequestOneway => self.take_request(frame).await?,
            }
        }
    }

    async fn take_answer(&mut self, frame: Frame) -> Result<(), Ended> {
        let Some(answer) = frame.body.and_then(translate::rm_answer) else {
            return Ok(());
        };
        tracing::debug!(conn = %self.conn, xid = answer.xid, branch = answer.branch, status = ?answer.branch_status, "call answered");
        self.door.metrics.call_answers.inc();
        // An answer to no call of ours: the gate hears of it and judges.
        let call = self.calls.remove(&frame.request_id).unwrap_or(CallId(0));
        Ok(self
            .door
            .node
            .request(GateRequest::CallAnswer {
                conn: self.conn,
                call,
                answer,
            })
            .await?)
    }

    async fn take_request(&mut self, mut frame: Frame) -> Result<(), Ended> {
        let body = frame.body.take().expect("only heartbeats have no body");
        match body {
            Message::Merged(merged) => {
                let mut kinds = Vec::with_capacity(merged.items.len());
                let mut bodies = Vec::with_capacity(merged.items.len());
                for (id, message) in merged.items {
                    self.admit(&message).map_err(Ended::Auth)?;
                    let denied = self.may(&message).err();
                    let (kind, body) = translate::request(message)?;
                    kinds.push((id, kind));
                    bodies.push((body, denied));
                }
                let keys = self.pending.merged(frame, &kinds, &mut self.transport)?;
                for ((key, (body, denied)), (_, kind)) in keys.into_iter().zip(bodies).zip(kinds) {
                    self.ask(key, kind, body, denied).await?;
                }
                Ok(())
            }
            body => {
                let refused = self.admit(&body).err();
                let denied = self.may(&body).err();
                let (kind, body) = translate::request(body)?;
                if let Some(error) = refused {
                    // It is told why, as far as its version reads that, and then closed.
                    self.transport.send(&frame.response(self.denial(kind, &error)))?;
                    return Err(Ended::Auth(error));
                }
                let key = self.pending.alone(frame, kind);
                self.ask(key, kind, body, denied).await
            }
        }
    }

    /// Whether a registration is let in, on a door that authenticates. From the first one on everything is read.
    fn admit(&mut self, message: &Message) -> Result<(), AuthError> {
        let Some(entrance) = &mut self.entrance else {
            return Ok(());
        };
        let (role, identity, resources) = match message {
            Message::RegisterTmRequest(identity) => (Role::TransactionManager, identity, Vec::new()),
            Message::RegisterRmRequest(register) => {
                let resources = translate::resources(&register.resource_ids);
                (Role::ResourceManager, &register.identity, resources)
            }
            _ => return Ok(()),
        };
        let was_open = entrance.is_open();
        entrance.register(Registration {
            role,
            application: &identity.application_id,
            service_group: &identity.transaction_service_group,
            extra_data: &identity.extra_data,
            resources: &resources,
        })?;
        if !was_open {
            self.transport.take_all(self.door.config.max_frame_bytes);
        }
        Ok(())
    }

    /// Whether the client may ask this, and its application is granted what the request would use.
    fn may(&self, message: &Message) -> Result<(), AuthError> {
        let Some(entrance) = &self.entrance else {
            return Ok(());
        };
        match message {
            Message::BranchRegister(request) | Message::GlobalLockQuery(request) => {
                entrance.may_use(&request.resource_id)
            }
            Message::GlobalBegin(_)
            | Message::GlobalCommit(_)
            | Message::GlobalRollback(_)
            | Message::GlobalReport(_)
            | Message::GlobalStatus(_) => entrance.may_manage(),
            _ => Ok(()),
        }
    }

    fn denial(&self, kind: RequestKind, error: &AuthError) -> Message {
        kind.refused(&error.told(), kind.failure(), self.dialect())
    }

    async fn ask(
        &mut self,
        key: u64,
        kind: RequestKind,
        body: ClientRequest,
        denied: Option<AuthError>,
    ) -> Result<(), Ended> {
        if let Some(error) = denied {
            self.door.metrics.denied_requests.inc();
            if let Some(left_out) = self.door.seldom.tell() {
                let xid = translate::xid(&body);
                tracing::warn!(code = %error.code(), conn = %self.conn, xid, %error, left_out, "request denied");
            }
            return Ok(self
                .pending
                .answer(key, self.denial(kind, &error), &mut self.transport)?);
        }
        if let ClientRequest::RegisterTm { ident } | ClientRequest::RegisterRm { ident, .. } = &body {
            self.dialect = Dialect::of(&ident.version);
            self.stranger = None;
        }
        tracing::debug!(conn = %self.conn, key, xid = translate::xid(&body), ?kind, "request");
        self.door.metrics.requests.inc();
        Ok(self
            .door
            .node
            .request(GateRequest::Call {
                conn: self.conn,
                key: RequestKey(key),
                granted: self.entrance.as_ref().map(Entrance::granted),
                body,
            })
            .await?)
    }
}

/// Waits for another policy, on a door that has one.
async fn changed(entrance: &mut Option<Entrance>) {
    match entrance {
        Some(entrance) => entrance.changed().await,
        None => std::future::pending().await,
    }
}

/// An event of the gate as a log line with its ids.
pub(crate) fn log_note(note: &GateNote) {
    match note {
        GateNote::Stuck {
            xid,
            branch,
            resource,
            client,
        } => {
            tracing::error!(code = %BRANCH_STUCK, xid, %branch, resource, client, "branch stuck: phase two keeps failing");
        }
        GateNote::Operated { record } => {
            let AuditRecord {
                number,
                tid,
                act,
                subject,
                operator,
                reason,
                status,
                ..
            } = &**record;
            match tid {
                Some(tid) => tracing::warn!(
                    %tid, number, %act, subject, operator, reason, %status, "an operator acted on a transaction"
                ),
                None => tracing::warn!(number, %act, subject, operator, reason, "an operator acted on service groups"),
            }
        }
        GateNote::LockHeldLong { xid, status, rows, age } => {
            let seconds = age.as_secs();
            tracing::error!(code = %LOCK_HELD_LONG, xid, %status, rows, seconds, "row locks held for long");
        }
        GateNote::RetriesRising {
            group,
            before,
            now,
            unreached,
        } => {
            tracing::error!(code = %RETRIES_RISING, %group, before, now, unreached, "many more branches are being retried");
        }
        GateNote::TimedOut { xid } => tracing::info!(xid, "transaction timed out"),
        GateNote::CallFailed { xid, branch, why } => {
            tracing::warn!(xid, %branch, ?why, "phase-two call failed; it is made again");
        }
        GateNote::WrongStatus {
            conn,
            xid,
            branch,
            status,
            ..
        } => {
            tracing::warn!(xid, %branch, %conn, ?status, "resource manager gave no answer to its call; it is made again");
        }
        GateNote::OfAnother { conn, application, tid } => {
            let error = TxError::OfAnother { tid: *tid };
            tracing::warn!(code = %error.code(), %conn, application, %error, "request refused");
        }
        GateNote::FactRefused {
            tid,
            branch,
            status,
            error,
        } => {
            tracing::warn!(code = %error.code(), %tid, %branch, ?status, %error, "resource manager's claim refused");
        }
        GateNote::NoChannel {
            xid,
            branch,
            resource,
            client,
            attempt,
        } => {
            tracing::warn!(code = %RM_GONE, xid, %branch, resource, client, attempt, "no resource manager is connected that could take the call");
        }
        GateNote::AnswerIgnored { .. } => tracing::debug!(?note, "answer ignored"),
        _ => tracing::warn!(?note, "gate"),
    }
}
