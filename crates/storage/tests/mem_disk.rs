//! The promises of `MemDisk` beyond the contract: what a crash may and may not do.

use bytes::Bytes;
use settle_base::{Mono, Prng};
use settle_storage::{Disk, DiskErrorKind, DiskRead, FileName, Latency, MemDisk, Op, Token, contract};

fn name(name: &str) -> FileName {
    FileName::new(name).expect("a valid name")
}

fn write(offset: u64, byte: u8, len: usize) -> Op {
    let file = name("a");
    let data = Bytes::from(vec![byte; len]);
    Op::Write { file, offset, data }
}

fn sync() -> Op {
    Op::Sync { file: name("a") }
}

fn slow() -> Latency {
    Latency {
        write_us: 10..20,
        sync_us: 100..300,
        other_us: 50..60,
        stalls_per_million: 100_000,
        stall_us: 1_000..5_000,
    }
}

fn created(seed: u64) -> MemDisk {
    let mut disk = MemDisk::new(seed);
    let file = name("a");
    disk.run(Op::Create { file, reserve: 0 }).expect("created");
    disk
}

#[test]
fn the_contract_holds_with_and_without_latency() {
    contract::run(|| MemDisk::new(1), |_| panic!("without latency nothing waits"));
    let make = || {
        let disk = MemDisk::new(2);
        disk.set_latency(slow());
        disk
    };
    contract::run(make, |disk| {
        disk.advance(disk.next_due().expect("something is in flight"))
    });
}

#[test]
fn a_crash_keeps_what_was_synced_and_takes_its_chance_with_the_rest() {
    let (mut lost, mut kept, mut torn) = (0, 0, 0);
    for seed in 0..300 {
        let mut disk = created(seed);
        disk.run(write(0, b'd', 2048)).expect("written");
        disk.run(sync()).expect("synced");
        disk.run(write(2048, b'u', 2048)).expect("written");
        disk.submit(Token(1), write(4096, b'v', 2048));
        let report = disk.crash(&mut Prng::new(seed));
        assert_eq!(report.in_flight, 1);
        lost += report.writes_lost;
        kept += report.writes_kept;
        torn += report.writes_torn;
        let bytes = disk.read(&name("a"), 0, 9000).expect("readable");
        assert!(
            bytes[..2048].iter().all(|b| *b == b'd'),
            "seed {seed}: a synced byte changed"
        );
        assert!(disk.poll().is_none(), "the completion died with the process");
    }
    assert!(lost > 50 && kept > 50 && torn > 50, "{lost} {kept} {torn}");
}

#[test]
fn a_later_unsynced_write_can_survive_an_earlier_one() {
    let reordered = (0..100).any(|seed| {
        let mut disk = created(seed);
        disk.run(write(0, b'1', 512)).expect("written");
        disk.run(write(512, b'2', 512)).expect("written");
        disk.crash(&mut Prng::new(seed));
        let bytes = disk.read(&name("a"), 0, 1024).expect("readable");
        bytes.len() == 1024 && bytes[0] == 0 && bytes[512] == b'2'
    });
    assert!(reordered);
}

#[test]
fn with_the_mutant_disk_a_synced_write_can_be_lost() {
    let lost = (0..20).any(|seed| {
        let mut disk = created(seed);
        disk.set_sync_is_nothing(true);
        disk.run(write(0, b'd', 512)).expect("written");
        disk.run(sync()).expect("it says so");
        disk.crash(&mut Prng::new(seed));
        disk.read(&name("a"), 0, 512).expect("readable").is_empty()
    });
    assert!(lost);
}

#[test]
fn kill_loses_completions_but_no_bytes() {
    let mut disk = created(1);
    disk.set_latency(slow());
    disk.submit(Token(1), write(0, b'x', 700));
    disk.kill();
    assert_eq!(disk.read(&name("a"), 0, 900).expect("readable").len(), 700);
    assert!(disk.poll().is_none());
}

