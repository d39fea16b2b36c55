//! Opening: read forward, judge what does not read, cut the tail, and leave everything that is returned durable.

use std::collections::BTreeMap;

use settle_base::GroupId;
use settle_storage::{DiskError, DiskRead, FileName, Op};

use crate::{
    LogIdentity, WalError,
    format::{
        BATCH_HEADER_LEN, BATCH_MAGIC, BatchHeader, Lsn, SEGMENT_HEADER_LEN, SegmentHeader, VERSION, group_bit,
        segment_name, segment_number,
    },
    groups::{Damage, GroupIndex, RecoveredGroup},
    marks::{Mark, Marks},
    record::{self, Record},
    segment_reader::SegmentReader,
};

/// What opening found.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RecoveryReport {
    /// There was no log at all: the first opening of a directory, or a lost one.
    pub was_empty: bool,
    pub segments: u64,
    pub batches: u64,
    pub bytes: u64,
    /// Where an unproven, damaged tail was cut off. A group that only the tail knew is in no list: the host must treat
    /// any group that it misses as damaged.
    pub cut: Option<(FileName, u64)>,
}

/// Everything that `Wal` goes on from.
pub(crate) struct Recovered {
    pub groups: BTreeMap<GroupId, RecoveredGroup>,
    pub index: GroupIndex,
    /// Segments kept, and their lengths.
    pub segments: BTreeMap<u64, u64>,
    pub end: Lsn,
    /// Marked groups, and whether the log says that they have healed.
    pub marked: BTreeMap<GroupId, bool>,
    pub report: RecoveryReport,
}

pub(crate) fn recover(disk: &mut impl DiskRead, identity: LogIdentity) -> Result<Recovered, WalError> {
    let files = disk.list().map_err(open_error)?;
    let segments = files
        .into_iter()
        .filter_map(|(name, len)| Some((segment_number(&name)?, len)));
    let old_marks = Marks::read(disk).map_err(open_error)?;
    let mut scan = Scan {
        identity,
        files: segments.collect(),
        // Without a readable file no healing is known to be later than the damage.
        marks_lsn: old_marks.as_ref().map_or(Lsn(u64::MAX), |m| m.lsn),
        groups: BTreeMap::new(),
        index: GroupIndex::default(),
        healed: Vec::new(),
        ends: Vec::new(),
        end: Lsn(0),
        proven: Lsn(0),
        report: RecoveryReport::default(),
    };
    scan.report.was_empty = scan.files.is_empty();
    let stop = scan.read_forward(disk)?;
    let tail = scan.judge_tail(disk, stop)?;
    for group in scan.groups.values() {
        if !group.is_contiguous() {
            return Err(WalError::Corrupt {
                file: segment_name(stop.segment),
                offset: stop.offset,
                groups: vec![group.group],
                what: "entries are missing before those that are left",
            });
        }
    }
    let marks = scan.mark(disk, old_marks, stop, &tail)?;
    scan.cut(disk, stop, &tail)?;
    scan.sync(disk)?;
    Ok(scan.finish(marks))
}

/// The first place that holds no intact batch.
#[derive(Clone, Copy)]
struct Stop {
    segment: u64,
    offset: u64,
    /// Why it does not read, when something is there.
    what: &'static str,
}

/// What lies at and behind the stop.
#[derive(Default)]
struct Tail {
    /// Something is there: the first place that is not zero.
    damage: Option<Mark>,
    /// Groups that it may hold, as far as intact headers tell.
    group_mask: u64,
    /// The greatest `durable_to` of any intact header there.
    durable_to: Lsn,
}

struct Scan {
    identity: LogIdentity,
    /// Every segment file and its length.
    files: BTreeMap<u64, u64>,
    marks_lsn: Lsn,
    groups: BTreeMap<GroupId, RecoveredGroup>,
    index: GroupIndex,
    healed: Vec<GroupId>,
    /// Of each segment that was read: number, length of what is good, Lsn there.
    ends: Vec<(u64, u64, Lsn)>,
    end: Lsn,
    /// The greatest `durable_to` read.
    proven: Lsn,
    report: RecoveryReport,
}

