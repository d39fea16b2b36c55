//! What the door refuses: each limit with its code, and input that no sane client or peer sends.

mod net;

use bytes::Bytes;
use net::*;
use settle_base::{ByteSize, GroupId, Prng};
use settle_machine::Event;
use settle_tx::{BranchId, BranchStatus, BranchType, CallFailure, CallKind, GlobalStatus, Tid};
use settle_tx_gate::{
    BranchCall, ClientAnswer, ClientRequest, ConnId, DropReason, GateConfig, GateError, GateMessage, GateNote, Ident,
    MessageError, PeerCall, RmAnswer, SessionInfo, SessionsDigest,
};

fn ended(status: GlobalStatus) -> ClientAnswer {
    ClientAnswer::Ended { status }
}

/// The code and the exception ordinal of a refusal.
fn refused(answer: &ClientAnswer) -> (String, u8) {
    let ClientAnswer::Refused(refusal) = answer else {
        panic!("{answer:?} is no refusal")
    };
    let code = refusal.error.code().to_string();
    assert!(
        refusal.error.to_string().starts_with(&code),
        "the client reads the code in the message"
    );
    (code, refusal.exception)
}

fn last_close(net: &Net) -> (Conn, String) {
    let (conn, error) = net.closed.last().expect("a connection was closed");
    (*conn, error.code().to_string())
}

fn one_node(change: impl FnOnce(&mut GateConfig)) -> Net {
    let mut config = config();
    change(&mut config);
    Net::with(1, 1, config)
}

fn pair_of(net: &mut Net) -> (Conn, Conn) {
    (net.tm(0), net.rm(0, "stock", "10.0.0.1", 50_000, "db"))
}

#[test]
fn a_channel_that_has_not_registered_is_closed() {
    let mut net = Net::new(1, 1);
    let conn = net.connect(0, "10.0.0.1", 50_000);
    let key = net.ask(conn, begin(1_000));
    assert_eq!(last_close(&net), (conn, "TG0001".to_owned()));
    net.run(1_000);
    assert!(!net.told.contains_key(&key));
    assert_eq!(net.oracle.stats().begun_total, 0);
    let conn = net.connect(0, "10.0.0.1", 50_001);
    net.ask(conn, ClientRequest::UnregisterRm { resources: Vec::new() });
    assert_eq!(last_close(&net), (conn, "TG0001".to_owned()));
}

#[test]
fn one_session_too_many_is_closed() {
    let mut net = one_node(|config| config.max_sessions = 2);
    pair_of(&mut net);
    let third = net.connect(0, "10.0.0.1", 50_001);
    assert_eq!(last_close(&net), (third, "TG0002".to_owned()));
    assert_eq!(net.nodes[0].gate.stats().sessions, 2);
}

#[test]
fn too_many_requests_are_refused_where_the_client_looks_and_dropped_where_it_does_not() {
    for (code, change) in [
        ("TG0003", (|config| config.max_in_flight = 1) as fn(&mut GateConfig)),
        ("TG0004", |config| config.max_in_flight_per_session = 1),
    ] {
        let mut net = one_node(change);
        let tm = net.tm(0);
        let xid = net.begin(tm);
        let first = net.ask(tm, begin(1_000));
        let second = net.call(tm, begin(1_000));
        assert_eq!(refused(&second), (code.to_owned(), 1));
        for body in [commit(&xid), rollback(&xid), status(&xid)] {
            let key = net.ask(tm, body);
            assert!(
                matches!(&net.told[&key], Told::Dropped(DropReason::Refused(error)) if error.code().to_string() == code),
                "{:?}: the Java client would take any status for success",
                net.told[&key]
            );
        }
        assert!(matches!(net.answer(first), ClientAnswer::Begun { .. }));
        assert!(
            matches!(net.call(tm, commit(&xid)), ClientAnswer::Ended { .. }),
            "room again"
        );
    }
}

