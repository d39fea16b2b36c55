//! A Seata client of our own: what load generators and tests speak through. One connection, TM or RM, pipelined.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use settle_base::FixedMap;
use settle_seata_wire::{
    BranchEnd, BranchEndResponse, BranchRegister, BranchStatus, BranchType, Frame, FrameDecoder, GlobalBegin,
    GlobalEnd, GlobalStatus, Identity, MAX_FRAME_BYTES_DEFAULT, Message, MsgType, Outcome, ProtocolVersion, RegisterRm,
    TxResult, WireError, frame,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

/// Requests and answers waiting to be written; the caller waits beyond that.
const WRITE_QUEUE: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot connect to {address}")]
    Connect {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("the connection is gone")]
    Gone,
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("refused: {message}")]
    Refused { message: String },
    #[error("an answer of another kind: {0:?}")]
    Unexpected(Box<Message>),
    #[error("a message that cannot be sent")]
    Wire(#[from] WireError),
}

/// Answers phase-two calls of an RM connection.
pub type Handler = Arc<dyn Fn(Phase, &BranchEnd) -> Option<BranchStatus> + Send + Sync>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Commit,
    Rollback,
}

/// Does what it is told and says so: an RM without data.
pub fn obedient() -> Handler {
    Arc::new(|phase, _| {
        Some(match phase {
            Phase::Commit => BranchStatus::PhaseTwoCommitted,
            Phase::Rollback => BranchStatus::PhaseTwoRollbacked,
        })
    })
}

pub struct SeataClient {
    address: SocketAddr,
    next_id: AtomicI32,
    writer: mpsc::Sender<Frame>,
    waiting: Arc<Mutex<Waiting>>,
    timeout: Duration,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Waiting {
    gone: bool,
    answers: FixedMap<i32, oneshot::Sender<Message>>,
}

impl SeataClient {
    /// Connects as a transaction manager and registers.
    pub async fn tm(address: SocketAddr, application: &str, timeout: Duration) -> Result<SeataClient, ClientError> {
        let client = SeataClient::connect(address, obedient(), timeout).await?;
        let answer = client.call(Message::RegisterTmRequest(identity(application))).await?;
        client.check_registered(answer)
    }

    /// Connects as a resource manager, registers `resources` (comma-separated) and lets `handler` answer phase two.
    /// `None` from the handler leaves the call unanswered.
    pub async fn rm(
        address: SocketAddr,
        application: &str,
        resources: &str,
        handler: Handler,
        timeout: Duration,
    ) -> Result<SeataClient, ClientError> {
        let client = SeataClient::connect(address, handler, timeout).await?;
        let register = RegisterRm {
            identity: identity(application),
            resource_ids: resources.to_owned(),
        };
        let answer = client.call(Message::RegisterRmRequest(register)).await?;
        client.check_registered(answer)
    }

    fn check_registered(self, answer: Message) -> Result<SeataClient, ClientError> {
        match answer {
            Message::RegisterTmResponse(response) | Message::RegisterRmResponse(response) if response.identified => {
                Ok(self)
            }
            Message::RegisterTmResponse(_) | Message::RegisterRmResponse(_) => Err(ClientError::Refused {
                message: "registration".to_owned(),
            }),
            other => Err(ClientError::Unexpected(Box::new(other))),
        }
    }

    async fn connect(address: SocketAddr, handler: Handler, timeout: Duration) -> Result<SeataClient, ClientError> {
        let connect = |source| ClientError::Connect { address, source };
        let stream = TcpStream::connect(address).await.map_err(connect)?;
        stream.set_nodelay(true).map_err(connect)?;
        let (reading, writing) = stream.into_split();
        let (writer, queue) = mpsc::channel(WRITE_QUEUE);
        let waiting = Arc::<Mutex<Waiting>>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(write(writing, queue));
        let (answers, back) = (waiting.clone(), writer.clone());
        tasks.spawn(async move {
            read(reading, &answers, &back, &handler).await;
            let mut waiting = answers.lock().expect("no holder of this lock panics");
            waiting.gone = true;
            waiting.answers.clear();
        });
        Ok(SeataClient {
            address,
            next_id: AtomicI32::new(1),
            writer,
            waiting,
            timeout,
            _tasks: tasks,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn is_gone(&self) -> bool {
        self.waiting.lock().expect("no holder of this lock panics").gone
    }

    /// Sends a request and waits for its answer.
    pub async fn call(&self, body: Message) -> Result<Message, ClientError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().expect("no holder of this lock panics");
            if waiting.gone {
                return Err(ClientError::Gone);
            }
            waiting.answers.insert(id, sender);
        }
        let frame = Frame::request(ProtocolVersion::V1, MsgType::RequestSync, id, body);
        self.writer.send(frame).await.map_err(|_| ClientError::Gone)?;
        match timeout(self.timeout, answer).await {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(_)) => Err(ClientError::Gone),
            Err(_) => {
                self.waiting
                    .lock()
                    .expect("no holder of this lock panics")
                    .answers
                    .remove(&id);
                Err(ClientError::TimedOut(self.timeout))
            }
        }
    }

