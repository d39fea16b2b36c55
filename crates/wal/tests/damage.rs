//! What recovery says of bytes that changed: refused by name when they were acknowledged, recovering when nobody can tell.

mod support;

use bytes::Bytes;
use settle_base::{GroupId, Prng};
use settle_storage::{DiskError, DiskRead, FileName, MemDisk, Op};
use settle_wal::{Damage, LogIdentity, Record, RecoveredGroup, Wal, WalError};
use support::*;

/// One batch's place in the files.
#[derive(Clone, Debug)]
struct Place {
    file: FileName,
    offset: u64,
    len: u64,
    group: GroupId,
}

/// A log of several segments, each append durable before the next: 30 batches of groups 1 to 3 in turn.
fn log() -> (MemDisk, Vec<Place>) {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk).expect("an empty directory");
    let (mut places, mut files): (Vec<Place>, usize) = (Vec::new(), 0);
    for i in 0..30u64 {
        let (group, before) = (i % 3 + 1, wal.durable());
        let mut records = vec![
            hard_state(group, i + 1, 1, 0),
            entries(group, i / 3 + 1, 1, 1, &[i as u8; 300]),
        ];
        if i < 3 {
            records.insert(0, create(group));
        }
        store(&mut wal, &disk, &records);
        let segments = segments(&disk);
        let file = segments[segments.len() - 1].0.clone();
        let offset = match places.last() {
            Some(last) if segments.len() == files => last.offset + last.len,
            _ => 64,
        };
        files = segments.len();
        let len = wal.durable().0 - before.0;
        places.push(Place {
            file,
            offset,
            len,
            group: GroupId(group),
        });
    }
    assert!(files > 2, "the log has several segments");
    (disk, places)
}

fn damaged(groups: &[RecoveredGroup]) -> Vec<u64> {
    groups.iter().filter(|g| is_damaged(g)).map(|g| g.group.0).collect()
}

/// Names of the copies of damaged segments.
fn evidence(disk: &MemDisk) -> Vec<FileName> {
    let files = disk.clone().list().expect("listable");
    let names = files.into_iter().map(|(name, _)| name);
    names.filter(|name| name.as_str().starts_with("damaged-")).collect()
}

/// What is found of the damaged `disk` is what `whole` says, or less of the groups in `hit`, which know it; and it stays so.
fn check_mended(disk: &MemDisk, whole: &[RecoveredGroup], hit: &[u64], place: &str) -> Vec<u64> {
    let (_, found) = open(disk).unwrap_or_else(|error| panic!("{place}: {error}"));
    assert_eq!(found.len(), whole.len(), "{place}");
    for (found, whole) in found.iter().zip(whole) {
        if is_damaged(found) {
            assert!(hit.contains(&found.group.0), "{place}: {} was not hit", found.group);
            assert!(
                matches!(found.damage, Damage::Middle { .. }),
                "{place}: {:?}",
                found.damage
            );
            assert!(whole.entries.starts_with(&found.entries), "{place}: {}", found.group);
        } else {
            assert_eq!(found, whole, "{place}");
        }
    }
    let (wal, again) = open(disk).expect("it was mended");
    assert_eq!(again, found, "{place}");
    assert_eq!(wal.recovery().damaged, [], "{place}: mended once");
    damaged(&found)
}

#[test]
fn any_flipped_bit_in_an_acknowledged_batch_hurts_the_groups_in_it_and_nobody_else() {
    let (disk, places) = log();
    let (_, whole) = open(&disk.fork()).expect("undamaged");
    let mut prng = Prng::new(1);
    let (last, proven) = places.split_last().expect("there are batches");
    for (i, place) in proven.iter().enumerate() {
        // Every byte of the header, and some of the body.
        let body = (0..20).map(|_| prng.between(64, place.len));
        for at in (0..64).chain(body.collect::<Vec<_>>()) {
            let disk = disk.fork();
            let before = disk.clone().read(&place.file, 0, 1 << 20).expect("readable");
            disk.flip_bit(&place.file, place.offset + at, prng.below(8) as u8);
            // The body's damage leaves the header to tell whose it is. (Group ids 64 apart are not told apart.)
            let hit = if at < 64 { vec![1, 2, 3] } else { whose(place, i) };
            let found = check_mended(&disk, &whole, &hit, &format!("{place:?} byte {at}"));
            // The checkpoint at each segment's head repeats all but the entries, and these were lost with the batch.
            assert!(found.contains(&place.group.0), "{place:?} byte {at}: an entry was lost");
            let kept = evidence(&disk);
            assert_eq!(kept.len(), 1, "{kept:?}");
            let copy = disk.clone().read(&kept[0], 0, 1 << 20).expect("readable");
            let differing = copy.iter().zip(&before[..]).filter(|(a, b)| a != b).count();
            assert_eq!((copy.len(), differing), (before.len(), 1), "the copy is what was there");
        }
    }
    assert!(last.len > 64);
}

