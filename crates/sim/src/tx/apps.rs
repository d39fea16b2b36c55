//! The applications of a world, their nodes' answers, and the judge of both.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use settle_base::{GroupId, Index, Mono, NodeId, Prng};
use settle_host::{ClusterId, Host};
use settle_storage::MemDisk;
use settle_tx::{APPLY_VERSION, BranchType, DriverConfig, MachineConfig, Tid, TxMachine};
use settle_tx_gate::{ClientAnswer, ClientRequest, ConnId, GateConfig, GateRequest, GateResponse, RequestKey, TxGate};

use super::{
    app::{App, Ask, Frame, Question, Role},
    bank::Bank,
    invariants::{Judge, money_is_conserved, only_the_leader_drives, service_groups_begin_somewhere},
    movers::Movers,
    operators::Operators,
    transfer::{Habits, Journal},
};
use crate::{
    Coverage, Shape,
    invariants::{Broken, Checked},
    workload::{Io, Machines, Workload},
};

pub(crate) struct Apps {
    pub(super) apps: Vec<App>,
    pub(super) bank: Bank,
    pub(super) judge: Judge,
    pub(super) journal: Journal,
    pub(super) habits: Habits,
    pub(super) next_transfer: u64,
    pub(super) config: GateConfig,
    /// How long a transaction may take.
    pub(super) timeout_ms: u64,
    pub(super) tm_timeout_us: u64,
    pub(super) rm_timeout_us: u64,
    pub(super) merge_us: u64,
    pub(super) is_stopped: bool,
    /// The last connection of each node, numbered anew by every process.
    conns: BTreeMap<usize, u64>,
    /// Whose connection it is, open or closed.
    owners: BTreeMap<(usize, ConnId), usize>,
    questions: BTreeMap<(usize, ConnId, RequestKey), Question>,
    frames: BTreeMap<u64, Frame>,
    next_frame: u64,
    pub(super) next_call: u64,
    told_branches: BTreeMap<i64, (u64, usize)>,
    /// Sagas of which a process that was called for them knew nothing, by xid.
    pub(super) never_begun: BTreeSet<String>,
    pub(super) counts: Counts,
    pub(super) operators: Operators,
    pub(super) movers: Movers,
    /// What the doors say that every application is granted, in a world where they know who asks.
    pub(super) granted: Option<Arc<[String]>>,
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) unanswered: u64,
    pub(super) given_up: u64,
    pub(super) late_answers: u64,
    pub(super) refused: u64,
    pub(super) thefts_refused: u64,
    pub(super) registered_again: u64,
    pub(super) branch_reports: u64,
    pub(super) lock_queries: u64,
    pub(super) sagas_called: u64,
    pub(super) merged: u64,
    pub(super) dropped: u64,
    pub(super) restarts: u64,
    pub(super) dead_channels: u64,
    pub(super) closed: u64,
    pub(super) answers_lost: u64,
    pub(super) answered_twice: u64,
    pub(super) groups_used: u64,
    pub(super) peeks: u64,
    /// By type of branch.
    pub(super) branches: [u64; 5],
}

/// What a number of [`Workload::wake`] stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Timer {
    Thread {
        app: usize,
        thread: usize,
        generation: u64,
    },
    /// A call has been executed.
    Call {
        app: usize,
        number: u64,
    },
    /// Look after the connections; perhaps something happens to the process.
    Chores {
        app: usize,
    },
    Flush {
        app: usize,
        life: u32,
    },
    /// A dead channel is noticed.
    Notice {
        app: usize,
        node: usize,
        conn: u64,
    },
    Back {
        app: usize,
    },
    Operators,
    Movers,
}

impl Timer {
    pub(super) fn encode(self) -> u64 {
        let (kind, app, middle, low) = match self {
            Timer::Thread {
                app,
                thread,
                generation,
            } => (0, app, thread, generation),
            Timer::Call { app, number } => (1, app, 0, number),
            Timer::Chores { app } => (2, app, 0, 0),
            Timer::Flush { app, life } => (3, app, 0, u64::from(life)),
            Timer::Notice { app, node, conn } => (4, app, node, conn),
            Timer::Back { app } => (5, app, 0, 0),
            Timer::Operators => (6, 0, 0, 0),
            Timer::Movers => (7, 0, 0, 0),
        };
        kind << 60 | (app as u64) << 52 | (middle as u64) << 44 | low
    }

