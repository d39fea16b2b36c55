//! The log while it runs: group commit, limits, a full disk, a failing one, and purging.

mod support;

use std::time::Duration;

use bytes::Bytes;
use settle_base::{GroupId, Mono, Prng};
use settle_storage::{
    Act, Completion, Disk, DiskError, DiskErrorKind, DiskRead, FileName, Latency, MemDisk, Op, Token,
};
use settle_wal::{Lsn, Record, Wal, WalError, WalOptions, WalProgress};
use support::*;

/// A disk that counts what is submitted to it.
#[derive(Default)]
struct Counting {
    writes: Vec<(u64, Bytes)>,
    syncs: u32,
    others: u32,
    tokens: Vec<(Token, bool)>,
}

impl Disk for Counting {
    fn submit(&mut self, token: Token, op: Op) {
        self.tokens.push((token, matches!(op, Op::Sync { .. })));
        match op {
            Op::Write { offset, data, .. } => self.writes.push((offset, data)),
            Op::Sync { .. } => self.syncs += 1,
            _ => self.others += 1,
        }
    }

    fn poll(&mut self) -> Option<Completion> {
        let (token, _) = self.tokens.pop()?;
        let (result, took) = (Ok(()), Default::default());
        Some(Completion { token, result, took })
    }
}

fn open_new() -> (Wal, MemDisk) {
    let disk = MemDisk::new(1);
    let (wal, _) = open(&disk).expect("an empty directory");
    (wal, disk)
}

#[test]
fn one_flush_is_one_write_and_one_sync_for_all_groups() {
    let options = WalOptions {
        segment_bytes: 1 << 20,
        ..small()
    };
    let (mut wal, _) = Wal::open(&mut MemDisk::new(1), options, IDENTITY, &[]).expect("an empty directory");
    let mut disk = Counting::default();
    for group in 1..=100 {
        wal.append(&[create(group), entries(group, 1, 5, 1, b"data")])
            .expect("room");
    }
    wal.flush(&mut disk);
    assert_eq!((disk.writes.len(), disk.syncs), (1, 1));
    for group in 1..=100 {
        wal.append(&[entries(group, 6, 1, 1, b"more")]).expect("room");
    }
    wal.flush(&mut disk);
    wal.append(&[hard_state(1, 2, 0, 0)]).expect("room");
    wal.flush(&mut disk);
    assert_eq!(
        (disk.writes.len(), disk.syncs),
        (2, 2),
        "the third waits: two are on their way"
    );
    assert!(wal.staged_bytes() > 0);
}

#[test]
fn durability_moves_in_order_whatever_the_order_of_completions() {
    let (mut wal, _) = open_new();
    let mut disk = Counting::default();
    let first = wal.append(&[create(1)]).expect("room");
    wal.flush(&mut disk);
    let second = wal.append(&[hard_state(1, 1, 0, 0)]).expect("room");
    wal.flush(&mut disk);
    // `Counting` answers the latest first, so the second batch completes before the first.
    let mut seen = Vec::new();
    while let Some(completion) = disk.poll() {
        seen.push(
            wal.complete(&completion, &mut Counting::default())
                .expect("all is well"),
        );
    }
    assert!(first < second);
    assert_eq!(seen.iter().filter(|p| matches!(p, WalProgress::Durable(_))).count(), 1);
    assert_eq!(seen.last(), Some(&WalProgress::Durable(wal.durable())));
    assert!(wal.durable() >= second && wal.is_idle());
}

#[test]
fn tokens_of_others_are_left_alone() {
    let (mut wal, mut disk) = open_new();
    wal.append(&[create(1)]).expect("room");
    wal.flush(&mut disk);
    for token in [Token(0), Token(1), Token(settle_wal::TOKEN_SPACE + 1_000)] {
        let (result, took) = (Ok(()), Default::default());
        let progress = wal.complete(&Completion { token, result, took }, &mut disk);
        assert_eq!(progress.expect("not a failure"), WalProgress::NotMine);
    }
}

