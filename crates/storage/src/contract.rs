//! What every [`Disk`] promises, as one suite that each implementation's tests run.

use bytes::Bytes;

use crate::{Completion, Disk, DiskErrorKind, DiskRead, FileName, Op, Token};

/// Runs the suite. `make` gives a new disk over an empty directory; `wait` blocks (or lets simulated time pass) until
/// `poll` may have something new.
///
/// # Panics
/// When the disk breaks a promise.
pub fn run<D: Disk + DiskRead>(mut make: impl FnMut() -> D, mut wait: impl FnMut(&mut D)) {
    let wait = &mut wait;
    completions_echo_tokens_in_submission_order_per_file(make(), wait);
    a_write_is_read_back_and_a_gap_reads_as_zeros(make(), wait);
    a_reserved_file_reads_as_zeros(make(), wait);
    reads_are_short_only_at_the_end(make(), wait);
    create_replaces_and_rename_replaces(make(), wait);
    missing_files_are_named(make(), wait);
    run_comes_after_everything_submitted(make(), wait);
}

fn name(name: &str) -> FileName {
    FileName::new(name).expect("a valid name")
}

/// Waits for `count` completions.
fn collect<D: Disk>(disk: &mut D, count: usize, wait: &mut impl FnMut(&mut D)) -> Vec<Completion> {
    let mut got = Vec::new();
    while got.len() < count {
        match disk.poll() {
            Some(completion) => got.push(completion),
            None => wait(disk),
        }
    }
    assert!(disk.poll().is_none(), "one completion per operation");
    got
}

fn all_ok<D: Disk>(disk: &mut D, ops: Vec<Op>, wait: &mut impl FnMut(&mut D)) {
    let count = ops.len();
    for (i, op) in ops.into_iter().enumerate() {
        disk.submit(Token(i as u64), op);
    }
    for completion in collect(disk, count, wait) {
        completion.result.expect("the operation succeeds");
    }
}

fn write(file: &str, offset: u64, data: &'static [u8]) -> Op {
    Op::Write {
        file: name(file),
        offset,
        data: Bytes::from_static(data),
    }
}

fn create(file: &str, reserve: u64) -> Op {
    Op::Create {
        file: name(file),
        reserve,
    }
}

fn completions_echo_tokens_in_submission_order_per_file<D: Disk + DiskRead>(
    mut disk: D,
    wait: &mut impl FnMut(&mut D),
) {
    disk.submit(Token(100), create("a", 0));
    disk.submit(Token(200), create("b", 0));
    for i in 1..20 {
        let file = name("a");
        let data = Bytes::from(vec![i as u8; 3]);
        disk.submit(Token(100 + i), Op::Write { file, offset: i, data });
        disk.submit(Token(200 + i), Op::Sync { file: name("b") });
    }
    let got = collect(&mut disk, 40, wait);
    assert!(got.iter().all(|c| c.result.is_ok()), "{got:?}");
    let of = |base: u64| {
        let tokens = got.iter().map(|c| c.token.0);
        tokens.filter(|t| (base..base + 100).contains(t)).collect::<Vec<_>>()
    };
    assert_eq!(of(100), (100..120).collect::<Vec<_>>());
    assert_eq!(of(200), (200..220).collect::<Vec<_>>());
    // Overlapping writes took effect in order as well.
    let bytes = disk.read(&name("a"), 0, 64).expect("the file is there");
    assert_eq!(&bytes[..4], &[0, 1, 2, 3]);
    assert_eq!(&bytes[19..], &[19, 19, 19]);
}

fn a_write_is_read_back_and_a_gap_reads_as_zeros<D: Disk + DiskRead>(mut disk: D, wait: &mut impl FnMut(&mut D)) {
    let ops = vec![
        create("a", 0),
        write("a", 4, b"late"),
        write("a", 0, b"x"),
        write("a", 8, b""),
    ];
    all_ok(&mut disk, ops, wait);
    all_ok(&mut disk, vec![Op::Sync { file: name("a") }], wait);
    assert_eq!(&disk.read(&name("a"), 0, 100).expect("readable")[..], b"x\0\0\0late");
    all_ok(
        &mut disk,
        vec![Op::Truncate {
            file: name("a"),
            len: 5,
        }],
        wait,
    );
    all_ok(
        &mut disk,
        vec![Op::Truncate {
            file: name("a"),
            len: 7,
        }],
        wait,
    );
    assert_eq!(&disk.read(&name("a"), 0, 100).expect("readable")[..], b"x\0\0\0l\0\0");
}

