//! What a client is told. The Java client ignores the result code of commit, rollback, status and report and takes
//! almost every status for success, so those four are told the truth or nothing.

use std::sync::Arc;

use settle_tx::{GlobalStatus, Outcome, Reply, TxError};

use crate::{ClientAnswer, DropReason, GateError, Refusal, RefusalError};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RequestKind {
    Begin,
    Commit,
    Rollback,
    Status,
    Report,
    RegisterBranch,
    ReportBranch,
    LockQuery,
}

/// What is due to a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Due {
    Answer(ClientAnswer),
    Silence(DropReason),
}

/// How a request to end a transaction stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    Undecided,
    /// A saga that has not ended: whichever way it goes, its state machine may still turn it round. Nobody who asked to end
    /// it is told before it has ended; its status and the reports of its own state machine are answered by where it stands,
    /// which is no outcome.
    WaitForTheEnd,
    /// Decided; when the hold is nearly over, this status is the answer.
    WaitForPhaseTwo(GlobalStatus),
    Answer(GlobalStatus),
}

impl RequestKind {
    /// From a transaction manager, and so held longer.
    pub fn is_of_tm(self) -> bool {
        matches!(
            self,
            RequestKind::Begin
                | RequestKind::Commit
                | RequestKind::Rollback
                | RequestKind::Status
                | RequestKind::Report
        )
    }

    /// Its client looks at the result code, so that it can be refused.
    fn is_refusable(self) -> bool {
        matches!(
            self,
            RequestKind::Begin | RequestKind::RegisterBranch | RequestKind::ReportBranch | RequestKind::LockQuery
        )
    }

    /// `TransactionExceptionCode` of a refusal by the gate.
    fn exception(self, error: &GateError) -> u8 {
        match (self, error) {
            (_, GateError::UnknownXid { .. }) => 10,
            (_, GateError::UnknownBranch { .. }) => 9,
            (_, GateError::TooManyBranches { .. }) => 15,
            (RequestKind::Begin, _) => 1,
            (RequestKind::RegisterBranch, _) => 6,
            (RequestKind::ReportBranch, _) => 7,
            (RequestKind::LockQuery, _) => 8,
            _ => 0,
        }
    }
}

/// The gate cannot take the request.
pub(crate) fn refused_at_the_door(kind: RequestKind, error: GateError) -> Due {
    if kind.is_refusable() {
        let exception = kind.exception(&error);
        return Due::Answer(ClientAnswer::Refused(Refusal {
            error: RefusalError::Gate(error),
            exception,
        }));
    }
    match error {
        GateError::UnknownXid { .. } => Due::Answer(ended(kind, of_a_stranger(kind))),
        error => Due::Silence(DropReason::Refused(error)),
    }
}

/// The machine answered a command that is not an end by commit or rollback.
pub(crate) fn to_reply(kind: RequestKind, result: Result<Reply, TxError>) -> Due {
    match (kind, result) {
        // It may have been done; whatever we said could be a lie.
        (_, Err(TxError::RequestExpired)) => Due::Silence(DropReason::OutcomeLost),
        (RequestKind::Begin, Ok(Reply::Begun { xid, .. })) => Due::Answer(ClientAnswer::Begun { xid: text(&xid) }),
        (RequestKind::RegisterBranch, Ok(Reply::Branch { branch })) => Due::Answer(ClientAnswer::BranchRegistered {
            branch: branch.as_i64(),
        }),
        (RequestKind::ReportBranch, Ok(Reply::Reported)) => Due::Answer(ClientAnswer::BranchReported),
        (RequestKind::Report, Ok(Reply::Ended { status })) => Due::Answer(ended(kind, status)),
        (RequestKind::Report, Err(TxError::IllegalEnd { from, .. })) if from != GlobalStatus::Begin => {
            Due::Answer(ended(kind, from))
        }
        (RequestKind::Report, Err(TxError::UnknownXid { .. } | TxError::OfAnother { .. })) => {
            Due::Answer(ended(kind, of_a_stranger(kind)))
        }
        (RequestKind::Report, Err(TxError::OutcomeEvicted { .. })) => Due::Answer(ended(kind, GlobalStatus::Finished)),
        (kind, Err(error)) if kind.is_refusable() => {
            let exception = error.exception_code();
            Due::Answer(ClientAnswer::Refused(Refusal {
                error: RefusalError::Tx(error),
                exception,
            }))
        }
        (_, Err(error)) => Due::Silence(DropReason::RefusedByMachine(error)),
        (kind, Ok(reply)) => unreachable!("the machine answers a command in kind, not {kind:?} with {reply:?}"),
    }
}

/// How a commit (or else a rollback) of the transaction stands.
pub(crate) fn standing(is_commit: bool, outcome: &Outcome<'_>) -> Standing {
    let answer = if is_commit {
        outcome.commit_answer()
    } else {
        outcome.rollback_answer()
    };
    let may_turn = matches!(outcome, Outcome::Open(global) if global.is_saga());
    match (is_commit, answer) {
        (_, None) => Standing::Undecided,
        _ if may_turn => Standing::WaitForTheEnd,
        (true, Some(GlobalStatus::Committing)) => Standing::WaitForPhaseTwo(GlobalStatus::Committing),
        (false, Some(status @ (GlobalStatus::Rollbacking | GlobalStatus::TimeoutRollbacking))) => {
            Standing::WaitForPhaseTwo(status)
        }
        (_, Some(status)) => Standing::Answer(status),
    }
}

/// The machine refused a decision; None when that says nothing of how the transaction stands.
pub(crate) fn to_refused_decision(kind: RequestKind, error: &TxError) -> Option<GlobalStatus> {
    match error {
        TxError::UnknownXid { .. } | TxError::OfAnother { .. } => Some(of_a_stranger(kind)),
        TxError::OutcomeEvicted { .. } => Some(GlobalStatus::Finished),
        _ => None,
    }
}

/// What a client is told of a transaction that this cluster never began: of another server, left in flight when its client
/// came here, or of nobody. And of one that another application began, which is none of its business. Nothing is decided by this answer, so its own server will roll it back when its time is up.
///
/// Java's TM takes every status but five for a commit. Of those five it throws this one as a timeout and leaves it at that,
/// while with TimeoutRollbacking its failure handler asks for the status for an hour; Finished is a success to older ones,
/// and to nobody a failure that says why (`TransactionalTemplate`, `DefaultFailureHandlerImpl`).
pub(crate) fn of_a_stranger(kind: RequestKind) -> GlobalStatus {
    match kind {
        RequestKind::Commit | RequestKind::Rollback => GlobalStatus::TimeoutRollbacked,
        _ => GlobalStatus::UnKnown,
    }
}

pub(crate) fn to_lock_query(result: Result<(), TxError>) -> Due {
    match result {
        Ok(()) => Due::Answer(ClientAnswer::Lockable { lockable: true }),
        Err(TxError::LockConflict { .. }) => Due::Answer(ClientAnswer::Lockable { lockable: false }),
        Err(error) => to_reply(RequestKind::LockQuery, Err(error)),
    }
}

fn ended(kind: RequestKind, status: GlobalStatus) -> ClientAnswer {
    match kind {
        RequestKind::Status => ClientAnswer::Status { status },
        _ => ClientAnswer::Ended { status },
    }
}

fn text(shared: &Arc<str>) -> String {
    String::from(&**shared)
}
