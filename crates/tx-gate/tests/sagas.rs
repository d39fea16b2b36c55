//! What is told of sagas, whose state machine may turn them round until they have ended.

mod net;

use net::*;
use settle_tx::{BranchStatus, GlobalStatus};
use settle_tx_gate::{ClientAnswer, ClientRequest, DropReason};

fn begin_saga(net: &mut Net, tm: Conn) -> String {
    let body = ClientRequest::Begin {
        timeout_ms: 600_000,
        name: "$Saga_purchase".to_owned(),
    };
    match net.call(tm, body) {
        ClientAnswer::Begun { xid } => xid,
        other => panic!("{other:?}"),
    }
}

fn ended(status: GlobalStatus) -> ClientAnswer {
    ClientAnswer::Ended { status }
}

#[test]
fn who_asked_to_end_a_saga_is_told_how_it_ended_and_nothing_before() {
    use BranchStatus::*;
    for (ask, first, last, told) in [
        (
            commit as fn(&str) -> ClientRequest,
            PhaseTwoCommitFailedRetryable,
            PhaseTwoRollbacked,
            GlobalStatus::TimeoutRollbacked,
        ),
        (
            rollback,
            PhaseTwoRollbackFailedRetryable,
            PhaseTwoCommitted,
            GlobalStatus::Committed,
        ),
    ] {
        let mut net = Net::new(2, 700);
        let tm = net.tm(0);
        net.rm(1, "orders", "10.0.0.9", 50_000, "orders#default_tx_group");
        let xid = begin_saga(&mut net, tm);
        let waiting = net.ask(tm, ask(&xid));
        for fact in [first, last] {
            let call = net.next_call();
            assert!(!net.told.contains_key(&waiting), "it may still turn round");
            let ClientAnswer::Status { status: stands } = net.call(tm, status(&xid)) else {
                panic!("a status")
            };
            assert!(!stands.is_ended() && stands.direction().is_some(), "{stands}");
            net.rm_says(&call, fact);
        }
        net.until("an answer", |net| net.told.contains_key(&waiting));
        assert_eq!(net.told[&waiting], Told::Answer(ended(told)));
        // Asked again it is told the same: now it never changes.
        assert_eq!(net.call(tm, ask(&xid)), ended(told));
    }
}

#[test]
fn a_saga_that_does_not_end_within_the_hold_is_not_told_of() {
    let mut net = Net::new(1, 701);
    let tm = net.tm(0);
    let xid = begin_saga(&mut net, tm);
    let waiting = net.ask(tm, commit(&xid));
    let wait = net.nodes[0].gate.config().phase_two_wait;
    net.run(wait.as_millis() as u64 + 1_000);
    assert!(
        !net.told.contains_key(&waiting),
        "another transaction's decision would be told now"
    );
    net.until("the end of the hold", |net| net.told.contains_key(&waiting));
    assert_eq!(net.told[&waiting], Told::Dropped(DropReason::HoldExpired));
}
