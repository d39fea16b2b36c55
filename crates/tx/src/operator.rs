//! What an operator may do to a transaction. Each act is a command in the log with who, when and why; what it changed is
//! kept in the [audit](crate::AuditRecord). An act that finds its work done changes nothing and says so, so that asking
//! again is safe, whoever led in between.
//!
//! Ending a transaction that nobody has decided is [`CommandBody::Decide`](crate::CommandBody::Decide) like any other;
//! one that is decided is never decided otherwise. Forgetting a transaction and releasing a lock are claims about the
//! world outside: the operator says that the branch is settled, and the log keeps that he said it.

use std::{collections::BTreeSet, fmt, sync::Arc};

use crate::{
    AuditRecord, BranchId, BranchStatus, Decision, Direction, GlobalStatus, LockRow, Reply, Tid, TxEffect, TxError,
    TxMachine, audit::cut, lock_rows, transitions::status_in_phase_two,
};

/// Characters of the rows that an operator names in one act, at most: they are in the log, and whoever types more means
/// the whole branch.
pub const ROWS_CHARS_MAX: usize = 1_000;

/// An act of an operator. `S` as in [`CommandBody`](crate::CommandBody).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OperatorAct<S> {
    /// Decides a commit; only of a transaction that is not decided otherwise.
    Commit,
    /// Decides a rollback; only of a transaction that is not decided otherwise.
    Rollback,
    /// The branches of a decided transaction are not called any more, until resumed.
    StopRetry,
    /// They are called again, those that had failed for good too.
    ResumeRetry,
    /// Ends a decided transaction as it was decided, whatever its branches said.
    Forget,
    /// Frees rows that a branch of a transaction which rolls back still keeps locked.
    ReleaseLock {
        branch: BranchId,
        /// Seata's lockKey; rows that the branch does not lock are passed over. Empty: all of the branch. A door takes at
        /// most [`ROWS_CHARS_MAX`] characters.
        rows: S,
    },
}

/// Who acts, when and why. Longer texts than [`OPERATOR_CHARS_MAX`](crate::OPERATOR_CHARS_MAX) and
/// [`REASON_CHARS_MAX`](crate::REASON_CHARS_MAX) are cut.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signed<S> {
    pub operator: S,
    pub reason: S,
    /// Wall time of the server that was asked, in milliseconds since 1970. For display only.
    pub at_ms: u64,
}

/// The kind of an [`OperatorAct`], with its number in the formats.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum ActKind {
    Commit = 1,
    Rollback = 2,
    StopRetry = 3,
    ResumeRetry = 4,
    Forget = 5,
    ReleaseLock = 6,
    /// Not on a transaction, as the next one: see [`MoveStep`](crate::MoveStep).
    MoveServiceGroups = 7,
    CancelMove = 8,
}

impl ActKind {
    pub const ALL: &[ActKind] = &[
        ActKind::Commit,
        ActKind::Rollback,
        ActKind::StopRetry,
        ActKind::ResumeRetry,
        ActKind::Forget,
        ActKind::ReleaseLock,
        ActKind::MoveServiceGroups,
        ActKind::CancelMove,
    ];

    pub const fn is_on_service_groups(self) -> bool {
        matches!(self, ActKind::MoveServiceGroups | ActKind::CancelMove)
    }

    pub const fn as_u8(self) -> u8 {
        self as u8
    }
}

impl TryFrom<u8> for ActKind {
    type Error = crate::UnknownCode;

    fn try_from(code: u8) -> Result<ActKind, crate::UnknownCode> {
        let found = ActKind::ALL.iter().find(|kind| kind.as_u8() == code);
        found.copied().ok_or(crate::UnknownCode {
            what: "act of an operator",
            code,
        })
    }
}

/// As `settle ctl tx` calls it.
impl fmt::Display for ActKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ActKind::Commit => "commit",
            ActKind::Rollback => "rollback",
            ActKind::StopRetry => "stop-retry",
            ActKind::ResumeRetry => "resume-retry",
            ActKind::Forget => "forget",
            ActKind::ReleaseLock => "release-lock",
            ActKind::MoveServiceGroups => "service-groups move",
            ActKind::CancelMove => "service-groups cancel",
        })
    }
}

impl<S> OperatorAct<S> {
    pub fn kind(&self) -> ActKind {
        match self {
            OperatorAct::Commit => ActKind::Commit,
            OperatorAct::Rollback => ActKind::Rollback,
            OperatorAct::StopRetry => ActKind::StopRetry,
            OperatorAct::ResumeRetry => ActKind::ResumeRetry,
            OperatorAct::Forget => ActKind::Forget,
            OperatorAct::ReleaseLock { .. } => ActKind::ReleaseLock,
        }
    }
}

impl TxMachine {
    pub(crate) fn operate(
        &mut self,
        tid: Tid,
        act: &OperatorAct<&str>,
        signed: &Signed<&str>,
        effects: &mut Vec<TxEffect>,
    ) -> Result<Reply, TxError> {
        let standing = self.standing(tid)?;
        let has_acted = match act {
            OperatorAct::Commit => self.decide_for_operator(tid, Decision::Commit, standing, effects)?,
            OperatorAct::Rollback => self.decide_for_operator(tid, Decision::Rollback, standing, effects)?,
            OperatorAct::StopRetry => self.stop_retry(tid, standing)?,
            OperatorAct::ResumeRetry => self.resume_retry(tid, standing)?,
            OperatorAct::Forget => self.forget(tid, standing, effects)?,
            OperatorAct::ReleaseLock { branch, rows } => self.release_lock(tid, *branch, rows, standing)?,
        };
        let status = self.standing(tid)?;
        if has_acted {
            let record = Arc::new(AuditRecord {
                number: self.audit.next_number(),
                at: self.time,
                at_ms: signed.at_ms,
                tid: Some(tid),
                act: act.kind(),
                subject: match act {
                    OperatorAct::ReleaseLock { branch, rows } => AuditRecord::subject(*branch, rows),
                    _ => Box::default(),
                },
                operator: cut(signed.operator, crate::OPERATOR_CHARS_MAX),
                reason: cut(signed.reason, crate::REASON_CHARS_MAX),
                status,
            });
            self.audit.add(Arc::clone(&record));
            effects.push(TxEffect::Operated { tid, record });
        }
        Ok(Reply::Operated {
            status,
            acted: has_acted,
        })
    }

