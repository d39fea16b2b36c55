//! **No call contradicts a decision**: a second-phase call comes only after the decision is in the log, says the same, and
//! says it to whom it is meant for: the application that registered the branch (for AT, whoever serves the database),
//! with what that gave along. What has ended long ago is left alone.

use std::time::Duration;

use settle_tx::{BranchId, BranchType, CallKind, Direction, Tid};
use settle_tx_gate::BranchCall;

use super::Judge;
use crate::invariants::{Broken, Checked};

const NAME: &str = "no call contradicts a decision";
/// A call may be under way for so long after the transaction has ended: cut connections, paused nodes, a leader that does
/// not know yet that it was deposed.
const UNDER_WAY: Duration = Duration::from_secs(20);

impl Judge {
    /// `application` is called.
    pub(in crate::tx) fn called(&self, application: &str, call: &BranchCall) -> Checked {
        let broken = |what: String| Err(Broken::new(NAME, format!("{call:?} to {application}: {what}")));
        let Some(tid) = Tid::from_xid(&call.xid) else {
            return broken("it names no transaction".to_owned());
        };
        let Some(known) = self.known.get(&tid) else {
            return broken("nobody began it".to_owned());
        };
        if call.branch_type == BranchType::Saga {
            if !known.is_saga || known.application != application {
                return broken(format!("it is of {}, a saga: {}", known.application, known.is_saga));
            }
            return Ok(());
        }
        let Some(branch) = BranchId::try_from_i64(call.branch) else {
            return broken("it names no branch".to_owned());
        };
        let direction = match call.kind {
            CallKind::Commit => Direction::Commit,
            CallKind::Rollback => Direction::Rollback,
        };
        if known.decided != Some(direction) {
            return broken(format!("the log says {:?}", known.decided));
        }
        if let Some(ended_at) = known.ended_at.filter(|at| self.now(tid).since(*at) > UNDER_WAY) {
            return broken(format!("it has ended at {ended_at:?}, long ago"));
        }
        let Some(registered) = known.branches.get(&branch) else {
            // Registered, decided and called before any replica had been looked at in between.
            return Ok(());
        };
        let may_serve = registered.application == application || registered.branch_type == BranchType::At;
        if !may_serve || registered.resource != call.resource || registered.branch_type != call.branch_type {
            return broken(format!(
                "it is a {:?} branch of {} at {}",
                registered.branch_type, registered.application, registered.resource
            ));
        }
        if registered.application_data != call.application_data {
            return broken(format!("it was registered with `{}`", registered.application_data));
        }
        Ok(())
    }
}