    fn decode(timer: u64) -> Timer {
        let (app, middle) = ((timer >> 52) as usize & 0xff, (timer >> 44) as usize & 0xff);
        let low = timer & ((1 << 44) - 1);
        match timer >> 60 {
            0 => Timer::Thread {
                app,
                thread: middle,
                generation: low,
            },
            1 => Timer::Call { app, number: low },
            2 => Timer::Chores { app },
            3 => Timer::Flush { app, life: low as u32 },
            4 => Timer::Notice {
                app,
                node: middle,
                conn: low,
            },
            5 => Timer::Back { app },
            6 => Timer::Operators,
            _ => Timer::Movers,
        }
    }
}

impl Apps {
    pub(crate) fn new(prng: &mut Prng, shape: &Shape) -> Apps {
        let accounts = [4, 20, 100][prng.below(3) as usize];
        let (tm_timeout_us, rm_timeout_us) = (prng.between(3_000_000, 8_000_000), prng.between(1_500_000, 4_000_000));
        let has_one_address = prng.percent(30);
        let apps = prng.between(2, 7) as usize;
        let groups: Vec<GroupId> = (1..=shape.groups).map(GroupId).collect();
        // Most servers give up before their clients do; where they do not, answers come late.
        let hold_percent = [80, 80, 130][prng.below(3) as usize];
        let app = |number| {
            let service_group = 1 + number as u64 % shape.groups;
            App::new(number, service_group, prng.between(1, 4) as usize, has_one_address)
        };
        let config = GateConfig {
            service_groups: groups.iter().map(|group| (service_group(group.0), *group)).collect(),
            groups,
            reply_hold_tm: Duration::from_micros(tm_timeout_us * hold_percent / 100),
            reply_hold_rm: Duration::from_micros(rm_timeout_us * hold_percent / 100),
            phase_two_wait: Duration::from_micros(tm_timeout_us / 2),
            call_timeout: Duration::from_secs(3),
            driver: DriverConfig {
                backoff_max: Duration::from_secs(4),
                call_timeout: Duration::from_secs(4),
                ..DriverConfig::default()
            },
            ..GateConfig::default()
        };
        Apps {
            apps: (0..apps).map(app).collect(),
            bank: Bank::default(),
            judge: Judge::default(),
            journal: Journal::default(),
            habits: Habits {
                accounts,
                has_xa: prng.percent(30),
            },
            next_transfer: 1,
            config,
            timeout_ms: prng.between(2_000, 12_000),
            tm_timeout_us,
            rm_timeout_us,
            merge_us: [1_000, 5_000, 20_000][prng.below(3) as usize],
            is_stopped: false,
            conns: BTreeMap::new(),
            owners: BTreeMap::new(),
            questions: BTreeMap::new(),
            frames: BTreeMap::new(),
            next_frame: 1,
            next_call: 1,
            told_branches: BTreeMap::new(),
            never_begun: BTreeSet::new(),
            counts: Counts::default(),
            operators: Operators::default(),
            movers: Movers::new(prng),
            granted: prng.percent(70).then(|| Arc::from(["tx-group-*".to_owned()])),
        }
    }

    pub(super) fn ident(&self, i: usize) -> settle_tx_gate::Ident {
        settle_tx_gate::Ident {
            application: self.apps[i].application.clone(),
            service_group: service_group(self.apps[i].service_group),
            version: "1.8.0".to_owned(),
        }
    }

    /// The channel for a message: mostly to the server that the xid names, as Java chooses (`XIDLoadBalance`).
    pub(super) fn choose(&self, i: usize, role: Role, xid: &str, prng: &mut Prng) -> Option<usize> {
        let channels = &self.apps[i].channels;
        let fits: Vec<usize> = (0..channels.len())
            .filter(|at| channels[*at].role == role && channels[*at].is_registered)
            .collect();
        let named = fits.iter().find(|at| xid.starts_with(&prefix(channels[**at].node)));
        match named {
            Some(at) if prng.percent(70) => Some(*at),
            _ if fits.is_empty() => None,
            _ => Some(fits[prng.below(fits.len() as u64) as usize]),
        }
    }

