//! The life of transactions through one to three gates, one behaviour per script.

mod net;

use std::time::Duration;

use bytes::Bytes;
use net::*;
use settle_machine::Event;
use settle_tx::{BranchStatus, CallFailure, CallKind, GlobalStatus, Tid};
use settle_tx_gate::{
    AdminAnswer, AdminRequest, ClientAnswer, ClientRequest, DropReason, GateError, GateMessage, GateNote, PeerCall,
    RefusalError, RmAnswer, ShowFilter, TxFilter, TxView,
};

fn ended(status: u8) -> ClientAnswer {
    ClientAnswer::Ended {
        status: GlobalStatus::try_from(status).expect("a status of Seata"),
    }
}

fn tid(xid: &str) -> Tid {
    Tid::from_xid(xid).expect("an xid of ours")
}

#[test]
fn an_at_commit_is_answered_committed_at_once_and_its_branches_follow() {
    let mut net = Net::new(1, 1);
    let (tm, rm) = (net.tm(0), net.rm(0, "stock", "10.0.0.1", 50_000, "db"));
    let xid = net.begin(tm);
    assert_eq!(xid, "10.1.1.0:8091:36028797018963969");
    let branch = net.branch(rm, at(&xid, "db", "stock:1,2"));
    assert_eq!(net.call(tm, commit(&xid)), ended(9));
    let call = net.do_next_call();
    assert_eq!(
        (call.conn, call.body.branch, call.body.kind),
        (rm, branch, CallKind::Commit)
    );
    assert_eq!(
        (call.body.application_data.as_str(), call.body.resource.as_str()),
        ("{}", "db")
    );
    net.until("the end", |net| net.oracle.open_count() == 0);
    assert_eq!(
        net.call(tm, status(&xid)),
        ClientAnswer::Status {
            status: GlobalStatus::Committed
        }
    );
}

#[test]
fn with_many_under_way_the_leaders_next_commands_share_an_entry_that_is_given_when_those_are_applied() {
    let mut net = Net::new(1, 5);
    let tm = net.tm(0);
    let ask = |net: &mut Net, count| {
        for _ in 0..count {
            net.ask(tm, begin(60_000));
        }
        net.feed(0, Event::Flush);
    };
    net.begin(tm);
    let before = net.log.len();
    ask(&mut net, 7);
    ask(&mut net, 1);
    assert_eq!(net.proposals(), 2, "with few under way nothing waits");
    ask(&mut net, 1);
    ask(&mut net, 1);
    assert_eq!(net.proposals(), 2);
    net.deliver_and_apply();
    assert_eq!((net.log.len() - before, net.proposals()), (2, 1));
    net.deliver_and_apply();
    assert_eq!((net.log.len() - before, net.begun.len()), (3, 11));
}

#[test]
fn a_tcc_commit_calls_its_branches_in_order_and_waits_for_them() {
    let mut net = Net::new(1, 2);
    let (tm, rm) = (net.tm(0), net.rm(0, "stock", "10.0.0.1", 50_000, "action"));
    let xid = net.begin(tm);
    let branches = [net.branch(rm, tcc(&xid, "action")), net.branch(rm, tcc(&xid, "action"))];
    let key = net.ask(tm, commit(&xid));
    let first = net.next_call();
    net.run(1_000);
    assert_eq!(net.calls.len(), 1, "the second branch waits for the first");
    assert!(!net.told.contains_key(&key), "the commit waits for phase two");
    net.rm_says(&first, BranchStatus::PhaseTwoCommitted);
    let second = net.do_next_call();
    assert_eq!([first.body.branch, second.body.branch], branches);
    net.run(50);
    assert_eq!(
        net.told[&key],
        Told::Answer(ended(9)),
        "as soon as the last branch is done"
    );
}

