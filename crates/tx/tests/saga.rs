//! Sagas of the state machine: what they may report, where the single call goes, and that only they may turn round.

mod rig;

use rig::{Rig, decide, register};
use settle_base::GroupTime;
use settle_tx::{
    BranchId, BranchStatus, BranchType, CallFailure, CallKind, CommandBody, Decision, Driver, DriverAction,
    DriverConfig, GlobalStatus, MachineConfig, Outcome, OwnedCommandBody, Reply, Tid, TxEffect, TxError, TxMachine,
};

fn named(name: &str, timeout_ms: u32) -> OwnedCommandBody {
    CommandBody::Begin {
        xid_prefix: "10.0.0.1:8091".into(),
        application: "orders".into(),
        service_group: "default_tx_group".into(),
        name: name.into(),
        timeout_ms,
    }
}

fn begin_saga(rig: &mut Rig) -> Tid {
    match rig.ask(named("$Saga_purchase", 60_000)) {
        Ok(Reply::Begun { tid, .. }) => tid,
        other => panic!("{other:?}"),
    }
}

fn end(tid: Tid, status: GlobalStatus) -> OwnedCommandBody {
    CommandBody::End { tid, status, by: None }
}

fn status(rig: &Rig, tid: Tid) -> GlobalStatus {
    rig.machine.outcome(tid).status()
}

#[test]
fn a_saga_is_known_by_its_branches_or_without_any_by_its_name() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let is_saga = |rig: &Rig, tid| rig.machine.global(tid).is_some_and(|global| global.is_saga());
    let saga = begin_saga(&mut rig);
    assert!(is_saga(&rig, saga));
    rig.branch(saga, BranchType::Tcc);
    assert!(!is_saga(&rig, saga), "its TCC branch is to be driven");
    let other = rig.begin();
    assert!(!is_saga(&rig, other));
    rig.branch(other, BranchType::Saga);
    assert!(is_saga(&rig, other));
}

#[test]
fn a_saga_without_branches_that_times_out_waits_for_its_state_machine() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let (saga, empty) = (begin_saga(&mut rig), rig.begin());
    for tid in [saga, empty] {
        rig.decide(tid, Decision::Timeout).expect("it was open");
    }
    assert_eq!(
        status(&rig, empty),
        GlobalStatus::TimeoutRollbacked,
        "it has nothing to undo"
    );
    assert_eq!(
        status(&rig, saga),
        GlobalStatus::TimeoutRollbacking,
        "its steps are not undone yet"
    );
    rig.machine.check_invariants();
    let reloaded = rig::load(MachineConfig::new(1), &rig.snapshot(), 7).expect("a snapshot takes it too");
    assert_eq!(reloaded.outcome(saga).status(), GlobalStatus::TimeoutRollbacking);
    rig.done(saga, BranchId::saga_of(saga), BranchStatus::PhaseTwoRollbacked)
        .expect("the state machine compensated");
    assert_eq!(status(&rig, saga), GlobalStatus::TimeoutRollbacked);
}

#[test]
fn a_saga_may_turn_round_until_it_has_ended_and_nothing_else_may() {
    use BranchStatus::*;
    use GlobalStatus::*;
    let mut rig = Rig::new(MachineConfig::new(1));
    let saga = begin_saga(&mut rig);
    let id = BranchId::saga_of(saga);
    assert!(
        matches!(rig.done(saga, id, PhaseTwoRollbacked), Err(TxError::NotDecided { .. })),
        "nobody asked it yet"
    );
    rig.decide(saga, Decision::Timeout).expect("it was open");
    let mut told = |fact| {
        rig.done(saga, id, fact).expect("it is the state machine's to say");
        rig.machine.check_invariants();
        status(&rig, saga)
    };
    assert_eq!(told(PhaseTwoRollbackFailedRetryable), TimeoutRollbackRetrying);
    assert_eq!(
        told(PhaseTwoCommitFailedRetryable),
        CommitRetrying,
        "its strategy is forward"
    );
    assert_eq!(
        told(PhaseTwoRollbackFailedRetryable),
        RollbackRetrying,
        "it compensates after all"
    );
    assert_eq!(told(PhaseTwoRollbackFailedUnretryable), RollbackFailed);
    assert_eq!(told(PhaseTwoCommitFailedRetryable), RollbackFailed, "a late copy");
    assert_eq!(told(PhaseTwoRollbacked), Rollbacked);
    assert!(matches!(
        rig.done(saga, id, PhaseTwoCommitted),
        Err(TxError::Contradiction { .. })
    ));
    let tcc = rig.begin();
    rig.branch(tcc, BranchType::Tcc);
    rig.decide(tcc, Decision::Rollback).expect("it was open");
    let claim = rig.done(tcc, BranchId::saga_of(tcc), PhaseTwoCommitted);
    assert!(matches!(claim, Err(TxError::UnknownBranch { .. })), "{claim:?}");
    assert!(matches!(
        rig.ask(end(tcc, CommitRetrying)),
        Err(TxError::IllegalEnd { .. })
    ));
}

