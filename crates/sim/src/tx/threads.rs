//! What an application's thread does next, and what it makes of an answer or of none.

use settle_base::Prng;
use settle_tx::{BranchStatus, BranchType, Direction, GlobalStatus, Tid};
use settle_tx_gate::{BranchRegistration, ClientAnswer, ClientRequest, GateRequest, RequestKey};

use super::{
    app::{Ask, Question, Queued, Role},
    apps::{Apps, Timer},
    invariants::Asked,
    transfer::{Step, Transfer},
};
use crate::{
    invariants::{Broken, Checked},
    workload::Io,
};

/// Tries of a branch that meets a lock, before its transaction is rolled back (Java: 30, 10 ms apart).
const LOCK_TRIES: u32 = 5;
/// Times that the Java TM asks for an end, and the RM reports, one after the other.
const TRIES: u32 = 5;

impl Apps {
    pub(super) fn pause(&mut self, i: usize, t: usize, most_us: u64, io: &mut Io<GateRequest>) {
        let pause = io.prng.below(most_us) + 500;
        self.wake_thread(i, t, pause, io);
    }

    fn wake_thread(&mut self, i: usize, t: usize, after_us: u64, io: &mut Io<GateRequest>) {
        let thread = &mut self.apps[i].threads[t];
        thread.generation += 1;
        let timer = Timer::Thread {
            app: i,
            thread: t,
            generation: thread.generation,
        };
        io.wake_in(after_us, timer.encode());
    }

    /// Its timer: nothing was answered, or a pause is over.
    pub(super) fn thread_wakes(&mut self, i: usize, t: usize, io: &mut Io<GateRequest>) -> Checked {
        if self.apps[i].is_down {
            return Ok(());
        }
        if self.apps[i].threads[t].waiting.take().is_some() {
            self.counts.unanswered += 1;
            self.gets_no_answer(i, t, io);
        } else if let Some(Transfer {
            step: Step::Working { leg },
            ..
        }) = self.apps[i].threads[t].transfer
        {
            self.works(i, t, leg, io);
        }
        self.go(i, t, io);
        Ok(())
    }

    /// What was asked may or may not have happened.
    fn gets_no_answer(&mut self, i: usize, t: usize, io: &mut Io<GateRequest>) {
        let slot = &mut self.apps[i].threads[t].transfer;
        let Some(transfer) = slot else { return };
        transfer.tries += 1;
        match transfer.step {
            Step::Beginning | Step::Asking => *slot = None,
            Step::Registering { leg } if transfer.has_token(leg) && transfer.tries < TRIES => {
                self.counts.registered_again += 1;
            }
            Step::Querying { .. } | Step::Registering { .. } => self.turns_back(i, t),
            Step::Reporting { leg, status } if transfer.tries >= TRIES => self.reported(i, t, leg, status, io.prng),
            Step::Ending { .. } if transfer.tries >= TRIES => {
                self.counts.given_up += 1;
                match io.prng.percent(50) {
                    true => transfer.goes_to(Step::Asking),
                    false => *slot = None,
                }
            }
            // Asked once more.
            Step::Reporting { .. } | Step::Ending { .. } | Step::ReportingSaga { .. } => {}
            Step::Working { .. } => unreachable!("a thread at work waits for nobody"),
        }
    }

    /// The transfer cannot succeed.
    fn turns_back(&mut self, i: usize, t: usize) {
        let Some(transfer) = &mut self.apps[i].threads[t].transfer else {
            return;
        };
        if transfer.is_saga() {
            for leg in (0..transfer.legs.len()).rev() {
                self.bank.undo_step(transfer.number, leg);
            }
            transfer.goes_to(Step::ReportingSaga { is_commit: false });
        } else {
            transfer.goes_to(Step::Ending { is_commit: false });
        }
    }