/// The groups with records in batch `i`: all of them where a segment begins, since the checkpoint names all.
fn whose(place: &Place, i: usize) -> Vec<u64> {
    if place.offset == 64 && i > 2 {
        return vec![1, 2, 3];
    }
    vec![place.group.0]
}

#[test]
fn a_damaged_segment_header_alone_loses_nothing() {
    let (disk, _) = log();
    let (_, whole) = open(&disk.fork()).expect("undamaged");
    for (file, _) in segments(&disk) {
        for at in 0..64 {
            let disk = disk.fork();
            disk.flip_bit(&file, at, 0);
            assert_eq!(check_mended(&disk, &whole, &[], &format!("{file} byte {at}")), []);
        }
    }
}

#[test]
fn a_missing_segment_hurts_every_group_that_had_entries_there() {
    let (disk, _) = log();
    let (_, whole) = open(&disk.fork()).expect("undamaged");
    let all = segments(&disk);
    for (missing, _) in &all[1..all.len() - 1] {
        let mut disk = disk.fork();
        disk.run(Op::Remove { file: missing.clone() }).expect("removed");
        assert_eq!(check_mended(&disk, &whole, &[1, 2, 3], missing.as_str()), [1, 2, 3]);
    }
}

#[test]
fn a_hurt_group_goes_on_over_restarts_until_it_has_healed() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk).expect("an empty directory");
    store(
        &mut wal,
        &disk,
        &[create(1), create(2), snapshot(1, 1, 1, true), hard_state(2, 1, 0, 0)],
    );
    let mut second = None;
    for index in 2..12 {
        second = second.or((index == 6).then_some(wal.durable().0 + 64 + 70));
        store(
            &mut wal,
            &disk,
            &[hard_state(1, index, 0, index - 1), entries(1, index, 1, 1, &[7; 70])],
        );
    }
    drop(wal);
    let (_, whole) = open(&disk.fork()).expect("undamaged");
    disk.flip_bit(&segments(&disk)[0].0, 64 + second.expect("it was written"), 0);
    let (mut wal, groups) = open(&disk).expect("mended");
    assert_eq!(damaged(&groups), [1]);
    let place_group = GroupId(1);
    let hurt = groups.iter().find(|g| g.group == place_group).expect("it is known");
    let kept = hurt.entries.last().expect("those before the damage").index;
    assert_eq!(kept, 5);
    // The term and vote of after the damage hold; but its commit may be of entries that replaced these.
    let state = hurt.hard_state.expect("stored");
    assert_eq!((state.term, state.commit), (11, 4));
    assert_eq!(whole[0].hard_state.expect("stored").term, 11);
    // What the leader sends again begins where the replica ends, below what the log still holds from behind the damage.
    let mut expected = hurt.clone();
    for index in kept + 1..kept + 6 {
        let Record::Entries { entries, .. } = entries(1, index, 1, 50, b"again") else {
            unreachable!("it is what was asked for")
        };
        expected.entries.extend(entries.clone());
        let group = place_group;
        store(&mut wal, &disk, &[Record::Entries { group, entries }]);
        let (next, groups) = open(&disk).expect("undamaged since");
        let found = groups.iter().find(|g| g.group == place_group);
        assert_eq!(found, Some(&expected));
        wal = next;
    }
    let group = place_group;
    store(&mut wal, &disk, &[Record::Healed { group }]);
    let (_, groups) = open(&disk).expect("undamaged since");
    assert_eq!(damaged(&groups), []);
}