#[test]
fn a_report_of_unknown_is_driven_back_and_one_of_nothing_done_ends() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let unknown = begin_saga(&mut rig);
    rig.ask(end(unknown, GlobalStatus::UnKnown))
        .expect("a saga may report it");
    assert_eq!(status(&rig, unknown), GlobalStatus::RollbackRetrying);
    let failed = begin_saga(&mut rig);
    rig.decide(failed, Decision::Commit).expect("it was open");
    assert_eq!(
        status(&rig, failed),
        GlobalStatus::Committing,
        "the state machine says when it is done"
    );
    rig.done(failed, BranchId::saga_of(failed), BranchStatus::PhaseOneFailed)
        .expect("the first phase failed and left nothing");
    assert_eq!(status(&rig, failed), GlobalStatus::Rollbacked);
}

#[test]
fn a_saga_that_goes_forward_registers_what_remains_and_others_take_no_branch_once_decided() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let saga = begin_saga(&mut rig);
    rig.branch(saga, BranchType::Saga);
    rig.ask(end(saga, GlobalStatus::CommitRetrying))
        .expect("a saga may report it");
    rig.branch(saga, BranchType::Saga);
    let refused = |result| matches!(result, Err(TxError::NotActive { .. }));
    assert!(
        refused(rig.register(saga, BranchType::At, "t:1")),
        "it would be driven by no one"
    );
    rig.ask(end(saga, GlobalStatus::Committed))
        .expect("a saga may report it");
    assert!(refused(rig.register(saga, BranchType::Saga, "")), "it has ended");
    let tcc = rig.begin();
    rig.branch(tcc, BranchType::Tcc);
    rig.decide(tcc, Decision::Rollback).expect("it was open");
    assert!(refused(rig.register(tcc, BranchType::Saga, "")));
}

#[test]
fn an_annotated_saga_is_committed_already_and_compensated_like_a_branch() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let (commit, rollback) = (rig.begin(), rig.begin());
    for tid in [commit, rollback] {
        rig.branch(tid, BranchType::SagaAnnotation);
    }
    rig.decide(commit, Decision::Commit).expect("it was open");
    assert_eq!(rig.machine.outcome(commit), Outcome::Ended(GlobalStatus::Committed));
    rig.decide(rollback, Decision::Rollback).expect("it was open");
    let open: Vec<BranchId> = rig
        .machine
        .global(rollback)
        .expect("open")
        .open_branches()
        .map(|b| b.id)
        .collect();
    assert_eq!(open, [BranchId::new(1, 2)], "it is to be compensated");
    let mut mixed = rig.begin();
    rig.branch(mixed, BranchType::SagaAnnotation);
    rig.branch(mixed, BranchType::Tcc);
    rig.decide(mixed, Decision::Commit).expect("it was open");
    assert_eq!(
        status(&rig, mixed),
        GlobalStatus::Committing,
        "the TCC branch is still to be confirmed"
    );
    mixed = rig.begin();
    rig.ask(register(mixed, BranchType::SagaAnnotation, "t:1", ""))
        .expect("no lock is taken");
    rig.ask(decide(mixed, Decision::Timeout)).expect("it was open");
    rig.machine.check_invariants();
}

