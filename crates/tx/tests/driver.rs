//! The driver against resource managers that answer as a script says; the whole trace is the expectation.

mod rig;

use std::{fmt::Write, time::Duration};

use expect_test::{Expect, expect};
use rig::{Rig, begin};
use settle_base::GroupTime;
use settle_tx::{
    BranchId, BranchStatus, BranchType, CallFailure, CallKind, CommandBody, Decision, Driver, DriverAction,
    DriverConfig, GlobalStatus, MachineConfig, OwnedCommandBody, Reply, Tid,
};

/// How a resource manager meets a call.
#[derive(Clone, Copy)]
enum Answer {
    Done,
    Fails(CallFailure),
    /// It answers with this fact, which the gate proposes.
    Fact(BranchStatus),
    Silent,
}

struct Stage {
    rig: Rig,
    driver: Driver,
    config: DriverConfig,
    trace: String,
    calls: Vec<(GroupTime, BranchId)>,
}

impl Stage {
    fn new(config: DriverConfig) -> Stage {
        let mut stage = Stage {
            rig: Rig::new(MachineConfig::new(1)),
            driver: Driver::new(config, 42),
            config,
            trace: String::new(),
            calls: Vec::new(),
        };
        stage.rig.time = GroupTime(0);
        stage.driver.lead(1, &stage.rig.machine);
        stage
    }

    fn ask(&mut self, body: OwnedCommandBody) -> Reply {
        let reply = self.rig.ask(body).expect("nothing speaks against it");
        let effects = std::mem::take(&mut self.rig.effects);
        for effect in &effects {
            self.driver.on_effect(&self.rig.machine, effect, self.rig.time);
        }
        reply
    }

    fn begin(&mut self, timeout_ms: u32) -> Tid {
        match self.ask(begin(timeout_ms)) {
            Reply::Begun { tid, .. } => tid,
            other => panic!("{other:?}"),
        }
    }

    fn with_branches(&mut self, kinds: &[BranchType]) -> Tid {
        let tid = self.begin(60_000);
        for kind in kinds {
            self.ask(rig::register(tid, *kind, "", ""));
        }
        tid
    }

    fn decide(&mut self, tid: Tid, decision: Decision) {
        self.ask(rig::decide(tid, decision));
    }

    /// Runs the driver until it has nothing due before `until` (in ms), answering every call by the script.
    fn run(&mut self, until: u64, mut script: impl FnMut(u64, u32) -> Answer) {
        let mut actions = Vec::new();
        while let Some(due) = self.driver.next_due().filter(|due| due.0 <= until) {
            self.rig.time = self.rig.time.max(due);
            self.driver.poll(&self.rig.machine, self.rig.time, &mut actions);
            for action in actions.drain(..) {
                self.act(action, &mut script);
            }
            self.rig.machine.check_invariants();
        }
        self.rig.time = self.rig.time.max(GroupTime(until));
    }

    fn act(&mut self, action: DriverAction, script: &mut impl FnMut(u64, u32) -> Answer) {
        write!(self.trace, "{:<7}", self.rig.time.0).expect("text grows");
        match action {
            DriverAction::Decide { tid, decision } => {
                writeln!(self.trace, "decide {tid:?} {decision:?}").expect("text grows");
                self.decide(tid, decision);
            }
            DriverAction::Call {
                tid,
                branch,
                kind,
                attempt,
            } => {
                writeln!(self.trace, "{kind:?} branch {} attempt {attempt}", branch.seq()).expect("text grows");
                self.calls.push((self.rig.time, branch));
                let done = match kind {
                    CallKind::Commit => BranchStatus::PhaseTwoCommitted,
                    CallKind::Rollback => BranchStatus::PhaseTwoRollbacked,
                };
                match script(branch.seq(), attempt) {
                    Answer::Silent => {}
                    Answer::Done => drop(self.ask(CommandBody::BranchDone {
                        tid,
                        branch,
                        status: done,
                    })),
                    Answer::Fact(status) => drop(self.ask(CommandBody::BranchDone { tid, branch, status })),
                    Answer::Fails(why) => {
                        self.driver
                            .on_call_failed(&self.rig.machine, tid, branch, attempt, why, self.rig.time)
                    }
                }
            }
            DriverAction::MarkRetrying { tid, branch, status } => {
                writeln!(self.trace, "mark branch {} {status}", branch.seq()).expect("text grows");
                self.ask(CommandBody::BranchDone { tid, branch, status });
            }
            DriverAction::Stuck { branch, .. } => {
                writeln!(self.trace, "branch {} is stuck", branch.seq()).expect("text grows");
            }
        }
    }

