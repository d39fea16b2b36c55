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
//! wrote something; half a segment on average. It does not grow with the log.
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

/// Leaves everything that was read durable, and proven, but for what is returned.
pub(crate) fn make_durable(
    scan: &mut Scan,
    disk: &mut impl DiskRead,
    room: &mut Room,
) -> Result<Option<InDoubt>, WalError> {
    if settle_base::mutant!("unproven_synced_again") {
        scan.unproven.clear();
    }
    let Some(first) = scan.unproven.front().copied() else {
        return Ok(None);
    };
    let good: Vec<_> = scan
        .ends
        .range(first.segment..)
        .map(|(n, (len, end))| (*n, *len, *end))
        .collect();
    for (i, &(number, len, end)) in good.iter().enumerate() {
        let proof = (i + 1 == good.len()).then(|| BatchHeader::proof(end, scan.identity.incarnation));
        let had = scan.files.get(&number).copied().unwrap_or(len);
        let mut copied = copy_segment(disk, number, had, end, proof);
        if is_full(&copied) && had > len {
            // Behind the good part is nothing of worth. The length need not be durable.
            let file = segment_name(number);
            disk.run(Op::Truncate { file, len }).map_err(open_error)?;
            scan.files.insert(number, len);
        }
        if is_full(&copied) {
            let had = had.min(len);
            copied = room.with(disk, |disk| copy_segment(disk, number, had, end, proof));
        }
        if is_full(&copied) {
            let rest: Vec<_> = good[i..].iter().map(|(number, ..)| *number).collect();
            return keep_in_doubt(scan, disk, &rest).map(Some);
        }
        let bytes = copied.map_err(open_error)?;
        scan.files.insert(number, bytes);
        scan.report.copied_bytes += bytes;
        if let Some(proof) = proof {
            scan.end = Lsn(end.0 + proof.len());
            scan.ends.insert(number, (bytes, scan.end));
            scan.proven = end;
        }
    }
    scan.unproven.clear();
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

/// Puts a durable copy in the place of a segment of `len` bytes that is good up to `end`. Returns the copy's length.
///
/// Each batch is checked once more, since the cache may have let go of what was read, and the disk may hold something else.
fn copy_segment(
    disk: &mut impl DiskRead,
    number: u64,
    len: u64,
    end: Lsn,
    proof: Option<BatchHeader>,
) -> Result<u64, DiskError> {
    let (from, to) = (segment_name(number), temporary_name());
    let create = Op::Create {
        file: to.clone(),
        reserve: 0,
    };
    disk.run(create)?;
    let mut source = Source {
        file: from.clone(),
        len,
        offset: 0,
        lsn: Lsn(0),
    };
    let copied = (|| {
        let mut len = 0;
        let mut write = |disk: &mut _, offset, data: Bytes| {
            len = offset + data.len() as u64;
            let file = to.clone();
            DiskRead::run(disk, Op::Write { file, offset, data })
        };
        while source.offset == 0 || source.lsn < end {
            let offset = source.offset;
            let data = source.next(disk, end)?;
            write(disk, offset, data)?;
        }
        if let Some(proof) = proof {
            write(disk, source.offset, Bytes::copy_from_slice(&proof.encode()))?;
        }
        disk.run(Op::Sync { file: to.clone() })?;
        Ok(len)
    })();
    if copied.is_err() {
        // The first error is the one that tells.
        drop(disk.run(Op::Remove { file: to }));
        return copied;
    }
    disk.run(Op::Rename { from: to, to: from })?;
    copied
}

/// The good part of a segment, read in order.
struct Source {
    file: FileName,
    len: u64,
    offset: u64,
    /// At `offset`, once the segment's header has been read.
    lsn: Lsn,
}

impl Source {
    /// What lies at `offset`: some batches, none from `end` on. Behind a hole's header nothing is of worth, so what
    /// follows one has another offset.
    fn next(&mut self, disk: &mut impl DiskRead, end: Lsn) -> Result<Bytes, DiskError> {
        let mut reader = SegmentReader::new(disk, self.file.clone(), self.len);
        let changed = || DiskError::new(DiskErrorKind::Io, Act::Read, &self.file);
        let mut out = BytesMut::new();
        if self.offset == 0 {
            let header = reader.bytes(0, SEGMENT_HEADER_LEN)?.ok_or_else(changed)?;
            self.lsn = SegmentHeader::decode(&header).ok_or_else(changed)?.base;
            self.offset = header.len() as u64;
            out.extend_from_slice(&header);
        }
        while self.lsn < end && out.len() < STEP {
            let bytes = reader.bytes(self.offset, BATCH_HEADER_LEN)?.ok_or_else(changed)?;
            let header = BatchHeader::decode(&bytes).filter(|header| header.lsn == self.lsn);
            let header = header.ok_or_else(changed)?;
            let body_at = self.offset + bytes.len() as u64;
            let body = reader.bytes(body_at, header.body_len as usize)?.ok_or_else(changed)?;
            if crc32c::crc32c(&body) != header.body_crc && !settle_base::mutant!("torn_tail_valid") {
                return Err(changed());
            }
            out.extend_from_slice(&bytes);
            out.extend_from_slice(&body);
            self.offset += header.len();
            self.lsn = Lsn(self.lsn.0 + header.len());
            if header.is_hole() {
                break;
            }
        }
        Ok(out.freeze())
    }
}
