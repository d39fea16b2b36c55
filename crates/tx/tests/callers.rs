//! What an application may do with the transactions of another, where the door knows who asks.

mod rig;

use rig::{Rig, begin, register};
use settle_tx::{
    BranchId, BranchStatus, BranchType, CommandBody, Decision, Expect, GlobalStatus, MachineConfig, OwnedCommandBody,
    Reply, Tid, TxError,
};

/// A transaction of `orders` in the service group `default_tx_group`, with a branch of `stock`.
fn shared() -> (Rig, Tid, BranchId) {
    let mut rig = Rig::new(MachineConfig::new(1));
    let tid = rig.begin();
    let branch = rig.branch(tid, BranchType::Tcc);
    (rig, tid, branch)
}

fn decide(tid: Tid, decision: Decision, by: &str) -> OwnedCommandBody {
    CommandBody::Decide {
        tid,
        decision,
        expect: Expect::Begin,
        by: Some(by.to_owned()),
    }
}

fn end(tid: Tid, status: GlobalStatus, by: &str) -> OwnedCommandBody {
    let by = Some(by.to_owned());
    CommandBody::End { tid, status, by }
}

fn report(tid: Tid, branch: BranchId, by: &str) -> OwnedCommandBody {
    CommandBody::ReportBranch {
        tid,
        branch,
        status: BranchStatus::PhaseOneFailed,
        application_data: Some("{\"to\":\"me\"}".to_owned()),
        by: Some(by.to_owned()),
    }
}

/// A registration by `stock`, which may join transactions of these service groups.
fn join(tid: Tid, groups: &[&str], application_data: &str) -> OwnedCommandBody {
    let mut body = register(tid, BranchType::Tcc, "", application_data);
    if let CommandBody::RegisterBranch { joins, .. } = &mut body {
        *joins = Some(groups.iter().map(ToString::to_string).collect());
    }
    body
}

#[test]
fn only_who_began_a_transaction_ends_it() {
    let (mut rig, tid, _) = shared();
    let before = rig.machine.global(tid).cloned();
    for by in ["stock", "nobody", ""] {
        for decision in [Decision::Commit, Decision::Rollback] {
            assert_eq!(
                rig.ask(decide(tid, decision, by)),
                Err(TxError::OfAnother { tid }),
                "{by}"
            );
        }
        for status in [
            GlobalStatus::Committed,
            GlobalStatus::Rollbacked,
            GlobalStatus::Finished,
        ] {
            assert_eq!(rig.ask(end(tid, status, by)), Err(TxError::OfAnother { tid }), "{by}");
        }
    }
    assert_eq!(rig.machine.global(tid).cloned(), before);
    let status = GlobalStatus::Committing;
    assert_eq!(
        rig.ask(decide(tid, Decision::Commit, "orders")),
        Ok(Reply::Decided { status })
    );
}

#[test]
fn a_branch_is_reported_on_by_its_own_application_alone() {
    let (mut rig, tid, branch) = shared();
    let before = rig.machine.global(tid).cloned();
    for by in ["orders", "nobody"] {
        assert_eq!(
            rig.ask(report(tid, branch, by)),
            Err(TxError::OfAnother { tid }),
            "{by}"
        );
    }
    assert_eq!(rig.machine.global(tid).cloned(), before);
    assert_eq!(rig.ask(report(tid, branch, "stock")), Ok(Reply::Reported));
}

#[test]
fn a_transaction_is_joined_by_who_began_it_and_by_who_is_granted_its_service_group() {
    let (mut rig, tid, _) = shared();
    for groups in [
        &[][..],
        &["stock_group"],
        &["default_tx_grou", "default_tx_group2*", ""],
    ] {
        assert_eq!(
            rig.ask(join(tid, groups, "")),
            Err(TxError::OfAnother { tid }),
            "{groups:?}"
        );
    }
    for groups in [&["default_tx_group"][..], &["stock_group", "default*"], &["*"]] {
        rig.ask(join(tid, groups, "")).expect("granted");
    }
    let mut own = join(tid, &[], "");
    if let CommandBody::RegisterBranch { client, .. } = &mut own {
        *client = "orders:10.0.0.1:4000".to_owned();
    }
    rig.ask(own).expect("it began it");
}

#[test]
fn a_token_of_another_application_finds_no_branch() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let tid = rig.begin();
    let token = r#"{"settle.once":"a token"}"#;
    let of = |application: &str| {
        let mut body = join(tid, &["*"], token);
        if let CommandBody::RegisterBranch { client, .. } = &mut body {
            *client = format!("{application}:10.0.0.1:4000");
        }
        body
    };
    let first = rig.ask(of("stock")).expect("a branch");
    assert_eq!(rig.ask(of("stock")), Ok(first.clone()));
    assert_ne!(rig.ask(of("points")), Ok(first));
}

#[test]
fn who_has_no_part_in_a_transaction_is_told_apart() {
    let (rig, tid, _) = shared();
    let global = rig.machine.global(tid).expect("it is open");
    assert!(global.is_begun_by("orders") && !global.is_begun_by("stock"));
    assert!(global.has_part_of("orders") && global.has_part_of("stock") && !global.has_part_of("points"));
}

#[test]
fn of_a_transaction_that_has_ended_everybody_is_told_how() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let tid = rig.begin();
    let status = GlobalStatus::Committed;
    assert_eq!(
        rig.ask(decide(tid, Decision::Commit, "orders")),
        Ok(Reply::Decided { status })
    );
    assert_eq!(
        rig.ask(decide(tid, Decision::Rollback, "stock")),
        Ok(Reply::Decided { status })
    );
    assert!(rig.ask(begin(1_000)).is_ok());
}