#[test]
fn appends_are_refused_whole_with_their_reason() {
    let disk = MemDisk::new(1);
    let options = WalOptions {
        max_batch_bytes: 500,
        ..small()
    };
    let (mut wal, _) = Wal::open(&mut disk.clone(), options, IDENTITY, &[]).expect("an empty directory");
    let unknown = wal
        .append(&[create(1), hard_state(2, 1, 0, 0)])
        .expect_err("group 2 is not there");
    assert!(
        matches!(unknown, WalError::UnknownGroup { group: GroupId(2) }),
        "{unknown}"
    );
    assert_eq!(wal.staged_bytes(), 0);
    wal.append(&[create(1), entries(1, 1, 1, 1, &[0; 300])])
        .expect("it fits");
    let backlog = wal
        .append(&[entries(1, 2, 1, 1, &[0; 200])])
        .expect_err("it would pass the limit");
    assert!(matches!(backlog, WalError::Backlog { limit: 500, .. }), "{backlog}");
    store(&mut wal, &disk, &[]);
    while !wal.is_idle() {
        wal.flush(&mut disk.clone());
        poll(&mut wal, &disk).expect("the disk is well");
    }
    store(&mut wal, &disk, &[entries(1, 2, 1, 1, &[0; 200])]);
    store(&mut wal, &disk, &[Record::Destroy { group: GroupId(1) }]);
    assert!(
        wal.append(&[hard_state(1, 9, 0, 0)]).is_err(),
        "a destroyed group takes nothing"
    );
    let ended = Record::Destroy { group: GroupId(1) };
    assert!(
        wal.append(&[create(1), ended.clone(), hard_state(1, 9, 0, 0)]).is_err(),
        "nor within one append"
    );
    store(
        &mut wal,
        &disk,
        &[create(1), ended, create(2), create(1), hard_state(1, 1, 0, 0)],
    );
    let (_, groups) = open(&disk).expect("undamaged");
    assert!(groups[0].entries.is_empty() && !groups[0].destroyed);
}

#[test]
fn a_full_disk_keeps_the_refused_bytes_and_goes_on_when_there_is_space() {
    // Full at every possible moment: at the creation of a segment, in it, with one or two batches on their way.
    for spare in (0..12_000).step_by(97) {
        let (mut wal, disk) = open_new();
        disk.set_latency(Latency {
            write_us: 10..20,
            sync_us: 10..200,
            other_us: 10..20,
            ..Latency::NONE
        });
        store(&mut wal, &disk, &[create(1)]);
        // Segments of 4096 are reserved; the larger batches outgrow them and need space of their own.
        disk.set_capacity(Some(disk.used() + spare));
        let (mut index, mut was_full, mut now, mut prng) = (1, false, Mono(1_000_000), Prng::new(spare));
        let mut lsn = wal.durable();
        for round in 0..200 {
            if index <= 8 && !wal.is_full() {
                lsn = wal
                    .append(&[entries(1, index, 1, 1, &[index as u8; 1_500])])
                    .expect("room");
                index += 1;
            }
            wal.flush(&mut disk.clone());
            pass_time(&mut wal, &disk, &mut now, &mut prng).expect("a full disk is not a failed one");
            was_full |= wal.is_full();
            if wal.is_full() && round < 60 {
                assert!(wal.durable() < lsn);
            }
            if round == 60 {
                disk.set_capacity(None);
            }
        }
        assert!(was_full || spare >= 8_192, "spare {spare}");
        assert_eq!(
            (index, wal.durable() >= lsn, wal.is_full()),
            (9, true, false),
            "spare {spare}"
        );
        disk.crash(&mut Prng::new(spare));
        let (_, groups) = open(&disk).expect("undamaged");
        assert_eq!(groups[0].entries.len(), 8, "spare {spare}");
        assert!(!is_damaged(&groups[0]));
    }
}

