//! One connection to one coordinator: typed messages, many under way at once, dead when it is silent for too long.
//!
//! [`Tm`](crate::Tm) and [`Rm`](crate::Rm) stand on it. By itself it is for load generators, tests, and resource managers
//! of kinds that this crate does not know: it neither reconnects nor asks twice, and a status is given as it came.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Bytes, BytesMut};
use settle_base::FixedMap;
use settle_seata_wire::{
    BranchEnd, BranchEndResponse, BranchRegister, BranchStatus, BranchType, Frame, FrameDecoder, GlobalBegin,
    GlobalEnd, GlobalStatus, HeadMap, Identity, Message, MsgType, Outcome, ProtocolVersion, RegisterRm, TxResult,
    WireError, frame, signature, token::KNOWS_TOKENS,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, interval, timeout},
};

use crate::Options;

/// The version that this client says it is: it knows the numbering of Seata 2.x.
const CLIENT_VERSION: &str = "2.2.0";
/// Frames waiting to be written; whoever has one more waits.
const WRITE_QUEUE: usize = 1_024;
/// The writer gathers what waits, up to about this much at once.
const WRITE_BYTES: usize = 256 << 10;
const READ_BYTES: usize = 8 << 10;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    #[error("cannot connect to {address}")]
    Connect { address: String, source: io::Error },
    #[error("{address} did not answer within {waited:?}")]
    ConnectTimedOut { address: String, waited: Duration },
    #[error("the connection is gone")]
    Gone,
    #[error("{limit} requests are under way on this connection, the most there may be")]
    Busy { limit: usize },
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("refused: {message}")]
    Refused { message: String },
    #[error("an answer of another kind, of type {type_code}")]
    Unexpected { type_code: i16 },
    #[error("a message that cannot be sent")]
    Wire(#[from] WireError),
}

/// As what a connection registers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Role {
    TransactionManager,
    /// Serves these resources, comma-separated.
    ResourceManager {
        resources: String,
    },
}

/// Which way the second phase goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Commit,
    Rollback,
}

/// Takes the second-phase calls of one connection. Called on the connection's task: it must not block, and may answer
/// later.
pub trait PhaseTwo: Send + Sync + 'static {
    fn call(&self, phase: Phase, call: BranchEnd, answer: Answer);
}

impl<F: Fn(Phase, BranchEnd, Answer) + Send + Sync + 'static> PhaseTwo for F {
    fn call(&self, phase: Phase, call: BranchEnd, answer: Answer) {
        self(phase, call, answer);
    }
}

/// Does what it is told and says so: a resource manager without data.
pub fn obedient() -> Arc<dyn PhaseTwo> {
    Arc::new(|phase, _call, answer: Answer| {
        answer.send(match phase {
            Phase::Commit => BranchStatus::PhaseTwoCommitted,
            Phase::Rollback => BranchStatus::PhaseTwoRollbacked,
        });
    })
}

/// What is to be written.
enum Outgoing {
    Frame(Bytes),
    /// To be told when everything before is written.
    Mark(oneshot::Sender<()>),
}

/// The way back of one second-phase call. Dropped unused, the coordinator calls again.
pub struct Answer {
    call: Frame,
    phase: Phase,
    xid: String,
    branch_id: i64,
    writer: mpsc::Sender<Outgoing>,
}

impl Answer {
    /// Answers, unless the connection is gone or not taken off fast enough: the coordinator then calls again.
    pub fn send(self, status: BranchStatus) {
        let response = BranchEndResponse {
            result: TxResult::SUCCESS,
            xid: self.xid,
            branch_id: self.branch_id,
            status,
        };
        let frame = self.call.response(match self.phase {
            Phase::Commit => Message::BranchCommitResponse(response),
            Phase::Rollback => Message::BranchRollbackResponse(response),
        });
        if let Ok(bytes) = encode(&frame) {
            // Full or closed: see above.
            let _ = self.writer.try_send(Outgoing::Frame(bytes));
        }
    }
}