    pub(super) fn open_frame(&mut self, messages: usize) -> Option<u64> {
        if messages < 2 {
            return None;
        }
        self.counts.merged += 1;
        let frame = self.next_frame;
        self.next_frame += 1;
        let answers = Vec::with_capacity(messages);
        self.frames.insert(
            frame,
            Frame {
                missing: messages,
                answers,
            },
        );
        Some(frame)
    }

    #[expect(clippy::too_many_arguments, reason = "all that is known of one message")]
    pub(super) fn put(
        &mut self,
        i: usize,
        channel: usize,
        key: RequestKey,
        thread: usize,
        ask: Ask,
        frame: Option<u64>,
        body: ClientRequest,
        io: &mut Io<GateRequest>,
    ) {
        let app = &self.apps[i];
        let channel = &app.channels[channel];
        let (node, conn) = (channel.node, channel.conn);
        if channel.is_dead {
            return;
        }
        let transfer = app.threads.get(thread).and_then(|t| t.transfer.as_ref());
        let question = Question {
            app: i,
            life: app.life,
            thread,
            transfer: transfer.map_or(0, |transfer| transfer.number),
            xid: transfer.map_or_else(String::new, |transfer| transfer.xid.clone()),
            ask,
            holders: match &body {
                ClientRequest::LockQuery {
                    xid,
                    resource,
                    lock_keys,
                } => self.judge.holders(resource, lock_keys, xid),
                _ => Vec::new(),
            },
            frame,
        };
        self.questions.insert((node, conn, key), question);
        let granted = self.granted.clone();
        // In the order in which they were sent, and before the connection is closed.
        io.requests.push((
            1_000,
            node,
            GateRequest::Call {
                conn,
                key,
                granted,
                body,
            },
        ));
    }

    pub(super) fn connect(&mut self, i: usize, node: usize, role: Role, io: &mut Io<GateRequest>) {
        let last = self.conns.entry(node).or_insert(0);
        *last += 1;
        let conn = ConnId(*last);
        self.owners.insert((node, conn), i);
        let port = 10_000 + (io.prng.below(50_000)) as u16;
        let ip = self.apps[i].ip.clone();
        io.requests.push((500, node, GateRequest::Open { conn, ip, port }));
        self.apps[i].channels.push(super::app::Channel {
            node,
            conn,
            role,
            is_registered: false,
            is_dead: false,
        });
        let ident = self.ident(i);
        let body = match role {
            Role::Tm => ClientRequest::RegisterTm { ident },
            Role::Rm => {
                let mut resources = self.resources();
                // Its state machines (`SagaCore.getSagaResourceId`).
                resources.push(format!("{}#{}", ident.application, ident.service_group));
                ClientRequest::RegisterRm { ident, resources }
            }
        };
        let (key, at) = (self.apps[i].key(), self.apps[i].channels.len() - 1);
        self.put(i, at, key, usize::MAX, Ask::Registration, None, body, io);
    }

    /// Every application serves all of them: another one may be asked for AT alone.
    fn resources(&self) -> Vec<String> {
        let account = |kind, group, number| super::bank::Account { kind, group, number }.resource();
        let of_group = |group: &GroupId| [0, 1].map(|number| account(BranchType::At, group.0, number));
        let mut resources: Vec<String> = self.config.groups.iter().flat_map(of_group).collect();
        for kind in [BranchType::Tcc, BranchType::Xa, BranchType::Saga] {
            resources.extend([0, 1].map(|number| account(kind, 0, number)));
        }
        resources
    }

    /// The client closes a channel. What it has sent before arrives before.
    pub(super) fn disconnect(&mut self, i: usize, at: usize, io: &mut Io<GateRequest>) {
        let channel = self.apps[i].channels.remove(at);
        let close = GateRequest::Close { conn: channel.conn };
        io.requests.push((1_000, channel.node, close));
    }

