//! One to three gates in one struct, each with a real machine, over a trivial ordered log: what a proposal or a peer
//! message meets on its way is chosen by a seed.

#![allow(dead_code, reason = "each test program uses a part of it")]

mod requests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
pub use requests::*;
use settle_base::{GroupId, GroupTime, Mono, NodeId, PeerId, Prng, Term};
use settle_machine::{
    Action, Context, EntryMeta, Event, GroupLog, GroupRole, GroupView, LogEntry, LogMarks, Service, StateMachine,
};
use settle_tx::{BranchStatus, CallKind, Direction, GlobalStatus, MachineConfig, Tid, TxMachine};
use settle_tx_gate::{
    AdminAnswer, AdminRequest, BranchCall, CallId, ClientAnswer, ClientRequest, ConnId, DropReason, GateConfig,
    GateError, GateNote, GateRequest, GateResponse, Ident, RefusalError, RequestKey, RmAnswer, TxGate,
};

pub const GROUP: GroupId = GroupId(1);
pub const STEP_MS: u64 = 10;

/// A gate does not look at the log.
struct NoLog;

impl GroupLog for NoLog {
    fn marks(&self) -> LogMarks {
        LogMarks::default()
    }

    fn entries(&self, _: u64, _: u64) -> Option<(Term, Vec<LogEntry>)> {
        None
    }
}

/// Percentages, and delays in milliseconds.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    pub proposal_lost: u64,
    pub proposal_twice: u64,
    pub read_lost: u64,
    /// Of calls and their failures.
    pub call_lost: u64,
    /// Of everything that gates tell each other of their sessions.
    pub news_lost: u64,
    pub delay_ms: u64,
    pub apply_lag_ms: u64,
}

pub struct Node {
    pub gate: TxGate,
    pub machine: TxMachine,
    pub applied: usize,
    pub role: GroupRole,
    /// Keeps the replica as it is.
    pub is_apply_paused: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Conn {
    pub node: usize,
    pub id: ConnId,
}

#[derive(Clone, Debug)]
pub struct SeenCall {
    pub conn: Conn,
    pub call: CallId,
    pub body: BranchCall,
    pub is_answered: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Answer(ClientAnswer),
    Dropped(DropReason),
}

enum Parcel {
    Proposal {
        leader: usize,
        term: Term,
        command: Bytes,
    },
    Peer {
        from: usize,
        to: usize,
        link: u64,
        body: Bytes,
    },
    Read {
        node: usize,
        token: u64,
        index: usize,
        term: Term,
    },
    ReadLost {
        node: usize,
        token: u64,
    },
}

pub struct Net {
    pub now_ms: u64,
    pub prng: Prng,
    pub faults: Faults,
    pub nodes: Vec<Node>,
    pub log: Vec<(EntryMeta, Bytes)>,
    /// Has applied the whole log at all times: what is true.
    pub oracle: TxMachine,
    pub leader: Option<usize>,
    pub term: Term,
    pub requests: BTreeMap<RequestKey, (Conn, ClientRequest)>,
    pub told: BTreeMap<RequestKey, Told>,
    pub admin: BTreeMap<RequestKey, Result<AdminAnswer, RefusalError>>,
    pub calls: Vec<SeenCall>,
    pub closed: Vec<(Conn, GateError)>,
    pub notes: Vec<(usize, GateNote)>,
    pub open: BTreeSet<Conn>,
    /// What each xid was begun as.
    pub begun: BTreeSet<String>,
    /// What the doors say that every application is granted; nothing: they take clients for what they say.
    pub granted: Option<Arc<[String]>>,
    applications: BTreeMap<Conn, String>,
    parcels: BTreeMap<(u64, u64), Parcel>,
    /// The connections, by who made it and to whom. What a node sends goes over the one that it made.
    links: BTreeMap<(usize, usize), u64>,
    count: u64,
}

pub fn config() -> GateConfig {
    GateConfig::default()
}

impl Net {
    pub fn new(nodes: usize, seed: u64) -> Net {
        Net::with(nodes, seed, config())
    }

