//! Random logs with random damage in their middle, against a model that remembers every state that each group was in.

mod support;

use std::collections::BTreeMap;

use bytes::Bytes;
use settle_base::{GroupId, Prng};
use settle_storage::{DiskRead, FileName, MemDisk};
use settle_wal::{Record, RecoveredGroup, Wal};
use support::{Model, ModelGroup, create, entries, hard_state, is_damaged, open, segments, snapshot, store};

/// Every state of every group, the last one last.
type History = BTreeMap<GroupId, Vec<ModelGroup>>;

fn write(prng: &mut Prng, disk: &MemDisk, history: &mut History, model: &mut Model, serial: &mut u64) {
    let (mut wal, _) = open(disk).expect("undamaged");
    for _ in 0..prng.between(20, 120) {
        let records = model.draw(prng, serial);
        // A group that was destroyed never comes back under its id.
        if records
            .iter()
            .any(|r| matches!(r, Record::Destroy { .. } | Record::Healed { .. }))
        {
            continue;
        }
        store(&mut wal, disk, &records);
        model.apply(&records);
        for (group, state) in &model.groups {
            history.entry(*group).or_default().push(state.clone());
        }
        if prng.percent(20) {
            wal.purge(&mut disk.clone());
        }
        support::poll(&mut wal, disk).expect("the disk is well");
    }
}

/// The recovered log is a part, from its beginning, of a log that the group once had.
fn was_once(found: &RecoveredGroup, history: &[ModelGroup]) -> bool {
    let is_known = |state: &ModelGroup| {
        state
            .snapshot
            .as_ref()
            .is_none_or(|s| found.snapshot.as_ref() != Some(s))
    };
    if found.snapshot.as_ref().is_some_and(|s| s.index > 0) && history.iter().all(is_known) {
        return false;
    }
    history.iter().any(|state| {
        let dead = state.snapshot.as_ref().map_or(0, |s| s.index);
        found
            .entries
            .iter()
            .all(|entry| entry.index <= dead || state.entries.get(&entry.index) == Some(entry))
    })
}

fn damage(prng: &mut Prng, disk: &MemDisk) {
    let all = segments(disk);
    for _ in 0..prng.between(1, 4) {
        let (file, len) = all[prng.below(all.len() as u64) as usize].clone();
        let offset = prng.below(len);
        match prng.below(4) {
            0 => disk.flip_bit(&file, offset, prng.below(8) as u8),
            1 => disk.corrupt_sector(&file, offset, prng),
            2 => disk.lose_write(&file, offset, prng.between(1, 2_000)),
            _ => {
                let (to, to_len) = all[prng.below(all.len() as u64) as usize].clone();
                let at = prng.below(to_len) / 512 * 512;
                disk.misdirect(&file, offset / 512 * 512, 512 * prng.between(1, 4), &to, at);
            }
        }
    }
}

#[test]
fn whatever_is_damaged_every_group_is_what_it_was_at_the_end_or_knows_that_it_may_not_be() {
    let (mut hurt, mut whole, mut refused, mut grew_on) = (0, 0, 0, 0);
    for seed in 0..400 {
        let mut prng = Prng::new(seed);
        let disk = MemDisk::new(seed);
        let (mut history, mut model, mut serial) = (History::new(), Model::default(), 0);
        write(&mut prng, &disk, &mut history, &mut model, &mut serial);
        // A last batch that proves all others.
        let (mut wal, _) = open(&disk).expect("undamaged");
        let known = model.groups.keys().next().expect("there is a group").0;
        for _ in 0..2 {
            store(&mut wal, &disk, &[support::create(known)]);
        }
        drop(wal);
        let end = segments(&disk).pop().expect("a log");
        damage(&mut prng, &disk);
        // The end stays, so that damage is in the middle.
        let Ok((wal, groups)) = open(&disk) else {
            refused += 1;
            continue;
        };
        if wal.recovery().cut.is_some() && segments(&disk).pop().is_none_or(|last| last < end) {
            // The end was hit as well: `damage.rs` and `crashes.rs` are about that.
            continue;
        }
        drop(wal);
        for found in &groups {
            let history = &history[&found.group];
            if is_damaged(found) {
                hurt += 1;
                assert!(was_once(found, history), "seed {seed}: {found:#?} never was");
                continue;
            }
            whole += 1;
            let last = Model::of(std::slice::from_ref(found))
                .groups
                .remove(&found.group)
                .expect("it is there");
            let mut expected = history[history.len() - 1].clone();
            expected.create = last.create.clone();
            assert_eq!(
                last, expected,
                "seed {seed}: {} lost something and does not know",
                found.group
            );
        }
        // And it goes on from there: what is appended now is what a later recovery finds.
        let mut expected = Model::of(&groups);
        let damaged = expected.damaged.clone();
        for life in 0..3 {
            let (mut wal, _) = open(&disk).expect("mended");
            for _ in 0..10 {
                let records = expected.draw(&mut prng, &mut serial);
                let is_common = |r: &Record| {
                    !matches!(
                        r,
                        Record::Destroy { .. } | Record::Healed { .. } | Record::Create { .. }
                    )
                };
                if records.iter().all(is_common) {
                    store(&mut wal, &disk, &records);
                    expected.apply(&records);
                }
            }
            // A power cut, at once or only after the next process has read what this one left.
            if prng.percent(50) {
                disk.kill();
                open(&disk).expect("undamaged since");
            }
            disk.crash(&mut prng);
            let (_, again) = open(&disk).expect("undamaged since");
            let mut found = Model::of(&again);
            for (group, state) in &mut found.groups {
                state.create = expected.groups.get(group).map_or_else(Bytes::new, |g| g.create.clone());
            }
            assert_eq!(found.groups, expected.groups, "seed {seed}, life {life}");
            assert_eq!(found.damaged, damaged, "seed {seed}, life {life}");
        }
        grew_on += 1;
    }
    println!("hurt {hurt}, whole {whole}, refused {refused}, went on {grew_on}");
    assert!(hurt > 100 && whole > 100 && grew_on > 200 && refused < 40);
}

