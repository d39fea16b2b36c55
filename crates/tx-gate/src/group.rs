//! One group as this node's gate sees it: commands on their way into its log, questions to it, clients waiting for its
//! decisions to be carried out, and, while this node leads it, the driver of its second phases.

use std::{collections::BTreeMap, sync::Arc};

use settle_base::{GroupId, GroupTime, Mono, NodeId, Term};
use settle_machine::{Action, GroupRole};
use settle_tx::{
    BranchId, BranchStatus, CallFailure, Decision, Direction, Driver, DriverAction, GlobalStatus, Outcome,
    OwnedCommandBody, Reply, Tid, TxEffect, TxError,
};

use crate::{
    AdminRequest, CallId, ClientAnswer, DropReason, GateConfig, GateError, GateNote, GateResponse, RefusalError,
    RequestKey, admin,
    alerts::Alerts,
    door::{Cx, Door, Waiter},
    mover, moves,
    pending::Pending,
    reads::Reads,
    replies::{self, Due, RequestKind, Standing},
    service_groups::Parked,
};

/// Why a command is in the log.
#[derive(Debug)]
pub(crate) enum Purpose {
    /// A client asked for it. `tid` is named by all but `Begin`.
    Client { waiter: Waiter, tid: Option<Tid> },
    /// A resource manager answered a call of this node.
    Fact {
        call: CallId,
        tid: Tid,
        branch: BranchId,
        status: BranchStatus,
    },
    /// An operator asked for it.
    Operator { key: RequestKey },
    /// The driver decides that a transaction's time is up, and will again if this is lost.
    Timeout,
    /// The driver shows that a branch is being retried.
    Mark { tid: Tid, branch: BranchId },
    /// A step of a move of service groups, which is asked for again if this is lost.
    Move,
}

#[derive(Debug)]
pub(crate) enum Query {
    Status {
        waiter: Waiter,
        tid: Tid,
        /// The application that asks, if it is known.
        by: Option<String>,
    },
    Lock {
        waiter: Waiter,
        /// Of who has no transaction: its service group, whose locks this group must be the one to know.
        tid: Result<Tid, String>,
        resource: String,
        lock_keys: String,
    },
    Admin {
        key: RequestKey,
        born: Mono,
        body: AdminRequest,
    },
}

pub(crate) struct TxGroup {
    pub id: GroupId,
    pub pending: Pending<Purpose>,
    pub reads: Reads<Query>,
    /// Clients whose transaction is decided and whose answer waits for the branches.
    waits: BTreeMap<Tid, Vec<Waiter>>,
    waiting: usize,
    pub driver: Driver,
    /// The term in which the driver is at work here.
    leading: Option<Term>,
    leader: Option<(NodeId, Term)>,
    driver_actions: Vec<DriverAction>,
    /// The node that each call of the driver was sent to, and its attempt. Only calls to other nodes.
    pub sent: BTreeMap<(Tid, BranchId), (NodeId, u32)>,
    pub alerts: Alerts,
    /// This node's replica was told of moves of service groups. So that a begin asks no group that was not.
    pub knows_moves: bool,
}

impl TxGroup {
    pub fn new(id: GroupId, origin: u64, config: &GateConfig) -> TxGroup {
        TxGroup {
            id,
            pending: Pending::new(origin),
            reads: Reads::new(),
            waits: BTreeMap::new(),
            waiting: 0,
            driver: Driver::new(config.driver, origin ^ id.0),
            leading: None,
            leader: None,
            driver_actions: Vec::new(),
            sent: BTreeMap::new(),
            alerts: Alerts::default(),
            // Until it has looked.
            knows_moves: true,
        }
    }

    fn look_for_moves(&mut self, cx: &Cx<'_>) {
        self.knows_moves = cx
            .group(self.id)
            .is_none_or(|view| view.machine.marks().next().is_some());
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }

    pub fn leading(&self) -> Option<Term> {
        self.leading
    }

    pub fn submit(&mut self, body: OwnedCommandBody, purpose: Purpose, config: &GateConfig, now: Mono) {
        self.pending.submit(body, purpose, now, config.re_propose_after);
    }

