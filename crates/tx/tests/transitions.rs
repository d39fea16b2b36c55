//! Every status × every command, as reviewable text. `UPDATE_EXPECT=1 cargo test -p settle-tx` rewrites it.

mod rig;

use std::fmt::Write;

use expect_test::expect_file;
use rig::{Rig, begin, decide, operate, register};
use settle_tx::{
    BranchId, BranchStatus, BranchType, CommandBody, Decision, GlobalStatus, MachineConfig, OperatorAct, Outcome,
    OwnedCommandBody, Reply, Tid, TxError,
};

/// A transaction with two branches, brought to each status there is; then one command.
fn reach(status: GlobalStatus) -> (Rig, Tid, BranchId) {
    use GlobalStatus::*;
    let mut rig = Rig::new(MachineConfig::new(1));
    let tid = rig.begin();
    let kind = if status == AsyncCommitting {
        BranchType::At
    } else {
        BranchType::Tcc
    };
    let (first, second) = (rig.branch(tid, kind), rig.branch(tid, kind));
    let decision = match status {
        Begin => None,
        AsyncCommitting | Committing | CommitRetrying | CommitFailed | Committed => Some(Decision::Commit),
        Rollbacking | RollbackRetrying | RollbackFailed | Rollbacked => Some(Decision::Rollback),
        _ => Some(Decision::Timeout),
    };
    if let Some(decision) = decision {
        rig.decide(tid, decision).expect("it is decided once");
    }
    let facts = match status {
        CommitRetrying => vec![BranchStatus::PhaseTwoCommitFailedRetryable],
        CommitFailed => vec![BranchStatus::PhaseTwoCommitFailedUnretryable],
        RollbackRetrying | TimeoutRollbackRetrying => vec![BranchStatus::PhaseTwoRollbackFailedRetryable],
        RollbackFailed | TimeoutRollbackFailed => vec![BranchStatus::PhaseTwoRollbackFailedUnretryable],
        Committed => vec![BranchStatus::PhaseTwoCommitted; 2],
        Rollbacked | TimeoutRollbacked => vec![BranchStatus::PhaseTwoRollbacked; 2],
        _ => vec![],
    };
    for (fact, branch) in facts.into_iter().zip([second, first]) {
        rig.done(tid, branch, fact).expect("the fact agrees with the decision");
    }
    assert_eq!(rig.machine.outcome(tid).status(), status);
    (rig, tid, second)
}

const STATUSES: [GlobalStatus; 14] = [
    GlobalStatus::Begin,
    GlobalStatus::AsyncCommitting,
    GlobalStatus::Committing,
    GlobalStatus::CommitRetrying,
    GlobalStatus::CommitFailed,
    GlobalStatus::Committed,
    GlobalStatus::Rollbacking,
    GlobalStatus::RollbackRetrying,
    GlobalStatus::RollbackFailed,
    GlobalStatus::Rollbacked,
    GlobalStatus::TimeoutRollbacking,
    GlobalStatus::TimeoutRollbackRetrying,
    GlobalStatus::TimeoutRollbackFailed,
    GlobalStatus::TimeoutRollbacked,
];

fn commands(tid: Tid, branch: BranchId) -> Vec<(String, OwnedCommandBody)> {
    let mut commands = vec![
        ("RegisterBranch".to_owned(), register(tid, BranchType::At, "t:1", "")),
        (
            "ReportBranch PhaseOneFailed".to_owned(),
            CommandBody::ReportBranch {
                tid,
                branch,
                status: BranchStatus::PhaseOneFailed,
                application_data: Some("{}".into()),
                by: None,
            },
        ),
    ];
    for decision in [Decision::Commit, Decision::Rollback, Decision::Timeout] {
        commands.push((format!("Decide {decision:?}"), decide(tid, decision)));
    }
    for status in BranchStatus::ALL
        .iter()
        .copied()
        .filter(|status| status.direction().is_some())
    {
        commands.push((
            format!("BranchDone {status}"),
            CommandBody::BranchDone { tid, branch, status },
        ));
    }
    for status in [
        GlobalStatus::Committed,
        GlobalStatus::CommitRetrying,
        GlobalStatus::Rollbacked,
        GlobalStatus::RollbackFailed,
        GlobalStatus::Begin,
    ] {
        commands.push((format!("End {status}"), CommandBody::End { tid, status, by: None }));
    }
    for act in [
        OperatorAct::Commit,
        OperatorAct::Rollback,
        OperatorAct::StopRetry,
        OperatorAct::ResumeRetry,
        OperatorAct::Forget,
        OperatorAct::ReleaseLock {
            branch,
            rows: String::new(),
        },
    ] {
        commands.push((format!("Operate {}", act.kind()), operate(tid, act)));
    }
    commands
}

