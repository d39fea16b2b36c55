//! Batches that only the system's cache holds: durable once the log is open, whatever became of an earlier sync of them.

mod support;

use bytes::Bytes;
use settle_base::{GroupId, Prng};
use settle_storage::{DiskError, DiskRead, FileName, MemDisk, Op};
use settle_wal::{Damage, RecoveredGroup, Wal, WalError};
use support::*;

/// A log of `batches` of which a process was killed after the sync of one of the last two had failed: the system shows all
/// that it wrote of that one, and perhaps has nothing of it.
fn after_a_failed_sync(seed: u64, batches: u64) -> (MemDisk, Vec<RecoveredGroup>) {
    let disk = MemDisk::new(seed);
    let (mut wal, _) = open(&disk).expect("an empty directory");
    for group in 1..=4 {
        store(&mut wal, &disk, &[create(group), hard_state(group, 1, 1, 0)]);
    }
    for i in 1..=batches {
        let group = i % 3 + 1;
        let records = [hard_state(group, 5, i, 0), entries(group, 1, 1, 5, &[i as u8; 500])];
        if i + 2 <= batches {
            store(&mut wal, &disk, &records);
        } else {
            wal.append(&records).expect("room");
            wal.flush(&mut disk.clone());
        }
    }
    disk.fail_syncs(1);
    while poll(&mut wal, &disk).is_err() {}
    drop(wal);
    disk.kill();
    let shown = open(&disk.fork()).expect("undamaged").1;
    (disk, shown)
}

fn is_whole(groups: &[RecoveredGroup]) -> bool {
    groups.iter().all(|group| group.damage == Damage::None)
}

#[test]
fn what_a_failed_sync_left_in_the_cache_survives_a_power_cut_once_the_log_is_open() {
    let mut would_be_lost = 0;
    for seed in 0..60 {
        let (disk, shown) = after_a_failed_sync(seed, seed % 20 + 1);
        let at_once = disk.fork();
        at_once.crash(&mut Prng::new(seed));
        would_be_lost += u32::from(open(&at_once).expect("a torn tail").1 != shown);

        let (mut wal, found) = open(&disk).expect("undamaged");
        assert_eq!(found, shown, "seed {seed}");
        assert_eq!(wal.proven(), wal.durable(), "seed {seed}: nothing is left to be proven");
        let unused = disk.fork();
        store(&mut wal, &disk, &[hard_state(4, 9, 1, 0)]);
        disk.crash(&mut Prng::new(seed));
        let mut found = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}")).1;
        assert!(is_whole(&found), "seed {seed}: {found:?}");
        found[3].hard_state = shown[3].hard_state;
        assert_eq!(found, shown, "seed {seed}");

        unused.crash(&mut Prng::new(seed));
        let (wal, found) = open(&unused).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(found, shown, "seed {seed}");
        assert_eq!(wal.recovery().copied_bytes, 0, "seed {seed}: the first start proved it");
    }
    assert!(would_be_lost > 20, "only {would_be_lost}");
}

#[test]
fn a_start_that_ends_anywhere_in_between_leaves_the_same_log() {
    let mut ends = 0;
    for seed in 0..20 {
        let (disk, shown) = after_a_failed_sync(seed, 12);
        for ops in 0..40 {
            let disk = disk.fork();
            disk.die_after(ops);
            let opened = open(&disk);
            let is_open = opened.is_ok();
            // Killed, its successor finds the same; after a power cut there is what was durable, and nothing was told.
            let killed = disk.fork();
            killed.kill();
            assert_eq!(
                open(&killed).expect("undamaged").1,
                shown,
                "seed {seed}, {ops} operations"
            );
            killed.crash(&mut Prng::new(ops));
            assert_eq!(
                open(&killed).expect("undamaged").1,
                shown,
                "seed {seed}, {ops} operations"
            );
            disk.crash(&mut Prng::new(ops));
            let found = open(&disk)
                .unwrap_or_else(|error| panic!("seed {seed}, {ops} operations: {error}"))
                .1;
            if is_open {
                assert_eq!(found, shown, "seed {seed}, {ops} operations");
                ends += 1;
                break;
            }
        }
    }
    assert_eq!(ends, 20, "each start comes to its end");
}

#[test]
fn at_most_a_segment_is_copied_for_an_unproven_tail() {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk).expect("an empty directory");
    store(&mut wal, &disk, &[create(1)]);
    for i in 1..=100 {
        store(&mut wal, &disk, &[entries(1, i, 1, 1, &[1; 300])]);
    }
    assert!(wal.stats().segment_bytes > 30_000);
    let (wal, _) = open(&disk).expect("undamaged");
    let copied = wal.recovery().copied_bytes;
    assert!((1..=small().segment_bytes + 64).contains(&copied), "{copied}");
}