#[test]
fn a_tcc_rollback_calls_its_branches_in_reverse_order() {
    let mut net = Net::new(1, 3);
    let (tm, rm) = (net.tm(0), net.rm(0, "stock", "10.0.0.1", 50_000, "action"));
    let xid = net.begin(tm);
    let branches = [net.branch(rm, tcc(&xid, "action")), net.branch(rm, tcc(&xid, "action"))];
    let key = net.ask(tm, rollback(&xid));
    let calls = [net.do_next_call(), net.do_next_call()];
    assert_eq!(
        calls.each_ref().map(|call| call.body.branch),
        [branches[1], branches[0]]
    );
    assert!(calls.iter().all(|call| call.body.kind == CallKind::Rollback));
    assert_eq!(net.answer(key), ended(11));
}

#[test]
fn a_commit_is_never_answered_before_it_is_decided() {
    let mut net = Net::new(3, 4);
    let tm = net.tm(1);
    let xid = net.begin(tm);
    net.lose_leader();
    let key = net.ask(tm, commit(&xid));
    net.run(5_000);
    assert!(!net.told.contains_key(&key));
    net.elect(2);
    assert_eq!(net.answer(key), ended(9));
}

#[test]
fn a_request_that_cannot_be_decided_is_dropped_at_its_hold_and_never_answered() {
    let mut net = Net::new(3, 5);
    let (tm, rm) = (net.tm(1), net.rm(1, "stock", "10.0.0.1", 50_000, "db"));
    let xid = net.begin(tm);
    net.lose_leader();
    let asked = net.now_ms;
    let of_tm = [begin(1_000), commit(&xid), rollback(&xid), status(&xid)];
    let of_tm = of_tm.map(|body| net.ask(tm, body));
    let of_rm = [at(&xid, "db", "t:1"), lock_query("", "t:1")].map(|body| net.ask(rm, body));
    net.until("the RM's hold", |net| {
        of_rm.iter().all(|key| net.told.contains_key(key))
    });
    assert!(
        (12_000..12_100).contains(&(net.now_ms - asked)),
        "{}",
        net.now_ms - asked
    );
    net.until("the TM's hold", |net| {
        of_tm.iter().all(|key| net.told.contains_key(key))
    });
    assert!(
        (25_000..25_100).contains(&(net.now_ms - asked)),
        "{}",
        net.now_ms - asked
    );
    for key in of_tm.iter().chain(&of_rm) {
        assert_eq!(net.told[key], Told::Dropped(DropReason::HoldExpired));
    }
    assert_eq!(net.nodes[1].gate.stats().requests_in_flight, 0);
    assert_eq!(net.nodes[1].gate.stats().holds_expired_total, 6);
}

#[test]
fn a_decided_commit_whose_branches_are_slow_is_answered_committing_before_its_hold_ends() {
    let mut net = Net::new(1, 6);
    let (tm, rm) = (net.tm(0), net.rm(0, "stock", "10.0.0.1", 50_000, "action"));
    let xid = net.begin(tm);
    net.branch(rm, tcc(&xid, "action"));
    let asked = net.now_ms;
    let key = net.ask(tm, commit(&xid));
    assert_eq!(net.answer(key), ended(2));
    assert!(net.now_ms - asked <= 15_100, "{}", net.now_ms - asked);
    net.do_next_call();
    net.until("the end", |net| net.oracle.open_count() == 0);
    assert_eq!(net.call(tm, commit(&xid)), ended(9));
}

#[test]
fn a_branch_that_fails_retryably_answers_the_commit_and_is_called_again() {
    let mut net = Net::new(1, 7);
    let (tm, rm) = (net.tm(0), net.rm(0, "stock", "10.0.0.1", 50_000, "action"));
    let xid = net.begin(tm);
    net.branch(rm, tcc(&xid, "action"));
    let key = net.ask(tm, commit(&xid));
    let call = net.next_call();
    net.rm_says(&call, BranchStatus::PhaseTwoCommitFailedRetryable);
    assert_eq!(net.answer(key), ended(3));
    let again = net.do_next_call();
    assert_ne!(again.call, call.call);
    net.until("the end", |net| net.oracle.open_count() == 0);
}