/// A registered connection. Closed when dropped.
pub struct Connection {
    peer: SocketAddr,
    local: SocketAddr,
    next_id: AtomicI32,
    writer: mpsc::Sender<Outgoing>,
    shared: Arc<Shared>,
    max_in_flight: usize,
    call_timeout: Duration,
    _task: JoinSet<()>,
}

struct Shared {
    waiting: Mutex<Waiting>,
    /// True once the connection is over.
    gone: watch::Sender<bool>,
    /// Something has come since this was last taken.
    heard: AtomicBool,
    /// A request had to be asked elsewhere, and nothing has come since.
    is_suspect: AtomicBool,
    /// The coordinator knows a registration that comes again by its token.
    knows_tokens: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    gone: bool,
    answers: FixedMap<i32, oneshot::Sender<Message>>,
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no holder of this lock panics")
    }
}

/// A request that was sent. Dropped, its answer is thrown away.
pub(crate) struct Pending {
    id: i32,
    shared: Arc<Shared>,
    answer: oneshot::Receiver<Message>,
}

impl Pending {
    pub(crate) fn suspect(&self) {
        self.shared.is_suspect.store(true, Ordering::Relaxed);
    }
}

impl Future for Pending {
    /// None when the connection ended first.
    type Output = Option<Message>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        Poll::Ready(ready!(Pin::new(&mut self.answer).poll(cx)).ok())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.shared.waiting().answers.remove(&self.id);
    }
}

impl Connection {
    /// Connects and registers.
    ///
    /// # Errors
    /// When that fails, is refused, or takes longer than `connect_timeout`.
    pub async fn open(
        address: &str,
        role: &Role,
        calls: Arc<dyn PhaseTwo>,
        options: &Options,
    ) -> Result<Connection, ConnectionError> {
        let within = options.connect_timeout;
        let opened = timeout(within, async {
            let connection = Connection::connect(address, calls, options).await?;
            connection.register(role, options).await?;
            Ok(connection)
        });
        opened.await.unwrap_or_else(|_| {
            Err(ConnectionError::ConnectTimedOut {
                address: address.to_owned(),
                waited: within,
            })
        })
    }