#[test]
fn commands_in_flight_are_bounded_in_bytes() {
    let mut net = one_node(|config| config.max_pending_bytes = ByteSize::kib(1));
    let (tm, rm) = pair_of(&mut net);
    let xid = net.begin(tm);
    let key = net.ask(rm, at(&xid, "db", &format!("t:{}", "1".repeat(2_000))));
    assert_eq!(refused(&net.call(rm, at(&xid, "db", "t:2"))), ("TG0005".to_owned(), 6));
    assert!(matches!(net.answer(key), ClientAnswer::BranchRegistered { .. }));
    assert_eq!(net.nodes[0].gate.stats().commands_pending_bytes, 0);
}

#[test]
fn branches_transactions_and_lock_bytes_are_bounded() {
    let mut net = one_node(|config| {
        config.max_branches_per_transaction = 2;
        config.max_open_transactions = 2;
        config.max_lock_bytes = ByteSize(400);
    });
    let (tm, rm) = pair_of(&mut net);
    let xid = net.begin(tm);
    net.branch(rm, at(&xid, "db", "t:1"));
    net.branch(rm, at(&xid, "db", "t:2"));
    assert_eq!(refused(&net.call(rm, at(&xid, "db", "t:3"))), ("TG0006".to_owned(), 15));
    let other = net.begin(tm);
    assert_eq!(refused(&net.call(tm, begin(1_000))), ("TG0007".to_owned(), 1));
    let long = format!("t:{}", "4".repeat(400));
    assert_eq!(
        refused(&net.call(rm, at(&other, "db", &long))),
        ("TG0008".to_owned(), 6)
    );
    net.branch(rm, at(&other, "db", ""));
}

#[test]
fn texts_are_bounded() {
    let mut net = one_node(|config| {
        config.max_lock_key_bytes = ByteSize(10);
        config.max_application_data_bytes = ByteSize(10);
    });
    let (tm, rm) = pair_of(&mut net);
    let xid = net.begin(tm);
    assert_eq!(
        refused(&net.call(rm, at(&xid, "db", "t:123456789"))),
        ("TG0009".to_owned(), 6)
    );
    let query = ClientRequest::LockQuery {
        xid: xid.clone(),
        resource: "db".to_owned(),
        lock_keys: "t:123456789".to_owned(),
    };
    assert_eq!(refused(&net.call(rm, query)), ("TG0009".to_owned(), 8));
    let report = ClientRequest::ReportBranch {
        xid: xid.clone(),
        branch: 1,
        status: BranchStatus::PhaseOneDone,
        application_data: Some("x".repeat(11)),
    };
    assert_eq!(refused(&net.call(rm, report)), ("TG0010".to_owned(), 7));
    let name = ClientRequest::Begin {
        timeout_ms: 1_000,
        name: "n".repeat(257),
    };
    assert_eq!(refused(&net.call(tm, name)), ("TG0011".to_owned(), 1));
    assert_eq!(
        refused(&net.call(rm, at(&xid, &"r".repeat(1_025), ""))),
        ("TG0011".to_owned(), 6)
    );
    let other = net.connect(0, "10.0.0.3", 1);
    net.ask(
        other,
        ClientRequest::RegisterTm {
            ident: ident(&"a".repeat(257)),
        },
    );
    assert_eq!(last_close(&net), (other, "TG0011".to_owned()));
}

#[test]
fn resources_of_a_session_are_bounded_and_repeating_one_is_free() {
    let mut net = one_node(|config| config.max_resources_per_session = 2);
    let rm = net.rm(0, "stock", "10.0.0.1", 50_000, "a");
    let register = |resources: &[&str]| ClientRequest::RegisterRm {
        ident: ident("stock"),
        resources: resources.iter().map(|text| text.to_string()).collect(),
    };
    assert_eq!(net.call(rm, register(&["a", "b", "", "b"])), ClientAnswer::RmRegistered);
    net.ask(rm, register(&["c"]));
    assert_eq!(last_close(&net), (rm, "TG0012".to_owned()));
}

