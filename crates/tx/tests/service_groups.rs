//! Moves of service groups: what each step does to a group at each stage, late and repeated ones too; the table in the first
//! group; and what of it is in snapshots and backups.

mod rig;

use std::fmt::Write;

use bytes::Bytes;
use expect_test::expect;
use rig::{Rig, begin, decide, load};
use settle_machine::{EntryMeta, StateMachine};
use settle_tx::{
    ActKind, CommandBody, Decision, MOVE_NAMES_MAX, MachineConfig, Mark, MoveStep, OwnedCommand, OwnedCommandBody,
    Place, Reply, ReqId, SERVICE_GROUPS_MAX, Signed, Stage, TxError, decode_batch, encode_batch,
};

/// The service group of the rig's transactions.
const NAME: &str = "default_tx_group";

fn rig(group: u8) -> Rig {
    Rig::new(MachineConfig::new(group))
}

fn signed() -> Signed<String> {
    Signed {
        operator: "ada".into(),
        reason: "ticket 7".into(),
        at_ms: 1_700_000_000_000,
    }
}

/// All of them are in group 1 by the configuration.
fn move_to(names: &[&str], to: u8) -> OwnedCommandBody {
    CommandBody::MoveServiceGroups {
        names: names.iter().map(|name| (name.to_string(), 1, 0)).collect(),
        to,
        signed: signed(),
    }
}

fn cancel(name: &str) -> OwnedCommandBody {
    CommandBody::CancelMove {
        name: name.into(),
        signed: signed(),
    }
}

fn step(epoch: u64, step: MoveStep) -> OwnedCommandBody {
    CommandBody::StepOfMove {
        names: vec![NAME.into()],
        epoch,
        step,
    }
}

fn finish(epoch: u64, has_moved: bool) -> OwnedCommandBody {
    CommandBody::FinishMove { epoch, has_moved }
}

fn moving(answer: &Result<Reply, TxError>) -> (u64, bool) {
    match answer {
        Ok(Reply::Moving { epoch, acted }) => (*epoch, *acted),
        other => panic!("{other:?}"),
    }
}

fn standing(rig: &Rig) -> Option<(u64, Stage)> {
    rig.machine.mark_of(NAME).map(|mark| (mark.epoch, mark.stage))
}

/// Group 1 told of move 5 to group 2, up to this stage.
fn at(stage: &str) -> Rig {
    let mut rig = rig(1);
    let steps: &[MoveStep] = match stage {
        "untold" => &[],
        "closed" | "closed, one open" => &[MoveStep::Close { from: 1, to: 2 }],
        "drained" => &[MoveStep::Close { from: 1, to: 2 }, MoveStep::Drain],
        "open" => &[MoveStep::Close { from: 1, to: 1 }, MoveStep::Open],
        "reopened" => &[MoveStep::Close { from: 1, to: 2 }, MoveStep::Reopen],
        other => panic!("{other}"),
    };
    if stage == "closed, one open" {
        rig.begin();
    }
    for one in steps {
        rig.ask(step(5, *one)).expect("it can be told");
    }
    rig
}

