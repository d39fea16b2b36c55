//! The loop of one seed: events by time, each node's turns, and what its host asks for.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    fmt::Arguments,
    io::Write,
    time::Duration,
};

use settle_base::{GroupId, Mono, NodeId, Prng, fingerprint};
use settle_host::{Hello, Host, HostAction, HostConfig, HostEvent, Lane, PeerMessage};
use settle_storage::{Latency, MemDisk};

use crate::{
    Coverage, Options, Report, Shape, Violation,
    drains::Drain,
    failure::{self, Watched},
    invariants::{Broken, Checked, Invariants, Seen},
    nemesis::{Spell, disk_of_a_good_day},
    network::{Network, Weather},
    script::Script,
    shape::Cut,
    workload::{Io, RequestOf, ResponseOf, Workload},
};

/// With faults off, clients go on for so long before they finish what is in flight.
const CALM_US: u64 = 10_000_000;
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
    Nemesis {
        act: u64,
    },
    /// A leader that was just elected is struck.
    Hunt {
        node: usize,
        boot: u64,
    },
    /// While its members change, a group's leader is cut off from some of those who were there before.
    CutChange {
        group: GroupId,
    },
    /// The node that is in no group is to join this one.
    Joins {
        group: GroupId,
    },
    /// Its process ends and the next one is of a newer build.
    Upgrade {
        node: usize,
    },
    PowerFails {
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
    pub(crate) build: u32,
    /// It has no machines, and no client asks it.
    pub(crate) is_witness: bool,
    pub(crate) clock_offset: u64,
    /// Parts per million that its clock runs fast.
    pub(crate) drift_ppm: i64,
    pub(crate) inbox: Vec<HostEvent<RequestOf<W>>>,
    pub(crate) is_turn_due: bool,
    pub(crate) disk_wake: Option<u64>,
    pub(crate) paused_until: u64,
    /// Its process gets the processor only so late, in microseconds.
    pub(crate) sluggish_us: u64,
    /// The log or the directory may have lost something acknowledged, and this has not been made good yet.
    pub(crate) is_impaired: bool,
    /// In every group.
    pub(crate) is_voter: bool,
    pub(crate) was_wiped: bool,
    /// It started with a hurt log: groups created here later may be in doubt, since the log may have hidden them.
    pub(crate) was_hurt: bool,
    /// Directories that it has had before this one.
    pub(crate) generation: u32,
    /// It lost what it had acknowledged, and has not got it back yet.
    pub(crate) is_damaged: bool,
    pub(crate) is_disk_faulty: bool,
    pub(crate) seen: BTreeMap<GroupId, Seen>,
    /// In this directory.
    pub(crate) destroyed: BTreeSet<GroupId>,
}

pub(crate) struct World<W: Workload> {
    pub(crate) seed: u64,
    pub(crate) now_us: u64,
    pub(crate) prng: Prng,
    pub(crate) queue: BinaryHeap<Reverse<(u64, u64)>>,
    pub(crate) happenings: BTreeMap<u64, Happening<W>>,
    pub(crate) scheduled: u64,
    pub(crate) nodes: Vec<Node<W>>,
    pub(crate) groups: Vec<GroupId>,
    pub(crate) network: Network,
    pub(crate) good_disk: Latency,
    pub(crate) auto_replace: bool,
    /// Most pauses between two acts of the nemesis are shorter than this.
    pub(crate) pause_us_max: u64,
    /// New leaders do not live long: what only a sequence of short-lived leaders brings about.
    pub(crate) hunts_leaders: bool,
    pub(crate) newest_build: u32,
    /// Operators ask for the cluster version of the newest build. With a stream of its own.
    pub(crate) upgrades: Option<Prng>,
    /// Nodes get that build one after the other.
    pub(crate) is_upgraded: bool,
    /// Operators move members about; no disk is lost meanwhile.
    pub(crate) churns_members: bool,
    /// When all is over a leader's node is lost.
    pub(crate) loses_a_leader: Option<Prng>,
    /// One machine at a time may go wrong: the groups compare theirs often.
    pub(crate) may_slip: bool,
    /// Groups in which some machine did.
    pub(crate) slipped: BTreeSet<GroupId>,
    /// Operators move whole groups to other nodes.
    pub(crate) moves_groups: bool,
    /// Who is to vote in a group that is being moved.
    pub(crate) moves: BTreeMap<GroupId, BTreeSet<NodeId>>,
    /// Partitions of before do not end before this.
    pub(crate) cut_until: u64,
    /// Who is to be in no group.
    pub(crate) drain: Option<Drain>,
    /// Nodes whose loss an operator is to declare.
    pub(crate) operator_replaces: Vec<usize>,
    pub(crate) are_faults_off: bool,
    pub(crate) workload: Option<W>,
    pub(crate) invariants: Invariants,
    pub(crate) coverage: Coverage,
    pub(crate) config: HostConfig,
    pub(crate) is_encoding: bool,
    pub(crate) actions: Vec<HostAction<ResponseOf<W>>>,
    pub(crate) cut: Cut,
    pub(crate) acts: Vec<u64>,
    pub(crate) faults_us: u64,
    pub(crate) script: Script,
    pub(crate) digest: u64,
    pub(crate) trace: Option<Box<dyn Write>>,
}