    /// The local transaction of a leg ends.
    fn works(&mut self, i: usize, t: usize, leg: usize, io: &mut Io<GateRequest>) {
        let life = self.apps[i].life;
        let Some(transfer) = &mut self.apps[i].threads[t].transfer else {
            return;
        };
        if transfer.is_saga() {
            self.bank.step(transfer.number, leg, &transfer.legs[leg]);
            return self.leg_is_done(i, t, leg, io.prng);
        }
        let next = &transfer.legs[leg];
        if next.account.kind == BranchType::Xa && self.bank.stage(next.branch).is_none() {
            // Until now its database has not heard of it; what it is to do comes next.
            return self.bank.open_xa(next, i, life);
        }
        let is_done = self.bank.phase_one(next);
        let status = match (is_done, transfer.legs[leg].is_read_only) {
            (true, false) => return self.leg_is_done(i, t, leg, io.prng),
            (true, true) => BranchStatus::PhaseOneRdonly,
            (false, _) => {
                self.bank.fails(&transfer.legs[leg]);
                BranchStatus::PhaseOneFailed
            }
        };
        transfer.goes_to(Step::Reporting { leg, status });
    }

    fn reported(&mut self, i: usize, t: usize, leg: usize, status: BranchStatus, prng: &mut Prng) {
        match status {
            BranchStatus::PhaseOneFailed => self.turns_back(i, t),
            _ => self.leg_is_done(i, t, leg, prng),
        }
    }

    fn leg_is_done(&mut self, i: usize, t: usize, leg: usize, prng: &mut Prng) {
        let thread = &mut self.apps[i].threads[t];
        let Some(transfer) = &mut thread.transfer else { return };
        // Some never come back: the coordinator's timeout decides.
        if !transfer.is_saga() && prng.percent(3) {
            thread.transfer = None;
            return;
        }
        if leg + 1 < transfer.legs.len() {
            return transfer.goes_to(first_of_leg(transfer, leg + 1));
        }
        if !prng.percent(75) {
            return self.turns_back(i, t);
        }
        transfer.goes_to(match transfer.is_saga() {
            true => Step::ReportingSaga { is_commit: true },
            false => Step::Ending { is_commit: true },
        });
    }

    /// Sends what comes next.
    pub(super) fn go(&mut self, i: usize, t: usize, io: &mut Io<GateRequest>) {
        if self.apps[i].threads[t].transfer.is_none() {
            let next = self.apps[i].left.pop();
            if next.is_none() && self.is_stopped {
                return;
            }
            // Its rows stay its own, wherever it begins.
            let group = self.apps[i].service_group;
            let number = self.next_transfer;
            let transfer = next.unwrap_or_else(|| self.habits.draw(number, group, io.prng));
            self.next_transfer += 1;
            self.apps[i].threads[t].transfer = Some(transfer);
        }
        let transfer = self.apps[i].threads[t]
            .transfer
            .as_ref()
            .expect("it was just given one");
        let xid = transfer.xid.clone();
        let (ask, body) = match transfer.step {
            Step::Beginning => {
                // A saga is told by its name (`Constants.SAGA_TRANS_NAME_PREFIX`).
                let name = if transfer.is_saga() {
                    "$Saga_transfer"
                } else {
                    "transfer"
                };
                let (timeout_ms, name) = (self.timeout_ms as i32, name.to_owned());
                (Ask::Begin, ClientRequest::Begin { timeout_ms, name })
            }
            Step::Querying { leg } => (Ask::Lock { leg }, query(transfer, leg)),
            Step::Registering { leg } => (Ask::Branch { leg }, register(transfer, leg)),
            Step::Working { .. } => {
                // A local transaction that takes longer than the global one may.
                let long = io.prng.percent(3).then_some(self.timeout_ms * 2_000);
                return self.pause(i, t, long.unwrap_or(30_000), io);
            }
            Step::Reporting { leg, status } => {
                let branch = transfer.legs[leg].branch;
                let application_data = None;
                (
                    Ask::Report { status },
                    ClientRequest::ReportBranch {
                        xid,
                        branch,
                        status,
                        application_data,
                    },
                )
            }
            Step::Ending { is_commit: true } => (Ask::End(Asked::Commit), ClientRequest::Commit { xid }),
            Step::Ending { is_commit: false } => (Ask::End(Asked::Rollback), ClientRequest::Rollback { xid }),
            Step::Asking => {
                let decided = Tid::from_xid(&xid).and_then(|tid| self.judge.decided(tid));
                (Ask::End(Asked::Status(decided)), ClientRequest::Status { xid })
            }
            Step::ReportingSaga { is_commit } => {
                let status = match is_commit {
                    true => GlobalStatus::Committed,
                    false => GlobalStatus::Rollbacked,
                };
                (Ask::End(Asked::Report), ClientRequest::Report { xid, status })
            }
        };
        match ask {
            Ask::Lock { .. } | Ask::Branch { .. } | Ask::Report { .. } => self.queue(i, t, ask, body, io),
            _ => self.ask_tm(i, t, ask, body, io),
        }
    }

