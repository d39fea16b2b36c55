//! A group's backup, taken in by a group of another cluster.

mod rig;

use bytes::Bytes;
use rig::{Rig, begin, load, operate};
use settle_base::GroupTime;
use settle_machine::StateMachine;
use settle_tx::{
    BranchId, BranchStatus, BranchType, CommandBody, Decision, Driver, DriverConfig, GlobalStatus, MachineConfig,
    OperatorAct, Outcome, Reply, Tid, TxEffect, TxError,
};

const OLD: MachineConfig = MachineConfig {
    first_sequence: (500 << 32) | 1,
    ..NEW
};
const NEW: MachineConfig = MachineConfig {
    group: 1,
    sessions_max: 1_000_000,
    branches_max: 4_096,
    lock_bytes_max: 1 << 30,
    branch_bytes_max: 2 << 30,
    first_sequence: (7 << 32) | 1,
    outcome_retention_ms: 24 * 60 * 60 * 1_000,
    outcome_bytes_max: 512 << 20,
};

struct Old {
    rig: Rig,
    parts: Vec<Bytes>,
    open: Tid,
    failing: Tid,
    ended: Tid,
    branch: BranchId,
}

/// A group with something of everything, and many transactions, so that its backup has many parts.
fn old() -> Old {
    let mut rig = Rig::new(OLD);
    rig.time = GroupTime(5 * 60 * 60 * 1_000);
    let ended = rig.begin();
    rig.decide(ended, Decision::Commit).expect("it was open");
    let failing = rig.begin();
    let branch = rig.register(failing, BranchType::At, "t:1,2").expect("free");
    rig.decide(failing, Decision::Rollback).expect("it was open");
    rig.done(failing, branch, BranchStatus::PhaseTwoRollbackFailedRetryable)
        .expect("it agrees");
    rig.operate(failing, OperatorAct::StopRetry).expect("it is decided");
    rig.time.0 += 10_000;
    let open = rig.begin();
    for n in 0..40 {
        let keys = format!("u:{n},{}", "k".repeat(20_000));
        rig.register(open, BranchType::At, &keys).expect("its own rows");
    }
    for _ in 0..2_000 {
        rig.begin();
    }
    rig.time.0 += 50_000;
    rig.ask(begin(60_000)).expect("room");
    let parts = rig.machine.begin_backup().collect();
    Old {
        rig,
        parts,
        open,
        failing,
        ended,
        branch,
    }
}

fn part(part: &Bytes) -> settle_tx::OwnedCommandBody {
    CommandBody::Restore { part: part.clone() }
}

fn new() -> Rig {
    let mut rig = Rig::new(NEW);
    rig.time = GroupTime(4 * 60 * 60 * 1_000);
    rig
}

fn restored(parts: usize, is_done: bool) -> Result<Reply, TxError> {
    let parts = parts as u64;
    Ok(Reply::Restored { parts, is_done })
}

#[test]
fn a_restored_group_goes_on_where_the_backup_was_and_gives_no_id_twice() {
    let old = old();
    assert!(old.parts.len() >= 4, "{} parts", old.parts.len());
    let mut rig = new();
    for (n, bytes) in old.parts.iter().enumerate() {
        let is_last = n + 1 == old.parts.len();
        assert_eq!(rig.ask(part(bytes)), restored(n + 1, is_last));
        rig.machine.check_invariants();
        // A replica that comes up in between has the same.
        let loaded = load(NEW, &rig.snapshot(), 10_000).expect("it is a snapshot");
        assert_eq!(loaded.state_hash(), rig.machine.state_hash());
        assert_eq!(loaded.is_being_restored(), !is_last);
        if !is_last {
            assert_eq!(rig.ask(begin(1_000)), Err(TxError::BeingRestored));
        }
        assert_eq!(
            rig.ask(part(bytes)),
            restored(n + 1, is_last),
            "asked again it is not done again"
        );
    }
    let (before, after) = (&old.rig.machine, &rig.machine);
    let texts = |machine: &settle_tx::TxMachine| {
        let line = |global: &settle_tx::Global| {
            let branches = global.branches().iter();
            let branches: Vec<_> = branches.map(|b| (b.id, b.status, b.lock_keys.clone())).collect();
            (global.xid.clone(), global.status, global.retry_stopped, branches)
        };
        machine.globals().map(line).collect::<Vec<_>>()
    };
    assert_eq!(texts(before), texts(after));
    let kept = |stats: settle_tx::Stats| settle_tx::Stats {
        dedup_results: 0,
        ..stats
    };
    assert_eq!(kept(before.stats()), kept(after.stats()));
    assert_eq!(after.outcome(old.ended), Outcome::Ended(GlobalStatus::Committed));
    assert_eq!(after.audit().count(), 1);
    assert!(after.lockable("jdbc:mysql://db/stock", "t:2", None).is_err());
    // As old as it was, in the new group's time.
    let age = |rig: &Rig, tid| rig.time.since(rig.machine.global(tid).expect("open").begun_at);
    assert_eq!(age(&old.rig, old.open), age(&rig, old.open));
    assert_eq!(age(&old.rig, old.failing), age(&rig, old.failing));

    // What the old cluster gave after the backup is neither given again nor taken for never begun.
    let mut later = old.rig;
    let lost = later.begin();
    assert_eq!(rig.machine.outcome(lost), Outcome::Evicted);
    let fresh = rig.begin();
    assert!(
        fresh > lost && fresh.seq() >> 32 > lost.seq() >> 32,
        "{fresh} and {lost}"
    );
    let branch = rig.branch(fresh, BranchType::Tcc);
    assert!(branch.seq() >> 32 > later.branch(lost, BranchType::Tcc).seq() >> 32);
    assert_eq!(
        rig.decide(old.open, Decision::Commit),
        Ok(Reply::Decided {
            status: GlobalStatus::AsyncCommitting
        })
    );
    rig.done(old.failing, old.branch, BranchStatus::PhaseTwoRollbacked)
        .expect("it agrees");
    assert_eq!(
        rig.machine.outcome(old.failing),
        Outcome::Ended(GlobalStatus::Rollbacked)
    );
    rig.machine.check_invariants();
}

