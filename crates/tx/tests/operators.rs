//! What operators may do, and what is kept of it.

mod rig;

use std::time::Duration;

use rig::{Rig, load, operate};
use settle_machine::StateMachine;
use settle_tx::{
    AUDIT_MAX, ActKind, BranchId, BranchStatus, BranchType, CallFailure, CommandBody, Decision, Driver, DriverAction,
    DriverConfig, GlobalStatus, MachineConfig, OPERATOR_CHARS_MAX, OperatorAct, Outcome, OwnedCommandBody, Reply,
    Signed, Tid, TxError,
};

fn operated(status: GlobalStatus, acted: bool) -> Result<Reply, TxError> {
    Ok(Reply::Operated { status, acted })
}

fn rolling_back(rig: &mut Rig, lock_keys: &str) -> (Tid, BranchId) {
    let tid = rig.begin();
    let branch = rig
        .register(tid, BranchType::At, lock_keys)
        .expect("nobody holds the rows");
    rig.decide(tid, Decision::Rollback).expect("it is decided once");
    (tid, branch)
}

#[test]
fn an_operator_decides_what_nobody_decided_and_contradicts_nobody() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let tid = rig.begin();
    rig.branch(tid, BranchType::Tcc);
    assert_eq!(
        rig.operate(tid, OperatorAct::Rollback),
        operated(GlobalStatus::Rollbacking, true)
    );
    assert_eq!(
        rig.operate(tid, OperatorAct::Rollback),
        operated(GlobalStatus::Rollbacking, false),
        "asked again it does not act twice"
    );
    let refused = rig.operate(tid, OperatorAct::Commit).expect_err("it rolls back");
    let status = GlobalStatus::Rollbacking;
    assert_eq!(refused, TxError::ContradictsDecision { tid, status });
    assert_eq!(refused.code().to_string(), "TX0016");
    // The client that comes later is told how it stands, as of any other decision.
    let told = rig.decide(tid, Decision::Commit);
    assert_eq!(told, Ok(Reply::Decided { status }));
    assert_eq!(rig.machine.audit().count(), 1, "what changed nothing is not kept");
}

#[test]
fn a_timeout_before_the_operator_stands() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let tid = rig.begin();
    rig.branch(tid, BranchType::Tcc);
    rig.decide(tid, Decision::Timeout).expect("it is decided once");
    let status = GlobalStatus::TimeoutRollbacking;
    let refused = rig.operate(tid, OperatorAct::Commit);
    assert_eq!(refused, Err(TxError::ContradictsDecision { tid, status }));
    assert_eq!(rig.operate(tid, OperatorAct::Rollback), operated(status, false));
}

#[test]
fn forgetting_ends_a_transaction_as_it_was_decided_and_frees_everything() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let (tid, branch) = rolling_back(&mut rig, "t:1");
    rig.done(tid, branch, BranchStatus::PhaseTwoRollbackFailedUnretryable)
        .expect("it agrees with the decision");
    assert_eq!(
        rig.operate(tid, OperatorAct::Forget),
        operated(GlobalStatus::Rollbacked, true)
    );
    assert_eq!(rig.machine.outcome(tid), Outcome::Ended(GlobalStatus::Rollbacked));
    assert_eq!((rig.machine.open_count(), rig.machine.lock_count()), (0, 0));
    assert_eq!(
        rig.operate(tid, OperatorAct::Forget),
        operated(GlobalStatus::Rollbacked, false)
    );
    let undecided = rig.begin();
    let refused = rig.operate(undecided, OperatorAct::Forget);
    let (act, status) = (ActKind::Forget, GlobalStatus::Begin);
    assert_eq!(
        refused,
        Err(TxError::ActNotPossible {
            tid: undecided,
            act,
            status
        })
    );
    rig.machine.check_invariants();
}