impl Scan {
    fn read_forward(&mut self, disk: &mut impl DiskRead) -> Result<Stop, WalError> {
        let first = self.files.keys().next().copied().unwrap_or(1);
        let mut stop = Stop {
            segment: first,
            offset: 0,
            what: "there is no segment",
        };
        let numbers: Vec<_> = self.files.iter().map(|(number, len)| (*number, *len)).collect();
        for (i, (number, len)) in numbers.into_iter().enumerate() {
            let file = segment_name(number);
            if number != first + i as u64 {
                // The stop stays at the end of the segment before the gap.
                stop.what = "the next segment is missing";
                break;
            }
            let mut reader = SegmentReader::new(disk, file.clone(), len);
            let Some(header) = self.read_segment_header(&mut reader, &file)? else {
                stop.what = "the segment header does not read";
                if i == 0 && number > 1 {
                    // Older segments went because this one was durable.
                    return Err(self.corrupt(number, 0, u64::MAX, stop.what));
                }
                break;
            };
            if header.number != number {
                return Err(self.corrupt(number, 0, u64::MAX, "the segment has the name of another"));
            }
            if i > 0 && header.base != self.end {
                break;
            }
            if i == 0 {
                self.end = header.base;
                if number > 1 {
                    self.proven = header.base;
                }
            }
            stop = self.read_batches(&mut reader, number)?;
            if i == 0 && number > 1 && self.end == header.base {
                return Err(self.corrupt(number, stop.offset, u64::MAX, stop.what));
            }
            self.ends.push((number, stop.offset, self.end));
        }
        Ok(stop)
    }

    fn read_segment_header<D: DiskRead>(
        &self,
        reader: &mut SegmentReader<'_, D>,
        file: &FileName,
    ) -> Result<Option<SegmentHeader>, WalError> {
        let bytes = reader.bytes(0, SEGMENT_HEADER_LEN).map_err(open_error)?;
        let Some(header) = bytes.and_then(|b| SegmentHeader::decode(&b)) else {
            return Ok(None);
        };
        if header.version != VERSION {
            return Err(WalError::Version {
                file: file.clone(),
                version: header.version,
                supported: VERSION,
            });
        }
        if header.identity != self.identity {
            return Err(WalError::Foreign {
                file: file.clone(),
                expected: self.identity,
                found: header.identity,
            });
        }
        Ok(Some(header))
    }

    fn read_batches<D: DiskRead>(&mut self, reader: &mut SegmentReader<'_, D>, segment: u64) -> Result<Stop, WalError> {
        let mut offset = SEGMENT_HEADER_LEN as u64;
        loop {
            let stop = |what| Stop { segment, offset, what };
            let bytes = reader.bytes(offset, BATCH_HEADER_LEN).map_err(open_error)?;
            let Some(header) = bytes.and_then(|b| BatchHeader::decode(&b)) else {
                return Ok(stop("the batch header does not read"));
            };
            if header.lsn != self.end || header.incarnation != self.identity.incarnation {
                return Ok(stop("the batch is of another place"));
            }
            let body_at = offset + BATCH_HEADER_LEN as u64;
            let Some(mut body) = reader.bytes(body_at, header.body_len as usize).map_err(open_error)? else {
                return Ok(stop("the batch is cut short"));
            };
            let torn_tail_valid = settle_base::mutant!("torn_tail_valid");
            let records = if crc32c::crc32c(&body) == header.body_crc {
                record::decode_body(body, header.records)
                    .filter(|records| records.iter().all(|r| group_bit(r.group()) & header.group_mask != 0))
                    .ok_or_else(|| self.corrupt(segment, offset, header.group_mask, "the batch has no meaning"))?
            } else if torn_tail_valid {
                record::decode_while_good(&mut body, header.records)
            } else {
                return Ok(stop("the batch fails its checksum"));
            };
            for record in records {
                self.apply(record, segment, header.lsn);
            }
            offset += header.len();
            self.end = Lsn(self.end.0 + header.len());
            self.proven = self.proven.max(header.durable_to);
            self.report.batches += 1;
            self.report.bytes += header.len();
        }
    }

    fn apply(&mut self, record: Record, segment: u64, lsn: Lsn) {
        let group = record.group();
        if let Record::Healed { .. } = record {
            // An earlier healing says nothing about later damage.
            if lsn >= self.marks_lsn {
                self.healed.push(group);
            }
            return;
        }
        self.index.apply(&record, segment);
        let recovered = self.groups.entry(group).or_insert_with(|| RecoveredGroup::new(group));
        recovered.apply(record);
    }