/// Lives one seed of `scenario` with the workload that `make` draws for so many groups.
pub(crate) fn run<W: Workload>(
    scenario: &str,
    seed: u64,
    options: Options,
    make: impl FnOnce(&mut Prng, &Shape) -> W,
) -> Report {
    let mut world = World::new(seed, options, make);
    let violation = match failure::watch(|| world.live()) {
        Watched::Good => None,
        Watched::Broken(broken) => Some(Violation::of(world.now_us, broken)),
        // What the code under test left behind is of no use any more.
        Watched::Panicked(broken) => Some(Violation::of(world.now_us, broken)),
    };
    if let Some(violation) = &violation {
        world.trace(format_args!("violation {violation}"));
        world.script.line(
            world.now_us,
            format_args!("VIOLATED {}: {}", violation.invariant, violation.what),
        );
    }
    world.report(scenario, violation)
}

impl<W: Workload> World<W> {
    fn new(seed: u64, options: Options, make: impl FnOnce(&mut Prng, &Shape) -> W) -> World<W> {
        let mut prng = Prng::from_parts(&[seed, 0x51]);
        let Options {
            trace,
            cut,
            show,
            keeps_script,
            ..
        } = options;
        // What scenarios learned later has a stream of its own, so that the rest of a seed's world stays what it was.
        let mut later = Prng::from_parts(&[seed, 0x0c]);
        let mut shape = options.shape;
        let moves_groups = shape.varies_members && shape.nodes == 0 && later.percent(25);
        shape.draw(&mut prng);
        if moves_groups {
            shape.nodes = 5;
            // So that each moves often, and many ask for it meanwhile.
            shape.groups = shape.groups.min(2);
        }
        shape.cut_by(&cut);
        let mut workload = make(&mut prng, &shape);
        if moves_groups {
            workload.crowd();
        }
        if let Some(clients) = cut.clients {
            workload.keep_clients(clients);
        }
        let good_disk = disk_of_a_good_day(&mut prng);
        let auto_replace = prng.percent(70);
        let nodes: Vec<_> = (1..=shape.nodes)
            .map(|n| (NodeId(n), format!("10.0.0.{n}:7070")))
            .collect();
        let mut config = HostConfig::new(NodeId(1), nodes, 0);
        config.groups = (1..=shape.groups).map(GroupId).collect();
        config.auto_replace = auto_replace;
        config.append_bytes_max = [1, 1_000, 256 << 10][prng.below(3) as usize];
        config.appends_in_flight_max = [1, 2, 256][prng.below(3) as usize];
        config.snapshot_after_bytes = [1 << 10, 4 << 10, 16 << 10, 64 << 10][prng.below(4) as usize];
        config.snapshot_chunk_bytes = [32, 200, 4_096][prng.below(3) as usize];
        config.snapshot_bytes_per_second = [5_000, 1 << 20, 128 << 20][prng.below(3) as usize];
        config.snapshot_resume = Duration::from_secs([2, 60][prng.below(2) as usize]);
        config.snapshot_after = Duration::from_secs([5, 3_600][prng.below(2) as usize]);
        config.log_memory_max = [8 << 10, 512 << 20][prng.below(2) as usize];
        config.keep_tail_entries = [0, 5, 50][prng.below(3) as usize];
        // Without a draw of their own.
        config.limits.snapshots_sent_to_peer_max = 1 + config.keep_tail_entries as usize;
        config.limits.snapshots_sent_max = 1 + 2 * config.keep_tail_entries as usize;
        config.limits.paused_log_bytes_max = config.snapshot_after_bytes as usize;
        config.promote_within_entries = prng.below(20);
        config.hibernate_after_ticks = [2, 20, 200][prng.below(3) as usize];
        config.wal.segment_bytes = [8 << 10, 64 << 10, 1 << 20][prng.below(3) as usize];
        config.state_hash_every = [0, 3, 10, 40][later.below(4) as usize];
        let mut pace = Prng::from_parts(&[seed, 0x0e]);
        config.snapshot_write_bytes_per_second = [2_000, 1 << 20, 128 << 20][pace.below(3) as usize];
        let may_slip = [3, 10].contains(&config.state_hash_every) && later.percent(60);
        let mut weather = Weather::draw(&mut prng);
        let hunts_leaders = prng.percent(30);
        if hunts_leaders && prng.percent(60) {
            // One entry at a time over a slow network: it takes long until a leader's own term is committed.
            config.append_bytes_max = 1;
            config.appends_in_flight_max = 1;
            weather.latency_us = 3_000..20_000;
        }
        if cut.has_good_weather {
            weather.calm();
        }
        let pause_us_max = [400_000, 1_200_000, 3_000_000][prng.below(3) as usize];
        let is_encoding = prng.percent(20);
        let churns_members = prng.percent(35) || moves_groups;
        let witnesses = draw_witnesses(&shape, &mut later);
        config.witness_log_bytes_max = [20 << 10, 256 << 20][later.below(2) as usize];
        let upgrades = Prng::from_parts(&[seed, 0x0b]);
        let is_upgraded = upgrades.clone().percent(25);
        let (older, newer) = workload.builds();
        let build = match workload.is_always_raised() && !is_upgraded {
            true => newer,
            false => older,
        };
        let mut nodes = Vec::new();
        for n in 1..=shape.nodes {
            let disk = MemDisk::new(prng.next_u64());
            disk.set_latency(good_disk.clone());
            nodes.push(Node {
                id: NodeId(n),
                disk,
                host: None,
                boot: 0,
                build,
                is_witness: witnesses.contains(&n),
                clock_offset: prng.below(1 << 40),
                drift_ppm: prng.below(40_001) as i64 - 20_000,
                inbox: Vec::new(),
                is_turn_due: false,
                disk_wake: None,
                paused_until: 0,
                sluggish_us: 0,
                is_impaired: false,
                is_voter: false,
                was_wiped: false,
                was_hurt: false,
                generation: 0,
                is_damaged: false,
                is_disk_faulty: false,
                seen: BTreeMap::new(),
                destroyed: BTreeSet::new(),
            });
        }
        World {
            seed,
            now_us: 0,
            prng,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            scheduled: 0,
            network: Network::new(nodes.len(), weather),
            nodes,
            groups: config.groups.clone(),
            good_disk,
            auto_replace,
            pause_us_max,
            newest_build: newer,
            upgrades: Some(upgrades).filter(|_| is_upgraded || workload.is_always_raised()),
            is_upgraded,
            hunts_leaders: hunts_leaders && !cut.hunts_nobody && !moves_groups,
            churns_members,
            moves_groups,
            moves: BTreeMap::new(),
            cut_until: 0,
            drain: None,
            loses_a_leader: Some(Prng::from_parts(&[seed, 0x0d])).filter(|own| own.clone().percent(30)),
            may_slip,
            slipped: BTreeSet::new(),
            operator_replaces: Vec::new(),
            are_faults_off: false,
            workload: Some(workload),
            invariants: Invariants::default(),
            coverage: Coverage::default(),
            config,
            is_encoding,
            actions: Vec::new(),
            faults_us: cut.faults_us.unwrap_or(shape.faults_us).min(shape.faults_us),
            cut,
            acts: Vec::new(),
            script: Script::new(keeps_script, show),
            digest: 0,
            trace,
        }
    }