    async fn connect(
        address: &str,
        calls: Arc<dyn PhaseTwo>,
        options: &Options,
    ) -> Result<Connection, ConnectionError> {
        let failed = |source| ConnectionError::Connect {
            address: address.to_owned(),
            source,
        };
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let peer = stream.peer_addr().map_err(failed)?;
        let local = stream.local_addr().map_err(failed)?;
        let (reading, writing) = split(address, stream, options).await.map_err(failed)?;
        let (writer, queue) = mpsc::channel(WRITE_QUEUE);
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            gone: watch::Sender::new(false),
            heard: AtomicBool::new(true),
            is_suspect: AtomicBool::new(false),
            knows_tokens: AtomicBool::new(false),
        });
        let reader = Reader {
            decoder: FrameDecoder::new(options.max_frame_bytes),
            shared: shared.clone(),
            writer: writer.downgrade(),
            calls,
        };
        let heart = heart(
            shared.clone(),
            writer.downgrade(),
            options.heartbeat_every,
            options.dead_after,
        );
        let ending = shared.clone();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let _end = End(ending);
            tokio::select! {
                biased; // Answers first: they make room for requests.
                () = reader.run(reading) => {}
                () = write(writing, queue) => {}
                () = heart => {}
            }
        });
        Ok(Connection {
            peer,
            local,
            next_id: AtomicI32::new(1),
            writer,
            shared,
            max_in_flight: options.max_in_flight,
            call_timeout: options.attempt_timeout,
            _task: task,
        })
    }

    /// Says what this connection is; a second time when there is more to serve.
    pub(crate) async fn register(&self, role: &Role, options: &Options) -> Result<(), ConnectionError> {
        let identity = self.identity(options);
        let body = match role {
            Role::TransactionManager => Message::RegisterTmRequest(identity),
            Role::ResourceManager { resources } => Message::RegisterRmRequest(RegisterRm {
                identity,
                resource_ids: resources.clone(),
            }),
        };
        let asks = vec![(KNOWS_TOKENS.to_owned(), None)];
        let pending = self.send_with(asks, body).await?;
        match self.answer(pending).await? {
            Message::RegisterTmResponse(response) | Message::RegisterRmResponse(response) => match response.outcome {
                _ if response.identified => Ok(()),
                Outcome::Failed { message } => Err(ConnectionError::Refused { message }),
                Outcome::Success => Err(ConnectionError::Refused {
                    message: "the registration".to_owned(),
                }),
            },
            other => Err(unexpected(&other)),
        }
    }

    fn identity(&self, options: &Options) -> Identity {
        Identity {
            version: CLIENT_VERSION.to_owned(),
            application_id: options.application.clone(),
            transaction_service_group: options.service_group.clone(),
            extra_data: self.signature(options),
        }
    }

    /// Tells the coordinator to make no more calls here, where it understands that.
    pub(crate) async fn retire(&self, options: &Options) {
        if self.knows_tokens() {
            // What it says changes nothing: it may go on calling, and is answered "later".
            let _ = self
                .call(Message::UnregisterRmRequest(RegisterRm {
                    identity: self.identity(options),
                    // All of them.
                    resource_ids: String::new(),
                }))
                .await;
        }
    }

    /// Waits until everything that was sent before is written, or the connection is gone.
    pub(crate) async fn written(&self) {
        let (mark, written) = oneshot::channel();
        if self.writer.send(Outgoing::Mark(mark)).await.is_ok() {
            let _ = written.await;
        }
    }

    /// The `extra_data` of a registration; a resource manager's too, which Java's leaves empty.
    fn signature(&self, options: &Options) -> String {
        let Some(key) = &options.access_key else {
            return String::new();
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "what is signed names the time of day, which the other side compares with its own"
        )]
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ip = self.local.ip().to_string();
        let (group, now_ms) = (&options.service_group, now.as_millis() as u64);
        signature::sign(&key.access, &key.secret, group, &ip, now_ms)
    }

    /// The coordinator's address as it was resolved.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub fn is_gone(&self) -> bool {
        self.shared.waiting().gone
    }

    /// Whether this coordinator takes a branch's registration that comes again for the branch that is there, by the token
    /// in its application data ([`settle_seata_wire::token`]). Settle's do, Seata's do not.
    pub fn knows_tokens(&self) -> bool {
        self.shared.knows_tokens.load(Ordering::Relaxed)
    }

    pub(crate) fn is_suspect(&self) -> bool {
        self.shared.is_suspect.load(Ordering::Relaxed)
    }

    pub(crate) fn suspect(&self) {
        self.shared.is_suspect.store(true, Ordering::Relaxed);
    }

    /// Waits for the end of the connection.
    pub async fn closed(&self) {
        let mut gone = self.shared.gone.subscribe();
        // The sender lives as long as `self`.
        let _ = gone.wait_for(|gone| *gone).await;
    }

    /// Sends a request. After an `Ok` it may have been done, whatever comes.
    pub(crate) async fn send(&self, body: Message) -> Result<Pending, ConnectionError> {
        self.send_with(HeadMap::new(), body).await
    }

    async fn send_with(&self, head: HeadMap, body: Message) -> Result<Pending, ConnectionError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let request = Frame::request(ProtocolVersion::V1, MsgType::RequestSync, id, body);
        let bytes = encode(&Frame { head, ..request })?;
        let (sender, answer) = oneshot::channel();
        {
            let mut waiting = self.shared.waiting();
            if waiting.gone {
                return Err(ConnectionError::Gone);
            }
            if waiting.answers.len() >= self.max_in_flight {
                return Err(ConnectionError::Busy {
                    limit: self.max_in_flight,
                });
            }
            // After 2³² requests an id comes again; whoever still waited under it never hears.
            waiting.answers.insert(id, sender);
        }
        let shared = self.shared.clone();
        let pending = Pending { id, shared, answer };
        let sent = self.writer.send(Outgoing::Frame(bytes)).await;
        sent.map_err(|_| ConnectionError::Gone)?;
        Ok(pending)
    }

    /// Sends a request and waits for its answer, for `attempt_timeout`.
    ///
    /// # Errors
    /// After `Gone` and `TimedOut` it may have been done all the same.
    pub async fn call(&self, body: Message) -> Result<Message, ConnectionError> {
        let pending = self.send(body).await?;
        self.answer(pending).await
    }

    async fn answer(&self, pending: Pending) -> Result<Message, ConnectionError> {
        match timeout(self.call_timeout, pending).await {
            Ok(answer) => answer.ok_or(ConnectionError::Gone),
            Err(_) => Err(ConnectionError::TimedOut(self.call_timeout)),
        }
    }

    /// Begins a global transaction and returns its xid.
    pub async fn begin(&self, name: &str, timeout_ms: i32) -> Result<String, ConnectionError> {
        let begin = GlobalBegin {
            timeout_ms,
            transaction_name: name.to_owned(),
        };
        match self.call(Message::GlobalBegin(begin)).await? {
            Message::GlobalBeginResponse(response) => succeeded(response.result).map(|()| response.xid),
            other => Err(unexpected(&other)),
        }
    }

    /// Registers a branch and returns its id.
    pub async fn register_branch(
        &self,
        xid: &str,
        branch_type: BranchType,
        resource: &str,
        lock_key: &str,
    ) -> Result<i64, ConnectionError> {
        let register = BranchRegister {
            xid: xid.to_owned(),
            branch_type,
            resource_id: resource.to_owned(),
            lock_key: lock_key.to_owned(),
            application_data: String::new(),
        };
        match self.call(Message::BranchRegister(register)).await? {
            Message::BranchRegisterResponse(response) => succeeded(response.result).map(|()| response.branch_id),
            other => Err(unexpected(&other)),
        }
    }

    pub async fn commit(&self, xid: &str) -> Result<GlobalStatus, ConnectionError> {
        self.end(Message::GlobalCommit(global_end(xid))).await
    }

    pub async fn rollback(&self, xid: &str) -> Result<GlobalStatus, ConnectionError> {
        self.end(Message::GlobalRollback(global_end(xid))).await
    }

    pub async fn status(&self, xid: &str) -> Result<GlobalStatus, ConnectionError> {
        self.end(Message::GlobalStatus(global_end(xid))).await
    }

    async fn end(&self, request: Message) -> Result<GlobalStatus, ConnectionError> {
        match self.call(request).await? {
            Message::GlobalCommitResponse(response)
            | Message::GlobalRollbackResponse(response)
            | Message::GlobalStatusResponse(response) => succeeded(response.result).map(|()| response.status),
            other => Err(unexpected(&other)),
        }
    }
}

