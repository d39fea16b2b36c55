//! A few hosts in one struct: disks in memory, a network that delivers at once and in order, time by hand.
#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use settle_base::{GroupId, Mono, NodeId, PeerId, fingerprint};
use settle_host::{Host, HostAction, HostConfig, HostError, HostEvent, HostNote, OpenError, PeerError, PeerMessage};
use settle_machine::{
    Action, ApplyError, Context, CreateOutcome, EntryMeta, Event, LoadError, Service, SnapshotChunks, StateMachine,
};
use settle_raft::Role;
use settle_storage::MemDisk;

pub const GROUP: GroupId = GroupId(1);
pub const TICK_MS: u64 = 50;
pub const HIBERNATE_TICKS: u32 = 20;

/// Remembers every command in order.
#[derive(Default, Clone)]
pub struct Journal {
    pub lines: Vec<Bytes>,
    /// The cluster version of each command applied here.
    pub versions: Vec<u32>,
    loading: Option<Vec<u8>>,
    /// From cluster version 2 on, a build that knows it shouts.
    pub build: u32,
    /// The next command is applied wrongly.
    pub errs: Arc<AtomicBool>,
}

impl StateMachine for Journal {
    type Effect = Bytes;

    fn check(&self, command: &Bytes) -> Result<(), ApplyError> {
        let reason = "a line has no end in it".to_owned();
        let is_line = !command.contains(&b'\n');
        is_line.then_some(()).ok_or(ApplyError { index: 0, reason })
    }

    fn apply(&mut self, entry: EntryMeta, command: &Bytes, effects: &mut Vec<Bytes>) -> Result<(), ApplyError> {
        let index = entry.index;
        self.check(command).map_err(|error| ApplyError { index, ..error })?;
        self.versions.push(entry.version);
        let line = match (
            self.errs.swap(false, Ordering::Relaxed),
            entry.version >= 2 && self.build >= 2,
        ) {
            (true, _) => Bytes::from_static(b"wrong"),
            (false, true) => command.to_ascii_uppercase().into(),
            (false, false) => command.clone(),
        };
        self.lines.push(line.clone());
        effects.push(line);
        Ok(())
    }

    fn needs(&self, command: &Bytes) -> Option<Bytes> {
        command.strip_prefix(b"needs ").map(Bytes::copy_from_slice)
    }

    fn apply_given(
        &mut self,
        _: EntryMeta,
        _: &Bytes,
        given: Bytes,
        effects: &mut Vec<Bytes>,
    ) -> Result<(), ApplyError> {
        self.lines.push(given.clone());
        effects.push(given);
        Ok(())
    }

    fn begin_snapshot(&self) -> SnapshotChunks {
        let lines: Vec<Bytes> = self
            .lines
            .iter()
            .map(|line| Bytes::from([&line[..], b"\n"].concat()))
            .collect();
        Box::new(lines.into_iter())
    }

    fn load_chunk(&mut self, chunk: Bytes) -> Result<(), LoadError> {
        if self.loading.is_none() {
            self.lines.clear();
        }
        self.loading.get_or_insert_default().extend_from_slice(&chunk);
        Ok(())
    }

    fn finish_load(&mut self) -> Result<(), LoadError> {
        let text = self.loading.take().unwrap_or_default();
        if text.last().is_some_and(|byte| *byte != b'\n') {
            let reason = "the last line has no end".to_owned();
            return Err(LoadError { reason });
        }
        let lines = text.split_inclusive(|b| *b == b'\n');
        self.lines = lines
            .map(|line| Bytes::copy_from_slice(&line[..line.len() - 1]))
            .collect();
        Ok(())
    }

    fn state_hash(&self) -> u64 {
        fingerprint(&self.lines.concat())
    }

    fn is_hash_cheap(&self) -> bool {
        true
    }
}

pub enum Ask {
    Propose(&'static str),
    Read(u64),
    /// As the service itself.
    Act(Action<Told>),
}

#[derive(Debug, PartialEq, Eq, Clone)]
pub enum Told {
    Applied(Bytes),
    Read { token: u64, lines: usize },
    ReadDropped(u64),
    Stopped(u64),
    Created(GroupId, CreateOutcome),
    Destroyed(GroupId),
    Paused(u64, Bytes),
    Silent(NodeId),
    Heard(NodeId),
}

#[derive(Default)]
pub struct Front;

impl Service for Front {
    type Machine = Journal;
    type Request = Ask;
    type Response = Told;

