//! The loop: one thread that owns the host, its disk's completions and its outgoing messages.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use settle_base::{ErrorCode, GroupId, NodeId, PeerId};
use settle_disk_file::{FileDisk, FileDiskOptions};
use settle_host::{
    ClusterId, Host, HostAction, HostConfig, HostError, HostEvent, HostNote, HostStatus, OpenError, OperatorRequest,
};
use settle_machine::{Service, StateMachine};
use settle_net::{Stop, StopHandle};
use settle_telemetry::Clock;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::{
    metrics::{LoopMetrics, PeerMetrics},
    peers::{self, Events, PeerAddress, PeerEvent, Peers, SharedHello, Source},
};

/// Events waiting for the loop; who brings more waits.
const QUEUE: usize = 65_536;
/// How many events one turn takes before it flushes.
const BURST: usize = 1_024;

pub struct NodeConfig {
    pub host: HostConfig,
    pub data_dir: PathBuf,
    pub disk: FileDiskOptions,
    /// All servers, this one included.
    pub peers: Vec<PeerAddress>,
    /// The identity that the data directory gets if it has none yet: random.
    pub fresh_incarnation: PeerId,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot use the data directory {}", path.display())]
    Disk {
        path: PathBuf,
        source: settle_disk_file::OpenDirError,
    },
    #[error("cannot start from the data directory {}", path.display())]
    Open { path: PathBuf, source: OpenError },
    #[error("cannot start the thread of the loop")]
    Thread { source: std::io::Error },
}

impl StartError {
    pub fn code(&self) -> ErrorCode {
        match self {
            StartError::Disk { source, .. } => source.code(),
            StartError::Open { source, .. } => source.code(),
            StartError::Thread { .. } => ErrorCode::new("ND", 1),
        }
    }
}

/// The loop has ended: the server is stopping or has failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("this server is stopping")]
pub struct NodeStopped;

/// A look at the host between two turns.
type Look<S> = Box<dyn FnOnce(&Host<S, FileDisk>) + Send>;

enum LoopEvent<S: Service> {
    Host(HostEvent<S::Request>),
    Peer(PeerEvent),
    /// The disk has completions.
    Disk,
    Inspect(Look<S>),
    Stop,
}

/// The way into a running node.
pub struct NodeHandle<S: Service> {
    events: mpsc::Sender<LoopEvent<S>>,
    clock: Clock,
}

impl<S: Service> Clone for NodeHandle<S> {
    fn clone(&self) -> NodeHandle<S> {
        NodeHandle {
            events: self.events.clone(),
            clock: self.clock,
        }
    }
}

impl<S: Service> NodeHandle<S> {
    /// Hands the service a request; waits while the loop's queue is full.
    pub async fn request(&self, request: S::Request) -> Result<(), NodeStopped> {
        self.send(LoopEvent::Host(HostEvent::Request(request))).await
    }

    pub async fn operate(&self, request: OperatorRequest) -> Result<(), NodeStopped> {
        self.send(LoopEvent::Host(HostEvent::Operator(request))).await
    }

    /// Looks at the host between two turns of the loop. `look` must be quick: the node stands still meanwhile.
    pub async fn inspect<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Host<S, FileDisk>) -> T + Send + 'static,
    ) -> Result<T, NodeStopped> {
        let (sender, answer) = oneshot::channel();
        let look = Box::new(move |host: &Host<S, FileDisk>| {
            // The asker may have given up.
            let _ = sender.send(look(host));
        });
        self.send(LoopEvent::Inspect(look)).await?;
        answer.await.map_err(|_| NodeStopped)
    }

    pub async fn status(&self) -> Result<HostStatus, NodeStopped> {
        let clock = self.clock;
        self.inspect(move |host| host.status(clock.now())).await
    }

    async fn send(&self, event: LoopEvent<S>) -> Result<(), NodeStopped> {
        self.events.send(event).await.map_err(|_| NodeStopped)
    }
}

struct LoopEvents<S: Service>(mpsc::Sender<LoopEvent<S>>);

impl<S: Service> Clone for LoopEvents<S> {
    fn clone(&self) -> LoopEvents<S> {
        LoopEvents(self.0.clone())
    }
}

impl<S: Service<Request: Send> + 'static> Events for LoopEvents<S> {
    async fn send(&self, event: PeerEvent) -> bool {
        self.0.send(LoopEvent::Peer(event)).await.is_ok()
    }
}

/// A node at work. Ends when told to, or when its host finds that it must not go on.
pub struct RunningNode<S: Service> {
    events: mpsc::Sender<LoopEvent<S>>,
    stop: StopHandle,
    tasks: JoinSet<()>,
    thread: std::thread::JoinHandle<()>,
    failed: oneshot::Receiver<HostError>,
}