    fn report(mut self, scenario: &str, violation: Option<Violation>) -> Report {
        for node in 0..self.nodes.len() {
            self.count_host(node);
        }
        self.coverage.hashes_compared += self.invariants.hashes_compared;
        self.coverage.promises_checked += self.invariants.promises_checked;
        self.coverage.commits_checked += self.invariants.commits_checked;
        let mut clients = 0;
        if let Some(workload) = &self.workload {
            workload.count(&mut self.coverage);
            clients = workload.clients();
        }
        if let Some(trace) = &mut self.trace {
            trace.flush().expect("the trace can be written");
        }
        Report {
            scenario: scenario.to_owned(),
            seed: self.seed,
            violation,
            coverage: self.coverage,
            digest: self.digest,
            simulated_us: self.now_us,
            nodes: self.nodes.len() as u32,
            groups: self.groups.len() as u64,
            clients,
            acts: self.acts,
            script: self.script.into_lines(),
        }
    }

    /// Faults, then calm, then the liveness phase.
    fn live(&mut self) -> Checked {
        for node in 0..self.nodes.len() {
            let after = self.prng.below(300_000);
            self.schedule(after, Happening::Start { node, boot: 0 });
        }
        self.schedule(1_000_000, Happening::Nemesis { act: 0 });
        if self.is_upgraded
            && let Some(mut own) = self.upgrades.take()
        {
            let mut after = own.between(2_000_000, 10_000_000);
            for node in 0..self.nodes.len() {
                self.schedule(after, Happening::Upgrade { node });
                after += own.between(500_000, 2_500_000);
            }
            self.upgrades = Some(own);
        }
        self.with_workload(|workload, io| {
            workload.begin(io);
            Ok(())
        })?;
        let calm_at = self.faults_us;
        self.run_until(calm_at, |_| false)?;
        self.faults_off();
        self.tell(format_args!("faults off"));
        self.run_until(calm_at + CALM_US, |_| false)?;
        if let Some(workload) = &mut self.workload {
            workload.stop();
        }
        self.tell(format_args!("clients stop"));
        let heal_us = self.workload.as_ref().map_or(0, Workload::heals_within_us);
        self.run_until(calm_at + CALM_US + heal_us, World::is_healed)?;
        if !self.is_healed() {
            let what = format!(
                "not healed {} s after the last fault: {}",
                (CALM_US + heal_us) / 1_000_000,
                self.describe()
            );
            return Err(Broken::new("liveness", what));
        }
        let workload = self.workload.as_mut().expect("it is lent only during a call");
        let full = self.nodes.iter().find(|node| !node.is_witness);
        let host = full.and_then(|node| node.host.as_ref());
        let host = host.expect("a healed cluster is up, and witnesses are a minority");
        let machine = |group| Some((group, host.machine(group)?));
        let machines: Vec<_> = self.groups.iter().filter_map(|group| machine(*group)).collect();
        workload.finish(&machines)?;
        self.lose_a_leader_at_rest()
    }