#[test]
fn a_timeout_that_is_no_time_is_refused() {
    let mut net = Net::new(1, 1);
    let tm = net.tm(0);
    for timeout_ms in [0, -1, i32::MIN] {
        assert_eq!(refused(&net.call(tm, begin(timeout_ms))), ("TG0013".to_owned(), 1));
    }
    assert!(matches!(net.call(tm, begin(i32::MAX)), ClientAnswer::Begun { .. }));
}

#[test]
fn an_xid_of_another_server_is_neither_committed_nor_finished_and_unknown_to_the_rm() {
    let mut net = Net::new(1, 1);
    let (tm, rm) = pair_of(&mut net);
    let xid = net.begin(tm);
    let never_begun = format!("10.1.1.0:8091:{}", Tid::new(1, 77));
    let other_group = format!("10.1.1.0:8091:{}", Tid::new(2, 1));
    let other_prefix = xid.replace("10.1.1.0", "10.1.1.9");
    let garbage = [
        "",
        "x",
        "::",
        "10.1.1.0:8091:",
        "10.1.1.0:8091:-4",
        "10.1.1.0:8091:9223372036854775808",
        "a:b:\u{0}",
    ];
    let known_bad = [never_begun.as_str(), &other_group, &other_prefix];
    for bad in known_bad.iter().chain(&garbage) {
        // The TM throws it as a timeout, and asks no more.
        let given_up = ended(GlobalStatus::TimeoutRollbacked);
        assert_eq!(net.call(tm, commit(bad)), given_up, "{bad:?}");
        assert_eq!(net.call(tm, rollback(bad)), given_up, "{bad:?}");
        let answer = net.call(
            tm,
            ClientRequest::Report {
                xid: bad.to_string(),
                status: GlobalStatus::Committed,
            },
        );
        assert_eq!(answer, ended(GlobalStatus::UnKnown), "{bad:?}");
        assert_eq!(
            net.call(tm, status(bad)),
            ClientAnswer::Status {
                status: GlobalStatus::UnKnown
            },
            "{bad:?}"
        );
        let (code, exception) = refused(&net.call(rm, at(bad, "db", "t:1")));
        let expected = if *bad == never_begun { "TX0001" } else { "TG0014" };
        assert_eq!((code.as_str(), exception), (expected, 10), "{bad:?}");
        let report = ClientRequest::ReportBranch {
            xid: bad.to_string(),
            branch: BranchId::new(1, 1).as_i64(),
            status: BranchStatus::PhaseOneDone,
            application_data: None,
        };
        assert_eq!(refused(&net.call(rm, report)), (expected.to_owned(), 10), "{bad:?}");
    }
    assert_eq!(net.oracle.lock_count(), 0);
    assert_eq!(
        net.oracle
            .global(Tid::from_xid(&xid).expect("ours"))
            .expect("open")
            .status,
        GlobalStatus::Begin
    );
}

#[test]
fn a_channel_cannot_change_its_application() {
    let mut net = Net::new(1, 1);
    let rm = net.rm(0, "stock", "10.0.0.1", 50_000, "db");
    net.ask(
        rm,
        ClientRequest::RegisterTm {
            ident: ident("billing"),
        },
    );
    assert_eq!(last_close(&net), (rm, "TG0015".to_owned()));
}

#[test]
fn a_request_on_a_connection_that_is_not_open_is_not_answered() {
    let mut net = Net::new(1, 1);
    let tm = net.tm(0);
    net.close(tm);
    let key = net.ask(tm, begin(1_000));
    assert_eq!(last_close(&net), (tm, "TG0016".to_owned()));
    assert!(!net.told.contains_key(&key));
    assert_eq!(net.nodes[0].gate.stats().requests_in_flight, 0);
}

#[test]
fn an_application_id_with_a_colon_is_closed() {
    let mut net = Net::new(1, 1);
    let conn = net.connect(0, "10.0.0.1", 50_000);
    let ident = Ident {
        application: "stock:10.0.0.9".to_owned(),
        ..ident("x")
    };
    net.ask(conn, ClientRequest::RegisterTm { ident });
    assert_eq!(last_close(&net), (conn, "TG0019".to_owned()));
}

