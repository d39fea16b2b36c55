//! What each command does to a transaction: the transitions, and what they refuse.

use std::sync::Arc;

use settle_base::GroupTime;

use crate::{
    Branch, BranchId, BranchStatus, BranchType, CommandBody, Decision, Direction, Ended, Expect, Global, GlobalStatus,
    Outcome, Reply, Tid, TxEffect, TxError, TxMachine, Xid,
    global::Moment,
    locks::{LockRefusal, LockTable, auto_commit},
    moves::MoveAct,
    names::LocalNumber,
};

/// A conflict's row is kept among the results of requests, so it is cut to so many bytes.
const CONFLICT_ROW_BYTES: usize = 256;

/// Seata counts "the XA resource does not know the branch" as done when this much time, or the transaction's timeout
/// if that is longer, has passed since the deadline (`DefaultCore.isXaerNotaTimeout`).
const XAER_NOTA_RETRY_MS: u64 = 60_000;

impl TxMachine {
    pub(crate) fn execute(&mut self, body: CommandBody<&str>, effects: &mut Vec<TxEffect>) -> Result<Reply, TxError> {
        if self.restore.open.is_some() && !matches!(body, CommandBody::Restore { .. }) {
            return Err(TxError::BeingRestored);
        }
        match body {
            CommandBody::Begin {
                xid_prefix,
                application,
                service_group,
                name,
                timeout_ms,
            } => self.begin(xid_prefix, application, service_group, name, timeout_ms, effects),
            CommandBody::RegisterBranch {
                tid,
                branch_type,
                resource,
                client,
                lock_keys,
                application_data,
                joins,
            } => {
                self.may_join(tid, client, joins.as_deref())?;
                let lock_keys = if branch_type == BranchType::At { lock_keys } else { "" };
                self.register(tid, branch_type, resource, client, lock_keys, application_data, effects)
            }
            CommandBody::ReportBranch {
                tid,
                branch,
                status,
                application_data,
                by,
            } => {
                self.may_report(tid, branch, by)?;
                self.report(tid, branch, status, application_data, effects)
            }
            CommandBody::Decide {
                tid,
                decision,
                expect: Expect::Begin,
                by,
            } => {
                self.may_end(tid, by)?;
                self.decide(tid, decision, effects)
                    .map(|status| Reply::Decided { status })
            }
            CommandBody::BranchDone { tid, branch, status } => self.branch_done(tid, branch, status, effects),
            CommandBody::End { tid, status, by } => {
                self.may_end(tid, by)?;
                self.end_as_reported(tid, status, effects)
                    .map(|status| Reply::Ended { status })
            }
            CommandBody::Operate { tid, act, signed } => self.operate(tid, &act, &signed, effects),
            CommandBody::Restore { part } => self.restore_part(&part, effects),
            CommandBody::MoveServiceGroups { names, to, signed } => {
                let (names, signed) = (&names[..], &signed);
                self.move_service_groups(&MoveAct { names, to, signed }, effects)
            }
            CommandBody::RaiseMove { epoch, above } => self.raise_move(epoch, above, effects),
            CommandBody::CancelMove { name, signed } => self.cancel_move(name, &signed, effects),
            CommandBody::FinishMove { epoch, has_moved } => self.finish_move(epoch, has_moved, effects),
            CommandBody::StepOfMove { names, epoch, step } => self.step_of_move(&names, epoch, step, effects),
        }
    }

