//! The record over a disk that crashes, fills up and is damaged.

use settle_base::Prng;
use settle_history::{Cursor, Entry, GAPS_MAX, Gap, History, HistoryConfig, Page, Search};
use settle_storage::{DiskRead, FileName, MemDisk};

const CONFIG: HistoryConfig = HistoryConfig {
    bytes_max: 2 << 20,
    age_max_ms: 1_000_000,
};

fn open(disk: &MemDisk) -> History<MemDisk> {
    History::open(disk.clone(), CONFIG).expect("the disk works")
}

/// One entry for each index, and a payload that tells which.
fn append(history: &mut History<MemDisk>, index: u64, wall_ms: u64) -> bool {
    let payload = format!("{index} {}", "x".repeat(index as usize % 300));
    history.append(Entry {
        group: 1,
        index,
        id: 10_000 + index as i64,
        wall_ms,
        payload: payload.as_bytes(),
    })
}

fn all(history: &mut History<MemDisk>, limit: usize) -> Vec<u64> {
    let (mut found, mut before) = (Vec::new(), None);
    loop {
        let search = Search {
            before,
            limit,
            bytes_max: 100_000,
            ..Search::default()
        };
        let Page { found: part, next, .. } = history.search(&search, |_| true).expect("the disk works");
        assert!(part.len() <= limit);
        for entry in &part {
            assert!(entry.payload.starts_with(format!("{} ", entry.index).as_bytes()));
        }
        found.extend(part.iter().map(|entry| entry.index));
        before = next;
        if before.is_none() {
            return found;
        }
    }
}

fn is_falling_without_gaps(found: &[u64]) -> bool {
    found.windows(2).all(|pair| pair[0] == pair[1] + 1)
}

#[test]
fn a_crash_loses_nothing_that_was_flushed_and_what_is_applied_again_fills_in_the_rest_once() {
    let mut torn = 0;
    for seed in 0..40 {
        let mut prng = Prng::new(seed);
        let disk = MemDisk::new(seed);
        let mut history = open(&disk);
        let (mut next, mut durable) = (1, 0);
        for _ in 0..6 {
            for _ in 0..prng.below(400) {
                assert!(append(&mut history, next, next));
                next += 1;
                if prng.below(20) == 0 {
                    history.flush(next).expect("the disk works");
                    durable = next - 1;
                }
            }
            // The process dies within its next flush, wherever that has come to.
            disk.die_after(prng.below(4));
            let _ = history.flush(next);
            torn += disk.crash(&mut prng).writes_torn;
            history = open(&disk);
            let found = all(&mut history, 500);
            assert!(is_falling_without_gaps(&found), "seed {seed}: {found:?}");
            assert!(found.first().copied().unwrap_or(0) >= durable, "seed {seed}");
            // The log is applied again from some recorded entry on.
            for index in prng.between(1, found.first().map_or(1, |last| last + 1) + 1)..next {
                append(&mut history, index, next);
            }
            history.flush(next).expect("the disk works");
            let after = all(&mut history, 1_000);
            let mut unique = after.clone();
            unique.dedup();
            assert_eq!(after, unique, "seed {seed}: recorded twice");
            next = after.first().copied().unwrap_or(0) + 1;
            durable = next - 1;
        }
    }
    assert!(torn > 0, "no write was torn");
}

#[test]
fn bytes_and_age_are_bounded_and_the_oldest_go_first() {
    let disk = MemDisk::new(1);
    let mut history = open(&disk);
    for index in 1..=40_000 {
        append(&mut history, index, index);
        if index % 100 == 0 {
            history.flush(index).expect("the disk works");
            assert!(history.bytes() <= CONFIG.bytes_max, "{}", history.bytes());
        }
    }
    let found = all(&mut history, 1_000);
    assert!(found.len() > 8_000 && found[0] == 40_000 && is_falling_without_gaps(&found));
    history.flush(40_000 + CONFIG.age_max_ms - 1).expect("the disk works");
    assert_eq!(all(&mut history, 1_000)[0], 40_000);
    history.flush(40_000 + CONFIG.age_max_ms).expect("the disk works");
    assert_eq!((all(&mut history, 1_000), history.bytes()), (vec![], 0));
    // It goes on, and knows what it has recorded before.
    assert!(!append(&mut history, 40_000, 2_000_000));
    assert!(append(&mut history, 40_001, 2_000_000));
    history.flush(2_000_000).expect("the disk works");
    assert_eq!(all(&mut open(&disk), 10), [40_001]);
}