#[test]
fn a_second_end_of_the_same_transaction_gets_the_first_decision() {
    let mut net = Net::new(2, 8);
    let (tm, other) = (net.tm(0), net.tm(1));
    let xid = net.begin(tm);
    assert_eq!(net.call(tm, commit(&xid)), ended(9));
    assert_eq!(net.call(other, commit(&xid)), ended(9));
    assert_eq!(net.call(tm, rollback(&xid)), ended(9));

    let xid = net.begin(tm);
    assert_eq!(net.call(tm, rollback(&xid)), ended(11));
    assert_eq!(net.call(other, rollback(&xid)), ended(11));
    assert_eq!(
        net.call(tm, commit(&xid)),
        ended(13),
        "the Java client would take 11 for a commit"
    );
    assert_eq!(net.call(other, commit(&xid)), ended(13));
}

#[test]
fn a_commit_after_the_timeout_is_answered_timeout_rollbacked() {
    let mut net = Net::new(2, 9);
    let (tm, rm) = (net.tm(1), net.rm(1, "stock", "10.0.0.1", 50_000, "db"));
    let ClientAnswer::Begun { xid } = net.call(tm, begin(1_000)) else {
        panic!("it begins")
    };
    net.branch(rm, at(&xid, "db", "t:1"));
    let call = net.next_call();
    assert_eq!(call.body.kind, CallKind::Rollback);
    assert_eq!(net.call(tm, commit(&xid)), ended(6));
    net.rm_says(&call, BranchStatus::PhaseTwoRollbacked);
    net.until("the end", |net| net.oracle.open_count() == 0);
    assert_eq!(net.call(tm, commit(&xid)), ended(13));
    assert_eq!(net.call(tm, rollback(&xid)), ended(13));
    let timed_out = GateNote::TimedOut { xid };
    assert!(net.notes.iter().any(|(_, note)| *note == timed_out));
}

#[test]
fn a_commit_repeated_while_the_first_is_held_is_decided_once_and_answered_twice() {
    let mut net = Net::new(3, 10);
    let tm = net.tm(1);
    let xid = net.begin(tm);
    net.lose_leader();
    let keys = [net.ask(tm, commit(&xid)), net.ask(tm, commit(&xid))];
    net.run(1_000);
    net.elect(0);
    assert_eq!(keys.map(|key| net.answer(key)), [ended(9), ended(9)]);
}

#[test]
fn a_leader_change_in_the_middle_of_a_registration_registers_one_branch() {
    let mut net = Net::new(3, 11);
    let (tm, rm) = (net.tm(1), net.rm(1, "stock", "10.0.0.1", 50_000, "db"));
    let xid = net.begin(tm);
    net.nodes[1].is_apply_paused = true;
    let entries = net.log.len();
    let key = net.ask(rm, at(&xid, "db", "t:1"));
    net.run(100);
    assert_eq!(net.log.len(), entries + 1, "the first copy is in the log");
    net.elect(2);
    net.run(3_000);
    assert!(net.log.len() > entries + 1, "a new leader is asked again");
    net.nodes[1].is_apply_paused = false;
    assert!(matches!(net.answer(key), ClientAnswer::BranchRegistered { .. }));
    let global = net.oracle.global(tid(&xid)).expect("it is open");
    assert_eq!(global.branches().len(), 1);
}

#[test]
fn a_proposal_lost_on_its_way_is_made_again() {
    let mut net = Net::new(2, 12);
    let tm = net.tm(1);
    net.faults.proposal_lost = 100;
    let key = net.ask(tm, begin(60_000));
    net.run(400);
    net.faults.proposal_lost = 0;
    assert!(matches!(net.answer(key), ClientAnswer::Begun { .. }));
    assert_eq!(net.oracle.open_count(), 1);
}