    /// Connected with each other; node 0 leads.
    pub fn with(nodes: usize, seed: u64, config: GateConfig) -> Net {
        let node = |n: usize| Node {
            gate: TxGate::new(
                GateConfig {
                    xid_prefix: format!("10.1.1.{n}:8091"),
                    ..config.clone()
                },
                run_of(seed, n),
            ),
            machine: TxMachine::new(MachineConfig::new(1)),
            applied: 0,
            role: GroupRole::default(),
            is_apply_paused: false,
        };
        let mut net = Net {
            now_ms: 1_000,
            prng: Prng::new(seed),
            faults: Faults::default(),
            nodes: (0..nodes).map(node).collect(),
            log: Vec::new(),
            oracle: TxMachine::new(MachineConfig::new(1)),
            leader: None,
            term: 0,
            requests: BTreeMap::new(),
            told: BTreeMap::new(),
            admin: BTreeMap::new(),
            calls: Vec::new(),
            closed: Vec::new(),
            notes: Vec::new(),
            open: BTreeSet::new(),
            begun: BTreeSet::new(),
            granted: None,
            applications: BTreeMap::new(),
            parcels: BTreeMap::new(),
            links: BTreeMap::new(),
            count: 0,
        };
        for a in 0..nodes {
            for b in 0..a {
                net.join(a, b);
            }
        }
        net.elect(0);
        net
    }

    // ---- what may happen to the cluster ----

    /// `leader` wins the next term and every node hears of it.
    pub fn elect(&mut self, leader: usize) {
        let all: Vec<usize> = (0..self.nodes.len()).collect();
        self.elect_told(leader, &all);
    }

    /// As [`Net::elect`], but only these nodes hear of it.
    pub fn elect_told(&mut self, leader: usize, told: &[usize]) {
        self.term += 1;
        self.leader = Some(leader);
        for node in told {
            self.set_role(*node, Some(leader), false);
        }
    }

    pub fn lose_leader(&mut self) {
        self.leader = None;
        for node in 0..self.nodes.len() {
            self.set_role(node, None, false);
        }
    }

    pub fn tell_role(&mut self, node: usize) {
        self.set_role(node, self.leader, false);
    }

    fn set_role(&mut self, node: usize, leader: Option<usize>, is_ready: bool) {
        let leader = leader.map(id_of);
        let role = GroupRole {
            leader,
            term: self.term,
            is_ready_leader: is_ready,
        };
        self.nodes[node].role = role;
        self.feed(node, Event::Role { group: GROUP, role });
    }

    /// Each connects to the other, unless it is connected already.
    pub fn join(&mut self, a: usize, b: usize) {
        let missing: Vec<_> = [(a, b), (b, a)]
            .into_iter()
            .filter(|link| !self.links.contains_key(link))
            .collect();
        for link in &missing {
            self.count += 1;
            self.links.insert(*link, self.count);
        }
        for (from, to) in missing {
            self.feed(from, Event::PeerUp { node: id_of(to) });
        }
    }

    /// Both connections are lost.
    pub fn cut(&mut self, a: usize, b: usize) {
        self.hang_up(a, b);
        self.hang_up(b, a);
    }

    /// The connection that `from` made is lost, and only that one.
    pub fn hang_up(&mut self, from: usize, to: usize) {
        if self.links.remove(&(from, to)).is_some() {
            self.feed(from, Event::PeerDown { node: id_of(to) });
        }
    }

    pub fn dial(&mut self, from: usize, to: usize) {
        self.count += 1;
        let before = self.links.insert((from, to), self.count);
        assert_eq!(before, None, "{from} is connected to {to} already");
        self.feed(from, Event::PeerUp { node: id_of(to) });
    }

    pub fn is_joined(&self, a: usize, b: usize) -> bool {
        self.links.contains_key(&(a, b)) && self.links.contains_key(&(b, a))
    }

    // ---- clients ----

    pub fn connect(&mut self, node: usize, ip: &str, port: u16) -> Conn {
        self.count += 1;
        let conn = Conn {
            node,
            id: ConnId(self.count),
        };
        self.open.insert(conn);
        self.request(
            node,
            GateRequest::Open {
                conn: conn.id,
                ip: ip.to_owned(),
                port,
            },
        );
        conn
    }