    /// What a server says is judged, whether or not somebody hears it.
    fn judge(&mut self, question: &Question, answer: &ClientAnswer) -> Checked {
        match (question.ask, answer) {
            (Ask::Begin, ClientAnswer::Begun { xid }) => self.judge.is_begun(xid, question.transfer),
            (Ask::Branch { leg }, ClientAnswer::BranchRegistered { branch }) => {
                let asker = (question.transfer, leg);
                let first = *self.told_branches.entry(*branch).or_insert(asker);
                if first != asker {
                    let what = format!("branch {branch} is told to {asker:?} and to {first:?}");
                    return Err(Broken::new("a branch is registered once", what));
                }
                Ok(())
            }
            (Ask::Lock { .. } | Ask::Peek, ClientAnswer::Lockable { lockable }) => {
                match question.ask {
                    Ask::Peek => self.counts.peeks += 1,
                    _ => self.counts.lock_queries += 1,
                }
                if *lockable {
                    self.judge.is_free(&question.holders)
                } else {
                    Ok(())
                }
            }
            (Ask::End(asked), ClientAnswer::Ended { status } | ClientAnswer::Status { status }) => {
                self.judge.is_told(&question.xid, asked, *status)
            }
            _ => Ok(()),
        }
    }

    fn hears(
        &mut self,
        node: usize,
        conn: ConnId,
        key: RequestKey,
        answer: ClientAnswer,
        io: &mut Io<GateRequest>,
    ) -> Checked {
        let Some(question) = self.questions.remove(&(node, conn, key)) else {
            let what = format!("{key:?} of {conn} at node {} is answered again: {answer:?}", node + 1);
            return Err(Broken::new("a question is answered once", what));
        };
        if question.ask == Ask::Theft {
            self.thief_hears(&answer);
            return Ok(());
        }
        self.judge(&question, &answer)?;
        if question.ask == Ask::Peek {
            return Ok(());
        }
        let i = question.app;
        let Some(channel) = self.apps[i].channel(node, conn).filter(|c| !c.is_dead) else {
            return Ok(());
        };
        if question.ask == Ask::Registration {
            channel.is_registered = true;
            return Ok(());
        }
        let Some(number) = question.frame else {
            return self.answered(key, &question, answer, io);
        };
        let Some(frame) = self.frames.get_mut(&number) else {
            // Another message of its frame was dropped.
            return self.answered(key, &question, answer, io);
        };
        frame.answers.push((key, question, answer));
        frame.missing -= 1;
        if frame.missing > 0 {
            return Ok(());
        }
        let frame = self.frames.remove(&number).expect("it was just there");
        for (key, question, answer) in frame.answers {
            self.answered(key, &question, answer, io)?;
        }
        Ok(())
    }
}

fn prefix(node: usize) -> String {
    format!("10.0.0.{}:8091", node + 1)
}

pub(super) fn service_group(number: u64) -> String {
    format!("tx-group-{number}")
}

impl Workload for Apps {
    type Machine = TxMachine;
    type Service = TxGate;

    fn service(&mut self, node: NodeId, run: u64) -> TxGate {
        let config = GateConfig {
            xid_prefix: prefix(node.0 as usize - 1),
            ..self.config.clone()
        };
        TxGate::new(config, run << 8 | u64::from(node.0))
    }

    fn builds(&self) -> (u32, u32) {
        (APPLY_VERSION - 1, APPLY_VERSION)
    }

    fn is_always_raised(&self) -> bool {
        true
    }

    fn make_machine(&self, _build: u32) -> Box<dyn Fn(GroupId, ClusterId) -> TxMachine + Send> {
        Box::new(|group, _| TxMachine::new(MachineConfig::new(group.0 as u8)))
    }

    fn clients(&self) -> usize {
        self.apps.len()
    }

    fn keep_clients(&mut self, most: usize) {
        self.apps.truncate(most);
    }

    /// An XA branch that its database does not know counts as done only after a minute beyond its deadline.
    fn heals_within_us(&self) -> u64 {
        if self.habits.has_xa { 150_000_000 } else { 60_000_000 }
    }

    fn begin(&mut self, io: &mut Io<GateRequest>) {
        for i in 0..self.apps.len() {
            self.come_back(i, io);
            io.wake_in(1_000, Timer::Chores { app: i }.encode());
        }
        io.wake_in(1_000_000, Timer::Operators.encode());
        io.wake_in(1_000_000, Timer::Movers.encode());
    }

