//! **Money is conserved**: when all is over, each transfer is in the accounts whole or not at all, as was decided, and the
//! balances add up to what they were.

use settle_tx::{BranchType, Direction};

use crate::{
    invariants::{Broken, Checked},
    tx::{
        bank::Bank,
        transfer::{Journal, Leg},
    },
};

const NAME: &str = "money is conserved";

pub(in crate::tx) fn check(bank: &Bank, journal: &Journal, decided: impl Fn(&str) -> Option<Direction>) -> Checked {
    for (xid, number, legs) in journal.begun() {
        let changes = legs.iter().enumerate().filter(|(_, leg)| !leg.is_read_only);
        let is_done = |(n, leg): &(usize, &Leg)| match leg.account.kind {
            BranchType::Saga => bank.is_step_done(number, *n),
            _ => bank.is_done(leg),
        };
        let all = changes.clone().count();
        let done = changes.filter(is_done).count();
        let decided = decided(xid);
        let wanted = if decided == Some(Direction::Commit) { all } else { 0 };
        if done != wanted {
            let what = format!("{xid} is {decided:?}, and {done} of its {all} changes are done");
            return Err(Broken::new(NAME, what));
        }
    }
    bank.adds_up().map_err(|what| Broken::new(NAME, what))
}