    fn step(&mut self, event: Event<'_, Bytes, Ask>, context: &mut Context<'_, Journal, Told>) {
        let group = GROUP;
        match event {
            Event::Request(Ask::Propose(text)) => context.act(Action::Propose {
                group,
                command: Bytes::from_static(text.as_bytes()),
                expected_term: None,
            }),
            Event::Request(Ask::Read(token)) => context.act(Action::Read { group, token }),
            Event::Applied { effects, .. } => {
                effects
                    .drain(..)
                    .for_each(|line| context.act(Action::Respond(Told::Applied(line))));
            }
            Event::ReadReady { token, .. } => {
                let lines = context.group(group).expect("it was read").machine.lines.len();
                context.act(Action::Respond(Told::Read { token, lines }));
            }
            Event::Stopped { error, .. } => context.act(Action::Respond(Told::Stopped(error.index))),
            Event::ReadDropped { token, .. } => context.act(Action::Respond(Told::ReadDropped(token))),
            Event::Request(Ask::Act(action)) => context.act(action),
            Event::Created { group, outcome } => context.act(Action::Respond(Told::Created(group, outcome))),
            Event::Destroyed { group } => context.act(Action::Respond(Told::Destroyed(group))),
            Event::ApplyPaused { index, needs, .. } => context.act(Action::Respond(Told::Paused(index, needs))),
            Event::PeerSilent { node } => context.act(Action::Respond(Told::Silent(node))),
            Event::PeerHeard { node } => context.act(Action::Respond(Told::Heard(node))),
            _ => {}
        }
    }
}

pub type TestHost = Host<Front, MemDisk>;

pub fn config(node: u32, nodes: u32) -> HostConfig {
    let all = (1..=nodes).map(|n| (NodeId(n), format!("node-{n}:7070"))).collect();
    let mut config = HostConfig::new(NodeId(node), all, 7);
    config.wal.segment_bytes = 64 << 10;
    config.snapshot_after_bytes = 1 << 20;
    config.snapshot_chunk_bytes = 16;
    config.keep_tail_entries = 0;
    config.hibernate_after_ticks = HIBERNATE_TICKS;
    config
}

pub fn open(config: HostConfig, disk: &MemDisk, incarnation: u64) -> Result<TestHost, OpenError> {
    open_erring(config, disk, incarnation, Arc::default())
}

fn open_erring(
    config: HostConfig,
    disk: &MemDisk,
    incarnation: u64,
    errs: Arc<AtomicBool>,
) -> Result<TestHost, OpenError> {
    let build = config.build_version;
    let machine = move |_, _| Journal {
        build,
        errs: Arc::clone(&errs),
        ..Journal::default()
    };
    Host::open(config, disk.clone(), Front, machine, PeerId(incarnation), Mono::ZERO)
}

pub type Tune = fn(&mut HostConfig);

pub struct Cluster {
    pub now: Mono,
    pub size: u32,
    pub disks: BTreeMap<u32, MemDisk>,
    pub hosts: BTreeMap<u32, TestHost>,
    pub auto_replace: bool,
    /// Where it is not what the configuration says.
    pub builds: BTreeMap<u32, u32>,
    tune: Tune,
    pub discarded: usize,
    incarnations: u64,
    connected: BTreeSet<(u32, u32)>,
    /// What the first says does not reach the second, and nobody is told.
    pub muted: BTreeSet<(u32, u32)>,
    wires: VecDeque<(u32, u32, PeerMessage)>,
    pub told: Vec<(u32, Told)>,
    pub notes: Vec<(u32, HostNote)>,
    pub closed: Vec<(u32, PeerError)>,
    pub fatal: BTreeMap<u32, HostError>,
    pub sent: Vec<(u32, u32, PeerMessage)>,
    /// Makes each node's machines err once.
    pub errs: BTreeMap<u32, Arc<AtomicBool>>,
}

impl Cluster {
    /// Nodes 1..=size, started and not connected.
    pub fn new(size: u32) -> Cluster {
        Cluster::tuned(size, |_| {})
    }

