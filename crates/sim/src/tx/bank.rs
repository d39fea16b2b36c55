//! The applications' databases, and the judge of what the coordinator told and asked.
//!
//! A branch changes its account in phase one and keeps an undo record, as Seata's AT mode does: phase two deletes it
//! (commit) or takes the change back (rollback). A change that would come after its own rollback is refused.

use std::collections::{BTreeMap, BTreeSet};

use settle_tx::{CallKind, Direction, GlobalStatus, Tid, TxMachine};

pub(crate) const BALANCE: i64 = 1_000;

#[derive(Default)]
pub(crate) struct Bank {
    balances: BTreeMap<u32, i64>,
    /// Changes not yet settled, oldest first; a rollback must find its own on top.
    unsettled: BTreeMap<u32, Vec<(i64, i64)>>,
    account_of: BTreeMap<i64, u32>,
    /// Branches that were rolled back, perhaps before their change came.
    fenced: BTreeSet<i64>,
    committed: BTreeSet<i64>,
    /// What was told or asked first about each transaction.
    directions: BTreeMap<Tid, (Direction, &'static str)>,
    pub(crate) commits_told: u64,
    pub(crate) rollbacks_told: u64,
    pub(crate) timeouts_told: u64,
    pub(crate) calls: u64,
}

impl Bank {
    pub(crate) fn new(accounts: u32) -> Bank {
        Bank {
            balances: (0..accounts).map(|a| (a, BALANCE)).collect(),
            ..Bank::default()
        }
    }

    /// Phase one of a branch, at the moment its registration is known. False: it was rolled back before.
    pub(crate) fn change(&mut self, branch: i64, account: u32, delta: i64) -> bool {
        if self.fenced.contains(&branch) {
            return false;
        }
        *self.balances.entry(account).or_default() += delta;
        self.unsettled.entry(account).or_default().push((branch, delta));
        self.account_of.insert(branch, account);
        true
    }

    pub(crate) fn phase_two(&mut self, xid: &str, branch: i64, kind: CallKind) -> Result<(), String> {
        self.calls += 1;
        let direction = match kind {
            CallKind::Commit => Direction::Commit,
            CallKind::Rollback => Direction::Rollback,
        };
        self.decided(xid, direction, "phase two")?;
        let account = self.account_of.get(&branch).copied();
        let changes = account.and_then(|account| self.unsettled.get_mut(&account));
        match kind {
            CallKind::Commit => {
                if self.fenced.contains(&branch) {
                    return Err(format!("branch {branch} of {xid} is committed after its rollback"));
                }
                self.committed.insert(branch);
                if let Some(changes) = changes {
                    changes.retain(|(b, _)| *b != branch);
                }
            }
            CallKind::Rollback => {
                if self.committed.contains(&branch) {
                    return Err(format!("branch {branch} of {xid} is rolled back after its commit"));
                }
                self.fenced.insert(branch);
                let (Some(account), Some(changes)) = (account, changes) else {
                    return Ok(());
                };
                let Some(at) = changes.iter().position(|(b, _)| *b == branch) else {
                    return Ok(());
                };
                if at + 1 != changes.len() {
                    return Err(format!(
                        "account {account} was changed by {:?} before branch {branch} of {xid} was rolled back: its lock was not held",
                        &changes[at + 1..]
                    ));
                }
                let (_, delta) = changes.remove(at);
                *self.balances.entry(account).or_default() -= delta;
            }
        }
        Ok(())
    }

    /// A commit or rollback was answered.
    pub(crate) fn told(&mut self, xid: &str, status: GlobalStatus) -> Result<(), String> {
        match status.direction() {
            Some(Direction::Commit) => self.commits_told += 1,
            Some(Direction::Rollback) => self.rollbacks_told += 1,
            None => return Err(format!("{xid} was answered {status}, which decides nothing")),
        }
        self.timeouts_told += u64::from(status.is_timeout());
        match status.direction() {
            Some(direction) => self.decided(xid, direction, "an answer"),
            None => Ok(()),
        }
    }

    fn decided(&mut self, xid: &str, direction: Direction, by: &'static str) -> Result<(), String> {
        let tid = Tid::from_xid(xid).ok_or_else(|| format!("{xid} is no xid"))?;
        let (first, first_by) = *self.directions.entry(tid).or_insert((direction, by));
        if first != direction {
            return Err(format!(
                "{xid} is {direction:?} by {by}, but was {first:?} by {first_by}"
            ));
        }
        Ok(())
    }

    /// Everything has ended: what was told is what stands, and no money came or went.
    pub(crate) fn audit(&self, machine: &TxMachine) -> Result<(), String> {
        for (tid, (direction, by)) in &self.directions {
            let status = machine.outcome(*tid).status();
            if status.direction() != Some(*direction) || !status.is_ended() {
                return Err(format!("{tid} was {direction:?} by {by}, but in the end is {status}"));
            }
        }
        if let Some((account, changes)) = self.unsettled.iter().find(|(_, changes)| !changes.is_empty()) {
            return Err(format!("account {account} still has unsettled changes {changes:?}"));
        }
        let sum: i64 = self.balances.values().sum();
        let right = BALANCE * self.balances.len() as i64;
        if sum != right {
            return Err(format!("the balances add up to {sum}, not {right}"));
        }
        Ok(())
    }
}