    fn ask_tm(&mut self, i: usize, t: usize, ask: Ask, body: ClientRequest, io: &mut Io<GateRequest>) {
        let xid = self.xid_of(i, t);
        let Some(at) = self.choose(i, Role::Tm, &xid, io.prng) else {
            return self.pause(i, t, 200_000, io);
        };
        let app = &mut self.apps[i];
        let key = app.key();
        app.threads[t].waiting = Some(key);
        self.put(i, at, key, t, ask, None, body, io);
        let patience = self.tm_timeout_us;
        self.wake_thread(i, t, patience, io);
    }

    /// The resource manager gathers messages for a moment and sends them in one frame.
    fn queue(&mut self, i: usize, t: usize, ask: Ask, body: ClientRequest, io: &mut Io<GateRequest>) {
        let app = &mut self.apps[i];
        let key = app.key();
        app.threads[t].waiting = Some(key);
        if app.outbox.is_empty() {
            io.wake_in(self.merge_us, Timer::Flush { app: i, life: app.life }.encode());
        }
        app.outbox.push(Queued {
            key,
            thread: t,
            ask,
            body,
        });
        let patience = self.rm_timeout_us;
        self.wake_thread(i, t, patience, io);
    }

    pub(super) fn flush(&mut self, i: usize, io: &mut Io<GateRequest>) {
        let mut queued = std::mem::take(&mut self.apps[i].outbox);
        // Who waits no more has given up before it was sent.
        queued.retain(|q| self.apps[i].threads[q.thread].waiting == Some(q.key));
        let Some(first) = queued.first() else { return };
        let xid = self.xid_of(i, first.thread);
        let Some(at) = self.choose(i, Role::Rm, &xid, io.prng) else {
            self.apps[i].outbox = queued;
            return io.wake_in(
                50_000,
                Timer::Flush {
                    app: i,
                    life: self.apps[i].life,
                }
                .encode(),
            );
        };
        let frame = self.open_frame(queued.len());
        for Queued { key, thread, ask, body } in queued {
            self.put(i, at, key, thread, ask, frame, body, io);
        }
    }

    /// An answer to what a thread waits for, or has waited for.
    pub(super) fn answered(
        &mut self,
        key: RequestKey,
        question: &Question,
        answer: ClientAnswer,
        io: &mut Io<GateRequest>,
    ) -> Checked {
        let (i, t) = (question.app, question.thread);
        if self.apps[i].life != question.life || self.apps[i].threads[t].waiting != Some(key) {
            self.counts.late_answers += 1;
            return Ok(());
        }
        self.apps[i].threads[t].waiting = None;
        let pause = self.proceeds(i, t, question.ask, answer, io)?;
        match &self.apps[i].threads[t].transfer {
            Some(transfer) if matches!(transfer.step, Step::Working { .. }) => self.go(i, t, io),
            _ => self.pause(i, t, pause, io),
        }
        Ok(())
    }