    /// The same with another configuration.
    pub fn tuned(size: u32, tune: Tune) -> Cluster {
        let mut cluster = Cluster {
            now: Mono::from_millis(1_000),
            size,
            disks: (1..=size).map(|n| (n, MemDisk::new(n.into()))).collect(),
            hosts: BTreeMap::new(),
            auto_replace: true,
            builds: BTreeMap::new(),
            tune,
            discarded: 0,
            incarnations: 0,
            connected: BTreeSet::new(),
            muted: BTreeSet::new(),
            wires: VecDeque::new(),
            told: Vec::new(),
            notes: Vec::new(),
            closed: Vec::new(),
            fatal: BTreeMap::new(),
            sent: Vec::new(),
            errs: (1..=size).map(|n| (n, Arc::default())).collect(),
        };
        for node in 1..=size {
            cluster.start(node).expect("an empty directory opens");
        }
        cluster
    }

    /// A cluster with a leader.
    pub fn founded(size: u32) -> Cluster {
        let mut cluster = Cluster::new(size);
        cluster.connect_all();
        cluster.until("a leader", |c| c.leader().is_some());
        cluster
    }

    pub fn start(&mut self, node: u32) -> Result<(), OpenError> {
        self.incarnations += 1;
        let mut config = config(node, self.size);
        config.auto_replace = self.auto_replace;
        config.seed = self.incarnations;
        (self.tune)(&mut config);
        config.build_version = self.builds.get(&node).copied().unwrap_or(config.build_version);
        let incarnation = 0x100 * u64::from(node) + self.incarnations;
        let errs = Arc::clone(&self.errs[&node]);
        let host = open_erring(config, &self.disks[&node], incarnation, errs)?;
        self.hosts.insert(node, host);
        Ok(())
    }

    pub fn stop(&mut self, node: u32) {
        (1..=self.size).for_each(|other| self.disconnect(node, other));
        self.hosts.remove(&node);
        self.fatal.remove(&node);
        self.disks[&node].kill();
    }

    pub fn connect_all(&mut self) {
        for a in 1..=self.size {
            for b in a + 1..=self.size {
                self.connect(a, b);
            }
        }
    }

    pub fn connect(&mut self, a: u32, b: u32) {
        self.connect_undelivered(a, b);
        self.deliver();
    }

    pub fn connect_undelivered(&mut self, a: u32, b: u32) {
        let is_new = self.hosts.contains_key(&a) && self.hosts.contains_key(&b) && self.connected.insert((a, b));
        if is_new {
            self.connected.insert((b, a));
            let (to_a, to_b) = (self.hosts[&b].hello(), self.hosts[&a].hello());
            self.give(
                a,
                HostEvent::PeerUp {
                    node: NodeId(b),
                    hello: to_a,
                },
            );
            self.give(
                b,
                HostEvent::PeerUp {
                    node: NodeId(a),
                    hello: to_b,
                },
            );
        }
    }

    pub fn disconnect(&mut self, a: u32, b: u32) {
        self.connected.remove(&(b, a));
        if self.connected.remove(&(a, b)) {
            self.wires
                .retain(|(from, to, _)| (*from, *to) != (a, b) && (*from, *to) != (b, a));
            self.give(a, HostEvent::PeerDown { node: NodeId(b) });
            self.give(b, HostEvent::PeerDown { node: NodeId(a) });
        }
    }

    /// Steps and flushes one node; messages wait for [`Cluster::deliver`].
    pub fn give(&mut self, node: u32, event: HostEvent<Ask>) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        self.disks[&node].advance(self.now);
        let mut out = Vec::new();
        host.step(event, self.now, &mut out);
        host.flush(self.now, &mut out);
        for action in out {
            match action {
                HostAction::Send { to, message, .. } => {
                    self.sent.push((node, to.0, message.clone()));
                    self.wires.push_back((node, to.0, message));
                }
                HostAction::Respond(told) => self.told.push((node, told)),
                HostAction::ClosePeer { node: peer, reason } => {
                    self.closed.push((node, reason));
                    self.disconnect(node, peer.0);
                }
                HostAction::Discard(_) => self.discarded += 1,
                HostAction::Note(note) => self.notes.push((node, note)),
                HostAction::Fatal(error) => {
                    self.fatal.insert(node, error);
                }
            }
        }
    }