    pub fn on_role(&mut self, role: GroupRole, door: &mut Door, cx: &mut Cx<'_>) {
        let leader = role.leader.map(|node| (node, role.term));
        if leader.is_some() {
            door.calls.saw_term(self.id, role.term);
        }
        if leader.is_some() && leader != self.leader {
            self.pending.queue_all();
        }
        self.leader = leader;
        let leads = (role.is_ready_leader && role.leader == Some(cx.node)).then_some(role.term);
        if leads == self.leading || (leads.is_none() && settle_base::mutant!("deposed_leader_drives")) {
            return;
        }
        if self.leading.take().is_some() {
            self.driver.resign();
            self.sent.clear();
            self.alerts = Alerts::default();
            self.pending.forget(
                cx.now,
                std::time::Duration::ZERO,
                |purpose, _| matches!(purpose, Purpose::Timeout | Purpose::Mark { .. }),
                drop,
            );
        }
        if let (Some(term), Some(view)) = (leads, cx.group(self.id)) {
            self.driver.lead(term, view.machine);
            self.leading = Some(term);
        }
    }

    pub fn on_applied(&mut self, effects: &mut Vec<TxEffect>, door: &mut Door, cx: &mut Cx<'_>) {
        let (mut ended, mut is_restored) = (Vec::new(), false);
        for effect in effects.drain(..) {
            let touched = match effect {
                TxEffect::Reply { req, result } => {
                    if let Some((purpose, body)) = self.pending.applied(req) {
                        self.on_reply(purpose, body, result, door, cx);
                    }
                    continue;
                }
                TxEffect::Begun { tid }
                | TxEffect::BranchRegistered { tid, .. }
                | TxEffect::BranchChanged { tid, .. }
                | TxEffect::Decided { tid }
                | TxEffect::Ended { tid, .. } => tid,
                TxEffect::Operated { tid, ref record } => {
                    if self.leading.is_some() {
                        let record = Arc::clone(record);
                        door.note(GateNote::Operated { record }, cx);
                    }
                    tid
                }
                TxEffect::Restored => {
                    is_restored = true;
                    continue;
                }
                TxEffect::ServiceGroups { record } => {
                    self.look_for_moves(cx);
                    if let Some(record) = record.filter(|_| self.leading.is_some()) {
                        door.note(GateNote::Operated { record }, cx);
                    }
                    continue;
                }
            };
            match effect {
                TxEffect::BranchChanged { tid, branch, .. } => drop(self.sent.remove(&(tid, branch))),
                // An operator or a saga may end it without a word on its branches.
                TxEffect::Ended { tid, .. } if !self.sent.is_empty() => {
                    let last = BranchId::try_from_i64(i64::MAX).expect("the largest id is one");
                    while let Some((key, _)) = self.sent.range(..=(tid, last)).next_back()
                        && key.0 == tid
                    {
                        let key = *key;
                        self.sent.remove(&key);
                    }
                }
                _ => {}
            }
            if self.leading.is_some()
                && let Some(view) = cx.group(self.id)
            {
                self.driver.on_effect(view.machine, &effect, view.time);
            }
            self.look_again(touched, door, cx);
            if let TxEffect::Ended { details, .. } = effect
                && door.config.tell_ended
            {
                ended.push(details);
            }
        }
        if !ended.is_empty() {
            cx.act(Action::Respond(GateResponse::Ended(ended)));
        }
        // What a backup brought no effect told of.
        if is_restored {
            self.on_reloaded(door, cx);
        }
        // What has waited for these to be applied must not wait for whatever happens next.
        self.propose(door, cx);
    }

