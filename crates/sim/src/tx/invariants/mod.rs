//! What must hold of global transactions at every step, whatever their clients do: one property per file.
//!
//! They see what an omniscient observer sees: the state of every replica after it has applied something, every answer and
//! every call when it reaches a client, and what the applications' databases hold. What no replica has applied is not
//! decided, whatever a node believes.

mod calls_follow_decisions;
mod commit_reaches_branches;
mod leader_drives;
mod lock_exclusivity;
mod money_conserved;
mod one_decision;
mod service_groups;
mod timeouts_in_time;
mod told_outcome;

use std::collections::{BTreeMap, BTreeSet};

use settle_base::{GroupId, GroupTime};
use settle_tx::{Branch, BranchId, BranchType, ClientId, Direction, Global, GlobalStatus, Outcome, Tid, TxMachine};

use super::{bank::Bank, operators::is_settled};
use crate::invariants::Checked;

use self::lock_exclusivity::LockExclusivity;
pub(super) use self::{
    leader_drives::check as only_the_leader_drives,
    money_conserved::check as money_is_conserved,
    service_groups::check as service_groups_begin_somewhere,
    told_outcome::{Asked, Told},
};

/// What replicas have shown of all transactions, and what clients were told and asked.
#[derive(Default)]
pub(super) struct Judge {
    known: BTreeMap<Tid, Known>,
    /// Those that no replica has shown to have ended.
    open: BTreeSet<Tid>,
    /// Sequences below were seen, in each group.
    given: BTreeMap<GroupId, u64>,
    /// The latest time of each group.
    now: BTreeMap<GroupId, GroupTime>,
    locks: LockExclusivity,
    moves: service_groups::Moves,
    told: Told,
}

/// A transaction as the log has it.
#[derive(Default)]
struct Known {
    deadline: Option<GroupTime>,
    /// A state machine in the client drives it: it may turn round until it has ended, and nothing else may.
    is_saga: bool,
    application: String,
    decided: Option<Direction>,
    /// How many branches it had when it was first seen decided.
    branches_when_decided: Option<usize>,
    ended_at: Option<GroupTime>,
    branches: BTreeMap<BranchId, KnownBranch>,
}

/// A branch as its client registered it.
struct KnownBranch {
    branch_type: BranchType,
    application: String,
    resource: String,
    application_data: String,
}

impl Judge {
    /// A replica has applied more.
    pub(super) fn applied(&mut self, group: GroupId, machine: &TxMachine, bank: &Bank) -> Checked {
        let now = self.now.entry(group).or_default();
        *now = machine.time().max(*now);
        let first = machine.config().first_sequence;
        let given = self.given.entry(group).or_insert(first);
        while *given < first + machine.stats().begun_total {
            let tid = Tid::new(group.0 as u8, *given);
            self.known.insert(tid, Known::default());
            self.open.insert(tid);
            *given += 1;
        }
        let of_group: Vec<Tid> = self.open.iter().copied().filter(|tid| tid.group() == group).collect();
        for tid in of_group {
            match machine.outcome(tid) {
                Outcome::Open(global) => self.seen_open(global)?,
                Outcome::Ended(status) => self.seen_ended(tid, status, machine.time(), bank)?,
                // A replica that is behind.
                Outcome::Unknown => {}
                Outcome::Evicted => return one_decision::forgotten(tid),
            }
        }
        let taken = self.locks.check(machine)?;
        self.no_row_is_in_two_groups(&taken)
    }

    fn seen_open(&mut self, global: &Global) -> Checked {
        let known = self
            .known
            .get_mut(&global.tid)
            .expect("every id that was given is known");
        known.deadline.get_or_insert(global.deadline());
        known.is_saga = global.is_saga();
        if known.application.is_empty() {
            known.application = global.application.to_string();
        }
        if let Some(decided_at) = global.decided_at() {
            timeouts_in_time::check(global.tid, global.status, known.deadline, decided_at)?;
        }
        if known.is_saga {
            return Ok(());
        }
        one_decision::check(global.tid, known, global.status)?;
        if global.decided_at().is_some() {
            one_decision::no_branch_joins(global, known)?;
        }
        for branch in global.branches().iter().filter(|branch| branch.is_open()) {
            known
                .branches
                .entry(branch.id)
                .or_insert_with(|| KnownBranch::of(branch));
        }
        Ok(())
    }

    fn seen_ended(&mut self, tid: Tid, status: GlobalStatus, now: GroupTime, bank: &Bank) -> Checked {
        let known = self.known.get_mut(&tid).expect("every id that was given is known");
        one_decision::check(tid, known, status)?;
        timeouts_in_time::check(tid, status, known.deadline, now)?;
        if status.direction() == Some(Direction::Commit) {
            commit_reaches_branches::check(tid, known, bank)?;
        }
        known.ended_at = Some(now);
        self.open.remove(&tid);
        Ok(())
    }

    pub(super) fn is_open(&self, tid: Tid) -> bool {
        self.open.contains(&tid)
    }

    /// Decided transactions that have not ended, without sagas.
    pub(super) fn in_phase_two(&self) -> Vec<Tid> {
        let is_meant = |tid: &Tid| {
            self.known
                .get(tid)
                .is_some_and(|known| known.decided.is_some() && !known.is_saga)
        };
        self.open.iter().copied().filter(is_meant).collect()
    }

    /// The branches of a transaction, and whether each is done with in its database.
    pub(super) fn settled(&self, tid: Tid, bank: &Bank) -> Vec<(BranchId, bool)> {
        let branches = self.known.get(&tid).into_iter().flat_map(|known| &known.branches);
        let is_settled = |branch: &KnownBranch, id: BranchId| is_settled(branch.branch_type, bank.stage(id.as_i64()));
        branches.map(|(id, branch)| (*id, is_settled(branch, *id))).collect()
    }

    /// What is decided, as far as any replica has shown.
    pub(super) fn decided(&self, tid: Tid) -> Option<Direction> {
        self.known.get(&tid).and_then(|known| known.decided)
    }

    fn now(&self, tid: Tid) -> GroupTime {
        self.now.get(&tid.group()).copied().unwrap_or_default()
    }
}

impl KnownBranch {
    fn of(branch: &Branch) -> KnownBranch {
        let client = ClientId::parse(&branch.client);
        KnownBranch {
            branch_type: branch.branch_type,
            application: client.map_or_else(String::new, |client| client.application.to_owned()),
            resource: branch.resource.to_string(),
            application_data: branch.application_data.to_string(),
        }
    }
}