    /// Delivers until nothing is on the wires.
    pub fn deliver(&mut self) {
        self.deliver_some(usize::MAX);
    }

    /// Delivers one message, if there is any.
    pub fn deliver_one(&mut self) -> bool {
        let any = !self.wires.is_empty();
        self.deliver_some(1);
        any
    }

    /// Delivers at most so many messages.
    pub fn deliver_some(&mut self, count: usize) {
        for _ in 0..count {
            let Some((from, to, message)) = self.wires.pop_front() else {
                return;
            };
            if self.connected.contains(&(from, to)) && !self.muted.contains(&(from, to)) {
                self.give(
                    to,
                    HostEvent::Peer {
                        from: NodeId(from),
                        message,
                    },
                );
            }
        }
    }

    /// Lets `change` alter the first message on the wires that it wants to.
    pub fn change_on_the_wire(&mut self, mut change: impl FnMut(&mut PeerMessage) -> bool) -> bool {
        self.wires.iter_mut().any(|(_, _, message)| change(message))
    }

    /// One message after the other, and time when there is none, until `done`.
    pub fn step_until(&mut self, what: &str, done: impl Fn(&Cluster) -> bool) {
        for _ in 0..20_000 {
            if done(self) {
                return;
            }
            match self.wires.is_empty() {
                true => self.tick_undelivered(),
                false => self.deliver_some(1),
            }
        }
        panic!("no {what}; notes {:?}", self.notes);
    }

    pub fn tick_undelivered(&mut self) {
        self.now = Mono::from_millis(self.now.as_millis() + TICK_MS);
        for node in 1..=self.size {
            self.give(node, HostEvent::Tick);
        }
    }

    pub fn tick(&mut self) {
        self.tick_undelivered();
        self.deliver();
    }

    pub fn ticks(&mut self, count: u32) {
        (0..count).for_each(|_| self.tick());
    }

    /// Ticks until `done`, at most 30 simulated seconds.
    pub fn until(&mut self, what: &str, done: impl Fn(&Cluster) -> bool) {
        for _ in 0..600 {
            if done(self) {
                return;
            }
            self.tick();
        }
        panic!("no {what} within 30 s; notes {:?}", self.notes);
    }

    pub fn leader(&self) -> Option<u32> {
        let leads = |host: &TestHost| host.raft(GROUP).is_some_and(|raft| raft.role() == Role::Leader);
        let term = |host: &TestHost| host.raft(GROUP).map(|raft| raft.term());
        let leaders = self.hosts.iter().filter(|(_, host)| leads(host));
        leaders.max_by_key(|(_, host)| term(host)).map(|(node, _)| *node)
    }

    pub fn is_resting(&self, node: u32) -> bool {
        let raft = self.hosts.get(&node).and_then(|host| host.raft(GROUP));
        raft.is_some_and(|raft| raft.is_resting())
    }

    /// A cluster with a leader in which nothing happened for long.
    pub fn resting(size: u32) -> Cluster {
        let mut cluster = Cluster::founded(size);
        cluster.until("rest", |c| (1..=size).all(|node| c.is_resting(node)));
        cluster
    }

    pub fn propose(&mut self, node: u32, text: &'static str) {
        self.give(node, HostEvent::Request(Ask::Propose(text)));
        self.deliver();
    }

    pub fn lines(&self, node: u32) -> Vec<Bytes> {
        self.hosts[&node]
            .machine(GROUP)
            .map(|machine| machine.lines.clone())
            .unwrap_or_default()
    }

    pub fn is_voter(&self, node: u32) -> bool {
        let raft = self.hosts.get(&node).and_then(|host| host.raft(GROUP));
        raft.is_some_and(|raft| raft.conf().voters.contains(&raft.id()) && !raft.conf().is_joint())
    }
}
