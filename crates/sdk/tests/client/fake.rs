//! A coordinator that answers as the test says, and notes what it was sent.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use settle_sdk::{BranchStatus, BranchType, GlobalStatus, Options};
use settle_seata_wire::{
    BranchEnd, BranchRegisterResponse, Frame, FrameDecoder, GlobalBeginResponse, GlobalEndResponse,
    MAX_FRAME_BYTES_DEFAULT, Message, MsgType, Outcome, ProtocolVersion, RegisterResponse, TxResult, frame,
    token::KNOWS_TOKENS,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::timeout,
};

/// For what must happen.
pub const SOON: Duration = Duration::from_secs(20);

pub enum Reaction {
    Answer(Message),
    Silence,
    /// The connection is cut.
    Cut,
}

type Script = Box<dyn FnMut(&Message) -> Reaction + Send>;

pub struct Fake {
    pub address: String,
    inner: Arc<Inner>,
    _tasks: JoinSet<()>,
}

struct Inner {
    script: Mutex<Script>,
    /// As Settle's coordinators do, and Seata's do not.
    knows_tokens: bool,
    sent: watch::Sender<Vec<Message>>,
    /// Resource managers' connections, the newest last.
    rms: watch::Sender<Vec<mpsc::Sender<Command>>>,
}

enum Command {
    Call(Message, oneshot::Sender<Message>),
    Cut,
}

impl Fake {
    /// Registers everybody; the script sees everything else.
    pub async fn start(script: impl FnMut(&Message) -> Reaction + Send + 'static) -> Result<Fake> {
        Fake::started(script, false).await
    }

    /// As [`start`](Fake::start), and knows a registration that comes again.
    pub async fn knowing_tokens(script: impl FnMut(&Message) -> Reaction + Send + 'static) -> Result<Fake> {
        Fake::started(script, true).await
    }

    async fn started(script: impl FnMut(&Message) -> Reaction + Send + 'static, knows_tokens: bool) -> Result<Fake> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let inner = Arc::new(Inner {
            script: Mutex::new(Box::new(script)),
            knows_tokens,
            sent: watch::Sender::default(),
            rms: watch::Sender::default(),
        });
        let mut tasks = JoinSet::new();
        let accepting = inner.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, accepting.clone()));
            }
        });
        Ok(Fake {
            address,
            inner,
            _tasks: tasks,
        })
    }

    /// Begins, registers branches, and ends everything as asked.
    pub async fn obliging() -> Result<Fake> {
        Fake::start(|message| Reaction::Answer(oblige(message))).await
    }

    /// What was sent that `is_meant`, after the registration of the connection.
    pub fn count(&self, is_meant: impl Fn(&Message) -> bool) -> usize {
        self.inner
            .sent
            .borrow()
            .iter()
            .filter(|message| is_meant(message))
            .count()
    }

    /// The application data of the branches that were to be registered.
    pub fn branches(&self) -> Vec<String> {
        let data = |message: &Message| match message {
            Message::BranchRegister(branch) => Some(branch.application_data.clone()),
            _ => None,
        };
        self.inner.sent.borrow().iter().filter_map(data).collect()
    }

    /// Waits until so many messages were sent that `is_meant`.
    pub async fn wait_for(&self, count: usize, is_meant: impl Fn(&Message) -> bool) -> Result<()> {
        let mut sent = self.inner.sent.subscribe();
        let there = sent.wait_for(|sent| sent.iter().filter(|message| is_meant(message)).count() >= count);
        timeout(SOON, there).await.context("it was not sent")??;
        Ok(())
    }

    /// Makes a second-phase call over the newest resource manager's connection.
    pub async fn call(&self, body: Message) -> Result<oneshot::Receiver<Message>> {
        let (sender, answer) = oneshot::channel();
        self.command(Command::Call(body, sender)).await?;
        Ok(answer)
    }

    pub async fn cut_rm(&self) -> Result<()> {
        self.command(Command::Cut).await
    }

    async fn command(&self, command: Command) -> Result<()> {
        let mut rms = self.inner.rms.subscribe();
        let there = timeout(SOON, rms.wait_for(|rms| !rms.is_empty())).await;
        let rm = there
            .context("no resource manager")??
            .last()
            .cloned()
            .context("there is one")?;
        Ok(rm.send(command).await?)
    }
}

/// The status of an answer to a second-phase call.
pub async fn status(answer: oneshot::Receiver<Message>) -> Result<BranchStatus> {
    match timeout(SOON, answer).await.context("no answer")?? {
        Message::BranchCommitResponse(response) | Message::BranchRollbackResponse(response) => Ok(response.status),
        other => bail!("an answer of another kind: {other:?}"),
    }
}