fn answer(result: &Result<Reply, TxError>) -> String {
    match result {
        Ok(Reply::Begun { .. }) => "Begun".to_owned(),
        Ok(Reply::Branch { .. }) => "Branch".to_owned(),
        Ok(Reply::Decided { status }) => format!("Decided {status}"),
        Ok(Reply::Ended { status }) => format!("Ended {status}"),
        Ok(Reply::Operated { status, acted }) => {
            format!("{} {status}", if *acted { "Operated" } else { "unchanged" })
        }
        Ok(reply) => format!("{reply:?}"),
        Err(error) => error.code().to_string(),
    }
}

fn table() -> String {
    let mut text = String::new();
    for status in STATUSES {
        let commit = status
            .commit_answer()
            .map_or("hold".to_owned(), |told| told.to_string());
        let rollback = status
            .rollback_answer()
            .map_or("hold".to_owned(), |told| told.to_string());
        writeln!(text, "{status}: a commit is told {commit}, a rollback {rollback}").expect("text grows");
        for n in 0..commands(Tid::new(1, 1), BranchId::new(1, 1)).len() {
            let (mut rig, tid, branch) = reach(status);
            let (name, body) = commands(tid, branch).swap_remove(n);
            let result = rig.ask(body);
            rig.machine.check_invariants();
            let after = rig.machine.outcome(tid).status();
            let change = if after == status {
                "-".to_owned()
            } else {
                after.to_string()
            };
            writeln!(text, "    {name:<52} {:<32} {change}", answer(&result)).expect("text grows");
        }
    }
    text
}

#[test]
fn every_command_in_every_status_does_what_the_table_says() {
    expect_file!["./transitions.txt"].assert_eq(&table());
}

#[test]
fn no_command_turns_a_decision_round() {
    for status in STATUSES.into_iter().filter(|status| status.direction().is_some()) {
        for n in 0..commands(Tid::new(1, 1), BranchId::new(1, 1)).len() {
            let (mut rig, tid, branch) = reach(status);
            let (name, body) = commands(tid, branch).swap_remove(n);
            let result = rig.ask(body);
            let after = rig.machine.outcome(tid).status();
            assert_eq!(
                after.direction(),
                status.direction(),
                "{name} of a transaction that is {status}"
            );
            assert!(
                !status.is_ended() || after == status,
                "{name} of a transaction that is {status}"
            );
            if let Ok(Reply::Decided { status: told } | Reply::Operated { status: told, .. }) = result {
                assert_eq!(
                    told.direction(),
                    status.direction(),
                    "{name} of a transaction that is {status}"
                );
            }
        }
    }
}

#[test]
fn a_commit_answer_is_a_success_to_a_seata_client_exactly_when_the_transaction_commits() {
    // `TransactionalTemplate.commitTransaction` of Seata 2.x fails on these statuses only.
    let fails = [6, 7, 13, 14, 15];
    for status in STATUSES {
        match (status.direction(), status.commit_answer()) {
            (None, told) => assert_eq!(told, None, "{status} is not decided"),
            (Some(settle_tx::Direction::Commit), Some(told)) => assert!(!fails.contains(&told.as_u8()), "{status}"),
            (Some(settle_tx::Direction::Rollback), Some(told)) => assert!(fails.contains(&told.as_u8()), "{status}"),
            (Some(_), None) => panic!("{status} is decided and must be told"),
        }
    }
    assert_eq!(Outcome::Unknown.commit_answer(), Some(GlobalStatus::Finished));
    assert_eq!(Outcome::Evicted.rollback_answer(), Some(GlobalStatus::Finished));
}

#[test]
fn a_transaction_without_branches_ends_with_its_decision() {
    for (decision, status) in [
        (Decision::Commit, GlobalStatus::Committed),
        (Decision::Rollback, GlobalStatus::Rollbacked),
        (Decision::Timeout, GlobalStatus::TimeoutRollbacked),
    ] {
        let mut rig = Rig::new(MachineConfig::new(1));
        let tid = rig.begin();
        assert_eq!(rig.decide(tid, decision), Ok(Reply::Decided { status }));
        assert_eq!(rig.machine.outcome(tid), Outcome::Ended(status));
    }
}