#[test]
fn a_search_finds_by_id_time_and_content_through_pages() {
    let disk = MemDisk::new(2);
    let mut history = open(&disk);
    for index in 1..=3_000 {
        append(&mut history, index, index * 10);
        if index % 500 == 0 {
            history.flush(index * 10).expect("the disk works");
        }
    }
    let mut history = open(&disk);
    let mut found = |search: Search, wanted: fn(&Entry<'_>) -> bool| {
        let search = Search {
            limit: 3,
            bytes_max: u64::MAX,
            ..search
        };
        let page = history.search(&search, wanted).expect("the disk works");
        let indexes: Vec<u64> = page.found.iter().map(|entry| entry.index).collect();
        (indexes, page.next)
    };
    let by_id = Search {
        id: Some(10_077),
        ..Search::default()
    };
    assert_eq!(found(by_id, |_| true), (vec![77], None));
    let in_time = Search {
        from_ms: Some(20_000),
        until_ms: Some(20_050),
        ..Search::default()
    };
    let (first, next) = found(in_time, |_| true);
    assert_eq!(first, [2_004, 2_003, 2_002]);
    let rest = Search {
        before: next,
        ..in_time
    };
    assert_eq!(found(rest, |_| true), (vec![2_001, 2_000], None));
    let hundreds = |entry: &Entry<'_>| entry.index.is_multiple_of(1_000);
    assert_eq!(found(Search::default(), hundreds), (vec![3_000, 2_000, 1_000], None));
    let nowhere = Search {
        before: Some(Cursor { segment: 0, offset: 0 }),
        ..Search::default()
    };
    assert_eq!(found(nowhere, |_| true), (vec![], None));
}

#[test]
fn damage_hides_the_rest_of_its_segment_and_nothing_else() {
    let disk = MemDisk::new(3);
    let mut history = open(&disk);
    for index in 1..=2_000 {
        append(&mut history, index, index);
        if index % 100 == 0 {
            history.flush(index).expect("the disk works");
        }
    }
    let files = disk.clone().list().expect("the disk works");
    assert!(files.len() > 2, "{files:?}");
    disk.flip_bit(&files[1].0, files[1].1 / 2, 3);
    let mut history = open(&disk);
    let page = history
        .search(
            &Search {
                limit: 10_000,
                bytes_max: u64::MAX,
                ..Search::default()
            },
            |_| true,
        )
        .expect("damage is no failure");
    assert_eq!(page.damaged, 1);
    assert!((1_500..2_000).contains(&page.found.len()), "{}", page.found.len());
    let first: FileName = files[0].0.clone();
    disk.flip_bit(&first, 9, 0);
    assert!(open(&disk).bytes() > 0);
    assert!(
        disk.clone()
            .list()
            .expect("the disk works")
            .iter()
            .all(|(file, _)| *file != first)
    );
}

#[test]
fn a_full_disk_costs_entries_and_nothing_more() {
    let disk = MemDisk::new(4);
    let mut history = open(&disk);
    append(&mut history, 1, 1);
    history.flush(1).expect("there is room");
    disk.set_capacity(Some(disk.used()));
    append(&mut history, 2, 2);
    assert!(history.flush(2).is_err());
    disk.set_capacity(None);
    append(&mut history, 3, 3);
    history.flush(3).expect("there is room again");
    assert_eq!(all(&mut history, 10), [3, 1]);
    assert_eq!(all(&mut open(&disk), 10), [3, 1]);
}

/// Writes of a torn end reach the disk in any order: what is whole behind the tear must not come back when the place
/// of the tear is written again.
#[test]
fn what_is_whole_behind_a_torn_place_is_cut_off_too() {
    let disk = MemDisk::new(5);
    let mut history = open(&disk);
    // Entries of one size.
    for index in [300, 600, 900] {
        append(&mut history, index, index);
    }
    history.flush(900).expect("the disk works");
    let (file, bytes) = disk.clone().list().expect("the disk works")[0].clone();
    let entry = (bytes - 46) / 3;
    disk.flip_bit(&file, bytes - entry - 10, 0);
    let mut history = open(&disk);
    assert_eq!(all(&mut history, 10), [300]);
    assert!(append(&mut history, 600, 1_000));
    history.flush(1_000).expect("the disk works");
    assert_eq!(all(&mut history, 10), [600, 300]);
    assert_eq!(all(&mut open(&disk), 10), [600, 300]);
}

#[test]
fn a_gap_is_told_for_as_long_as_the_record_reaches_back_to_it_and_is_no_entry() {
    let gap = |index| Gap {
        group: 1,
        index,
        wall_ms: index,
    };
    let told = |history: &History<MemDisk>| history.gaps().map(|gap| gap.index).collect::<Vec<_>>();
    let disk = MemDisk::new(4);
    let mut history = open(&disk);
    for index in 1..=10 {
        append(&mut history, index, index);
    }
    assert!(
        !history.append_gap(gap(5)),
        "the record reaches further than the snapshot"
    );
    assert!(history.append_gap(gap(50)) && !history.append_gap(gap(50)));
    assert!(!append(&mut history, 49, 51), "it is behind the snapshot");
    assert!(append(&mut history, 51, 51));
    history.flush(51).expect("the disk works");
    assert_eq!(all(&mut history, 100), [51, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(told(&open(&disk)), [50]);
    // Later segments know of it by their heads, until the one in which it was is gone.
    let mut history = open(&disk);
    for index in 52..=40_000 {
        append(&mut history, index, index);
        if index % 1_000 == 0 {
            history.flush(index).expect("the disk works");
            let oldest = all(&mut history, 1_000).last().copied().unwrap_or(0);
            assert!(oldest > 50 || told(&history) == [50]);
            assert_eq!(told(&open(&disk)), told(&history));
        }
    }
    assert_eq!(told(&history), [] as [u64; 0], "nothing of that time is left");
    for index in 0..GAPS_MAX as u64 + 10 {
        assert!(history.append_gap(gap(50_000 + index)));
    }
    assert_eq!((told(&history).len(), told(&history)[0]), (GAPS_MAX, 50_010));
}
