//! What is kept for how long: outcomes and the answers to requests.

mod rig;

use rig::{Rig, begin, decide, load, register};
use settle_base::GroupTime;
use settle_machine::{EntryMeta, StateMachine};
use settle_tx::{
    BranchStatus, BranchType, Decision, GlobalStatus, MachineConfig, Outcome, OwnedCommand, OwnedCommandBody, Reply,
    ReqId, Tid, TxEffect, TxError, encode_batch,
};

const HOUR_MS: u64 = 3_600_000;
/// Sequences in one chunk of the outcome table.
const CHUNK: u64 = 4_096;

/// Begins and commits so many empty transactions, many to an entry.
fn commit_many(rig: &mut Rig, count: u64) {
    let first = rig.machine.stats().begun_total + 1;
    for start in (first..first + count).step_by(512) {
        let commands: Vec<_> = (start..(start + 512).min(first + count))
            .flat_map(|seq| [begin(1), decide(Tid::new(1, seq), Decision::Commit)])
            .map(|body| {
                rig.seq += 1;
                OwnedCommand {
                    req: ReqId {
                        origin: 2,
                        seq: rig.seq,
                    },
                    settled_below: rig.seq,
                    body,
                }
            })
            .collect();
        rig.apply(&commands);
    }
}

#[test]
fn an_outcome_is_told_for_the_whole_retention_time_and_then_named_as_forgotten() {
    let config = MachineConfig {
        outcome_retention_ms: HOUR_MS,
        ..MachineConfig::new(1)
    };
    let mut rig = Rig::new(config);
    let tid = rig.begin();
    rig.decide(tid, Decision::Rollback).expect("it is decided once");
    rig.time.0 += HOUR_MS;
    assert_eq!(
        rig.decide(tid, Decision::Commit),
        Ok(Reply::Decided {
            status: GlobalStatus::Rollbacked
        })
    );
    rig.time.0 += 60_000;
    assert_eq!(rig.decide(tid, Decision::Commit), Err(TxError::OutcomeEvicted { tid }));
    assert_eq!(rig.machine.outcome(tid).commit_answer(), Some(GlobalStatus::Finished));
    assert_eq!(rig.machine.outcome(Tid::new(1, 99)), Outcome::Unknown);
    rig.machine.check_invariants();
}

#[test]
fn when_outcomes_take_too_much_room_the_oldest_go_first() {
    let config = MachineConfig {
        outcome_bytes_max: 2 * (CHUNK + 96),
        ..MachineConfig::new(1)
    };
    let mut rig = Rig::new(config);
    for _ in 0..3 {
        commit_many(&mut rig, CHUNK);
        rig.time.0 += 60_000;
    }
    commit_many(&mut rig, 1);
    let outcome = |seq| rig.machine.outcome(Tid::new(1, seq));
    assert_eq!(outcome(1), Outcome::Evicted);
    assert_eq!(
        outcome(CHUNK + 1),
        Outcome::Evicted,
        "the third chunk and the fourth's first are kept"
    );
    assert_eq!(outcome(2 * CHUNK), Outcome::Ended(GlobalStatus::Committed));
    assert_eq!(outcome(3 * CHUNK + 1), Outcome::Ended(GlobalStatus::Committed));
    assert!(rig.machine.stats().outcome_bytes <= config.outcome_bytes_max);
    rig.machine.check_invariants();
}

#[test]
fn a_transaction_that_outlives_the_outcomes_of_its_time_still_has_one() {
    let config = MachineConfig {
        outcome_retention_ms: HOUR_MS,
        ..MachineConfig::new(1)
    };
    let mut rig = Rig::new(config);
    let old = rig.begin();
    commit_many(&mut rig, 10);
    rig.time.0 += 2 * HOUR_MS;
    assert!(matches!(
        rig.decide(old, Decision::Commit),
        Ok(Reply::Decided {
            status: GlobalStatus::Committed
        })
    ));
    assert_eq!(rig.machine.outcome(old), Outcome::Ended(GlobalStatus::Committed));
    assert_eq!(
        rig.machine.outcome(Tid::new(1, 5)),
        Outcome::Evicted,
        "it was begun, so it is not unknown"
    );
    rig.machine.check_invariants();
}

