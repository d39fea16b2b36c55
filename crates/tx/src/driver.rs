//! Drives the second phase: which branch to call when, and which transaction has timed out.
//!
//! Runs on the group's leader only and holds soft state: a new leader starts from the replicated state and calls
//! everything that is decided at once. Resource managers are idempotent, so a call too many is safe; a call that
//! contradicts a decision is impossible, because calls are made of decided transactions only.
//!
//! Commit: AT branches all at once; the others one after another in registration order, where one that failed waits
//! its back-off without holding up the next. Rollback: strictly the last registered first, the next only when it is
//! done; but an XA branch that failed holds up no other XA branch. Each of these is a transaction of its database's own,
//! that holds rows there until it is told how it ends, and what another one has done makes no difference to it. Saga branches are not called: a saga gets one call, which any client of its application can take (see `saga`).
//!
//! Calls wait in a row per client (application and resource) and rows take turns, each with a limit of its own on the
//! calls in flight: a client that hangs holds up nobody else.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use settle_base::{FixedMap, FixedSet, GroupTime, Prng, Term, fingerprint};

use crate::{
    ActKind, Branch, BranchId, BranchStatus, BranchType, Decision, Direction, Global, GlobalStatus, Tid, TxEffect,
    TxMachine,
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DriverConfig {
    /// The wait after the first failure, doubled after each further one. Also the pace at which a branch without a
    /// channel is tried and a timeout decision is proposed again.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    /// A branch that has been retried for so long is reported as stuck, once; it is still retried.
    pub stuck_after: Duration,
    /// After so long without an answer a call counts as failed. Longer than the resource manager's own RPC timeout
    /// (Seata's default is 15 s), so that the node that holds the channel has given up before.
    pub call_timeout: Duration,
    /// Calls without an answer, at most; further ones wait for their turn.
    pub max_calls_in_flight: usize,
    /// Calls without an answer that one application has for one resource, at most. Far below `max_calls_in_flight`, so
    /// that one that hangs leaves room for the others.
    pub max_calls_per_client: usize,
    /// Timeout decisions proposed and not applied yet, at most; further ones wait for their turn.
    pub max_timeouts_in_flight: usize,
}

impl Default for DriverConfig {
    fn default() -> DriverConfig {
        DriverConfig {
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            stuck_after: Duration::from_secs(600),
            call_timeout: Duration::from_secs(17),
            max_calls_in_flight: 4_096,
            max_calls_per_client: 256,
            max_timeouts_in_flight: 4_096,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallKind {
    Commit,
    Rollback,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DriverAction {
    /// Propose this decision: the transaction's time is up.
    Decide { tid: Tid, decision: Decision },
    /// Call the branch's resource manager. `attempt` counts from 1 within this leadership.
    Call {
        tid: Tid,
        branch: BranchId,
        kind: CallKind,
        attempt: u32,
    },
    /// Propose `BranchDone` with this retryable status, so that the transaction shows that it is being retried.
    MarkRetrying {
        tid: Tid,
        branch: BranchId,
        status: BranchStatus,
    },
    /// The branch has been tried for too long: for the log and the metric.
    Stuck { tid: Tid, branch: BranchId },
}

/// Why a call did not succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallFailure {
    /// No client is connected that could take it. Tried again soon: clients reconnect.
    NoChannel,
    Timeout,
    /// The resource manager answered, and not with success.
    Refused,
    /// The connection was lost before the answer.
    Disconnected,
}

/// The soft state of one group's driver.
pub struct Driver {
    config: DriverConfig,
    seed: u64,
    prng: Prng,
    term: Option<Term>,
    /// Apart from the branches', whose entries are larger and few: a million open transactions have a million of these.
    deadline_timers: BTreeSet<(GroupTime, Tid)>,
    branch_timers: BTreeSet<(GroupTime, (Tid, BranchId))>,
    /// When each undecided transaction's timeout is decided (or proposed again), and when a decided one that has Saga
    /// branches beside others counts as stuck: nothing but a report ends those.
    deadlines: FixedMap<Tid, GroupTime>,
    /// Transactions whose timeout decision was given and is not applied yet.
    timing_out: FixedSet<Tid>,
    /// Transactions whose time is up and whose decision waits for a free place. May name decided ones.
    overdue: VecDeque<Tid>,
    /// By [`lane_of`].
    lanes: FixedMap<u64, Lane>,
    /// The lanes that may make a call, in the order of their turns.
    turns: VecDeque<u64>,
    calls: BTreeMap<(Tid, BranchId), Call>,
    in_flight: usize,
    stuck: BTreeSet<(Tid, BranchId)>,
    /// Calls that have failed before, and of those the ones that found no client the last time.
    retrying: usize,
    unreached: usize,
    pending: Vec<DriverAction>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Timer {
    /// The transaction's time is up.
    Deadline(Tid),
    /// A back-off is over, or a call has had no answer for too long.
    Branch(Tid, BranchId),
}

/// The calls of one application for one resource.
#[derive(Default)]
struct Lane {
    /// Branches whose call is due and waits for a free place. May name calls that are gone.
    ready: VecDeque<(Tid, BranchId)>,
    in_flight: usize,
    /// It is among the turns.
    has_turn: bool,
}

/// A branch that is being driven.
struct Call {
    kind: CallKind,
    lane: u64,
    state: CallState,
    attempt: u32,
    /// Failures that lengthen the back-off.
    failures: u32,
    /// When it was first tried, as far as this leader knows.
    trying_since: Option<GroupTime>,
    /// It is one of a row of which the next starts when this one has had its first result.
    holds_up_next: bool,
    /// The replicated status shows that it is being retried.
    is_marked: bool,
    /// A `MarkRetrying` was given whose effect has not come: that effect is no answer to a call.
    is_mark_pending: bool,
    has_failed: bool,
    /// The last time no client was there.
    is_unreached: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CallState {
    Ready,
    InFlight { until: GroupTime },
    BackingOff { until: GroupTime },
}

impl Driver {
    /// `seed` makes the jitter; give each node and group its own.
    pub fn new(config: DriverConfig, seed: u64) -> Driver {
        Driver {
            config,
            seed,
            prng: Prng::new(seed),
            term: None,
            deadline_timers: BTreeSet::new(),
            branch_timers: BTreeSet::new(),
            deadlines: FixedMap::default(),
            timing_out: FixedSet::default(),
            overdue: VecDeque::new(),
            lanes: FixedMap::default(),
            turns: VecDeque::new(),
            calls: BTreeMap::new(),
            in_flight: 0,
            stuck: BTreeSet::new(),
            retrying: 0,
            unreached: 0,
            pending: Vec::new(),
        }
    }

    /// The term that it leads; calls carry it.
    pub fn term(&self) -> Option<Term> {
        self.term
    }

    /// This node leads the group and `machine` is complete: drive everything that is decided, at once.
    pub fn lead(&mut self, term: Term, machine: &TxMachine) {
        self.resign();
        self.term = Some(term);
        self.prng = Prng::from_parts(&[self.seed, term]);
        for global in machine.globals() {
            if global.status == GlobalStatus::Begin {
                let is_hasty = settle_base::mutant!("new_leader_ends_all_open");
                self.set_deadline(global.tid, if is_hasty { GroupTime::ZERO } else { global.deadline() });
            } else {
                self.drive(global);
            }
        }
    }

    /// This node no longer leads: forget everything.
    pub fn resign(&mut self) {
        *self = Driver::new(self.config, self.seed);
    }

    /// Takes in an effect of an applied entry; `machine` is as of that entry or later.
    pub fn on_effect(&mut self, machine: &TxMachine, effect: &TxEffect, now: GroupTime) {
        if self.term.is_none() {
            return;
        }
        match *effect {
            TxEffect::Begun { tid } => {
                if let Some(global) = machine
                    .global(tid)
                    .filter(|global| global.status == GlobalStatus::Begin)
                {
                    self.set_deadline(tid, global.deadline());
                }
            }
            TxEffect::Decided { tid } => {
                self.clear_deadline(tid);
                if let Some(global) = machine.global(tid) {
                    self.drive(global);
                }
            }
            TxEffect::BranchChanged { tid, branch, status } => {
                self.on_branch_changed(machine.global(tid), tid, branch, status, now);
            }
            TxEffect::Ended { tid, .. } => {
                self.clear_deadline(tid);
                self.drop_calls(tid);
            }
            TxEffect::Operated { tid, ref record } => match record.act {
                ActKind::StopRetry => self.drop_calls(tid),
                ActKind::ResumeRetry => {
                    if let Some(global) = machine.global(tid) {
                        self.drive(global);
                    }
                }
                ActKind::Commit
                | ActKind::Rollback
                | ActKind::Forget
                | ActKind::ReleaseLock
                | ActKind::MoveServiceGroups
                | ActKind::CancelMove => {}
            },
            // Of what a restore brought nothing is known here: whoever leads is led anew.
            TxEffect::BranchRegistered { .. }
            | TxEffect::ServiceGroups { .. }
            | TxEffect::Restored
            | TxEffect::Reply { .. } => {}
        }
    }

    /// The call of that attempt did not succeed (a success comes as an effect, when its fact is applied).
    pub fn on_call_failed(
        &mut self,
        machine: &TxMachine,
        tid: Tid,
        branch: BranchId,
        attempt: u32,
        why: CallFailure,
        now: GroupTime,
    ) {
        let call = self.calls.get(&(tid, branch));
        if call.is_some_and(|call| call.attempt == attempt && matches!(call.state, CallState::InFlight { .. })) {
            self.fail(machine.global(tid), tid, branch, why, now);
        }
    }

    /// A `MarkRetrying` was not proposed, or its proposal is given up: the next failure gives another.
    pub fn on_mark_lost(&mut self, tid: Tid, branch: BranchId) {
        if let Some(call) = self.calls.get_mut(&(tid, branch)) {
            call.is_mark_pending = false;
        }
    }

    /// Appends what is due.
    pub fn poll(&mut self, machine: &TxMachine, now: GroupTime, out: &mut Vec<DriverAction>) {
        if self.term.is_none() {
            return;
        }
        while let Some((_, timer)) = self.next_timer().filter(|(at, _)| *at <= now) {
            self.on_timer(machine, timer, now, out);
        }
        while self.timing_out.len() < self.config.max_timeouts_in_flight
            && let Some(tid) = self.overdue.pop_front()
        {
            self.time_out(machine, tid, now, out);
        }
        while self.in_flight < self.config.max_calls_in_flight
            && let Some(id) = self.turns.pop_front()
        {
            let lane = self.lanes.get_mut(&id).expect("a lane with a turn exists");
            lane.has_turn = false;
            if let Some((tid, branch)) = lane.ready.pop_front() {
                self.start(machine, tid, branch, now, out);
            }
            self.give_turn(id);
        }
        out.append(&mut self.pending);
    }

    /// When `poll` next has something to give; a time in the past (or zero) means now.
    pub fn next_due(&self) -> Option<GroupTime> {
        let has_call = !self.turns.is_empty() && self.in_flight < self.config.max_calls_in_flight;
        let has_timeout = !self.overdue.is_empty() && self.timing_out.len() < self.config.max_timeouts_in_flight;
        if has_call || has_timeout || !self.pending.is_empty() {
            return Some(GroupTime::ZERO);
        }
        self.next_timer().map(|(at, _)| at)
    }

    /// The earliest; of those at one time the deadlines come first.
    fn next_timer(&self) -> Option<(GroupTime, Timer)> {
        let deadline = self
            .deadline_timers
            .first()
            .map(|&(at, tid)| (at, Timer::Deadline(tid)));
        let branch = self.branch_timers.first();
        let branch = branch.map(|&(at, (tid, branch))| (at, Timer::Branch(tid, branch)));
        deadline.into_iter().chain(branch).min()
    }

    /// Branches that have been retried for too long, in order.
    pub fn stuck(&self) -> impl Iterator<Item = (Tid, BranchId)> {
        self.stuck.iter().copied()
    }

    /// Branches whose call has failed before and is made again.
    pub fn retrying(&self) -> usize {
        self.retrying
    }

    /// Of those: branches for which no client was connected the last time.
    pub fn unreached(&self) -> usize {
        self.unreached
    }

    /// Timeout decisions given and not applied yet.
    pub fn timeouts_in_flight(&self) -> usize {
        self.timing_out.len()
    }

    /// Calls without an answer.
    pub fn calls_in_flight(&self) -> usize {
        self.in_flight
    }

    fn on_timer(&mut self, machine: &TxMachine, timer: Timer, now: GroupTime, out: &mut Vec<DriverAction>) {
        match timer {
            Timer::Deadline(tid) => {
                let has_room = self.timing_out.contains(&tid)
                    || (self.timing_out.len() < self.config.max_timeouts_in_flight && self.overdue.is_empty());
                self.unset_deadline(tid);
                match machine.global(tid) {
                    Some(global) if global.status != GlobalStatus::Begin => self.flag_saga(global),
                    Some(_) if has_room => self.time_out(machine, tid, now, out),
                    Some(_) => self.overdue.push_back(tid),
                    None => {}
                }
            }
            Timer::Branch(tid, branch) => {
                let call = self.calls.get(&(tid, branch)).expect("a timer goes with its call");
                if matches!(call.state, CallState::InFlight { .. }) {
                    self.fail(machine.global(tid), tid, branch, CallFailure::Timeout, now);
                } else {
                    self.set_state(tid, branch, CallState::Ready);
                }
            }
        }
    }

    fn time_out(&mut self, machine: &TxMachine, tid: Tid, now: GroupTime, out: &mut Vec<DriverAction>) {
        let global = machine.global(tid);
        if global.is_none_or(|global| global.status != GlobalStatus::Begin) {
            return;
        }
        self.timing_out.insert(tid);
        out.push(DriverAction::Decide {
            tid,
            decision: Decision::Timeout,
        });
        // A proposal may be lost; a second one finds the first one's decision and changes nothing.
        self.set_deadline(tid, now + self.config.backoff_min);
    }

    /// The client of a decided transaction's Saga branch has not reported its end for too long.
    fn flag_saga(&mut self, global: &Global) {
        let mut open = global.open_branches();
        if let Some(branch) = open.find(|branch| branch.branch_type == BranchType::Saga)
            && self.stuck.insert((global.tid, branch.id))
        {
            self.pending.push(DriverAction::Stuck {
                tid: global.tid,
                branch: branch.id,
            });
        }
    }

    fn start(&mut self, machine: &TxMachine, tid: Tid, id: BranchId, now: GroupTime, out: &mut Vec<DriverAction>) {
        let is_ready = self
            .calls
            .get(&(tid, id))
            .is_some_and(|call| call.state == CallState::Ready);
        if !is_ready {
            return;
        }
        let Some(retrying_since) = machine.global(tid).and_then(|global| retrying_since(global, id)) else {
            self.drop_call(tid, id);
            return;
        };
        let until = now + self.config.call_timeout;
        self.set_state(tid, id, CallState::InFlight { until });
        let call = self.calls.get_mut(&(tid, id)).expect("it was just looked up");
        call.attempt += 1;
        call.trying_since.get_or_insert(retrying_since.unwrap_or(now));
        out.push(DriverAction::Call {
            tid,
            branch: id,
            kind: call.kind,
            attempt: call.attempt,
        });
    }

    /// Starts what may start of a decided transaction.
    fn drive(&mut self, global: &Global) {
        if global.retry_stopped {
            return;
        }
        if global.is_saga() {
            return self.drive_saga(global);
        }
        if let Some(decided_at) = global.decided_at()
            && global
                .open_branches()
                .any(|branch| branch.branch_type == BranchType::Saga)
        {
            self.set_deadline(global.tid, decided_at + self.config.stuck_after);
        }
        match global.status.direction() {
            Some(Direction::Commit) => {
                let at_branches = global
                    .open_branches()
                    .filter(|branch| branch.branch_type == BranchType::At);
                for branch in at_branches.filter(|branch| !branch.status.is_unretryable()) {
                    self.add_call(global.tid, branch, CallKind::Commit);
                }
                self.drive_next_in_commit(global);
            }
            Some(Direction::Rollback) => self.drive_rollback(global),
            None => {}
        }
    }

    /// Starts the first branch in the row that has not been started.
    fn drive_next_in_commit(&mut self, global: &Global) {
        let next = global.open_branches().find(|branch| {
            matches!(branch.branch_type, BranchType::Tcc | BranchType::Xa)
                && !branch.status.is_unretryable()
                && !self.calls.contains_key(&(global.tid, branch.id))
        });
        if let Some(branch) = next {
            self.add_call(global.tid, branch, CallKind::Commit);
        }
    }

    /// Starts the last open branch. One that failed for good holds up those before it, which an operator must know of; an
    /// XA branch that failed in whatever way is passed, if only XA branches come to their turn so.
    fn drive_rollback(&mut self, global: &Global) {
        let mut open = global
            .open_branches()
            .filter(|branch| branch.branch_type != BranchType::Saga);
        if settle_base::mutant!("rollback_in_order_of_registration") {
            if let Some(branch) = open.next().filter(|branch| !branch.status.is_unretryable()) {
                self.add_call(global.tid, branch, CallKind::Rollback);
            }
            return;
        }
        let mut has_passed = false;
        while let Some(branch) = open.next_back() {
            let is_xa = branch.branch_type == BranchType::Xa;
            let call = self.calls.get(&(global.tid, branch.id));
            let has_failed = branch.status.is_unretryable() || call.is_some_and(|call| call.has_failed);
            match is_xa {
                true if has_failed => has_passed = true,
                false if has_passed || branch.status.is_unretryable() => return,
                _ => return self.add_call(global.tid, branch, CallKind::Rollback),
            }
        }
    }

    /// Starts a saga's single call, or turns it round when the state machine has.
    fn drive_saga(&mut self, global: &Global) {
        let id = BranchId::saga_of(global.tid);
        let kind = match global.status.direction() {
            _ if global.status.is_failed() || global.retry_stopped => None,
            Some(Direction::Commit) => Some(CallKind::Commit),
            Some(Direction::Rollback) => Some(CallKind::Rollback),
            None => None,
        };
        let Some(kind) = kind else {
            return self.drop_call(global.tid, id);
        };
        match self.calls.get_mut(&(global.tid, id)) {
            Some(call) => call.kind = kind,
            None => {
                let lane = lane_of(&global.application, &global.saga_resource());
                // Where a saga stands is its state machine's to say: a call that came to nothing marks nothing.
                self.insert_call(global.tid, id, kind, lane, false, true);
            }
        }
    }

    fn add_call(&mut self, tid: Tid, branch: &Branch, kind: CallKind) {
        if self.calls.contains_key(&(tid, branch.id)) {
            return;
        }
        // Whether a failure is enough for the next one to have its turn.
        let holds_up_next = match kind {
            CallKind::Commit => branch.branch_type != BranchType::At,
            CallKind::Rollback => branch.branch_type == BranchType::Xa,
        };
        let application = branch.client.split(':').next().unwrap_or_default();
        let lane = lane_of(application, &branch.resource);
        self.insert_call(tid, branch.id, kind, lane, holds_up_next, branch.status.is_retryable());
    }

    fn insert_call(&mut self, tid: Tid, id: BranchId, kind: CallKind, lane: u64, holds_up_next: bool, is_marked: bool) {
        let call = Call {
            kind,
            lane,
            state: CallState::Ready,
            attempt: 0,
            failures: 0,
            trying_since: None,
            holds_up_next,
            is_marked,
            is_mark_pending: false,
            has_failed: false,
            is_unreached: false,
        };
        self.calls.insert((tid, id), call);
        self.make_ready(lane, tid, id);
    }

    fn make_ready(&mut self, lane: u64, tid: Tid, id: BranchId) {
        self.lanes.entry(lane).or_default().ready.push_back((tid, id));
        self.give_turn(lane);
    }

    /// Lines the lane up for its next call if it may make one. One that has nothing left is forgotten.
    fn give_turn(&mut self, id: u64) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        if lane.has_turn {
            return;
        }
        if lane.ready.is_empty() {
            if lane.in_flight == 0 {
                self.lanes.remove(&id);
            }
        } else if lane.in_flight < self.config.max_calls_per_client {
            lane.has_turn = true;
            self.turns.push_back(id);
        }
    }

    fn on_branch_changed(
        &mut self,
        global: Option<&Global>,
        tid: Tid,
        id: BranchId,
        status: BranchStatus,
        now: GroupTime,
    ) {
        if let Some(global) = global.filter(|_| id.is_saga()) {
            self.drive_saga(global);
        }
        if status.is_retryable() {
            let Some(call) = self.calls.get_mut(&(tid, id)) else {
                return;
            };
            call.is_marked = true;
            let is_answer = !std::mem::take(&mut call.is_mark_pending);
            if is_answer && matches!(call.state, CallState::InFlight { .. }) {
                self.fail(global, tid, id, CallFailure::Refused, now);
            }
        } else if status.done().is_some() || status.is_unretryable() {
            let held_up_next = self.calls.get(&(tid, id)).is_some_and(|call| call.holds_up_next);
            self.drop_call(tid, id);
            let Some(global) = global else { return };
            match global.status.direction() {
                _ if global.retry_stopped => {}
                Some(Direction::Commit) if held_up_next => self.drive_next_in_commit(global),
                Some(Direction::Rollback) => self.drive_rollback(global),
                _ => {}
            }
        }
    }

    fn fail(&mut self, global: Option<&Global>, tid: Tid, id: BranchId, why: CallFailure, now: GroupTime) {
        let call = self.calls.get_mut(&(tid, id)).expect("only a call in flight can fail");
        let is_unreached = why == CallFailure::NoChannel;
        self.retrying += usize::from(!std::mem::replace(&mut call.has_failed, true));
        self.unreached -= usize::from(std::mem::replace(&mut call.is_unreached, is_unreached));
        self.unreached += usize::from(is_unreached);
        let wait = if is_unreached {
            let min = self.config.backoff_min.as_millis() as u64;
            self.prng.between(min - min / 5, min + 1)
        } else {
            call.failures += 1;
            backoff_ms(&self.config, call.failures, &mut self.prng)
        };
        if !call.is_marked && !call.is_mark_pending {
            call.is_mark_pending = true;
            let status = match call.kind {
                CallKind::Commit => BranchStatus::PhaseTwoCommitFailedRetryable,
                CallKind::Rollback => BranchStatus::PhaseTwoRollbackFailedRetryable,
            };
            self.pending.push(DriverAction::MarkRetrying {
                tid,
                branch: id,
                status,
            });
        }
        let trying_since = call.trying_since.expect("a call that failed was started");
        if now.since(trying_since) >= self.config.stuck_after && self.stuck.insert((tid, id)) {
            self.pending.push(DriverAction::Stuck { tid, branch: id });
        }
        let (kind, held_up_next) = (call.kind, std::mem::take(&mut call.holds_up_next));
        self.set_state(
            tid,
            id,
            CallState::BackingOff {
                until: now + Duration::from_millis(wait),
            },
        );
        let Some(global) = global.filter(|_| held_up_next) else {
            return;
        };
        match kind {
            CallKind::Commit => self.drive_next_in_commit(global),
            CallKind::Rollback => self.drive_rollback(global),
        }
    }

    /// The one place where a call changes its state, so that its timer and the count of calls in flight go with it.
    fn set_state(&mut self, tid: Tid, id: BranchId, state: CallState) {
        let call = self
            .calls
            .get_mut(&(tid, id))
            .expect("only a call that exists changes its state");
        let (lane, earlier) = (call.lane, std::mem::replace(&mut call.state, state));
        self.leave_state(tid, id, lane, earlier);
        match state {
            CallState::Ready => self.make_ready(lane, tid, id),
            CallState::InFlight { until } => {
                self.in_flight += 1;
                self.lanes.entry(lane).or_default().in_flight += 1;
                self.branch_timers.insert((until, (tid, id)));
            }
            CallState::BackingOff { until } => {
                self.branch_timers.insert((until, (tid, id)));
            }
        }
    }

    fn drop_calls(&mut self, tid: Tid) {
        self.stuck.extract_if(calls_of(tid), |_| true).for_each(drop);
        let calls: Vec<_> = self.calls.range(calls_of(tid)).map(|(key, _)| *key).collect();
        for (tid, branch) in calls {
            self.drop_call(tid, branch);
        }
    }

    fn drop_call(&mut self, tid: Tid, id: BranchId) {
        self.stuck.remove(&(tid, id));
        if let Some(call) = self.calls.remove(&(tid, id)) {
            self.retrying -= usize::from(call.has_failed);
            self.unreached -= usize::from(call.is_unreached);
            self.leave_state(tid, id, call.lane, call.state);
        }
    }

    fn leave_state(&mut self, tid: Tid, id: BranchId, lane: u64, state: CallState) {
        let until = match state {
            CallState::Ready => return,
            CallState::InFlight { until } => {
                self.in_flight -= 1;
                let calls = self.lanes.get_mut(&lane).expect("a lane with calls in flight is kept");
                calls.in_flight -= 1;
                self.give_turn(lane);
                until
            }
            CallState::BackingOff { until } => until,
        };
        assert!(
            self.branch_timers.remove(&(until, (tid, id))),
            "a call in flight or waiting has a timer"
        );
    }

    fn set_deadline(&mut self, tid: Tid, at: GroupTime) {
        self.unset_deadline(tid);
        self.deadlines.insert(tid, at);
        self.deadline_timers.insert((at, tid));
    }

    /// The transaction is decided, or gone.
    fn clear_deadline(&mut self, tid: Tid) {
        self.timing_out.remove(&tid);
        self.unset_deadline(tid);
    }

    fn unset_deadline(&mut self, tid: Tid) {
        if let Some(at) = self.deadlines.remove(&tid) {
            assert!(self.deadline_timers.remove(&(at, tid)), "a deadline has a timer");
        }
    }
}

/// Names the client that calls are for. Clients whose names collide share their limit, no more.
fn lane_of(application: &str, resource: &str) -> u64 {
    fingerprint(application.as_bytes()).rotate_left(21) ^ fingerprint(resource.as_bytes())
}

/// Since when the call has been retried, as far as the replicated state tells; `None` when it is to be made no more.
fn retrying_since(global: &Global, id: BranchId) -> Option<Option<GroupTime>> {
    if id.is_saga() {
        return (global.is_saga() && !global.status.is_failed()).then_some(global.decided_at());
    }
    let branch = global.branch(id).filter(|branch| branch.is_open())?;
    Some(branch.retrying_since)
}

fn calls_of(tid: Tid) -> std::ops::RangeInclusive<(Tid, BranchId)> {
    (tid, BranchId::MIN)..=(tid, BranchId::MAX)
}

/// `backoff_min` doubled for each failure after the first, give or take a fifth, at most `backoff_max`.
fn backoff_ms(config: &DriverConfig, failures: u32, prng: &mut Prng) -> u64 {
    let (min, max) = (
        config.backoff_min.as_millis() as u64,
        config.backoff_max.as_millis() as u64,
    );
    let wait = min.saturating_mul(1 << (failures - 1).min(32)).min(max);
    prng.between(wait - wait / 5, wait + wait / 5 + 1).min(max)
}
