//! The loop: one thread that owns the host, its disk's completions and its outgoing messages.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use settle_base::{ErrorCode, GroupId, Mono, NodeId, PeerId};
use settle_disk_file::{FileDisk, FileDiskOptions};
use settle_host::{
    ClusterId, Discarded, Host, HostAction, HostConfig, HostError, HostEvent, HostNote, HostStatus, Lane, OpenError,
    OperatorOutcome, OperatorRequest,
};
use settle_machine::{Service, StateMachine};
use settle_net::{Stop, StopHandle, TlsClient};
use settle_telemetry::Clock;
use tokio::{
    sync::{Notify, broadcast, mpsc, oneshot},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::{
    metrics::{LoopMetrics, PeerMetrics},
    observe::{self, Observer},
    peers::{self, Events, PeerAddress, PeerEvent, Peers, SharedHello, Source},
};

/// Requests waiting for the loop; who brings more waits.
const QUEUE: usize = 65_536;
/// Machines waiting to be freed; a further one is freed by the loop.
const DISCARDS: usize = 16;
/// Ticks and what connections bring, waiting for the loop: it takes these first, so few wait, and requests without end
/// hold up no heartbeat.
const SIGNALS: usize = 1_024;
/// How many events of each kind one turn takes before it flushes.
const BURST: usize = 1_024;
/// How often the loop looks what has arrived before its own thread syncs: whatever comes shares that sync, and nothing can
/// come during it.
const LOOKS: u32 = 4;
/// An orderly stop takes no longer, whatever is left to hand over: whoever stops processes kills them after half a minute.
const LEAVE_MAX: Duration = Duration::from_secs(10);

pub struct NodeConfig {
    pub host: HostConfig,
    pub data_dir: PathBuf,
    pub disk: FileDiskOptions,
    /// All servers, this one included.
    pub peers: Vec<PeerAddress>,
    /// How the others are dialled; the listener has the other side of it. None is by plain TCP.
    pub peer_tls: Option<TlsClient>,
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

/// What others ask of the loop.
enum Ask<S: Service> {
    Host(HostEvent<S::Request>),
    Inspect(Look<S>),
    Operate(OperatorRequest, oneshot::Sender<OperatorOutcome>),
}

/// What the loop must not be late for.
enum Signal {
    Tick,
    Peer(PeerEvent),
    Stop,
}

/// The way into a running node.
pub struct NodeHandle<S: Service> {
    asks: mpsc::Sender<Ask<S>>,
    clock: Clock,
    /// Weak: an observer hears the end when the loop has ended.
    notes: broadcast::WeakSender<HostNote>,
}

impl<S: Service> Clone for NodeHandle<S> {
    fn clone(&self) -> NodeHandle<S> {
        NodeHandle {
            asks: self.asks.clone(),
            clock: self.clock,
            notes: self.notes.clone(),
        }
    }
}

impl<S: Service> NodeHandle<S> {
    /// Hands the service a request; waits while the loop's queue is full.
    pub async fn request(&self, request: S::Request) -> Result<(), NodeStopped> {
        self.send(Ask::Host(HostEvent::Request(request))).await
    }

    /// Asks what an operator asks. What is begun by it may take longer than the answer.
    pub async fn operate(&self, request: OperatorRequest) -> Result<OperatorOutcome, NodeStopped> {
        let (sender, answer) = oneshot::channel();
        self.send(Ask::Operate(request, sender)).await?;
        answer.await.map_err(|_| NodeStopped)
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
        self.send(Ask::Inspect(look)).await?;
        answer.await.map_err(|_| NodeStopped)
    }

    /// Resolves when the loop has ended.
    pub async fn stopped(&self) {
        self.asks.closed().await;
    }

    /// The one that the loop goes by.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    pub async fn status(&self) -> Result<HostStatus, NodeStopped> {
        let clock = self.clock;
        self.inspect(move |host| host.status(clock.now())).await
    }

    /// Hears what the host notes from now on. A slow observer loses the oldest notes and is told how many.
    ///
    /// # Errors
    /// When the node has ended.
    pub fn observe(&self) -> Result<Observer, NodeStopped> {
        let notes = self.notes.upgrade().ok_or(NodeStopped)?;
        Ok(Observer::new(notes.subscribe()))
    }

    async fn send(&self, ask: Ask<S>) -> Result<(), NodeStopped> {
        self.asks.send(ask).await.map_err(|_| NodeStopped)
    }
}

#[derive(Clone)]
struct Signals(mpsc::Sender<Signal>);

impl Events for Signals {
    async fn send(&self, event: PeerEvent) -> bool {
        self.0.send(Signal::Peer(event)).await.is_ok()
    }
}

/// A node at work. Ends when told to, or when its host finds that it must not go on.
pub struct RunningNode {
    signals: mpsc::Sender<Signal>,
    thread: std::thread::JoinHandle<()>,
    freeing: std::thread::JoinHandle<()>,
    failed: oneshot::Receiver<HostError>,
}

impl RunningNode {
    /// Resolves when the host has found a reason not to go on: evidence for the log, then the process should end.
    pub async fn failed(&mut self) -> HostError {
        match (&mut self.failed).await {
            Ok(error) => error,
            // The loop ended without one: it was told to stop, and nothing will ever fail.
            Err(_) => std::future::pending().await,
        }
    }

    /// Hands this node's leaderships over, stops the loop after what it has begun, then the connections, and joins them
    /// all. Ends when an election timeout has passed in which nobody took any over, after ten seconds at the latest; what is
    /// still led here then is told in the log.
    pub async fn stop(self) {
        // The loop may have ended by itself.
        let _ = self.signals.send(Signal::Stop).await;
        // The connections' tasks end with it.
        let _ = tokio::task::spawn_blocking(move || {
            let _ = self.thread.join();
            self.freeing.join()
        })
        .await;
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
) -> Result<(NodeHandle<S>, RunningNode), StartError>
where
    S: Service<Machine: StateMachine<Effect: Send> + Send, Request: Send, Response: Send> + Send + 'static,
{
    let beside = |_, _| std::future::ready(());
    start_beside(config, listener, service, make_machine, respond, metrics, beside)
}

/// As [`start`], with a task on the loop's own thread: what it, and what it spawns, asks of the node wakes no other
/// thread. That is for a front door that does little more than cut bytes into requests: whatever it does, the loop
/// does nothing meanwhile. It has to end when it is told to stop.
///
/// # Errors
/// As [`start`].
pub fn start_beside<S, F>(
    config: NodeConfig,
    listener: settle_net::Listener,
    service: S,
    make_machine: impl Fn(GroupId, ClusterId) -> S::Machine + Send + 'static,
    respond: impl FnMut(S::Response) + Send + 'static,
    metrics: (LoopMetrics, PeerMetrics),
    beside: impl FnOnce(NodeHandle<S>, Stop) -> F + Send + 'static,
) -> Result<(NodeHandle<S>, RunningNode), StartError>
where
    S: Service<Machine: StateMachine<Effect: Send> + Send, Request: Send, Response: Send> + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (ask_sender, asks) = mpsc::channel(QUEUE);
    let (signal_sender, signals) = mpsc::channel(SIGNALS);
    let disk_is_ready = Arc::new(Notify::new());
    let notify = {
        let disk_is_ready = disk_is_ready.clone();
        // However often it is called before the loop turns, that takes all completions.
        move || disk_is_ready.notify_one()
    };
    let path = config.data_dir.clone();
    let options = FileDiskOptions {
        bulk_prefixes: settle_host::BULK_PREFIXES,
        ..config.disk
    };
    let disk = FileDisk::open(&config.data_dir, options, notify).map_err(|source| StartError::Disk {
        path: path.clone(),
        source,
    })?;
    let clock = Clock::start();
    let tick = config.host.tick;
    let mut host = Host::open(
        config.host,
        disk,
        service,
        make_machine,
        config.fresh_incarnation,
        clock.now(),
    )
    .map_err(|source| StartError::Open { path, source })?;
    host.disk_mut().gather();

    // The connections live on the loop's thread, so that a message from a peer to its turn and on to the socket of the
    // answer wakes nobody.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| StartError::Thread { source })?;
    let (fail, failed) = oneshot::channel();
    let (discards, discarded) = std::sync::mpsc::sync_channel::<Discarded>(DISCARDS);
    let freeing = std::thread::Builder::new()
        .name("settle-free".to_owned())
        .spawn(move || discarded.into_iter().for_each(drop))
        .map_err(|source| StartError::Thread { source })?;
    let (notes, _) = broadcast::channel(observe::KEPT);
    let weak_notes = notes.downgrade();
    let (loop_metrics, peer_metrics) = metrics;
    let (peers, peer_tls, ticks) = (config.peers, config.peer_tls, signal_sender.clone());
    let events = Signals(signal_sender.clone());
    let handle = NodeHandle {
        asks: ask_sender,
        clock,
        notes: weak_notes,
    };
    let of_beside = handle.clone();
    let thread = std::thread::Builder::new()
        .name("settle-loop".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let (stop, stopped) = StopHandle::new();
                let mut tasks = JoinSet::new();
                let hello: SharedHello = Arc::new(Mutex::new(host.hello()));
                let (of_peers, stopped_peers) = (&mut tasks, stopped.clone());
                let peers = peers::connect(
                    hello.clone(),
                    (&peers, peer_tls.as_ref()),
                    listener,
                    events,
                    &peer_metrics,
                    stopped_peers,
                    of_peers,
                );
                tasks.spawn(tick_loop(tick, ticks, stopped.clone()));
                tasks.spawn(beside(of_beside, stopped));
                let turning = Loop {
                    host,
                    asks,
                    signals,
                    disk_is_ready,
                    peers,
                    hello,
                    respond,
                    clock,
                    metrics: loop_metrics,
                    inbound: BTreeMap::new(),
                    incarnations: BTreeMap::new(),
                    fail: Some(fail),
                    discards,
                    notes,
                    leaving: None,
                    syncs_seen: 0,
                    bytes_seen: 0,
                };
                turning.run().await;
                stop.stop();
                while tasks.join_next().await.is_some() {}
            });
        })
        .map_err(|source| StartError::Thread { source })?;
    Ok((
        handle,
        RunningNode {
            signals: signal_sender,
            thread,
            freeing,
            failed,
        },
    ))
}