#[test]
fn only_a_group_that_has_begun_nothing_takes_a_backup_and_only_whole_and_in_order() {
    let old = old();
    let mut rig = new();
    rig.begin();
    assert_eq!(rig.ask(part(&old.parts[0])), Err(TxError::NotNew { begun: 1 }));

    let mut rig = new();
    let refused = |rig: &mut Rig, bytes: &Bytes| {
        let told = rig.ask(part(bytes));
        assert!(matches!(told, Err(TxError::BadPart { .. })), "{told:?}");
    };
    refused(&mut rig, &old.parts[1]);
    refused(&mut rig, &Bytes::from_static(b"nonsense"));
    assert!(!rig.machine.is_being_restored());
    rig.ask(part(&old.parts[0])).expect("it is the first");
    refused(&mut rig, &old.parts[2]);
    let other = Rig::new(OLD);
    let other: Vec<Bytes> = other.machine.begin_backup().collect();
    refused(&mut rig, &other[0]);
    for bytes in &old.parts[1..] {
        rig.ask(part(bytes)).expect("it is the next");
    }
    assert!(!rig.machine.is_being_restored());
    assert!(matches!(rig.ask(part(&other[0])), Err(TxError::NotNew { .. })));
    // Without its end nothing else begins.
    let mut rig = new();
    for bytes in &old.parts[..old.parts.len() - 1] {
        rig.ask(part(bytes)).expect("it is the next");
    }
    assert_eq!(
        rig.ask(operate(old.open, OperatorAct::Rollback)),
        Err(TxError::BeingRestored)
    );
}

#[test]
fn no_byte_of_a_part_makes_a_replica_panic() {
    let mut rig = Rig::new(OLD);
    let tid = rig.begin();
    rig.register(tid, BranchType::At, "t:1").expect("free");
    rig.decide(tid, Decision::Rollback).expect("it was open");
    let gone = rig.begin();
    rig.decide(gone, Decision::Commit).expect("it was open");
    rig.operate(tid, OperatorAct::StopRetry).expect("it is decided");
    let parts: Vec<Bytes> = rig.machine.begin_backup().collect();
    let [good] = parts.as_slice() else {
        panic!("{} parts", parts.len())
    };
    for at in 0..good.len() {
        let cut = good.slice(..at);
        let mut rig = new();
        let is_taken = rig.ask(part(&cut)).is_ok();
        assert!(
            !is_taken || rig.machine.is_being_restored(),
            "cut at {at} it is not whole"
        );
        for bit in [0x01, 0x80] {
            let mut wrong = good.to_vec();
            wrong[at] ^= bit;
            let mut rig = new();
            if rig.ask(part(&wrong.into())).is_ok() {
                rig.machine.check_invariants();
            }
        }
    }
}

#[test]
fn whoever_leads_drives_what_was_restored() {
    let old = old();
    let mut rig = new();
    let mut driver = Driver::new(DriverConfig::default(), 1);
    driver.lead(1, &rig.machine);
    for bytes in &old.parts {
        rig.ask(part(bytes)).expect("it is the next");
    }
    let has_told = rig.effects.iter().any(|effect| matches!(effect, TxEffect::Restored));
    assert!(has_told, "the last part tells it");
    driver.resign();
    driver.lead(1, &rig.machine);
    let deadline = rig.machine.global(old.open).expect("open").deadline();
    assert!(driver.next_due().is_some_and(|due| due <= deadline));
}