#[test]
fn a_new_leader_is_asked_at_once_for_what_the_old_one_lost() {
    let mut net = Net::new(3, 31);
    let tm = net.tm(1);
    net.faults.proposal_lost = 100;
    let key = net.ask(tm, begin(60_000));
    // Proposed after 0, 0.5, 1.5 and 3.5 s; next would be 7.5 s.
    net.run(4_000);
    net.faults.proposal_lost = 0;
    net.run(1_000);
    assert!(!net.told.contains_key(&key));
    net.elect(2);
    net.run(50);
    assert!(matches!(net.told[&key], Told::Answer(ClientAnswer::Begun { .. })));
}

#[test]
fn a_call_that_comes_to_nothing_is_told_to_the_newest_leader_that_asked_for_it() {
    let mut net = Net::new(3, 32);
    let (tm, rm) = (net.tm(1), net.rm(2, "stock", "10.0.0.1", 50_000, "action"));
    let xid = net.begin(tm);
    net.branch(rm, tcc(&xid, "action"));
    net.ask(tm, commit(&xid));
    let call = net.next_call();
    net.rm_says(&call, BranchStatus::PhaseTwoCommitFailedRetryable);
    // The second attempt of the old leader is the first of the new one.
    assert_eq!(net.next_call().conn, rm);
    net.elect(1);
    net.run(100);
    let second = net.rm(2, "stock", "10.0.0.2", 50_000, "action");
    net.close(rm);
    let lost = net.now_ms;
    net.until("the call elsewhere", |net| {
        net.unanswered().any(|call| call.conn == second)
    });
    assert!(net.now_ms - lost < 2_000, "the new leader waits for no timeout");
}

#[test]
fn a_node_that_dies_with_a_call_has_it_made_through_another_one_at_once() {
    let mut net = Net::new(3, 33);
    let (tm, rm) = (net.tm(0), net.rm(2, "stock", "10.0.0.1", 50_000, "action"));
    let second = net.rm(1, "stock", "10.0.0.1", 50_001, "action");
    let xid = net.begin(tm);
    net.branch(rm, tcc(&xid, "action"));
    net.ask(tm, commit(&xid));
    assert_eq!(net.next_call().conn, rm);
    net.cut(0, 2);
    let lost = net.now_ms;
    net.until("the call elsewhere", |net| {
        net.unanswered().any(|call| call.conn == second)
    });
    assert!(net.now_ms - lost < 2_000, "the leader waits for no timeout");
}

#[test]
fn phase_two_goes_through_the_node_that_holds_the_channel() {
    let mut net = Net::new(3, 13);
    let (tm, rm) = (net.tm(1), net.rm(2, "stock", "10.0.0.1", 50_000, "db"));
    let xid = net.begin(tm);
    net.branch(rm, at(&xid, "db", "t:1"));
    assert_eq!(net.call(tm, commit(&xid)), ended(9));
    let call = net.do_next_call();
    assert_eq!(call.conn, rm, "node 0 leads, node 2 calls");
    net.until("the end", |net| net.oracle.open_count() == 0);
    assert_eq!(net.calls.len(), 1);
}

#[test]
fn a_call_of_an_older_term_is_refused() {
    let mut net = Net::new(3, 14);
    let (tm, rm) = (net.tm(1), net.rm(2, "stock", "10.0.0.1", 50_000, "action"));
    let xid = net.begin(tm);
    net.branch(rm, tcc(&xid, "action"));
    let key = net.ask(tm, commit(&xid));
    let call = net.next_call();
    // Node 0 does not hear that it lost its office; its driver goes on. The new leader has still to catch up.
    net.nodes[1].is_apply_paused = true;
    net.rm_says(&call, BranchStatus::PhaseTwoCommitFailedRetryable);
    net.run(50);
    net.elect_told(1, &[1, 2]);
    net.until("the old leader's call", |net| {
        net.notes.iter().any(|(node, note)| {
            *node == 2 && matches!(note, GateNote::OldTermRefused { from, term: 1, newest: 2, .. } if *from == id_of(0))
        })
    });
    net.nodes[1].is_apply_paused = false;
    net.do_next_call();
    assert_eq!(net.answer(key), ended(3));
    net.until("the end", |net| net.oracle.open_count() == 0);
}