    fn expect(&mut self, expected: Expect) {
        expected.assert_eq(&std::mem::take(&mut self.trace));
    }
}

#[test]
fn a_commit_calls_at_branches_at_once_and_the_others_in_a_row_that_a_failure_does_not_stop() {
    use BranchType::{At, Tcc, Xa};
    let mut stage = Stage::new(DriverConfig::default());
    let tid = stage.with_branches(&[Tcc, At, Xa, Tcc, At]);
    stage.decide(tid, Decision::Commit);
    stage.run(1_300, |branch, attempt| match (branch, attempt) {
        (3, 1) => Answer::Fails(CallFailure::Refused),
        _ => Answer::Done,
    });
    stage.expect(expect![[r#"
        0      Commit branch 2 attempt 1
        0      Commit branch 5 attempt 1
        0      Commit branch 1 attempt 1
        0      Commit branch 3 attempt 1
        0      Commit branch 4 attempt 1
        0      mark branch 3 PhaseTwoCommitFailedRetryable
        1106   Commit branch 3 attempt 2
    "#]]);
    assert_eq!(stage.rig.machine.open_count(), 0);
    assert_eq!(stage.driver.next_due(), None, "nothing is left behind");
}

#[test]
fn a_commit_waits_for_the_first_result_before_it_calls_the_next_in_the_row() {
    let mut stage = Stage::new(DriverConfig::default());
    let tid = stage.with_branches(&[BranchType::Tcc, BranchType::Tcc, BranchType::Tcc]);
    stage.decide(tid, Decision::Commit);
    stage.run(
        20_000,
        |branch, _| if branch == 1 { Answer::Silent } else { Answer::Done },
    );
    stage.expect(expect![[r#"
        0      Commit branch 1 attempt 1
        17000  Commit branch 2 attempt 1
        17000  mark branch 1 PhaseTwoCommitFailedRetryable
        17000  Commit branch 3 attempt 1
        18106  Commit branch 1 attempt 2
    "#]]);
}

#[test]
fn a_rollback_goes_backwards_one_at_a_time_and_waits_for_a_branch_that_fails() {
    use BranchType::{At, Tcc};
    let mut stage = Stage::new(DriverConfig::default());
    let tid = stage.with_branches(&[At, Tcc, At]);
    stage.decide(tid, Decision::Rollback);
    stage.run(5_000, |branch, attempt| match (branch, attempt) {
        (2, 1) => Answer::Fails(CallFailure::Disconnected),
        (2, 2) => Answer::Fact(BranchStatus::PhaseTwoRollbackFailedRetryable),
        _ => Answer::Done,
    });
    stage.expect(expect![[r#"
        0      Rollback branch 3 attempt 1
        0      Rollback branch 2 attempt 1
        0      mark branch 2 PhaseTwoRollbackFailedRetryable
        1106   Rollback branch 2 attempt 2
        3013   Rollback branch 2 attempt 3
        3013   Rollback branch 1 attempt 1
    "#]]);
    assert_eq!(stage.rig.machine.open_count(), 0);
}

/// Its database may not know it any more, with a client that answers nothing to that: the other branches would keep their
/// rows for ever.
#[test]
fn a_branch_of_xa_that_is_not_rolled_back_keeps_no_other_one_prepared() {
    use BranchType::{Tcc, Xa};
    let mut stage = Stage::new(DriverConfig::default());
    let tid = stage.with_branches(&[Xa, Tcc, Xa, Xa, Xa]);
    stage.decide(tid, Decision::Rollback);
    stage.run(40_000, |branch, _| match branch {
        4 => Answer::Fact(BranchStatus::PhaseTwoRollbackFailedUnretryable),
        5 => Answer::Silent,
        _ => Answer::Done,
    });
    // What is of another kind waits, and with it what is before it.
    stage.expect(expect![[r#"
        0      Rollback branch 5 attempt 1
        17000  Rollback branch 4 attempt 1
        17000  mark branch 5 PhaseTwoRollbackFailedRetryable
        17000  Rollback branch 3 attempt 1
        18106  Rollback branch 5 attempt 2
        37013  Rollback branch 5 attempt 3
    "#]]);
    for branch in [4, 5] {
        stage.ask(CommandBody::BranchDone {
            tid,
            branch: BranchId::new(1, branch),
            status: BranchStatus::PhaseTwoRollbacked,
        });
    }
    stage.run(41_000, |_, _| Answer::Done);
    stage.expect(expect![[r#"
        40000  Rollback branch 2 attempt 1
        40000  Rollback branch 1 attempt 1
    "#]]);
    assert_eq!(stage.rig.machine.open_count(), 0);
}

#[test]
fn a_rollback_that_failed_for_good_stops_there_and_goes_on_when_the_fact_changes() {
    let mut stage = Stage::new(DriverConfig::default());
    let tid = stage.with_branches(&[BranchType::At, BranchType::At]);
    stage.decide(tid, Decision::Rollback);
    stage.run(100_000, |_, _| {
        Answer::Fact(BranchStatus::PhaseTwoRollbackFailedUnretryable)
    });
    stage.expect(expect![[r#"
        0      Rollback branch 2 attempt 1
    "#]]);
    assert_eq!(stage.driver.next_due(), None);
    let branch = BranchId::new(1, 2);
    stage.ask(CommandBody::BranchDone {
        tid,
        branch,
        status: BranchStatus::PhaseTwoRollbacked,
    });
    stage.run(200_000, |_, _| Answer::Done);
    stage.expect(expect![[r#"
         100000 Rollback branch 1 attempt 1
    "#]]);
    assert_eq!(stage.rig.machine.open_count(), 0);
}

#[test]
fn a_commit_that_failed_for_good_in_one_branch_goes_on_with_the_others() {
    let mut stage = Stage::new(DriverConfig::default());
    let tid = stage.with_branches(&[BranchType::Tcc, BranchType::Tcc]);
    stage.decide(tid, Decision::Commit);
    stage.run(100_000, |branch, _| {
        if branch == 1 {
            Answer::Fact(BranchStatus::PhaseTwoCommitFailedUnretryable)
        } else {
            Answer::Done
        }
    });
    stage.expect(expect![[r#"
        0      Commit branch 1 attempt 1
        0      Commit branch 2 attempt 1
    "#]]);
}

#[test]
fn a_transaction_is_timed_out_at_its_deadline_in_group_time_and_not_when_it_was_decided_before() {
    let mut stage = Stage::new(DriverConfig::default());
    let slow = stage.begin(5_000);
    stage.ask(rig::register(slow, BranchType::At, "", ""));
    let quick = stage.begin(5_000);
    stage.run(4_999, |_, _| Answer::Done);
    stage.decide(quick, Decision::Commit);
    stage.expect(expect![[r#""#]]);
    stage.run(60_000, |_, _| Answer::Done);
    stage.expect(expect![[r#"
        5000   decide 1/1 Timeout
        5000   Rollback branch 1 attempt 1
    "#]]);
}

#[test]
fn a_timeout_decision_whose_proposal_was_lost_is_given_again() {
    let mut stage = Stage::new(DriverConfig::default());
    let tid = stage.begin(5_000);
    for now in [5_000, 5_500, 6_000] {
        let mut actions = Vec::new();
        stage.driver.poll(&stage.rig.machine, GroupTime(now), &mut actions);
        let expected = DriverAction::Decide {
            tid,
            decision: Decision::Timeout,
        };
        assert_eq!(actions, if now == 5_500 { vec![] } else { vec![expected] }, "at {now}");
    }
}

#[test]
fn the_back_off_doubles_from_one_second_to_sixty_give_or_take_a_fifth() {
    let mut stage = Stage::new(DriverConfig::default());
    let tid = stage.with_branches(&[BranchType::At]);
    stage.decide(tid, Decision::Commit);
    stage.run(500_000, |_, _| Answer::Fails(CallFailure::Refused));
    let waits: Vec<u64> = stage.calls.windows(2).map(|pair| pair[1].0.0 - pair[0].0.0).collect();
    for (n, wait) in waits.iter().enumerate() {
        let middle = (1_000u64 << n.min(10)).min(60_000);
        let (low, high) = (middle - middle / 5, (middle + middle / 5).min(60_000));
        assert!(
            (low..=high).contains(wait),
            "wait {n} is {wait} ms, not within {low}..={high}"
        );
    }
    assert!(waits.len() > 10, "{waits:?}");
    assert!(
        waits.iter().skip(6).any(|wait| *wait != waits[6]),
        "there is jitter: {waits:?}"
    );
}

#[test]
fn a_branch_without_a_channel_is_tried_every_second_and_flagged_as_stuck_once_after_ten_minutes() {
    let mut stage = Stage::new(DriverConfig::default());
    let tid = stage.with_branches(&[BranchType::At]);
    stage.decide(tid, Decision::Rollback);
    stage.run(700_000, |_, _| Answer::Fails(CallFailure::NoChannel));
    let waits: Vec<u64> = stage.calls.windows(2).map(|pair| pair[1].0.0 - pair[0].0.0).collect();
    assert!(waits.iter().all(|wait| (800..=1_000).contains(wait)), "{waits:?}");
    let others: Vec<&str> = stage.trace.lines().filter(|line| !line.contains("attempt")).collect();
    assert_eq!(others.len(), 2, "{others:?}");
    assert!(others[0].ends_with("mark branch 1 PhaseTwoRollbackFailedRetryable"));
    let stuck_at: u64 = others[1]
        .split_whitespace()
        .next()
        .and_then(|at| at.parse().ok())
        .expect("a time");
    assert!(
        (600_000..601_100).contains(&stuck_at) && others[1].ends_with("is stuck"),
        "{}",
        others[1]
    );
    let branch = BranchId::new(1, 1);
    assert_eq!(stage.driver.stuck().collect::<Vec<_>>(), [(tid, branch)]);

    // The flag outlives the leader: since when it is retried is replicated.
    stage.driver.lead(2, &stage.rig.machine);
    stage.trace.clear();
    let now = stage.rig.time.0;
    stage.run(now, |_, _| Answer::Fails(CallFailure::Refused));
    assert!(stage.trace.contains("is stuck"), "{}", stage.trace);

    stage.run(now + 10_000, |_, _| Answer::Done);
    assert_eq!(stage.driver.stuck().count(), 0, "what is done is not stuck");
    assert_eq!(stage.rig.machine.open_count(), 0);
}

#[test]
fn an_unanswered_call_is_repeated_after_its_timeout_and_a_late_failure_of_it_is_not_taken_for_one_of_the_new_call() {
    let mut stage = Stage::new(DriverConfig::default());
    let tid = stage.with_branches(&[BranchType::At]);
    stage.decide(tid, Decision::Commit);
    stage.run(19_000, |_, _| Answer::Silent);
    stage.expect(expect![[r#"
        0      Commit branch 1 attempt 1
        17000  mark branch 1 PhaseTwoCommitFailedRetryable
        18106  Commit branch 1 attempt 2
    "#]]);
    let (machine, branch, now) = (&stage.rig.machine, BranchId::new(1, 1), stage.rig.time);
    assert_eq!(stage.driver.calls_in_flight(), 1);
    stage
        .driver
        .on_call_failed(machine, tid, branch, 1, CallFailure::Refused, now);
    assert_eq!(stage.driver.calls_in_flight(), 1, "attempt 2 is still out");
    stage
        .driver
        .on_call_failed(machine, tid, branch, 2, CallFailure::Refused, now);
    assert_eq!(stage.driver.calls_in_flight(), 0);
}

#[test]
fn a_new_leader_drives_everything_decided_at_once_and_the_old_one_nothing() {
    let mut stage = Stage::new(DriverConfig::default());
    let commit = stage.with_branches(&[BranchType::At, BranchType::Tcc, BranchType::Tcc]);
    let rollback = stage.with_branches(&[BranchType::At, BranchType::At]);
    stage.begin(1_000);
    stage.decide(commit, Decision::Commit);
    stage.decide(rollback, Decision::Rollback);
    stage.run(900, |_, _| Answer::Silent);
    stage.trace.clear();

    stage.driver.resign();
    assert_eq!(stage.driver.next_due(), None);
    stage.run(10_000, |_, _| Answer::Done);
    assert_eq!(stage.trace, "", "who does not lead calls nobody");

    stage.driver.lead(2, &stage.rig.machine);
    assert_eq!(stage.driver.term(), Some(2));
    stage.run(10_000, |_, _| Answer::Done);
    stage.expect(expect![[r#"
        10000  decide 1/3 Timeout
        10000  Commit branch 1 attempt 1
        10000  Commit branch 2 attempt 1
        10000  Rollback branch 5 attempt 1
        10000  Commit branch 3 attempt 1
        10000  Rollback branch 4 attempt 1
    "#]]);
    assert_eq!(stage.rig.machine.open_count(), 0);
}

#[test]
fn no_more_calls_are_in_flight_than_allowed_and_the_rest_follow() {
    let config = DriverConfig {
        max_calls_in_flight: 3,
        ..DriverConfig::default()
    };
    let mut stage = Stage::new(config);
    let tid = stage.with_branches(&[BranchType::At; 7]);
    stage.decide(tid, Decision::Commit);
    let mut actions = Vec::new();
    stage.driver.poll(&stage.rig.machine, GroupTime(0), &mut actions);
    assert_eq!((actions.len(), stage.driver.calls_in_flight()), (3, 3));
    let due = stage.driver.next_due().expect("calls time out");
    assert_eq!(
        due,
        GroupTime(0) + stage.config.call_timeout,
        "it does not spin while it is full"
    );
    for branch in [1, 2, 3] {
        let branch = BranchId::new(1, branch);
        stage.ask(CommandBody::BranchDone {
            tid,
            branch,
            status: BranchStatus::PhaseTwoCommitted,
        });
    }
    stage.run(1, |_, _| Answer::Done);
    assert_eq!(stage.rig.machine.open_count(), 0);
}

#[test]
fn a_fact_told_to_an_earlier_leader_counts_and_ends_the_call() {
    let mut stage = Stage::new(DriverConfig::default());
    let tid = stage.with_branches(&[BranchType::At, BranchType::At]);
    stage.decide(tid, Decision::Rollback);
    stage.run(0, |_, _| Answer::Silent);
    stage.trace.clear();
    let branch = BranchId::new(1, 1);
    stage.ask(CommandBody::BranchDone {
        tid,
        branch,
        status: BranchStatus::PhaseTwoRollbacked,
    });
    assert_eq!(stage.driver.calls_in_flight(), 1, "branch 2 is still called");
    let branch = BranchId::new(1, 2);
    stage.ask(CommandBody::BranchDone {
        tid,
        branch,
        status: BranchStatus::PhaseTwoRollbacked,
    });
    assert_eq!((stage.driver.calls_in_flight(), stage.driver.next_due()), (0, None));
}

#[test]
fn a_mark_that_is_applied_during_the_next_call_is_not_taken_for_its_answer() {
    let mut stage = Stage::new(DriverConfig::default());
    let tid = stage.with_branches(&[BranchType::At]);
    stage.decide(tid, Decision::Commit);
    let branch = BranchId::new(1, 1);
    let mut actions = Vec::new();
    stage.driver.poll(&stage.rig.machine, GroupTime(0), &mut actions);
    let why = CallFailure::NoChannel;
    stage
        .driver
        .on_call_failed(&stage.rig.machine, tid, branch, 1, why, GroupTime(0));
    stage.rig.time = GroupTime(1_000);
    stage.driver.poll(&stage.rig.machine, stage.rig.time, &mut actions);
    let status = BranchStatus::PhaseTwoCommitFailedRetryable;
    assert!(
        actions.contains(&DriverAction::MarkRetrying { tid, branch, status }),
        "{actions:?}"
    );
    let done = |stage: &mut Stage| drop(stage.ask(CommandBody::BranchDone { tid, branch, status }));
    done(&mut stage);
    assert_eq!(stage.driver.calls_in_flight(), 1, "attempt 2 is out");
    done(&mut stage);
    assert_eq!(
        stage.driver.calls_in_flight(),
        0,
        "the second time it is the resource manager's answer"
    );
}

fn register_for(tid: Tid, client: &str, resource: &str) -> OwnedCommandBody {
    CommandBody::RegisterBranch {
        tid,
        branch_type: BranchType::Tcc,
        resource: resource.into(),
        client: client.into(),
        lock_keys: String::new(),
        application_data: String::new(),
        joins: None,
    }
}

#[test]
fn a_client_that_hangs_holds_up_nobody_else() {
    let config = DriverConfig {
        max_calls_in_flight: 8,
        max_calls_per_client: 3,
        ..DriverConfig::default()
    };
    let mut stage = Stage::new(config);
    // Branches 1 to 6 are of a client that hangs, 7 of its other resource, 8 and 9 of another client.
    let hung = "stock:10.0.0.2:1";
    let clients = [(hung, "a", 6), (hung, "b", 1), ("billing:10.0.0.3:1", "a", 2)];
    for (client, resource, count) in clients {
        for _ in 0..count {
            let tid = stage.begin(60_000);
            stage.ask(register_for(tid, client, resource));
            stage.decide(tid, Decision::Commit);
        }
    }
    let hangs = |branch: u64, attempt: u32| match (branch, attempt) {
        (1..=6, 1) => Answer::Silent,
        _ => Answer::Done,
    };
    stage.run(16_999, hangs);
    stage.expect(expect![[r#"
        0      Commit branch 1 attempt 1
        0      Commit branch 7 attempt 1
        0      Commit branch 8 attempt 1
        0      Commit branch 2 attempt 1
        0      Commit branch 9 attempt 1
        0      Commit branch 3 attempt 1
    "#]]);
    assert_eq!(stage.driver.calls_in_flight(), 3);
    stage.run(100_000, hangs);
    assert_eq!(stage.rig.machine.open_count(), 0, "those that waited had their turn");
    assert_eq!((stage.driver.calls_in_flight(), stage.driver.next_due()), (0, None));
}

#[test]
fn timeouts_that_are_not_applied_are_given_again_but_no_more_of_them_than_may_be_in_flight() {
    let config = DriverConfig {
        max_timeouts_in_flight: 2,
        ..DriverConfig::default()
    };
    let mut stage = Stage::new(config);
    let tids: Vec<Tid> = (0..5).map(|_| stage.begin(1_000)).collect();
    let given = |stage: &mut Stage, now: u64| {
        stage.rig.time = GroupTime(now);
        let mut actions = Vec::new();
        stage.driver.poll(&stage.rig.machine, stage.rig.time, &mut actions);
        let tid_of = |action| match action {
            DriverAction::Decide { tid, .. } => tid,
            other => panic!("{other:?}"),
        };
        actions.into_iter().map(tid_of).collect::<Vec<_>>()
    };
    assert_eq!(given(&mut stage, 1_000), tids[..2]);
    assert_eq!(given(&mut stage, 2_000), tids[..2], "their proposals were lost");
    assert_eq!(given(&mut stage, 2_500), []);
    stage.decide(tids[2], Decision::Commit);
    stage.decide(tids[0], Decision::Timeout);
    assert_eq!(
        given(&mut stage, 2_600),
        [tids[3]],
        "the third was committed while it waited"
    );
    stage.decide(tids[1], Decision::Timeout);
    stage.decide(tids[3], Decision::Timeout);
    assert_eq!(given(&mut stage, 2_700), [tids[4]]);
    stage.decide(tids[4], Decision::Timeout);
    assert_eq!((stage.driver.timeouts_in_flight(), stage.driver.next_due()), (0, None));
}

#[test]
fn a_mark_is_given_once_until_it_is_known_to_be_lost() {
    let mut stage = Stage::new(DriverConfig::default());
    let tid = stage.with_branches(&[BranchType::Tcc]);
    stage.decide(tid, Decision::Commit);
    let branch = BranchId::new(1, 1);
    let (mut actions, mut marks) = (Vec::new(), Vec::new());
    for second in 0..10 {
        let now = GroupTime(second * 1_100);
        if second == 5 {
            stage.driver.on_mark_lost(tid, branch);
        }
        stage.driver.poll(&stage.rig.machine, now, &mut actions);
        for action in actions.drain(..) {
            match action {
                DriverAction::Call { attempt, .. } => {
                    let why = CallFailure::NoChannel;
                    stage
                        .driver
                        .on_call_failed(&stage.rig.machine, tid, branch, attempt, why, now);
                }
                DriverAction::MarkRetrying { .. } => marks.push(second),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(marks, [1, 6]);
}

#[test]
fn a_saga_branch_beside_a_failed_one_is_left_to_its_client_and_flagged_once_when_that_never_reports() {
    let config = DriverConfig {
        stuck_after: Duration::from_secs(100),
        ..DriverConfig::default()
    };
    let mut stage = Stage::new(config);
    let tid = stage.begin(5_000);
    for kind in [BranchType::Tcc, BranchType::Saga] {
        stage.ask(rig::register(tid, kind, "", ""));
    }
    stage.run(500_000, |_, _| Answer::Done);
    stage.expect(expect![[r#"
        5000   decide 1/1 Timeout
        5000   Rollback branch 1 attempt 1
        105000 branch 2 is stuck
    "#]]);
    assert_eq!(stage.driver.stuck().collect::<Vec<_>>(), [(tid, BranchId::new(1, 2))]);
    stage.driver.lead(2, &stage.rig.machine);
    stage.run(500_001, |_, _| Answer::Done);
    stage.expect(expect![[r#"
        500000 branch 2 is stuck
    "#]]);
    let status = GlobalStatus::TimeoutRollbacked;
    stage.ask(CommandBody::End { tid, status, by: None });
    assert_eq!((stage.driver.stuck().count(), stage.driver.next_due()), (0, None));
}
