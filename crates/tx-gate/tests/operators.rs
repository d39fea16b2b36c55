//! Operators' acts and lists through the gate.

mod net;

use net::*;
use settle_tx::{ActKind, GlobalStatus, OperatorAct, ROWS_CHARS_MAX, Signed, Tid, TxError};
use settle_tx_gate::{
    AdminAnswer, AdminRequest, ClientAnswer, GateError, GateNote, LockCursor, LockFilter, LockRowView, OperatorRequest,
    RefusalError, SCAN_MAX, ShowFilter, TxFilter, TxView,
};

fn tid(xid: &str) -> Tid {
    Tid::from_xid(xid).expect("an xid")
}

fn act(xid: &str, act: OperatorAct<String>) -> AdminRequest {
    AdminRequest::Operate(OperatorRequest {
        id: xid.to_owned(),
        act,
        signed: Signed {
            operator: "ada".to_owned(),
            reason: "ticket 7".to_owned(),
            at_ms: 1,
        },
        claims_settled: false,
    })
}

fn show(xid: &str) -> AdminRequest {
    AdminRequest::ShowTx(ShowFilter {
        id: xid.to_owned(),
        ..ShowFilter::default()
    })
}

fn admin(net: &mut Net, node: usize, body: AdminRequest) -> Result<AdminAnswer, RefusalError> {
    let key = net.ask_admin(node, body);
    net.until("an answer", |net| net.admin.contains_key(&key));
    net.admin.remove(&key).expect("it was just there")
}

#[test]
fn an_act_through_any_node_is_done_once_although_leaders_change_and_proposals_are_lost() {
    for seed in 0..8 {
        let mut net = Net::new(3, 600 + seed);
        let (tm, rm) = (net.tm(0), net.rm(1, "stock", "10.0.0.1", 50_000, "action"));
        let xid = net.begin(tm);
        net.branch(rm, tcc(&xid, "action"));
        net.faults.proposal_lost = 50;
        net.faults.proposal_twice = 50;
        let key = net.ask_admin(2, act(&xid, OperatorAct::Rollback));
        net.lose_leader();
        net.run(700);
        net.elect(1);
        net.until("an answer", |net| net.admin.contains_key(&key));
        let status = GlobalStatus::Rollbacking;
        assert_eq!(net.admin[&key], Ok(AdminAnswer::Operated { status, acted: true }));
        net.faults.proposal_lost = 0;
        net.do_next_call();
        net.until("the end", |net| net.oracle.open_count() == 0);
        assert_eq!(net.oracle.audit().count(), 1);
        let told = net.call(tm, commit(&xid));
        let ended = GlobalStatus::TimeoutRollbacked;
        assert_eq!(
            told,
            ClientAnswer::Ended { status: ended },
            "the client is told the truth"
        );
    }
}

#[test]
fn a_refused_act_is_told_with_the_machines_own_error_and_an_unsigned_one_never_comes_to_the_log() {
    let mut net = Net::new(2, 610);
    let tm = net.tm(0);
    let xid = net.begin(tm);
    net.call(tm, commit(&xid));
    let (tid, status) = (tid(&xid), GlobalStatus::Committed);
    let refused = admin(&mut net, 1, act(&xid, OperatorAct::Rollback));
    assert_eq!(
        refused,
        Err(RefusalError::Tx(TxError::ContradictsDecision { tid, status }))
    );
    let entries = net.log.len();
    for (operator, reason, field) in [(" \t", "x", "operator"), ("ada", "", "reason")] {
        let AdminRequest::Operate(mut request) = act(&xid, OperatorAct::Commit) else {
            unreachable!("it was just made")
        };
        request.signed.operator = operator.to_owned();
        request.signed.reason = reason.to_owned();
        let refused = admin(&mut net, 1, AdminRequest::Operate(request));
        assert_eq!(refused, Err(RefusalError::Gate(GateError::NotSigned { field })));
    }
    let unclaimed = admin(&mut net, 1, act(&xid, OperatorAct::Forget));
    assert_eq!(
        unclaimed,
        Err(RefusalError::Gate(GateError::NotClaimed { act: ActKind::Forget }))
    );
    let stranger = admin(&mut net, 1, act("nonsense", OperatorAct::Commit));
    assert!(matches!(
        stranger,
        Err(RefusalError::Gate(GateError::UnknownXid { .. }))
    ));
    assert_eq!(net.log.len(), entries);
}