    fn decide_for_operator(
        &mut self,
        tid: Tid,
        decision: Decision,
        standing: GlobalStatus,
        effects: &mut Vec<TxEffect>,
    ) -> Result<bool, TxError> {
        let wanted = match decision {
            Decision::Commit => Direction::Commit,
            Decision::Rollback | Decision::Timeout => Direction::Rollback,
        };
        match standing.direction() {
            None => self.decide(tid, decision, effects).map(|_| true),
            Some(decided) if decided == wanted => Ok(false),
            Some(_) => Err(TxError::ContradictsDecision { tid, status: standing }),
        }
    }

    fn stop_retry(&mut self, tid: Tid, standing: GlobalStatus) -> Result<bool, TxError> {
        check_in_phase_two(tid, ActKind::StopRetry, standing)?;
        let global = Arc::make_mut(self.globals.get_mut(&tid).expect("what is in phase two is open"));
        if global.retry_stopped {
            return Ok(false);
        }
        global.retry_stopped = true;
        self.open_digest.count(global);
        Ok(true)
    }

    fn resume_retry(&mut self, tid: Tid, standing: GlobalStatus) -> Result<bool, TxError> {
        check_in_phase_two(tid, ActKind::ResumeRetry, standing)?;
        let now = self.time;
        let retryable = match standing.direction() {
            Some(Direction::Commit) => BranchStatus::PhaseTwoCommitFailedRetryable,
            _ => BranchStatus::PhaseTwoRollbackFailedRetryable,
        };
        let global = Arc::make_mut(self.globals.get_mut(&tid).expect("what is in phase two is open"));
        // A saga fails as a whole, without a branch that says so.
        let has_acted = std::mem::take(&mut global.retry_stopped) || global.status.is_failed();
        for branch in &mut global.branches {
            if branch.is_open && branch.status.is_unretryable() {
                branch.status = retryable;
                branch.retrying_since.get_or_insert(now);
                self.open_digest.count_branch(tid, branch);
            }
        }
        if has_acted {
            global.status = status_in_phase_two(global);
            self.open_digest.count(global);
        }
        Ok(has_acted)
    }

    fn forget(&mut self, tid: Tid, standing: GlobalStatus, effects: &mut Vec<TxEffect>) -> Result<bool, TxError> {
        if standing.is_ended() {
            return Ok(false);
        }
        check_in_phase_two(tid, ActKind::Forget, standing)?;
        let global = self.globals.get(&tid).expect("what is in phase two is open");
        let status = global.end_status();
        self.end(tid, status, effects);
        Ok(true)
    }

    fn release_lock(&mut self, tid: Tid, id: BranchId, rows: &str, standing: GlobalStatus) -> Result<bool, TxError> {
        let is_undecided = standing == GlobalStatus::Begin && settle_base::mutant!("operator_unlocks_undecided");
        if !is_undecided {
            check_in_phase_two(tid, ActKind::ReleaseLock, standing)?;
        }
        // Sorted, since a branch may hold as many rows as a frame has room for, and every replica does this in its loop.
        let wanted: BTreeSet<LockRow<'_>> = lock_rows(rows)
            .collect::<Result<_, _>>()
            .map_err(|reason| TxError::BadLockKey { tid, reason })?;
        let global = Arc::make_mut(self.globals.get_mut(&tid).expect("what is not ended is open"));
        let Some(at) = global.position(id) else {
            return Err(TxError::UnknownBranch { tid, branch: id });
        };
        let branch = &mut global.branches[at];
        let is_wanted = |row: &LockRow<'_>| wanted.is_empty() || wanted.contains(row);
        let (mut freed, mut kept) = (String::new(), String::new());
        for row in lock_rows(&branch.lock_keys) {
            let row = row.expect("a branch's lock keys were read when it was registered");
            push_row(if is_wanted(&row) { &mut freed } else { &mut kept }, row);
        }
        if freed.is_empty() {
            return Ok(false);
        }
        self.locks.release(branch.resource_number.0, &freed, tid);
        let before = branch.bytes();
        branch.lock_keys = kept.into();
        self.branch_bytes = self.branch_bytes - before + branch.bytes();
        self.open_digest.count_branch(tid, branch);
        Ok(true)
    }
}

/// Appends a row to a lockKey. Every row has a part of its own but behind one of its table.
fn push_row(keys: &mut String, row: LockRow<'_>) {
    let last_table = keys.rsplit(';').next().and_then(|part| part.split_once(':'));
    if last_table.is_some_and(|(table, _)| table == row.table) {
        keys.push(',');
    } else {
        if !keys.is_empty() {
            keys.push(';');
        }
        keys.push_str(row.table);
        keys.push(':');
    }
    keys.push_str(row.pk);
}

fn check_in_phase_two(tid: Tid, act: ActKind, status: GlobalStatus) -> Result<(), TxError> {
    if status.direction().is_some() && !status.is_ended() {
        return Ok(());
    }
    Err(TxError::ActNotPossible { tid, act, status })
}
