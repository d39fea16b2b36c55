//! The file that remembers which groups are recovering, since mending the log destroys the evidence.
//!
//! ```text
//! magic 8 | version 4 | count 4 | Lsn of the damage 8 | count × (group 8 | kind 1 | segment 8 | offset 8) | CRC-32C of all
//! before 4. Kinds: 1 last batch, 2 middle, 3 snapshot file.
//! ```
//! It is written, whole and durable, before the log is mended. Healing is a record in the log; the file goes at the next
//! opening at which every group in it has healed.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use settle_base::GroupId;
use settle_storage::{DiskError, DiskErrorKind, DiskRead, FileName, Op};

use crate::format::Lsn;

const MAGIC: &[u8; 8] = b"SettlMRK";
const VERSION: u32 = 2;
const FIXED_LEN: usize = 28;
const MARK_LEN: usize = 25;

/// Where a group's damage was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    pub kind: MarkKind,
    pub segment: u64,
    pub offset: u64,
}

/// What was damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MarkKind {
    LastBatch = 1,
    Middle = 2,
    SnapshotFile = 3,
}

/// The groups marked when the log was cut at `lsn`. `Healed` records from there on count.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Marks {
    pub lsn: Lsn,
    pub groups: BTreeMap<GroupId, Mark>,
}

pub(crate) fn file_name() -> FileName {
    FileName::new("wal-recovering").expect("a valid name")
}

fn temporary_name() -> FileName {
    FileName::new("wal-recovering.tmp").expect("a valid name")
}

impl Marks {
    /// No file: no marks. A file that is not intact is `Ok(None)`: every group has to be taken for marked.
    pub(crate) fn read(disk: &mut impl DiskRead) -> Result<Option<Marks>, DiskError> {
        let (file, mut bytes) = (file_name(), BytesMut::new());
        loop {
            match disk.read(&file, bytes.len() as u64, 64 << 10) {
                Ok(part) if part.is_empty() => return Ok(Marks::decode(&bytes)),
                Ok(part) => bytes.extend_from_slice(&part),
                Err(error) if error.kind == DiskErrorKind::NotFound => return Ok(Some(Marks::default())),
                Err(error) => return Err(error),
            }
        }
    }

    /// Durable on return.
    pub(crate) fn write(&self, disk: &mut impl DiskRead) -> Result<(), DiskError> {
        let file = temporary_name();
        disk.run(Op::Create {
            file: file.clone(),
            reserve: 0,
        })?;
        disk.run(Op::Write {
            file: file.clone(),
            offset: 0,
            data: self.encode(),
        })?;
        disk.run(Op::Sync { file: file.clone() })?;
        disk.run(Op::Rename {
            from: file,
            to: file_name(),
        })
    }

    pub(crate) fn remove(disk: &mut impl DiskRead) -> Result<(), DiskError> {
        disk.run(Op::Remove { file: file_name() })
    }

    fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(FIXED_LEN + self.groups.len() * MARK_LEN);
        out.put_slice(MAGIC);
        out.put_u32_le(VERSION);
        out.put_u32_le(self.groups.len() as u32);
        out.put_u64_le(self.lsn.0);
        for (group, mark) in &self.groups {
            out.put_u64_le(group.0);
            out.put_u8(mark.kind as u8);
            out.put_u64_le(mark.segment);
            out.put_u64_le(mark.offset);
        }
        let crc = crc32c::crc32c(&out);
        out.put_u32_le(crc);
        out.freeze()
    }

    fn decode(bytes: &[u8]) -> Option<Marks> {
        let (mut body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) || body.len() + 4 < FIXED_LEN || !body.starts_with(MAGIC) {
            return None;
        }
        body.advance(MAGIC.len());
        let (version, count) = (body.get_u32_le(), body.get_u32_le() as usize);
        let lsn = Lsn(body.get_u64_le());
        if version != VERSION || body.len() != count.checked_mul(MARK_LEN)? {
            return None;
        }
        let mut groups = BTreeMap::new();
        while !body.is_empty() {
            let group = GroupId(body.get_u64_le());
            let kind = match body.get_u8() {
                1 => MarkKind::LastBatch,
                2 => MarkKind::Middle,
                3 => MarkKind::SnapshotFile,
                _ => return None,
            };
            let (segment, offset) = (body.get_u64_le(), body.get_u64_le());
            groups.insert(group, Mark { kind, segment, offset });
        }
        Some(Marks { lsn, groups })
    }
}

#[cfg(test)]
mod tests {
    use settle_storage::{Disk, MemDisk, Token};

    use super::*;

    #[test]
    fn marks_come_back_whole_or_not_at_all() {
        let mut disk = MemDisk::new(1);
        assert_eq!(Marks::read(&mut disk).expect("readable"), Some(Marks::default()));
        let kind = MarkKind::Middle;
        let mark = Mark {
            kind,
            segment: 3,
            offset: 99,
        };
        let marks = Marks {
            lsn: Lsn(7),
            groups: [(GroupId(1), mark), (GroupId(300), mark)].into(),
        };
        marks.write(&mut disk).expect("written");
        assert_eq!(Marks::read(&mut disk).expect("readable"), Some(marks.clone()));
        let len = marks.encode().len() as u64;
        for offset in 0..len {
            let damaged = disk.fork();
            damaged.flip_bit(&file_name(), offset, 3);
            assert_eq!(Marks::read(&mut damaged.clone()).expect("readable"), None);
        }
        disk.submit(
            Token(1),
            Op::Truncate {
                file: file_name(),
                len: len - 1,
            },
        );
        disk.poll();
        assert_eq!(Marks::read(&mut disk).expect("readable"), None);
    }
}
