//! How second-phase calls find their sessions, whatever connections and messages between nodes are lost, and how their
//! answers count, however late.

mod net;

use bytes::Bytes;
use net::*;
use settle_machine::Event;
use settle_tx::{BranchStatus, Tid};
use settle_tx_gate::{ClientAnswer, ConnId, GateError, GateMessage, GateNote, PeerCall, RmAnswer, SessionInfo};

fn committed() -> ClientAnswer {
    ClientAnswer::Ended {
        status: settle_tx::GlobalStatus::Committed,
    }
}

/// Sessions of resource managers that the node knows of.
fn known(net: &Net, node: usize) -> usize {
    net.nodes[node].gate.stats().directory_sessions
}

#[test]
fn one_reset_connection_makes_no_node_blind_to_the_sessions_of_another() {
    let mut net = Net::new(2, 34);
    let (tm, rm) = (net.tm(0), net.rm(1, "stock", "10.0.0.1", 50_000, "action"));
    net.run(50);
    // Node 0 loses the connection that it made; node 1 sees nothing of that.
    net.hang_up(0, 1);
    assert_eq!(known(&net, 0), 0);
    net.dial(0, 1);
    net.run(50);
    assert_eq!(known(&net, 0), 1, "asked for at once");
    net.hang_up(1, 0);
    let late = net.rm(1, "stock", "10.0.0.2", 50_001, "action");
    net.dial(1, 0);
    net.run(50);
    assert_eq!(known(&net, 0), 2);
    net.close(late);
    let xid = net.begin(tm);
    net.branch(rm, tcc(&xid, "action"));
    net.ask(tm, commit(&xid));
    assert_eq!(net.do_next_call().conn, rm);
    net.until("the end", |net| net.oracle.open_count() == 0);
}

#[test]
fn lost_news_of_sessions_is_noticed_within_seconds_and_made_good() {
    let mut net = Net::new(2, 35);
    for n in 0..1_000 {
        net.rm(
            1,
            "stock",
            "10.0.0.1",
            n,
            &format!("a_resource_with_a_rather_long_name_of_its_own_{n}"),
        );
    }
    net.run(50);
    assert_eq!(known(&net, 0), 1_000);
    let losing = |net: &mut Net, act: &mut dyn FnMut(&mut Net)| {
        net.faults.news_lost = 100;
        act(net);
        net.run(5_000);
        net.faults.news_lost = 0;
    };
    let mut rm = None;
    losing(&mut net, &mut |net| rm = Some(net.rm(1, "stock", "10.0.0.2", 1, "b")));
    assert_eq!(known(&net, 0), 1_000);
    net.run(2_200);
    assert_eq!(known(&net, 0), 1_001, "a session that is new");
    losing(&mut net, &mut |net| net.close(rm.expect("it is connected")));
    net.run(2_200);
    assert_eq!(known(&net, 0), 1_000, "a session that is gone");
    // A full sync is many messages, of which any may be lost.
    losing(&mut net, &mut |net| {
        net.hang_up(0, 1);
        net.dial(0, 1);
    });
    assert_eq!(known(&net, 0), 0);
    net.faults.news_lost = 30;
    net.run(20_000);
    net.faults.news_lost = 0;
    net.run(10_000);
    assert_eq!(known(&net, 0), 1_000);
}

#[test]
fn a_session_that_fails_every_call_gives_way_to_the_next_that_may_be_called() {
    let mut net = Net::new(2, 36);
    let (tm, broken) = (net.tm(0), net.rm(1, "stock", "10.0.0.1", 50_000, "action"));
    let good = net.rm(0, "stock", "10.0.0.2", 50_000, "action");
    let xid = net.begin(tm);
    net.branch(broken, tcc(&xid, "action"));
    net.ask(tm, commit(&xid));
    let first = net.next_call();
    assert_eq!(first.conn, broken, "the one that registered it comes first");
    net.rm_says(&first, BranchStatus::PhaseTwoCommitFailedRetryable);
    assert_eq!(net.do_next_call().conn, good);
    net.until("the end", |net| net.oracle.open_count() == 0);
}

