//! Applications: each a transaction manager and a resource manager of both databases over one connection, as a Java
//! service with Seata is.

use std::time::Duration;

use settle_base::{GroupId, Index, NodeId, Prng};
use settle_host::ClusterId;
use settle_tx::{BranchStatus, BranchType, CallKind, DriverConfig, MachineConfig, TxMachine};
use settle_tx_gate::{
    BranchCall, BranchRegistration, CallId, ClientAnswer, ClientRequest, ConnId, GateConfig, GateRequest, GateResponse,
    Ident, RequestKey, RmAnswer, TxGate,
};

use super::bank::Bank;
use crate::{
    Coverage, Shape,
    invariants::{Broken, Checked, named},
    workload::{Io, Machines, Workload},
};

const RESOURCES: [&str; 2] = ["jdbc:db0", "jdbc:db1"];
/// Tries of a branch that meets a lock, before the application rolls back.
const LOCK_TRIES: u32 = 5;
/// The property that the bank judges: no transaction goes both ways, no money comes or goes.
const DECIDED: &str = "atomic commitment";

pub(crate) struct Apps {
    apps: Vec<App>,
    bank: Bank,
    accounts: u32,
    timeout_ms: u64,
    next_conn: u64,
    is_stopped: bool,
    retries: u64,
    counted_conflicts: u64,
}

#[derive(Default)]
struct App {
    conn: Option<(usize, ConnId)>,
    next_key: u64,
    /// The one request that is waited for.
    waiting: Option<RequestKey>,
    is_rm: bool,
    is_tm: bool,
    work: Work,
    generation: u64,
    /// Calls whose answer comes a little later.
    calls: Vec<(u64, ConnId, usize, CallId, BranchCall)>,
    next_call: u64,
}

#[derive(Clone, Default, Debug)]
enum Work {
    #[default]
    Idle,
    Beginning,
    /// Registers one branch after the other.
    Registering {
        xid: String,
        legs: Vec<(u32, i64)>,
        done: usize,
        tries: u32,
    },
    Ending {
        xid: String,
        is_commit: bool,
    },
}

impl Apps {
    pub(crate) fn new(prng: &mut Prng, _: &Shape) -> Apps {
        let accounts = [4, 20, 100][prng.below(3) as usize];
        Apps {
            apps: (0..prng.between(2, 8)).map(|_| App::default()).collect(),
            bank: Bank::new(accounts),
            accounts,
            timeout_ms: prng.between(2_000, 12_000),
            next_conn: 1,
            is_stopped: false,
            retries: 0,
            counted_conflicts: 0,
        }
    }

    fn timer(&mut self, i: usize) -> u64 {
        self.apps[i].generation += 1;
        (i as u64) << 40 | self.apps[i].generation
    }

    fn pause(&mut self, i: usize, most_us: u64, io: &mut Io<GateRequest>) {
        let timer = self.timer(i);
        let pause = io.prng.below(most_us) + 1_000;
        io.wake_in(pause, timer);
    }

    fn connect(&mut self, i: usize, io: &mut Io<GateRequest>) {
        let Some(node) = io.pick_node() else {
            return self.pause(i, 300_000, io);
        };
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let port = 10_000 + (conn.0 % 50_000) as u16;
        let app = &mut self.apps[i];
        app.conn = Some((node, conn));
        (app.is_rm, app.is_tm, app.waiting) = (false, false, None);
        let ip = format!("10.1.0.{i}");
        io.requests.push((500, node, GateRequest::Open { conn, ip, port }));
        self.step(i, io);
    }

    fn disconnect(&mut self, i: usize, io: &mut Io<GateRequest>) {
        if let Some((node, conn)) = self.apps[i].conn.take() {
            io.send(node, GateRequest::Close { conn });
        }
        self.apps[i].waiting = None;
    }

    /// Sends what comes next.
    fn step(&mut self, i: usize, io: &mut Io<GateRequest>) {
        let Some((node, conn)) = self.apps[i].conn else {
            return self.connect(i, io);
        };
        let ident = Ident {
            application: format!("app{}", i % 3),
            service_group: "default_tx_group".to_owned(),
            version: "1.8.0".to_owned(),
        };
        let app = &self.apps[i];
        let body = if !app.is_rm {
            let resources = RESOURCES.map(str::to_owned).to_vec();
            ClientRequest::RegisterRm { ident, resources }
        } else if !app.is_tm {
            ClientRequest::RegisterTm { ident }
        } else {
            match &app.work {
                Work::Idle => {
                    if self.is_stopped {
                        return;
                    }
                    self.apps[i].work = Work::Beginning;
                    let name = "transfer".to_owned();
                    let timeout_ms = self.timeout_ms as i32;
                    ClientRequest::Begin { timeout_ms, name }
                }
                Work::Beginning => {
                    let (name, timeout_ms) = ("transfer".to_owned(), self.timeout_ms as i32);
                    ClientRequest::Begin { timeout_ms, name }
                }
                Work::Registering { xid, legs, done, .. } => {
                    let (account, _) = legs[*done];
                    ClientRequest::RegisterBranch(BranchRegistration {
                        xid: xid.clone(),
                        branch_type: BranchType::At,
                        resource: RESOURCES[account as usize % 2].to_owned(),
                        lock_keys: format!("account:{account}"),
                        application_data: String::new(),
                    })
                }
                Work::Ending { xid, is_commit: true } => ClientRequest::Commit { xid: xid.clone() },
                Work::Ending { xid, is_commit: false } => ClientRequest::Rollback { xid: xid.clone() },
            }
        };
        let app = &mut self.apps[i];
        app.next_key += 1;
        let key = RequestKey(app.next_key);
        app.waiting = Some(key);
        let latency = io.prng.between(600, 2_000);
        io.requests.push((latency, node, GateRequest::Call { conn, key, body }));
        let timer = self.timer(i);
        let patience = io.prng.between(1_500_000, 8_000_000);
        io.wake_in(patience, timer);
    }

