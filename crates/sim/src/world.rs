//! The loop of one seed: events by time, each node's turns, and what its host asks for.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    fmt::Arguments,
    io::Write,
    time::Duration,
};

use settle_base::{Mono, NodeId, Prng, fingerprint};
use settle_host::{
    Hello, Host, HostAction, HostConfig, HostError, HostEvent, HostNote, Lane, OperatorRequest, PeerMessage,
};
use settle_machine::StateMachine;
use settle_raft::Role;
use settle_storage::{Latency, MemDisk};

use crate::{
    Coverage, Options, Report, Scenario, Violation,
    invariants::Invariants,
    nemesis::{GROUP, Spell, disk_of_a_good_day},
    network::{Network, Weather},
    workload::{Io, RequestOf, ResponseOf, Workload},
};

/// Faults happen for so long.
const FAULTS_US: u64 = 50_000_000;
/// With faults off, clients go on for so long before they finish what is in flight.
const CALM_US: u64 = 10_000_000;
/// Then everything must have healed before this much more.
const HEAL_US: u64 = 60_000_000;
pub(crate) const TICK_US: u64 = 50_000;

pub(crate) enum Happening<W: Workload> {
    Tick {
        node: usize,
        boot: u64,
    },
    Turn {
        node: usize,
        boot: u64,
    },
    DiskDue {
        node: usize,
        boot: u64,
    },
    Start {
        node: usize,
        boot: u64,
    },
    Connect {
        a: usize,
        b: usize,
        attempt: u64,
    },
    Up {
        node: usize,
        peer: usize,
        number: u64,
        hello: Hello,
    },
    Down {
        node: usize,
        peer: usize,
        number: u64,
    },
    TimesOut {
        a: usize,
        b: usize,
        number: u64,
    },
    Arrives {
        from: usize,
        to: usize,
        number: u64,
        lane: Lane,
        message: PeerMessage,
    },
    Request {
        node: usize,
        request: RequestOf<W>,
    },
    Answer {
        node: usize,
        response: ResponseOf<W>,
    },
    Wake {
        timer: u64,
    },
    Nemesis,
    /// A leader that was just elected is struck.
    Hunt {
        node: usize,
        boot: u64,
    },
    Ends(Spell),
}

pub(crate) struct Node<W: Workload> {
    pub(crate) id: NodeId,
    pub(crate) disk: MemDisk,
    pub(crate) host: Option<Host<W::Service, MemDisk>>,
    pub(crate) boot: u64,
    pub(crate) clock_offset: u64,
    /// Parts per million that its clock runs fast.
    pub(crate) drift_ppm: i64,
    pub(crate) inbox: Vec<HostEvent<RequestOf<W>>>,
    pub(crate) is_turn_due: bool,
    pub(crate) disk_wake: Option<u64>,
    pub(crate) paused_until: u64,
    /// The log or the directory may have lost something acknowledged, and this has not been made good yet.
    pub(crate) is_impaired: bool,
    pub(crate) is_voter: bool,
    pub(crate) was_wiped: bool,
    pub(crate) is_disk_faulty: bool,
    pub(crate) seen_commit: u64,
    pub(crate) seen_applied: u64,
}

pub(crate) struct World<W: Workload> {
    pub(crate) scenario: Scenario,
    pub(crate) seed: u64,
    pub(crate) now_us: u64,
    pub(crate) prng: Prng,
    pub(crate) queue: BinaryHeap<Reverse<(u64, u64)>>,
    pub(crate) happenings: BTreeMap<u64, Happening<W>>,
    pub(crate) scheduled: u64,
    pub(crate) nodes: Vec<Node<W>>,
    pub(crate) network: Network,
    pub(crate) good_disk: Latency,
    pub(crate) auto_replace: bool,
    /// Most pauses between two acts of the nemesis are shorter than this.
    pub(crate) pause_us_max: u64,
    /// New leaders do not live long: what only a sequence of short-lived leaders brings about.
    pub(crate) hunts_leaders: bool,
    /// Nodes whose loss an operator is to declare.
    pub(crate) operator_replaces: Vec<usize>,
    pub(crate) are_faults_off: bool,
    pub(crate) workload: Option<W>,
    pub(crate) invariants: Invariants,
    pub(crate) coverage: Coverage,
    pub(crate) config: HostConfig,
    pub(crate) is_encoding: bool,
    pub(crate) actions: Vec<HostAction<ResponseOf<W>>>,
    pub(crate) digest: u64,
    pub(crate) trace: Option<Box<dyn Write>>,
}