#[test]
fn a_write_refused_for_space_is_repeated_without_emptying_its_segment() {
    let (mut wal, _) = open_new();
    let mut disk = Counting::default();
    wal.append(&[create(1)]).expect("room");
    wal.flush(&mut disk);
    let second = wal.append(&[hard_state(1, 1, 0, 0)]).expect("room");
    wal.flush(&mut disk);
    let tokens = std::mem::take(&mut disk.tokens);
    let file = FileName::new("wal-0000000000000001.seg").expect("a valid name");
    let complete = |wal: &mut Wal, disk: &mut Counting, token, result| {
        let took = Duration::ZERO;
        let completion = Completion { token, result, took };
        wal.complete(&completion, disk).expect("lack of space is no failure")
    };
    // Create, write, sync; write, sync. Only the first write is refused: a system without reservation can do that.
    for (i, (token, _)) in tokens.into_iter().enumerate() {
        let full = DiskError::new(DiskErrorKind::NoSpace, Act::Write, &file);
        complete(&mut wal, &mut disk, token, if i == 1 { Err(full) } else { Ok(()) });
    }
    assert_eq!(
        (wal.is_full(), wal.durable()),
        (true, Lsn(0)),
        "the second batch does not count without the first"
    );
    let (writes, others) = (disk.writes.clone(), disk.others);
    wal.flush(&mut disk);
    assert_eq!(disk.others, others, "the segment is there");
    assert_eq!(disk.writes[2..], writes[..1], "the same bytes at the same place");
    for (token, _) in std::mem::take(&mut disk.tokens) {
        complete(&mut wal, &mut disk, token, Ok(()));
    }
    assert!(wal.durable() >= second && !wal.is_full());
}

#[test]
fn after_a_failed_sync_nothing_becomes_durable_and_nothing_is_tried_again() {
    let (mut wal, mut disk) = open_new();
    let durable = {
        store(&mut wal, &disk, &[create(1)]);
        wal.durable()
    };
    wal.append(&[hard_state(1, 1, 1, 0)]).expect("room");
    wal.flush(&mut disk);
    wal.append(&[hard_state(1, 2, 1, 0)]).expect("room");
    wal.flush(&mut disk);
    disk.fail_syncs(1);
    let mut failures = 0;
    while let Some(completion) = disk.poll() {
        failures += u32::from(wal.complete(&completion, &mut disk).is_err());
    }
    assert!(failures > 0);
    let refused = wal.append(&[hard_state(1, 3, 1, 0)]).expect_err("it failed");
    assert_eq!(
        (refused.code().to_string(), wal.durable()),
        ("WAL0007".to_owned(), durable)
    );
    wal.flush(&mut disk);
    assert!(disk.poll().is_none(), "nothing more is submitted");
}

#[test]
fn purging_frees_what_snapshots_and_destruction_made_dead_and_no_more() {
    let (mut wal, disk) = open_new();
    store(
        &mut wal,
        &disk,
        &[create(1), create(2), entries(2, 1, 1, 1, b"holds the first segment")],
    );
    for i in 1..=60 {
        store(
            &mut wal,
            &disk,
            &[entries(1, i, 1, 1, &[1; 300]), snapshot(1, i.max(2) - 1, 1, false)],
        );
        wal.purge(&mut disk.clone());
        poll(&mut wal, &disk).expect("the disk is well");
    }
    assert!(segments(&disk).len() > 4, "group 2 lives in the first segment");
    store(&mut wal, &disk, &[Record::Destroy { group: GroupId(2) }]);
    wal.purge(&mut disk.clone());
    poll(&mut wal, &disk).expect("the disk is well");
    assert!(segments(&disk).len() > 4, "the last batch may still be lost to damage");
    store(&mut wal, &disk, &[create(3)]);
    (0..10).for_each(|_| poll(&mut wal, &disk).expect("the disk is well"));
    assert!(segments(&disk).len() <= 2, "{:?}", segments(&disk));
    assert_eq!(wal.stats().segments, segments(&disk).len() as u64);

    let (_, groups) = open(&disk).expect("undamaged");
    assert_eq!(groups[0].entries.iter().map(|e| e.index).collect::<Vec<_>>(), [60]);
    assert_eq!(groups[0].snapshot.as_ref().map(|s| s.index), Some(59));
    assert_eq!(groups[0].create, Bytes::from("group 1"));
    assert!(groups[1].destroyed, "that a group was destroyed outlives its records");
}