pub fn branch(branch_id: i64, data: &str) -> BranchEnd {
    BranchEnd {
        xid: "127.0.0.1:8091:7".to_owned(),
        branch_id,
        branch_type: BranchType::Tcc,
        resource_id: "accounts".to_owned(),
        application_data: data.to_owned(),
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1_000);

pub fn oblige(message: &Message) -> Message {
    match message {
        Message::GlobalBegin(_) => Message::GlobalBeginResponse(GlobalBeginResponse {
            result: TxResult::SUCCESS,
            // What a process knows of a transaction is known by its id, in all of its tests.
            xid: format!("127.0.0.1:8091:{}", NEXT_ID.fetch_add(1, Ordering::Relaxed)),
            extra_data: String::new(),
        }),
        Message::GlobalCommit(_) => Message::GlobalCommitResponse(ended(GlobalStatus::Committed)),
        Message::GlobalRollback(_) => Message::GlobalRollbackResponse(ended(GlobalStatus::Rollbacked)),
        Message::GlobalStatus(_) => Message::GlobalStatusResponse(ended(GlobalStatus::Begin)),
        Message::BranchRegister(_) => Message::BranchRegisterResponse(BranchRegisterResponse {
            result: TxResult::SUCCESS,
            branch_id: 70,
        }),
        other => panic!("no client sends {other:?}"),
    }
}

pub fn registered() -> RegisterResponse {
    RegisterResponse {
        outcome: Outcome::Success,
        identified: true,
        version: "2.2.0".to_owned(),
    }
}

pub fn ended(status: GlobalStatus) -> GlobalEndResponse {
    GlobalEndResponse {
        result: TxResult::SUCCESS,
        status,
    }
}

/// Quick ones, for coordinators on this machine.
pub fn options<'a>(fakes: impl IntoIterator<Item = &'a Fake>) -> Options {
    let mut options = Options::new(fakes.into_iter().map(|fake| fake.address.clone()), "bank");
    options.reconnect_min = Duration::from_millis(5);
    options.reconnect_max = Duration::from_millis(20);
    options
}

async fn serve(mut stream: TcpStream, inner: Arc<Inner>) {
    let mut decoder = FrameDecoder::new(MAX_FRAME_BYTES_DEFAULT);
    let mut buffer = BytesMut::new();
    let (commands, mut queue) = mpsc::channel::<Command>(16);
    let mut calls: Vec<(i32, oneshot::Sender<Message>)> = Vec::new();
    loop {
        while let Ok(Some(mut frame)) = decoder.decode(&mut buffer) {
            let request = frame.clone();
            let Some(body) = frame.body.take() else {
                continue;
            };
            if frame.msg_type == MsgType::Response {
                if let Some(at) = calls.iter().position(|(id, _)| *id == frame.request_id) {
                    let _ = calls.swap_remove(at).1.send(body);
                }
                continue;
            }
            let reaction = match &body {
                Message::RegisterTmRequest(_) => Reaction::Answer(Message::RegisterTmResponse(registered())),
                Message::RegisterRmRequest(_) => {
                    inner.rms.send_modify(|rms| rms.push(commands.clone()));
                    Reaction::Answer(Message::RegisterRmResponse(registered()))
                }
                body => inner.script.lock().expect("no script panics")(body),
            };
            inner.sent.send_modify(|sent| sent.push(body));
            match reaction {
                Reaction::Answer(answer) => {
                    let mut bytes = BytesMut::new();
                    let mut response = request.response(answer);
                    if inner.knows_tokens && request.head.iter().any(|(key, _)| key == KNOWS_TOKENS) {
                        response.head.push((KNOWS_TOKENS.to_owned(), None));
                    }
                    frame::encode(&response, &mut bytes).expect("a test's answers can be sent");
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Reaction::Silence => {}
                Reaction::Cut => return,
            }
        }
        tokio::select! {
            biased; // Whichever: one test does one thing at a time.
            command = queue.recv() => match command {
                Some(Command::Call(body, answer)) => {
                    let id = 1_000 + i32::try_from(calls.len()).expect("few");
                    calls.push((id, answer));
                    let mut bytes = BytesMut::new();
                    let call = Frame::request(ProtocolVersion::V1, MsgType::RequestSync, id, body);
                    frame::encode(&call, &mut bytes).expect("a test's calls can be sent");
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                Some(Command::Cut) | None => return,
            },
            read = stream.read_buf(&mut buffer) => {
                if matches!(read, Ok(0) | Err(_)) {
                    return;
                }
            }
        }
    }
}