pub(crate) fn run<W: Workload>(
    scenario: Scenario,
    seed: u64,
    options: Options,
    make: impl FnOnce(&mut Prng) -> W,
) -> Report {
    let mut world = World::new(scenario, seed, options, make);
    let violation = world.live().err().map(|what| Violation {
        at_us: world.now_us,
        what,
    });
    if let Some(violation) = &violation {
        world.trace(format_args!("violation {violation}"));
    }
    world.report(violation)
}

impl<W: Workload> World<W> {
    fn new(scenario: Scenario, seed: u64, options: Options, make: impl FnOnce(&mut Prng) -> W) -> World<W> {
        let mut prng = Prng::from_parts(&[seed, 0x51]);
        let count = [3, 3, 3, 3, 3, 3, 5, 5, 2, 1][prng.below(10) as usize];
        let workload = make(&mut prng);
        let good_disk = disk_of_a_good_day(&mut prng);
        let auto_replace = prng.percent(70);
        let nodes: Vec<_> = (1..=count).map(|n| (NodeId(n), format!("10.0.0.{n}:7070"))).collect();
        let mut config = HostConfig::new(NodeId(1), nodes, 0);
        config.auto_replace = auto_replace;
        config.append_bytes_max = [1, 1_000, 256 << 10][prng.below(3) as usize];
        config.appends_in_flight_max = [1, 2, 256][prng.below(3) as usize];
        config.snapshot_after_bytes = [4 << 10, 16 << 10, 64 << 10][prng.below(3) as usize];
        config.snapshot_chunk_bytes = [32, 200, 4_096][prng.below(3) as usize];
        config.keep_tail_entries = [0, 5, 50][prng.below(3) as usize];
        config.promote_within_entries = prng.below(20);
        config.wal.segment_bytes = [8 << 10, 64 << 10, 1 << 20][prng.below(3) as usize];
        let mut weather = Weather::draw(&mut prng);
        let hunts_leaders = prng.percent(30);
        if hunts_leaders && prng.percent(60) {
            // One entry at a time over a slow network: it takes long until a leader's own term is committed.
            config.append_bytes_max = 1;
            config.appends_in_flight_max = 1;
            weather.latency_us = 3_000..20_000;
        }
        let pause_us_max = [400_000, 1_200_000, 3_000_000][prng.below(3) as usize];
        let is_encoding = prng.percent(20);
        let mut nodes = Vec::new();
        for n in 1..=count {
            let disk = MemDisk::new(prng.next_u64());
            disk.set_latency(good_disk.clone());
            nodes.push(Node {
                id: NodeId(n),
                disk,
                host: None,
                boot: 0,
                clock_offset: prng.below(1 << 40),
                drift_ppm: prng.below(40_001) as i64 - 20_000,
                inbox: Vec::new(),
                is_turn_due: false,
                disk_wake: None,
                paused_until: 0,
                is_impaired: false,
                is_voter: false,
                was_wiped: false,
                is_disk_faulty: false,
                seen_commit: 0,
                seen_applied: 0,
            });
        }
        World {
            scenario,
            seed,
            now_us: 0,
            prng,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            scheduled: 0,
            network: Network::new(nodes.len(), weather),
            nodes,
            good_disk,
            auto_replace,
            pause_us_max,
            hunts_leaders,
            operator_replaces: Vec::new(),
            are_faults_off: false,
            workload: Some(workload),
            invariants: Invariants::default(),
            coverage: Coverage::default(),
            config,
            is_encoding,
            actions: Vec::new(),
            digest: 0,
            trace: options.trace,
        }
    }