#[test]
fn releasing_a_lock_frees_the_named_rows_of_one_branch_and_no_other() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let tid = rig.begin();
    let first = rig.register(tid, BranchType::At, "a:1,2;b:3").expect("free");
    rig.register(tid, BranchType::At, "b:3").expect("it is its own");
    let release = |branch, rows: &str| OperatorAct::ReleaseLock {
        branch,
        rows: rows.into(),
    };
    assert!(
        matches!(
            rig.operate(tid, release(first, "")),
            Err(TxError::ActNotPossible { .. })
        ),
        "nothing is settled of what is not decided"
    );
    rig.decide(tid, Decision::Rollback).expect("it is decided once");
    let free = |rig: &Rig, rows: &str| rig.machine.lockable("jdbc:mysql://db/stock", rows, None).is_ok();
    let status = GlobalStatus::Rollbacking;
    assert_eq!(rig.operate(tid, release(first, "a:2;b:3;c:9")), operated(status, true));
    assert_eq!(
        ["a:1", "a:2", "b:3"].map(|row| free(&rig, row)),
        [false, true, false],
        "the second branch keeps its row"
    );
    let branch = rig.machine.global(tid).and_then(|global| global.branch(first)).cloned();
    assert_eq!(branch.map(|branch| branch.lock_keys), Some("a:1".into()));
    assert_eq!(rig.operate(tid, release(first, "a:2")), operated(status, false));
    assert_eq!(rig.operate(tid, release(first, "")), operated(status, true));
    assert!(free(&rig, "a:1"));
    assert!(matches!(
        rig.operate(tid, release(first, "nonsense")),
        Err(TxError::BadLockKey { .. })
    ));
    rig.machine.check_invariants();
    assert_eq!(
        rig.machine.audit().map(|record| &*record.subject).collect::<Vec<_>>(),
        [format!("branch {first}: a:2;b:3;c:9"), format!("branch {first}")]
    );
}

/// With one look at all wanted rows for each row of the branch this would take minutes.
#[test]
fn as_many_rows_are_released_as_a_branch_can_hold() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let keys = |from: u32, to: u32| (from..to).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let (tid, branch) = rolling_back(&mut rig, &format!("t:{}", keys(0, 50_000)));
    let act = OperatorAct::ReleaseLock {
        branch,
        rows: format!("t:{}", keys(1, 100_000)),
    };
    assert_eq!(rig.operate(tid, act), operated(GlobalStatus::Rollbacking, true));
    assert_eq!(rig.machine.lock_count(), 1);
}

#[test]
fn the_last_acts_are_kept_with_who_when_and_why_and_snapshots_carry_them() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let (tid, _) = rolling_back(&mut rig, "");
    rig.time.0 += 5_000;
    let act = |n: usize| match n % 2 {
        0 => OperatorAct::StopRetry,
        _ => OperatorAct::ResumeRetry,
    };
    for n in 0..AUDIT_MAX + 3 {
        rig.operate(tid, act(n)).expect("it is decided");
    }
    let kept: Vec<_> = rig.machine.audit().cloned().collect();
    assert_eq!((kept.len(), kept[0].number), (AUDIT_MAX, 4));
    let last = &kept[AUDIT_MAX - 1];
    assert_eq!(
        (&*last.operator, &*last.reason, last.at_ms, last.at),
        ("ada", "ticket 7", 1_700_000_000_000, rig.time)
    );
    let mut copy = load(MachineConfig::new(1), &rig.snapshot(), 777).expect("it is a snapshot");
    copy.check_invariants();
    assert_eq!(copy.audit().cloned().collect::<Vec<_>>(), kept);
    assert_eq!(copy.state_hash(), rig.machine.state_hash());
    assert!(copy.global(tid).is_some_and(|global| global.retry_stopped));
    // And it goes on like the original.
    std::mem::swap(&mut rig.machine, &mut copy);
    rig.operate(tid, OperatorAct::ResumeRetry).expect("it is decided");
    assert_eq!(
        rig.machine.audit().next_back().map(|record| record.number),
        Some(AUDIT_MAX as u64 + 4)
    );
}

#[test]
fn texts_past_their_bounds_are_cut_alike_everywhere() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let (tid, _) = rolling_back(&mut rig, "");
    let signed = Signed {
        operator: "é".repeat(200),
        reason: "because ".repeat(1_000),
        at_ms: 1,
    };
    let act = OperatorAct::StopRetry;
    rig.ask(CommandBody::Operate { tid, act, signed })
        .expect("it is decided");
    let record = rig.machine.audit().next().cloned().expect("it acted");
    assert_eq!(record.operator.chars().count(), OPERATOR_CHARS_MAX);
    assert!(load(MachineConfig::new(1), &rig.snapshot(), 64).is_ok());
}

