//! **One decision per transaction** (Gray and Lamport, *Consensus on Transaction Commit*, consistency: no two participants
//! decide differently; Skeen's AC2, a decision is never reversed). The first `Decide` in the log stands: no replica ever
//! shows another direction, nothing joins what is decided, and no outcome is forgotten before its time.
//! Of a saga only the end is a decision: until then its state machine may go back, or forward again.

use settle_tx::{Global, GlobalStatus, Tid};

use super::Known;
use crate::invariants::{Broken, Checked};

const NAME: &str = "one decision per transaction";

/// A replica shows `tid` at `status`.
pub(super) fn check(tid: Tid, known: &mut Known, status: GlobalStatus) -> Checked {
    let Some(direction) = status.direction() else {
        return Ok(());
    };
    let first = *known.decided.get_or_insert(direction);
    if first != direction {
        let what = format!("{tid} was decided to {first:?}, and now is {status}");
        return Err(Broken::new(NAME, what));
    }
    Ok(())
}

/// `global` is decided on some replica.
pub(super) fn no_branch_joins(global: &Global, known: &mut Known) -> Checked {
    let branches = global.branches().len();
    let before = *known.branches_when_decided.get_or_insert(branches);
    if branches != before {
        let tid = global.tid;
        let what = format!("{tid} had {before} branches when it was decided, and now has {branches}");
        return Err(Broken::new(NAME, what));
    }
    Ok(())
}

pub(super) fn forgotten(tid: Tid) -> Checked {
    Err(Broken::new(
        NAME,
        format!("the outcome of {tid} is forgotten within minutes"),
    ))
}

#[test]
fn a_second_decision_is_told() {
    let (tid, mut known) = (Tid::new(1, 1), Known::default());
    for status in [GlobalStatus::Begin, GlobalStatus::Committing, GlobalStatus::Begin] {
        assert!(
            check(tid, &mut known, status).is_ok(),
            "{status}, perhaps of a replica that is behind"
        );
    }
    assert!(check(tid, &mut known, GlobalStatus::TimeoutRollbacking).is_err());
}
