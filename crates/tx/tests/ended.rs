//! What is told of a transaction that has ended.

mod rig;

use rig::Rig;
use settle_tx::{BranchStatus, BranchType, Decision, EndedRecord, GlobalStatus, MachineConfig, OperatorAct, TxEffect};

fn ended(rig: &Rig) -> EndedRecord {
    let details = rig.effects.iter().find_map(|effect| match effect {
        TxEffect::Ended { details, .. } => Some(details),
        _ => None,
    });
    let details = details.expect("the last entry ended it");
    assert_eq!((details.index, details.at), (rig.index, rig.time));
    let mut bytes = Vec::new();
    details.encode(&mut bytes);
    EndedRecord::decode(&bytes).expect("it was just written")
}

#[test]
fn the_record_tells_who_took_part_when_and_what_went_wrong() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let tid = rig.begin();
    let begun_at = rig.time;
    rig.time.0 += 100;
    let first = rig.register(tid, BranchType::At, "t:1").expect("free");
    rig.time.0 += 100;
    let second = rig.branch(tid, BranchType::Tcc);
    rig.time.0 += 50;
    rig.decide(tid, Decision::Rollback).expect("it is decided once");
    rig.time.0 += 1_000;
    for _ in 0..2 {
        rig.done(tid, second, BranchStatus::PhaseTwoRollbackFailedRetryable)
            .expect("it agrees with the decision");
    }
    rig.done(tid, second, BranchStatus::PhaseTwoRollbacked)
        .expect("it agrees");
    rig.time.0 += 1_000;
    rig.done(tid, first, BranchStatus::PhaseTwoRollbacked)
        .expect("it agrees");
    let record = ended(&rig);
    assert_eq!(
        (
            record.tid,
            record.status,
            record.application.as_str(),
            record.name.as_str()
        ),
        (tid, GlobalStatus::Rollbacked, "orders", "purchase")
    );
    assert_eq!((record.begun_at, record.ended_at), (begun_at, rig.time));
    assert_eq!(record.decided_at.map(|at| at.since(begun_at).as_millis()), Some(250));
    let told: Vec<_> = record
        .branches
        .iter()
        .map(|branch| {
            let times = (branch.registered_after_ms, branch.done_after_ms);
            (branch.id, times, branch.failures, branch.last_failure)
        })
        .collect();
    let failure = Some(BranchStatus::PhaseTwoRollbackFailedRetryable);
    assert_eq!(
        told,
        [
            (first, (100, Some(2_250)), 0, None),
            (second, (200, Some(1_250)), 2, failure)
        ]
    );
    assert!(record.is_troubled());
}

#[test]
fn a_branch_that_was_given_up_is_not_told_as_done() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let tid = rig.begin();
    let branch = rig.branch(tid, BranchType::Tcc);
    rig.decide(tid, Decision::Commit).expect("it is decided once");
    let failed = BranchStatus::PhaseTwoCommitFailedUnretryable;
    rig.done(tid, branch, failed).expect("it agrees with the decision");
    rig.operate(tid, OperatorAct::Forget).expect("it is decided");
    let record = ended(&rig);
    assert_eq!(record.status, GlobalStatus::Committed);
    let [branch] = record.branches.as_slice() else {
        panic!("{record:?}")
    };
    assert_eq!((branch.status, branch.done_after_ms), (failed, None));
}
