//! Makes durable what an earlier process wrote and no later batch proves.
//!
//! A killed process leaves good batches that only the system's cache holds. Syncing them would do nothing if a sync of
//! them had failed before: the system then drops the pages, shows them as clean, and a later power cut takes what was
//! acknowledged on the word of that second sync. Nor can they be written again where they are: a write that tears may
//! take what is good. So every segment with such batches is copied into a new file, which takes its name once it is
//! durable. At the end of the last one stands a batch without records, the *proof*: the file only has its name if
//! everything before it is durable. The next start therefore copies nothing again.
//!
//! *Cost.* What is unproven are the last batches, at most `max_in_flight` + 1, and these are copied with all of the good
//! part of their segment before them: at most `segment_bytes` and what is in flight, once per start after a run that
//! wrote something; half a segment on average. It does not grow with the log: 64 MiB take 0.1 s where a device writes
//! 600 MB/s. [`RecoveryReport::copied_bytes`](crate::RecoveryReport::copied_bytes) tells.
//!
//! *A full disk* must not keep a node from starting, nor put its groups in doubt, since all nodes of a cluster may be full
//! at once. One spare is there for that, and made anew from what the copied segment leaves. The zeros behind the segment's
//! end are given up first, then spares, then copies of damaged segments, which are for people. Only if all of that is not
//! enough, the batches stay where they are, and the groups that they may hold are as if the last batch had been damaged.
//!
//! What else of an earlier process is trusted: a file under its final name (marks, evidence, snapshots, the directory's
//! identity) got that name after a sync that succeeded. A hole and a mended segment header are written again and synced
//! by whoever needs them, and until they are proven the damage under them is found again. Spares are zeroed anew. Names
//! are in the file system's journal, and one that fails to write that goes on no further.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use settle_storage::{Act, DiskError, DiskErrorKind, DiskRead, FileName, Op};

use crate::{
    WalError,
    format::{BATCH_HEADER_LEN, BatchHeader, Lsn, SEGMENT_HEADER_LEN, SegmentHeader, segment_name},
    marks::{Mark, MarkKind},
    scan::{Scan, open_error},
    segment_reader::SegmentReader,
};

/// Bytes written at once.
const STEP: usize = 256 << 10;

/// A batch with records that no batch read since proves.
#[derive(Clone, Copy)]
pub(crate) struct Unproven {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) end: Lsn,
    pub(crate) group_mask: u64,
}

/// What could not be made durable for lack of space: where it begins, and whose it is.
pub(crate) struct InDoubt {
    pub(crate) at: Mark,
    pub(crate) group_mask: u64,
}

/// The name under which a file is written until it is whole and durable.
pub(crate) fn temporary_name() -> FileName {
    FileName::new("wal-copy.tmp").expect("a valid name")
}

/// What can be removed to make room on a full disk, the least valuable last.
pub(crate) struct Room {
    pub(crate) spares: Vec<(FileName, u64)>,
    /// The newest first.
    pub(crate) evidence: Vec<FileName>,
}

impl Room {
    /// Tries until it works or there is nothing left to be given up.
    pub(crate) fn with<D: DiskRead, T>(
        &mut self,
        disk: &mut D,
        mut attempt: impl FnMut(&mut D) -> Result<T, DiskError>,
    ) -> Result<T, DiskError> {
        loop {
            match attempt(disk) {
                Err(error) if error.kind == DiskErrorKind::NoSpace => {
                    let spare = self.spares.pop().map(|(file, _)| file);
                    let Some(file) = spare.or_else(|| self.evidence.pop()) else {
                        return Err(error);
                    };
                    disk.run(Op::Remove { file })?;
                }
                done => return done,
            }
        }
    }
}

/// Leaves everything that was read durable, and proven, but for what is returned; and in blocks that read.
pub(crate) fn make_durable(
    scan: &mut Scan,
    disk: &mut impl DiskRead,
    room: &mut Room,
) -> Result<Option<InDoubt>, WalError> {
    if settle_base::mutant!("unproven_synced_again") {
        scan.unproven.clear();
    }
    let first_unproven = scan.unproven.front().map(|batch| batch.segment);
    let is_unproven = |number: u64| first_unproven.is_some_and(|first| number >= first);
    let is_to_be_copied = |number: u64| is_unproven(number) || scan.has_bad_blocks.contains(&number);
    let good = scan.ends.iter().map(|(number, (len, end))| (*number, *len, *end));
    let good: Vec<_> = good.filter(|(number, ..)| is_to_be_copied(*number)).collect();
    for (i, &(number, len, end)) in good.iter().enumerate() {
        let is_last = i + 1 == good.len() && is_unproven(number);
        let copy = Copy {
            file: segment_name(number),
            len: scan.files.get(&number).copied().unwrap_or(len),
            end,
            mends: scan
                .mends()
                .into_iter()
                .filter(|mend| mend.0 == number)
                .map(|mend| (mend.1, mend.2))
                .collect(),
            proof: is_last.then(|| BatchHeader::proof(end, scan.identity.incarnation)),
        };
        let mut copied = copy.make(disk);
        if is_full(&copied) && copy.len > len && !scan.has_bad_blocks.contains(&number) {
            // Behind the good part is nothing of worth. The length need not be durable.
            let file = copy.file.clone();
            disk.run(Op::Truncate { file, len }).map_err(open_error)?;
            scan.files.insert(number, len);
        }
        if is_full(&copied) {
            copied = room.with(disk, |disk| copy.make(disk));
        }
        if is_full(&copied) && !is_unproven(number) {
            // It is as damaged as before, and the next start finds it so.
            continue;
        }
        if is_full(&copied) {
            let rest: Vec<_> = good[i..].iter().map(|(number, ..)| *number).collect();
            return keep_in_doubt(scan, disk, &rest).map(Some);
        }
        let bytes = copied.map_err(open_error)?;
        scan.files.insert(number, bytes);
        scan.report.copied_bytes += bytes;
        if let Some(proof) = copy.proof {
            scan.end = Lsn(end.0 + proof.len());
            scan.ends.insert(number, (bytes, scan.end));
            scan.proven = end;
            scan.unproven.clear();
        }
    }
    Ok(None)
}