#[test]
fn the_outcomes_of_a_snapshot_are_those_of_its_entry_and_its_hash_depends_on_them() {
    let mut rig = Rig::new(MachineConfig::new(1));
    commit_many(&mut rig, 5_000);
    let (hash, chunks) = (rig.machine.state_hash(), rig.machine.begin_snapshot());
    commit_many(&mut rig, 5_000);
    assert_ne!(rig.machine.state_hash(), hash);
    let bytes: Vec<u8> = chunks.flat_map(|chunk| chunk.to_vec()).collect();
    let copy = load(*rig.machine.config(), &bytes, 1_000).expect("it is a snapshot");
    assert_eq!(copy.state_hash(), hash);
    assert_eq!(
        copy.outcome(Tid::new(1, 5_000)),
        Outcome::Ended(GlobalStatus::Committed)
    );
    assert_eq!(copy.outcome(Tid::new(1, 5_001)), Outcome::Unknown);
    let flipped = bytes
        .iter()
        .rposition(|byte| *byte == GlobalStatus::Committed.as_u8())
        .expect("there are outcomes");
    let mut bytes = bytes;
    bytes[flipped] = GlobalStatus::Rollbacked.as_u8();
    assert_ne!(
        load(*rig.machine.config(), &bytes, 1_000)
            .expect("it is a snapshot")
            .state_hash(),
        hash
    );
}