    /// Gives how long the thread rests at most.
    fn proceeds(
        &mut self,
        i: usize,
        t: usize,
        ask: Ask,
        answer: ClientAnswer,
        io: &mut Io<GateRequest>,
    ) -> Result<u64, Broken> {
        let slot = &mut self.apps[i].threads[t].transfer;
        let transfer = slot.as_mut().expect("who waits has a transfer");
        match (ask, answer) {
            (Ask::Begin, ClientAnswer::Begun { xid }) => {
                transfer.xid = xid;
                transfer.goes_to(first_of_leg(transfer, 0));
                self.journal.keep(transfer);
            }
            (Ask::Begin, ClientAnswer::Refused(_)) => {
                *slot = None;
                return Ok(500_000);
            }
            (Ask::Branch { leg }, ClientAnswer::BranchRegistered { branch }) => {
                transfer.legs[leg].branch = branch;
                transfer.goes_to(Step::Working { leg });
                self.journal.keep(transfer);
                self.counts.branches[transfer.legs[leg].account.kind.as_u8() as usize] += 1;
            }
            (Ask::Lock { leg }, ClientAnswer::Lockable { lockable: true }) => {
                transfer.goes_to(Step::Registering { leg })
            }
            (Ask::Lock { .. }, ClientAnswer::Lockable { lockable: false })
            | (Ask::Branch { .. } | Ask::Lock { .. }, ClientAnswer::Refused(_)) => {
                self.counts.refused += 1;
                transfer.tries += 1;
                if transfer.tries > LOCK_TRIES {
                    self.turns_back(i, t);
                }
                return Ok(100_000);
            }
            (Ask::Report { status }, ClientAnswer::BranchReported | ClientAnswer::Refused(_)) => {
                let Step::Reporting { leg, .. } = transfer.step else {
                    unreachable!("only a report is answered so")
                };
                self.counts.branch_reports += 1;
                self.reported(i, t, leg, status, io.prng);
            }
            (Ask::End(Asked::Commit | Asked::Rollback), ClientAnswer::Ended { .. }) => {
                match io.prng.percent(10) {
                    true => transfer.goes_to(Step::Asking),
                    false => *slot = None,
                }
                return Ok(60_000);
            }
            (Ask::End(Asked::Status(_)), ClientAnswer::Status { .. }) => {
                *slot = None;
                return Ok(60_000);
            }
            (Ask::End(Asked::Report), ClientAnswer::Ended { status }) => {
                let Step::ReportingSaga { is_commit } = transfer.step else {
                    unreachable!("only a saga is answered so")
                };
                let wanted = if is_commit {
                    Direction::Commit
                } else {
                    Direction::Rollback
                };
                // It learned that it had begun when its time was up, and another process had said that there was nothing.
                if is_commit && status == GlobalStatus::TimeoutRollbacked && self.never_begun.contains(&transfer.xid) {
                    self.turns_back(i, t);
                    self.apps[i].threads[t].transfer = None;
                    return Ok(60_000);
                }
                if status.direction() != Some(wanted) {
                    let what = format!("saga {} has ended by {wanted:?}, and is told {status}", transfer.xid);
                    return Err(Broken::new("answers fit their questions", what));
                }
                if !status.is_ended() {
                    return Ok(500_000);
                }
                *slot = None;
                return Ok(60_000);
            }
            (ask, answer) => {
                let what = format!("application {i} asked {ask:?} and got {answer:?}");
                return Err(Broken::new("answers fit their questions", what));
            }
        }
        Ok(2_000)
    }

    fn xid_of(&self, i: usize, t: usize) -> String {
        let transfer = self.apps[i].threads[t].transfer.as_ref();
        transfer.map_or_else(String::new, |transfer| transfer.xid.clone())
    }
}

/// Some sagas register a branch for every step (`sagaBranchRegisterEnable`), most do not.
fn first_of_leg(transfer: &Transfer, leg: usize) -> Step {
    match transfer.legs[leg].account.kind {
        BranchType::Saga if !transfer.number.is_multiple_of(3) => Step::Working { leg },
        BranchType::At if transfer.number.is_multiple_of(5) => Step::Querying { leg },
        _ => Step::Registering { leg },
    }
}

fn query(transfer: &Transfer, leg: usize) -> ClientRequest {
    let account = transfer.legs[leg].account;
    // It has no rows yet, so that it may ask like anybody (`@GlobalLock`).
    let is_outside = leg == 0 && transfer.number.is_multiple_of(2);
    ClientRequest::LockQuery {
        xid: if is_outside {
            String::new()
        } else {
            transfer.xid.clone()
        },
        resource: account.resource(),
        lock_keys: format!("account:{}", account.number),
    }
}

fn register(transfer: &Transfer, leg: usize) -> ClientRequest {
    let account = transfer.legs[leg].account;
    let lock_keys = match account.kind {
        BranchType::At => format!("account:{}", account.number),
        _ => String::new(),
    };
    ClientRequest::RegisterBranch(BranchRegistration {
        xid: transfer.xid.clone(),
        branch_type: account.kind,
        resource: account.resource(),
        lock_keys,
        application_data: transfer.application_data(leg),
    })
}