    /// Looks at everything from the stop on, for proof that it was durable and for whom it may have held.
    fn judge_tail(&self, disk: &mut impl DiskRead, stop: Stop) -> Result<Tail, WalError> {
        let mut tail = Tail::default();
        for (&number, &len) in self.files.range(stop.segment..) {
            let mut reader = SegmentReader::new(disk, segment_name(number), len);
            let start = if number == stop.segment { stop.offset } else { 0 };
            self.look_through(&mut reader, number, start, &mut tail)
                .map_err(open_error)?;
        }
        if tail.durable_to > self.end {
            let (mut segment, mut offset) = (stop.segment, stop.offset);
            let mut mask = self.mask_at(disk, stop)?;
            if tail.damage.is_some_and(|at| at.segment != stop.segment) {
                (segment, offset, mask) = (stop.segment + 1, 0, u64::MAX);
            }
            return Err(self.corrupt(segment, offset, mask, stop.what));
        }
        Ok(tail)
    }

    /// The groups that the batch at the stop names, if its header is intact; otherwise all.
    fn mask_at(&self, disk: &mut impl DiskRead, stop: Stop) -> Result<u64, WalError> {
        let len = self.files.get(&stop.segment).copied().unwrap_or(0);
        let mut reader = SegmentReader::new(disk, segment_name(stop.segment), len);
        let bytes = reader.bytes(stop.offset, BATCH_HEADER_LEN).map_err(open_error)?;
        let header = bytes
            .and_then(|b| BatchHeader::decode(&b))
            .filter(|h| h.lsn == self.end);
        Ok(header.map_or(u64::MAX, |h| h.group_mask))
    }

    fn look_through<D: DiskRead>(
        &self,
        reader: &mut SegmentReader<'_, D>,
        segment: u64,
        start: u64,
        tail: &mut Tail,
    ) -> Result<(), DiskError> {
        let mut offset = start;
        if start == 0 {
            let header = reader.bytes(0, SEGMENT_HEADER_LEN)?;
            if header.is_some_and(|b| SegmentHeader::decode(&b).is_some_and(|h| h.base >= self.end)) {
                tail.damage.get_or_insert(Mark { segment, offset: 0 });
                offset = SEGMENT_HEADER_LEN as u64;
                let batch = reader.bytes(offset, BATCH_HEADER_LEN)?;
                if batch.and_then(|b| BatchHeader::decode(&b)).is_none() {
                    tail.group_mask = u64::MAX;
                }
            }
        }
        while offset < reader.len() {
            let rest = reader.some(offset, usize::MAX)?;
            let Some(zeros) = rest.iter().position(|b| *b != 0) else {
                if rest.is_empty() {
                    break;
                }
                offset += rest.len() as u64;
                continue;
            };
            offset += zeros as u64;
            tail.damage.get_or_insert(Mark { segment, offset });
            if rest[zeros] == BATCH_MAGIC[0]
                && let Some(bytes) = reader.bytes(offset, BATCH_HEADER_LEN)?
                && let Some(header) = BatchHeader::decode(&bytes)
                && header.incarnation == self.identity.incarnation
                && header.lsn >= self.end
            {
                tail.durable_to = tail.durable_to.max(header.durable_to);
                tail.group_mask |= header.group_mask;
                offset = offset.saturating_add(header.len());
            } else {
                // Bytes that no intact header owns may be of any group.
                tail.group_mask = u64::MAX;
                let after = &rest[zeros + 1..];
                let next = after.iter().position(|b| *b == BATCH_MAGIC[0]);
                offset += 1 + next.unwrap_or(after.len()) as u64;
            }
        }
        Ok(())
    }