    fn wake(&mut self, timer: u64, io: &mut Io<GateRequest>) -> Checked {
        match Timer::decode(timer) {
            Timer::Thread {
                app,
                thread,
                generation,
            } => {
                if self.apps[app].threads[thread].generation != generation {
                    return Ok(());
                }
                return self.thread_wakes(app, thread, io);
            }
            Timer::Call { app, number } => return self.executes(app, number, io),
            Timer::Chores { app } => self.do_chores(app, io),
            Timer::Flush { app, life } => {
                if self.apps[app].life == life {
                    self.flush(app, io);
                }
            }
            Timer::Notice { app, node, conn } => {
                let channels = &self.apps[app].channels;
                let at = channels.iter().position(|c| (c.node, c.conn.0) == (node, conn));
                if let Some(at) = at {
                    self.disconnect(app, at, io);
                } else if self.owners.get(&(node, ConnId(conn))) == Some(&app) {
                    // The process is gone; the server has heard nothing for too long.
                    io.requests.push((0, node, GateRequest::Close { conn: ConnId(conn) }));
                }
            }
            Timer::Back { app } => self.come_back(app, io),
            Timer::Operators => {
                self.operators_look(io);
                self.thieves_look(io);
            }
            Timer::Movers => self.movers_look(io),
        }
        Ok(())
    }

    fn answer(&mut self, node: usize, response: GateResponse, io: &mut Io<GateRequest>) -> Checked {
        match response {
            GateResponse::Answer { conn, key, answer } if self.owners.contains_key(&(node, conn)) => {
                self.hears(node, conn, key, answer, io)
            }
            GateResponse::Call { conn, call, body } => match self.owners.get(&(node, conn)) {
                Some(&i) => self.called(i, node, conn, call, body, io),
                None => Ok(()),
            },
            GateResponse::CloseConn { conn, .. } => {
                if let Some(&i) = self.owners.get(&(node, conn)) {
                    let channels = &self.apps[i].channels;
                    if let Some(at) = channels.iter().position(|c| (c.node, c.conn) == (node, conn)) {
                        self.counts.closed += 1;
                        self.disconnect(i, at, io);
                    }
                }
                Ok(())
            }
            GateResponse::Dropped { conn, key, .. } => {
                self.counts.dropped += 1;
                let frame = self
                    .questions
                    .remove(&(node, conn, key))
                    .and_then(|question| question.frame);
                let frame = frame.and_then(|frame| self.frames.remove(&frame));
                // The others of its frame are answered one by one.
                for (key, question, answer) in frame.into_iter().flat_map(|frame| frame.answers) {
                    if self.apps[question.app].channel(node, conn).is_some_and(|c| !c.is_dead) {
                        self.answered(key, &question, answer, io)?;
                    }
                }
                Ok(())
            }
            GateResponse::Admin { key, result } => {
                self.movers_hear(key, &result);
                self.operated(key, result.ok());
                Ok(())
            }
            // The process that was connected there is gone.
            GateResponse::Answer { .. }
            | GateResponse::Note(_)
            | GateResponse::Ended(_)
            | GateResponse::Reloaded { .. } => Ok(()),
        }
    }

    fn node_down(&mut self, node: usize, _io: &mut Io<GateRequest>) {
        self.conns.remove(&node);
        self.owners.retain(|(n, _), _| *n != node);
        self.questions.retain(|(n, ..), _| *n != node);
        for app in &mut self.apps {
            app.channels.retain(|channel| channel.node != node);
        }
    }

    fn stop(&mut self) {
        self.is_stopped = true;
    }

    fn is_idle(&self, machines: &Machines<TxMachine>) -> bool {
        let is_over = |machine: &TxMachine| machine.open_count() == 0 && machine.lock_count() == 0;
        let is_moving = machines.iter().any(|(_, machine)| machine.moves().next().is_some());
        machines.iter().all(|(_, machine)| is_over(machine)) && !is_moving && self.apps.iter().all(App::is_idle)
    }

    fn check_machine(&mut self, group: GroupId, applied: Index, machine: &TxMachine) -> Checked {
        if applied.is_multiple_of(64) {
            machine.check_invariants();
        }
        self.judge.moves(group, machine)?;
        self.judge.applied(group, machine, &self.bank)
    }