    fn answered(&mut self, i: usize, answer: ClientAnswer, io: &mut Io<GateRequest>) -> Checked {
        let work = self.apps[i].work.clone();
        let mut pause = 2_000;
        match (answer, work) {
            (ClientAnswer::RmRegistered, _) => self.apps[i].is_rm = true,
            (ClientAnswer::TmRegistered, _) => self.apps[i].is_tm = true,
            (ClientAnswer::Begun { xid }, Work::Beginning) => {
                let amount = io.prng.between(1, 50) as i64;
                let mut account = || io.prng.below(u64::from(self.accounts)) as u32;
                let legs = vec![(account(), -amount), (account(), amount)];
                self.apps[i].work = Work::Registering {
                    xid,
                    legs,
                    done: 0,
                    tries: 0,
                };
            }
            (ClientAnswer::BranchRegistered { branch }, Work::Registering { xid, legs, done, .. }) => {
                let (account, delta) = legs[done];
                let is_changed = self.bank.change(branch, account, delta);
                let done = done + 1;
                self.apps[i].work = if is_changed && done < legs.len() {
                    let tries = 0;
                    Work::Registering { xid, legs, done, tries }
                } else {
                    let is_commit = is_changed && io.prng.percent(75);
                    Work::Ending { xid, is_commit }
                };
                // Some never come back: the coordinator's timeout decides.
                if io.prng.percent(5) {
                    self.apps[i].work = Work::Idle;
                }
                pause = 30_000;
            }
            (ClientAnswer::Refused(_), Work::Registering { xid, legs, done, tries }) => {
                self.counted_conflicts += 1;
                self.apps[i].work = if tries < LOCK_TRIES {
                    let tries = tries + 1;
                    Work::Registering { xid, legs, done, tries }
                } else {
                    Work::Ending { xid, is_commit: false }
                };
                pause = 200_000;
            }
            (ClientAnswer::Ended { status }, Work::Ending { xid, .. }) => {
                self.bank.told(&xid, status).map_err(named(DECIDED))?;
                self.apps[i].work = Work::Idle;
                pause = 100_000;
            }
            (ClientAnswer::Refused(_), _) => pause = 500_000,
            (answer, work) => {
                let what = format!("application {i} got {answer:?} at {work:?}");
                return Err(Broken::new("answers fit their questions", what));
            }
        }
        self.pause(i, pause, io);
        Ok(())
    }

    /// A resource manager takes a while, fails sometimes, and sometimes never answers.
    fn called(
        &mut self,
        i: usize,
        conn: ConnId,
        node: usize,
        call: CallId,
        body: BranchCall,
        io: &mut Io<GateRequest>,
    ) {
        let app = &mut self.apps[i];
        app.next_call += 1;
        let number = app.next_call;
        app.calls.push((number, conn, node, call, body));
        let after = io.prng.between(200, 20_000);
        io.wake_in(after, 1 << 63 | (i as u64) << 40 | number);
    }

    fn do_phase_two(&mut self, i: usize, number: u64, io: &mut Io<GateRequest>) -> Checked {
        let app = &mut self.apps[i];
        let Some(at) = app.calls.iter().position(|(n, ..)| *n == number) else {
            return Ok(());
        };
        let (_, conn, node, call, body) = app.calls.remove(at);
        let is_current = app.conn == Some((node, conn));
        let BranchCall { kind, xid, branch, .. } = body;
        if io.prng.percent(3) && !self.is_stopped {
            return Ok(());
        }
        let fails = io.prng.percent(5) && !self.is_stopped;
        if !fails {
            self.bank.phase_two(&xid, branch, kind).map_err(named(DECIDED))?;
        }
        let status = match (kind, fails) {
            (CallKind::Commit, false) => BranchStatus::PhaseTwoCommitted,
            (CallKind::Rollback, false) => BranchStatus::PhaseTwoRollbacked,
            (CallKind::Commit, true) => BranchStatus::PhaseTwoCommitFailedRetryable,
            (CallKind::Rollback, true) => BranchStatus::PhaseTwoRollbackFailedRetryable,
        };
        if is_current {
            let answer = RmAnswer {
                ok: !fails,
                branch_status: Some(status),
                xid,
                branch,
            };
            io.send(node, GateRequest::CallAnswer { conn, call, answer });
        }
        Ok(())
    }
}