    fn begin(
        &mut self,
        xid_prefix: &str,
        application: &str,
        service_group: &str,
        name: &str,
        timeout_ms: u32,
        effects: &mut Vec<TxEffect>,
    ) -> Result<Reply, TxError> {
        self.may_begin(service_group)?;
        if self.open_count() >= self.config.sessions_max {
            return Err(TxError::TooManyTransactions {
                open: self.open_count(),
                limit: self.config.sessions_max,
            });
        }
        let tid = Tid::new(self.config.group, self.next_tid);
        self.next_tid += 1;
        let xid = Xid::new(self.names.take(xid_prefix), tid);
        let told = xid.to_string().into();
        let mut global = Global {
            tid,
            xid,
            application: self.names.take(application),
            service_group: self.names.take(service_group),
            name: self.names.take(name),
            timeout_ms,
            begun_at: self.time,
            status: GlobalStatus::Begin,
            decided_at: Moment::NONE,
            retry_stopped: false,
            branches: Vec::new(),
            open_branches: 0,
            counted: 0,
        };
        self.open_digest.count(&mut global);
        self.service_groups.count_begun(&global.service_group);
        let earlier = self.globals.insert(tid, Arc::new(global));
        assert!(earlier.is_none(), "transaction id {tid} was given twice");
        effects.push(TxEffect::Begun { tid });
        Ok(Reply::Begun { tid, xid: told })
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one command")]
    fn register(
        &mut self,
        tid: Tid,
        branch_type: BranchType,
        resource: &str,
        client: &str,
        lock_keys: &str,
        application_data: &str,
        effects: &mut Vec<TxEffect>,
    ) -> Result<Reply, TxError> {
        let Some(global) = self.globals.get(&tid) else {
            let status = self.standing(tid)?;
            return Err(TxError::NotActive { tid, status });
        };
        let may_grow = global.may_grow(branch_type) || settle_base::mutant!("branch_joins_decided");
        if global.status != GlobalStatus::Begin && !may_grow {
            return Err(TxError::NotActive {
                tid,
                status: global.status,
            });
        }
        if let Some(branch) = global.registered_before(branch_type, resource, client, application_data) {
            return Ok(Reply::Branch { branch: branch.id });
        }
        if global.branches.len() as u64 >= u64::from(self.config.branches_max) {
            return Err(TxError::TooManyBranches {
                tid,
                limit: self.config.branches_max,
            });
        }
        let branch_bytes = Branch::bytes_of(lock_keys, application_data);
        if self.branch_bytes + branch_bytes > self.config.branch_bytes_max {
            return Err(TxError::BranchSpaceFull {
                tid,
                limit: self.config.branch_bytes_max,
            });
        }
        if !lock_keys.is_empty() {
            let new_bytes = self
                .locks
                .check(self.names.number(resource), lock_keys, Some(tid))
                .map_err(|refusal| self.refusal(refusal, tid, resource, application_data))?;
            if self.locks.bytes() + new_bytes > self.config.lock_bytes_max {
                return Err(TxError::LockTableFull {
                    tid,
                    limit: self.config.lock_bytes_max,
                });
            }
        }

        // Nothing is refused from here on: the branch and all its locks, or nothing.
        let id = BranchId::new(self.config.group, self.next_branch);
        self.next_branch += 1;
        let resource = self.names.take(resource);
        let resource_number = self.names.number(&resource).expect("it was just taken");
        self.locks.take(resource_number, lock_keys, tid);
        let global = self.globals.get_mut(&tid).expect("it was just looked up");
        let global = Arc::make_mut(global);
        assert!(
            global.branches.last().is_none_or(|last| last.id < id),
            "branch ids rise"
        );
        let mut branch = Branch {
            id,
            branch_type,
            resource,
            client: self.names.take(client),
            status: BranchStatus::Registered,
            application_data: application_data.into(),
            lock_keys: lock_keys.into(),
            retrying_since: None,
            registered_after_ms: global.ms_since_begin(self.time),
            done_after_ms: None,
            failures: 0,
            last_failure: None,
            is_open: true,
            resource_number: LocalNumber(resource_number),
            counted: 0,
        };
        self.open_digest.count_branch(tid, &mut branch);
        global.push_branch(branch);
        global.open_branches += 1;
        self.open_branches += 1;
        self.branch_bytes += branch_bytes;
        effects.push(TxEffect::BranchRegistered { tid, branch: id });
        Ok(Reply::Branch { branch: id })
    }

    fn report(
        &mut self,
        tid: Tid,
        id: BranchId,
        status: BranchStatus,
        application_data: Option<&str>,
        effects: &mut Vec<TxEffect>,
    ) -> Result<Reply, TxError> {
        if status.direction().is_some() {
            return Err(TxError::BadBranchStatus {
                tid,
                branch: id,
                status,
            });
        }
        let Some(global) = self.globals.get_mut(&tid).map(Arc::make_mut) else {
            let status = self.standing(tid)?;
            return Err(TxError::NotActive { tid, status });
        };
        let Some(at) = global.position(id) else {
            return Err(TxError::UnknownBranch { tid, branch: id });
        };
        // After the decision the report changes nothing: the second phase already goes by what was known then.
        if global.status == GlobalStatus::Begin {
            let branch = &mut global.branches[at];
            if let Some(data) = application_data {
                let (before, after) = (branch.application_data.len() as u64, data.len() as u64);
                let bytes = self.branch_bytes - before + after;
                if after > before && bytes > self.config.branch_bytes_max {
                    return Err(TxError::BranchSpaceFull {
                        tid,
                        limit: self.config.branch_bytes_max,
                    });
                }
                self.branch_bytes = bytes;
                branch.application_data = data.into();
            }
            branch.status = status;
            self.open_digest.count_branch(tid, branch);
            effects.push(TxEffect::BranchChanged {
                tid,
                branch: id,
                status,
            });
        }
        Ok(Reply::Reported)
    }

    /// The linearisation point of a global transaction. Gives the standing status.
    pub(crate) fn decide(
        &mut self,
        tid: Tid,
        decision: Decision,
        effects: &mut Vec<TxEffect>,
    ) -> Result<GlobalStatus, TxError> {
        let Some(global) = self.globals.get_mut(&tid).map(Arc::make_mut) else {
            return self.standing(tid);
        };
        if global.status != GlobalStatus::Begin && !settle_base::mutant!("decide_ignores_expect") {
            return Ok(global.status);
        }
        global.decided_at = Moment::new(Some(self.time));
        effects.push(TxEffect::Decided { tid });
        for branch in global.branches.iter_mut().filter(|branch| branch.is_open) {
            if branch.is_skipped_in_phase_two(decision == Decision::Commit) {
                self.branch_bytes -= close(branch, tid, &mut self.locks);
                global.open_branches -= 1;
                self.open_branches -= 1;
            } else if decision == Decision::Commit || settle_base::mutant!("rollback_frees_locks_early") {
                self.branch_bytes -= release_locks(branch, tid, &mut self.locks);
            }
            self.open_digest.count_branch(tid, branch);
        }
        global.status = match decision {
            Decision::Commit
                if !global.is_saga()
                    && global
                        .open_branches()
                        .all(|branch| branch.branch_type == BranchType::At) =>
            {
                GlobalStatus::AsyncCommitting
            }
            Decision::Commit => GlobalStatus::Committing,
            Decision::Rollback => GlobalStatus::Rollbacking,
            Decision::Timeout => GlobalStatus::TimeoutRollbacking,
        };
        self.open_digest.count(global);
        let (status, open, end_status) = (global.status, global.open_branches, global.end_status());
        if open > 0 || global.is_saga() {
            return Ok(status);
        }
        self.end(tid, end_status, effects);
        Ok(end_status)
    }

    fn branch_done(
        &mut self,
        tid: Tid,
        id: BranchId,
        fact: BranchStatus,
        effects: &mut Vec<TxEffect>,
    ) -> Result<Reply, TxError> {
        if id.is_saga() {
            return self.saga_done(tid, id, fact, effects);
        }
        let Some(direction) = fact.direction() else {
            return Err(TxError::BadBranchStatus {
                tid,
                branch: id,
                status: fact,
            });
        };
        let Some(global) = self.globals.get_mut(&tid).map(Arc::make_mut) else {
            let status = self.standing(tid)?;
            return if status.direction() == Some(direction) {
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
        let Some(at) = global.position(id) else {
            return Err(TxError::UnknownBranch { tid, branch: id });
        };
        if global.status == GlobalStatus::Begin {
            return Err(TxError::NotDecided { tid, branch: id, fact });
        }
        if global.status.direction() != Some(direction) {
            return Err(TxError::Contradiction {
                tid,
                branch: id,
                fact,
                status: global.status,
            });
        }
        let fact = settle_xaer_nota(global, &global.branches[at], fact, self.time);
        let after_ms = global.ms_since_begin(self.time);
        let branch = &mut global.branches[at];
        if !branch.is_open || (branch.status.is_unretryable() && !fact.is_unretryable() && fact.done().is_none()) {
            // A late copy of what is known, or of what came before it.
            return Ok(Reply::Done);
        }
        branch.status = fact;
        if fact.done().is_none() {
            branch.failures = branch.failures.saturating_add(1);
            branch.last_failure = Some(fact);
        }
        if fact.done().is_some() {
            branch.done_after_ms = Some(after_ms);
            self.branch_bytes -= close(branch, tid, &mut self.locks);
            global.open_branches -= 1;
            self.open_branches -= 1;
        } else if fact.is_retryable() {
            branch.retrying_since.get_or_insert(self.time);
        }
        self.open_digest.count_branch(tid, branch);
        if fact.done().is_none() || global.status.is_failed() {
            global.status = status_in_phase_two(global);
            self.open_digest.count(global);
        }
        effects.push(TxEffect::BranchChanged {
            tid,
            branch: id,
            status: fact,
        });
        if global.open_branches == 0 {
            let status = global.end_status();
            self.end(tid, status, effects);
        }
        Ok(Reply::Done)
    }

    /// Forgets an open transaction and keeps its outcome.
    pub(crate) fn end(&mut self, tid: Tid, status: GlobalStatus, effects: &mut Vec<TxEffect>) {
        let mut shared = self.globals.remove(&tid).expect("only an open transaction can end");
        self.open_digest.take_away(&shared);
        let global = Arc::make_mut(&mut shared);
        for branch in &mut global.branches {
            if branch.is_open {
                self.branch_bytes -= close(branch, tid, &mut self.locks);
                self.open_branches -= 1;
            }
            self.branch_bytes -= branch.bytes();
            assert!(
                branch.lock_keys.is_empty(),
                "branch {} is closed and holds locks",
                branch.id
            );
            self.names.release(&branch.resource);
            self.names.release(&branch.client);
        }
        self.names.release(&global.application);
        self.service_groups.count_ended(&global.service_group);
        self.names.release(&global.service_group);
        self.names.release(&global.name);
        self.names.release(global.xid.prefix());
        self.outcomes.record(tid.seq(), status, self.time);
        let details = Ended {
            global: shared,
            status,
            index: self.index,
            at: self.time,
        };
        effects.push(TxEffect::Ended { tid, status, details });
    }

    /// The outcome of a transaction that is not open.
    pub(crate) fn standing(&self, tid: Tid) -> Result<GlobalStatus, TxError> {
        match self.outcome(tid) {
            Outcome::Open(global) => Ok(global.status),
            Outcome::Ended(status) => Ok(status),
            Outcome::Evicted => Err(TxError::OutcomeEvicted { tid }),
            Outcome::Unknown => Err(TxError::UnknownXid { tid }),
        }
    }

    pub(crate) fn refusal(
        &self,
        refusal: LockRefusal<'_>,
        tid: Tid,
        resource: &str,
        application_data: &str,
    ) -> TxError {
        match refusal {
            LockRefusal::BadKey(reason) => TxError::BadLockKey { tid, reason },
            LockRefusal::Conflict { row, holder } => {
                let global = self.global(holder).expect("a lock's holder is open");
                // Seata marks each lock row of a transaction that rolls back; here the holder's status is the mark.
                let is_rolling_back = global.status.direction() == Some(Direction::Rollback);
                TxError::LockConflict {
                    row: cut(&format!("{resource}^^^{}^^^{}", row.table, row.pk)).into(),
                    holder,
                    holder_xid: global.xid.to_string().into(),
                    fail_fast: is_rolling_back && !auto_commit(application_data),
                }
            }
        }
    }
}

fn cut(row: &str) -> &str {
    &row[..row.floor_char_boundary(CONFLICT_ROW_BYTES)]
}

/// Ends a branch's part: what remains is a tombstone. Gives the bytes that it counts less.
fn close(branch: &mut Branch, tid: Tid, locks: &mut LockTable) -> u64 {
    assert!(branch.is_open, "branch {} of {tid} is closed twice", branch.id);
    let data = std::mem::take(&mut branch.application_data);
    branch.is_open = false;
    data.len() as u64 + release_locks(branch, tid, locks)
}

/// Gives the bytes that the branch counts less.
fn release_locks(branch: &mut Branch, tid: Tid, locks: &mut LockTable) -> u64 {
    let lock_keys = std::mem::take(&mut branch.lock_keys);
    if !lock_keys.is_empty() {
        locks.release(branch.resource_number.0, &lock_keys, tid);
    }
    lock_keys.len() as u64
}

/// An XA resource that has not known the branch for long enough has ended it before an answer was lost.
fn settle_xaer_nota(global: &Global, branch: &Branch, fact: BranchStatus, now: GroupTime) -> BranchStatus {
    let timeout = u64::from(global.timeout_ms);
    let is_late = now.0 > global.deadline().0.saturating_add(timeout.max(XAER_NOTA_RETRY_MS))
        || settle_base::mutant!("unknown_xa_branch_done_at_once");
    if !(fact.is_xaer_nota() && branch.branch_type == BranchType::Xa && is_late) {
        return fact;
    }
    match fact {
        BranchStatus::PhaseTwoCommitFailedXaerNotaRetryable => BranchStatus::PhaseTwoCommitted,
        _ => BranchStatus::PhaseTwoRollbacked,
    }
}

/// The status of a decided transaction after one of its branches changed.
pub(crate) fn status_in_phase_two(global: &Global) -> GlobalStatus {
    use GlobalStatus::*;
    let has_failed = global.open_branches().any(|branch| branch.status.is_unretryable());
    let is_retrying = global.status.is_failed() || global.open_branches().any(|branch| branch.status.is_retryable());
    match (global.status.direction(), global.status.is_timeout()) {
        (Some(Direction::Commit), _) if has_failed => CommitFailed,
        (Some(Direction::Commit), _) if is_retrying => CommitRetrying,
        (Some(Direction::Rollback), false) if has_failed => RollbackFailed,
        (Some(Direction::Rollback), false) if is_retrying => RollbackRetrying,
        (Some(Direction::Rollback), true) if has_failed => TimeoutRollbackFailed,
        (Some(Direction::Rollback), true) if is_retrying => TimeoutRollbackRetrying,
        _ => global.status,
    }
}
