//! Real files: the contract, the lock, and what a killed process keeps.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    time::Duration,
};

use bytes::Bytes;
use settle_disk_file::{DiskKind, FileDisk, FileDiskOptions, OpenDirError};
use settle_storage::{Completion, Disk, DiskErrorKind, DiskRead, FileName, Op, Token, contract};

const PATIENCE: Duration = Duration::from_secs(20);

fn name(name: &str) -> FileName {
    FileName::new(name).expect("a valid name")
}

// The runtime opens the disk on one thread and uses it on another.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<FileDisk>();
};

/// A disk and what its notification rings.
struct Belled {
    disk: FileDisk,
    bell: Receiver<()>,
}

fn open(path: &Path, kind: DiskKind) -> Belled {
    let (ring, bell) = sync_channel(1);
    let disk = FileDisk::open(
        path,
        FileDiskOptions {
            kind,
            bulk_prefixes: &["b"],
            before: None,
        },
        move || {
            let _ = ring.try_send(());
        },
    );
    Belled {
        disk: disk.expect("the directory is free"),
        bell,
    }
}

impl Belled {
    fn wait(&self) {
        self.bell
            .recv_timeout(PATIENCE)
            .expect("the disk rings when something completed");
    }
}

impl Disk for Belled {
    fn submit(&mut self, token: Token, op: Op) {
        self.disk.submit(token, op);
    }
    fn poll(&mut self) -> Option<Completion> {
        self.disk.poll()
    }
}

impl DiskRead for Belled {
    fn list(&mut self) -> Result<Vec<(FileName, u64)>, settle_storage::DiskError> {
        self.disk.list()
    }
    fn read(&mut self, file: &FileName, offset: u64, len: usize) -> Result<Bytes, settle_storage::DiskError> {
        self.disk.read(file, offset, len)
    }
    fn run(&mut self, op: Op) -> Result<(), settle_storage::DiskError> {
        self.disk.run(op)
    }
}

#[test]
fn the_contract_holds_for_each_kind_of_disk() {
    for kind in [DiskKind::Real, DiskKind::Lossy, DiskKind::LossyWithoutSync] {
        let root = tempfile::tempdir().expect("a temporary directory");
        let mut count = 0;
        let make = || {
            count += 1;
            open(&root.path().join(count.to_string()), kind)
        };
        contract::run(make, |disk| disk.wait());
    }
}

#[test]
fn the_contract_holds_when_the_caller_does_small_operations_itself() {
    for kind in [DiskKind::Real, DiskKind::Lossy] {
        let root = tempfile::tempdir().expect("a temporary directory");
        let mut count = 0;
        let make = || {
            count += 1;
            let mut belled = open(&root.path().join(count.to_string()), kind);
            belled.disk.gather();
            belled
        };
        // Two of three dispatches offer the caller's thread: what both do must stay in order.
        let mut turn = 0;
        contract::run(make, |belled| {
            turn += 1;
            if !belled.disk.dispatch(turn % 3 != 0) {
                belled.wait();
            }
        });
    }
}

#[test]
fn a_gathered_write_and_sync_is_done_by_the_caller_and_a_large_one_by_the_thread() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let mut belled = open(root.path(), DiskKind::Real);
    let file = name("a");
    belled
        .run(Op::Create {
            file: file.clone(),
            reserve: 0,
        })
        .expect("it is created");
    belled.disk.gather();
    let mut write_and_sync = |len: usize| {
        let data = Bytes::from(vec![7; len]);
        let (file, offset) = (file.clone(), 0);
        belled.disk.submit(
            Token(1),
            Op::Write {
                file: file.clone(),
                offset,
                data,
            },
        );
        belled.disk.submit(Token(2), Op::Sync { file });
        let by_caller = belled.disk.dispatch(true);
        let mut done = 0;
        while done < 2 {
            match belled.disk.poll() {
                Some(completion) => {
                    completion.result.expect("the operation succeeds");
                    done += 1;
                }
                None => belled.wait(),
            }
        }
        by_caller
    };
    assert!(write_and_sync(4096));
    assert!(!write_and_sync(1 << 20));
}

#[test]
fn a_directory_is_used_by_one_disk_at_a_time() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let first = open(root.path(), DiskKind::Real);
    let second = FileDisk::open(root.path(), FileDiskOptions::default(), || {});
    let error = second.err().expect("the directory is taken");
    assert!(matches!(error, OpenDirError::Locked { .. }), "{error}");
    assert_eq!(error.code().to_string(), "DF0001");
    drop(first);
    open(root.path(), DiskKind::Real);
}