    fn check_node(&self, host: &Host<TxGate, MemDisk>, _: Mono) -> Checked {
        only_the_leader_drives(host)
    }

    fn finish(&mut self, machines: &Machines<TxMachine>) -> Checked {
        service_groups_begin_somewhere(machines)?;
        for (_, machine) in machines {
            machine.check_invariants();
            self.judge.stands(machine)?;
            self.counts.groups_used += u64::from(machine.stats().begun_total > 0);
        }
        let decided = |xid: &str| Tid::from_xid(xid).and_then(|tid| self.judge.decided(tid));
        money_is_conserved(&self.bank, &self.journal, decided)
    }

    fn count(&self, coverage: &mut Coverage) {
        let (told, bank, counts) = (self.judge.told(), &self.bank.counts, &self.counts);
        coverage.client_retries += counts.unanswered;
        coverage.tx_commits_told += told.commits;
        coverage.tx_rollbacks_told += told.rollbacks;
        coverage.tx_timeouts_told += told.timeouts;
        coverage.tx_statuses_told += told.statuses;
        coverage.tx_reports_told += told.reports;
        coverage.tx_calls += bank.calls;
        coverage.tx_calls_repeated += bank.repeated;
        coverage.tx_refused += counts.refused;
        coverage.tx_registered_again += counts.registered_again;
        coverage.tx_branches_at += counts.branches[0];
        coverage.tx_branches_tcc += counts.branches[1];
        coverage.tx_branches_saga += counts.branches[2];
        coverage.tx_branches_xa += counts.branches[3];
        coverage.tx_lock_queries += counts.lock_queries;
        coverage.tx_branch_reports += counts.branch_reports;
        coverage.tx_confirmed_by_data += bank.by_data;
        coverage.tx_empty_rollbacks += bank.empty_rollbacks;
        coverage.tx_late_refused += bank.late_refused;
        coverage.tx_xaer_nota += bank.xaer_nota;
        coverage.tx_sagas_called += counts.sagas_called;
        coverage.tx_steps_undone += bank.undone_steps;
        coverage.tx_merged += counts.merged;
        coverage.tx_given_up += counts.given_up;
        coverage.tx_late_answers += counts.late_answers;
        coverage.tx_dropped += counts.dropped;
        coverage.tx_apps_restarted += counts.restarts;
        coverage.tx_channels_dead += counts.dead_channels;
        coverage.tx_answers_lost += counts.answers_lost;
        coverage.tx_answered_twice += counts.answered_twice;
        coverage.tx_acts += self.operators.acts;
        coverage.tx_acts_refused += self.operators.refused;
        coverage.tx_thefts_refused += counts.thefts_refused;
        coverage.tx_groups += counts.groups_used;
        coverage.tx_peeks += counts.peeks;
        let moves = self.judge.moves_seen();
        coverage.tx_moves_begun += moves.begun;
        coverage.tx_moves_finished += moves.finished;
        coverage.tx_moves_cancelled += moves.cancelled;
        coverage.tx_moves_refused += self.movers.refused;
    }

    fn count_service(&mut self, _: &TxGate) {}

    fn describe(&self) -> String {
        let mut text = format!(
            "{} commits and {} rollbacks told",
            self.judge.told().commits,
            self.judge.told().rollbacks
        );
        for (i, app) in self.apps.iter().enumerate() {
            let transfers: Vec<_> = app.threads.iter().map(|t| (&t.transfer, t.waiting)).collect();
            let calls: Vec<_> = app.calls.iter().map(|c| (c.number, &c.body)).collect();
            text += &format!(
                "\n  application {i} down {} {:?} left {} calls {calls:?}: {transfers:?}",
                app.is_down,
                app.channels,
                app.left.len()
            );
        }
        text
    }

    fn describe_machine(&self, machine: &TxMachine) -> String {
        let open: Vec<_> = machine.globals().take(20).collect();
        let moves: Vec<_> = machine.moves().collect();
        let marks: Vec<_> = machine.marks().collect();
        let places: Vec<_> = machine.places().collect();
        format!(" moves {moves:?} marks {marks:?} places {places:?} open {open:?}")
    }
}
