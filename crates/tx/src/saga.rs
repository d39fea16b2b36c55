//! Sagas of Seata's state machine. It runs in the client, which tells where it stands (`GlobalReport`); its branches,
//! if it registers any (by default it does not), are never called. What the coordinator adds is that a saga whose
//! client is gone goes on: a decided one is carried to any client of its application by a single call, and the state
//! machine there goes forward or compensates and answers with where that led.
//!
//! So it is the state machine and not the coordinator that knows the way. It may answer a call back with "forward"
//! (its recover strategy, when it has timed out) and one forward with "I am compensating": until it has ended a saga
//! may change its direction, and nothing else may. So nobody who asks to end it is told an outcome before it has ended;
//! its status, and the answers to its own state machine's reports, tell where it stands, which is none.
//!
//! Source: `server/transaction/saga/SagaCore`, `saga/rm/SagaResourceManager`, `GlobalSession.isSaga` of Seata 2.x.

use std::sync::Arc;

use crate::{
    BranchId, BranchStatus, BranchType, Direction, Global, GlobalStatus, Reply, Tid, TxEffect, TxError, TxMachine,
    global::Moment,
};

/// How the state machine names its transactions (`Constants.SAGA_TRANS_NAME_PREFIX`): all that tells one without
/// branches, which is the default, from another transaction.
const NAME_PREFIX: &str = "$Saga_";

impl Global {
    /// A state machine in the client drives it.
    pub fn is_saga(&self) -> bool {
        match self.branches() {
            [] => self.name.starts_with(NAME_PREFIX),
            branches => branches.iter().all(|branch| branch.branch_type == BranchType::Saga),
        }
    }

    /// The resource under which each client of the saga's application serves its state machines
    /// (`SagaCore.getSagaResourceId`).
    pub fn saga_resource(&self) -> String {
        format!("{}#{}", self.application, self.service_group)
    }

    /// Whether a branch may still join although it is decided: a saga that goes forward registers what remains.
    pub(crate) fn may_grow(&self, branch_type: BranchType) -> bool {
        branch_type == BranchType::Saga && self.is_saga()
    }
}

impl TxMachine {
    /// A transaction's own report of where it stands. One with branches of other types is ended this way only when it
    /// has failed for good and somebody gives it up.
    pub(crate) fn end_as_reported(
        &mut self,
        tid: Tid,
        to: GlobalStatus,
        effects: &mut Vec<TxEffect>,
    ) -> Result<GlobalStatus, TxError> {
        let Some(global) = self.globals.get(&tid) else {
            return self.standing(tid);
        };
        let from = global.status;
        let reported = match to {
            // `SagaCore.doGlobalReport` takes Finished for Rollbacked and drives UnKnown back.
            GlobalStatus::Finished => GlobalStatus::Rollbacked,
            GlobalStatus::UnKnown if global.is_saga() => GlobalStatus::RollbackRetrying,
            other => other,
        };
        let is_driven = global
            .open_branches()
            .any(|branch| branch.branch_type != BranchType::Saga);
        let is_legal = match (from.direction(), reported.direction()) {
            (_, None) => false,
            (None, Some(_)) => !is_driven && (global.is_saga() || reported.is_ended()),
            (Some(_), Some(_)) if global.is_saga() => true,
            (Some(decided), Some(wanted)) => {
                decided == wanted && (!is_driven || (from.is_failed() && reported.is_ended()))
            }
        };
        if !is_legal {
            return Err(TxError::IllegalEnd { tid, from, to });
        }
        Ok(self.stand(tid, reported, effects))
    }