    /// Remembers, durably, who is recovering, before the evidence goes.
    fn mark(
        &mut self,
        disk: &mut impl DiskRead,
        old: Option<Marks>,
        stop: Stop,
        tail: &Tail,
    ) -> Result<BTreeMap<GroupId, Mark>, WalError> {
        let at = tail.damage.map(|_| Mark {
            segment: stop.segment,
            offset: stop.offset,
        });
        let unreadable = old.is_none();
        let mut marks = old.map(|m| m.groups).unwrap_or_default();
        let had_file = unreadable || !marks.is_empty();
        if unreadable {
            let somewhere = Mark { segment: 0, offset: 0 };
            marks.extend(self.groups.keys().map(|group| (*group, somewhere)));
        }
        let newly = at.into_iter().flat_map(|at| {
            let hit = self.groups.keys().filter(|g| group_bit(**g) & tail.group_mask != 0);
            hit.map(move |group| (*group, at))
        });
        let newly: Vec<_> = newly.collect();
        if newly.is_empty() && !unreadable {
            let all_healed = marks.keys().all(|group| self.healed.contains(group));
            if had_file && all_healed {
                Marks::remove(disk).map_err(open_error)?;
                marks.clear();
            }
            return Ok(marks);
        }
        // The file is written anew with a later Lsn: from there on only later healing counts.
        marks.retain(|group, _| !self.healed.contains(group));
        self.healed.clear();
        marks.extend(newly);
        let lsn = self.end;
        let file = Marks { lsn, groups: marks };
        file.write(disk).map_err(open_error)?;
        Ok(file.groups)
    }

    /// Takes everything from the stop on off the disk.
    fn cut(&mut self, disk: &mut impl DiskRead, stop: Stop, tail: &Tail) -> Result<(), WalError> {
        if tail.damage.is_some() {
            self.report.cut = Some((segment_name(stop.segment), stop.offset));
        }
        // From the last down: whatever a crash leaves is again a log with a damaged tail.
        let keep = self
            .ends
            .last()
            .filter(|(_, len, _)| *len > SEGMENT_HEADER_LEN as u64)
            .map(|end| end.0);
        let keep_below = keep.map_or_else(|| self.ends.last().map_or(0, |end| end.0), |number| number + 1);
        let doomed: Vec<_> = self
            .files
            .keys()
            .copied()
            .filter(|number| *number >= keep_below)
            .collect();
        for number in doomed.into_iter().rev() {
            let file = segment_name(number);
            disk.run(Op::Remove { file }).map_err(open_error)?;
            self.files.remove(&number);
        }
        self.ends.retain(|(number, ..)| *number < keep_below);
        if let Some(number) = keep
            && self.files.get(&number).is_some_and(|len| *len > stop.offset)
        {
            let (file, len) = (segment_name(number), stop.offset);
            disk.run(Op::Truncate {
                file: file.clone(),
                len,
            })
            .map_err(open_error)?;
            disk.run(Op::Sync { file }).map_err(open_error)?;
            self.files.insert(number, len);
        }
        Ok(())
    }

    /// A killed process may have left good batches that only the system's cache holds.
    fn sync(&self, disk: &mut impl DiskRead) -> Result<(), WalError> {
        let unproven = self.ends.iter().filter(|(_, _, end)| *end > self.proven);
        for (number, ..) in unproven {
            let file = segment_name(*number);
            disk.run(Op::Sync { file }).map_err(open_error)?;
        }
        Ok(())
    }

    fn finish(mut self, marks: BTreeMap<GroupId, Mark>) -> Recovered {
        let mut marked = BTreeMap::new();
        for (group, at) in marks {
            let healed = self.healed.contains(&group);
            marked.insert(group, healed);
            if let Some(recovered) = self.groups.get_mut(&group)
                && !healed
            {
                recovered.damage = Damage::LastBatch {
                    file: segment_name(at.segment),
                    offset: at.offset,
                };
            }
        }
        self.report.segments = self.files.len() as u64;
        Recovered {
            groups: self.groups,
            index: self.index,
            segments: self.files,
            end: self.end,
            marked,
            report: self.report,
        }
    }

    fn corrupt(&self, segment: u64, offset: u64, mask: u64, what: &'static str) -> WalError {
        let groups = match mask {
            u64::MAX => Vec::new(),
            mask => self
                .groups
                .keys()
                .copied()
                .filter(|g| group_bit(*g) & mask != 0)
                .collect(),
        };
        WalError::Corrupt {
            file: segment_name(segment),
            offset,
            groups,
            what,
        }
    }
}

fn open_error(source: DiskError) -> WalError {
    WalError::Open { source }
}