async fn tick_loop(tick: Duration, signals: mpsc::Sender<Signal>, mut stop: Stop) {
    let mut ticks = interval(tick);
    // After a pause the missed ticks are not made up: an election would be called for nothing.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            () = stop.stopped() => return,
            _ = ticks.tick() => {
                if signals.send(Signal::Tick).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The loop was told to stop, and waits for others to lead what it led; not for ever.
struct Leaving {
    /// Groups that had no leader before.
    leaderless: usize,
    /// Led here, or left by this node's leadership and led by nobody that is known here.
    left: usize,
    /// By then one of them has to be led elsewhere.
    until: Mono,
    at_most: Mono,
}

struct Loop<S: Service, R> {
    host: Host<S, FileDisk>,
    asks: mpsc::Receiver<Ask<S>>,
    signals: mpsc::Receiver<Signal>,
    disk_is_ready: Arc<Notify>,
    peers: Peers,
    hello: SharedHello,
    respond: R,
    clock: Clock,
    metrics: LoopMetrics,
    /// The newest connection of each peer and lane: what comes on older ones is void.
    inbound: BTreeMap<(NodeId, u8), u64>,
    /// Which directory each peer had when it was last connected to.
    incarnations: BTreeMap<NodeId, PeerId>,
    fail: Option<oneshot::Sender<HostError>>,
    discards: std::sync::mpsc::SyncSender<Discarded>,
    notes: broadcast::Sender<HostNote>,
    leaving: Option<Leaving>,
    syncs_seen: u64,
    bytes_seen: u64,
}

impl<S, R> Loop<S, R>
where
    S: Service,
    R: FnMut(S::Response),
{
    async fn run(mut self) {
        let (mut asks, mut signals) = (Vec::with_capacity(BURST), Vec::with_capacity(SIGNALS));
        let (mut actions, mut responses) = (Vec::new(), Vec::new());
        let mut has_completions = false;
        let mut looks = 0;
        loop {
            tokio::select! {
                biased;
                // The connections' tasks come first: what arrived during a sync shares the turn with its completion.
                () = tokio::task::yield_now(), if has_completions => {}
                _ = self.signals.recv_many(&mut signals, SIGNALS) => {}
                () = self.disk_is_ready.notified() => {}
                // Senders may all be gone: the node goes on for its peers.
                Some(ask) = self.asks.recv() => asks.push(ask),
            }
            while signals.len() < SIGNALS
                && let Ok(signal) = self.signals.try_recv()
            {
                signals.push(signal);
            }
            while asks.len() < BURST
                && let Ok(ask) = self.asks.try_recv()
            {
                asks.push(ask);
            }
            let start = self.clock.now();
            self.metrics.turns.inc();
            self.metrics.events.inc_by((signals.len() + asks.len()) as u64);
            for signal in signals.drain(..) {
                match signal {
                    Signal::Tick => self.host.step(HostEvent::Tick, start, &mut actions),
                    Signal::Peer(event) => self.admit(event, start, &mut actions),
                    Signal::Stop => self.leave(start, &mut actions),
                }
            }
            self.host.step(HostEvent::DiskReady, start, &mut actions);
            for ask in asks.drain(..) {
                match ask {
                    Ask::Host(event) => self.host.step(event, start, &mut actions),
                    Ask::Inspect(look) => look(&self.host),
                    Ask::Operate(request, answer) => {
                        let before = actions.len();
                        self.host.step(HostEvent::Operator(request), start, &mut actions);
                        let outcome = actions[before..].iter().find_map(|action| match action {
                            HostAction::Note(HostNote::Operated { outcome, .. }) => Some(outcome.clone()),
                            _ => None,
                        });
                        // A dead host answers nothing; the asker may have given up.
                        let _ = outcome.map(|outcome| answer.send(outcome));
                    }
                }
            }
            self.host.flush(self.clock.now(), &mut actions);
            for action in actions.drain(..) {
                match action {
                    HostAction::Respond(response) => responses.push(response),
                    action => self.carry_out(action),
                }
            }
            // The others work on their part while this thread answers.
            self.peers.flush();
            responses.drain(..).for_each(&mut self.respond);
            let sampled = self.host.carried_out(self.clock.now());
            for timeline in self.host.timelines().take(sampled) {
                tracing::debug!(?timeline, "proposal");
            }
            self.publish();
            self.metrics
                .turn_seconds
                .observe(self.clock.now().since(start).as_secs_f64());
            if self.host.is_dead() || self.has_left() {
                return;
            }
            // Everything that rests on nothing is on its way. With nothing else to do, the loop syncs by itself.
            let mut is_idle = self.signals.is_empty() && self.asks.is_empty();
            if is_idle && looks < LOOKS && self.host.disk_mut().has_gathered() {
                looks += 1;
                // The connections' tasks run meanwhile.
                tokio::task::yield_now().await;
                is_idle = self.signals.is_empty() && self.asks.is_empty();
                if !is_idle {
                    has_completions = false;
                    continue;
                }
            }
            looks = 0;
            has_completions = self.host.disk_mut().dispatch(is_idle);
        }
    }

    /// Asks others to lead what this node leads.
    fn leave(&mut self, now: Mono, actions: &mut Vec<HostAction<S::Response>>) {
        let counts = self.host.group_counts();
        let request = OperatorRequest::HandOverAll;
        self.host.step(HostEvent::Operator(request), now, actions);
        let is_alone = self.host.config().nodes.len() == 1;
        let patience = if is_alone { Duration::ZERO } else { self.patience() };
        self.leaving = Some(Leaving {
            leaderless: counts.leaderless,
            left: counts.led,
            until: now + patience,
            at_most: now + LEAVE_MAX,
        });
    }

    /// One election timeout.
    fn patience(&self) -> Duration {
        let config = self.host.config();
        config.tick * config.election_ticks
    }

    /// Whether nothing keeps the loop after it was told to stop.
    fn has_left(&mut self) -> bool {
        let (now, patience, counts) = (self.clock.now(), self.patience(), self.host.group_counts());
        let is_alone = self.host.config().nodes.len() == 1;
        let Some(leaving) = &mut self.leaving else {
            return false;
        };
        let left = counts.led + counts.leaderless.saturating_sub(leaving.leaderless);
        if left < leaving.left {
            leaving.left = left;
            leaving.until = (now + patience).min(leaving.at_most);
        }
        if left > 0 && now >= leaving.until && !is_alone {
            tracing::warn!(
                led = counts.led,
                leaderless = counts.leaderless,
                "nobody took these groups over; they elect when they miss this server"
            );
        }
        left == 0 || now >= leaving.until
    }

    /// Hands a peer's event to the host, unless it came on a connection that is over.
    fn admit(&mut self, event: PeerEvent, now: Mono, actions: &mut Vec<HostAction<S::Response>>) {
        let event = match event {
            PeerEvent::Up {
                node,
                lane,
                hello,
                outlet,
            } => {
                self.peers.connected(node, lane, Some(outlet));
                if lane == Lane::Bulk {
                    return;
                }
                self.incarnations.insert(node, hello.incarnation);
                HostEvent::PeerUp { node, hello }
            }
            PeerEvent::Down { node, lane } => {
                self.peers.connected(node, lane, None);
                if lane == Lane::Bulk {
                    return;
                }
                HostEvent::PeerDown { node }
            }
            PeerEvent::Inbound { node, lane, number } => {
                let newest = self.inbound.entry((node, lane as u8)).or_default();
                *newest = (*newest).max(number);
                return;
            }
            PeerEvent::Messages { from, messages } => {
                let Source {
                    node: from,
                    incarnation,
                    lane,
                    number,
                } = from;
                let is_current = self.inbound.get(&(from, lane as u8)) == Some(&number)
                    && self.incarnations.get(&from) == Some(&incarnation);
                if is_current {
                    for message in messages {
                        self.host.step(HostEvent::Peer { from, message }, now, actions);
                    }
                }
                return;
            }
        };
        self.host.step(event, now, actions);
    }

    fn carry_out(&mut self, action: HostAction<S::Response>) {
        match action {
            HostAction::Send { to, lane, message } => self.peers.send(to, lane, &message),
            HostAction::Respond(response) => (self.respond)(response),
            HostAction::ClosePeer { node, reason } => {
                tracing::warn!(code = %reason.code(), %node, error = %reason, "peer connection closed");
                self.peers.close(node);
            }
            HostAction::Discard(machine) => {
                // Nobody waits for it, and when it cannot be sent there, it is dropped here.
                let _ = self.discards.try_send(machine);
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
        // Without observers nobody hears it but the log.
        let _ = self.notes.send(note.clone());
        match &note {
            HostNote::DiskFull
            | HostNote::LogDamaged { .. }
            | HostNote::SnapshotDamaged { .. }
            | HostNote::Recovering { .. }
            | HostNote::TooManyWitnesses { .. }
            | HostNote::GroupStopped { .. }
            | HostNote::Quarantined { .. }
            | HostNote::HashesDivided { .. } => tracing::warn!(?note, "host"),
            // Thousands in an orderly stop, and no fault.
            HostNote::HandsOver { .. } | HostNote::FollowsLeader { .. } if self.leaving.is_some() => {
                tracing::debug!(?note, "host");
            }
            HostNote::HandsOver { .. } => tracing::warn!(?note, "host"),
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
        self.metrics.proposal_stages.set(self.host.stage_histograms());
        self.metrics.groups_led.set(self.host.groups_led() as i64);
    }
}
