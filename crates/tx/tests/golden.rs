//! What is in the log and in snapshots, and what applying does, as of [`APPLY_VERSION`]. A difference here means that
//! replicas of another build would differ from those of this one: **raise `APPLY_VERSION`**, apply by
//! `EntryMeta::version`, and write a file of its own (`UPDATE_EXPECT=1 cargo test -p settle-tx --test golden`). The file
//! of a version that is applied stays as it is.

mod rig;

use std::fmt::Write;

use expect_test::expect_file;
use rig::{Rig, begin, decide, load, operate, register};
use settle_machine::StateMachine;
use settle_tx::{
    APPLY_VERSION, BranchId, BranchStatus, BranchType, CommandBody, Decision, Expect, GlobalStatus, MachineConfig,
    MoveStep, OperatorAct, OwnedCommand, OwnedCommandBody, Reply, ReqId, Signed, Tid, encode_batch,
};

/// Every command in turn: its bytes, its answer, and the hash of the state behind it.
struct Script {
    rig: Rig,
    text: String,
}

impl Script {
    fn ask(&mut self, body: OwnedCommandBody) -> Option<Reply> {
        self.rig.time.0 += 1_000;
        let answer = self.rig.ask(body.clone());
        let seq = self.rig.seq;
        let req = ReqId { origin: 1, seq };
        let command = OwnedCommand {
            req,
            settled_below: seq,
            body,
        };
        hex(&mut self.text, &encode_batch(&[command]));
        let hash = self.rig.machine.state_hash();
        writeln!(self.text, "{answer:?}\n{hash:016x}\n").expect("a string takes it");
        answer.ok()
    }

    fn begin(&mut self, body: OwnedCommandBody) -> Tid {
        match self.ask(body) {
            Some(Reply::Begun { tid, .. }) => tid,
            other => panic!("{other:?}"),
        }
    }