#[test]
fn dropping_a_disk_does_everything_that_was_submitted() {
    for kind in [DiskKind::Real, DiskKind::Lossy, DiskKind::LossyWithoutSync] {
        let root = tempfile::tempdir().expect("a temporary directory");
        let mut disk = open(root.path(), kind);
        disk.submit(
            Token(1),
            Op::Create {
                file: name("a"),
                reserve: 0,
            },
        );
        for i in 0..100 {
            let data = Bytes::from(vec![i as u8; 10]);
            disk.submit(
                Token(2),
                Op::Write {
                    file: name("a"),
                    offset: i * 10,
                    data,
                },
            );
        }
        drop(disk);
        assert_eq!(std::fs::read(root.path().join("a")).expect("readable").len(), 1000);
    }
}

#[test]
fn syncs_that_wait_together_complete_in_order_and_share_the_work() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let mut disk = open(root.path(), DiskKind::Real);
    disk.run(Op::Create {
        file: name("a"),
        reserve: 0,
    })
    .expect("made");
    let mut shared = 0;
    // Whether operations queue up behind one another is the scheduler's choice: it gets several chances.
    for _ in 0..50 {
        for i in 0..10 {
            let data = Bytes::from(vec![i as u8; 8]);
            disk.submit(
                Token(2 * i),
                Op::Write {
                    file: name("a"),
                    offset: 8 * i,
                    data,
                },
            );
            disk.submit(Token(2 * i + 1), Op::Sync { file: name("a") });
        }
        let mut completions = Vec::new();
        while completions.len() < 20 {
            match disk.poll() {
                Some(completion) => completions.push(completion),
                None => disk.wait(),
            }
        }
        let tokens: Vec<_> = completions.iter().map(|c| c.token.0).collect();
        assert_eq!(tokens, (0..20).collect::<Vec<_>>());
        assert!(completions.iter().all(|c| c.result.is_ok()));
        let syncs: Vec<_> = completions.iter().skip(1).step_by(2).map(|c| c.took).collect();
        shared += syncs.windows(2).filter(|pair| pair[0] == pair[1]).count();
        if shared > 0 {
            break;
        }
    }
    assert!(shared > 0, "one sync's time is that of all that it served");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_device_is_told_from_a_failed_sync_and_the_latter_poisons_the_file() {
    let root = tempfile::tempdir().expect("a temporary directory");
    // `/dev/full` refuses every write for want of space, and cannot be synced at all.
    std::os::unix::fs::symlink("/dev/full", root.path().join("a")).expect("linked");
    let mut disk = open(root.path(), DiskKind::Real);
    let write = || Op::Write {
        file: name("a"),
        offset: 0,
        data: Bytes::from_static(b"x"),
    };
    let full = disk.run(write()).expect_err("there is no space");
    assert_eq!((full.kind, full.os_error), (DiskErrorKind::NoSpace, Some(28)));
    assert_eq!(full.to_string(), "write of a: no space left (os error 28)");
    let failed = disk.run(Op::Sync { file: name("a") }).expect_err("a character device");
    assert_eq!(failed.kind, DiskErrorKind::Io);
    assert_eq!(disk.run(write()).expect_err("poisoned").kind, DiskErrorKind::Poisoned);
    assert_eq!(
        disk.run(Op::Sync { file: name("a") }).expect_err("poisoned").kind,
        DiskErrorKind::Poisoned
    );
}

#[test]
fn a_name_whose_file_failed_to_sync_is_free_again_once_that_file_is_gone() {
    for kind in [DiskKind::Real, DiskKind::Lossy] {
        let root = tempfile::tempdir().expect("a temporary directory");
        let syncs = std::sync::atomic::AtomicU32::new(0);
        let before = move |op: &Op| match op {
            // Each second one, as where a quota is full.
            Op::Sync { .. }
                if syncs
                    .fetch_add(1, std::sync::atomic::Ordering::SeqCst)
                    .is_multiple_of(2) =>
            {
                Err(std::io::Error::from(std::io::ErrorKind::QuotaExceeded))
            }
            _ => Ok(()),
        };
        let options = FileDiskOptions {
            kind,
            before: Some(std::sync::Arc::new(before)),
            ..FileDiskOptions::default()
        };
        let mut disk = FileDisk::open(root.path(), options, || {}).expect("the directory is free");
        let (from, to, file) = (name("a"), name("b"), name("a"));
        let rename = Op::Rename { from, to };
        let create = Op::Create { file, reserve: 0 };
        let (file, offset) = (name("a"), 0);
        let write = |data: &'static [u8]| {
            let (file, data) = (file.clone(), Bytes::from_static(data));
            Op::Write { file, offset, data }
        };
        let sync = || Op::Sync { file: name("a") };
        disk.run(create.clone()).expect("made");
        for removes in [true, false] {
            disk.run(write(b"lost")).expect("written");
            assert_eq!(disk.run(sync()).expect_err("full").kind, DiskErrorKind::NoSpace);
            for op in [write(b"more"), sync(), rename.clone()] {
                assert_eq!(disk.run(op).expect_err("poisoned").kind, DiskErrorKind::Poisoned);
            }
            if removes {
                disk.run(Op::Remove { file: name("a") }).expect("removed");
            }
            disk.run(create.clone()).expect("made anew");
            disk.run(write(b"new")).expect("written");
            disk.run(sync()).expect("there is nothing of the other file in it");
            assert_eq!(disk.read(&name("a"), 0, 9).expect("readable"), b"new"[..]);
        }
    }
}