    /// The state machine's answer to the single call of a saga.
    pub(crate) fn saga_done(
        &mut self,
        tid: Tid,
        id: BranchId,
        fact: BranchStatus,
        effects: &mut Vec<TxEffect>,
    ) -> Result<Reply, TxError> {
        let Some(told) = status_of(fact) else {
            return Err(TxError::BadBranchStatus {
                tid,
                branch: id,
                status: fact,
            });
        };
        let Some(global) = self.globals.get(&tid) else {
            let status = self.standing(tid)?;
            return if status.direction() == told.direction() {
                Ok(Reply::Done)
            } else {
                Err(TxError::Contradiction {
                    tid,
                    branch: id,
                    fact,
                    status,
                })
            };
        };
        if id != BranchId::saga_of(tid) || !global.is_saga() {
            return Err(TxError::UnknownBranch { tid, branch: id });
        }
        if global.status == GlobalStatus::Begin {
            return Err(TxError::NotDecided { tid, branch: id, fact });
        }
        // A late copy of what came before it failed for good.
        if !global.status.is_failed() || told.is_failed() || told.is_ended() {
            self.stand(tid, told, effects);
        }
        Ok(Reply::Done)
    }

    /// Takes in where a transaction says that it stands. Gives the standing status.
    fn stand(&mut self, tid: Tid, told: GlobalStatus, effects: &mut Vec<TxEffect>) -> GlobalStatus {
        let global = self.globals.get_mut(&tid).map(Arc::make_mut).expect("it was looked up");
        let status = in_its_family(told, global.status.is_timeout());
        assert!(status.direction().is_some(), "{tid} cannot stand at {status}");
        if global.decided_at().is_none() {
            global.decided_at = Moment::new(Some(self.time));
            effects.push(TxEffect::Decided { tid });
        }
        let is_saga = global.is_saga();
        if !status.is_ended() {
            global.status = status;
            self.open_digest.count(global);
        }
        if is_saga {
            effects.push(TxEffect::BranchChanged {
                tid,
                branch: BranchId::saga_of(tid),
                status: fact_of(status),
            });
        }
        if status.is_ended() {
            self.end(tid, status, effects);
        }
        status
    }
}

/// Where a saga stands by its state machine's answer (`SagaCore.doGlobalCommit`, `doGlobalRollback`). A failed first
/// phase has nothing to compensate.
fn status_of(fact: BranchStatus) -> Option<GlobalStatus> {
    use BranchStatus::*;
    Some(match fact {
        PhaseTwoCommitted => GlobalStatus::Committed,
        PhaseTwoRollbacked | PhaseOneFailed => GlobalStatus::Rollbacked,
        PhaseTwoCommitFailedRetryable | PhaseTwoCommitFailedXaerNotaRetryable => GlobalStatus::CommitRetrying,
        PhaseTwoRollbackFailedRetryable | PhaseTwoRollbackFailedXaerNotaRetryable => GlobalStatus::RollbackRetrying,
        PhaseTwoCommitFailedUnretryable => GlobalStatus::CommitFailed,
        PhaseTwoRollbackFailedUnretryable => GlobalStatus::RollbackFailed,
        Unknown | Registered | PhaseOneDone | PhaseOneTimeout | PhaseOneRdonly => return None,
    })
}

/// What the driver is told of a saga that stands so.
fn fact_of(status: GlobalStatus) -> BranchStatus {
    use BranchStatus::*;
    let is_commit = status.direction() == Some(Direction::Commit);
    match (is_commit, status.is_ended(), status.is_failed()) {
        (true, true, _) => PhaseTwoCommitted,
        (true, false, true) => PhaseTwoCommitFailedUnretryable,
        (true, false, false) => PhaseTwoCommitFailedRetryable,
        (false, true, _) => PhaseTwoRollbacked,
        (false, false, true) => PhaseTwoRollbackFailedUnretryable,
        (false, false, false) => PhaseTwoRollbackFailedRetryable,
    }
}

/// The status that a transaction takes, kept in the timeout family when the server had decided the rollback.
fn in_its_family(told: GlobalStatus, is_timeout: bool) -> GlobalStatus {
    use GlobalStatus::*;
    match told {
        Rollbacking if is_timeout => TimeoutRollbacking,
        RollbackRetrying | RollbackRetryTimeout if is_timeout => TimeoutRollbackRetrying,
        Rollbacked if is_timeout => TimeoutRollbacked,
        RollbackFailed if is_timeout => TimeoutRollbackFailed,
        RollbackRetryTimeout => RollbackRetrying,
        CommitRetryTimeout => CommitRetrying,
        other => other,
    }
}