    fn branch(&mut self, tid: Tid, branch_type: BranchType, lock_keys: &str) -> BranchId {
        match self.ask(register(tid, branch_type, lock_keys, r#"{"autoCommit":false}"#)) {
            Some(Reply::Branch { branch }) => branch,
            other => panic!("{other:?}"),
        }
    }

    fn done(&mut self, tid: Tid, branch: BranchId, status: BranchStatus) {
        self.ask(CommandBody::BranchDone { tid, branch, status });
    }
}

/// 32 bytes in a line; lines of zeros as one `*`.
fn hex(text: &mut String, bytes: &[u8]) {
    let mut was_zeros = false;
    for line in bytes.chunks(32) {
        let is_zeros = line.len() == 32 && line.iter().all(|byte| *byte == 0);
        match is_zeros {
            true if was_zeros => {}
            true => text.push_str("*\n"),
            false => {
                for byte in line {
                    write!(text, "{byte:02x}").expect("a string takes it");
                }
                text.push('\n');
            }
        }
        was_zeros = is_zeros;
    }
}

/// What version 4 wrote is written alike by this build wherever no service group was moved, and read.
#[test]
fn commands_answers_states_and_snapshots_are_those_of_version_4_where_nothing_was_moved() {
    for version in [4, APPLY_VERSION] {
        let (script, text) = transactions(version);
        expect_file!["vectors/apply-v4.txt"].assert_eq(&text);
        let loaded = load(*script.rig.machine.config(), &script.rig.snapshot(), 100).expect("it is a snapshot");
        assert_eq!(loaded.state_hash(), script.rig.machine.state_hash());
    }
}

#[test]
fn commands_answers_states_and_snapshots_are_those_of_this_version() {
    let (mut script, _) = transactions(APPLY_VERSION);
    let signed = Signed {
        operator: "ada".into(),
        reason: "ticket 7".into(),
        at_ms: 1_700_000_000_000,
    };
    let name = || "default_tx_group".to_owned();
    let to_another = |names: Vec<(String, u8, u64)>, to| CommandBody::MoveServiceGroups {
        names,
        to,
        signed: signed.clone(),
    };
    let step = |epoch, step| CommandBody::StepOfMove {
        names: vec!["another".into(), name()],
        epoch,
        step,
    };
    script.ask(to_another(vec![("another".into(), 3, 0), (name(), 3, 0)], 1));
    script.ask(to_another(vec![("another".into(), 3, 0)], 2));
    script.ask(to_another(vec![("a fourth".into(), 1, 0), ("a third".into(), 2, 0)], 2));
    script.ask(step(1, MoveStep::Close { from: 3, to: 1 }));
    script.ask(begin(60_000));
    script.ask(step(1, MoveStep::Drain));
    let cancel = |name: String| CommandBody::CancelMove {
        name,
        signed: signed.clone(),
    };
    script.ask(cancel(name()));
    script.ask(cancel("unknown".into()));
    script.ask(step(1, MoveStep::Reopen));
    script.ask(CommandBody::FinishMove {
        epoch: 1,
        has_moved: false,
    });
    script.ask(to_another(vec![("a third".into(), 2, 40)], 2));
    script.ask(cancel("a third".into()));
    script.ask(CommandBody::RaiseMove { epoch: 41, above: 50 });
    script.ask(to_another(vec![("a fourth".into(), 2, 0)], 3));
    script.ask(step(53, MoveStep::Close { from: 2, to: 3 }));
    script.ask(step(53, MoveStep::Open));
    script.ask(CommandBody::FinishMove {
        epoch: 53,
        has_moved: true,
    });
    let mut text = std::mem::take(&mut script.text);
    let snapshot = script.rig.snapshot();
    hex(&mut text, &snapshot);
    for part in script.rig.machine.begin_backup() {
        hex(&mut text, &part);
    }
    expect_file![format!("vectors/apply-v{APPLY_VERSION}.txt")].assert_eq(&text);
    let loaded = load(*script.rig.machine.config(), &snapshot, 100).expect("it is a snapshot");
    assert_eq!(loaded.state_hash(), script.rig.machine.state_hash());
}

/// Every command on transactions in turn, and the snapshot behind them.
fn transactions(version: u32) -> (Script, String) {
    use BranchStatus::*;
    let config = MachineConfig::for_cluster(3, 7);
    let mut script = Script {
        rig: Rig::new(config),
        text: String::new(),
    };
    script.rig.version = version;
    // Committed, with one branch that had nothing to do and one that failed at first.
    let committed = script.begin(begin(60_000));
    let xa = script.branch(committed, BranchType::Xa, "");
    let tcc = script.branch(committed, BranchType::Tcc, "");
    script.ask(CommandBody::ReportBranch {
        tid: committed,
        branch: xa,
        status: PhaseOneRdonly,
        application_data: Some("read only".into()),
        by: None,
    });
    script.ask(decide(committed, Decision::Commit));
    script.done(committed, tcc, PhaseTwoCommitFailedRetryable);
    script.done(committed, tcc, PhaseTwoCommitted);
    script.ask(decide(committed, Decision::Rollback));
    // Rolled back by timeout; an operator frees a row, stops, resumes and forgets.
    let stuck = script.begin(begin(1_000));
    let at = script.branch(stuck, BranchType::At, "t:1,2;u:3");
    script.branch(stuck, BranchType::SagaAnnotation, "");
    let refused = script.begin(begin(60_000));
    script.ask(register(refused, BranchType::At, "t:2", ""));
    script.ask(decide(stuck, Decision::Timeout));
    script.done(stuck, at, PhaseTwoRollbackFailedUnretryable);
    let release = OperatorAct::ReleaseLock {
        branch: at,
        rows: "t:2".into(),
    };
    for act in [release, OperatorAct::StopRetry, OperatorAct::ResumeRetry] {
        script.ask(operate(stuck, act));
    }
    script.ask(register(refused, BranchType::At, "t:2", ""));
    script.ask(operate(refused, OperatorAct::Rollback));
    script.ask(operate(refused, OperatorAct::Commit));
    // A saga that is reported, turned round and ended by its state machine.
    let saga = script.begin(CommandBody::Begin {
        xid_prefix: "10.0.0.1:8091".into(),
        application: "orders".into(),
        service_group: "default_tx_group".into(),
        name: "$Saga_purchase".into(),
        timeout_ms: 60_000,
    });
    script.ask(CommandBody::End {
        tid: saga,
        status: GlobalStatus::CommitRetrying,
        by: Some("orders".into()),
    });
    script.done(saga, BranchId::saga_of(saga), PhaseTwoRollbackFailedRetryable);
    script.done(saga, BranchId::saga_of(saga), PhaseTwoRollbacked);
    let committed = script.begin(begin(60_000));
    script.branch(committed, BranchType::Tcc, "");
    for _ in 0..2 {
        script.ask(register(committed, BranchType::Xa, "", r#"{"settle.once":"a token"}"#));
    }
    script.ask(operate(committed, OperatorAct::Commit));
    script.ask(operate(committed, OperatorAct::Forget));
    script.ask(decide(Tid::new(3, 9), Decision::Commit));
    // Another application's.
    let foreign = script.begin(begin(60_000));
    for groups in [vec![], vec!["default_*".to_owned(), "another".to_owned()]] {
        let mut join = register(foreign, BranchType::Tcc, "", "");
        if let CommandBody::RegisterBranch { joins, .. } = &mut join {
            *joins = Some(groups);
        }
        script.ask(join);
    }
    script.ask(CommandBody::Decide {
        tid: foreign,
        decision: Decision::Commit,
        expect: Expect::Begin,
        by: Some("stock".into()),
    });
    let mut text = std::mem::take(&mut script.text);
    let snapshot = script.rig.snapshot();
    hex(&mut text, &snapshot);
    (script, text)
}