#[test]
fn a_report_of_a_branch_that_cannot_exist_is_refused() {
    let mut net = Net::new(1, 1);
    let (tm, rm) = pair_of(&mut net);
    let (xid, other) = (net.begin(tm), net.begin(tm));
    let branch = net.branch(rm, at(&xid, "db", "t:1"));
    let report = |xid: &str, branch| ClientRequest::ReportBranch {
        xid: xid.to_owned(),
        branch,
        status: BranchStatus::PhaseOneDone,
        application_data: None,
    };
    assert_eq!(refused(&net.call(rm, report(&xid, -1))), ("TG0020".to_owned(), 9));
    assert_eq!(refused(&net.call(rm, report(&other, branch))), ("TX0004".to_owned(), 9));
    assert_eq!(net.call(rm, report(&xid, branch)), ClientAnswer::BranchReported);
}

#[test]
fn a_request_of_a_client_that_hung_up_is_forgotten() {
    let mut net = Net::new(1, 1);
    let tm = net.tm(0);
    net.lose_leader();
    let key = net.ask(tm, begin(1_000));
    net.close(tm);
    net.run(1_000);
    let stats = net.nodes[0].gate.stats();
    assert_eq!((stats.commands_pending, stats.requests_in_flight), (0, 0));
    net.elect(0);
    net.run(1_000);
    assert_eq!(net.oracle.stats().begun_total, 0);
    assert!(!net.told.contains_key(&key));
}

#[test]
fn nonsense_from_an_rm_changes_nothing_and_its_call_is_made_again() {
    let mut net = Net::new(1, 1);
    let tm = net.tm(0);
    let rm = net.rm(0, "stock", "10.0.0.1", 50_000, "action");
    let xid = net.begin(tm);
    let branch = net.branch(rm, tcc(&xid, "action"));
    net.ask(tm, commit(&xid));

    // A call that was never made.
    let mut call = net.next_call();
    let good = |status| RmAnswer {
        ok: true,
        branch_status: status,
        xid: xid.clone(),
        branch,
    };
    let mut never_made = call.clone();
    never_made.call.0 += 1_000;
    net.calls.push(never_made.clone());
    net.rm_answers(&never_made, good(Some(BranchStatus::PhaseTwoCommitted)));
    assert!(matches!(net.notes.last(), Some((0, GateNote::AnswerIgnored { .. }))));

    // Statuses that answer nothing, and the other decision.
    for status in [
        None,
        Some(BranchStatus::Registered),
        Some(BranchStatus::PhaseTwoRollbacked),
    ] {
        net.rm_answers(&call, good(status));
        assert!(
            net.notes
                .iter()
                .any(|(_, note)| matches!(note, GateNote::WrongStatus { status: of, .. } if *of == status))
        );
        let before = net
            .oracle
            .global(Tid::from_xid(&xid).expect("ours"))
            .expect("open")
            .open_branch_count();
        assert_eq!(before, 1);
        call = net.next_call();
    }

    // Another transaction's ids: the channel is not to be trusted.
    let answer = RmAnswer {
        branch: branch + 1,
        ..good(Some(BranchStatus::PhaseTwoCommitted))
    };
    net.rm_answers(&call, answer);
    assert_eq!(last_close(&net), (rm, "TG0017".to_owned()));
    let back = net.rm(0, "stock", "10.0.0.1", 50_001, "action");
    let call = net.do_next_call();
    assert_eq!(call.conn, back);
    net.until("the end", |net| net.oracle.open_count() == 0);

    // The same good answer once more.
    net.rm_says(&call, BranchStatus::PhaseTwoCommitted);
    assert!(matches!(net.notes.last(), Some((0, GateNote::AnswerIgnored { .. }))));
    assert_eq!(net.nodes[0].gate.stats().rm_nonsense_total, 6);
}