#[test]
fn after_one_failed_sync_the_file_takes_nothing_more_until_it_is_gone_or_the_process_is() {
    let (from, to) = (name("a"), name("b"));
    let rename = Op::Rename { from, to };
    let (file, reserve) = (name("a"), 0);
    let create = Op::Create { file, reserve };
    let mut disk = created(1);
    disk.run(write(0, b'x', 10)).expect("written");
    disk.fail_syncs(1);
    assert_eq!(disk.run(sync()).expect_err("it fails").kind, DiskErrorKind::Io);
    for op in [sync(), write(0, b'y', 1), rename] {
        assert_eq!(disk.run(op).expect_err("poisoned").kind, DiskErrorKind::Poisoned);
    }
    let (mut removed, mut replaced) = (disk.fork(), disk.fork());
    removed
        .run(Op::Remove { file: name("a") })
        .expect("what is removed promises nothing");
    removed.run(create.clone()).expect("another file");
    replaced.run(create).expect("another file");
    disk.crash(&mut Prng::new(1));
    for mut disk in [disk, removed, replaced] {
        disk.run(sync()).expect("nothing is left of what failed");
    }
}

#[test]
fn a_disk_that_allocates_late_is_full_at_the_sync() {
    let mut disk = created(1);
    disk.set_capacity(Some(1000));
    disk.set_allocates_late(true);
    disk.run(write(0, b'x', 1000)).expect("written");
    disk.run(sync()).expect("it fits");
    disk.run(write(500, b'y', 501)).expect("the cache takes it");
    assert_eq!(disk.run(sync()).expect_err("full").kind, DiskErrorKind::NoSpace);
    assert_eq!(disk.run(sync()).expect_err("poisoned").kind, DiskErrorKind::Poisoned);
    disk.set_capacity(None);
    disk.crash(&mut Prng::new(1));
    assert_eq!(disk.read(&name("a"), 0, 500).expect("readable"), vec![b'x'; 500]);
}

#[test]
fn a_full_disk_refuses_growth_and_allows_overwriting() {
    let mut disk = created(1);
    disk.set_capacity(Some(1000));
    disk.run(write(0, b'x', 800)).expect("it fits");
    assert_eq!(
        disk.run(write(800, b'y', 201)).expect_err("full").kind,
        DiskErrorKind::NoSpace
    );
    assert!(disk.used() <= 1000);
    disk.run(write(300, b'z', 500)).expect("nothing grows");
    let file = name("b");
    let error = disk.run(Op::Create { file, reserve: 500 }).expect_err("full");
    assert_eq!(error.kind, DiskErrorKind::NoSpace);
    disk.set_capacity(None);
    disk.run(write(800, b'y', 201)).expect("space is back");
}

#[test]
fn a_power_failure_leaves_no_more_on_a_full_disk_than_it_has_space_for() {
    for seed in 0..50 {
        let mut disk = created(seed);
        disk.set_capacity(Some(1000));
        disk.run(write(0, b'x', 1000)).expect("it fits");
        disk.run(sync()).expect("healthy");
        let file = name("b");
        let create = Op::Create {
            file: file.clone(),
            reserve: 0,
        };
        disk.run(create).expect("a name takes no space");
        let data = Bytes::from_static(b"behind what did not fit either");
        let behind = Op::Write {
            file,
            offset: 400,
            data,
        };
        disk.run(behind).expect_err("full");
        disk.crash(&mut Prng::new(seed));
        assert!(disk.used() <= 1000, "seed {seed}");
    }
}

#[test]
fn operations_complete_when_their_time_has_come_and_not_before() {
    let mut disk = created(1);
    disk.set_latency(Latency {
        write_us: 100..100,
        ..Latency::NONE
    });
    disk.submit(Token(1), write(0, b'x', 1));
    disk.submit(Token(2), write(1, b'x', 1));
    assert!(disk.poll().is_none());
    disk.advance(Mono(99));
    assert!(disk.poll().is_none());
    disk.advance(Mono(100));
    let first = disk.poll().expect("due");
    assert_eq!((first.token, first.took.as_micros()), (Token(1), 100));
    assert!(disk.poll().is_none(), "one file serves one operation after the other");
    assert_eq!(disk.next_due(), Some(Mono(200)));
}
