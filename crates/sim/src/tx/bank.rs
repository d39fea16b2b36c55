//! The applications' databases: accounts that four kinds of branches change, each as its mode does in Seata's clients.
//!
//! - AT: phase one changes the account and writes an undo record; a commit deletes that, a rollback takes the change back.
//!   A rollback before phase one leaves a mark on which a late phase one fails.
//! - TCC: try reserves, confirm changes, cancel gives up. With the fence table a late try and a confirm without its try
//!   are refused, and repeats do nothing; without it the participant goes by the data that the call brings, and repeats
//!   do nothing since it keeps a journal of what it has done.
//! - XA: the change is prepared and waits; what is not prepared is gone when its process is. An unknown branch is `XAER_NOTA`.
//! - Saga: each step is done at once, and undone by its compensation.

use std::collections::BTreeMap;

use settle_tx::{BranchStatus, BranchType, CallKind};
use settle_tx_gate::BranchCall;

use super::transfer::Leg;

const BALANCE: i64 = 1_000;

/// Where an account is, and by which kind of branch it is changed: others would not see its locks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Account {
    pub(super) kind: BranchType,
    /// AT accounts are in databases of one group's own: rows are locked in groups.
    pub(super) group: u64,
    pub(super) number: u64,
}

impl Account {
    pub(super) fn resource(self) -> String {
        let Account { kind, group, number } = self;
        match kind {
            BranchType::At => format!("jdbc:db{group}-{}", number % 2),
            BranchType::Xa => format!("xa:db{}", number % 2),
            BranchType::Tcc => format!("tcc{}", number % 2),
            BranchType::Saga | BranchType::SagaAnnotation => "saga".to_owned(),
        }
    }
}

/// How far a branch is in its database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    /// An XA branch that is open in a process: the life of an application.
    Active {
        app: usize,
        life: u32,
    },
    /// Phase one is done: changed, reserved, prepared.
    Ready,
    /// Phase one failed for good, or only read.
    Nothing,
    Committed,
    RolledBack,
}

#[derive(Default)]
pub(super) struct Bank {
    balances: BTreeMap<Account, i64>,
    /// Changes of AT branches not yet settled, oldest first; a rollback must find its own on top.
    undo: BTreeMap<Account, Vec<(i64, i64)>>,
    branches: BTreeMap<i64, (Stage, Option<Leg>)>,
    /// Steps of sagas that are done and not undone, with their transfer's number.
    steps: BTreeMap<(u64, usize), Leg>,
    pub(super) counts: Counts,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) calls: u64,
    pub(super) repeated: u64,
    pub(super) empty_rollbacks: u64,
    pub(super) late_refused: u64,
    pub(super) xaer_nota: u64,
    pub(super) by_data: u64,
    pub(super) undone_steps: u64,
}

impl Bank {
    pub(super) fn stage(&self, branch: i64) -> Option<Stage> {
        self.branches.get(&branch).map(|(stage, _)| *stage)
    }

    fn add(&mut self, account: Account, delta: i64) {
        *self.balances.entry(account).or_insert(BALANCE) += delta;
    }

    /// The database opens an XA branch for a process.
    pub(super) fn open_xa(&mut self, leg: &Leg, app: usize, life: u32) {
        let stage = Stage::Active { app, life };
        self.branches.entry(leg.branch).or_insert((stage, Some(leg.clone())));
    }

    /// A process is gone, and with it what it had not prepared.
    pub(super) fn lose_xa(&mut self, app: usize, life: u32) {
        for (stage, _) in self.branches.values_mut() {
            if *stage == (Stage::Active { app, life }) {
                *stage = Stage::RolledBack;
            }
        }
    }

    /// The local transaction of phase one commits. False: it is refused, since the branch was rolled back before.
    pub(super) fn phase_one(&mut self, leg: &Leg) -> bool {
        if leg.is_fenceless() {
            // Reserved in the memory of the process, if at all.
            return true;
        }
        let is_possible = match self.stage(leg.branch) {
            None => leg.account.kind != BranchType::Xa,
            Some(Stage::Active { .. }) => true,
            Some(_) => false,
        };
        if !is_possible {
            self.counts.late_refused += 1;
            return false;
        }
        let stage = if leg.is_read_only { Stage::Nothing } else { Stage::Ready };
        self.branches.insert(leg.branch, (stage, Some(leg.clone())));
        if leg.account.kind == BranchType::At {
            self.add(leg.account, leg.delta);
            self.undo.entry(leg.account).or_default().push((leg.branch, leg.delta));
        }
        true
    }

    /// Phase one cannot be done any more, and its manager says so.
    pub(super) fn fails(&mut self, leg: &Leg) {
        self.branches
            .entry(leg.branch)
            .or_insert((Stage::Nothing, Some(leg.clone())));
    }