#[test]
fn an_answer_after_a_leader_change_counts_and_the_new_leaders_repeat_is_not_a_second_call() {
    let mut net = Net::new(3, 15);
    let (tm, rm) = (net.tm(1), net.rm(2, "stock", "10.0.0.1", 50_000, "action"));
    let xid = net.begin(tm);
    net.branch(rm, tcc(&xid, "action"));
    let key = net.ask(tm, commit(&xid));
    let call = net.next_call();
    net.elect(1);
    net.run(3_000);
    assert_eq!(net.calls.len(), 1, "one call is out per branch");
    net.rm_says(&call, BranchStatus::PhaseTwoCommitted);
    assert_eq!(net.answer(key), ended(9));
    assert_eq!(net.oracle.open_count(), 0);
    assert_eq!(net.calls.len(), 1);
}

#[test]
fn a_branch_is_not_called_again_while_its_answer_is_on_its_way_into_the_log() {
    let mut net = Net::new(3, 16);
    let (tm, rm) = (net.tm(1), net.rm(2, "stock", "10.0.0.1", 50_000, "action"));
    let xid = net.begin(tm);
    net.branch(rm, tcc(&xid, "action"));
    net.ask(tm, commit(&xid));
    let call = net.next_call();
    net.faults.proposal_lost = 100;
    net.rm_says(&call, BranchStatus::PhaseTwoCommitted);
    net.rm_says(&call, BranchStatus::PhaseTwoCommitted);
    assert!(
        matches!(net.notes.last(), Some((2, GateNote::AnswerIgnored { .. }))),
        "one answer is one fact"
    );
    net.run(300);
    net.elect(1);
    net.run(300);
    assert_eq!(net.calls.len(), 1);
    net.faults.proposal_lost = 0;
    net.until("the end", |net| net.oracle.open_count() == 0);
    assert_eq!(net.calls.len(), 1);
}

#[test]
fn a_client_that_comes_back_on_another_port_and_node_is_called_there() {
    let mut net = Net::new(3, 17);
    let (tm, rm) = (net.tm(1), net.rm(2, "stock", "10.0.0.1", 50_000, "action"));
    let other = net.rm(0, "billing", "10.0.0.1", 50_000, "action");
    let xid = net.begin(tm);
    net.branch(rm, tcc(&xid, "action"));
    net.close(rm);
    net.ask(tm, commit(&xid));
    net.run(3_000);
    assert!(
        net.calls.iter().all(|call| call.conn != other),
        "TCC is never another application's"
    );
    let back = net.rm(1, "stock", "10.0.0.1", 50_001, "action");
    assert_eq!(net.do_next_call().conn, back);
    net.until("the end", |net| net.oracle.open_count() == 0);
}

#[test]
fn a_connection_lost_during_a_call_has_it_made_again_elsewhere() {
    let mut net = Net::new(2, 18);
    let (tm, rm) = (net.tm(0), net.rm(1, "stock", "10.0.0.1", 50_000, "action"));
    let second = net.rm(0, "stock", "10.0.0.2", 50_000, "action");
    let xid = net.begin(tm);
    net.branch(rm, tcc(&xid, "action"));
    net.ask(tm, commit(&xid));
    let call = net.next_call();
    assert_eq!(call.conn, rm);
    net.close(rm);
    net.rm_says(&call, BranchStatus::PhaseTwoCommitted);
    let lost = net.now_ms;
    assert_eq!(net.do_next_call().conn, second);
    assert!(
        net.now_ms - lost < 2_000,
        "the leader is told, and waits for no timeout"
    );
    net.until("the end", |net| net.oracle.open_count() == 0);
}