#[test]
fn a_group_that_damage_hides_comes_back_empty_and_one_created_later_is_whole() {
    let (disk, places) = log();
    // Everything up to the last checkpoint.
    for file in segments(&disk).iter().rev().skip(1) {
        for place in places.iter().filter(|place| place.file == file.0) {
            disk.flip_bit(&place.file, place.offset, 0);
        }
    }
    let expected = [GroupId(2), GroupId(9)];
    let (mut wal, groups) = Wal::open(&mut disk.clone(), small(), IDENTITY, &expected).expect("mended");
    assert_eq!(damaged(&groups), [1, 2, 3, 9]);
    let hidden = groups.iter().find(|g| g.group == GroupId(9)).expect("it was expected");
    assert_eq!((hidden.snapshot.as_ref(), hidden.entries.len()), (None, 0));
    store(&mut wal, &disk, &[hard_state(9, 1, 0, 0), create(7)]);
    let (_, groups) = open(&disk).expect("undamaged since");
    assert_eq!(damaged(&groups), [1, 2, 3, 9], "7 was created behind the damage");
    assert_eq!(groups.len(), 5);
}

#[test]
fn a_hidden_group_is_still_expected_when_a_start_ended_before_it_wrote_anything() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk).expect("an empty directory");
    store(&mut wal, &disk, &[create(1), hard_state(1, 1, 1, 0)]);
    // A start cuts the only batch off, and the damage goes with it.
    disk.flip_bit(&segments(&disk)[0].0, 64, 0);
    let expected = [GroupId(1)];
    for start in 0..3 {
        let (_, groups) = Wal::open(&mut disk.clone(), small(), IDENTITY, &expected).expect("mended");
        let hidden = groups.iter().find(|g| g.group == GroupId(1)).expect("it was expected");
        assert!(!matches!(hidden.damage, Damage::None), "start {start}");
    }
}

#[test]
fn evidence_is_bounded_and_a_full_disk_does_not_keep_a_node_from_healing() {
    let (disk, places) = log();
    let full = disk.fork();
    for place in places.iter().step_by(7).take(4) {
        disk.flip_bit(&place.file, place.offset, 0);
        full.flip_bit(&place.file, place.offset, 0);
    }
    let (wal, _) = open(&disk).expect("mended");
    assert_eq!(evidence(&disk).len(), small().evidence_files_max);
    assert_eq!(wal.recovery().evidence.len(), small().evidence_files_max);
    assert!(wal.recovery().evidence_skipped > 0);
    full.set_capacity(Some(full.used() + 200));
    let (wal, _) = open(&full).expect("mended");
    assert_eq!(evidence(&full), []);
    assert!(wal.recovery().evidence_skipped > 2);
}

#[test]
fn damage_in_the_last_batch_makes_its_groups_recovering_until_they_healed() {
    let (disk, places) = log();
    let last = places.last().expect("there are batches");
    assert!(last.offset > 64, "the last batch holds one group only");
    let before = open(&disk.fork()).expect("undamaged").1;
    assert_eq!(damaged(&before), []);

    disk.flip_bit(&last.file, last.offset + last.len - 1, 7);
    let (mut wal, groups) = open(&disk).expect("the last batch may never have been acknowledged");
    assert_eq!(damaged(&groups), [last.group.0]);
    let hit = groups
        .iter()
        .find(|g| g.group == last.group)
        .expect("it was created earlier");
    assert_eq!(
        hit.damage,
        Damage::LastBatch {
            file: last.file.clone(),
            offset: last.offset
        }
    );
    assert_eq!(hit.entries.len(), 9, "the tenth entry was in the batch");
    assert_eq!(wal.recovery().cut, Some((last.file.clone(), last.offset)));

    // Neither a restart nor new records nor a crash makes it whole; only healing does.
    for term in 100..103 {
        store(&mut wal, &disk, &[hard_state(last.group.0, term, 0, 0)]);
        disk.crash(&mut Prng::new(term));
        let (next, groups) = open(&disk).expect("undamaged since");
        assert_eq!(damaged(&groups), [last.group.0]);
        wal = next;
    }
    let group = last.group;
    store(&mut wal, &disk, &[Record::Healed { group }]);
    for round in 0..2 {
        // Through rolls and purges as well: the healing is in every checkpoint while the mark is there.
        for i in 1..40 {
            let index = 100 + round * 100 + i;
            let dead: Vec<_> = (1..=3).map(|group| snapshot(group, index, 1, false)).collect();
            store(&mut wal, &disk, &dead);
            wal.purge(&mut disk.clone());
        }
        poll(&mut wal, &disk).expect("the disk is well");
        assert!(segments(&disk).len() < 4, "the segment of the healing is gone");
        let (next, groups) = open(&disk).expect("undamaged");
        assert_eq!(damaged(&groups), []);
        wal = next;
    }

    // A healing says nothing of later damage.
    let (file, len) = segments(&disk).pop().expect("there is a log");
    drop(wal);
    disk.flip_bit(&file, len - 1, 0);
    let (_, groups) = open(&disk).expect("the last batch may never have been acknowledged");
    assert!(damaged(&groups).contains(&1), "{:?}", damaged(&groups));
}