    pub(crate) fn run_until(&mut self, until: u64, is_done: impl Fn(&World<W>) -> bool) -> Checked {
        let until = until.min(self.cut.until_us.unwrap_or(u64::MAX));
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
        if self.cut.until_us == Some(until) {
            return Err(Broken::new(failure::STOPPED, "as far as was asked"));
        }
        Ok(())
    }

    pub(crate) fn schedule(&mut self, after_us: u64, happening: Happening<W>) {
        self.scheduled += 1;
        self.queue.push(Reverse((self.now_us + after_us, self.scheduled)));
        self.happenings.insert(self.scheduled, happening);
    }

    fn happen(&mut self, happening: Happening<W>) -> Checked {
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
            Happening::Upgrade { node } => {
                self.coverage.nodes_upgraded += 1;
                self.nodes[node].build = self.newest_build;
                self.tell(format_args!("node {} is upgraded", self.id(node)));
                self.crash(node, false, None);
            }
            Happening::Nemesis { act } => {
                if !self.are_faults_off {
                    self.nemesis(act);
                }
            }
            Happening::Hunt { node, boot } => {
                if self.is_running(node, boot) && !self.are_faults_off {
                    self.strike(node);
                }
            }
            Happening::CutChange { group } => {
                if !self.are_faults_off {
                    self.cut_change(group);
                }
            }
            Happening::Joins { group } => {
                if !self.are_faults_off {
                    self.joins(group);
                }
            }
            Happening::PowerFails { node, boot } => {
                if self.is_running(node, boot) && !self.are_faults_off {
                    self.crash(node, true, None);
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
            let wait = n.paused_until.saturating_sub(self.now_us) + n.sluggish_us + self.prng.below(100);
            self.schedule(wait, Happening::Turn { node, boot });
        }
    }

    // Hands for the clients.

    pub(crate) fn with_workload(&mut self, call: impl FnOnce(&mut W, &mut Io<RequestOf<W>>) -> Checked) -> Checked {
        let takes = |node: &Node<W>| node.host.is_some() && !node.is_witness;
        let is_up: Vec<bool> = self.nodes.iter().map(takes).collect();
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

    /// What a reader of the run wants to know: traced, and a line of the script.
    pub(crate) fn tell(&mut self, line: Arguments<'_>) {
        self.script.line(self.now_us, line);
        self.trace(line);
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

    pub(crate) fn id(&self, node: usize) -> NodeId {
        self.nodes[node].id
    }

    /// Node numbers of `nodes`, for the script.
    pub(crate) fn names(&self, nodes: &BTreeSet<usize>) -> String {
        let names: Vec<_> = nodes.iter().map(|node| self.nodes[*node].id.to_string()).collect();
        names.join("+")
    }
}

/// Which node numbers are witnesses in this seed.
fn draw_witnesses(shape: &Shape, prng: &mut Prng) -> BTreeSet<u32> {
    let (is_drawn, wants_two) = (prng.percent(20), prng.percent(30));
    let first = 1 + prng.below(u64::from(shape.nodes)) as u32;
    let second = 1 + first % shape.nodes;
    match shape.nodes {
        5.. if is_drawn && wants_two && shape.varies_members => [first, second].into(),
        3.. if is_drawn && shape.varies_members => [first].into(),
        _ => BTreeSet::new(),
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