    fn report(mut self, violation: Option<Violation>) -> Report {
        for node in 0..self.nodes.len() {
            self.count_host(node);
        }
        self.coverage.hashes_compared += self.invariants.hashes_compared;
        self.coverage.promises_checked += self.invariants.promises_checked;
        if let Some(workload) = &self.workload {
            workload.count(&mut self.coverage);
        }
        if let Some(trace) = &mut self.trace {
            trace.flush().expect("the trace can be written");
        }
        Report {
            scenario: self.scenario,
            seed: self.seed,
            violation,
            coverage: self.coverage,
            digest: self.digest,
            simulated_us: self.now_us,
        }
    }

    /// Faults, then calm, then the liveness phase.
    fn live(&mut self) -> Result<(), String> {
        for node in 0..self.nodes.len() {
            let after = self.prng.below(300_000);
            self.schedule(after, Happening::Start { node, boot: 0 });
        }
        self.schedule(1_000_000, Happening::Nemesis);
        self.with_workload(|workload, io| {
            workload.begin(io);
            Ok(())
        })?;
        self.run_until(FAULTS_US, |_| false)?;
        self.faults_off();
        self.trace(format_args!("faults off"));
        self.run_until(FAULTS_US + CALM_US, |_| false)?;
        if let Some(workload) = &mut self.workload {
            workload.stop();
        }
        self.trace(format_args!("clients stop"));
        self.run_until(FAULTS_US + CALM_US + HEAL_US, World::is_healed)?;
        if !self.is_healed() {
            return Err(format!(
                "not healed {} s after the last fault: {}",
                (CALM_US + HEAL_US) / 1_000_000,
                self.describe()
            ));
        }
        let workload = self.workload.as_mut().expect("it is lent only during a call");
        let host = self.nodes[0].host.as_ref().expect("a healed cluster is up");
        workload.finish(host.machine(GROUP).expect("a healed node has its group"))
    }

    fn run_until(&mut self, until: u64, is_done: impl Fn(&World<W>) -> bool) -> Result<(), String> {
        let mut next_check = self.now_us;
        while let Some(&Reverse((at, number))) = self.queue.peek() {
            if at > until {
                break;
            }
            self.queue.pop();
            self.now_us = at;
            let happening = self.happenings.remove(&number).expect("scheduled once");
            self.coverage.events += 1;
            self.happen(happening)?;
            if at >= next_check {
                next_check = at + 100_000;
                if is_done(self) {
                    return Ok(());
                }
            }
        }
        self.now_us = until;
        Ok(())
    }

    /// Every replica is up, equal and a voter, and every client has its answer.
    fn is_healed(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        let state = |node: &Node<W>| {
            let host = node.host.as_ref()?;
            let raft = host.raft(GROUP)?;
            let conf = raft.conf();
            let is_whole = conf.voters.contains(&raft.id())
                && conf.voters.len() == self.nodes.len()
                && !conf.is_joint()
                && !raft.is_recovering()
                && raft.applied() == raft.last_index();
            is_whole.then(|| (raft.applied(), host.machine(GROUP).map(|m| m.state_hash())))
        };
        let first = state(&self.nodes[leader]);
        first.is_some()
            && self.nodes.iter().all(|node| state(node) == first)
            && self
                .machine_of(leader)
                .is_some_and(|m| self.workload.as_ref().is_some_and(|w| w.is_idle(m)))
    }

