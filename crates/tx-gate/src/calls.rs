//! Second-phase calls on the channels of this node: at most one out per branch, never for an older leader than the
//! newest one known, each kept until its answer is in the log.
//!
//! A call that timed out makes room for a new one, but is remembered while its connection is open: a resource manager
//! that always needs longer than the timeout still gets its branch done with its first answer.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use settle_base::{FixedMap, GroupId, Mono, NodeId, Term};
use settle_tx::{BranchId, BranchStatus, CallFailure, CallKind, Direction, Tid};

use crate::{CallId, ConnId, GateError, RmAnswer, message::PeerCall};

/// Timed-out calls of one branch that are remembered, the newest. With the driver's back-off they reach back for more
/// than five minutes.
const LATE_PER_BRANCH: usize = 8;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Out,
    /// Its answer waits to be applied.
    Answered,
}

#[derive(Debug)]
struct Call {
    group: GroupId,
    tid: Tid,
    branch: BranchId,
    kind: CallKind,
    xid: String,
    conn: ConnId,
    /// The newest leader that asked for it.
    caller: NodeId,
    term: Term,
    attempt: u32,
    state: State,
    timeout_at: Mono,
}

/// Whom to tell that a call came to nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FailedCall {
    pub caller: NodeId,
    pub group: GroupId,
    pub term: Term,
    pub tid: Tid,
    pub branch: BranchId,
    pub attempt: u32,
    pub xid: String,
    pub why: CallFailure,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Make it.
    Make(CallId),
    /// It is out already; its answer will count for this caller.
    Outstanding,
    OldTerm {
        newest: Term,
    },
    Contradicting,
    TooMany,
}

/// What a resource manager's answer means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Answered {
    Fact {
        group: GroupId,
        tid: Tid,
        branch: BranchId,
        status: BranchStatus,
    },
    /// No such call, or its answer is known already.
    Unknown,
    /// It speaks of something else than it was asked.
    Wrong(GateError),
    /// It came after the timeout and does not end the branch.
    Late,
    /// A status that answers nothing; the call has failed.
    NoStatus(FailedCall),
}

#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// Those that count.
    calls: BTreeMap<CallId, Call>,
    by_branch: FixedMap<BranchId, CallId>,
    /// Those whose leader was told that they timed out. Their answers still count.
    late: BTreeMap<CallId, Call>,
    late_of: FixedMap<BranchId, VecDeque<CallId>>,
    newest_term: BTreeMap<GroupId, Term>,
    last_id: u64,
}

impl Calls {
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// A leader of this term is known.
    pub fn saw_term(&mut self, group: GroupId, term: Term) {
        let newest = self.newest_term.entry(group).or_default();
        *newest = term.max(*newest);
    }

    pub fn accept(&mut self, caller: NodeId, call: &PeerCall, now: Mono, timeout: Duration, limit: usize) -> Verdict {
        self.saw_term(call.group, call.term);
        let newest = self.newest_term[&call.group];
        if call.term < newest {
            return Verdict::OldTerm { newest };
        }
        // A saga's state machine may have turned round; the answer to the earlier call is as true as one to this.
        let contradicts = |out: &Call| out.tid != call.tid || (out.kind != call.body.kind && !call.branch.is_saga());
        if let Some(id) = self.by_branch.get(&call.branch) {
            let out = self.calls.get_mut(id).expect("both tables hold the same calls");
            if contradicts(out) {
                return Verdict::Contradicting;
            }
            (out.caller, out.term, out.attempt) = (caller, call.term, call.attempt);
            return Verdict::Outstanding;
        }
        if let Some(late) = self.late_of.get(&call.branch)
            && late.iter().any(|id| contradicts(&self.late[id]))
        {
            return Verdict::Contradicting;
        }
        if self.calls.len() >= limit {
            return Verdict::TooMany;
        }
        self.last_id += 1;
        let id = CallId(self.last_id);
        self.by_branch.insert(call.branch, id);
        let out = Call {
            group: call.group,
            tid: call.tid,
            branch: call.branch,
            kind: call.body.kind,
            xid: call.body.xid.clone(),
            conn: call.conn,
            caller,
            term: call.term,
            attempt: call.attempt,
            state: State::Out,
            timeout_at: now + timeout,
        };
        self.calls.insert(id, out);
        Verdict::Make(id)
    }

    pub fn answer(&mut self, conn: ConnId, id: CallId, answer: &RmAnswer) -> Answered {
        let is_late = self.late.contains_key(&id);
        let Some(call) = self.calls.get(&id).or_else(|| self.late.get(&id)) else {
            return Answered::Unknown;
        };
        if call.conn != conn || call.state == State::Answered {
            return Answered::Unknown;
        }
        // Java fills in neither xid nor branch when its handler threw (`AbstractRMHandler`).
        let is_blank = !answer.ok && answer.xid.is_empty() && answer.branch == 0;
        if !is_blank && (answer.xid != call.xid || answer.branch != call.branch.on_the_wire()) {
            let (xid, branch) = (answer.xid.clone(), answer.branch);
            return Answered::Wrong(GateError::WrongAnswer {
                conn,
                call: id,
                xid,
                branch,
            });
        }
        let fact = match call.branch.is_saga() {
            true => saga_fact(call.kind, answer),
            false => fact(call.kind, answer),
        };
        if is_late {
            return self.answer_late(id, fact);
        }
        match fact {
            Some(status) => {
                let call = self.calls.get_mut(&id).expect("it was just seen");
                call.state = State::Answered;
                call.fact(status)
            }
            None => {
                let call = self.remove(id).expect("it was just seen");
                Answered::NoStatus(call.failed(CallFailure::Refused))
            }
        }
    }