#[test]
fn branches_whose_first_phase_failed_or_only_read_are_not_waited_for() {
    for (kind, status) in [
        (BranchType::At, BranchStatus::PhaseOneFailed),
        (BranchType::Xa, BranchStatus::PhaseOneRdonly),
    ] {
        for decision in [Decision::Commit, Decision::Rollback] {
            let mut rig = Rig::new(MachineConfig::new(1));
            let tid = rig.begin();
            let branch = rig.register(tid, kind, "t:1").expect("nobody holds the row");
            rig.ask(CommandBody::ReportBranch {
                tid,
                branch,
                status,
                application_data: None,
                by: None,
            })
            .expect("it is known");
            rig.decide(tid, decision).expect("it is decided once");
            assert!(matches!(rig.machine.outcome(tid), Outcome::Ended(_)), "{kind} {status}");
            assert_eq!(rig.machine.lock_count(), 0);
        }
    }
}

#[test]
fn an_xa_resource_that_does_not_know_the_branch_is_believed_only_long_after_the_deadline() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let Ok(Reply::Begun { tid, .. }) = rig.ask(begin(10_000)) else {
        panic!("nothing speaks against it")
    };
    let branch = rig.branch(tid, BranchType::Xa);
    rig.decide(tid, Decision::Commit).expect("it is decided once");
    let nota = BranchStatus::PhaseTwoCommitFailedXaerNotaRetryable;
    rig.time.0 += 70_000;
    rig.done(tid, branch, nota).expect("it agrees with the decision");
    assert_eq!(rig.machine.outcome(tid).status(), GlobalStatus::CommitRetrying);
    rig.time.0 += 1;
    rig.done(tid, branch, nota).expect("it agrees with the decision");
    assert_eq!(rig.machine.outcome(tid), Outcome::Ended(GlobalStatus::Committed));
}

#[test]
fn a_first_phase_report_that_comes_after_the_decision_is_acknowledged_and_changes_nothing() {
    let (mut rig, tid, branch) = reach(GlobalStatus::RollbackRetrying);
    let before = rig.machine.global(tid).cloned();
    for status in [BranchStatus::PhaseOneDone, BranchStatus::PhaseOneFailed] {
        let application_data = Some("{}".into());
        let report = CommandBody::ReportBranch {
            tid,
            branch,
            status,
            application_data,
            by: None,
        };
        assert_eq!(rig.ask(report), Ok(Reply::Reported));
        assert_eq!(rig.machine.global(tid), before.as_ref());
    }
}

#[test]
fn a_failed_transaction_keeps_its_locks_until_somebody_gives_it_up_or_the_fact_changes() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let tid = rig.begin();
    let branch = rig.register(tid, BranchType::At, "t:1").expect("nobody holds the row");
    rig.decide(tid, Decision::Rollback).expect("it is decided once");
    rig.done(tid, branch, BranchStatus::PhaseTwoRollbackFailedUnretryable)
        .expect("it agrees with the decision");
    let other = rig.begin();
    let conflict = rig
        .register(other, BranchType::At, "t:1")
        .expect_err("the row is dirty");
    assert!(matches!(conflict, TxError::LockConflict { holder, fail_fast: false, .. } if holder == tid));
    rig.ask(CommandBody::End {
        tid,
        status: GlobalStatus::Rollbacked,
        by: None,
    })
    .expect("it has failed for good");
    rig.register(other, BranchType::At, "t:1").expect("the row is free");
}