    /// A snapshot took the place of effects: what they would have told is asked of the new state.
    pub fn on_reloaded(&mut self, door: &mut Door, cx: &mut Cx<'_>) {
        self.look_for_moves(cx);
        self.pending.queue_all();
        let waiting: Vec<Tid> = self.waits.keys().copied().collect();
        for tid in waiting {
            self.look_again(tid, door, cx);
        }
        if let (Some(term), Some(view)) = (self.leading, cx.group(self.id)) {
            self.driver.resign();
            self.driver.lead(term, view.machine);
        }
        if let Some(view) = cx.group(self.id).filter(|_| door.config.tell_ended) {
            let (group, index) = (self.id, view.machine.index());
            cx.act(Action::Respond(GateResponse::Reloaded { group, index }));
        }
    }

    fn on_reply(
        &mut self,
        purpose: Purpose,
        body: OwnedCommandBody,
        result: Result<Reply, TxError>,
        door: &mut Door,
        cx: &mut Cx<'_>,
    ) {
        match purpose {
            Purpose::Client { waiter, .. } if matches!(result, Err(TxError::ServiceGroupClosed { .. })) => {
                let (
                    OwnedCommandBody::Begin {
                        service_group,
                        name,
                        timeout_ms,
                        ..
                    },
                    Err(error),
                ) = (body, result)
                else {
                    unreachable!("only a begin is refused so")
                };
                let body = Parked::Begin { timeout_ms, name };
                door.park(waiter, service_group, body, RefusalError::Tx(error), cx);
            }
            Purpose::Client { waiter, tid } => self.on_client_reply(waiter, tid, result, door, cx),
            Purpose::Operator { key } => door.answer_operator(key, admin::to_operator(result), cx),
            Purpose::Fact {
                call,
                tid,
                branch,
                status,
            } => {
                let failed = door.calls.finish(call);
                let Err(error) = result else { return };
                door.totals.rm_nonsense_total += 1;
                door.note(
                    GateNote::FactRefused {
                        tid,
                        branch,
                        status,
                        error,
                    },
                    cx,
                );
                if let Some(failed) = failed {
                    door.failed_calls.push(failed);
                }
            }
            Purpose::Timeout | Purpose::Mark { .. } | Purpose::Move => {}
        }
    }

    fn on_client_reply(
        &mut self,
        waiter: Waiter,
        tid: Option<Tid>,
        result: Result<Reply, TxError>,
        door: &mut Door,
        cx: &mut Cx<'_>,
    ) {
        if let Err(TxError::OfAnother { tid }) = result {
            door.note_stranger(waiter, tid, cx);
        }
        let (Some(tid), RequestKind::Commit | RequestKind::Rollback) = (tid, waiter.kind) else {
            return door.give(waiter, replies::to_reply(waiter.kind, result), cx);
        };
        match result {
            // The status in the reply may be older than this replica's state: the state answers.
            Ok(_) => self.answer_decided(waiter, tid, door, cx),
            Err(error) => match replies::to_refused_decision(waiter.kind, &error) {
                Some(status) => door.answer(waiter, ClientAnswer::Ended { status }, cx),
                None => door.give(waiter, replies::to_reply(waiter.kind, Err(error)), cx),
            },
        }
    }

    /// Answers a commit or rollback of a transaction that is decided, now or when its branches are done.
    pub fn answer_decided(&mut self, waiter: Waiter, tid: Tid, door: &mut Door, cx: &mut Cx<'_>) {
        match self.standing(waiter, tid, cx) {
            Standing::Answer(status) => door.answer(waiter, ClientAnswer::Ended { status }, cx),
            Standing::WaitForPhaseTwo(_) | Standing::WaitForTheEnd | Standing::Undecided => {
                self.waits.entry(tid).or_default().push(waiter);
                self.waiting += 1;
            }
        }
    }

    /// How the transaction stands for this client on this node's replica; undecided when there is none.
    pub fn standing(&self, waiter: Waiter, tid: Tid, cx: &Cx<'_>) -> Standing {
        let is_commit = waiter.kind == RequestKind::Commit;
        if settle_base::mutant!("outcomes_of_another_group") {
            let other = tid.group().0 as u8 % 3 + 1;
            let outcome = cx
                .group(GroupId(u64::from(other)))
                .map(|view| replies::standing(is_commit, &view.machine.outcome(Tid::new(other, tid.seq()))));
            if let Some(standing) = outcome.filter(|standing| *standing != Standing::Undecided) {
                return standing;
            }
        }
        match cx.group(self.id) {
            Some(view) => replies::standing(is_commit, &view.machine.outcome(tid)),
            None => Standing::Undecided,
        }
    }

