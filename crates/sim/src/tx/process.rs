//! What happens to an application's process: connections come and go, it is killed and comes back; and the second phases
//! that it is called for.

use settle_tx::{BranchStatus, BranchType, CallKind};
use settle_tx_gate::{BranchCall, CallId, ConnId, GateRequest, RmAnswer};

use super::{
    app::{App, Incoming, Role},
    apps::{Apps, Timer},
    transfer::{Step, Transfer},
};
use crate::{
    invariants::{Broken, Checked},
    workload::Io,
};

/// The property that the bank judges when it is called.
const PHASES: &str = "a branch's phases follow each other";

impl Apps {
    /// Connections are looked after every now and then, and so is whatever may happen to a process.
    pub(super) fn do_chores(&mut self, i: usize, io: &mut Io<GateRequest>) {
        let after = io.prng.between(100_000, 800_000);
        io.wake_in(after, Timer::Chores { app: i }.encode());
        if self.apps[i].is_down {
            return;
        }
        if !self.is_stopped {
            match io.prng.below(1_000) {
                0..8 => return self.restart(i, io),
                8..22 => self.goes_dead(i, io),
                22..30 => {
                    if let Some(at) = self.some_channel(i, io) {
                        self.disconnect(i, at, io);
                    }
                }
                _ => {}
            }
        }
        for role in [Role::Tm, Role::Rm] {
            let has = |app: &super::app::App, node| app.channels.iter().any(|c| c.role == role && c.node == node);
            if self.apps[i].has_one_address {
                let is_connected = self.apps[i].channels.iter().any(|c| c.role == role);
                if let Some(node) = io.pick_node().filter(|_| !is_connected) {
                    self.connect(i, node, role, io);
                }
                continue;
            }
            for node in 0..io.is_up.len() {
                if io.is_up[node] && !has(&self.apps[i], node) {
                    self.connect(i, node, role, io);
                }
            }
        }
    }

    fn some_channel(&self, i: usize, io: &mut Io<GateRequest>) -> Option<usize> {
        let count = self.apps[i].channels.len() as u64;
        (count > 0).then(|| io.prng.below(count) as usize)
    }

    /// The network between them is cut, and nobody notices before the read idles out.
    fn goes_dead(&mut self, i: usize, io: &mut Io<GateRequest>) {
        let Some(at) = self.some_channel(i, io) else { return };
        let channel = &mut self.apps[i].channels[at];
        if !channel.is_registered || channel.is_dead {
            return;
        }
        channel.is_dead = true;
        self.counts.dead_channels += 1;
        let (node, conn) = (channel.node, channel.conn.0);
        let after = io.prng.between(2_000_000, 6_000_000);
        io.wake_in(after, Timer::Notice { app: i, node, conn }.encode());
    }

    fn restart(&mut self, i: usize, io: &mut Io<GateRequest>) {
        self.counts.restarts += 1;
        let is_cut = io.prng.percent(30);
        while let Some(channel) = self.apps[i].channels.last() {
            let (node, conn) = (channel.node, channel.conn.0);
            if channel.is_dead {
                // Its own notice closes it at the server.
                self.apps[i].channels.pop();
            } else if is_cut {
                // The machine goes with it: the server hears no goodbye.
                self.apps[i].channels.pop();
                let after = io.prng.between(2_000_000, 6_000_000);
                io.wake_in(after, Timer::Notice { app: i, node, conn }.encode());
            } else {
                let last = self.apps[i].channels.len() - 1;
                self.disconnect(i, last, io);
            }
        }
        let app = &mut self.apps[i];
        self.bank.lose_xa(i, app.life);
        app.life += 1;
        app.is_down = true;
        app.outbox.clear();
        app.calls.clear();
        for thread in &mut app.threads {
            thread.waiting = None;
            thread.generation += 1;
            let transfer = thread.transfer.take();
            let saga = transfer.filter(|t| t.is_saga() && !t.xid.is_empty());
            match io.prng.percent(50) {
                true => app.left.extend(saga),
                false => app.abandoned.extend(saga),
            }
        }
        let after = io.prng.between(50_000, 2_000_000);
        io.wake_in(after, Timer::Back { app: i }.encode());
    }

    pub(super) fn come_back(&mut self, i: usize, io: &mut Io<GateRequest>) {
        self.apps[i].is_down = false;
        for t in 0..self.apps[i].threads.len() {
            self.pause(i, t, 500_000, io);
        }
    }

    /// A resource manager takes a while, or so long that nobody waits for its answer any more.
    pub(super) fn called(
        &mut self,
        i: usize,
        node: usize,
        conn: ConnId,
        call: CallId,
        body: BranchCall,
        io: &mut Io<GateRequest>,
    ) -> Checked {
        self.judge.called(&self.apps[i].application, &body)?;
        if self.apps[i]
            .channel(node, conn)
            .is_none_or(|c| c.is_dead || c.role != Role::Rm)
        {
            return Ok(());
        }
        let number = self.next_call;
        self.next_call += 1;
        self.apps[i].calls.push(Incoming {
            number,
            node,
            conn,
            call,
            body,
        });
        let after = match io.prng.below(100) {
            0..2 => io.prng.between(2_500_000, 7_000_000),
            _ => io.prng.between(200, 20_000),
        };
        io.wake_in(after, Timer::Call { app: i, number }.encode());
        Ok(())
    }