fn is_full<T>(result: &Result<T, DiskError>) -> bool {
    matches!(result, Err(error) if error.kind == DiskErrorKind::NoSpace)
}

fn keep_in_doubt(scan: &mut Scan, disk: &mut impl DiskRead, segments: &[u64]) -> Result<InDoubt, WalError> {
    for number in segments {
        let file = segment_name(*number);
        disk.run(Op::Sync { file }).map_err(open_error)?;
    }
    let batches = || scan.unproven.iter().filter(|batch| segments.contains(&batch.segment));
    let first = batches()
        .next()
        .expect("only segments with unproven batches are copied");
    let (kind, segment, offset) = (MarkKind::LastBatch, first.segment, first.offset);
    let at = Mark { kind, segment, offset };
    let group_mask = batches().fold(0, |mask, batch| mask | batch.group_mask);
    Ok(InDoubt { at, group_mask })
}

/// The good part of a segment, on its way into a new file.
struct Copy {
    file: FileName,
    /// Of the file.
    len: u64,
    /// Where the good part ends.
    end: Lsn,
    /// What stands in the place of damage, by offset.
    mends: BTreeMap<u64, Bytes>,
    proof: Option<BatchHeader>,
}

/// How far it has come.
struct Position {
    offset: u64,
    lsn: Lsn,
}

impl Copy {
    /// Puts a durable copy in the place of the file. Returns the copy's length.
    ///
    /// Each batch is checked once more, since the cache may have let go of what was read, and the disk may hold
    /// something else.
    fn make(&self, disk: &mut impl DiskRead) -> Result<u64, DiskError> {
        let to = temporary_name();
        let create = Op::Create {
            file: to.clone(),
            reserve: 0,
        };
        disk.run(create)?;
        let copied = self.write(disk, &to);
        if copied.is_err() {
            // The first error is the one that tells.
            drop(disk.run(Op::Remove { file: to }));
            return copied;
        }
        let from = to;
        disk.run(Op::Rename {
            from,
            to: self.file.clone(),
        })?;
        copied
    }

    fn write(&self, disk: &mut impl DiskRead, to: &FileName) -> Result<u64, DiskError> {
        let mut len = 0;
        let mut write = |disk: &mut _, offset, data: Bytes| {
            len = offset + data.len() as u64;
            let file = to.clone();
            DiskRead::run(disk, Op::Write { file, offset, data })
        };
        let mut at = Position { offset: 0, lsn: Lsn(0) };
        while at.offset == 0 || at.lsn < self.end {
            let offset = at.offset;
            let data = self.read(disk, &mut at)?;
            write(disk, offset, data)?;
        }
        if let Some(proof) = self.proof {
            write(disk, at.offset, Bytes::copy_from_slice(&proof.encode()))?;
        }
        disk.run(Op::Sync { file: to.clone() })?;
        Ok(len)
    }

    /// What lies there: the segment's header, some batches. Behind a hole's header nothing is of worth, so what follows
    /// one has another offset.
    fn read(&self, disk: &mut impl DiskRead, at: &mut Position) -> Result<Bytes, DiskError> {
        let mut reader = SegmentReader::new(disk, self.file.clone(), self.len);
        let changed = || DiskError::new(DiskErrorKind::Io, Act::Read, &self.file);
        let header_at = |reader: &mut SegmentReader<'_, _>, offset| match self.mends.get(&offset) {
            Some(mend) => Ok(mend.clone()),
            None => reader.bytes(offset, BATCH_HEADER_LEN)?.ok_or_else(changed),
        };
        let mut out = BytesMut::new();
        if at.offset == 0 {
            let header = header_at(&mut reader, 0)?;
            at.lsn = SegmentHeader::decode(&header).ok_or_else(changed)?.base;
            at.offset = SEGMENT_HEADER_LEN as u64;
            out.extend_from_slice(&header);
        }
        while at.lsn < self.end && out.len() < STEP {
            let bytes = header_at(&mut reader, at.offset)?;
            let header = BatchHeader::decode(&bytes).filter(|header| header.lsn == at.lsn);
            let header = header.ok_or_else(changed)?;
            let body_at = at.offset + bytes.len() as u64;
            let body = match header.body_len as usize {
                // A hole may be the last that the file has.
                0 => Bytes::new(),
                len => reader.bytes(body_at, len)?.ok_or_else(changed)?,
            };
            if crc32c::crc32c(&body) != header.body_crc && !settle_base::mutant!("torn_tail_valid") {
                return Err(changed());
            }
            out.extend_from_slice(&bytes);
            out.extend_from_slice(&body);
            at.offset += header.len();
            at.lsn = Lsn(at.lsn.0 + header.len());
            if header.is_hole() {
                break;
            }
        }
        Ok(out.freeze())
    }
}