#[test]
fn an_act_that_no_leader_takes_is_told_as_unknown() {
    let mut net = Net::new(2, 611);
    let tm = net.tm(0);
    let xid = net.begin(tm);
    net.lose_leader();
    let told = admin(&mut net, 1, act(&xid, OperatorAct::Rollback));
    assert_eq!(told, Err(RefusalError::Gate(GateError::ActTimedOut)));
}

#[test]
fn what_was_done_is_shown_with_the_transaction_and_in_the_audit_and_noted_by_the_leader_alone() {
    let mut net = Net::new(2, 612);
    let (tm, rm) = (net.tm(0), net.rm(1, "stock", "10.0.0.1", 50_000, "action"));
    let xid = net.begin(tm);
    net.branch(rm, tcc(&xid, "action"));
    for step in [OperatorAct::Rollback, OperatorAct::StopRetry] {
        admin(&mut net, 1, act(&xid, step)).expect("nothing speaks against it");
    }
    let view = admin(&mut net, 1, show(&xid));
    let Ok(AdminAnswer::Transaction(TxView::Open { row, acts, .. })) = view else {
        panic!("{view:?}")
    };
    assert!(row.retry_stopped);
    let kinds: Vec<_> = acts.iter().map(|record| record.act).collect();
    assert_eq!(kinds, [ActKind::Rollback, ActKind::StopRetry]);
    let audit = |before, limit| AdminRequest::Audit {
        group: None,
        before,
        limit,
    };
    let newest = admin(&mut net, 0, audit(None, 1));
    assert_eq!(newest, Ok(AdminAnswer::Audit(vec![acts[1].clone()])));
    let older = admin(&mut net, 0, audit(Some(2), 0));
    assert_eq!(older, Ok(AdminAnswer::Audit(vec![acts[0].clone()])));
    net.until("both replicas to be there", |net| {
        net.nodes.iter().all(|node| node.machine.audit().count() == 2)
    });
    let noted = net
        .notes
        .iter()
        .filter(|(_, note)| matches!(note, GateNote::Operated { .. }));
    let noted: Vec<_> = noted.map(|(node, _)| *node).collect();
    assert_eq!(noted, [0, 0]);
}

#[test]
fn lists_are_filtered_and_pages_of_them_leave_nothing_out() {
    let mut net = Net::new(1, 613);
    let tm = net.tm(0);
    let rms = ["db", "other"].map(|resource| net.rm(0, "stock", "10.0.0.1", 50_000, resource));
    let xids: Vec<String> = (0..4).map(|_| net.begin(tm)).collect();
    for (n, xid) in xids.iter().enumerate() {
        let rows = format!("t:{n},{n}0;u:{n}");
        net.branch(rms[n % 2], at(xid, ["db", "other"][n % 2], &rows));
    }
    let by_resource = AdminRequest::ListTx(TxFilter {
        resource: Some("other".to_owned()),
        ..TxFilter::default()
    });
    let Ok(AdminAnswer::Transactions { rows, next: None }) = admin(&mut net, 0, by_resource) else {
        panic!("a list")
    };
    let listed: Vec<_> = rows.iter().map(|row| row.xid.as_str()).collect();
    assert_eq!(listed, [xids[1].as_str(), xids[3].as_str()]);
    for (application, count) in [("orders", 4), ("stock", 0)] {
        let filter = TxFilter {
            application: Some(application.to_owned()),
            ..TxFilter::default()
        };
        let Ok(AdminAnswer::Transactions { rows, .. }) = admin(&mut net, 0, AdminRequest::ListTx(filter)) else {
            panic!("a list")
        };
        assert_eq!(rows.len(), count, "{application}");
    }

    let mut all = |filter: LockFilter| {
        let (mut found, mut after) = (Vec::<LockRowView>::new(), None::<LockCursor>);
        loop {
            let filter = LockFilter {
                after,
                limit: 2,
                ..filter.clone()
            };
            let Ok(AdminAnswer::Locks { rows, next }) = admin(&mut net, 0, AdminRequest::Locks(filter)) else {
                panic!("locks")
            };
            assert!(rows.len() <= 2);
            found.extend(rows);
            after = next;
            if after.is_none() {
                let named = found.iter().map(|row| format!("{}:{}", row.table, row.pk));
                return named.collect::<Vec<_>>().join(" ");
            }
        }
    };
    assert_eq!(
        all(LockFilter::default()),
        "t:0 t:00 u:0 t:1 t:10 u:1 t:2 t:20 u:2 t:3 t:30 u:3"
    );
    let of = |resource: Option<&str>, row: Option<&str>, holder| LockFilter {
        resource: resource.map(str::to_owned),
        row: row.map(str::to_owned),
        holder,
        ..LockFilter::default()
    };
    assert_eq!(all(of(Some("db"), Some("t"), None)), "t:0 t:00 t:2 t:20");
    assert_eq!(all(of(None, Some("u:3"), None)), "u:3");
    assert_eq!(all(of(None, None, Some(tid(&xids[2])))), "t:2 t:20 u:2");
}