#[test]
fn when_the_last_batchs_header_is_gone_every_group_is_recovering() {
    let (disk, places) = log();
    let last = places.last().expect("there are batches");
    for at in 0..64 {
        let disk = disk.fork();
        disk.flip_bit(&last.file, last.offset + at, 3);
        let (_, groups) = open(&disk).expect("the last batch may never have been acknowledged");
        assert_eq!(damaged(&groups), [1, 2, 3], "byte {at}");
    }
}

#[test]
fn an_absent_tail_is_no_damage() {
    let (disk, places) = log();
    let last = places.last().expect("there are batches");
    let mut zeroed = disk.fork();
    let (file, data) = (last.file.clone(), Bytes::from(vec![0; last.len as usize]));
    zeroed
        .run(Op::Write {
            file: file.clone(),
            offset: last.offset,
            data,
        })
        .expect("written");
    let mut cut = disk.fork();
    cut.run(Op::Truncate { file, len: last.offset }).expect("cut");
    for disk in [zeroed, cut] {
        let (wal, groups) = open(&disk).expect("nothing is there");
        assert_eq!(damaged(&groups), []);
        assert_eq!(wal.recovery().cut, None);
    }
}

#[test]
fn unreadable_marks_make_every_group_recovering() {
    let (disk, places) = log();
    let last = places.last().expect("there are batches");
    disk.flip_bit(&last.file, last.offset + last.len - 1, 7);
    open(&disk).expect("the last batch may never have been acknowledged");
    let marks = FileName::new("wal-recovering").expect("a valid name");
    disk.flip_bit(&marks, 20, 0);
    for _ in 0..2 {
        let (_, groups) = open(&disk).expect("the log itself is whole");
        assert_eq!(damaged(&groups), [1, 2, 3]);
    }
}

#[test]
fn old_bytes_behind_the_end_never_come_back() {
    // A device that gives a new segment the blocks of an old one: whole old batches, intact, wherever the log may end.
    let (disk, _) = log();
    let all = segments(&disk);
    let mut reader = disk.clone();
    let old = reader.read(&all[0].0, 0, 4096).expect("readable");
    let (last, _) = all.last().expect("there is a log").clone();
    let (_, expected) = open(&disk.fork()).expect("undamaged");
    let end = {
        let disk = disk.fork();
        open(&disk).expect("undamaged");
        segments(&disk).last().expect("the sealed segment").1
    };
    for skip in [0, 64, 63] {
        let mut disk = disk.fork();
        let (file, data) = (last.clone(), old.slice(skip..));
        disk.run(Op::Write {
            file,
            offset: end,
            data,
        })
        .expect("written");
        let (_, found) = open(&disk).expect("nothing of the log is damaged");
        for (a, b) in expected.iter().zip(&found) {
            assert_eq!((&a.entries, a.hard_state), (&b.entries, b.hard_state));
        }
    }
}