impl<S: Service> RunningNode<S> {
    /// Resolves when the host has found a reason not to go on: evidence for the log, then the process should end.
    pub async fn failed(&mut self) -> HostError {
        match (&mut self.failed).await {
            Ok(error) => error,
            // The loop ended without one: it was told to stop, and nothing will ever fail.
            Err(_) => std::future::pending().await,
        }
    }

    /// Stops the loop after what it has begun, then the connections, and joins them all.
    pub async fn stop(mut self) {
        // The loop may have ended by itself.
        let _ = self.events.send(LoopEvent::Stop).await;
        self.stop.stop();
        while self.tasks.join_next().await.is_some() {}
        // The loop has been told; it ends within one turn.
        let _ = tokio::task::spawn_blocking(move || self.thread.join()).await;
    }
}

/// Opens the data directory and starts everything. `respond` is called on the loop's thread and must not block.
///
/// # Errors
/// When the directory is in use, belongs to another node or cluster, or is damaged.
pub fn start<S>(
    config: NodeConfig,
    listener: settle_net::Listener,
    service: S,
    make_machine: impl Fn(GroupId, ClusterId) -> S::Machine + Send + 'static,
    respond: impl FnMut(S::Response) + Send + 'static,
    metrics: (LoopMetrics, PeerMetrics),
) -> Result<(NodeHandle<S>, RunningNode<S>), StartError>
where
    S: Service<Machine: StateMachine<Effect: Send> + Send, Request: Send, Response: Send> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(QUEUE);
    let disk_is_told = Arc::new(AtomicBool::new(false));
    let notify = {
        let (told, sender) = (disk_is_told.clone(), sender.clone());
        move || {
            // One event wakes the loop, which then takes all completions; when the queue is full it is awake.
            if !told.swap(true, Ordering::AcqRel) {
                let _ = sender.try_send(LoopEvent::Disk);
            }
        }
    };
    let path = config.data_dir.clone();
    let disk = FileDisk::open(&config.data_dir, config.disk, notify).map_err(|source| StartError::Disk {
        path: path.clone(),
        source,
    })?;
    let clock = Clock::start();
    let tick = config.host.tick;
    let host = Host::open(
        config.host,
        disk,
        service,
        make_machine,
        config.fresh_incarnation,
        clock.now(),
    )
    .map_err(|source| StartError::Open { path, source })?;

    let (stop, stopped) = StopHandle::new();
    let mut tasks = JoinSet::new();
    let hello: SharedHello = Arc::new(Mutex::new(host.hello()));
    let (loop_metrics, peer_metrics) = metrics;
    let events = LoopEvents(sender.clone());
    let peers = peers::connect(
        hello.clone(),
        &config.peers,
        listener,
        events,
        &peer_metrics,
        stopped.clone(),
        &mut tasks,
    );
    tasks.spawn(tick_loop(tick, sender.clone(), stopped));

    let (fail, failed) = oneshot::channel();
    let turning = Loop {
        host,
        receiver,
        peers,
        hello,
        respond,
        clock,
        disk_is_told,
        metrics: loop_metrics,
        inbound: BTreeMap::new(),
        incarnations: BTreeMap::new(),
        fail: Some(fail),
        syncs_seen: 0,
        bytes_seen: 0,
    };
    let thread = std::thread::Builder::new()
        .name("settle-loop".to_owned())
        .spawn(move || turning.run())
        .map_err(|source| StartError::Thread { source })?;
    let handle = NodeHandle {
        events: sender.clone(),
        clock,
    };
    Ok((
        handle,
        RunningNode {
            events: sender,
            stop,
            tasks,
            thread,
            failed,
        },
    ))
}

async fn tick_loop<S: Service>(tick: Duration, events: mpsc::Sender<LoopEvent<S>>, mut stop: Stop) {
    let mut ticks = interval(tick);
    // After a pause the missed ticks are not made up: an election would be called for nothing.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            () = stop.stopped() => return,
            _ = ticks.tick() => {
                if events.send(LoopEvent::Host(HostEvent::Tick)).await.is_err() {
                    return;
                }
            }
        }
    }
}

