//! A backup through the gate.

mod net;

use bytes::Bytes;
use net::*;
use settle_base::GroupId;
use settle_tx::{RESTORE_PART_MAX, TxError};
use settle_tx_gate::{AdminAnswer, AdminRequest, GateError, RefusalError};

fn restore(net: &mut Net, node: usize, group: GroupId, part: Bytes) -> Result<AdminAnswer, RefusalError> {
    let key = net.ask_admin(node, AdminRequest::Restore { group, part });
    net.until("an answer", |net| net.admin.contains_key(&key));
    net.admin.remove(&key).expect("it was just there")
}

#[test]
fn what_a_backup_brought_is_driven_by_whoever_leads() {
    let mut old = Net::new(1, 630);
    let (tm, rm) = (old.tm(0), old.rm(0, "stock", "10.0.0.1", 50_000, "action"));
    let (decided, open) = (old.begin(tm), old.begin(tm));
    old.branch(rm, tcc(&decided, "action"));
    old.close(rm);
    old.ask(tm, commit(&decided));
    old.run(100);
    let parts: Vec<Bytes> = old.oracle.begin_backup().collect();

    let mut net = Net::new(2, 631);
    net.rm(1, "stock", "10.0.0.1", 50_000, "action");
    let count = parts.len() as u64;
    for (n, part) in (1..).zip(parts) {
        let told = restore(&mut net, 1, GROUP, part);
        let is_done = n == count;
        assert_eq!(told, Ok(AdminAnswer::Restored { parts: n, is_done }));
    }
    let call = net.do_next_call();
    assert_eq!(call.body.xid, decided, "it was decided in the old cluster");
    // The other is undecided, and its time is up in time.
    net.until("the end", |net| net.oracle.open_count() == 0);
    let status = |xid: &str| {
        net.oracle
            .outcome(settle_tx::Tid::from_xid(xid).expect("an xid"))
            .status()
    };
    assert_eq!(status(&open), settle_tx::GlobalStatus::TimeoutRollbacked);
    assert_eq!(status(&decided), settle_tx::GlobalStatus::Committed);
}

#[test]
fn a_part_that_is_too_large_or_of_no_group_never_comes_to_the_log() {
    let mut net = Net::new(1, 632);
    let large = Bytes::from(vec![0; RESTORE_PART_MAX + 1]);
    let (bytes, limit) = (large.len(), RESTORE_PART_MAX);
    let refused = restore(&mut net, 0, GROUP, large);
    assert_eq!(
        refused,
        Err(RefusalError::Gate(GateError::PartTooLarge { bytes, limit }))
    );
    let group = GroupId(9);
    let refused = restore(&mut net, 0, group, Bytes::from_static(b"part"));
    assert_eq!(refused, Err(RefusalError::Gate(GateError::UnknownGroup { group })));
    assert!(net.log.is_empty());
    let refused = restore(&mut net, 0, GROUP, Bytes::from_static(b"part"));
    assert!(
        matches!(refused, Err(RefusalError::Tx(TxError::BadPart { .. }))),
        "{refused:?}"
    );
}