#[test]
fn a_batch_of_another_directory_is_no_part_of_the_log() {
    // The same appends under another incarnation: every batch has the same Lsn and length.
    let write_twice = |identity: LogIdentity, count: u64| {
        let disk = MemDisk::new(1);
        let (mut wal, _) = Wal::open(&mut disk.clone(), small(), identity, &[]).expect("an empty directory");
        for i in 0..count {
            store(&mut wal, &disk, &[create(1), hard_state(1, i + 1, 0, 0)]);
        }
        disk
    };
    let ours = write_twice(IDENTITY, 1);
    let other = LogIdentity {
        incarnation: 5,
        ..IDENTITY
    };
    let theirs = write_twice(other, 2);
    let (file, _) = segments(&ours).pop().expect("a segment");
    let first_end = {
        let disk = ours.fork();
        open(&disk).expect("undamaged");
        segments(&disk)[0].1
    };
    let data = theirs.clone().read(&file, first_end, 4096).expect("readable");
    assert!(
        data.iter().any(|b| *b != 0),
        "their second batch lies where our log ends"
    );
    ours.clone()
        .run(Op::Write {
            file: file.clone(),
            offset: first_end,
            data,
        })
        .expect("written");
    let (_, groups) = open(&ours).expect("nothing of ours is damaged");
    assert_eq!(groups[0].hard_state.expect("stored").term, 1);

    let error = open(&theirs).map(|_| ()).expect_err("the segment says whose it is");
    assert!(
        matches!(&error, WalError::Foreign { found, .. } if *found == other),
        "{error}"
    );
    assert_eq!(error.code().to_string(), "WAL0003");
}

#[test]
fn a_newer_format_is_refused_by_its_version() {
    let (disk, _) = log();
    let (file, _) = segments(&disk).remove(0);
    let mut disk = disk.fork();
    let mut header = disk.read(&file, 0, 64).expect("readable").to_vec();
    header[8] = 2;
    let crc = crc32c::crc32c(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    disk.run(Op::Write {
        file,
        offset: 0,
        data: header.into(),
    })
    .expect("written");
    let error = open(&disk).map(|_| ()).expect_err("version 2 is not ours");
    assert!(
        matches!(
            error,
            WalError::Version {
                version: 2,
                supported: 1,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn damage_at_the_head_of_what_a_purge_left_is_mended_too() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk).expect("an empty directory");
    store(&mut wal, &disk, &[create(1)]);
    for i in 1..60 {
        store(
            &mut wal,
            &disk,
            &[
                hard_state(1, i, 0, i),
                entries(1, i, 1, 1, &[1; 300]),
                snapshot(1, i, 1, false),
            ],
        );
        wal.purge(&mut disk.clone());
    }
    poll(&mut wal, &disk).expect("the disk is well");
    let (first, _) = segments(&disk).remove(0);
    assert_ne!(first.as_str(), "wal-0000000000000001.seg", "old segments went");
    let (_, whole) = open(&disk.fork()).expect("undamaged");
    for at in [0, 40, 64, 70, 140] {
        let disk = disk.fork();
        disk.flip_bit(&first, at, 1);
        check_mended(&disk, &whole, &[1], &format!("byte {at}"));
    }
    // Nothing of it reads: not even whose log it is.
    let mut disk = disk.fork();
    for (file, len) in segments(&disk) {
        let data = Bytes::from(vec![7; len as usize]);
        disk.run(Op::Write { file, offset: 0, data }).expect("written");
    }
    assert!(matches!(open(&disk), Err(WalError::Corrupt { .. })));
}

#[test]
fn entries_whose_replacement_was_lost_are_not_taken_for_committed() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk).expect("an empty directory");
    store(
        &mut wal,
        &disk,
        &[create(1), hard_state(1, 1, 0, 1), entries(1, 1, 3, 1, &[1; 100])],
    );
    let before = wal.durable();
    store(
        &mut wal,
        &disk,
        &[hard_state(1, 2, 0, 1), entries(1, 3, 1, 2, &[2; 100])],
    );
    let end = wal.durable();
    store(&mut wal, &disk, &[hard_state(1, 2, 0, 3)]);
    store(&mut wal, &disk, &[hard_state(1, 3, 0, 3)]);
    let (file, _) = segments(&disk).remove(0);
    for at in before.0..end.0 {
        let disk = disk.fork();
        disk.flip_bit(&file, 64 + at, 3);
        let (_, found) = open(&disk).expect("mended");
        let state = found[0].hard_state.expect("it was stored");
        let is_replaced = found[0].entries.get(2).is_some_and(|entry| entry.term == 2);
        assert!(is_replaced || state.commit <= 2, "byte {at}: {state:?}");
    }
}

#[test]
fn a_group_whose_covering_snapshot_went_with_the_tail_after_a_purge_is_recovering() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk).expect("an empty directory");
    store(&mut wal, &disk, &[create(1), create(2)]);
    for i in 1..60 {
        // What group 1's snapshot stands for is purged soon after it is durable.
        let records = [
            hard_state(1, i, 0, i),
            entries(1, i, 1, 1, &[1; 300]),
            hard_state(2, i, 0, 0),
        ];
        store(&mut wal, &disk, &records);
    }
    store(&mut wal, &disk, &[snapshot(1, 58, 1, false)]);
    for i in 60..63 {
        store(&mut wal, &disk, &[hard_state(2, i, 0, 0), hard_state(1, i, 0, 58)]);
        wal.purge(&mut disk.clone());
    }
    poll(&mut wal, &disk).expect("the disk is well");
    let (last, len) = segments(&disk).pop().expect("there are segments");
    let mut is_seen = false;
    // Garbage, or as if it had never been written.
    let bytes = (64..len).step_by(20).flat_map(|at| [(at, 7), (at, 0)]);
    for (at, byte) in bytes {
        let mut disk = disk.fork();
        let data = Bytes::from(vec![byte; (len - at) as usize]);
        let file = last.clone();
        disk.run(Op::Write { file, offset: at, data }).expect("written");
        let found = match open(&disk) {
            Ok((_, found)) => found,
            // Not one batch reads.
            Err(WalError::Corrupt { groups, .. }) if groups.is_empty() => continue,
            Err(error) => panic!("byte {at}: {error}"),
        };
        is_seen |= is_damaged(&found[0]) && found[0].entries.is_empty();
    }
    assert!(is_seen, "the snapshot was hit, and what is left begins after a gap");
}

