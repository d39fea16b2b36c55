//! The bytes of a segment. They are frozen: a difference here means that existing directories no longer open, or that the
//! version must rise.

mod support;

use std::fmt::Write;

use expect_test::expect_file;
use settle_base::GroupId;
use settle_storage::{DiskRead, MemDisk, Op};
use settle_wal::Record;
use support::*;

fn write_log() -> MemDisk {
    let disk = MemDisk::new(1);
    let (mut wal, _) = open(&disk).expect("an empty directory");
    let group = GroupId(3);
    store(
        &mut wal,
        &disk,
        &[
            create(1),
            create(2),
            hard_state(1, 7, 0xabcd, 2),
            entries(1, 1, 3, 7, b"data"),
        ],
    );
    store(
        &mut wal,
        &disk,
        &[
            snapshot(1, 2, 7, false),
            snapshot(2, 9, 1, true),
            Record::Destroy { group },
        ],
    );
    store(
        &mut wal,
        &disk,
        &[create(3), Record::Healed { group }, entries(1, 3, 1, 8, b"")],
    );
    disk
}

#[test]
fn a_segment_is_these_bytes_and_these_bytes_are_this_log() {
    let disk = write_log();
    let mut model = open(&disk).expect("undamaged").1;
    // Opening sealed the segment: it ends with its last batch.
    let (file, len) = segments(&disk).remove(0);
    let bytes = disk.clone().read(&file, 0, len as usize).expect("readable");
    let mut text = String::new();
    for line in bytes.chunks(32) {
        for byte in line {
            write!(text, "{byte:02x}").expect("a string takes it");
        }
        text.push('\n');
    }
    expect_file!["vectors/segment-v1.hex"].assert_eq(&text);

    let frozen = include_str!("vectors/segment-v1.hex");
    let digits: Vec<_> = frozen.chars().filter(|c| c.is_ascii_hexdigit()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16).expect("hex");
    let data: Vec<u8> = digits.chunks(2).map(byte).collect();
    let mut other = MemDisk::new(2);
    other
        .run(Op::Create {
            file: file.clone(),
            reserve: 0,
        })
        .expect("made");
    other
        .run(Op::Write {
            file,
            offset: 0,
            data: data.into(),
        })
        .expect("written");
    let mut groups = open(&other).expect("the frozen bytes are a log").1;
    for list in [&mut model, &mut groups] {
        list.sort_by_key(|g| g.group);
    }
    assert_eq!(groups, model);
    assert_eq!((groups.len(), groups[0].entries.len()), (3, 1));
}