#[test]
fn a_crash_while_mending_invents_nothing_and_forgets_no_doubt() {
    for seed in 0..150 {
        let mut prng = Prng::from_parts(&[seed, 7]);
        let disk = MemDisk::new(seed);
        let (mut history, mut model, mut serial) = (History::new(), Model::default(), 0);
        write(&mut prng, &disk, &mut history, &mut model, &mut serial);
        damage(&mut prng, &disk);
        let Ok((_, expected)) = open(&disk.fork()) else {
            continue;
        };
        for ops in 0..30 {
            let disk = disk.fork();
            disk.die_after(ops);
            let done = open(&disk).is_ok();
            disk.crash(&mut prng);
            let (_, found) = open(&disk).expect("what was half mended is mended now");
            for (found, expected) in found.iter().zip(&expected) {
                let is_same = |a: &RecoveredGroup, b: &RecoveredGroup| {
                    let rest = |g: &RecoveredGroup| (g.snapshot.clone(), g.hard_state, g.destroyed);
                    a.entries == b.entries && rest(a) == rest(b)
                };
                // A torn repair may tear the header that said whose the damaged batch was: then more groups are in doubt.
                let is_doubted = is_damaged(found) && was_once(found, &history[&found.group]);
                assert!(
                    is_same(found, expected) || is_doubted,
                    "seed {seed} ops {ops}: {found:?} not {expected:?}"
                );
                let is_forgotten = is_damaged(expected) && !is_damaged(found);
                assert!(!is_forgotten, "seed {seed} ops {ops}: {}", found.group);
            }
            if done {
                break;
            }
        }
    }
}

fn last_byte(disk: &MemDisk) -> (FileName, u64) {
    let (file, len) = segments(disk).last().expect("there is a log").clone();
    let bytes = disk.clone().read(&file, 0, len as usize).expect("readable");
    let last = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .expect("a segment has a header");
    (file, last as u64)
}

#[test]
fn what_was_kept_behind_damage_is_kept_again_when_older_segments_are_gone() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk).expect("an empty directory");
    store(&mut wal, &disk, &[create(1), snapshot(1, 1, 1, true)]);
    let grow = |wal: &mut Wal, indexes: std::ops::RangeInclusive<u64>| {
        for index in indexes {
            let records = [entries(1, index, 1, 1, &[7; 500]), hard_state(1, 1, 1, index)];
            store(wal, &disk, &records);
        }
    };
    grow(&mut wal, 2..=19);
    store(&mut wal, &disk, &[hard_state(1, 1, 1, 19)]);
    let (file, damaged) = last_byte(&disk);
    store(&mut wal, &disk, &[hard_state(1, 1, 1, 19)]);
    store(&mut wal, &disk, &[hard_state(1, 1, 1, 19)]);
    assert_eq!(last_byte(&disk).0, file, "all in one segment");
    disk.flip_bit(&file, damaged, 0);

    let (mut wal, found) = open(&disk).expect("it can be mended");
    assert!(is_damaged(&found[0]));
    assert_eq!(found[0].entries.len(), 18, "the damage held no entries");
    let (first, _) = segments(&disk)[0].clone();
    store(&mut wal, &disk, &[snapshot(1, 17, 1, false)]);
    grow(&mut wal, 20..=40);
    store(&mut wal, &disk, &[Record::Healed { group: GroupId(1) }]);
    wal.purge(&mut disk.clone());
    store(&mut wal, &disk, &[hard_state(1, 1, 1, 40)]);
    support::poll(&mut wal, &disk).expect("the disk is well");
    let (oldest, _) = segments(&disk)[0].clone();
    assert!(
        oldest > first && oldest <= file,
        "the damaged segment is still there, older ones are not: {oldest}"
    );

    let (_, found) = open(&disk).expect("undamaged");
    let indexes: Vec<_> = found[0].entries.iter().map(|entry| entry.index).collect();
    assert_eq!(indexes, (18..=40).collect::<Vec<_>>());
    assert!(!is_damaged(&found[0]));
}