/// A disk whose operations on `gated` wait for the returned sender; what `fails` says fails so.
fn with_before(path: &Path, before: impl Fn(&Op) -> std::io::Result<()> + Send + Sync + 'static) -> Belled {
    let (ring, bell) = sync_channel(1);
    let options = FileDiskOptions {
        bulk_prefixes: &["b"],
        before: Some(std::sync::Arc::new(before)),
        ..FileDiskOptions::default()
    };
    let disk = FileDisk::open(path, options, move || {
        let _ = ring.try_send(());
    });
    let disk = disk.expect("the directory is free");
    Belled { disk, bell }
}

#[test]
fn the_log_is_written_and_synced_while_a_bulk_file_is_being_written() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let (open_gate, gate) = std::sync::mpsc::sync_channel::<()>(1);
    let gate = std::sync::Mutex::new(gate);
    let mut disk = with_before(root.path(), move |op| {
        if op.file().as_str().starts_with('b') {
            // Nothing of a bulk file happens before the test says so.
            let _ = gate.lock().expect("one thread waits").recv_timeout(PATIENCE);
        }
        Ok(())
    });
    let create = |file| Op::Create {
        file: name(file),
        reserve: 0,
    };
    let write = |file, data: &'static [u8]| Op::Write {
        file: name(file),
        offset: 0,
        data: Bytes::from_static(data),
    };
    disk.submit(Token(1), create("bulk"));
    disk.submit(Token(2), write("bulk", b"zeros"));
    for i in 0..100 {
        disk.submit(Token(100 + 3 * i), create("log"));
        disk.submit(Token(101 + 3 * i), write("log", b"log"));
        disk.submit(Token(102 + 3 * i), Op::Sync { file: name("log") });
    }
    let collect = |count: usize, disk: &mut Belled| {
        let mut tokens = Vec::new();
        while tokens.len() < count {
            match disk.poll() {
                Some(completion) => {
                    completion.result.expect("nothing fails");
                    tokens.push(completion.token.0);
                }
                None => disk.wait(),
            }
        }
        tokens
    };
    assert_eq!(collect(300, &mut disk), (100..400).collect::<Vec<_>>());
    // A rename takes a file from one lane to the other: what follows waits for what came before.
    let (from, to) = (name("bulk"), name("log"));
    disk.submit(Token(3), Op::Rename { from, to });
    disk.submit(Token(4), write("log", b"Z"));
    disk.submit(Token(5), Op::Sync { file: name("log") });
    disk.submit(Token(6), create("bulk"));
    for _ in 0..4 {
        open_gate.send(()).expect("the disk waits");
    }
    let tokens = collect(6, &mut disk);
    let of_log: Vec<_> = tokens.iter().copied().filter(|token| *token <= 5).collect();
    assert_eq!(of_log, [1, 2, 3, 4, 5]);
    assert!(tokens.iter().position(|t| *t == 6) > tokens.iter().position(|t| *t == 3));
    assert_eq!(&disk.read(&name("log"), 0, 9).expect("readable")[..], b"Zeros");
}