impl Workload for Apps {
    type Machine = TxMachine;
    type Service = TxGate;

    fn service(&mut self, node: NodeId, run: u64) -> TxGate {
        let config = GateConfig {
            xid_prefix: format!("10.0.0.{}:8091", node.0),
            phase_two_wait: Duration::from_secs(5),
            call_timeout: Duration::from_secs(3),
            driver: DriverConfig {
                backoff_max: Duration::from_secs(4),
                call_timeout: Duration::from_secs(4),
                ..DriverConfig::default()
            },
            ..GateConfig::default()
        };
        TxGate::new(config, run << 8 | u64::from(node.0))
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

    fn begin(&mut self, io: &mut Io<GateRequest>) {
        for i in 0..self.apps.len() {
            self.pause(i, 500_000, io);
        }
    }

    fn wake(&mut self, timer: u64, io: &mut Io<GateRequest>) -> Checked {
        let (i, number) = ((timer >> 40) as usize & 0xff, timer & ((1 << 40) - 1));
        if timer >> 63 == 1 {
            return self.do_phase_two(i, number, io);
        }
        if self.apps[i].generation != number {
            return Ok(());
        }
        if self.apps[i].waiting.take().is_some() {
            self.retries += 1;
            // What was asked may or may not have happened; only an end may be asked again.
            self.apps[i].work = match std::mem::take(&mut self.apps[i].work) {
                Work::Registering { xid, .. } => Work::Ending { xid, is_commit: false },
                work @ Work::Ending { .. } => work,
                Work::Idle | Work::Beginning => Work::Idle,
            };
            if io.prng.percent(50) {
                self.disconnect(i, io);
            }
        } else if io.prng.percent(1) && !self.is_stopped {
            self.disconnect(i, io);
        }
        self.step(i, io);
        Ok(())
    }

    fn answer(&mut self, node: usize, response: GateResponse, io: &mut Io<GateRequest>) -> Checked {
        let of = |apps: &[App], conn: ConnId| apps.iter().position(|app| app.conn == Some((node, conn)));
        match response {
            GateResponse::Answer { conn, key, answer } => {
                let Some(i) = of(&self.apps, conn) else { return Ok(()) };
                if self.apps[i].waiting == Some(key) {
                    self.apps[i].waiting = None;
                    return self.answered(i, answer, io);
                }
                Ok(())
            }
            GateResponse::Call { conn, call, body } => {
                if let Some(i) = of(&self.apps, conn) {
                    self.called(i, conn, node, call, body, io);
                }
                Ok(())
            }
            GateResponse::CloseConn { conn, .. } => {
                if let Some(i) = of(&self.apps, conn) {
                    self.apps[i].conn = None;
                    self.apps[i].waiting = None;
                    self.pause(i, 300_000, io);
                }
                Ok(())
            }
            GateResponse::Dropped { .. } | GateResponse::Admin { .. } | GateResponse::Note(_) => Ok(()),
        }
    }

    fn node_down(&mut self, node: usize, io: &mut Io<GateRequest>) {
        for i in 0..self.apps.len() {
            if self.apps[i].conn.is_some_and(|(n, _)| n == node) {
                self.apps[i].conn = None;
                self.apps[i].waiting = None;
                self.apps[i].work = match std::mem::take(&mut self.apps[i].work) {
                    Work::Registering { xid, .. } => Work::Ending { xid, is_commit: false },
                    Work::Beginning => Work::Idle,
                    work => work,
                };
                self.pause(i, 100_000, io);
            }
        }
    }

    fn stop(&mut self) {
        self.is_stopped = true;
    }

    fn is_idle(&self, machines: &Machines<TxMachine>) -> bool {
        let is_idle = |app: &App| matches!(app.work, Work::Idle) && app.calls.is_empty();
        machines.iter().all(|(_, machine)| machine.open_count() == 0) && self.apps.iter().all(is_idle)
    }

    fn check_machine(&self, _: GroupId, applied: Index, machine: &TxMachine) -> Checked {
        if applied.is_multiple_of(64) {
            machine.check_invariants();
        }
        Ok(())
    }

    fn finish(&mut self, machines: &Machines<TxMachine>) -> Checked {
        for (_, machine) in machines {
            machine.check_invariants();
            self.bank.audit(machine).map_err(named(DECIDED))?;
        }
        Ok(())
    }

    fn count(&self, coverage: &mut Coverage) {
        coverage.client_retries += self.retries;
        coverage.tx_commits_told += self.bank.commits_told;
        coverage.tx_rollbacks_told += self.bank.rollbacks_told;
        coverage.tx_timeouts_told += self.bank.timeouts_told;
        coverage.tx_calls += self.bank.calls;
        coverage.tx_refused += self.counted_conflicts;
    }

    fn count_service(&mut self, _: &TxGate) {}

    fn describe(&self) -> String {
        let work: Vec<_> = self.apps.iter().map(|app| (&app.work, app.conn, app.waiting)).collect();
        format!(
            "{} commits and {} rollbacks told; applications: {work:?}",
            self.bank.commits_told, self.bank.rollbacks_told
        )
    }
}
