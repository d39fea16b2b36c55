//! Second-phase calls on the channels of this node: at most one out per branch, never for an older leader than the
//! newest one known, each kept until its answer is in the log.

use std::{collections::BTreeMap, time::Duration};

use settle_base::{FixedMap, GroupId, Mono, NodeId, Term};
use settle_tx::{BranchId, BranchStatus, CallFailure, CallKind, Direction, Tid};

use crate::{CallId, ConnId, GateError, RmAnswer, message::PeerCall};

/// After its timeout a call's answer still counts for this many timeouts: a late answer is a fact too.
const GRACE: u32 = 4;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Out,
    /// Its leader was told that it timed out.
    TimedOut,
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
    /// A status that answers nothing; the call has failed.
    NoStatus(FailedCall),
}

#[derive(Debug, Default)]
pub(crate) struct Calls {
    calls: BTreeMap<CallId, Call>,
    by_branch: FixedMap<BranchId, CallId>,
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
        if let Some(id) = self.by_branch.get(&call.branch) {
            let out = self.calls.get_mut(id).expect("both tables hold the same calls");
            if out.tid != call.tid || out.kind != call.body.kind {
                return Verdict::Contradicting;
            }
            if out.state != State::TimedOut {
                (out.caller, out.term, out.attempt) = (caller, call.term, call.attempt);
                return Verdict::Outstanding;
            }
            let id = *id;
            self.remove(id);
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
        let Some(call) = self.calls.get_mut(&id) else {
            return Answered::Unknown;
        };
        if call.conn != conn || call.state == State::Answered {
            return Answered::Unknown;
        }
        // Java fills in neither xid nor branch when its handler threw (`AbstractRMHandler`).
        let is_blank = !answer.ok && answer.xid.is_empty() && answer.branch == 0;
        if !is_blank && (answer.xid != call.xid || answer.branch != call.branch.as_i64()) {
            let (xid, branch) = (answer.xid.clone(), answer.branch);
            return Answered::Wrong(GateError::WrongAnswer {
                conn,
                call: id,
                xid,
                branch,
            });
        }
        match fact(call.kind, answer) {
            Some(status) => {
                call.state = State::Answered;
                Answered::Fact {
                    group: call.group,
                    tid: call.tid,
                    branch: call.branch,
                    status,
                }
            }
            None => {
                let call = self.remove(id).expect("it was just seen");
                Answered::NoStatus(call.failed(CallFailure::Refused))
            }
        }
    }

    /// The answer is in the log (or will never be): the branch may be called again. Gives whom to tell if it failed.
    pub fn finish(&mut self, id: CallId) -> Option<FailedCall> {
        self.remove(id).map(|call| call.failed(CallFailure::Refused))
    }

    /// Calls that have just timed out. Those long over are forgotten.
    pub fn time_out(&mut self, now: Mono, timeout: Duration) -> Vec<FailedCall> {
        let mut failed = Vec::new();
        let mut over = Vec::new();
        for (id, call) in self.calls.iter_mut().take_while(|(_, call)| call.timeout_at <= now) {
            match call.state {
                State::Out => {
                    call.state = State::TimedOut;
                    failed.push(call.failed(CallFailure::Timeout));
                }
                State::TimedOut if now >= call.timeout_at + timeout * (GRACE - 1) => over.push(*id),
                State::TimedOut | State::Answered => {}
            }
        }
        for id in over {
            self.remove(id);
        }
        failed
    }

    /// The channel is gone, and with it what was out on it.
    pub fn close(&mut self, conn: ConnId) -> Vec<FailedCall> {
        let on_it = |call: &Call| call.conn == conn && call.state != State::Answered;
        let gone: Vec<CallId> = self
            .calls
            .iter()
            .filter(|(_, call)| on_it(call))
            .map(|(id, _)| *id)
            .collect();
        let removed = gone.into_iter().filter_map(|id| self.remove(id));
        removed
            .filter(|call| call.state == State::Out)
            .map(|call| call.failed(CallFailure::Disconnected))
            .collect()
    }

    fn remove(&mut self, id: CallId) -> Option<Call> {
        let call = self.calls.remove(&id)?;
        let known = self.by_branch.remove(&call.branch);
        assert_eq!(known, Some(id), "a branch has one call");
        Some(call)
    }
}

impl Call {
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
        Some(status) if !answer.ok && status.done().is_some() => Some(retryable(kind)),
        Some(status) => Some(status),
        None if !answer.ok => Some(retryable(kind)),
        None => None,
    }
}

fn retryable(kind: CallKind) -> BranchStatus {
    match kind {
        CallKind::Commit => BranchStatus::PhaseTwoCommitFailedRetryable,
        CallKind::Rollback => BranchStatus::PhaseTwoRollbackFailedRetryable,
    }
}