#[test]
fn nothing_is_purged_before_what_made_it_dead_is_durable_and_followed_by_a_batch_that_says_so() {
    let (mut wal, disk) = open_new();
    store(&mut wal, &disk, &[create(1)]);
    for i in 1..=40 {
        store(&mut wal, &disk, &[entries(1, i, 1, 1, &[1; 300])]);
    }
    let before = segments(&disk).len();
    wal.append(&[snapshot(1, 40, 1, false)]).expect("room");
    wal.purge(&mut disk.clone());
    poll(&mut wal, &disk).expect("the disk is well");
    assert_eq!(segments(&disk).len(), before, "staged is not durable");
    disk.set_latency(Latency {
        sync_us: 500..501,
        ..Latency::NONE
    });
    wal.flush(&mut disk.clone());
    wal.purge(&mut disk.clone());
    poll(&mut wal, &disk).expect("the disk is well");
    assert_eq!(segments(&disk).len(), before, "written is not durable");
    disk.advance(Mono(501));
    poll(&mut wal, &disk).expect("the disk is well");
    assert_eq!(segments(&disk).len(), before, "durable is not proven");
    disk.set_latency(Latency::NONE);
    store(&mut wal, &disk, &[create(2)]);
    // One completion makes the next removal possible.
    (0..before).for_each(|_| poll(&mut wal, &disk).expect("the disk is well"));
    assert_eq!(segments(&disk).len(), 1);
}

#[test]
fn a_batch_larger_than_a_segment_has_one_of_its_own() {
    let (mut wal, disk) = open_new();
    store(&mut wal, &disk, &[create(1), entries(1, 1, 3, 1, &[7; 9_000])]);
    store(&mut wal, &disk, &[entries(1, 4, 1, 1, b"next")]);
    let (_, groups) = open(&disk).expect("undamaged");
    assert_eq!(groups[0].entries.len(), 4);
}

#[test]
fn killed_processes_leave_good_batches_that_are_synced_before_they_count() {
    let (mut wal, mut disk) = open_new();
    store(&mut wal, &disk, &[create(1)]);
    wal.append(&[hard_state(1, 7, 1, 0)]).expect("room");
    disk.set_latency(Latency {
        sync_us: 1_000_000..1_000_001,
        ..Latency::NONE
    });
    wal.flush(&mut disk);
    assert!(disk.poll().is_some(), "the write completed, the sync did not");
    // The sync of the dead process never ran.
    disk.set_sync_is_nothing(true);
    disk.kill();
    disk.set_sync_is_nothing(false);
    let (_, groups) = open(&disk).expect("undamaged");
    assert_eq!(groups[0].hard_state.map(|s| s.term), Some(7));
    for seed in 0..20 {
        let disk = disk.fork();
        disk.crash(&mut Prng::new(seed));
        let (_, groups) = open(&disk).expect("undamaged");
        assert_eq!(
            groups[0].hard_state.map(|s| s.term),
            Some(7),
            "seed {seed}: recovered, then lost"
        );
    }
    drop(disk.list());
}