/// Counts what recovery asks of a disk.
struct Watched {
    disk: MemDisk,
    largest_read: usize,
    reads_past_the_end: u32,
}

impl DiskRead for Watched {
    fn list(&mut self) -> Result<Vec<(FileName, u64)>, DiskError> {
        self.disk.list()
    }

    fn read(&mut self, file: &FileName, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        self.largest_read = self.largest_read.max(len);
        let bytes = self.disk.read(file, offset, len)?;
        self.reads_past_the_end += u32::from(bytes.is_empty());
        Ok(bytes)
    }

    fn run(&mut self, op: Op) -> Result<(), DiskError> {
        self.disk.run(op)
    }
}

#[test]
fn recovery_reads_in_bounded_chunks_whatever_a_header_claims() {
    let (disk, places) = log();
    let last = places.last().expect("there are batches");
    let mut disk = disk.fork();
    // An intact header that claims a gigabyte.
    let mut header = disk.read(&last.file, last.offset, 64).expect("readable").to_vec();
    header[8..12].copy_from_slice(&(1u32 << 30).to_le_bytes());
    let crc = crc32c::crc32c(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    let (file, offset) = (last.file.clone(), last.offset);
    disk.run(Op::Write {
        file,
        offset,
        data: header.into(),
    })
    .expect("written");
    let mut watched = Watched {
        disk,
        largest_read: 0,
        reads_past_the_end: 0,
    };
    Wal::open(&mut watched, small(), IDENTITY, &[]).expect("the last batch is cut short, no more");
    assert!(watched.largest_read <= 256 << 10);
    assert_eq!(watched.reads_past_the_end, 0);
}

#[test]
fn garbage_instead_of_a_log_is_judged_without_panic() {
    let mut prng = Prng::new(9);
    let (disk, _) = log();
    for round in 0..200 {
        let mut disk = disk.fork();
        let files = segments(&disk);
        for _ in 0..prng.between(1, 4) {
            let (file, len) = files[prng.below(files.len() as u64) as usize].clone();
            let data: Vec<u8> = (0..prng.between(1, 3_000)).map(|_| prng.next_u64() as u8).collect();
            let offset = prng.below(len);
            disk.run(Op::Write {
                file,
                offset,
                data: data.into(),
            })
            .expect("written");
        }
        if let Ok((_, groups)) = open(&disk) {
            // Damage past the proven point: what is left is consecutive, and a second opening agrees.
            let (_, again) = open(&disk).expect("what was opened once opens again");
            assert_eq!(groups, again, "round {round}");
        }
    }
}