fn ask_as(rig: &mut Rig, origin: u64, seq: u64, settled_below: u64) -> Result<Reply, TxError> {
    rig.apply(&[OwnedCommand {
        req: ReqId { origin, seq },
        settled_below,
        body: begin(1),
    }]);
    match rig.effects.last() {
        Some(TxEffect::Reply { result, .. }) => result.clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_late_copy_of_a_settled_request_is_not_done_again() {
    let mut rig = Rig::new(MachineConfig::new(1));
    for seq in [5, 6] {
        ask_as(&mut rig, 9, seq, 0).expect("it is new");
    }
    ask_as(&mut rig, 9, 7, 7).expect("it is new");
    assert_eq!(ask_as(&mut rig, 9, 5, 0), Err(TxError::RequestExpired));
    assert_eq!(rig.machine.open_count(), 3);
    assert_eq!(rig.machine.stats().dedup_results, 1, "settled results are forgotten");
}

#[test]
fn results_are_bounded_per_origin_and_what_falls_out_is_not_done_again() {
    let mut rig = Rig::new(MachineConfig::new(1));
    for start in (0..=65_536u64).step_by(4_096) {
        let commands: Vec<_> = (start..(start + 4_096).min(65_537))
            .map(|seq| {
                let body = decide(Tid::new(1, 1), Decision::Commit);
                OwnedCommand {
                    req: ReqId { origin: 9, seq },
                    settled_below: 0,
                    body,
                }
            })
            .collect();
        rig.apply(&commands);
    }
    assert_eq!(rig.machine.stats().dedup_results, 65_536);
    assert_eq!(ask_as(&mut rig, 9, 0, 0), Err(TxError::RequestExpired));
    assert_eq!(
        ask_as(&mut rig, 9, 1, 0),
        Err(TxError::UnknownXid { tid: Tid::new(1, 1) }),
        "kept"
    );
    assert_eq!(rig.machine.open_count(), 0);
}

#[test]
fn a_young_origin_is_never_forgotten_and_a_new_one_waits_until_one_is_an_hour_old() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let mut first = Vec::new();
    for origin in 0..256 {
        first.push(ask_as(&mut rig, origin, 1, 0));
    }
    rig.time.0 += HOUR_MS;
    let open = rig.machine.open_count();
    assert_eq!(ask_as(&mut rig, 256, 1, 0), Err(TxError::RequestExpired));
    assert_eq!(ask_as(&mut rig, 0, 1, 0), first[0], "nobody was forgotten for it");
    assert_eq!(rig.machine.open_count(), open);
    rig.time.0 += 1;
    ask_as(&mut rig, 256, 1, 0).expect("origin 1 was silent for more than an hour");
    assert_eq!(ask_as(&mut rig, 0, 1, 0), first[0], "origin 0 spoke in this hour");
    ask_as(&mut rig, 1, 1, 0).expect("origin 1 was forgotten, so this is new");
    assert_eq!(rig.machine.open_count(), open + 2);
    let copy = load(MachineConfig::new(1), &rig.snapshot(), 4_096).expect("it is a snapshot");
    assert_eq!(copy.state_hash(), rig.machine.state_hash());
}

#[test]
fn the_bytes_of_open_branches_are_bounded_and_given_back() {
    let config = MachineConfig {
        branch_bytes_max: 1_000,
        ..MachineConfig::new(1)
    };
    let mut rig = Rig::new(config);
    let (tid, other) = (rig.begin(), rig.begin());
    let data = "x".repeat(400);
    let Ok(Reply::Branch { branch }) = rig.ask(register(tid, BranchType::At, "t:1", &data)) else {
        panic!("there is room for one")
    };
    let full = |tid| Err(TxError::BranchSpaceFull { tid, limit: 1_000 });
    assert_eq!(rig.ask(register(other, BranchType::Tcc, "", &data)), full(other));
    let locked = register(other, BranchType::At, &format!("t:{data}"), "");
    assert_eq!(rig.ask(locked), full(other));
    let report = |data: &str| OwnedCommandBody::ReportBranch {
        tid,
        branch,
        status: BranchStatus::PhaseOneDone,
        application_data: Some(data.to_owned()),
        by: None,
    };
    assert_eq!(rig.ask(report(&data.repeat(3))), full(tid));
    let found = rig
        .machine
        .global(tid)
        .and_then(|global| global.branch(branch))
        .expect("it is open");
    assert_eq!(found.status, BranchStatus::Registered, "a refusal changes nothing");
    rig.ask(report("x")).expect("less is always taken");
    rig.ask(register(other, BranchType::Tcc, "", &data))
        .expect("there is room now");
    rig.machine.check_invariants();
    let copy = load(config, &rig.snapshot(), 64).expect("it is a snapshot");
    assert_eq!(copy.stats(), rig.machine.stats());
    for tid in [tid, other] {
        rig.decide(tid, Decision::Commit).expect("it is decided once");
        let branch = rig.machine.global(tid).expect("it is open").branches()[0].id;
        rig.done(tid, branch, BranchStatus::PhaseTwoCommitted)
            .expect("it is done");
        rig.machine.check_invariants();
    }
    assert_eq!(rig.machine.stats().branch_bytes, 0);
}

#[test]
fn the_row_of_a_conflict_is_cut_at_a_character() {
    let mut rig = Rig::new(MachineConfig::new(1));
    let (tid, other) = (rig.begin(), rig.begin());
    let rows = format!("t:{}", "ü".repeat(400));
    rig.register(tid, BranchType::At, &rows).expect("it is free");
    let Err(TxError::LockConflict { row, .. }) = rig.register(other, BranchType::At, &rows) else {
        panic!("it is locked")
    };
    assert!((254..=256).contains(&row.len()), "{}", row.len());
    assert!(row.starts_with("jdbc:mysql://db/stock^^^t^^^ü"), "{row}");
}

#[test]
fn a_cluster_founded_anew_never_gives_the_ids_of_an_earlier_one() {
    let bases: Vec<u64> = (0..1_000)
        .map(|cluster| MachineConfig::for_cluster(1, cluster).first_sequence)
        .collect();
    for base in &bases {
        assert_eq!(base & 0xffff_ffff, 1);
        assert!((1..(1 << 23) - 1).contains(&(base >> 32)), "{base:x}");
    }
    let mut distinct = bases.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), bases.len());
    assert_eq!(MachineConfig::for_cluster(1, 7), MachineConfig::for_cluster(1, 7));

    let config = MachineConfig::for_cluster(1, 7);
    let mut rig = Rig::new(config);
    let first = config.first_sequence;
    let tid = rig.begin();
    assert_eq!(tid.seq(), first);
    assert_eq!(rig.branch(tid, BranchType::At).seq(), first);
    assert_eq!(
        rig.machine.outcome(Tid::new(1, 1)),
        Outcome::Unknown,
        "another cluster's"
    );
    assert_eq!(rig.machine.outcome(Tid::new(1, first + 1)), Outcome::Unknown);
    let copy = load(MachineConfig::new(1), &rig.snapshot(), 64).expect("it is a snapshot");
    assert_eq!((copy.config(), copy.state_hash()), (&config, rig.machine.state_hash()));
    assert_eq!(rig.machine.stats().begun_total, 1);
}