#[test]
fn a_call_without_an_answer_times_out_is_made_again_and_the_late_answer_of_the_first_is_known() {
    let mut net = Net::new(2, 19);
    let (tm, rm) = (net.tm(0), net.rm(1, "stock", "10.0.0.1", 50_000, "action"));
    let xid = net.begin(tm);
    net.branch(rm, tcc(&xid, "action"));
    net.ask(tm, commit(&xid));
    let call = net.next_call();
    net.until("the timeout", |net| {
        net.notes.iter().any(|(_, note)| {
            matches!(
                note,
                GateNote::CallFailed {
                    why: CallFailure::Timeout,
                    ..
                }
            )
        })
    });
    net.rm_says(&call, BranchStatus::PhaseTwoCommitted);
    net.until("the end", |net| net.oracle.open_count() == 0);
    assert_eq!(net.calls.len(), 1, "the late answer was a fact");
}

#[test]
fn sessions_are_known_to_a_node_that_joins_later() {
    let mut net = Net::new(2, 20);
    net.cut(0, 1);
    for n in 0..1_500 {
        net.rm(
            1,
            "stock",
            "10.0.0.1",
            n,
            &format!("jdbc:mysql://10.9.9.9:3306/a_database_with_a_long_name_{n}"),
        );
    }
    assert_eq!(net.nodes[0].gate.stats().directory_sessions, 0);
    net.join(0, 1);
    net.run(50);
    assert_eq!(net.nodes[0].gate.stats().directory_sessions, 1_500);
    net.cut(0, 1);
    assert_eq!(net.nodes[0].gate.stats().directory_sessions, 0);
    assert_eq!(net.nodes[1].gate.stats().directory_sessions, 1_500);
}

#[test]
fn a_resource_taken_back_is_not_called_any_more() {
    let mut net = Net::new(2, 21);
    let (tm, rm) = (net.tm(0), net.rm(1, "stock", "10.0.0.1", 50_000, "action"));
    let xid = net.begin(tm);
    net.branch(rm, tcc(&xid, "action"));
    net.call(
        rm,
        ClientRequest::UnregisterRm {
            resources: vec!["action".to_owned()],
        },
    );
    net.ask(tm, commit(&xid));
    net.run(3_000);
    assert!(net.calls.is_empty());
}

fn lock_query(xid: &str, lock_keys: &str) -> ClientRequest {
    ClientRequest::LockQuery {
        xid: xid.to_owned(),
        resource: "db".to_owned(),
        lock_keys: lock_keys.to_owned(),
    }
}

#[test]
fn a_lock_query_on_any_node_sees_every_lock_taken_before_it() {
    let mut net = Net::new(2, 22);
    net.faults.apply_lag_ms = 300;
    let (tm, rm) = (net.tm(0), net.rm(0, "stock", "10.0.0.1", 50_000, "db"));
    let far = net.rm(1, "stock", "10.0.0.2", 50_000, "db");
    let xid = net.begin(tm);
    net.branch(rm, at(&xid, "db", "t:1"));
    assert_eq!(
        net.call(far, lock_query("", "t:1")),
        ClientAnswer::Lockable { lockable: false }
    );
    assert_eq!(
        net.call(far, lock_query(&xid, "t:1")),
        ClientAnswer::Lockable { lockable: true }
    );
    assert_eq!(
        net.call(far, lock_query("", "t:2")),
        ClientAnswer::Lockable { lockable: true }
    );
}

#[test]
fn a_status_is_read_after_the_question_even_on_a_node_that_lags() {
    let mut net = Net::new(2, 23);
    net.faults.apply_lag_ms = 500;
    net.faults.read_lost = 50;
    let (tm, far) = (net.tm(0), net.tm(1));
    for _ in 0..5 {
        let xid = net.begin(tm);
        assert_eq!(net.call(tm, commit(&xid)), ended(9));
        assert_eq!(
            net.call(far, status(&xid)),
            ClientAnswer::Status {
                status: GlobalStatus::Committed
            }
        );
    }
}

