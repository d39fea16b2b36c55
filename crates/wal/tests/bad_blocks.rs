//! Blocks that the device cannot read any more are damage like any other.

mod support;

use settle_base::{GroupId, Prng};
use settle_storage::{FileName, MemDisk};
use settle_wal::{Damage, RecoveredGroup, Wal, WalError, WalOptions};
use support::{IDENTITY, create, entries, hard_state, is_damaged, segments, small, store};

const BLOCK: u64 = 4096;

fn options() -> WalOptions {
    WalOptions {
        segment_bytes: 5 * BLOCK,
        ..small()
    }
}

fn open(disk: &MemDisk) -> Result<(Wal, Vec<RecoveredGroup>), WalError> {
    Wal::open(&mut disk.clone(), options(), IDENTITY, &[])
}

/// Several segments, all of them proven but for the last batch.
fn log() -> MemDisk {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk).expect("an empty directory");
    for i in 0..120 {
        let (group, index) = (i % 3 + 1, i / 3 + 1);
        let mut records = vec![
            hard_state(group, i + 1, 1, 0),
            entries(group, index, 1, 1, &[i as u8; 300]),
        ];
        if index == 1 {
            records.insert(0, create(group));
        }
        store(&mut wal, &disk, &records);
    }
    assert!(segments(&disk).len() > 2);
    disk
}

#[test]
fn a_log_with_blocks_that_cannot_be_read_is_mended_into_blocks_that_can() {
    let disk = log();
    let (_, whole) = open(&disk.fork()).expect("undamaged");
    let ends = |disk: &MemDisk| {
        let disk = disk.fork();
        open(&disk).expect("undamaged");
        segments(&disk)
    };
    for (i, (file, len)) in ends(&disk).into_iter().enumerate() {
        for block in 0..len.div_ceil(BLOCK) {
            // One, or one and its neighbour over a batch's end.
            for more in 0..2 {
                let place = format!("{file} block {block} and {more} more");
                let disk = disk.fork();
                (0..=more).for_each(|more| disk.make_unreadable(&file, (block + more) * BLOCK));
                let (mut wal, found) = open(&disk).unwrap_or_else(|error| panic!("{place}: {error}"));
                assert!(found.iter().any(is_damaged), "{place}: entries were lost");
                for (found, whole) in found.iter().zip(&whole) {
                    assert!(whole.entries.starts_with(&found.entries), "{place}");
                    assert!(is_damaged(found) || found == whole, "{place}: {}", found.group);
                    let is_middle = matches!(found.damage, Damage::Middle { .. });
                    assert!(
                        is_middle || i + 1 == segments(&disk).len() || !is_damaged(found),
                        "{place}"
                    );
                }
                // What cannot be read is gone with the old file: it is found once, and all that follows is safe.
                store(&mut wal, &disk, &[hard_state(1, 500, 0, 0)]);
                disk.crash(&mut Prng::new(block));
                let (wal, again) = open(&disk).unwrap_or_else(|error| panic!("{place}: {error}"));
                assert!(wal.recovery().damaged.is_empty(), "{place}: it was mended");
                assert_eq!(again[0].hard_state.expect("stored").term, 500, "{place}");
                assert_eq!(again[1..], found[1..], "{place}");
            }
        }
    }
}

#[test]
fn a_start_that_ends_while_it_mends_bad_blocks_leaves_a_log_that_opens() {
    let disk = log();
    let (file, _) = segments(&disk).swap_remove(1);
    disk.make_unreadable(&file, 2 * BLOCK);
    let (_, found) = open(&disk.fork()).expect("mended");
    for ops in 0..60 {
        let disk = disk.fork();
        disk.die_after(ops);
        let is_done = open(&disk).is_ok();
        disk.crash(&mut Prng::new(ops));
        let (_, again) = open(&disk).unwrap_or_else(|error| panic!("{ops} operations: {error}"));
        assert_eq!(again, found, "{ops} operations");
        if is_done {
            return;
        }
    }
    panic!("no start came to its end");
}

#[test]
fn unreadable_marks_are_lost_marks_and_a_dying_device_is_no_damaged_log() {
    let disk = log();
    let (last, len) = {
        let disk = disk.fork();
        open(&disk).expect("undamaged");
        segments(&disk).pop().expect("there is a log")
    };
    disk.flip_bit(&last, len - 100, 0);
    let hit = open(&disk).expect("a torn tail").1;
    assert_eq!(hit.iter().filter(|group| is_damaged(group)).count(), 1);
    disk.make_unreadable(&FileName::new("wal-recovering").expect("a valid name"), 0);
    let (_, groups) = open(&disk).expect("the log itself is whole");
    assert!(groups.iter().all(is_damaged));

    let wide = WalOptions {
        segment_bytes: 100 * BLOCK,
        ..small()
    };
    let disk = MemDisk::new(1);
    let (mut wal, _) = Wal::open(&mut disk.clone(), wide.clone(), IDENTITY, &[]).expect("an empty directory");
    store(&mut wal, &disk, &[create(1)]);
    for index in 1..100 {
        store(&mut wal, &disk, &[entries(1, index, 1, 1, &[1; 4000])]);
    }
    (1..70).for_each(|block| disk.make_unreadable(&segments(&disk)[0].0, block * BLOCK));
    let error = Wal::open(&mut disk.clone(), wide, IDENTITY, &[]).map(|_| GroupId(0));
    assert!(matches!(error, Err(WalError::Open { .. })), "{error:?}");
}