#[test]
fn a_conflict_names_row_and_holder_and_fails_fast_when_the_holder_undoes_while_the_asker_keeps_its_connection() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let holder = rig.begin();
    rig.register(holder, BranchType::At, "stock:7,8")
        .expect("nobody holds the rows");
    let asker = rig.begin();
    for (decided, data, fail_fast) in [
        (false, r#"{"autoCommit":false}"#, false),
        (true, r#"{"autoCommit":false,"skipCheckLock":true}"#, true),
        (true, "{}", false),
    ] {
        if decided {
            rig.decide(holder, Decision::Rollback)
                .expect("a second one is answered too");
        }
        let refused = rig
            .ask(register(asker, BranchType::At, "stock:6,8", data))
            .expect_err("row 8 is held");
        assert_eq!(
            refused,
            TxError::LockConflict {
                row: "jdbc:mysql://db/stock^^^stock^^^8".into(),
                holder,
                holder_xid: format!("10.0.0.1:8091:{holder}").into(),
                fail_fast,
            }
        );
        assert_eq!(refused.exception_code(), if fail_fast { 20 } else { 2 });
        assert_eq!(rig.machine.lock_count(), 2, "row 6 was not taken");
        assert_eq!(
            rig.machine.lockable("jdbc:mysql://db/stock", "stock:6", Some(asker)),
            Ok(())
        );
    }
    assert!(rig.machine.lockable("jdbc:mysql://db/stock", "stock:8", None).is_err());
    assert_eq!(
        rig.machine.lockable("jdbc:mysql://db/stock", "stock:8", Some(holder)),
        Ok(())
    );
}

#[test]
fn every_limit_has_its_error_and_refuses_without_a_trace() {
    let config = MachineConfig {
        sessions_max: 1,
        branches_max: 2,
        lock_bytes_max: 150,
        ..MachineConfig::new(1)
    };
    let mut rig = Rig::new(config);
    let tid = rig.begin();
    assert_eq!(
        rig.ask(begin(1)),
        Err(TxError::TooManyTransactions { open: 1, limit: 1 })
    );
    rig.register(tid, BranchType::At, "t:1").expect("it fits");
    let stats = rig.machine.stats();
    assert_eq!(
        rig.register(tid, BranchType::At, "t:2,3,4"),
        Err(TxError::LockTableFull { tid, limit: 150 })
    );
    assert_eq!(rig.machine.stats(), stats);
    rig.register(tid, BranchType::At, "t:1")
        .expect("locking a row again takes no room");
    assert_eq!(
        rig.register(tid, BranchType::At, "t:1"),
        Err(TxError::TooManyBranches { tid, limit: 2 })
    );
    rig.machine.check_invariants();
}

#[test]
fn a_branch_of_another_transaction_is_not_touched() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let (a, b) = (rig.begin(), rig.begin());
    let branch = rig.branch(b, BranchType::Tcc);
    rig.branch(a, BranchType::Tcc);
    rig.decide(a, Decision::Commit).expect("it is decided once");
    let unknown = Err(TxError::UnknownBranch { tid: a, branch });
    assert_eq!(rig.done(a, branch, BranchStatus::PhaseTwoCommitted), unknown);
    let status = BranchStatus::PhaseOneDone;
    assert_eq!(
        rig.ask(CommandBody::ReportBranch {
            tid: a,
            branch,
            status,
            application_data: None,
            by: None,
        }),
        unknown
    );
    let never = Tid::new(1, 99);
    assert_eq!(
        rig.decide(never, Decision::Commit),
        Err(TxError::UnknownXid { tid: never })
    );
    assert_eq!(
        rig.decide(Tid::new(2, 1), Decision::Commit),
        Err(TxError::UnknownXid { tid: Tid::new(2, 1) })
    );
}

#[test]
fn a_saga_is_ended_by_its_own_report_and_others_are_not() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let saga = rig.begin();
    rig.branch(saga, BranchType::Saga);
    let end = |tid, status| CommandBody::End { tid, status, by: None };
    assert_eq!(
        rig.ask(end(saga, GlobalStatus::RollbackRetrying)),
        Ok(Reply::Ended {
            status: GlobalStatus::RollbackRetrying
        })
    );
    assert_eq!(
        rig.ask(end(saga, GlobalStatus::Finished)),
        Ok(Reply::Ended {
            status: GlobalStatus::Rollbacked
        })
    );
    let at = rig.begin();
    rig.branch(at, BranchType::At);
    assert!(matches!(
        rig.ask(end(at, GlobalStatus::Committed)),
        Err(TxError::IllegalEnd { .. })
    ));
    rig.machine.check_invariants();
}

#[test]
fn an_act_that_is_asked_a_second_time_changes_nothing() {
    for status in STATUSES {
        for n in 0..commands(Tid::new(1, 1), BranchId::new(1, 1)).len() {
            let (mut rig, tid, branch) = reach(status);
            let (name, body) = commands(tid, branch).swap_remove(n);
            if !matches!(body, CommandBody::Operate { .. }) || rig.ask(body.clone()).is_err() {
                continue;
            }
            let (outcome, acts) = (rig.machine.outcome(tid).status(), rig.machine.audit().count());
            let again = rig.ask(body);
            // What has ended meanwhile is refused, which changes nothing either.
            assert!(
                !matches!(again, Ok(Reply::Operated { acted: true, .. })),
                "{name} of a transaction that is {status}"
            );
            assert_eq!(
                (rig.machine.outcome(tid).status(), rig.machine.audit().count()),
                (outcome, acts)
            );
        }
    }
}