fn a_reserved_file_reads_as_zeros<D: Disk + DiskRead>(mut disk: D, wait: &mut impl FnMut(&mut D)) {
    all_ok(&mut disk, vec![create("a", 8192), write("a", 1, b"1")], wait);
    assert_eq!(disk.list().expect("listable"), vec![(name("a"), 8192)]);
    let bytes = disk.read(&name("a"), 0, 9000).expect("readable");
    assert_eq!(bytes.len(), 8192);
    assert!(
        bytes
            .iter()
            .enumerate()
            .all(|(i, b)| *b == if i == 1 { b'1' } else { 0 })
    );
}

fn reads_are_short_only_at_the_end<D: Disk + DiskRead>(mut disk: D, wait: &mut impl FnMut(&mut D)) {
    all_ok(&mut disk, vec![create("a", 0), write("a", 0, b"0123456789")], wait);
    let mut read = |offset, len| disk.read(&name("a"), offset, len).expect("readable").to_vec();
    assert_eq!(read(2, 3), b"234");
    assert_eq!(read(8, 3), b"89");
    assert_eq!(read(10, 3), b"");
    assert_eq!(read(u64::MAX / 4, 3), b"");
}

fn create_replaces_and_rename_replaces<D: Disk + DiskRead>(mut disk: D, wait: &mut impl FnMut(&mut D)) {
    let rename = Op::Rename {
        from: name("a"),
        to: name("b"),
    };
    let ops = vec![
        create("a", 0),
        write("a", 0, b"old contents"),
        create("a", 0),
        write("a", 0, b"new"),
        create("b", 0),
        write("b", 0, b"replaced by the rename"),
        rename,
        write("b", 3, b"er"),
    ];
    all_ok(&mut disk, ops, wait);
    assert_eq!(disk.list().expect("listable"), vec![(name("b"), 5)]);
    assert_eq!(&disk.read(&name("b"), 0, 9).expect("readable")[..], b"newer");
    all_ok(&mut disk, vec![Op::Remove { file: name("b") }], wait);
    assert_eq!(disk.list().expect("listable"), vec![]);
}

fn missing_files_are_named<D: Disk + DiskRead>(mut disk: D, wait: &mut impl FnMut(&mut D)) {
    let ops = [
        write("no", 0, b"x"),
        Op::Sync { file: name("no") },
        Op::Truncate {
            file: name("no"),
            len: 0,
        },
        Op::Remove { file: name("no") },
        Op::Rename {
            from: name("no"),
            to: name("b"),
        },
    ];
    for op in ops {
        let act = op.act();
        disk.submit(Token(7), op);
        let completion = collect(&mut disk, 1, wait).remove(0);
        let error = completion.result.expect_err("there is no such file");
        assert_eq!(
            (error.kind, error.act, error.file),
            (DiskErrorKind::NotFound, act, Some(name("no")))
        );
    }
    let error = disk.read(&name("no"), 0, 1).expect_err("there is no such file");
    assert_eq!(error.kind, DiskErrorKind::NotFound);
}

fn run_comes_after_everything_submitted<D: Disk + DiskRead>(mut disk: D, wait: &mut impl FnMut(&mut D)) {
    disk.submit(Token(1), create("a", 0));
    disk.submit(Token(2), write("a", 0, b"first"));
    disk.run(Op::Truncate {
        file: name("a"),
        len: 2,
    })
    .expect("the file is there");
    assert_eq!(&disk.read(&name("a"), 0, 9).expect("readable")[..], b"fi");
    let got = collect(&mut disk, 2, wait);
    assert_eq!(got.iter().map(|c| c.token).collect::<Vec<_>>(), [Token(1), Token(2)]);
    assert!(disk.run(Op::Sync { file: name("no") }).is_err());
}