#[test]
fn ids_carry_past_their_lower_bits_and_outcomes_take_only_the_room_of_those_given() {
    let config = MachineConfig {
        first_sequence: (5 << 32) - 2,
        ..MachineConfig::new(1)
    };
    let mut rig = Rig::new(config);
    for _ in 0..4 {
        let tid = rig.begin();
        rig.decide(tid, Decision::Commit).expect("it is decided once");
    }
    let last = Tid::new(1, (5 << 32) + 1);
    assert_eq!(rig.machine.outcome(last), Outcome::Ended(GlobalStatus::Committed));
    assert!(rig.machine.stats().outcome_bytes < 3 * CHUNK);
    rig.machine.check_invariants();
    let copy = load(config, &rig.snapshot(), 999).expect("it is a snapshot");
    assert_eq!(copy.state_hash(), rig.machine.state_hash());
}

#[test]
fn a_snapshot_whose_times_contradict_each_other_is_refused_and_so_is_an_entry_before_it() {
    let mut rig = Rig::new(MachineConfig::new(1));
    rig.time.0 = 100;
    let tid = rig.begin();
    let mut bytes = rig.snapshot();
    let copy = load(MachineConfig::new(1), &bytes, 64).expect("it is a snapshot");
    // The header's time is the one byte 100 before the sequences 2 and 1; 99 is before the transaction began.
    let at = bytes
        .windows(3)
        .position(|three| three == [100, 2, 1])
        .expect("the header's time");
    bytes[at] = 99;
    let refused = load(MachineConfig::new(1), &bytes, 64)
        .map(drop)
        .expect_err("it cannot be");
    assert!(refused.reason.contains(&tid.to_string()), "{refused}");

    let mut machine = copy;
    for (index, time) in [(1, 100), (2, 99)] {
        let entry = EntryMeta {
            index,
            term: 1,
            time: GroupTime(time),
            version: 1,
        };
        let refused = machine.apply(entry, &encode_batch::<String>(&[]), &mut Vec::new());
        assert!(refused.is_err(), "entry {index} at {time}");
    }
}

#[test]
fn a_snapshot_of_another_group_is_refused_and_the_limits_come_with_the_snapshot() {
    let mut rig = Rig::new(MachineConfig {
        sessions_max: 7,
        ..MachineConfig::new(1)
    });
    let tid = rig.begin();
    rig.branch(tid, BranchType::At);
    let bytes = rig.snapshot();
    assert!(load(MachineConfig::new(2), &bytes, 64).is_err());
    let copy = load(MachineConfig::new(1), &bytes, 64).expect("it is a snapshot");
    assert_eq!(copy.config().sessions_max, 7);
}
