//! **Lock exclusivity** (strict two-phase locking; Seata's global lock): from the registration of an AT branch until its
//! transaction is committed, or the branch is undone, no other transaction has a branch with one of its rows.
//!
//! Judged by the branches alone; that the table of locks agrees with them is the machine's own check.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use settle_tx::{BranchId, BranchType, Direction, Tid, TxMachine, lock_rows};

use super::Judge;
use crate::invariants::{Broken, Checked};

#[derive(Default)]
pub(super) struct LockExclusivity {
    /// The rows of each branch, as it registered them.
    rows: BTreeMap<BranchId, Vec<String>>,
    /// Who ever had a row.
    takers: BTreeMap<String, BTreeSet<Tid>>,
}

impl LockExclusivity {
    /// Gives the rows that were not seen taken before.
    pub(super) fn check(&mut self, machine: &TxMachine) -> Result<Vec<(String, Tid)>, Broken> {
        let mut taken = Vec::new();
        for global in machine.globals() {
            for branch in global.branches().iter().filter(|branch| !branch.lock_keys.is_empty()) {
                let Entry::Vacant(entry) = self.rows.entry(branch.id) else {
                    continue;
                };
                for row in entry.insert(rows(&branch.resource, &branch.lock_keys)) {
                    if self.takers.entry(row.clone()).or_default().insert(global.tid) {
                        taken.push((row.clone(), global.tid));
                    }
                }
            }
        }
        let mut holders: BTreeMap<&str, Tid> = BTreeMap::new();
        for global in machine.globals() {
            if global.status.direction() == Some(Direction::Commit) {
                continue;
            }
            for branch in global.open_branches().filter(|b| b.branch_type == BranchType::At) {
                for row in self.rows.get(&branch.id).into_iter().flatten() {
                    let holder = *holders.entry(row).or_insert(global.tid);
                    if holder != global.tid {
                        let what = format!(
                            "row {row} is changed by {holder} and by {}, both undecided or being undone",
                            global.tid
                        );
                        return Err(Broken::new("lock exclusivity", what));
                    }
                }
            }
        }
        Ok(taken)
    }
}

impl Judge {
    /// The same where two groups have the row: who took it first has ended by what any replica has shown, or is committed,
    /// before a replica of the other group shows it taken there. A group lets nobody in before the old one is drained, and
    /// that was applied somewhere before it could be told.
    pub(super) fn no_row_is_in_two_groups(&self, taken: &[(String, Tid)]) -> Checked {
        for (row, tid) in taken {
            let others = self.locks.takers.get(row).into_iter().flatten();
            let holds = |other: &&Tid| {
                other.group() != tid.group()
                    && self.open.contains(other)
                    && self.decided(**other) != Some(Direction::Commit)
            };
            if self.open.contains(tid)
                && let Some(other) = others.copied().collect::<Vec<_>>().iter().find(holds)
            {
                let what = format!("row {row} is changed by {other} and by {tid}, which another group let in");
                return Err(Broken::new("lock exclusivity", what));
            }
        }
        Ok(())
    }

    /// Undecided transactions that have one of the rows, for a lock query to be judged by.
    pub(in crate::tx) fn holders(&self, resource: &str, lock_keys: &str, asker: &str) -> Vec<Tid> {
        let asker = Tid::from_xid(asker);
        let rows = rows(resource, lock_keys);
        let takers = rows.iter().filter_map(|row| self.locks.takers.get(row)).flatten();
        let holds = |tid: &Tid| Some(*tid) != asker && self.decided(*tid).is_none();
        takers.copied().filter(holds).collect()
    }

    /// An operator lets the rows of a branch go that is settled.
    pub(in crate::tx) fn releases(&mut self, branch: BranchId) {
        self.locks.rows.insert(branch, Vec::new());
    }

    /// A client is told that rows are free which `holders` had when it asked.
    pub(in crate::tx) fn is_free(&self, holders: &[Tid]) -> Checked {
        match holders.iter().find(|tid| self.decided(**tid).is_none()) {
            None => Ok(()),
            Some(tid) => Err(Broken::new(
                "lock exclusivity",
                format!("a client is told that a row is free, which undecided {tid} has"),
            )),
        }
    }
}

fn rows(resource: &str, lock_keys: &str) -> Vec<String> {
    let rows = lock_rows(lock_keys).filter_map(Result::ok);
    rows.map(|row| format!("{resource}^^^{}^^^{}", row.table, row.pk))
        .collect()
}