#[test]
fn a_conflict_names_its_holder_and_tells_the_client_to_retry() {
    let mut net = Net::new(1, 24);
    let (tm, rm) = (net.tm(0), net.rm(0, "stock", "10.0.0.1", 50_000, "db"));
    let (first, second) = (net.begin(tm), net.begin(tm));
    net.branch(rm, at(&first, "db", "t:1"));
    let ClientAnswer::Refused(refusal) = net.call(rm, at(&second, "db", "t:1")) else {
        panic!("it is refused")
    };
    assert_eq!(refusal.exception, 2);
    assert!(refusal.error.to_string().contains(&first), "{}", refusal.error);
    assert!(refusal.error.to_string().starts_with("TX"), "{}", refusal.error);
}

#[test]
fn what_a_snapshot_hid_is_answered_from_its_state() {
    let mut net = Net::new(2, 25);
    let (tm, rm) = (net.tm(1), net.rm(0, "stock", "10.0.0.1", 50_000, "action"));
    let xid = net.begin(tm);
    net.branch(rm, tcc(&xid, "action"));
    let waiting = net.ask(tm, commit(&xid));
    let call = net.next_call();
    net.run(100);
    net.nodes[1].is_apply_paused = true;
    let begun = net.ask(tm, begin(60_000));
    net.run(100);
    assert_eq!(net.oracle.open_count(), 2);
    net.rm_says(&call, BranchStatus::PhaseTwoCommitted);
    net.until("the end", |net| net.oracle.open_count() == 1);
    // The replica of node 1 is replaced; it never sees the effects.
    let log = std::mem::take(&mut net.log);
    let mut machine = settle_tx::TxMachine::new(settle_tx::MachineConfig::new(1));
    for (meta, command) in &log {
        settle_machine::StateMachine::apply(&mut machine, *meta, command, &mut Vec::new())
            .expect("it was applied before");
    }
    net.nodes[1].applied = log.len();
    net.log = log;
    net.nodes[1].machine = machine;
    net.nodes[1].is_apply_paused = false;
    net.feed(1, Event::Reloaded { group: GROUP });
    net.run(50);
    assert_eq!(net.told[&waiting], Told::Answer(ended(9)));
    assert!(matches!(net.told[&begun], Told::Answer(ClientAnswer::Begun { .. })));
    assert_eq!(net.oracle.open_count(), 1, "the begin was proposed again and done once");
}

#[test]
fn a_stuck_branch_is_noted_once_with_its_xid() {
    let mut config = config();
    config.driver.stuck_after = Duration::from_secs(20);
    let mut net = Net::with(1, 26, config);
    let (tm, rm) = (net.tm(0), net.rm(0, "stock", "10.0.0.1", 50_000, "action"));
    let xid = net.begin(tm);
    net.branch(rm, tcc(&xid, "action"));
    net.close(rm);
    net.ask(tm, commit(&xid));
    net.run(60_000);
    let is_stuck = |note: &GateNote| matches!(note, GateNote::Stuck { xid: of, .. } if *of == xid);
    assert_eq!(net.notes.iter().filter(|(_, note)| is_stuck(note)).count(), 1);
    net.rm(0, "stock", "10.0.0.1", 50_001, "action");
    net.do_next_call();
    net.until("the end", |net| net.oracle.open_count() == 0);
}

