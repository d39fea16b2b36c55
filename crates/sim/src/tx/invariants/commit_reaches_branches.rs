//! **A told commit reaches every branch** (Gray's atomicity of a distributed commit): when the coordinator has done with a
//! committed transaction, every branch of it has executed its commit.

use settle_tx::{BranchType, Tid};

use super::Known;
use crate::{
    invariants::{Broken, Checked},
    tx::bank::{Bank, Stage},
};

/// The coordinator regards the commit of `tid` as done.
pub(super) fn check(tid: Tid, known: &Known, bank: &Bank) -> Checked {
    for (id, branch) in known.branches.iter().filter(|(_, b)| b.branch_type != BranchType::Saga) {
        let stage = bank.stage(id.as_i64());
        // What failed, or only read, is passed over.
        if !matches!(stage, Some(Stage::Committed | Stage::Nothing)) {
            let what = format!(
                "{tid} is committed and over, but its branch {id} at {} is {stage:?}",
                branch.resource
            );
            return Err(Broken::new("a told commit reaches every branch", what));
        }
    }
    Ok(())
}