    pub fn close(&mut self, conn: Conn) {
        if self.open.remove(&conn) {
            self.request(conn.node, GateRequest::Close { conn: conn.id });
        }
    }

    pub fn tm(&mut self, node: usize) -> Conn {
        let conn = self.connect(node, "10.0.0.7", 40_000);
        let key = self.ask(conn, ClientRequest::RegisterTm { ident: ident("orders") });
        assert_eq!(self.told[&key], Told::Answer(ClientAnswer::TmRegistered));
        conn
    }

    pub fn rm(&mut self, node: usize, application: &str, ip: &str, port: u16, resource: &str) -> Conn {
        let conn = self.connect(node, ip, port);
        let resources = vec![resource.to_owned()];
        let key = self.ask(
            conn,
            ClientRequest::RegisterRm {
                ident: ident(application),
                resources,
            },
        );
        assert_eq!(self.told[&key], Told::Answer(ClientAnswer::RmRegistered));
        conn
    }

    pub fn ask(&mut self, conn: Conn, body: ClientRequest) -> RequestKey {
        self.count += 1;
        let key = RequestKey(self.count);
        if let ClientRequest::RegisterTm { ident } | ClientRequest::RegisterRm { ident, .. } = &body {
            self.applications.insert(conn, ident.application.clone());
        }
        self.requests.insert(key, (conn, body.clone()));
        self.request(
            conn.node,
            GateRequest::Call {
                conn: conn.id,
                key,
                granted: self.granted.clone(),
                body,
            },
        );
        key
    }

    pub fn ask_admin(&mut self, node: usize, body: AdminRequest) -> RequestKey {
        self.count += 1;
        let key = RequestKey(self.count);
        self.request(node, GateRequest::Admin { key, body });
        key
    }

    /// Runs until the request is answered.
    pub fn answer(&mut self, key: RequestKey) -> ClientAnswer {
        self.until("an answer", |net| net.told.contains_key(&key));
        match &self.told[&key] {
            Told::Answer(answer) => answer.clone(),
            Told::Dropped(why) => panic!("{:?} was dropped: {why:?}", self.requests[&key]),
        }
    }

    pub fn call(&mut self, conn: Conn, body: ClientRequest) -> ClientAnswer {
        let key = self.ask(conn, body);
        self.answer(key)
    }

    pub fn begin(&mut self, tm: Conn) -> String {
        match self.call(tm, begin(60_000)) {
            ClientAnswer::Begun { xid } => xid,
            other => panic!("a begin got {other:?}"),
        }
    }

    pub fn branch(&mut self, rm: Conn, registration: ClientRequest) -> i64 {
        match self.call(rm, registration) {
            ClientAnswer::BranchRegistered { branch } => branch,
            other => panic!("a registration got {other:?}"),
        }
    }

    /// Runs until a call is out that nobody has answered, and takes the oldest.
    pub fn next_call(&mut self) -> SeenCall {
        self.until("a second-phase call", |net| net.unanswered().next().is_some());
        self.unanswered().next().expect("it was just there").clone()
    }

    pub fn unanswered(&self) -> impl Iterator<Item = &SeenCall> {
        self.calls.iter().filter(|call| !call.is_answered)
    }

    pub fn rm_says(&mut self, call: &SeenCall, status: BranchStatus) {
        let answer = RmAnswer {
            ok: true,
            branch_status: Some(status),
            xid: call.body.xid.clone(),
            branch: call.body.branch,
        };
        self.rm_answers(call, answer);
    }

    pub fn rm_answers(&mut self, call: &SeenCall, answer: RmAnswer) {
        let same = |seen: &&mut SeenCall| seen.call == call.call && seen.conn == call.conn;
        self.calls.iter_mut().find(same).expect("the call was made").is_answered = true;
        if self.open.contains(&call.conn) {
            self.request(
                call.conn.node,
                GateRequest::CallAnswer {
                    conn: call.conn.id,
                    call: call.call,
                    answer,
                },
            );
        }
    }