/// The driver, told all that is applied.
struct Stage {
    rig: Rig,
    driver: Driver,
}

impl Stage {
    fn ask(&mut self, body: OwnedCommandBody) {
        self.rig.ask(body).expect("nothing speaks against it");
        for effect in std::mem::take(&mut self.rig.effects) {
            self.driver.on_effect(&self.rig.machine, &effect, self.rig.time);
        }
    }

    /// The branches called within the next minutes; every call fails as said.
    fn called(&mut self, why: CallFailure) -> Vec<BranchId> {
        let (mut called, mut actions) = (Vec::new(), Vec::new());
        let end = self.rig.time + Duration::from_secs(300);
        while let Some(due) = self.driver.next_due().filter(|due| *due <= end) {
            self.rig.time = self.rig.time.max(due);
            self.driver.poll(&self.rig.machine, self.rig.time, &mut actions);
            for action in actions.drain(..) {
                match action {
                    DriverAction::Call {
                        tid, branch, attempt, ..
                    } => {
                        called.push(branch);
                        self.driver
                            .on_call_failed(&self.rig.machine, tid, branch, attempt, why, self.rig.time);
                    }
                    DriverAction::MarkRetrying { tid, branch, status } => {
                        self.ask(CommandBody::BranchDone { tid, branch, status });
                    }
                    DriverAction::Decide { .. } | DriverAction::Stuck { .. } => {}
                }
            }
        }
        called
    }
}

#[test]
fn a_stopped_transaction_is_not_called_by_any_leader_until_it_is_resumed() {
    let mut stage = Stage {
        rig: Rig::new(MachineConfig::new(1)),
        driver: Driver::new(DriverConfig::default(), 7),
    };
    stage.driver.lead(1, &stage.rig.machine);
    let tid = stage.rig.begin();
    let branches = [BranchType::Tcc, BranchType::Tcc].map(|kind| stage.rig.branch(tid, kind));
    stage.ask(rig::decide(tid, Decision::Rollback));
    assert!(stage.called(CallFailure::Refused).len() > 3);

    stage.ask(operate(tid, OperatorAct::StopRetry));
    assert_eq!(stage.called(CallFailure::Refused), []);
    stage.driver.lead(2, &stage.rig.machine);
    assert_eq!(stage.called(CallFailure::Refused), [], "the next leader knows it too");
    // A late answer to a call from before is a fact, and starts nothing.
    stage.ask(CommandBody::BranchDone {
        tid,
        branch: branches[1],
        status: BranchStatus::PhaseTwoRollbacked,
    });
    assert_eq!(stage.called(CallFailure::Refused), []);

    stage.ask(operate(tid, OperatorAct::ResumeRetry));
    let called = stage.called(CallFailure::Refused);
    assert!(
        called.len() > 3 && called.iter().all(|branch| *branch == branches[0]),
        "{called:?}"
    );
}

#[test]
fn resuming_calls_a_branch_again_that_had_failed_for_good() {
    let mut stage = Stage {
        rig: Rig::new(MachineConfig::new(1)),
        driver: Driver::new(DriverConfig::default(), 7),
    };
    stage.driver.lead(1, &stage.rig.machine);
    let (tid, branch) = rolling_back(&mut stage.rig, "t:1");
    stage.ask(CommandBody::BranchDone {
        tid,
        branch,
        status: BranchStatus::PhaseTwoRollbackFailedUnretryable,
    });
    assert_eq!(stage.called(CallFailure::Refused), []);
    stage.ask(operate(tid, OperatorAct::ResumeRetry));
    assert_eq!(stage.rig.machine.outcome(tid).status(), GlobalStatus::RollbackRetrying);
    assert!(stage.called(CallFailure::Refused).contains(&branch));
    assert_eq!(
        stage.rig.machine.lock_count(),
        1,
        "the row stays locked until it is undone"
    );
}