    pub(super) fn executes(&mut self, i: usize, number: u64, io: &mut Io<GateRequest>) -> Checked {
        let calls = &mut self.apps[i].calls;
        let Some(at) = calls.iter().position(|call| call.number == number) else {
            return Ok(());
        };
        let Incoming {
            node, conn, call, body, ..
        } = calls.remove(at);
        let how = if self.is_stopped { 99 } else { io.prng.below(100) };
        // It forgets the call.
        if how < 2 {
            return Ok(());
        }
        if (2..7).contains(&how) {
            self.counts.answers_lost += 1;
            self.answer_call(i, node, conn, call, refusal(&body, how), io);
            return Ok(());
        }
        let status = match body.branch_type {
            BranchType::Saga => self.carry_on(&body),
            _ => self.bank.phase_two(&body).map_err(|what| Broken::new(PHASES, what))?,
        };
        match how {
            // It is done, and nobody hears of it.
            7..9 => self.counts.answers_lost += 1,
            9 => {
                self.counts.answers_lost += 1;
                self.restart(i, io);
            }
            _ => {
                let answer = RmAnswer {
                    ok: true,
                    branch_status: Some(status),
                    xid: body.xid,
                    branch: body.branch,
                };
                if how == 10 {
                    self.counts.answered_twice += 1;
                    self.answer_call(i, node, conn, call, answer.clone(), io);
                }
                self.answer_call(i, node, conn, call, answer, io);
            }
        }
        Ok(())
    }

    /// The state machines of an application look their saga up in the database that they share: what a process left
    /// behind, another carries on (`SagaResourceManager`).
    fn carry_on(&mut self, call: &BranchCall) -> BranchStatus {
        use BranchStatus::*;
        let fits = |saga: &&mut Transfer| saga.xid == call.xid;
        let find = |app: &mut App| {
            let mut running = app.threads.iter_mut().filter_map(|thread| thread.transfer.as_mut());
            match running.any(|saga| saga.xid == call.xid) {
                true => Some((true, 0)),
                false => {
                    let mut left = app.left.iter().chain(&app.abandoned);
                    left.position(|saga| saga.xid == call.xid).map(|at| (false, at))
                }
            }
        };
        let found =
            (0..self.apps.len()).find_map(|i| find(&mut self.apps[i]).map(|(is_running, at)| (i, is_running, at)));
        let Some((i, is_running, at)) = found else {
            // It is over, or nobody was ever told that it began.
            let known = self.journal.begun().find(|(xid, ..)| *xid == call.xid);
            if known.is_none() {
                self.never_begun.insert(call.xid.clone());
            }
            let is_done = known.is_some_and(|(_, number, _)| self.bank.is_step_done(number, 0));
            return if is_done { PhaseTwoCommitted } else { PhaseTwoRollbacked };
        };
        let app = &mut self.apps[i];
        let saga = match is_running {
            true => app
                .threads
                .iter_mut()
                .filter_map(|thread| thread.transfer.as_mut())
                .find(fits),
            false => app.left.iter_mut().chain(&mut app.abandoned).nth(at),
        };
        let saga = saga.expect("it was just found");
        match (&saga.step, call.kind) {
            (Step::ReportingSaga { is_commit: true }, _) => PhaseTwoCommitted,
            (Step::ReportingSaga { is_commit: false }, _) => PhaseTwoRollbacked,
            (_, CallKind::Commit) if is_running => PhaseTwoCommitFailedRetryable,
            (_, CallKind::Rollback) if is_running => PhaseTwoRollbackFailedRetryable,
            // Some state machines go forward whatever happens.
            (_, CallKind::Rollback) if saga.number.is_multiple_of(4) => PhaseTwoCommitFailedRetryable,
            (_, kind) => {
                self.counts.sagas_called += 1;
                let is_commit = kind == CallKind::Commit;
                for (number, leg) in saga.legs.iter().enumerate() {
                    match is_commit {
                        true => self.bank.step(saga.number, number, leg),
                        false => self.bank.undo_step(saga.number, number),
                    }
                }
                saga.goes_to(Step::ReportingSaga { is_commit });
                if is_commit {
                    PhaseTwoCommitted
                } else {
                    PhaseTwoRollbacked
                }
            }
        }
    }

    fn answer_call(
        &mut self,
        i: usize,
        node: usize,
        conn: ConnId,
        call: CallId,
        answer: RmAnswer,
        io: &mut Io<GateRequest>,
    ) {
        if self.apps[i].channel(node, conn).is_some_and(|c| !c.is_dead) {
            io.requests
                .push((1_000, node, GateRequest::CallAnswer { conn, call, answer }));
        }
    }
}

/// It cannot, this time: with a status, with one that contradicts the result code, or with nothing at all, as Java answers
/// when its handler threw.
fn refusal(body: &BranchCall, how: u64) -> RmAnswer {
    use BranchStatus::*;
    let (failed, done) = match body.kind {
        CallKind::Commit => (PhaseTwoCommitFailedRetryable, PhaseTwoCommitted),
        CallKind::Rollback => (PhaseTwoRollbackFailedRetryable, PhaseTwoRollbacked),
    };
    let (xid, branch) = (body.xid.clone(), body.branch);
    match how {
        2..4 => RmAnswer {
            ok: true,
            branch_status: Some(failed),
            xid,
            branch,
        },
        4 if body.branch_type != BranchType::Saga => RmAnswer {
            ok: false,
            branch_status: Some(done),
            xid,
            branch,
        },
        4 | 5 => RmAnswer {
            ok: false,
            branch_status: Some(failed),
            xid,
            branch,
        },
        _ => RmAnswer {
            ok: false,
            branch_status: None,
            xid: String::new(),
            branch: 0,
        },
    }
}