    /// Executes a call. An error is a broken promise of the coordinator.
    pub(super) fn phase_two(&mut self, call: &BranchCall) -> Result<BranchStatus, String> {
        self.counts.calls += 1;
        let stage = self.stage(call.branch);
        let refused = |what: &str| {
            Err(format!(
                "branch {} of {} {what}: it is {stage:?}",
                call.branch, call.xid
            ))
        };
        match (call.kind, stage) {
            // It only read, and the report of that was lost.
            (kind, Some(Stage::Nothing)) if call.branch_type == BranchType::Xa => Ok(self.nota(kind)),
            (CallKind::Commit, Some(Stage::RolledBack | Stage::Nothing)) => refused("cannot be committed"),
            (CallKind::Commit, Some(Stage::Active { .. })) => refused("is committed before its first phase"),
            (CallKind::Rollback, Some(Stage::Committed)) => refused("is rolled back after its commit"),
            (CallKind::Commit, None) if !is_fenceless(call) => refused("is committed without its first phase"),
            (CallKind::Commit, Some(Stage::Committed)) | (CallKind::Rollback, Some(Stage::RolledBack)) => {
                self.counts.repeated += 1;
                Ok(self.again(call))
            }
            (CallKind::Commit, None | Some(Stage::Ready)) => self.commit(call),
            (CallKind::Rollback, _) => self.roll_back(call),
        }
    }

    /// The branch was ended before, the same way.
    fn again(&mut self, call: &BranchCall) -> BranchStatus {
        match (call.branch_type, call.kind) {
            (BranchType::Xa, _) => self.nota(call.kind),
            (_, CallKind::Commit) => BranchStatus::PhaseTwoCommitted,
            (_, CallKind::Rollback) => BranchStatus::PhaseTwoRollbacked,
        }
    }

    fn nota(&mut self, kind: CallKind) -> BranchStatus {
        self.counts.xaer_nota += 1;
        match kind {
            CallKind::Commit => BranchStatus::PhaseTwoCommitFailedXaerNotaRetryable,
            CallKind::Rollback => BranchStatus::PhaseTwoRollbackFailedXaerNotaRetryable,
        }
    }

    fn commit(&mut self, call: &BranchCall) -> Result<BranchStatus, String> {
        let known = self.branches.get(&call.branch).and_then(|(_, leg)| leg.clone());
        let leg = match known {
            Some(leg) => leg,
            None => {
                self.counts.by_data += 1;
                Leg::of_data(call).ok_or_else(|| format!("{call:?} does not say what is to be confirmed"))?
            }
        };
        if leg.account.kind == BranchType::At {
            let undo = self.undo.entry(leg.account).or_default();
            undo.retain(|(branch, _)| *branch != call.branch);
        } else {
            self.add(leg.account, leg.delta);
        }
        self.branches.insert(call.branch, (Stage::Committed, Some(leg)));
        Ok(BranchStatus::PhaseTwoCommitted)
    }

    fn roll_back(&mut self, call: &BranchCall) -> Result<BranchStatus, String> {
        let known = self.branches.get(&call.branch).cloned();
        if known.is_none() && call.branch_type == BranchType::Xa {
            return Ok(self.nota(CallKind::Rollback));
        }
        self.counts.empty_rollbacks += u64::from(known.is_none());
        if let Some((Stage::Ready, Some(leg))) = &known
            && leg.account.kind == BranchType::At
        {
            let undo = self.undo.entry(leg.account).or_default();
            if undo.last().is_none_or(|(branch, _)| *branch != call.branch) {
                return Err(format!(
                    "{:?} was changed again, {undo:?}, before branch {} of {} was undone",
                    leg.account, call.branch, call.xid
                ));
            }
            undo.pop();
            self.add(leg.account, -leg.delta);
        }
        let leg = known.and_then(|(_, leg)| leg);
        self.branches.insert(call.branch, (Stage::RolledBack, leg));
        Ok(BranchStatus::PhaseTwoRollbacked)
    }

    /// A step of a saga, or its compensation: both may be repeated.
    pub(super) fn step(&mut self, transfer: u64, number: usize, leg: &Leg) {
        if self.steps.insert((transfer, number), leg.clone()).is_none() {
            self.add(leg.account, leg.delta);
        }
    }

    pub(super) fn undo_step(&mut self, transfer: u64, number: usize) {
        if let Some(leg) = self.steps.remove(&(transfer, number)) {
            self.counts.undone_steps += 1;
            self.add(leg.account, -leg.delta);
        }
    }

    pub(super) fn is_step_done(&self, transfer: u64, number: usize) -> bool {
        self.steps.contains_key(&(transfer, number))
    }

    pub(super) fn is_done(&self, leg: &Leg) -> bool {
        self.stage(leg.branch) == Some(Stage::Committed)
    }

    /// Whether no money came or went, and nothing is left to be settled.
    pub(super) fn adds_up(&self) -> Result<(), String> {
        if let Some((account, undo)) = self.undo.iter().find(|(_, undo)| !undo.is_empty()) {
            return Err(format!(
                "{account:?} still has changes {undo:?} that are neither kept nor undone"
            ));
        }
        let is_left = |stage: &Stage| matches!(stage, Stage::Ready | Stage::Active { .. });
        if let Some((branch, (stage, leg))) = self.branches.iter().find(|(_, (stage, _))| is_left(stage)) {
            return Err(format!("branch {branch} ({leg:?}) is left {stage:?}"));
        }
        let sum: i64 = self.balances.values().map(|balance| balance - BALANCE).sum();
        if sum != 0 {
            return Err(format!("the balances add up to {sum} more than there was"));
        }
        Ok(())
    }
}

/// A TCC participant without a fence table confirms what the call says.
fn is_fenceless(call: &BranchCall) -> bool {
    call.branch_type == BranchType::Tcc && call.application_data.contains("\"fence\":false")
}