    fn look_again(&mut self, tid: Tid, door: &mut Door, cx: &mut Cx<'_>) {
        let Some(waiters) = self.waits.remove(&tid) else { return };
        self.waiting -= waiters.len();
        for waiter in waiters {
            self.answer_decided(waiter, tid, door, cx);
        }
    }

    pub fn answer_queries(&mut self, token: u64, door: &mut Door, cx: &mut Cx<'_>) {
        let queries = self.reads.ready(token);
        let Some(view) = cx.group(self.id) else {
            queries.into_iter().for_each(|query| self.reads.add(query));
            return;
        };
        for query in queries {
            match query {
                Query::Status { waiter, tid, by } => {
                    let status = match view.machine.outcome(tid) {
                        Outcome::Open(global) if by.is_some_and(|by| !global.has_part_of(&by)) => {
                            door.note_stranger(waiter, tid, cx);
                            replies::of_a_stranger(waiter.kind)
                        }
                        Outcome::Unknown => replies::of_a_stranger(waiter.kind),
                        outcome => outcome.status(),
                    };
                    door.answer(waiter, ClientAnswer::Status { status }, cx);
                }
                Query::Lock {
                    waiter,
                    tid,
                    resource,
                    lock_keys,
                } => {
                    if let Err(service_group) = &tid
                        && let Err(error) = view.machine.knows_locks_of(service_group)
                    {
                        let (service_group, error) = (service_group.clone(), RefusalError::Tx(error));
                        let body = Parked::Lock { resource, lock_keys };
                        door.park(waiter, service_group, body, error, cx);
                        continue;
                    }
                    let mut result = view.machine.lockable(&resource, &lock_keys, tid.ok());
                    if let Err(TxError::LockConflict { holder, .. }) = result
                        && settle_base::mutant!("locks_free_before_the_decision_is_durable")
                        && self.pending.has(|body| is_commit_of(body, holder))
                    {
                        result = Ok(());
                    }
                    door.give(waiter, replies::to_lock_query(result), cx);
                }
                Query::Admin { key, body, .. } => {
                    let result = match body {
                        AdminRequest::ListTx(filter) => {
                            let is_last = self.is_last_group(filter.group, door);
                            Ok(admin::list(view.machine, view.time, &filter, is_last))
                        }
                        AdminRequest::ShowTx(filter) => admin::show(view.machine, view.time, &filter),
                        AdminRequest::Locks(filter) => {
                            let is_last = self.is_last_group(filter.group, door);
                            Ok(admin::locks(view.machine, view.time, &filter, is_last))
                        }
                        AdminRequest::Audit { before, limit, .. } => Ok(admin::audit(view.machine, before, limit)),
                        AdminRequest::Sessions => Ok(admin::sessions(&door.directory)),
                        AdminRequest::ServiceGroups => Ok(moves::list(view.machine, view.time, &door.config, cx)),
                        AdminRequest::Operate(_)
                        | AdminRequest::Restore { .. }
                        | AdminRequest::MoveServiceGroups { .. }
                        | AdminRequest::CancelMove { .. } => unreachable!("an act is a command"),
                    };
                    door.answer_admin(key, result, cx);
                }
            }
        }
    }

    /// A list ends with this group: it was asked for alone, or no group comes behind it.
    fn is_last_group(&self, asked: Option<GroupId>, door: &Door) -> bool {
        asked.is_some() || door.config.groups.iter().all(|group| *group <= self.id)
    }