#[test]
fn an_answer_on_another_connection_than_its_call_is_ignored() {
    let mut net = Net::new(1, 1);
    let tm = net.tm(0);
    let rm = net.rm(0, "stock", "10.0.0.1", 50_000, "action");
    let thief = net.rm(0, "stock", "10.0.0.2", 50_000, "action");
    let xid = net.begin(tm);
    net.branch(rm, tcc(&xid, "action"));
    net.ask(tm, commit(&xid));
    let call = net.next_call();
    let mut stolen = call.clone();
    stolen.conn = thief;
    net.calls.push(stolen.clone());
    net.rm_says(&stolen, BranchStatus::PhaseTwoCommitted);
    net.run(500);
    assert_eq!(net.oracle.open_count(), 1);
    net.rm_says(&call, BranchStatus::PhaseTwoCommitted);
    net.until("the end", |net| net.oracle.open_count() == 0);
}

fn messages() -> Vec<GateMessage> {
    let info = SessionInfo {
        conn: ConnId(5),
        application: "stock".to_owned(),
        ip: "fe80::1".to_owned(),
        port: 65_535,
        resources: vec!["jdbc:mysql://h/db".to_owned(), "b".to_owned()],
    };
    let (group, term, tid, branch) = (GroupId(1), 7, Tid::new(1, 9), BranchId::new(1, 10));
    let body = BranchCall {
        kind: CallKind::Rollback,
        xid: format!("10.1.1.0:8091:{tid}"),
        branch: branch.as_i64(),
        branch_type: BranchType::Xa,
        resource: "db".to_owned(),
        application_data: "{\"a\":\"ü\"}".to_owned(),
    };
    vec![
        GateMessage::Call(PeerCall {
            group,
            term,
            tid,
            branch,
            attempt: 3,
            run: 77,
            conn: ConnId(5),
            body,
        }),
        GateMessage::CallFailed {
            group,
            term,
            tid,
            branch,
            attempt: 3,
            why: CallFailure::Disconnected,
        },
        GateMessage::SessionUp {
            run: 77,
            info: info.clone(),
        },
        GateMessage::SessionDown {
            run: 77,
            conn: ConnId(5),
        },
        GateMessage::SyncRequest,
        GateMessage::Digest {
            run: 77,
            digest: SessionsDigest { sessions: 2, hash: 3 },
        },
        GateMessage::SessionsSync {
            run: 77,
            first: true,
            sessions: vec![info.clone(), info],
        },
    ]
}