    /// Begins a global transaction and returns its xid.
    pub async fn begin(&self, name: &str, timeout_ms: i32) -> Result<String, ClientError> {
        let begin = GlobalBegin {
            timeout_ms,
            transaction_name: name.to_owned(),
        };
        match self.call(Message::GlobalBegin(begin)).await? {
            Message::GlobalBeginResponse(response) => succeeded(response.result).map(|()| response.xid),
            other => Err(ClientError::Unexpected(Box::new(other))),
        }
    }

    /// Registers a branch and returns its id.
    pub async fn register_branch(
        &self,
        xid: &str,
        branch_type: BranchType,
        resource: &str,
        lock_key: &str,
    ) -> Result<i64, ClientError> {
        let register = BranchRegister {
            xid: xid.to_owned(),
            branch_type,
            resource_id: resource.to_owned(),
            lock_key: lock_key.to_owned(),
            application_data: String::new(),
        };
        match self.call(Message::BranchRegister(register)).await? {
            Message::BranchRegisterResponse(response) => succeeded(response.result).map(|()| response.branch_id),
            other => Err(ClientError::Unexpected(Box::new(other))),
        }
    }

    pub async fn commit(&self, xid: &str) -> Result<GlobalStatus, ClientError> {
        self.end(Message::GlobalCommit(global_end(xid))).await
    }

    pub async fn rollback(&self, xid: &str) -> Result<GlobalStatus, ClientError> {
        self.end(Message::GlobalRollback(global_end(xid))).await
    }

    pub async fn status(&self, xid: &str) -> Result<GlobalStatus, ClientError> {
        self.end(Message::GlobalStatus(global_end(xid))).await
    }

    async fn end(&self, request: Message) -> Result<GlobalStatus, ClientError> {
        match self.call(request).await? {
            Message::GlobalCommitResponse(response)
            | Message::GlobalRollbackResponse(response)
            | Message::GlobalStatusResponse(response) => succeeded(response.result).map(|()| response.status),
            other => Err(ClientError::Unexpected(Box::new(other))),
        }
    }
}

fn succeeded(result: TxResult) -> Result<(), ClientError> {
    match result.outcome {
        Outcome::Success => Ok(()),
        Outcome::Failed { message } => Err(ClientError::Refused { message }),
    }
}

fn global_end(xid: &str) -> GlobalEnd {
    GlobalEnd {
        xid: xid.to_owned(),
        extra_data: String::new(),
    }
}

fn identity(application: &str) -> Identity {
    Identity {
        version: "1.8.0".to_owned(),
        application_id: application.to_owned(),
        transaction_service_group: "default_tx_group".to_owned(),
        extra_data: String::new(),
    }
}

async fn write(mut writing: OwnedWriteHalf, mut queue: mpsc::Receiver<Frame>) {
    let mut buffer = BytesMut::new();
    while let Some(frame) = queue.recv().await {
        let mut next = Some(frame);
        while let Some(frame) = next.take() {
            // Too large to be sent: its caller sees the time run out.
            let start = buffer.len();
            if frame::encode(&frame, &mut buffer).is_err() {
                buffer.truncate(start);
            }
            next = queue.try_recv().ok();
        }
        if writing.write_all(&buffer).await.is_err() {
            return;
        }
        buffer.clear();
    }
}

async fn read(mut reading: OwnedReadHalf, waiting: &Mutex<Waiting>, back: &mpsc::Sender<Frame>, handler: &Handler) {
    let mut decoder = FrameDecoder::new(MAX_FRAME_BYTES_DEFAULT);
    let mut buffer = BytesMut::new();
    loop {
        loop {
            let frame = match decoder.decode(&mut buffer) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(_) => return,
            };
            if let Some(answer) = take(frame, waiting, handler)
                && back.send(answer).await.is_err()
            {
                return;
            }
        }
        buffer.reserve(8 << 10);
        match reading.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Delivers an answer, or answers a call.
fn take(mut frame: Frame, waiting: &Mutex<Waiting>, handler: &Handler) -> Option<Frame> {
    match frame.msg_type {
        MsgType::HeartbeatRequest => Some(frame.pong()),
        MsgType::Response => {
            let body = frame.body.take()?;
            let mut waiting = waiting.lock().expect("no holder of this lock panics");
            if let Some(sender) = waiting.answers.remove(&frame.request_id) {
                // The caller may have given up.
                let _ = sender.send(body);
            }
            None
        }
        MsgType::RequestSync | MsgType::RequestOneway => {
            let (phase, call) = match frame.body.take()? {
                Message::BranchCommit(call) => (Phase::Commit, call),
                Message::BranchRollback(call) => (Phase::Rollback, call),
                _ => return None,
            };
            let status = handler(phase, &call)?;
            let response = BranchEndResponse {
                result: TxResult::SUCCESS,
                xid: call.xid,
                branch_id: call.branch_id,
                status,
            };
            Some(frame.response(match phase {
                Phase::Commit => Message::BranchCommitResponse(response),
                Phase::Rollback => Message::BranchRollbackResponse(response),
            }))
        }
        MsgType::HeartbeatResponse => None,
    }
}