    fn machine_of(&self, node: usize) -> Option<&W::Machine> {
        self.nodes[node].host.as_ref()?.machine(GROUP)
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            let Some(host) = &node.host else {
                text += &format!("node {} is down; ", node.id);
                continue;
            };
            let linked = host.status(self.local(node)).peers;
            match host.raft(GROUP) {
                Some(raft) => {
                    let s = raft.status();
                    text += &format!(
                        "node {} ({}) {:?} term {} leader {} commit {} applied {} last {} voters {:?} outgoing {:?} learners {:?}{} peers {linked:?}; ",
                        node.id,
                        s.id,
                        s.role,
                        s.term,
                        s.leader,
                        s.commit,
                        s.applied,
                        s.last_index,
                        s.conf.voters,
                        s.conf.outgoing,
                        s.conf.learners,
                        if s.recovering { " recovering" } else { "" }
                    );
                    for p in &s.progress {
                        text += &format!("[{}: match {} next {} {:?}] ", p.peer, p.matched, p.next, p.state);
                    }
                }
                None => text += &format!("node {} has no group, peers {linked:?}; ", node.id),
            }
        }
        if let Some(workload) = &self.workload {
            text += &workload.describe();
        }
        text
    }

    pub(crate) fn schedule(&mut self, after_us: u64, happening: Happening<W>) {
        self.scheduled += 1;
        self.queue.push(Reverse((self.now_us + after_us, self.scheduled)));
        self.happenings.insert(self.scheduled, happening);
    }

    fn happen(&mut self, happening: Happening<W>) -> Result<(), String> {
        match happening {
            Happening::Tick { node, boot } => {
                if self.is_running(node, boot) {
                    self.give(node, HostEvent::Tick);
                    let drift = TICK_US as i64 * self.nodes[node].drift_ppm / 1_000_000;
                    self.schedule((TICK_US as i64 - drift) as u64, Happening::Tick { node, boot });
                }
            }
            Happening::Turn { node, boot } => {
                if self.is_running(node, boot) {
                    return self.turn(node);
                }
            }
            Happening::DiskDue { node, boot } => {
                if self.is_running(node, boot) {
                    self.nodes[node].disk_wake = None;
                    self.give(node, HostEvent::DiskReady);
                }
            }
            Happening::Start { node, boot } => {
                if self.nodes[node].boot == boot && self.nodes[node].host.is_none() {
                    return self.start(node);
                }
            }
            Happening::Connect { a, b, attempt } => self.connect(a, b, attempt),
            Happening::Up {
                node,
                peer,
                number,
                hello,
            } => {
                if self.network.connection(node, peer).number == number {
                    let node_id = self.nodes[peer].id;
                    self.give(node, HostEvent::PeerUp { node: node_id, hello });
                }
            }
            Happening::Down { node, peer, number } => {
                let current = self.network.connection(node, peer).number;
                assert!(
                    current == 0 || current == number || number < current,
                    "connections are numbered upwards"
                );
                let node_id = self.nodes[peer].id;
                self.give(node, HostEvent::PeerDown { node: node_id });
            }
            Happening::TimesOut { a, b, number } => {
                if self.network.connection(a, b).number == number && self.network.is_blocked(a, b) {
                    self.break_connection(a, b);
                }
            }
            Happening::Arrives {
                from,
                to,
                number,
                lane,
                message,
            } => self.arrives(from, to, number, lane, message)?,
            Happening::Request { node, request } => {
                if self.nodes[node].host.is_some() {
                    self.give(node, HostEvent::Request(request));
                }
            }
            Happening::Answer { node, response } => {
                return self.with_workload(|workload, io| workload.answer(node, response, io));
            }
            Happening::Wake { timer } => {
                return self.with_workload(|workload, io| workload.wake(timer, io));
            }
            Happening::Nemesis => {
                if !self.are_faults_off {
                    return self.nemesis();
                }
            }
            Happening::Hunt { node, boot } => {
                if self.is_running(node, boot) && !self.are_faults_off {
                    self.strike(node);
                }
            }
            Happening::Ends(spell) => {
                if !self.are_faults_off {
                    self.end(spell);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn is_running(&self, node: usize, boot: u64) -> bool {
        self.nodes[node].boot == boot && self.nodes[node].host.is_some()
    }

    pub(crate) fn local(&self, node: &Node<W>) -> Mono {
        let drift = self.now_us as i64 / 1_000 * node.drift_ppm / 1_000;
        Mono(node.clock_offset + (self.now_us as i64 + drift) as u64)
    }

    /// Puts an event into the node's inbox; its loop takes all that is there in one turn.
    pub(crate) fn give(&mut self, node: usize, event: HostEvent<RequestOf<W>>) {
        let n = &mut self.nodes[node];
        if n.host.is_none() {
            return;
        }
        n.inbox.push(event);
        if !n.is_turn_due {
            n.is_turn_due = true;
            let boot = n.boot;
            let wait = n.paused_until.saturating_sub(self.now_us) + self.prng.below(100);
            self.schedule(wait, Happening::Turn { node, boot });
        }
    }

    pub(crate) fn turn(&mut self, node: usize) -> Result<(), String> {
        let now_us = self.now_us;
        let n = &mut self.nodes[node];
        n.is_turn_due = false;
        if n.paused_until > now_us {
            n.is_turn_due = true;
            let (wait, boot) = (n.paused_until - now_us, n.boot);
            self.schedule(wait, Happening::Turn { node, boot });
            return Ok(());
        }
        n.disk.advance(Mono(now_us));
        let local = self.local(&self.nodes[node]);
        let n = &mut self.nodes[node];
        let mut out = std::mem::take(&mut self.actions);
        let events = std::mem::take(&mut n.inbox);
        let host = n.host.as_mut().expect("only running nodes have turns");
        let count = events.len();
        for event in events {
            host.step(event, local, &mut out);
        }
        host.flush(local, &mut out);
        let applied = host.raft(GROUP).map_or(0, |raft| raft.applied());
        self.trace(format_args!(
            "turn {node} events {count} actions {} applied {applied}",
            out.len()
        ));
        let mut fatal = None;
        for action in out.drain(..) {
            if let Err(what) = self.act(node, action, &mut fatal) {
                return Err(format!("node {}: {what}", self.nodes[node].id));
            }
        }
        self.actions = out;
        self.observe(node)?;
        if let Some(error) = fatal {
            return self.died(node, error);
        }
        self.wake_for_disk(node);
        Ok(())
    }

    fn wake_for_disk(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        let Some(due) = n.disk.next_due() else { return };
        let due = due.0.max(self.now_us);
        if n.disk_wake.is_none_or(|at| at > due) {
            n.disk_wake = Some(due);
            let (after, boot) = (due - self.now_us, n.boot);
            self.schedule(after, Happening::DiskDue { node, boot });
        }
    }

    fn act(
        &mut self,
        node: usize,
        action: HostAction<ResponseOf<W>>,
        fatal: &mut Option<HostError>,
    ) -> Result<(), String> {
        match action {
            HostAction::Send { to, lane, message } => self.send(node, (to.0 - 1) as usize, lane, message),
            HostAction::Respond(response) => {
                let after = self.prng.between(50, 2_000);
                self.schedule(after, Happening::Answer { node, response });
                Ok(())
            }
            HostAction::ClosePeer { reason, .. } => Err(format!("it accuses a peer: {}", with_source(&reason))),
            HostAction::Note(note) => self.noted(node, &note),
            HostAction::Fatal(error) => {
                *fatal = Some(error);
                Ok(())
            }
        }
    }

    fn noted(&mut self, node: usize, note: &HostNote) -> Result<(), String> {
        self.trace(format_args!("note {node} {note:?}"));
        match note {
            HostNote::BecameLeader { term, .. } => {
                self.coverage.elections += 1;
                if self.hunts_leaders && !self.are_faults_off && self.prng.percent(60) {
                    // Before its first entry has reached anybody, or while it brings the others up to date.
                    let most = [200, 5_000, 60_000, 200_000][self.prng.below(4) as usize];
                    let (after, boot) = (self.prng.below(most), self.nodes[node].boot);
                    self.schedule(after, Happening::Hunt { node, boot });
                }
                let host = self.nodes[node].host.as_ref().expect("it just spoke");
                let raft = host.raft(GROUP).expect("it just spoke of it");
                self.invariants.leads(raft.id(), *term)?;
                self.invariants.elected(raft)
            }
            HostNote::MembersChanged { conf, .. } => {
                self.invariants.may_vote(&conf.voters);
                Ok(())
            }
            HostNote::Adopted { as_founder, .. } => {
                let incarnation = self.nodes[node]
                    .host
                    .as_ref()
                    .expect("it just spoke")
                    .identity()
                    .incarnation;
                if *as_founder {
                    if self.nodes[node].was_wiped {
                        return Err("a wiped node takes itself for a founder".to_owned());
                    }
                    self.invariants.may_vote(&[incarnation]);
                } else {
                    self.invariants.is_born(incarnation);
                }
                Ok(())
            }
            HostNote::Founded { .. } => {
                if self.invariants.last_committed() > 1 {
                    return Err("a second cluster was founded".to_owned());
                }
                Ok(())
            }
            HostNote::Recovered { .. } => {
                self.coverage.recovered += 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn observe(&mut self, node: usize) -> Result<(), String> {
        let n = &mut self.nodes[node];
        let Some(host) = &n.host else { return Ok(()) };
        let Some(raft) = host.raft(GROUP) else { return Ok(()) };
        let named = |what| format!("node {}: {what}", n.id);
        self.invariants.observe(raft, &mut n.seen_commit).map_err(named)?;
        let machine = host.machine(GROUP).expect("a group has its machine");
        let applied = raft.applied();
        if applied != n.seen_applied {
            n.seen_applied = applied;
            if applied % 4 == 0 {
                self.invariants
                    .applied(applied, machine.state_hash(), raft.id())
                    .map_err(named)?;
            }
            if applied % 64 == 0 {
                let workload = self.workload.as_ref().expect("it is lent only during a call");
                workload.check_machine(machine).map_err(named)?;
            }
        }
        let is_voter = raft.conf().voters.contains(&raft.id()) && !raft.conf().is_joint();
        if !is_voter {
            n.is_voter = false;
        } else if !n.is_voter && host.is_written() {
            // Also after a restart it will know.
            n.is_voter = true;
            if std::mem::take(&mut n.was_wiped) {
                self.coverage.members_replaced += 1;
            }
        }
        if n.is_impaired && n.is_voter && !raft.is_recovering() {
            n.is_impaired = false;
            self.operator_replaces.retain(|other| *other != node);
        }
        if raft.role() == Role::Leader && !self.operator_replaces.is_empty() {
            for lost in self.operator_replaces.clone() {
                let request = OperatorRequest::ReplaceMember {
                    node: self.nodes[lost].id,
                };
                if self.nodes[node].inbox.is_empty() && self.prng.percent(5) {
                    self.give(node, HostEvent::Operator(request));
                }
            }
        }
        Ok(())
    }

    // Hands for the clients.

    pub(crate) fn with_workload(
        &mut self,
        call: impl FnOnce(&mut W, &mut Io<RequestOf<W>>) -> Result<(), String>,
    ) -> Result<(), String> {
        let is_up: Vec<bool> = self.nodes.iter().map(|n| n.host.is_some()).collect();
        let mut workload = self.workload.take().expect("calls are not nested");
        let mut io = Io {
            prng: &mut self.prng,
            is_up: &is_up,
            requests: Vec::new(),
            timers: Vec::new(),
        };
        let result = call(&mut workload, &mut io);
        let Io { requests, timers, .. } = io;
        self.workload = Some(workload);
        for (after, node, request) in requests {
            self.schedule(after, Happening::Request { node, request });
        }
        for (after, timer) in timers {
            self.schedule(after, Happening::Wake { timer });
        }
        result
    }

    pub(crate) fn note(&mut self, node: usize, what: &str) {
        self.trace(format_args!("{what} {node}"));
    }

    /// Every line goes into the digest; with a trace also there.
    pub(crate) fn trace(&mut self, line: Arguments<'_>) {
        let now = Duration::from_micros(self.now_us);
        match &mut self.trace {
            Some(trace) => {
                let text = format!("{:>12} {line}\n", now.as_micros());
                self.digest = self.digest.rotate_left(5) ^ fingerprint(text.as_bytes());
                trace.write_all(text.as_bytes()).expect("the trace can be written");
            }
            None => self.digest = self.digest.rotate_left(5) ^ self.now_us ^ self.prng.clone().next_u64(),
        }
    }
}

pub(crate) fn with_source(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}