    /// Runs until the next call is out and answers it well.
    pub fn do_next_call(&mut self) -> SeenCall {
        let call = self.next_call();
        let status = match call.body.kind {
            CallKind::Commit => BranchStatus::PhaseTwoCommitted,
            CallKind::Rollback => BranchStatus::PhaseTwoRollbacked,
        };
        self.rm_says(&call, status);
        call
    }

    // ---- time ----

    pub fn run(&mut self, millis: u64) {
        for _ in 0..millis.div_ceil(STEP_MS) {
            self.step();
        }
    }

    pub fn until(&mut self, what: &str, mut is_done: impl FnMut(&Net) -> bool) {
        for _ in 0..120_000 / STEP_MS {
            if is_done(self) {
                return;
            }
            self.step();
        }
        panic!("two minutes passed without {what}");
    }

    /// Commands that are neither lost nor in the log yet, a batch of them counted once.
    pub fn proposals(&self) -> usize {
        let is_proposal = |parcel: &&Parcel| matches!(parcel, Parcel::Proposal { .. });
        self.parcels.values().filter(is_proposal).count()
    }

    /// What is due now gets where it was sent to.
    pub fn deliver_and_apply(&mut self) {
        while let Some(entry) = self.parcels.first_entry()
            && entry.key().0 <= self.now_ms
        {
            let parcel = entry.remove();
            self.deliver(parcel);
        }
        for node in 0..self.nodes.len() {
            self.apply(node);
        }
    }

    pub fn step(&mut self) {
        self.now_ms += STEP_MS;
        self.deliver_and_apply();
        if let Some(leader) = self.leader
            && self.nodes[leader].role.leader == Some(id_of(leader))
            && !self.nodes[leader].role.is_ready_leader
            && self.nodes[leader].applied == self.log.len()
        {
            self.set_role(leader, Some(leader), true);
        }
        for node in 0..self.nodes.len() {
            if self.now_ms.is_multiple_of(50) {
                self.feed(node, Event::Tick);
            }
            self.feed(node, Event::Flush);
        }
    }

    // ---- inside ----

    fn request(&mut self, node: usize, request: GateRequest) {
        self.feed(node, Event::Request(request));
    }

    pub fn feed(&mut self, n: usize, event: Event<'_, settle_tx::TxEffect, GateRequest>) {
        let mut actions = Vec::new();
        let node = &mut self.nodes[n];
        let (machine, role) = (&node.machine, node.role);
        let time = match role.is_ready_leader {
            true => GroupTime(self.now_ms),
            false => machine.time(),
        };
        let group = |id| {
            (id == GROUP).then_some(GroupView {
                machine,
                peer: PeerId(n as u64 + 1),
                role,
                version: settle_tx::APPLY_VERSION,
                time,
                log: &NoLog,
            })
        };
        let now = Mono::from_millis(self.now_ms);
        let mut context = Context {
            now,
            node: id_of(n),
            group: &group,
            actions: &mut actions,
        };
        node.gate.step(event, &mut context);
        for action in actions {
            self.act(n, action);
        }
    }

    fn act(&mut self, n: usize, action: Action<GateResponse>) {
        match action {
            Action::Propose { command, .. } => {
                let Some(leader) = self.nodes[n].role.leader.map(index_of) else {
                    return;
                };
                let term = self.nodes[n].role.term;
                if self.prng.percent(self.faults.proposal_twice) {
                    self.send(Parcel::Proposal {
                        leader,
                        term,
                        command: command.clone(),
                    });
                }
                if !self.prng.percent(self.faults.proposal_lost) {
                    self.send(Parcel::Proposal { leader, term, command });
                }
            }
            Action::Read { token, .. } => {
                let lost = self.leader.is_none() || self.prng.percent(self.faults.read_lost);
                let (index, term) = (self.log.len(), self.term);
                self.send(match lost {
                    true => Parcel::ReadLost { node: n, token },
                    false => Parcel::Read {
                        node: n,
                        token,
                        index,
                        term,
                    },
                });
            }
            Action::Peer { to, body } => {
                let to = index_of(to);
                let Some(link) = self.links.get(&(n, to)).copied() else {
                    return;
                };
                let lost = if body[1] <= 2 {
                    self.faults.call_lost
                } else {
                    self.faults.news_lost
                };
                if lost > 0 && self.prng.percent(lost) {
                    return;
                }
                self.send(Parcel::Peer {
                    from: n,
                    to,
                    link,
                    body,
                });
            }
            Action::Create(_)
            | Action::Destroy { .. }
            | Action::Hold { .. }
            | Action::Release { .. }
            | Action::HandEntries(_)
            | Action::Resume { .. }
            | Action::TakeState { .. }
            | Action::TakeSnapshot { .. } => panic!("a gate leaves the groups as they are"),
            Action::Respond(response) => self.hear(n, response),
        }
    }