    /// Ends what has waited long enough, and queues again what seems lost.
    pub fn tick(&mut self, door: &mut Door, cx: &mut Cx<'_>) {
        let now = cx.now;
        self.look_for_moves(cx);
        let mut over = Vec::new();
        self.pending.forget(
            now,
            door.config.re_propose_after,
            |purpose, age| match purpose {
                Purpose::Client { waiter, .. } => door.is_over(waiter, now),
                Purpose::Operator { .. } => age >= door.config.reply_hold_rm,
                Purpose::Fact { .. } | Purpose::Mark { .. } => age >= door.config.fact_hold,
                Purpose::Timeout => age >= door.config.driver.backoff_min,
                Purpose::Move => age >= mover::PAUSE_MAX,
            },
            |purpose| over.push(purpose),
        );
        for purpose in over {
            match purpose {
                Purpose::Client { waiter, tid: Some(_) }
                    if waiter.kind == RequestKind::Commit && settle_base::mutant!("hold_answered_with_begin") =>
                {
                    let status = GlobalStatus::Begin;
                    door.answer(waiter, ClientAnswer::Ended { status }, cx);
                }
                Purpose::Client { waiter, .. } => door.give(waiter, Due::Silence(DropReason::HoldExpired), cx),
                Purpose::Operator { key } => door.answer_admin(key, Err(GateError::ActTimedOut), cx),
                // The leader gives the call up by itself and makes it again.
                Purpose::Fact { call, .. } => drop(door.calls.finish(call)),
                Purpose::Mark { tid, branch } => self.driver.on_mark_lost(tid, branch),
                Purpose::Timeout | Purpose::Move => {}
            }
        }
        self.end_waits(door, cx);
        self.watch(door, cx);
        let hold = door.config.reply_hold_rm;
        let expired = self.reads.expire(now, |query| match query {
            Query::Status { waiter, .. } | Query::Lock { waiter, .. } => door.is_over(waiter, now),
            Query::Admin { born, .. } => now.since(*born) >= hold,
        });
        for query in expired {
            match query {
                Query::Status { waiter, .. } | Query::Lock { waiter, .. } => {
                    door.give(waiter, Due::Silence(DropReason::HoldExpired), cx);
                }
                Query::Admin { key, .. } => door.answer_admin(key, Err(GateError::ReadTimedOut), cx),
            }
        }
        self.pending.queue_overdue(now, door.config.re_propose_after);
    }

    /// Looks for what somebody should hear of, on the node that leads.
    fn watch(&mut self, door: &mut Door, cx: &mut Cx<'_>) {
        if self.leading.is_none() || !self.alerts.is_time(cx.now) {
            return;
        }
        let Some(view) = cx.group(self.id) else { return };
        let limit = door.config.lock_held_alert;
        for note in self.alerts.look(self.id, view.machine, view.time, &self.driver, limit) {
            door.note(note, cx);
        }
    }

    /// A decided request is answered with the decision before its hold ends: it never goes unanswered.
    fn end_waits(&mut self, door: &mut Door, cx: &mut Cx<'_>) {
        let patience = door.config.phase_two_wait.min(door.config.reply_hold_tm);
        let is_late = |waiter: &Waiter| cx.now.since(waiter.born) >= patience;
        let late: Vec<(Tid, Waiter)> = self
            .waits
            .iter()
            .flat_map(|(tid, waiters)| waiters.iter().map(|waiter| (*tid, *waiter)))
            .filter(|(_, waiter)| is_late(waiter))
            .collect();
        for (tid, waiter) in late {
            let due = match self.standing(waiter, tid, cx) {
                Standing::Answer(status) | Standing::WaitForPhaseTwo(status) => {
                    Due::Answer(ClientAnswer::Ended { status })
                }
                // Undecided only without a replica here.
                Standing::WaitForTheEnd | Standing::Undecided if door.is_over(&waiter, cx.now) => {
                    Due::Silence(DropReason::HoldExpired)
                }
                Standing::WaitForTheEnd | Standing::Undecided => continue,
            };
            let waiters = self.waits.get_mut(&tid).expect("it was just seen");
            waiters.retain(|other| *other != waiter);
            if waiters.is_empty() {
                self.waits.remove(&tid);
            }
            self.waiting -= 1;
            door.give(waiter, due, cx);
        }
    }