#[test]
fn a_peer_message_survives_its_bytes_and_every_prefix_of_it_is_refused() {
    for message in messages() {
        let bytes = message.encode();
        assert_eq!(GateMessage::decode(&bytes), Ok(message.clone()));
        for end in 0..bytes.len() {
            assert!(GateMessage::decode(&bytes[..end]).is_err(), "{message:?} cut at {end}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(GateMessage::decode(&longer), Err(MessageError::Trailing { bytes: 1 }));
    }
    assert_eq!(GateMessage::decode(&[1, 1]), Err(MessageError::Version { version: 1 }));
    assert!(matches!(
        GateMessage::decode(&[2, 99]),
        Err(MessageError::BadValue {
            field: "kind",
            value: 99
        })
    ));
    assert!(matches!(
        GateMessage::decode(&vec![2; 9 << 20]),
        Err(MessageError::TooLong { .. })
    ));
    let claims_much = [&[2, 5][..], &[0; 8], &[1], &u32::MAX.to_be_bytes()].concat();
    assert!(matches!(
        GateMessage::decode(&claims_much),
        Err(MessageError::Truncated { .. })
    ));
}

#[test]
fn the_bytes_of_a_peer_message_are_fixed() {
    let (run, conn) = (3, ConnId(258));
    let bytes = GateMessage::SessionDown { run, conn }.encode();
    assert_eq!(bytes[..], [2, 4, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 1, 2]);
}

#[test]
fn garbage_from_a_peer_is_noted_and_never_harms() {
    let mut net = Net::new(2, 1);
    let (tm, rm) = (net.tm(0), net.rm(1, "stock", "10.0.0.1", 50_000, "action"));
    let mut prng = Prng::new(42);
    for round in 0..3_000 {
        let mut bytes = messages()[round % 7].encode().to_vec();
        for _ in 0..=prng.below(4) {
            let at = prng.below(bytes.len() as u64) as usize;
            bytes[at] = prng.next_u64() as u8;
        }
        // Not the term of a call: a peer that leads is believed.
        if bytes[1] == 1 && bytes.len() > 18 {
            bytes[10..18].copy_from_slice(&[0; 8]);
        }
        let body = Bytes::from(bytes);
        net.feed(
            round % 2,
            Event::Peer {
                from: id_of((round + 1) % 2),
                body,
            },
        );
    }
    assert!(
        net.nodes
            .iter()
            .all(|node| node.gate.stats().peer_messages_bad_total > 100)
    );
    net.cut(0, 1);
    net.join(0, 1);
    let xid = net.begin(tm);
    net.branch(rm, tcc(&xid, "action"));
    let key = net.ask(tm, commit(&xid));
    net.do_next_call();
    assert_eq!(
        net.answer(key),
        ClientAnswer::Ended {
            status: GlobalStatus::Committed
        }
    );
}

#[test]
fn a_peer_cannot_fill_the_directory() {
    let mut net = one_node(|config| config.max_sessions = 3);
    let sessions = |n: u64| SessionInfo {
        conn: ConnId(n),
        application: "a".to_owned(),
        ip: "i".to_owned(),
        port: 1,
        resources: vec!["r".to_owned()],
    };
    let body = GateMessage::SessionsSync {
        run: 77,
        first: true,
        sessions: (0..10).map(sessions).collect(),
    }
    .encode();
    net.feed(0, Event::Peer { from: id_of(1), body });
    assert_eq!(net.nodes[0].gate.stats().directory_sessions, 3);
    assert!(
        net.notes
            .iter()
            .any(|(_, note)| matches!(note, GateNote::DirectoryFull { limit: 3, .. }))
    );
}

#[test]
fn every_error_has_a_code_of_its_own() {
    let conn = ConnId(1);
    let text = String::new;
    let errors = [
        GateError::NotRegistered { conn },
        GateError::TooManySessions { limit: 1 },
        GateError::TooManyRequests { limit: 1 },
        GateError::TooManySessionRequests { conn, limit: 1 },
        GateError::TooManyPendingBytes { bytes: 1, limit: 1 },
        GateError::TooManyBranches { xid: text(), limit: 1 },
        GateError::TooManyTransactions { limit: 1 },
        GateError::LockSpaceFull { bytes: 1, limit: 1 },
        GateError::LockKeysTooLong { bytes: 1, limit: 1 },
        GateError::ApplicationDataTooLong { bytes: 1, limit: 1 },
        GateError::NameTooLong {
            field: "x",
            bytes: 1,
            limit: 1,
        },
        GateError::TooManyResources { conn, limit: 1 },
        GateError::BadTimeout { timeout_ms: 0 },
        GateError::UnknownXid { xid: text() },
        GateError::IdentityChanged {
            conn,
            first: text(),
            second: text(),
        },
        GateError::UnknownConnection { conn },
        GateError::WrongAnswer {
            conn,
            call: settle_tx_gate::CallId(1),
            xid: text(),
            branch: 1,
        },
        GateError::ReadTimedOut,
        GateError::BadApplicationId { application: text() },
        GateError::UnknownBranch { xid: text(), branch: 1 },
        GateError::ActTimedOut,
        GateError::NotSigned { field: "x" },
        GateError::NotClaimed {
            act: settle_tx::ActKind::Forget,
        },
        GateError::UnknownGroup { group: GroupId(9) },
        GateError::TextTooLong {
            field: "x",
            chars: 1,
            limit: 1,
        },
    ];
    for (n, error) in errors.iter().enumerate() {
        assert_eq!(error.code().to_string(), format!("TG{:04}", n + 1));
    }
}
