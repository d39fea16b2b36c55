//! **No timeout before its time**: the coordinator decides against a transaction by itself only when the time that its
//! client gave it is up, counted in group time. Neither a change of leaders nor a clock that runs wrong shortens it.

use settle_base::GroupTime;
use settle_tx::{GlobalStatus, Tid};

use crate::invariants::{Broken, Checked};

/// `tid` is decided, at `decided_at` or before.
pub(super) fn check(tid: Tid, status: GlobalStatus, deadline: Option<GroupTime>, decided_at: GroupTime) -> Checked {
    let Some(deadline) = deadline.filter(|_| status.is_timeout()) else {
        return Ok(());
    };
    if decided_at < deadline {
        let what = format!("{tid} is {status} at {decided_at:?}, but had time until {deadline:?}");
        return Err(Broken::new("no timeout before its time", what));
    }
    Ok(())
}

#[test]
fn an_early_timeout_is_told() {
    let (tid, deadline) = (Tid::new(1, 1), Some(GroupTime(5_000)));
    assert!(check(tid, GlobalStatus::TimeoutRollbacking, deadline, GroupTime(5_000)).is_ok());
    assert!(check(tid, GlobalStatus::Rollbacking, deadline, GroupTime(4_999)).is_ok());
    assert!(check(tid, GlobalStatus::TimeoutRollbacking, deadline, GroupTime(4_999)).is_err());
}