    fn send(&mut self, parcel: Parcel) {
        // Peers keep the order of their connection.
        let delay = match (&parcel, self.faults.delay_ms) {
            (Parcel::Peer { .. }, _) | (_, 0) => 0,
            (_, most) => self.prng.below(most + 1),
        };
        self.count += 1;
        self.parcels.insert((self.now_ms + delay, self.count), parcel);
    }

    fn deliver(&mut self, parcel: Parcel) {
        match parcel {
            Parcel::Proposal { leader, term, command } => {
                if self.leader == Some(leader) && self.term == term {
                    self.append(command);
                }
            }
            Parcel::Peer { from, to, link, body } => {
                if self.links.get(&(from, to)) == Some(&link) {
                    self.feed(
                        to,
                        Event::Peer {
                            from: id_of(from),
                            body,
                        },
                    );
                }
            }
            Parcel::Read { node, token, term, .. } if term != self.term => {
                self.feed(node, Event::ReadDropped { group: GROUP, token });
            }
            Parcel::Read { node, token, index, .. } if self.nodes[node].applied >= index => {
                self.feed(node, Event::ReadReady { group: GROUP, token });
            }
            Parcel::Read {
                node,
                token,
                index,
                term,
            } => {
                self.count += 1;
                let later = (self.now_ms + STEP_MS, self.count);
                self.parcels.insert(
                    later,
                    Parcel::Read {
                        node,
                        token,
                        index,
                        term,
                    },
                );
            }
            Parcel::ReadLost { node, token } => self.feed(node, Event::ReadDropped { group: GROUP, token }),
        }
    }

    pub fn append(&mut self, command: Bytes) {
        let index = self.log.len() as u64 + 1;
        let meta = EntryMeta {
            index,
            term: self.term,
            time: GroupTime(self.now_ms),
            version: 1,
        };
        self.oracle
            .apply(meta, &command, &mut Vec::new())
            .expect("gates propose what machines read");
        self.log.push((meta, command));
    }

    fn apply(&mut self, n: usize) {
        let lag = if self.leader == Some(n) {
            0
        } else {
            self.faults.apply_lag_ms
        };
        let mut effects = Vec::new();
        let node = &mut self.nodes[n];
        while !node.is_apply_paused
            && let Some((meta, command)) = self.log.get(node.applied)
            && meta.time.as_millis() + lag <= self.now_ms
        {
            node.machine
                .apply(*meta, command, &mut effects)
                .expect("the oracle could read it");
            node.applied += 1;
        }
        if !effects.is_empty() {
            self.feed(
                n,
                Event::Applied {
                    group: GROUP,
                    effects: &mut effects,
                },
            );
        }
    }