#[test]
fn after_a_failed_sync_no_operation_on_the_file_succeeds_and_other_files_go_on() {
    for fails_at in [0, 1, 2] {
        let root = tempfile::tempdir().expect("a temporary directory");
        let syncs = std::sync::atomic::AtomicU32::new(0);
        let mut disk = with_before(root.path(), move |op| {
            let is_hit = matches!(op, Op::Sync { file } if file.as_str() == "a")
                && syncs.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == fails_at;
            if is_hit {
                Err(std::io::Error::from_raw_os_error(5))
            } else {
                Ok(())
            }
        });
        let mut failed = false;
        for file in ["a", "c"] {
            let (file, reserve) = (name(file), 0);
            disk.run(Op::Create { file, reserve }).expect("made");
        }
        for i in 0..5u64 {
            let data = Bytes::from_static(b"x");
            let (file, offset) = (name("a"), i);
            let written = disk.run(Op::Write { file, offset, data });
            let synced = disk.run(Op::Sync { file: name("a") });
            if failed {
                assert_eq!(written.expect_err("poisoned").kind, DiskErrorKind::Poisoned);
                assert_eq!(synced.expect_err("poisoned").kind, DiskErrorKind::Poisoned);
            } else if i == u64::from(fails_at) {
                let error = synced.expect_err("the device said so");
                assert_eq!((error.kind, error.os_error), (DiskErrorKind::Io, Some(5)));
                failed = true;
            } else {
                synced.expect("the device is well");
            }
            disk.run(Op::Sync { file: name("c") }).expect("another file");
        }
    }
}

#[test]
fn files_of_others_are_not_listed() {
    let root = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(root.path().join("Not Ours"), "x").expect("written");
    std::fs::create_dir(root.path().join("directory")).expect("made");
    assert_eq!(open(root.path(), DiskKind::Real).list().expect("listable"), vec![]);
}

/// What a lossy disk keeps over a kill: written, synced, written again, not synced.
#[test]
fn a_killed_lossy_process_loses_exactly_what_it_had_not_synced() {
    let kept = |kind: &str| {
        let root = tempfile::tempdir().expect("a temporary directory");
        run_child_until_it_is_killed("child_that_writes", root.path(), kind);
        let bytes = std::fs::read(root.path().join("a")).expect("the name was durable");
        let renamed = std::fs::read(root.path().join("c")).expect("the rename was durable");
        (bytes, renamed)
    };
    assert_eq!(kept("real"), (b"synced, then not".to_vec(), b"moved".to_vec()));
    assert_eq!(kept("lossy"), (b"synced".to_vec(), b"".to_vec()));
    assert_eq!(kept("lossy-without-sync"), (b"".to_vec(), b"".to_vec()));
}

const CHILD_DIR: &str = "SETTLE_TEST_CHILD_DIR";
const CHILD_KIND: &str = "SETTLE_TEST_CHILD_KIND";

/// Starts this test binary again as the named child, which says when it is done and then waits to be killed.
fn run_child_until_it_is_killed(child: &str, path: &Path, kind: &str) {
    let mut command = Command::new(std::env::current_exe().expect("this binary has a path"));
    command
        .args([child, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD_DIR, path)
        .env(CHILD_KIND, kind);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("the child starts");
    let output = std::io::BufReader::new(child.stdout.take().expect("it is piped"));
    let mut lines = std::io::BufRead::lines(output);
    assert!(
        lines.any(|line| line.is_ok_and(|line| line.contains("ready to be killed"))),
        "the child ended early"
    );
    child.kill().expect("it runs");
    child.wait().expect("it was killed");
}

/// The child's disk; `None` when this is an ordinary test run, in which the children do nothing.
fn child_disk() -> Option<Belled> {
    let path = std::env::var_os(CHILD_DIR)?;
    let kind = match std::env::var(CHILD_KIND).expect("set with the directory").as_str() {
        "real" => DiskKind::Real,
        "lossy" => DiskKind::Lossy,
        _ => DiskKind::LossyWithoutSync,
    };
    Some(open(Path::new(&path), kind))
}

fn wait_to_be_killed() {
    println!("ready to be killed");
    loop {
        std::thread::park();
    }
}

#[test]
fn child_that_writes() {
    let Some(mut disk) = child_disk() else { return };
    let write = |file, offset, data: &'static [u8]| Op::Write {
        file: name(file),
        offset,
        data: Bytes::from_static(data),
    };
    disk.run(Op::Create {
        file: name("a"),
        reserve: 0,
    })
    .expect("made");
    disk.run(write("a", 0, b"synced")).expect("written");
    disk.run(Op::Sync { file: name("a") }).expect("synced");
    disk.run(write("a", 6, b", then not")).expect("written");
    disk.run(Op::Create {
        file: name("b"),
        reserve: 0,
    })
    .expect("made");
    disk.run(write("b", 0, b"moved")).expect("written");
    disk.run(Op::Rename {
        from: name("b"),
        to: name("c"),
    })
    .expect("renamed");
    wait_to_be_killed();
}