#[test]
fn every_step_at_every_stage_does_what_the_table_says_and_done_again_changes_nothing() {
    let mut table = String::new();
    for stage in ["untold", "closed", "closed, one open", "drained", "open", "reopened"] {
        for (name, one) in [
            ("close", MoveStep::Close { from: 1, to: 2 }),
            ("drain", MoveStep::Drain),
            ("open", MoveStep::Open),
            ("reopen", MoveStep::Reopen),
        ] {
            let mut told = Vec::new();
            for epoch in [4, 5, 7] {
                let mut rig = at(stage);
                rig.ask(step(epoch, one)).expect("it can be told");
                let after = standing(&rig);
                let again = rig.ask(step(epoch, one));
                assert!(matches!(again, Ok(Reply::Stepped { .. })), "{again:?}");
                assert_eq!(standing(&rig), after, "{stage}: {name} again");
                assert_eq!(
                    rig.machine.may_begin(NAME).is_ok(),
                    after.is_none_or(|(_, stage)| stage == Stage::Open)
                );
                rig.machine.check_invariants();
                told.push(after.map_or("untold".to_owned(), |(epoch, stage)| format!("{stage:?}({epoch})")));
            }
            writeln!(table, "{stage}: {name} of 4, 5, 7: {}", told.join(", ")).expect("a string takes it");
        }
    }
    expect![[r#"
        untold: close of 4, 5, 7: Closed(4), Closed(5), Closed(7)
        untold: drain of 4, 5, 7: untold, untold, untold
        untold: open of 4, 5, 7: Open(4), Open(5), Open(7)
        untold: reopen of 4, 5, 7: Open(5), Open(6), Open(8)
        closed: close of 4, 5, 7: Closed(5), Closed(5), Closed(7)
        closed: drain of 4, 5, 7: Closed(5), Drained(5), Closed(5)
        closed: open of 4, 5, 7: Closed(5), Open(5), Open(7)
        closed: reopen of 4, 5, 7: Closed(5), Open(6), Open(8)
        closed, one open: close of 4, 5, 7: Closed(5), Closed(5), Closed(7)
        closed, one open: drain of 4, 5, 7: Closed(5), Closed(5), Closed(5)
        closed, one open: open of 4, 5, 7: Closed(5), Open(5), Open(7)
        closed, one open: reopen of 4, 5, 7: Closed(5), Open(6), Open(8)
        drained: close of 4, 5, 7: Drained(5), Drained(5), Closed(7)
        drained: drain of 4, 5, 7: Drained(5), Drained(5), Drained(5)
        drained: open of 4, 5, 7: Drained(5), Drained(5), Open(7)
        drained: reopen of 4, 5, 7: Drained(5), Drained(5), Open(8)
        open: close of 4, 5, 7: Open(5), Open(5), Closed(7)
        open: drain of 4, 5, 7: Open(5), Open(5), Open(5)
        open: open of 4, 5, 7: Open(5), Open(5), Open(7)
        open: reopen of 4, 5, 7: Open(5), Open(6), Open(8)
        reopened: close of 4, 5, 7: Open(6), Open(6), Closed(7)
        reopened: drain of 4, 5, 7: Open(6), Open(6), Open(6)
        reopened: open of 4, 5, 7: Open(6), Open(6), Open(7)
        reopened: reopen of 4, 5, 7: Open(6), Open(6), Open(8)
    "#]]
    .assert_eq(&table);
}

#[test]
fn a_service_group_is_drained_when_its_last_transaction_has_ended_and_no_other_counts() {
    let mut rig = rig(1);
    let (first, second) = (rig.begin(), rig.begin());
    rig.ask(CommandBody::Begin {
        xid_prefix: "10.0.0.1:8091".into(),
        application: "orders".into(),
        service_group: "another".into(),
        name: "purchase".into(),
        timeout_ms: 60_000,
    })
    .expect("it is not moved");
    rig.ask(step(1, MoveStep::Close { from: 1, to: 2 }))
        .expect("it can be told");
    let refused = rig.ask(begin(60_000));
    assert!(
        matches!(refused, Err(TxError::ServiceGroupClosed { epoch: 1, to: 2, .. })),
        "{refused:?}"
    );
    // What is open goes on.
    let branch = rig.branch(first, settle_tx::BranchType::Tcc);
    for left in [2, 2, 1, 0] {
        let answer = rig.ask(step(1, MoveStep::Drain));
        let stage = if left == 0 { Stage::Drained } else { Stage::Closed };
        assert_eq!(
            answer,
            Ok(Reply::Stepped {
                stage: Some(stage),
                left
            })
        );
        assert_eq!(rig.machine.knows_locks_of(NAME).is_ok(), left > 0);
        match left {
            2 if rig.machine.global(first).expect("it is open").decided_at().is_none() => {
                // Decided is not ended: a branch is still to be called.
                rig.decide(first, Decision::Commit).expect("it is open");
            }
            2 => drop(rig.done(first, branch, settle_tx::BranchStatus::PhaseTwoCommitted)),
            1 => drop(rig.decide(second, Decision::Rollback)),
            _ => {}
        }
    }
    rig.machine.check_invariants();
}

#[test]
fn a_begin_that_comes_again_after_the_close_gets_its_first_answer() {
    let mut rig = rig(1);
    let command = OwnedCommand {
        req: ReqId { origin: 9, seq: 1 },
        settled_below: 1,
        body: begin(60_000),
    };
    rig.apply(std::slice::from_ref(&command));
    let first = rig.effects.last().cloned();
    rig.ask(step(1, MoveStep::Close { from: 1, to: 2 }))
        .expect("it can be told");
    rig.apply(&[command]);
    assert_eq!(rig.effects.last().cloned(), first);
    assert_eq!(rig.machine.open_count(), 1);
}

#[test]
fn the_table_follows_moves_to_their_end_and_back() {
    let mut first = rig(1);
    assert_eq!(moving(&first.ask(move_to(&["a", "b"], 2))), (1, true));
    assert_eq!(
        moving(&first.ask(move_to(&["a", "b"], 2))),
        (1, false),
        "it is asked again"
    );
    for (names, to) in [(&["a"][..], 2), (&["b", "c"], 3), (&["a", "b"], 3)] {
        let refused = first.ask(move_to(names, to));
        assert!(
            matches!(refused, Err(TxError::ServiceGroupMoving { .. })),
            "{refused:?}"
        );
    }
    let at_first = Place {
        group: 1,
        epoch: 0,
        moving: Some(1),
    };
    assert_eq!(first.machine.place_of("a"), Some(&at_first));
    first
        .ask(finish(1, false))
        .expect("it changes nothing: nobody cancelled it");
    assert_eq!(first.machine.place_of("a"), Some(&at_first));
    first.ask(finish(1, true)).expect("it moved");
    let there = Place {
        group: 2,
        epoch: 1,
        moving: None,
    };
    assert_eq!(first.machine.place_of("a"), Some(&there));
    assert_eq!(first.machine.place_of("b"), Some(&there));
    // Nothing is left to do, and what is apart does not move together.
    assert!(!moving(&first.ask(move_to(&["a", "b"], 2))).1);
    let refused = first.ask(move_to(&["a", "c"], 3));
    assert!(
        matches!(
            refused,
            Err(TxError::ServiceGroupsApart {
                group: 1,
                first_group: 2,
                ..
            })
        ),
        "{refused:?}"
    );
    // Back, and taken back on the way.
    assert_eq!(moving(&first.ask(move_to(&["a"], 1))), (3, true));
    first.ask(finish(1, true)).expect("late, and nothing");
    assert_eq!(moving(&first.ask(cancel("a"))), (3, true));
    assert_eq!(moving(&first.ask(cancel("a"))), (3, false));
    first.ask(finish(3, false)).expect("it was taken back");
    assert_eq!(
        first.machine.place_of("a"),
        Some(&Place {
            group: 2,
            epoch: 4,
            moving: None
        })
    );
    let refused = first.ask(cancel("a"));
    assert!(matches!(refused, Err(TxError::NotMoving { .. })), "{refused:?}");
    let acts: Vec<_> = first
        .machine
        .audit()
        .map(|record| (record.act, record.tid, &*record.subject))
        .collect();
    assert_eq!(
        acts,
        [
            (ActKind::MoveServiceGroups, None, "1 -> 2: 2 service groups: a, b"),
            (ActKind::MoveServiceGroups, None, "2 -> 1: a"),
            (ActKind::CancelMove, None, "2 -> 1: a"),
        ]
    );
    first.machine.check_invariants();
}

#[test]
fn whichever_of_drain_and_cancellation_is_first_stands() {
    for is_drained in [true, false] {
        let mut old = at("closed");
        let (one, two) = match is_drained {
            true => (MoveStep::Drain, MoveStep::Reopen),
            false => (MoveStep::Reopen, MoveStep::Drain),
        };
        let first = old.ask(step(5, one));
        let stood = standing(&old);
        old.ask(step(5, two)).expect("it is told how it stands");
        assert_eq!(standing(&old), stood, "{first:?}");
        let expected = if is_drained {
            (5, Stage::Drained)
        } else {
            (6, Stage::Open)
        };
        assert_eq!(stood, Some(expected));
    }
}

#[test]
fn the_new_group_tells_no_locks_before_it_is_open() {
    let mut new = rig(2);
    assert!(new.machine.knows_locks_of(NAME).is_ok());
    new.ask(step(5, MoveStep::Close { from: 1, to: 2 }))
        .expect("it can be told");
    assert!(new.machine.knows_locks_of(NAME).is_err());
    new.ask(step(5, MoveStep::Open)).expect("it can be told");
    assert!(new.machine.knows_locks_of(NAME).is_ok());
}

#[test]
fn names_are_bounded_and_a_lower_cluster_version_knows_no_moves() {
    let mut first = rig(1);
    let names: Vec<String> = (0..=SERVICE_GROUPS_MAX).map(|n| format!("name {n:05}")).collect();
    let mut chunks = names.chunks(MOVE_NAMES_MAX);
    for chunk in chunks.by_ref().take(SERVICE_GROUPS_MAX / MOVE_NAMES_MAX) {
        let chunk: Vec<&str> = chunk.iter().map(|name| &**name).collect();
        assert!(moving(&first.ask(move_to(&chunk, 2))).1);
    }
    let refused = first.ask(move_to(&["one more"], 2));
    assert!(
        matches!(refused, Err(TxError::TooManyServiceGroups { .. })),
        "{refused:?}"
    );
    first.machine.check_invariants();

    for body in [
        move_to(&["a"], 2),
        cancel("a"),
        finish(1, true),
        step(1, MoveStep::Drain),
    ] {
        let command = OwnedCommand {
            req: ReqId { origin: 1, seq: 1 },
            settled_below: 1,
            body,
        };
        let bytes = encode_batch(&[command]);
        assert_eq!(bytes[0], 3, "a build of version 4 does not take it for something else");
        let mut old = bytes.to_vec();
        old[0] = 2;
        assert!(decode_batch(&old).is_err());
        let mut machine = rig(1).machine;
        let entry = EntryMeta {
            index: 1,
            term: 1,
            time: settle_base::GroupTime(1),
            version: 4,
        };
        let mut effects = Vec::new();
        machine.apply(entry, &bytes, &mut effects).expect("it can be read");
        let refused = matches!(
            &effects[..],
            [settle_tx::TxEffect::Reply {
                result: Err(TxError::VersionTooLow { .. }),
                ..
            }]
        );
        assert!(refused, "{effects:?}");
    }
}

#[test]
fn commands_that_name_nothing_too_much_or_in_disorder_cannot_be_read() {
    let long = "x".repeat(settle_tx::SERVICE_GROUP_BYTES_MAX + 1);
    let many: Vec<String> = (0..=MOVE_NAMES_MAX).map(|n| format!("{n:03}")).collect();
    let many: Vec<&str> = many.iter().map(|name| &**name).collect();
    for names in [&[][..], &[""], &["b", "a"], &["a", "a"], &[&*long], &many] {
        let command = OwnedCommand {
            req: ReqId { origin: 1, seq: 1 },
            settled_below: 1,
            body: move_to(names, 2),
        };
        assert!(decode_batch(&encode_batch(&[command])).is_err(), "{names:?}");
    }
}

#[test]
fn a_snapshot_carries_moves_and_without_any_is_that_of_the_version_before() {
    let mut first = rig(1);
    first.begin();
    assert_eq!(first.snapshot()[9], 4, "a build of version 4 reads it");
    first.ask(move_to(&["a", NAME], 2)).expect("nothing speaks against it");
    first
        .ask(step(1, MoveStep::Close { from: 1, to: 2 }))
        .expect("it can be told");
    let bytes = first.snapshot();
    assert_eq!(bytes[9], 5);
    let loaded = load(MachineConfig::new(1), &bytes, 7).expect("it is a snapshot");
    assert_eq!(loaded.state_hash(), first.machine.state_hash());
    assert!(loaded.moves().eq(first.machine.moves()) && loaded.places().eq(first.machine.places()));
    assert!(loaded.may_begin(NAME).is_err());
    loaded.check_invariants();
    let before = first.machine.state_hash();
    first.ask(cancel("a")).expect("it can be taken back");
    let taken_back = first.machine.state_hash();
    assert_ne!(before, taken_back);
}

fn restored(parts: &[Bytes], group: u8) -> Rig {
    let mut new = rig(group);
    for part in parts {
        new.ask(CommandBody::Restore { part: part.clone() })
            .expect("it is the next");
    }
    new
}

/// Whatever the moments of the backups: what the table names is closed everywhere before it begins again, by epochs above
/// all that the old cluster has given.
#[test]
fn a_restored_first_group_moves_every_name_to_where_it_is() {
    let mut old = rig(1);
    old.ask(move_to(&[NAME], 2)).expect("nothing speaks against it");
    old.ask(finish(1, true)).expect("it moved");
    old.ask(move_to(&["a"], 3)).expect("nothing speaks against it");
    let parts: Vec<Bytes> = old.machine.begin_backup().collect();
    let new = restored(&parts, 1);
    let moves: Vec<_> = new.machine.moves().map(|m| (m.names.clone(), m.from, m.to)).collect();
    assert_eq!(moves, [(vec!["a".into()], 1, 1), (vec![NAME.into()], 2, 2)]);
    assert!(new.machine.moves().all(|a_move| a_move.epoch > 1 << 32));
    new.machine.check_invariants();
    let mut new = new;
    let refused = new.ask(cancel(NAME));
    assert!(matches!(refused, Err(TxError::NotCancellable { .. })), "{refused:?}");
    let snapshot = new.snapshot();
    let loaded = load(MachineConfig::new(1), &snapshot, 100).expect("it is a snapshot");
    assert_eq!(loaded.state_hash(), new.machine.state_hash());
}

/// A backup whose table fills a part, so that its end comes in another one.
#[test]
fn the_table_of_a_backup_is_trusted_at_no_moment() {
    let mut old = rig(1);
    for n in 0..MOVE_NAMES_MAX * 5 {
        let name = format!("{n:04}{}", "x".repeat(1_000));
        old.ask(move_to(&[&name], 2)).expect("nothing speaks against it");
        old.ask(finish(2 * n as u64 + 1, true)).expect("it moved");
    }
    let parts: Vec<Bytes> = old.machine.begin_backup().collect();
    let (last, before) = parts.split_last().expect("there are parts");
    let mut new = restored(before, 1);
    assert!(new.machine.is_being_restored());
    let is_repaired = |rig: &Rig| {
        rig.machine
            .places()
            .all(|(name, _)| rig.machine.repair_of(name).is_some())
    };
    assert_eq!(new.machine.places().count(), 5 * MOVE_NAMES_MAX);
    assert!(is_repaired(&new));
    let snapshot = new.snapshot();
    let loaded = load(MachineConfig::new(1), &snapshot, 1_000).expect("it is a snapshot");
    assert_eq!(loaded.state_hash(), new.machine.state_hash());
    new.ask(CommandBody::Restore { part: last.clone() })
        .expect("it is the end");
    assert!(is_repaired(&new) && !new.machine.is_being_restored());
    assert_eq!(new.machine.moves().count(), 5);
    new.machine.check_invariants();
}

/// A mark that another cluster gave is so never taken for one of a move under way, by whichever server began that.
#[test]
fn no_two_clusters_count_the_same_epochs_although_one_has_backups_of_the_other() {
    let first_epoch = |rig: &mut Rig| moving(&rig.ask(move_to(&[NAME], 2))).0;
    let of_cluster = |cluster| Rig::new(MachineConfig::for_cluster(1, cluster));
    let mut old = of_cluster(7);
    old.begin();
    let without_table: Vec<Bytes> = old.machine.begin_backup().collect();
    let given = first_epoch(&mut old);
    let of_old = given..given + (1 << 28);
    let with_table: Vec<Bytes> = old.machine.begin_backup().collect();
    for cluster in 8..40 {
        let founded = first_epoch(&mut of_cluster(cluster));
        assert!(!of_old.contains(&founded), "{founded} is of {of_old:?}");
        for parts in [&without_table, &with_table] {
            let mut new = of_cluster(cluster);
            for part in parts {
                new.ask(CommandBody::Restore { part: part.clone() })
                    .expect("it is the next");
            }
            let name = "another";
            let epoch = moving(&new.ask(move_to(&[name], 2))).0;
            assert!(epoch > of_old.end, "{epoch} is of {of_old:?}");
            new.machine.check_invariants();
        }
    }
}

#[test]
fn a_backup_brings_no_epoch_that_leaves_none_above_it() {
    let mut old = rig(2);
    let close = MoveStep::Close { from: 1, to: 2 };
    old.ask(step((1 << 61) - 1, close)).expect("it can be told");
    let parts: Vec<Bytes> = old.machine.begin_backup().collect();
    assert!(restored(&parts, 2).machine.mark_of(NAME).is_some());
    old.ask(step(1 << 61, close)).expect("it can be told");
    let parts: Vec<Bytes> = old.machine.begin_backup().collect();
    let refused = rig(2).ask(CommandBody::Restore { part: parts[0].clone() });
    assert!(matches!(refused, Err(TxError::BadPart { .. })), "{refused:?}");
}

#[test]
fn marks_of_a_later_backup_are_not_accounted_for_and_a_repair_goes_above_them() {
    let mut old = rig(2);
    old.ask(step(9, MoveStep::Close { from: 1, to: 2 }))
        .expect("it can be told");
    old.ask(step(9, MoveStep::Open)).expect("it can be told");
    old.begin();
    let parts: Vec<Bytes> = old.machine.begin_backup().collect();
    let second = restored(&parts, 2);
    let mark = Mark {
        epoch: 9,
        stage: Stage::Open,
        from: 2,
        to: 2,
    };
    assert_eq!(second.machine.mark_of(NAME), Some(&mark));
    let mut first = rig(1);
    assert!(!Place::accounts_for(first.machine.place_of(NAME), mark.epoch));
    let repair = || CommandBody::MoveServiceGroups {
        names: vec![(NAME.into(), 1, mark.epoch)],
        to: 1,
        signed: signed(),
    };
    assert_eq!(moving(&first.ask(repair())), (10, true));
    assert_eq!(moving(&first.ask(repair())), (10, false), "the same once more");
    // Until it has ended nobody knows of the mark: an ordinary move that was begun by who had not seen it is no answer either.
    assert!(!Place::accounts_for(first.machine.place_of(NAME), mark.epoch));
    // A group that was told of moves takes no backup any more.
    first
        .ask(step(10, MoveStep::Close { from: 1, to: 1 }))
        .expect("it can be told");
    let mut third = rig(2);
    third
        .ask(step(10, MoveStep::Close { from: 1, to: 1 }))
        .expect("it can be told");
    let refused = third.ask(CommandBody::Restore { part: parts[0].clone() });
    assert_eq!(refused, Err(TxError::ToldOfMoves));
}

#[test]
fn ends_of_service_groups_are_counted_whatever_ends_the_transaction() {
    let mut rig = rig(1);
    let (one, two) = (rig.begin(), rig.begin());
    assert_eq!(rig.machine.open_of([NAME]), 2);
    rig.ask(decide(one, Decision::Timeout)).expect("it is open");
    assert_eq!(rig.machine.open_of([NAME]), 1);
    rig.ask(decide(two, Decision::Commit)).expect("it is open");
    assert_eq!(rig.machine.open_of([NAME]), 0);
    rig.machine.check_invariants();
}

#[test]
fn a_group_that_was_left_before_answers_for_no_locks_when_a_later_move_closes_it() {
    let mut left = rig(1);
    left.ask(step(1, MoveStep::Close { from: 1, to: 2 }))
        .expect("it can be told");
    left.ask(step(1, MoveStep::Drain)).expect("it can be told");
    // The next move is from 2 to 3, and group 1 is told of it too.
    left.ask(step(3, MoveStep::Close { from: 2, to: 3 }))
        .expect("it can be told");
    assert!(
        left.machine.knows_locks_of(NAME).is_err(),
        "{:?}",
        left.machine.mark_of(NAME)
    );
    // Of one that nobody knows the place of, nobody knows the locks.
    let mut unknown = rig(1);
    unknown
        .ask(step(1, MoveStep::Close { from: 1, to: 1 }))
        .expect("it can be told");
    assert!(unknown.machine.knows_locks_of(NAME).is_err());
}

#[test]
fn a_repair_is_judged_by_the_table_as_it_is_and_another_one_takes_its_place() {
    let asks = |to, above| CommandBody::MoveServiceGroups {
        names: vec![(NAME.into(), 1, above)],
        to,
        signed: signed(),
    };
    let mut first = rig(1);
    first.ask(move_to(&[NAME], 2)).expect("nothing speaks against it");
    first.ask(finish(1, true)).expect("it moved");
    // The asked server's replica of the table lagged, and this one knows of move 1.
    assert_eq!(moving(&first.ask(asks(2, 1))), (2, false));
    assert_eq!(moving(&first.ask(asks(1, 1))), (3, true));
    assert!(first.machine.moves().all(|a_move| !a_move.is_repair));
    first.ask(cancel(NAME)).expect("it is no repair");
    first.ask(finish(3, false)).expect("it was taken back");
    assert_eq!(moving(&first.ask(asks(9, 7))), (8, true));
    assert!(first.machine.repair_of(NAME).is_some());
    // Group 9 is not there: it goes elsewhere.
    assert_eq!(moving(&first.ask(asks(2, 8))), (10, true));
    assert_eq!(first.machine.moves().count(), 1);
    // And above what another cluster has given.
    for _ in 0..2 {
        let body = CommandBody::RaiseMove { epoch: 10, above: 30 };
        first.ask(body).expect("once is enough");
        let epochs: Vec<_> = first
            .machine
            .moves()
            .map(|a_move| (a_move.epoch, a_move.is_repair))
            .collect();
        assert_eq!(epochs, [(31, true)]);
    }
    first.machine.check_invariants();
}