    /// How the branch ended is a fact however late it comes. That a call failed is known since it timed out, and says
    /// nothing of one that may be out again.
    fn answer_late(&mut self, id: CallId, fact: Option<BranchStatus>) -> Answered {
        let mut call = self.forget_late(id).expect("it was just seen");
        match fact {
            Some(status) if !status.is_retryable() => {
                let answered = call.fact(status);
                // The branch is not called again while its fact is on its way.
                if *self.by_branch.entry(call.branch).or_insert(id) == id {
                    call.state = State::Answered;
                    self.calls.insert(id, call);
                }
                answered
            }
            _ => Answered::Late,
        }
    }

    /// The answer is in the log (or will never be): the branch may be called again. Gives whom to tell if it failed.
    pub fn finish(&mut self, id: CallId) -> Option<FailedCall> {
        self.remove(id).map(|call| call.failed(CallFailure::Refused))
    }

    /// Calls that have just timed out; `limit` of them are remembered, the newest.
    pub fn time_out(&mut self, now: Mono, limit: usize) -> Vec<FailedCall> {
        let due = self.calls.iter().take_while(|(_, call)| call.timeout_at <= now);
        let over: Vec<CallId> = due
            .filter(|(_, call)| call.state == State::Out)
            .map(|(id, _)| *id)
            .collect();
        let mut failed = Vec::with_capacity(over.len());
        for id in over {
            let call = self.remove(id).expect("it was just seen");
            failed.push(call.failed(CallFailure::Timeout));
            let late = self.late_of.entry(call.branch).or_default();
            late.push_back(id);
            let oldest = late.front().copied().filter(|_| late.len() > LATE_PER_BRANCH);
            self.late.insert(id, call);
            let oldest = oldest.or_else(|| self.late.keys().next().copied().filter(|_| self.late.len() > limit));
            oldest.and_then(|id| self.forget_late(id));
        }
        failed
    }

    /// The channel is gone, and with it what was out on it.
    pub fn close(&mut self, conn: ConnId) -> Vec<FailedCall> {
        let late: Vec<CallId> = ids_of(&self.late, |call| call.conn == conn);
        for id in late {
            self.forget_late(id);
        }
        let gone = ids_of(&self.calls, |call| call.conn == conn && call.state == State::Out);
        let removed = gone.into_iter().filter_map(|id| self.remove(id));
        removed.map(|call| call.failed(CallFailure::Disconnected)).collect()
    }

    fn forget_late(&mut self, id: CallId) -> Option<Call> {
        let call = self.late.remove(&id)?;
        let late = self
            .late_of
            .get_mut(&call.branch)
            .expect("both tables hold the same calls");
        late.retain(|other| *other != id);
        if late.is_empty() {
            self.late_of.remove(&call.branch);
        }
        Some(call)
    }

    fn remove(&mut self, id: CallId) -> Option<Call> {
        let call = self.calls.remove(&id)?;
        let known = self.by_branch.remove(&call.branch);
        assert_eq!(known, Some(id), "a branch has one call");
        Some(call)
    }
}

fn ids_of(calls: &BTreeMap<CallId, Call>, is_meant: impl Fn(&Call) -> bool) -> Vec<CallId> {
    let meant = calls.iter().filter(|(_, call)| is_meant(call));
    meant.map(|(id, _)| *id).collect()
}

impl Call {
    fn fact(&self, status: BranchStatus) -> Answered {
        Answered::Fact {
            group: self.group,
            tid: self.tid,
            branch: self.branch,
            status,
        }
    }

    fn failed(&self, why: CallFailure) -> FailedCall {
        FailedCall {
            caller: self.caller,
            group: self.group,
            term: self.term,
            tid: self.tid,
            branch: self.branch,
            attempt: self.attempt,
            xid: self.xid.clone(),
            why,
        }
    }
}

/// What the answer says of the branch; None when it says nothing that fits the call.
fn fact(kind: CallKind, answer: &RmAnswer) -> Option<BranchStatus> {
    let direction = match kind {
        CallKind::Commit => Direction::Commit,
        CallKind::Rollback => Direction::Rollback,
    };
    let fitting = answer
        .branch_status
        .filter(|status| status.direction() == Some(direction));
    match fitting {
        // Failed, yet "done": the result code decides, and asking again is harmless.
        Some(status)
            if !answer.ok && status.done().is_some() && !settle_base::mutant!("failed_answer_taken_for_done") =>
        {
            Some(retryable(kind))
        }
        Some(status) => Some(status),
        None if !answer.ok => Some(retryable(kind)),
        None => None,
    }
}

/// What the answer says of a saga: its state machine may tell that it went the other way, or that there is nothing to
/// do (`SagaResourceManager`).
fn saga_fact(kind: CallKind, answer: &RmAnswer) -> Option<BranchStatus> {
    match answer.branch_status {
        Some(status) if !answer.ok && status.done().is_some() => Some(retryable(kind)),
        Some(status) if status.direction().is_some() || status == BranchStatus::PhaseOneFailed => Some(status),
        _ if !answer.ok => Some(retryable(kind)),
        _ => None,
    }
}

fn retryable(kind: CallKind) -> BranchStatus {
    match kind {
        CallKind::Commit => BranchStatus::PhaseTwoCommitFailedRetryable,
        CallKind::Rollback => BranchStatus::PhaseTwoRollbackFailedRetryable,
    }
}