#[test]
fn on_a_full_disk_a_start_gives_up_what_is_worth_less_and_else_doubts_what_it_cannot_make_durable() {
    let names = |disk: &MemDisk| -> Vec<String> {
        let files = disk.clone().list().expect("listable");
        files.into_iter().map(|(name, _)| name.to_string()).collect()
    };
    let with = |disk: &MemDisk, name: &str, len: u64| {
        let file = FileName::new(name).expect("a valid name");
        disk.clone()
            .run(Op::Create { file, reserve: len })
            .expect("there is room");
    };
    let (disk, shown) = after_a_failed_sync(3, 5);
    let (last, len) = segments(&disk).pop().expect("there is a log");
    let end = {
        let disk = disk.fork();
        open(&disk).expect("undamaged");
        segments(&disk).pop().expect("there is a log").1 - 64
    };
    assert!(end > len / 2, "the reserved rest alone does not do");

    // In this order: the spare that is there for it, of which there is one again, then evidence.
    let spare = "spare-0000000000000000";
    let bare = disk.fork();
    let file = FileName::new(spare).expect("a valid name");
    bare.clone().run(Op::Remove { file }).expect("opening makes one");
    for (disk, left) in [(disk, vec!["damaged-a", "damaged-b"]), (bare.fork(), vec!["damaged-b"])] {
        ["damaged-a", "damaged-b"]
            .iter()
            .for_each(|name| with(&disk, name, small().segment_bytes));
        disk.set_capacity(Some(disk.used()));
        let (wal, found) = open(&disk).expect("there was something to give up");
        assert_eq!(found, shown);
        assert_eq!(wal.proven(), wal.durable());
        let files = names(&disk);
        assert_eq!(files[..left.len()], left);
        assert!(files.contains(&spare.to_owned()), "{files:?}");
        disk.crash(&mut Prng::new(1));
        assert_eq!(open(&disk).expect("undamaged").1, shown);
    }

    // With nothing to give up the group of that batch is in doubt, with all that is known of it.
    let unproven = GroupId(2);
    let disk = bare;
    disk.clone()
        .run(Op::Truncate {
            file: last.clone(),
            len: end,
        })
        .expect("cut");
    disk.set_capacity(Some(disk.used() + 200));
    for _ in 0..2 {
        let (wal, found) = open(&disk).expect("a full disk is no reason to refuse");
        assert!(wal.proven() < wal.durable());
        assert!(!names(&disk).contains(&"wal-copy.tmp".to_owned()));
        for (found, shown) in found.iter().zip(&shown) {
            let is_in_doubt = matches!(found.damage, Damage::LastBatch { .. });
            assert_eq!(is_in_doubt, found.group == unproven, "{}", found.group);
            assert_eq!((&found.entries, found.hard_state), (&shown.entries, shown.hard_state));
        }
    }
    // What is told from there on survives, and so does the doubt, also when the batch is gone.
    disk.set_capacity(None);
    disk.crash(&mut Prng::new(1));
    let (_, found) = open(&disk).expect("a torn tail");
    assert!(found.iter().all(|found| is_damaged(found) == (found.group == unproven)));
}

#[test]
fn a_disk_that_is_full_at_the_sync_is_made_room_on_like_another() {
    let (disk, shown) = after_a_failed_sync(3, 5);
    disk.set_capacity(Some(disk.used()));
    disk.set_allocates_late(true);
    let (wal, found) = open(&disk).expect("there is a spare to give up");
    assert_eq!(found, shown);
    assert_eq!(wal.proven(), wal.durable());
    disk.crash(&mut Prng::new(1));
    assert_eq!(open(&disk).expect("undamaged").1, shown);
}

/// Lets the system drop its clean pages as soon as the log has been read.
struct Forgetful {
    disk: MemDisk,
    has_forgotten: bool,
}

impl DiskRead for Forgetful {
    fn list(&mut self) -> Result<Vec<(FileName, u64)>, DiskError> {
        self.disk.list()
    }

    fn read(&mut self, file: &FileName, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        self.disk.read(file, offset, len)
    }

    fn run(&mut self, op: Op) -> Result<(), DiskError> {
        if !self.has_forgotten {
            self.has_forgotten = true;
            self.disk.crash(&mut Prng::new(1));
        }
        self.disk.run(op)
    }
}

#[test]
fn a_batch_that_the_cache_let_go_of_between_reading_and_copying_is_not_taken_for_durable() {
    let mut refused = 0;
    for seed in 0..20 {
        let (disk, shown) = after_a_failed_sync(seed, 3);
        let mut forgetful = Forgetful {
            disk: disk.clone(),
            has_forgotten: false,
        };
        match Wal::open(&mut forgetful, small(), IDENTITY, &[]) {
            Ok((_, found)) => assert_eq!(found, shown, "it was on the disk"),
            Err(WalError::Open { source }) => {
                assert_eq!(source.file.as_ref(), Some(&segments(&disk)[0].0));
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
        open(&disk).expect("what is on the disk is a log");
    }
    assert!(refused > 3, "only {refused}");
}