#[test]
fn operators_list_and_show_what_is_open_and_what_has_ended() {
    let mut net = Net::new(2, 27);
    let (tm, rm) = (net.tm(0), net.rm(0, "stock", "10.0.0.1", 50_000, "db"));
    let xids: Vec<String> = (0..3).map(|_| net.begin(tm)).collect();
    net.branch(rm, at(&xids[1], "db", "t:1"));
    net.call(tm, commit(&xids[0]));
    let mut admin = |body| {
        let key = net.ask_admin(1, body);
        net.until("an answer", |net| net.admin.contains_key(&key));
        net.admin.remove(&key).expect("it was just there")
    };
    let list = |after| {
        AdminRequest::ListTx(TxFilter {
            limit: 1,
            after,
            ..TxFilter::default()
        })
    };
    let Ok(AdminAnswer::Transactions { rows, next }) = admin(list(None)) else {
        panic!("a list")
    };
    assert_eq!(
        (rows.len(), rows[0].xid.as_str(), next),
        (1, xids[1].as_str(), Some(tid(&xids[1])))
    );
    let Ok(AdminAnswer::Transactions { rows, next }) = admin(list(next)) else {
        panic!("a list")
    };
    assert_eq!((rows[0].xid.as_str(), next), (xids[2].as_str(), None));

    let show = |id: &str| {
        AdminRequest::ShowTx(ShowFilter {
            id: id.to_owned(),
            ..ShowFilter::default()
        })
    };
    let Ok(AdminAnswer::Transaction(TxView::Open { branches, .. })) = admin(show(&xids[1])) else {
        panic!("a view")
    };
    assert_eq!(
        (branches[0].client.as_str(), branches[0].lock_keys.as_str()),
        ("stock:10.0.0.1:50000", "t:1")
    );
    let (tid, status) = (tid(&xids[0]), GlobalStatus::Committed);
    assert_eq!(
        admin(show(&tid.to_string())),
        Ok(AdminAnswer::Transaction(TxView::Ended {
            tid,
            status,
            acts: Vec::new()
        }))
    );
    assert!(matches!(
        admin(show("nonsense")),
        Err(RefusalError::Gate(GateError::UnknownXid { .. }))
    ));
    let Ok(AdminAnswer::Sessions(rows)) = admin(AdminRequest::Sessions) else {
        panic!("sessions")
    };
    assert_eq!((rows.len(), rows[0].node), (1, id_of(0)));
}

#[test]
fn an_operator_is_told_when_the_group_cannot_be_read() {
    let mut net = Net::new(2, 28);
    net.lose_leader();
    let key = net.ask_admin(1, AdminRequest::ListTx(TxFilter::default()));
    net.until("an answer", |net| net.admin.contains_key(&key));
    assert_eq!(net.admin[&key], Err(RefusalError::Gate(GateError::ReadTimedOut)));
}

#[test]
fn a_peer_that_asks_for_a_call_on_a_channel_that_is_gone_hears_so() {
    let mut net = Net::new(2, 29);
    let (tm, rm) = (net.tm(0), net.rm(1, "stock", "10.0.0.1", 50_000, "action"));
    let xid = net.begin(tm);
    let branch = net.branch(rm, tcc(&xid, "action"));
    let key = net.ask(tm, commit(&xid));
    let call = net.next_call();
    net.rm_says(&call, BranchStatus::PhaseTwoCommitted);
    assert_eq!(net.answer(key), ended(9));
    net.close(rm);
    let call = PeerCall {
        group: GROUP,
        term: net.term,
        tid: tid(&xid),
        branch: settle_tx::BranchId::try_from_i64(branch).expect("a branch"),
        attempt: 1,
        run: run_of(29, 1),
        conn: rm.id,
        body: call.body,
    };
    let body: Bytes = GateMessage::Call(call).encode();
    net.feed(1, Event::Peer { from: id_of(0), body });
    assert!(net.notes.iter().any(|(_, note)| matches!(
        note,
        GateNote::CallFailed {
            why: CallFailure::NoChannel,
            ..
        }
    )));
}

#[test]
fn a_failed_answer_without_ids_counts_as_a_failure_of_its_call() {
    let mut net = Net::new(1, 30);
    let (tm, rm) = (net.tm(0), net.rm(0, "stock", "10.0.0.1", 50_000, "action"));
    let xid = net.begin(tm);
    net.branch(rm, tcc(&xid, "action"));
    let key = net.ask(tm, rollback(&xid));
    let call = net.next_call();
    net.rm_answers(
        &call,
        RmAnswer {
            ok: false,
            branch_status: None,
            xid: String::new(),
            branch: 0,
        },
    );
    assert_eq!(net.answer(key), ended(5));
    net.do_next_call();
    net.until("the end", |net| net.oracle.open_count() == 0);
}