/// A node that hangs closes nothing: whoever waits for a call that went there would wait until it is given up.
#[test]
fn calls_go_around_a_node_that_falls_silent_and_who_waits_for_one_is_told_at_once() {
    let mut net = Net::new(3, 39);
    let (tm, rm) = (net.tm(0), net.rm(1, "stock", "10.0.0.1", 50_000, "action"));
    let other = net.rm(2, "stock", "10.0.0.1", 50_001, "action");
    let ask_to_commit = |net: &mut Net| {
        let xid = net.begin(tm);
        net.branch(rm, tcc(&xid, "action"));
        net.ask(tm, commit(&xid))
    };
    let key = ask_to_commit(&mut net);
    let asleep = net.next_call();
    assert_eq!(asleep.conn, rm, "the one that registered it comes first");
    net.feed(0, Event::PeerSilent { node: id_of(1) });
    let before = net.now_ms;
    let status = settle_tx::GlobalStatus::CommitRetrying;
    assert_eq!(net.answer(key), ClientAnswer::Ended { status });
    assert!(net.now_ms - before <= 100, "after {} ms", net.now_ms - before);
    net.until("another call", |net| net.unanswered().count() == 2);
    let again = net.unanswered().last().expect("there are two").clone();
    assert_eq!(again.conn, other);
    net.rm_says(&again, BranchStatus::PhaseTwoCommitted);
    net.until("the end", |net| net.oracle.open_count() == 0);
    // It wakes, and so does the call.
    net.rm_says(&asleep, BranchStatus::PhaseTwoCommitted);

    let key = ask_to_commit(&mut net);
    assert_eq!(net.do_next_call().conn, other, "nothing is sent to the silent one");
    assert_eq!(net.answer(key), committed());
    net.feed(0, Event::PeerHeard { node: id_of(1) });
    let key = ask_to_commit(&mut net);
    assert_eq!(net.do_next_call().conn, rm);
    assert_eq!(net.answer(key), committed());
}

#[test]
fn a_call_for_an_earlier_run_or_for_a_resource_not_served_is_never_made() {
    let mut net = Net::new(2, 37);
    let (tm, rm) = (net.tm(0), net.rm(1, "stock", "10.0.0.1", 50_000, "action"));
    let xid = net.begin(tm);
    let branch = net.branch(rm, tcc(&xid, "action"));
    let key = net.ask(tm, commit(&xid));
    let done = net.do_next_call();
    assert_eq!(net.answer(key), committed());
    let call = |run, resource: &str| {
        let mut body = done.body.clone();
        body.resource = resource.to_owned();
        PeerCall {
            group: GROUP,
            term: net.term,
            tid: Tid::from_xid(&xid).expect("an xid of ours"),
            branch: settle_tx::BranchId::try_from_i64(branch).expect("a branch"),
            attempt: 1,
            run,
            conn: rm.id,
            body,
        }
    };
    let run = run_of(37, 1);
    for (call, is_made) in [
        (call(run + 1, "action"), false),
        (call(run, "another action"), false),
        (call(run, "action"), true),
    ] {
        let before = net.calls.len();
        let body: Bytes = GateMessage::Call(call).encode();
        net.feed(1, Event::Peer { from: id_of(0), body });
        assert_eq!(net.calls.len() > before, is_made);
    }
}

#[test]
fn the_sessions_of_an_earlier_run_are_forgotten_with_the_first_word_of_the_next() {
    let mut net = Net::new(2, 38);
    net.rm(1, "stock", "10.0.0.1", 50_000, "a");
    net.rm(1, "stock", "10.0.0.1", 50_001, "a");
    net.run(50);
    assert_eq!(known(&net, 0), 2);
    let info = SessionInfo {
        conn: ConnId(1),
        application: "stock".to_owned(),
        ip: "10.0.0.1".to_owned(),
        port: 50_002,
        resources: vec!["a".to_owned()],
    };
    let news = GateMessage::SessionUp { run: 999, info };
    let body = news.encode();
    net.feed(0, Event::Peer { from: id_of(1), body });
    assert_eq!(known(&net, 0), 1);
}