pub(crate) fn global_end(xid: &str) -> GlobalEnd {
    GlobalEnd {
        xid: xid.to_owned(),
        extra_data: String::new(),
    }
}

fn unexpected(message: &Message) -> ConnectionError {
    ConnectionError::Unexpected {
        type_code: message.type_code(),
    }
}

fn succeeded(result: TxResult) -> Result<(), ConnectionError> {
    match result.outcome {
        Outcome::Success => Ok(()),
        Outcome::Failed { message } => Err(ConnectionError::Refused { message }),
    }
}

fn encode(frame: &Frame) -> Result<Bytes, WireError> {
    let mut buffer = BytesMut::new();
    frame::encode(frame, &mut buffer)?;
    Ok(buffer.freeze())
}

/// Tells everybody that the connection is over, however its task ended.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting();
        waiting.gone = true;
        waiting.answers.clear();
        drop(waiting);
        self.0.gone.send_replace(true);
    }
}

type Reading = Box<dyn AsyncRead + Send + Unpin>;
type Writing = Box<dyn AsyncWrite + Send + Unpin>;

/// The two directions of a connection, by TLS where that is wanted.
async fn split(address: &str, stream: TcpStream, options: &Options) -> io::Result<(Reading, Writing)> {
    #[cfg(feature = "tls")]
    if let Some(tls) = &options.tls {
        let (reading, writing) = tokio::io::split(tls.connect(address, stream).await?);
        return Ok((Box::new(reading), Box::new(writing)));
    }
    let _ = (address, options);
    let (reading, writing) = stream.into_split();
    Ok((Box::new(reading), Box::new(writing)))
}