#[test]
fn dead_segments_become_new_ones_and_hold_nothing_old() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk).expect("an empty directory");
    store(&mut wal, &disk, &[create(1), hard_state(1, 1, 0, 0)]);
    for index in 1..200 {
        let records = [entries(1, index, 1, 1, &[0xee; 300]), snapshot(1, index, 1, false)];
        store(&mut wal, &disk, &records);
        wal.purge(&mut disk.clone());
        poll(&mut wal, &disk).expect("the disk is well");
        let (_, found) = open(&disk.fork()).expect("undamaged");
        assert!(!is_damaged(&found[0]), "a tail of zeros is no damage");
        let files = disk.clone().list().expect("listable").len();
        assert!(files <= 6, "{files} files");
    }
    let stats = wal.stats();
    assert!(
        stats.segments_recycled > 5 && stats.segments_begun - stats.segments_recycled < 8,
        "{stats:?}"
    );
    // Behind its last batch a reused segment is as empty as a new one.
    let (last, len) = segments(&disk).pop().expect("a log");
    let bytes = disk.clone().read(&last, 0, len as usize).expect("readable");
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("it was written to");
    let (wal, _) = open(&disk.fork()).expect("undamaged");
    assert_eq!(wal.recovery().cut, None);
    assert!(end < bytes.len());
}

fn spares(disk: &MemDisk) -> usize {
    let files = disk.clone().list().expect("listable");
    let is_spare = |(name, _): &&(FileName, u64)| name.as_str().starts_with("spare-");
    files.iter().filter(is_spare).count()
}

#[test]
fn the_last_spare_is_kept_for_its_space_when_it_cannot_be_zeroed() {
    let disk = MemDisk::new(1);
    drop(open(&disk).expect("an empty directory"));
    let (mut wal, _) = open(&disk).expect("its own log");
    // The first thing that is synced is the spare that the first opening made.
    disk.fail_syncs(1);
    wal.flush(&mut disk.clone());
    poll(&mut wal, &disk).expect("the log is well");
    assert_eq!((spares(&disk), wal.stats().spares), (1, 1));
    store(&mut wal, &disk, &[create(1)]);
    let mut most = 0;
    for index in 1..100 {
        let records = [entries(1, index, 1, 1, &[1; 300]), snapshot(1, index, 1, false)];
        store(&mut wal, &disk, &records);
        wal.purge(&mut disk.clone());
        poll(&mut wal, &disk).expect("the disk is well");
        most = most.max(spares(&disk));
    }
    assert!(wal.stats().segments_recycled > 2, "others are used as ever");
    assert!(most <= small().spares_max);
    assert_eq!(spares(&disk), wal.stats().spares as usize, "none is forgotten");
}

#[test]
fn a_full_disk_gets_the_spares_back() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk).expect("an empty directory");
    store(&mut wal, &disk, &[create(1)]);
    for index in 1..60 {
        store(&mut wal, &disk, &[entries(1, index, 1, 1, &[1; 300])]);
    }
    // Many segments die at once.
    store(&mut wal, &disk, &[snapshot(1, 59, 1, false)]);
    wal.purge(&mut disk.clone());
    for term in 2..4 {
        store(&mut wal, &disk, &[hard_state(1, term, 0, 0)]);
    }
    poll(&mut wal, &disk).expect("the disk is well");
    assert!(wal.stats().segments_removed > 3);
    assert_eq!(spares(&disk), small().spares_max, "no more than the bound");
    disk.set_capacity(Some(disk.used()));
    for index in 60.. {
        wal.append(&[entries(1, index, 1, 1, &[1; 2_000])])
            .expect("there is room in memory");
        wal.flush(&mut disk.clone());
        poll(&mut wal, &disk).expect("a full disk is no failure");
        if wal.is_full() {
            break;
        }
    }
    assert!(spares(&disk) <= 1);
}

#[test]
fn no_segment_begins_behind_one_that_may_yet_be_refused() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk).expect("an empty directory");
    store(&mut wal, &disk, &[create(1)]);
    for index in 1..=2 {
        wal.append(&[entries(1, index, 1, 1, &[7; 4_000])])
            .expect("there is room");
        wal.flush(&mut disk.clone());
    }
    assert!(
        wal.staged_bytes() > 4_000,
        "the second waits for the segment of the first"
    );
    poll(&mut wal, &disk).expect("the disk is well");
    wal.flush(&mut disk.clone());
    assert_eq!(wal.staged_bytes(), 0);
}