#[test]
fn the_answer_to_a_call_that_was_made_again_since_still_ends_the_branch() {
    let mut net = Net::new(2, 39);
    let (tm, rm) = (net.tm(0), net.rm(1, "stock", "10.0.0.1", 50_000, "action"));
    let xid = net.begin(tm);
    net.branch(rm, tcc(&xid, "action"));
    net.ask(tm, commit(&xid));
    let first = net.next_call();
    net.until("two more calls", |net| net.calls.len() == 3);
    let second = net.calls[1].clone();
    let entries = net.log.len();
    net.rm_says(&second, BranchStatus::PhaseTwoCommitFailedRetryable);
    net.run(1_000);
    assert_eq!(
        (net.calls.len(), net.oracle.open_count(), net.log.len()),
        (3, 1, entries),
        "a late failure is no news"
    );
    net.rm_says(&first, BranchStatus::PhaseTwoCommitted);
    net.until("the end", |net| net.oracle.open_count() == 0);
    let third = net.calls[2].clone();
    net.rm_says(&third, BranchStatus::PhaseTwoCommitted);
    net.run(1_000);
    assert_eq!(net.calls.len(), 3);
    let stats = net.nodes[1].gate.stats();
    assert_eq!((stats.calls_outstanding, stats.rm_nonsense_total), (0, 0));
}

#[test]
fn a_late_answer_about_something_else_closes_its_connection() {
    let mut net = Net::new(1, 40);
    let (tm, rm) = (net.tm(0), net.rm(0, "stock", "10.0.0.1", 50_000, "action"));
    let xid = net.begin(tm);
    let branch = net.branch(rm, tcc(&xid, "action"));
    net.ask(tm, commit(&xid));
    let first = net.next_call();
    net.until("another call", |net| net.calls.len() == 2);
    let answer = RmAnswer {
        ok: true,
        branch_status: Some(BranchStatus::PhaseTwoCommitted),
        xid,
        branch: branch + 1,
    };
    net.rm_answers(&first, answer);
    assert!(matches!(net.closed.last(), Some((_, GateError::WrongAnswer { .. }))));
    assert_eq!(net.oracle.open_count(), 1);
}

#[test]
fn calls_that_timed_out_take_no_room_from_others() {
    let mut config = config();
    config.max_calls = 2;
    let mut net = Net::with(1, 41, config);
    let tm = net.tm(0);
    let hung = net.rm(0, "stock", "10.0.0.1", 50_000, "action");
    for _ in 0..2 {
        let xid = net.begin(tm);
        net.branch(hung, tcc(&xid, "action"));
        net.ask(tm, commit(&xid));
    }
    net.until("their calls", |net| net.calls.len() == 2);
    net.run(15_100);
    let quick = net.rm(0, "billing", "10.0.0.3", 50_000, "pay");
    let xid = net.begin(tm);
    net.branch(quick, tcc(&xid, "pay"));
    net.ask(tm, commit(&xid));
    net.run(100);
    assert_eq!(net.calls.last().map(|call| call.conn), Some(quick));
}

#[test]
fn a_branch_that_nobody_can_take_is_noted_long_before_it_counts_as_stuck_and_seldom() {
    let mut net = Net::new(1, 42);
    let (tm, rm) = (net.tm(0), net.rm(0, "stock", "10.0.0.1", 50_000, "action"));
    let xid = net.begin(tm);
    net.branch(rm, tcc(&xid, "action"));
    net.close(rm);
    net.ask(tm, commit(&xid));
    let notes = |net: &Net| {
        let is_meant = |note: &GateNote| matches!(note, GateNote::NoChannel { xid: of, .. } if *of == xid);
        net.notes.iter().filter(|(_, note)| is_meant(note)).count()
    };
    net.run(3_000);
    assert_eq!(notes(&net), 1);
    net.run(60_000);
    assert!((2..=4).contains(&notes(&net)), "{}", notes(&net));
}

#[test]
fn what_the_driver_proposes_stays_bounded_while_nothing_is_applied() {
    let mut config = config();
    config.driver.max_timeouts_in_flight = 8;
    let mut net = Net::with(1, 43, config);
    let (tm, rm) = (net.tm(0), net.rm(0, "stock", "10.0.0.1", 50_000, "action"));
    for _ in 0..40 {
        net.call(tm, begin(5_000));
    }
    let xids: Vec<String> = (0..5).map(|_| net.begin(tm)).collect();
    for xid in &xids {
        net.branch(rm, tcc(xid, "action"));
    }
    net.close(rm);
    for xid in &xids {
        net.ask(tm, commit(xid));
    }
    net.run(100);
    net.faults.proposal_lost = 100;
    for _ in 0..30 {
        net.run(1_000);
        let pending = net.nodes[0].gate.stats().commands_pending;
        assert!(
            pending <= 8 * 2 + 5,
            "{pending} commands wait for a log that takes none"
        );
    }
    net.faults.proposal_lost = 0;
    net.until("the timeouts", |net| net.oracle.open_count() == 5);
}
