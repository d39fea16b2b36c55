//! What applications are told that have no business with a transaction, through doors that know who asks.

mod net;

use net::*;
use settle_tx::{BranchStatus, GlobalStatus};
use settle_tx_gate::{ClientAnswer, ClientRequest, GateNote};

/// Two nodes. `orders` has begun a transaction and `stock` has a branch in it; `thief` is admitted like both.
struct Bank {
    net: Net,
    orders: Conn,
    stock: Conn,
    thief: Conn,
    xid: String,
    branch: i64,
}

fn bank(granted: &[&str]) -> Bank {
    let mut net = Net::new(2, 71);
    net.granted = Some(granted.iter().map(ToString::to_string).collect());
    let orders = net.tm(0);
    let stock = net.rm(1, "stock", "10.0.0.1", 50_000, "action");
    let thief = net.rm(1, "thief", "10.0.0.9", 50_000, "action");
    let xid = net.begin(orders);
    let branch = match granted {
        [] => 0,
        _ => net.branch(stock, tcc(&xid, "action")),
    };
    net.run(100);
    Bank {
        net,
        orders,
        stock,
        thief,
        xid,
        branch,
    }
}

fn ended(status: GlobalStatus) -> ClientAnswer {
    ClientAnswer::Ended { status }
}

fn code(answer: &ClientAnswer) -> String {
    match answer {
        ClientAnswer::Refused(refusal) => refusal.error.code().to_string(),
        other => panic!("{other:?} is no refusal"),
    }
}

fn failed(xid: &str, branch: i64) -> ClientRequest {
    ClientRequest::ReportBranch {
        xid: xid.to_owned(),
        branch,
        status: BranchStatus::PhaseOneFailed,
        application_data: Some("{\"to\":\"me\"}".to_owned()),
    }
}

#[test]
fn a_stranger_is_told_what_makes_no_client_loop_or_believe_and_changes_nothing() {
    let Bank {
        mut net,
        orders,
        stock,
        thief,
        xid,
        branch,
    } = bank(&["default*"]);
    let before = net.oracle.globals().next().cloned();
    // Java takes this one for neither a commit nor a reason to ask again (see COMPAT.md).
    let not_yours = ended(GlobalStatus::TimeoutRollbacked);
    assert_eq!(net.call(thief, commit(&xid)), not_yours);
    assert_eq!(net.call(thief, rollback(&xid)), not_yours);
    assert_eq!(
        net.call(stock, rollback(&xid)),
        not_yours,
        "it joined, and did not begin"
    );
    let unknown = GlobalStatus::UnKnown;
    assert_eq!(net.call(thief, status(&xid)), ClientAnswer::Status { status: unknown });
    let report = ClientRequest::Report {
        xid: xid.clone(),
        status: GlobalStatus::Rollbacked,
    };
    assert_eq!(net.call(thief, report), ended(unknown));
    assert_eq!(code(&net.call(thief, failed(&xid, branch))), "TX0021");
    assert_eq!(code(&net.call(orders, failed(&xid, branch))), "TX0021");
    assert_eq!(net.oracle.globals().next().cloned(), before);
    let notes = net
        .notes
        .iter()
        .filter(|(_, note)| matches!(note, GateNote::OfAnother { .. }));
    assert_eq!(notes.count(), 7);

    let begun = ClientAnswer::Status {
        status: GlobalStatus::Begin,
    };
    assert_eq!(net.call(orders, status(&xid)), begun);
    assert_eq!(net.call(stock, status(&xid)), begun);
    assert_eq!(net.call(stock, failed(&xid, branch)), ClientAnswer::BranchReported);
    assert_eq!(net.call(orders, rollback(&xid)), ended(GlobalStatus::Rollbacked));
}

#[test]
fn a_replica_that_lags_behind_lets_no_stranger_in() {
    let Bank {
        mut net, orders, thief, ..
    } = bank(&["default_tx_group"]);
    net.nodes[1].is_apply_paused = true;
    let xid = net.begin(orders);
    let tries = [net.ask(thief, rollback(&xid)), net.ask(thief, status(&xid))];
    net.run(500);
    net.nodes[1].is_apply_paused = false;
    let [ended_as, stands] = tries.map(|key| net.answer(key));
    assert_eq!(ended_as, ended(GlobalStatus::TimeoutRollbacked));
    let status = GlobalStatus::UnKnown;
    assert_eq!(stands, ClientAnswer::Status { status });
    assert_eq!(net.call(orders, commit(&xid)), ended(GlobalStatus::Committed));
}

#[test]
fn only_who_is_granted_the_service_group_of_a_transaction_joins_it() {
    let Bank {
        mut net, stock, xid, ..
    } = bank(&[]);
    assert_eq!(code(&net.call(stock, tcc(&xid, "action"))), "TX0021");
    net.granted = Some(["default_tx_group".to_owned()].into());
    net.branch(stock, tcc(&xid, "action"));
}

#[test]
fn a_door_that_takes_clients_for_what_they_say_obeys_all() {
    let Bank {
        mut net, thief, xid, ..
    } = bank(&["*"]);
    net.granted = None;
    net.ask(thief, rollback(&xid));
    net.until("the decision", |net| {
        net.oracle.globals().all(|global| global.status != GlobalStatus::Begin)
    });
}

#[test]
fn what_strangers_try_is_noted_seldom_and_counted_always() {
    let Bank {
        mut net, thief, xid, ..
    } = bank(&["*"]);
    for _ in 0..100 {
        net.ask(thief, commit(&xid));
    }
    net.run(500);
    let notes = net
        .notes
        .iter()
        .filter(|(_, note)| matches!(note, GateNote::OfAnother { .. }));
    assert_eq!(notes.count(), 16);
    assert_eq!(net.nodes[1].gate.stats().strangers_refused_total, 100);
}