/// What the driver calls, with each call answered at once by `answer`.
fn calls(
    rig: &mut Rig,
    driver: &mut Driver,
    until: u64,
    mut answer: impl FnMut(u32) -> Option<BranchStatus>,
) -> String {
    let mut trace = String::new();
    let mut actions = Vec::new();
    while let Some(due) = driver.next_due().filter(|due| due.0 <= until) {
        rig.time = rig.time.max(due);
        driver.poll(&rig.machine, rig.time, &mut actions);
        for action in actions.drain(..) {
            match action {
                DriverAction::Call {
                    tid,
                    branch,
                    kind,
                    attempt,
                } => {
                    assert_eq!(branch, BranchId::saga_of(tid));
                    trace += &format!("{} {kind:?}; ", rig.time.0);
                    match answer(attempt) {
                        None => {
                            driver.on_call_failed(&rig.machine, tid, branch, attempt, CallFailure::NoChannel, rig.time)
                        }
                        Some(status) => feed(rig, driver, CommandBody::BranchDone { tid, branch, status }),
                    }
                }
                DriverAction::Decide { tid, decision } => {
                    trace += &format!("{} {decision:?}; ", rig.time.0);
                    feed(rig, driver, decide(tid, decision));
                }
                DriverAction::Stuck { .. } => trace += &format!("{} stuck; ", rig.time.0),
                DriverAction::MarkRetrying { .. } => panic!("where a saga stands is its state machine's to say"),
            }
        }
    }
    trace
}

fn feed(rig: &mut Rig, driver: &mut Driver, body: OwnedCommandBody) {
    rig.ask(body).expect("nothing speaks against it");
    let effects: Vec<TxEffect> = std::mem::take(&mut rig.effects);
    for effect in &effects {
        driver.on_effect(&rig.machine, effect, rig.time);
    }
}

fn stage(config: DriverConfig) -> (Rig, Driver) {
    let mut rig = Rig::new(MachineConfig::new(1));
    rig.time = GroupTime(0);
    let mut driver = Driver::new(config, 42);
    driver.lead(1, &rig.machine);
    (rig, driver)
}

#[test]
fn a_saga_whose_client_is_gone_is_called_once_at_a_time_until_its_state_machine_has_ended_it() {
    let config = DriverConfig {
        stuck_after: std::time::Duration::from_millis(1_500),
        ..DriverConfig::default()
    };
    let (mut rig, mut driver) = stage(config);
    feed(&mut rig, &mut driver, named("$Saga_purchase", 5_000));
    let trace = calls(&mut rig, &mut driver, 60_000, |attempt| match attempt {
        1 | 2 => None,
        3 => Some(BranchStatus::PhaseTwoCommitFailedRetryable),
        _ => Some(BranchStatus::PhaseTwoCommitted),
    });
    let kinds: Vec<&str> = trace.split("; ").filter_map(|step| step.split(' ').nth(1)).collect();
    assert_eq!(
        kinds,
        ["Timeout", "Rollback", "Rollback", "Rollback", "stuck", "Commit"],
        "{trace}"
    );
    assert_eq!(
        rig.machine.outcome(Tid::new(1, 1)),
        Outcome::Ended(GlobalStatus::Committed)
    );
    assert_eq!((driver.next_due(), driver.stuck().count()), (None, 0));
}

#[test]
fn a_new_leader_calls_a_decided_saga_and_leaves_one_that_failed_for_good() {
    let (mut rig, mut driver) = stage(DriverConfig::default());
    let (going, failed) = (begin_saga(&mut rig), begin_saga(&mut rig));
    for (tid, status) in [
        (going, GlobalStatus::CommitRetrying),
        (failed, GlobalStatus::RollbackFailed),
    ] {
        rig.ask(end(tid, status)).expect("a saga may report it");
    }
    driver.lead(2, &rig.machine);
    let mut actions = Vec::new();
    driver.poll(&rig.machine, rig.time, &mut actions);
    let called = |machine: &TxMachine| machine.global(going).map(|global| BranchId::saga_of(global.tid));
    assert_eq!(
        actions,
        [DriverAction::Call {
            tid: going,
            branch: called(&rig.machine).expect("it is open"),
            kind: CallKind::Commit,
            attempt: 1,
        }]
    );
}