#[test]
fn locks_held_long_and_retries_that_rise_are_told_once_by_the_leader() {
    let limit = std::time::Duration::from_secs(60);
    let config = settle_tx_gate::GateConfig {
        lock_held_alert: limit,
        ..config()
    };
    let mut net = Net::with(2, 614, config);
    let (tm, rm) = (net.tm(0), net.rm(0, "stock", "10.0.0.1", 50_000, "db"));
    let begin = |net: &mut Net| match net.call(tm, begin(600_000)) {
        ClientAnswer::Begun { xid } => xid,
        other => panic!("{other:?}"),
    };
    let held = begin(&mut net);
    net.branch(rm, at(&held, "db", "t:1,2"));
    let unlocked = begin(&mut net);
    net.branch(rm, tcc(&unlocked, "db"));
    let failing: Vec<String> = (0..20).map(|_| begin(&mut net)).collect();
    for xid in &failing {
        net.branch(rm, tcc(xid, "db"));
    }
    net.run(50_000);
    let is_alert = |note: &GateNote| matches!(note, GateNote::LockHeldLong { .. } | GateNote::RetriesRising { .. });
    assert!(!net.notes.iter().any(|(_, note)| is_alert(note)));

    net.close(rm);
    for xid in &failing {
        net.ask(tm, rollback(xid));
    }
    net.run(100_000);
    let alerts: Vec<_> = net.notes.iter().filter(|(_, note)| is_alert(note)).collect();
    let [(0, first), (0, second)] = alerts.as_slice() else {
        panic!("{alerts:?}")
    };
    let (lock, retries) = match first {
        GateNote::LockHeldLong { .. } => (first, second),
        _ => (second, first),
    };
    assert!(matches!(lock, GateNote::LockHeldLong { xid, rows: 2, .. } if *xid == held));
    assert!(matches!(
        retries,
        GateNote::RetriesRising {
            before: 0,
            now: 20,
            unreached: 20,
            ..
        }
    ));
    let stats = net.nodes[0].gate.stats();
    assert_eq!(
        (stats.branches_retrying, stats.branches_unreached, stats.locks_held_long),
        (20, 20, 1)
    );
    assert_eq!(net.nodes[1].gate.stats().branches_retrying, 0);
    // Their client is back: all is well again.
    net.rm(0, "stock", "10.0.0.1", 50_001, "db");
    for _ in &failing {
        net.do_next_call();
    }
    net.run(1_000);
    assert_eq!(net.nodes[0].gate.stats().branches_retrying, 0);
}

#[test]
fn an_act_that_names_too_many_rows_never_comes_to_the_log() {
    let mut net = Net::new(1, 620);
    let tm = net.tm(0);
    let xid = net.begin(tm);
    let release = |rows: String| {
        let branch = settle_tx::BranchId::new(1, 1);
        let AdminRequest::Operate(mut request) = act(&xid, OperatorAct::ReleaseLock { branch, rows }) else {
            unreachable!("it was just made")
        };
        request.claims_settled = true;
        AdminRequest::Operate(request)
    };
    let longest = format!("t:{}", "ä".repeat(ROWS_CHARS_MAX - 2));
    let entries = net.log.len();
    let refused = admin(&mut net, 0, release(format!("{longest},")));
    let (field, chars, limit) = ("rows", ROWS_CHARS_MAX + 1, ROWS_CHARS_MAX);
    assert_eq!(
        refused,
        Err(RefusalError::Gate(GateError::TextTooLong { field, chars, limit }))
    );
    assert_eq!(net.log.len(), entries);
    let taken = admin(&mut net, 0, release(longest));
    assert!(
        matches!(taken, Err(RefusalError::Tx(TxError::ActNotPossible { .. }))),
        "{taken:?}"
    );
}

