//! What somebody should hear of before clients complain: locks held for long, and retries that become many. Looked for
//! every few seconds on the node that leads, which alone knows.

use std::{collections::BTreeSet, time::Duration};

use settle_base::{GroupId, GroupTime, Mono};
use settle_tx::{Driver, Tid, TxMachine, lock_rows};

use crate::GateNote;

const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Old transactions looked at in one turn, at most.
const SCAN_MAX: usize = 10_000;
/// Transactions told of in one turn, at most; the others wait for the next.
const TOLD_MAX: usize = 16;
/// Fewer retries than this are nothing to be told of, however fast they came.
const RETRIES_MIN: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Alerts {
    look_at: Mono,
    /// Transactions told of that still hold locks.
    told: BTreeSet<Tid>,
    locks_held_long: usize,
    retrying_before: usize,
}

impl Alerts {
    /// Transactions that held locks for too long at the last look.
    pub fn locks_held_long(&self) -> usize {
        self.locks_held_long
    }

    pub fn is_time(&mut self, now: Mono) -> bool {
        let is_time = now >= self.look_at;
        if is_time {
            self.look_at = now + LOOK_EVERY;
        }
        is_time
    }

    pub fn look(
        &mut self,
        group: GroupId,
        machine: &TxMachine,
        now: GroupTime,
        driver: &Driver,
        lock_held_max: Duration,
    ) -> Vec<GateNote> {
        let mut notes = Vec::new();
        let mut holders = BTreeSet::new();
        self.locks_held_long = 0;
        // Ids rise with the time of begin: the first that is young ends it.
        for global in machine.globals_after(None).take(SCAN_MAX) {
            let age = now.since(global.begun_at);
            if age < lock_held_max {
                break;
            }
            let branches = global.branches().iter().filter(|branch| !branch.lock_keys.is_empty());
            let rows: usize = branches.map(|branch| lock_rows(&branch.lock_keys).count()).sum();
            if rows == 0 {
                continue;
            }
            self.locks_held_long += 1;
            let is_told = self.told.contains(&global.tid);
            if is_told || notes.len() < TOLD_MAX {
                holders.insert(global.tid);
            }
            if !is_told && notes.len() < TOLD_MAX {
                notes.push(GateNote::LockHeldLong {
                    xid: global.xid.to_string(),
                    status: global.status,
                    rows,
                    age,
                });
            }
        }
        self.told = holders;
        let retrying = driver.retrying();
        if retrying >= RETRIES_MIN && retrying > 2 * self.retrying_before {
            notes.push(GateNote::RetriesRising {
                group,
                before: self.retrying_before,
                now: retrying,
                unreached: driver.unreached(),
            });
        }
        self.retrying_before = retrying;
        notes
    }
}
