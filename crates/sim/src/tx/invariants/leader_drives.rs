//! **Only the leader drives** (a single owner of each transaction; what Seata's servers on one database lack): the driver
//! of a group's second phases is at work on no node whose replica does not lead. A leader that does not know yet that it
//! was deposed may be: its calls carry its term.

use settle_host::Host;
use settle_storage::MemDisk;
use settle_tx_gate::TxGate;

use crate::invariants::{Broken, Checked};

pub(in crate::tx) fn check(host: &Host<TxGate, MemDisk>) -> Checked {
    let gate = host.service();
    for &group in &gate.config().groups {
        let leads = host.raft(group).is_some_and(|raft| raft.is_leader());
        if gate.is_driving(group) && !leads {
            let what = format!("group {group} is driven without being led");
            return Err(Broken::new("only the leader drives", what));
        }
    }
    Ok(())
}