#[test]
fn acts_wait_within_the_same_bounds_as_clients_commands() {
    let config = settle_tx_gate::GateConfig {
        max_pending_bytes: settle_base::ByteSize(1_000),
        ..config()
    };
    let mut net = Net::with(2, 621, config);
    let tm = net.tm(0);
    let xid = net.begin(tm);
    net.lose_leader();
    let ask = |net: &mut Net| {
        let AdminRequest::Operate(mut request) = act(&xid, OperatorAct::Rollback) else {
            unreachable!("it was just made")
        };
        request.signed.reason = "x".repeat(500);
        net.ask_admin(1, AdminRequest::Operate(request))
    };
    let waiting = [ask(&mut net), ask(&mut net)];
    let refused = ask(&mut net);
    let Some(Err(RefusalError::Gate(error))) = net.admin.get(&refused) else {
        panic!("{:?}", net.admin.get(&refused))
    };
    assert_eq!(error.code().to_string(), "TG0005");
    assert!(
        waiting.iter().all(|key| !net.admin.contains_key(key)),
        "there was room for these"
    );
}

/// All pages of a list of locks: the rows, and how many pages there were.
fn all_locks(net: &mut Net, filter: &LockFilter) -> (Vec<String>, usize) {
    let (mut found, mut pages, mut after) = (Vec::new(), 0, None);
    loop {
        let filter = LockFilter {
            after,
            ..filter.clone()
        };
        let Ok(AdminAnswer::Locks { rows, next }) = admin(net, 0, AdminRequest::Locks(filter)) else {
            panic!("locks")
        };
        found.extend(rows.iter().map(|row| format!("{}:{}", row.table, row.pk)));
        pages += 1;
        assert!(after.is_none() || next != after, "a page that gets nowhere");
        after = next;
        if after.is_none() {
            return (found, pages);
        }
    }
}

#[test]
fn a_page_of_locks_looks_at_so_much_and_no_more_even_when_nothing_fits() {
    let mut net = Net::new(1, 622);
    let (tm, rm) = (net.tm(0), net.rm(0, "stock", "10.0.0.1", 50_000, "db"));
    let (first, second) = (net.begin(tm), net.begin(tm));
    let keys = |from: usize, to: usize| (from..to).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let rows = SCAN_MAX + SCAN_MAX / 2;
    net.branch(rm, at(&first, "db", &format!("t:{}", keys(0, rows))));
    net.branch(rm, at(&first, "db", "u:7"));
    net.branch(rm, at(&second, "db", "t:last"));
    let named = |row: &str| LockFilter {
        row: Some(row.to_owned()),
        ..LockFilter::default()
    };
    assert_eq!(all_locks(&mut net, &named("t:none")), (vec![], 2));
    assert_eq!(all_locks(&mut net, &named("t:last")), (vec!["t:last".to_owned()], 2));
    assert_eq!(all_locks(&mut net, &named("u")), (vec!["u:7".to_owned()], 2));
    // Long keys count for more: what is read in one turn is bounded in bytes too.
    let third = net.begin(tm);
    let long = "k".repeat(1_000);
    let keys: Vec<String> = (0..900).map(|n| format!("{long}{n}")).collect();
    for table in 0..8 {
        net.branch(rm, at(&third, "db", &format!("long{table}:{}", keys.join(","))));
    }
    let held = LockFilter {
        holder: Some(tid(&third)),
        row: Some("none".to_owned()),
        ..LockFilter::default()
    };
    assert_eq!(all_locks(&mut net, &held), (vec![], 3));
    let (all, _) = all_locks(&mut net, &LockFilter::default());
    assert_eq!(all.len(), rows + 2 + 8 * 900);
    let distinct: std::collections::BTreeSet<&String> = all.iter().collect();
    assert_eq!(distinct.len(), all.len(), "no row twice");
}

#[test]
fn a_transaction_with_many_long_branches_is_shown_in_pages() {
    let mut net = Net::new(1, 623);
    let (tm, rm) = (net.tm(0), net.rm(0, "stock", "10.0.0.1", 50_000, "db"));
    let xid = net.begin(tm);
    let long = "k".repeat(300_000);
    let registered: Vec<i64> = (0..9)
        .map(|n| net.branch(rm, at(&xid, "db", &format!("t{n}:{long}"))))
        .collect();
    let (mut shown, mut pages, mut after) = (Vec::new(), 0, None);
    loop {
        let filter = ShowFilter {
            id: xid.clone(),
            after,
            limit: 0,
        };
        let Ok(AdminAnswer::Transaction(TxView::Open { branches, next, .. })) =
            admin(&mut net, 0, AdminRequest::ShowTx(filter))
        else {
            panic!("a view")
        };
        assert!(branches.iter().map(|branch| branch.lock_keys.len()).sum::<usize>() <= 1 << 20);
        shown.extend(branches.iter().map(|branch| branch.branch.as_i64()));
        pages += 1;
        after = next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((shown, pages), (registered, 3));
}