    /// Proposes and asks what was gathered.
    pub fn flush(&mut self, door: &mut Door, cx: &mut Cx<'_>) {
        self.propose(door, cx);
        let has_leader = cx.group(self.id).is_some_and(|view| view.role.leader.is_some());
        if let Some(token) = has_leader.then(|| self.reads.ask(cx.now)).flatten() {
            let group = self.id;
            cx.act(Action::Read { group, token });
        }
    }

    /// Proposes what was gathered, unless more had better come first. A node that does not lead hands on what it has: the
    /// leader cannot gather for it.
    fn propose(&mut self, door: &mut Door, cx: &mut Cx<'_>) {
        let Some(view) = cx.group(self.id) else { return };
        if view.role.leader.is_none() || (self.leading.is_some() && self.pending.awaits_company(cx.now)) {
            return;
        }
        let group = self.id;
        let actions = &mut *cx.actions;
        // A timeout is judged by this leader's time. Another one's may be earlier, so it must not get there by way of him.
        let leading = self
            .leading
            .filter(|_| !settle_base::mutant!("timeout_of_a_deposed_leader"));
        let is_leaders = |purpose: &Purpose| matches!(purpose, Purpose::Timeout);
        self.pending
            .take_batches(cx.now, door.config.re_propose_max, is_leaders, |command, is_leaders| {
                actions.push(Action::Propose {
                    group,
                    command,
                    expected_term: leading.filter(|_| is_leaders),
                });
            });
    }

    /// What the driver wants done now; nothing on a node that does not lead.
    pub fn drive(&mut self, door: &mut Door, cx: &mut Cx<'_>) {
        let (Some(term), Some(view)) = (self.leading, cx.group(self.id)) else {
            return;
        };
        let mut actions = std::mem::take(&mut self.driver_actions);
        let now = match settle_base::mutant!("wall_clock_in_a_timeout") {
            true => GroupTime(cx.now.as_millis()),
            false => view.time,
        };
        self.driver.poll(view.machine, now, &mut actions);
        for action in actions.drain(..) {
            self.carry_out(action, term, &view, door, cx);
        }
        self.driver_actions = actions;
    }

    /// A node is gone or silent, and with it the calls that were sent there: they are made again, through another one, and
    /// who waits for them hears that it takes longer.
    pub fn on_peer_lost(&mut self, node: NodeId, cx: &Cx<'_>) {
        let Some(term) = self.leading else { return };
        let lost = self.sent.extract_if(.., |_, (to, _)| *to == node);
        for ((tid, branch), (_, attempt)) in lost.collect::<Vec<_>>() {
            self.on_call_failed(term, tid, branch, attempt, CallFailure::Disconnected, cx);
        }
    }

    pub fn on_call_failed(
        &mut self,
        term: Term,
        tid: Tid,
        branch: BranchId,
        attempt: u32,
        why: CallFailure,
        cx: &Cx<'_>,
    ) {
        if self.leading == Some(term)
            && let Some(view) = cx.group(self.id)
        {
            if why == CallFailure::Timeout
                && settle_base::mutant!("silence_taken_for_done")
                && let Some(direction) = view.machine.global(tid).and_then(|global| global.status.direction())
            {
                let status = match direction {
                    Direction::Commit => BranchStatus::PhaseTwoCommitted,
                    Direction::Rollback => BranchStatus::PhaseTwoRollbacked,
                };
                let body = OwnedCommandBody::BranchDone { tid, branch, status };
                let pause = std::time::Duration::from_secs(1);
                self.pending.submit(body, Purpose::Mark { tid, branch }, cx.now, pause);
            }
            if self.sent.get(&(tid, branch)).is_some_and(|(_, sent)| *sent == attempt) {
                self.sent.remove(&(tid, branch));
            }
            self.driver
                .on_call_failed(view.machine, tid, branch, attempt, why, view.time);
        }
    }
}

fn is_commit_of(body: &OwnedCommandBody, holder: Tid) -> bool {
    let decision = Decision::Commit;
    matches!(body, OwnedCommandBody::Decide { tid, decision: asked, .. } if (*tid, *asked) == (holder, decision))
}
