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

#[test]
fn any_flipped_bit_in_an_acknowledged_batch_is_refused_by_file_offset_and_group() {
    let (disk, places) = log();
    let mut prng = Prng::new(1);
    let (last, proven) = places.split_last().expect("there are batches");
    for place in proven {
        // Every byte of the header, and some of the body.
        let body = (0..40).map(|_| prng.between(64, place.len));
        for at in (0..64).chain(body.collect::<Vec<_>>()) {
            let disk = disk.fork();
            disk.flip_bit(&place.file, place.offset + at, prng.below(8) as u8);
            let Err(WalError::Corrupt {
                file, offset, groups, ..
            }) = open(&disk)
            else {
                panic!("{place:?} byte {at}: accepted");
            };
            assert_eq!((&file, offset), (&place.file, place.offset));
            // The body's damage leaves the header to tell whose it is. (Group ids 64 apart are not told apart.)
            assert_eq!(
                groups,
                if at < 64 { vec![] } else { whose(place, &places) },
                "{place:?} byte {at}"
            );
        }
    }
    assert!(last.len > 64);
}

/// The groups with records in the batch: all of them where a segment begins, since the checkpoint names all.
fn whose(place: &Place, places: &[Place]) -> Vec<GroupId> {
    let index = places
        .iter()
        .position(|p| p.file == place.file && p.offset == place.offset);
    if place.offset == 64 && index.is_some_and(|i| i > 2) {
        return vec![GroupId(1), GroupId(2), GroupId(3)];
    }
    // Recovery stops at the damage, so a group that it meets first there is not known yet.
    let known = places
        .iter()
        .take(index.expect("a place of the log"))
        .any(|p| p.group == place.group);
    if known { vec![place.group] } else { vec![] }
}

#[test]
fn a_damaged_segment_header_is_refused() {
    let (disk, _) = log();
    for (file, _) in segments(&disk) {
        for at in 0..64 {
            let disk = disk.fork();
            disk.flip_bit(&file, at, 0);
            let result = open(&disk);
            let is_last = segments(&disk).last().is_some_and(|(last, _)| *last == file);
            match result {
                Err(WalError::Corrupt {
                    file: named, offset, ..
                }) => assert_eq!((&named, offset), (&file, 0)),
                Err(other) => panic!("{file} byte {at}: {other}"),
                // The last segment of the log has a batch whose successor proves it as well.
                Ok(_) => panic!("{file} byte {at}: accepted (last: {is_last})"),
            }
        }
    }
}

#[test]
fn a_missing_segment_is_named() {
    let (disk, _) = log();
    let all = segments(&disk);
    let middle = all[all.len() / 2].0.clone();
    let mut disk = disk.fork();
    disk.run(Op::Remove { file: middle.clone() }).expect("removed");
    let Err(WalError::Corrupt { file, offset, .. }) = open(&disk) else {
        panic!("accepted")
    };
    assert_eq!((file, offset), (middle, 0));
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
        let (mut wal, _) = Wal::open(&mut disk.clone(), small(), identity).expect("an empty directory");
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
fn what_is_left_after_a_purge_is_refused_when_its_head_is_damaged() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk).expect("an empty directory");
    store(&mut wal, &disk, &[create(1)]);
    for i in 1..60 {
        store(
            &mut wal,
            &disk,
            &[entries(1, i, 1, 1, &[1; 300]), snapshot(1, i, 1, false)],
        );
        wal.purge(&mut disk.clone());
    }
    poll(&mut wal, &disk).expect("the disk is well");
    let (first, _) = segments(&disk).remove(0);
    assert_ne!(first.as_str(), "wal-0000000000000001.seg", "old segments went");
    for at in [0, 40, 64, 70, 140] {
        let disk = disk.fork();
        disk.flip_bit(&first, at, 1);
        let Err(WalError::Corrupt { file, .. }) = open(&disk) else {
            panic!("byte {at}: accepted")
        };
        assert_eq!(file, first);
    }
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
    Wal::open(&mut watched, small(), IDENTITY).expect("the last batch is cut short, no more");
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