async fn write(mut writing: Writing, mut queue: mpsc::Receiver<Outgoing>) {
    let mut buffer = BytesMut::new();
    let mut marks = Vec::new();
    while let Some(first) = queue.recv().await {
        let mut next = Some(first);
        while let Some(outgoing) = next {
            match outgoing {
                Outgoing::Frame(bytes) => buffer.extend_from_slice(&bytes),
                Outgoing::Mark(mark) => marks.push(mark),
            }
            next = (buffer.len() < WRITE_BYTES).then(|| queue.try_recv().ok()).flatten();
        }
        if writing.write_all(&buffer).await.is_err() || writing.flush().await.is_err() {
            return;
        }
        buffer.clear();
        for mark in marks.drain(..) {
            // Whoever asked may be gone.
            let _ = mark.send(());
        }
    }
}

/// Asks a silent peer for a sign of life, and ends when none came in time.
async fn heart(shared: Arc<Shared>, writer: mpsc::WeakSender<Outgoing>, every: Duration, dead_after: Duration) {
    let mut beat = interval(every);
    let mut heard_at = Instant::now();
    loop {
        beat.tick().await;
        if shared.heard.swap(false, Ordering::Relaxed) {
            heard_at = Instant::now();
            continue;
        }
        if heard_at.elapsed() >= dead_after {
            return;
        }
        let (Some(writer), Ok(ping)) = (writer.upgrade(), encode(&Frame::ping(ProtocolVersion::V1, 0))) else {
            return;
        };
        // A full queue is no sign of death by itself.
        let _ = writer.try_send(Outgoing::Frame(ping));
    }
}

struct Reader {
    decoder: FrameDecoder,
    shared: Arc<Shared>,
    /// Weak, so that the writer ends with the connection's owner.
    writer: mpsc::WeakSender<Outgoing>,
    calls: Arc<dyn PhaseTwo>,
}

impl Reader {
    async fn run(mut self, mut reading: Reading) {
        let mut buffer = BytesMut::new();
        loop {
            loop {
                match self.decoder.decode(&mut buffer) {
                    Ok(Some(frame)) => self.take(frame),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::warn!(code = %error.code(), %error, "a coordinator sent what cannot be read");
                        return;
                    }
                }
            }
            buffer.reserve(READ_BYTES);
            match reading.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    self.shared.heard.store(true, Ordering::Relaxed);
                    self.shared.is_suspect.store(false, Ordering::Relaxed);
                }
            }
        }
    }

    /// Delivers an answer, or passes a call on.
    fn take(&self, mut frame: Frame) {
        match frame.msg_type {
            MsgType::HeartbeatRequest => {
                if let (Some(writer), Ok(pong)) = (self.writer.upgrade(), encode(&frame.pong())) {
                    let _ = writer.try_send(Outgoing::Frame(pong));
                }
            }
            MsgType::HeartbeatResponse => {}
            MsgType::Response => {
                let Some(body) = frame.body.take() else { return };
                if frame.head.iter().any(|(key, _)| key == KNOWS_TOKENS) {
                    self.shared.knows_tokens.store(true, Ordering::Relaxed);
                }
                let sender = self.shared.waiting().answers.remove(&frame.request_id);
                if let Some(sender) = sender {
                    // The caller may have given up.
                    let _ = sender.send(body);
                }
            }
            MsgType::RequestSync | MsgType::RequestOneway => {
                let (phase, call) = match frame.body.take() {
                    Some(Message::BranchCommit(call)) => (Phase::Commit, call),
                    Some(Message::BranchRollback(call)) => (Phase::Rollback, call),
                    _ => return,
                };
                let Some(writer) = self.writer.upgrade() else { return };
                let answer = Answer {
                    call: frame,
                    phase,
                    xid: call.xid.clone(),
                    branch_id: call.branch_id,
                    writer,
                };
                self.calls.call(phase, call, answer);
            }
        }
    }
}