    /// Whatever a gate says must be true at that moment.
    fn hear(&mut self, n: usize, response: GateResponse) {
        match response {
            GateResponse::Answer { conn, key, answer } => {
                assert!(
                    self.open.contains(&Conn { node: n, id: conn }),
                    "a closed connection is not answered"
                );
                self.check(key, &answer);
                let before = self.told.insert(key, Told::Answer(answer));
                assert_eq!(before, None, "a request is answered once");
            }
            GateResponse::Dropped { key, why, .. } => {
                let before = self.told.insert(key, Told::Dropped(why));
                assert_eq!(before, None, "a request is dropped once, and never after its answer");
            }
            GateResponse::Call { conn, call, body } => {
                let tid = Tid::from_xid(&body.xid).expect("calls carry an xid");
                let direction = match body.kind {
                    CallKind::Commit => Direction::Commit,
                    CallKind::Rollback => Direction::Rollback,
                };
                let decided = self.oracle.outcome(tid).status().direction();
                assert_eq!(
                    decided,
                    Some(direction),
                    "a call of {} contradicts its decision",
                    body.xid
                );
                assert!(
                    self.begun.is_empty() || self.begun.contains(&body.xid),
                    "{} is not the text that was begun",
                    body.xid
                );
                self.calls.push(SeenCall {
                    conn: Conn { node: n, id: conn },
                    call,
                    body,
                    is_answered: false,
                });
            }
            GateResponse::CloseConn { conn, error } => {
                let conn = Conn { node: n, id: conn };
                self.closed.push((conn, error));
                self.close(conn);
            }
            GateResponse::Admin { key, result } => drop(self.admin.insert(key, result)),
            GateResponse::Note(note) => self.notes.push((n, note)),
            GateResponse::Ended(_) | GateResponse::Reloaded { .. } => {}
        }
    }

    fn check(&mut self, key: RequestKey, answer: &ClientAnswer) {
        let (conn, request) = &self.requests[&key];
        if let (ClientRequest::Commit { xid } | ClientRequest::Rollback { xid }, true) =
            (request, self.granted.is_some())
            && let Some(global) = Tid::from_xid(xid).and_then(|tid| self.oracle.global(tid))
            && !global.is_begun_by(&self.applications[conn])
        {
            let status = GlobalStatus::TimeoutRollbacked;
            assert_eq!(
                answer,
                &ClientAnswer::Ended { status },
                "{xid} is another application's"
            );
            return;
        }
        match (request, answer) {
            (ClientRequest::Begin { .. }, ClientAnswer::Begun { xid }) => {
                let tid = Tid::from_xid(xid).expect("a begun xid has an id");
                assert_ne!(
                    self.oracle.outcome(tid).status().as_u8(),
                    15,
                    "{xid} is in the log before it is told"
                );
                assert!(self.begun.insert(xid.clone()), "{xid} was given twice");
            }
            (ClientRequest::Commit { xid } | ClientRequest::Rollback { xid }, ClientAnswer::Ended { status })
                if !self.begun.contains(xid) =>
            {
                assert_eq!(status.as_u8(), 13, "{xid} was begun by nobody here");
            }
            (ClientRequest::Commit { xid } | ClientRequest::Rollback { xid }, ClientAnswer::Ended { status })
                if status.as_u8() != 15 =>
            {
                let tid = Tid::from_xid(xid).expect("what was begun has an id");
                let truth = self.oracle.outcome(tid).status();
                assert!(status.direction().is_some(), "{xid} is answered {status} undecided");
                assert_eq!(
                    status.direction(),
                    truth.direction(),
                    "{xid} is {truth} and answered {status}"
                );
                let is_commit = matches!(request, ClientRequest::Commit { .. });
                assert!(
                    !is_commit || ![0, 1, 4, 5, 8, 11, 12].contains(&status.as_u8()),
                    "the Java client takes {status} for a commit"
                );
            }
            (ClientRequest::Commit { .. } | ClientRequest::Rollback { .. }, ClientAnswer::Refused(refusal)) => {
                panic!("the Java client takes the refusal {refusal:?} for success")
            }
            _ => {}
        }
    }
}

pub fn id_of(node: usize) -> NodeId {
    NodeId(node as u32 + 1)
}

/// The run of a node's gate.
pub fn run_of(seed: u64, node: usize) -> u64 {
    seed * 10 + node as u64 + 1
}

fn index_of(node: NodeId) -> usize {
    node.0 as usize - 1
}

pub fn ident(application: &str) -> Ident {
    Ident {
        application: application.to_owned(),
        service_group: "default_tx_group".to_owned(),
        version: "2.0.0".to_owned(),
    }
}