struct Loop<S: Service, R> {
    host: Host<S, FileDisk>,
    receiver: mpsc::Receiver<LoopEvent<S>>,
    peers: Peers,
    hello: SharedHello,
    respond: R,
    clock: Clock,
    disk_is_told: Arc<AtomicBool>,
    metrics: LoopMetrics,
    /// The newest connection of each peer and lane: what comes on older ones is void.
    inbound: BTreeMap<(NodeId, u8), u64>,
    /// Which directory each peer had when it was last connected to.
    incarnations: BTreeMap<NodeId, PeerId>,
    fail: Option<oneshot::Sender<HostError>>,
    syncs_seen: u64,
    bytes_seen: u64,
}

impl<S, R> Loop<S, R>
where
    S: Service,
    R: FnMut(S::Response),
{
    fn run(mut self) {
        let mut events = Vec::with_capacity(BURST);
        let mut actions = Vec::new();
        loop {
            if self.receiver.blocking_recv_many(&mut events, BURST) == 0 {
                return;
            }
            let start = self.clock.now();
            self.metrics.turns.inc();
            self.metrics.events.inc_by(events.len() as u64);
            let mut stopping = false;
            for event in events.drain(..) {
                match event {
                    LoopEvent::Host(event) => self.host.step(event, start, &mut actions),
                    LoopEvent::Peer(event) => {
                        if let Some(event) = self.admit(event) {
                            self.host.step(event, start, &mut actions);
                        }
                    }
                    LoopEvent::Disk => {}
                    LoopEvent::Inspect(look) => look(&self.host),
                    LoopEvent::Stop => stopping = true,
                }
            }
            self.disk_is_told.store(false, Ordering::Release);
            self.host.step(HostEvent::DiskReady, start, &mut actions);
            self.host.flush(self.clock.now(), &mut actions);
            for action in actions.drain(..) {
                self.carry_out(action);
            }
            self.publish();
            self.metrics
                .turn_seconds
                .observe(self.clock.now().since(start).as_secs_f64());
            if stopping || self.host.is_dead() {
                return;
            }
        }
    }

    /// A peer's event as the host takes it; `None` for what came on a connection that is over.
    fn admit(&mut self, event: PeerEvent) -> Option<HostEvent<S::Request>> {
        match event {
            PeerEvent::Up { node, hello } => {
                self.incarnations.insert(node, hello.incarnation);
                Some(HostEvent::PeerUp { node, hello })
            }
            PeerEvent::Down { node } => Some(HostEvent::PeerDown { node }),
            PeerEvent::Inbound { node, lane, number } => {
                let newest = self.inbound.entry((node, lane as u8)).or_default();
                *newest = (*newest).max(number);
                None
            }
            PeerEvent::Message {
                from:
                    Source {
                        node,
                        incarnation,
                        lane,
                        number,
                    },
                message,
            } => {
                let is_current = self.inbound.get(&(node, lane as u8)) == Some(&number)
                    && self.incarnations.get(&node) == Some(&incarnation);
                is_current.then_some(HostEvent::Peer { from: node, message })
            }
        }
    }

    fn carry_out(&mut self, action: HostAction<S::Response>) {
        match action {
            HostAction::Send { to, lane, message } => self.peers.send(to, lane, message),
            HostAction::Respond(response) => (self.respond)(response),
            HostAction::ClosePeer { node, reason } => {
                tracing::warn!(code = %reason.code(), %node, error = %reason, "peer connection closed");
                self.peers.close(node);
            }
            HostAction::Note(note) => self.note(note),
            HostAction::Fatal(error) => {
                if let Some(fail) = self.fail.take() {
                    // Nobody waits when the server stops at the same moment.
                    let _ = fail.send(error);
                }
            }
        }
    }

    fn note(&self, note: HostNote) {
        match &note {
            HostNote::DiskFull
            | HostNote::LogDamaged { .. }
            | HostNote::SnapshotDamaged { .. }
            | HostNote::Recovering { .. }
            | HostNote::HandsOver { .. } => {
                tracing::warn!(?note, "host");
            }
            _ => tracing::info!(?note, "host"),
        }
    }

    /// What others see of the loop between its turns.
    fn publish(&mut self) {
        let hello = self.host.hello();
        let mut shared = self.hello.lock().expect("no holder of this lock panics");
        if *shared != hello {
            *shared = hello;
        }
        drop(shared);
        let stats = self.host.wal_stats();
        self.metrics.wal_syncs.inc_by(stats.syncs - self.syncs_seen);
        self.metrics.wal_bytes.inc_by(stats.bytes - self.bytes_seen);
        if stats.syncs > self.syncs_seen {
            self.metrics
                .wal_sync_seconds
                .observe(stats.sync_time_last.as_secs_f64());
        }
        self.syncs_seen = stats.syncs;
        self.bytes_seen = stats.bytes;
        self.metrics.groups_led.set(self.host.groups_led() as i64);
    }
}
