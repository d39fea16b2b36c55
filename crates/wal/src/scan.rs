//! Reading the log from its oldest segment on, over whatever does not read but is proven to have been durable.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use settle_base::GroupId;
use settle_storage::{DiskError, DiskRead, FileName};

use crate::{
    LogIdentity, WalError,
    format::{
        BATCH_HEADER_LEN, BATCH_MAGIC, BatchHeader, Lsn, SEGMENT_HEADER_LEN, SegmentHeader, VERSION, group_bit,
        segment_name,
    },
    groups::GroupIndex,
    marks::{Mark, MarkKind},
    rebuild::Rebuild,
    record::{self, Record},
    recovery::RecoveryReport,
    segment_reader::SegmentReader,
    unproven::Unproven,
};

/// A log with more damaged places than this is not mended: the disk is dying.
const HOLES_MAX: usize = 64;

/// The first place that holds no intact batch.
#[derive(Clone, Copy)]
pub(crate) struct Stop {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    /// Why it does not read, when something is there.
    pub(crate) what: &'static str,
}

/// What lies at and behind a stop.
#[derive(Default)]
pub(crate) struct Tail {
    /// Something is there: the segment and offset of the first place that is not zero.
    pub(crate) damage: Option<(u64, u64)>,
    /// Groups that it may hold, as far as intact headers tell.
    pub(crate) group_mask: u64,
    /// Everything before the stop, and what lies there, was durable: a later batch says so.
    pub(crate) is_proven: bool,
    /// The greatest `durable_to` of any intact header there.
    durable_to: Lsn,
    resume: Option<Place>,
}

/// An intact batch where it belongs, behind damage.
#[derive(Clone, Copy)]
struct Place {
    segment: u64,
    offset: u64,
    lsn: Lsn,
    /// Of the segment, as the place of the batch tells.
    base: Lsn,
    is_header_damaged: bool,
}

/// Damage in the middle, to be bridged on the disk.
#[derive(Clone, Copy)]
pub(crate) struct Hole {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) lsn: Lsn,
    pub(crate) lost: u64,
    pub(crate) group_mask: u64,
}

pub(crate) struct Scan {
    pub(crate) identity: LogIdentity,
    /// Every segment file and its length.
    pub(crate) files: BTreeMap<u64, u64>,
    pub(crate) marks_lsn: Lsn,
    pub(crate) groups: BTreeMap<GroupId, Rebuild>,
    pub(crate) index: GroupIndex,
    pub(crate) healed: Vec<GroupId>,
    /// Of each segment that was read: the length of what is good, and the Lsn there.
    pub(crate) ends: BTreeMap<u64, (u64, Lsn)>,
    pub(crate) end: Lsn,
    /// The greatest `durable_to` read.
    pub(crate) proven: Lsn,
    /// The batches that end behind it, in order.
    pub(crate) unproven: VecDeque<Unproven>,
    pub(crate) report: RecoveryReport,
    /// Damage that was found now.
    pub(crate) holes: Vec<Hole>,
    /// Segments whose header has to be written anew, and their bases.
    pub(crate) headers: Vec<(u64, Lsn)>,
    /// Segments of which nothing reads.
    pub(crate) unreadable: Vec<u64>,
    /// Segments of which the device cannot read something.
    pub(crate) has_bad_blocks: BTreeSet<u64>,
    /// Groups that holes, old or new, may have held.
    pub(crate) holes_mask: u64,
    first_hole: Option<Mark>,
    /// `end` is known.
    has_base: bool,
    /// Where the furthest batch ends of which anything was seen out of its place, and whose it was.
    astray: (Lsn, u64),
}

impl Scan {
    pub(crate) fn new(identity: LogIdentity, files: BTreeMap<u64, u64>, marks_lsn: Lsn) -> Scan {
        let report = RecoveryReport {
            was_empty: files.is_empty(),
            ..RecoveryReport::default()
        };
        Scan {
            identity,
            // The first segment ever begins at 0; later ones say where.
            has_base: files.keys().next().is_none_or(|first| *first == 1),
            files,
            marks_lsn,
            groups: BTreeMap::new(),
            index: GroupIndex::default(),
            healed: Vec::new(),
            ends: BTreeMap::new(),
            end: Lsn(0),
            proven: Lsn(0),
            unproven: VecDeque::new(),
            report,
            holes: Vec::new(),
            headers: Vec::new(),
            unreadable: Vec::new(),
            has_bad_blocks: BTreeSet::new(),
            holes_mask: 0,
            first_hole: None,
            astray: (Lsn(0), 0),
        }
    }

    /// Reads everything that can be read. What is at the stop that it returns is the end of the log.
    pub(crate) fn read(&mut self, disk: &mut impl DiskRead) -> Result<(Stop, Tail), WalError> {
        let first = self.files.keys().next().copied().unwrap_or(1);
        let mut stop = self.read_forward(disk, first, 0)?;
        loop {
            let mut tail = self.judge(disk, stop)?;
            // Older segments went because this one was durable.
            let is_head_lost = first > 1 && self.report.batches == 0;
            tail.is_proven = tail.durable_to > self.end || is_head_lost;
            match tail.resume.filter(|_| tail.is_proven) {
                Some(place) if self.holes.len() < HOLES_MAX => {
                    self.bridge(disk, stop, place)?;
                    stop = self.read_forward(disk, place.segment, place.offset)?;
                }
                None if self.report.batches > 0 || !tail.is_proven => {
                    if self.astray.0 > self.end {
                        tail.damage.get_or_insert((stop.segment, stop.offset));
                        tail.group_mask |= self.astray.1;
                    }
                    return Ok((stop, tail));
                }
                // Too much damage, or nothing that reads at all: not even whose log it is.
                _ => {
                    let (segment, offset) = place_of(stop, &tail);
                    return Err(corrupt(segment, offset, Vec::new(), stop.what));
                }
            }
        }
    }

    /// Reads batches from `offset` of a segment on (0: from its header on), as long as they follow one another.
    fn read_forward(&mut self, disk: &mut impl DiskRead, segment: u64, offset: u64) -> Result<Stop, WalError> {
        let mut stop = Stop {
            segment,
            offset,
            what: "there is no segment",
        };
        let numbers: Vec<_> = self
            .files
            .range(segment..)
            .map(|(number, len)| (*number, *len))
            .collect();
        for (number, len) in numbers {
            let mut reader = SegmentReader::new(disk, segment_name(number), len);
            let is_first = number == segment;
            let mut from = if is_first { offset } else { 0 };
            if from == 0 {
                let header = self.read_segment_header(&mut reader, number)?;
                let Some(header) = header else {
                    stop.what = "the segment header does not read";
                    break;
                };
                if self.has_base && header.base != self.end {
                    // The stop stays at the end of the segment before.
                    stop.what = "what follows is missing";
                    break;
                }
                if !self.has_base {
                    self.has_base = true;
                    (self.end, self.proven) = (header.base, header.base);
                }
                from = SEGMENT_HEADER_LEN as u64;
            }
            stop = self.read_batches(&mut reader, number, from)?;
            self.ends.insert(number, (stop.offset, self.end));
        }
        Ok(stop)
    }

    /// `None` when it does not read, or is that of another segment.
    fn read_segment_header<D: DiskRead>(
        &self,
        reader: &mut SegmentReader<'_, D>,
        number: u64,
    ) -> Result<Option<SegmentHeader>, WalError> {
        let file = || segment_name(number);
        let bytes = reader.bytes(0, SEGMENT_HEADER_LEN).map_err(open_error)?;
        let Some(header) = bytes.and_then(|b| SegmentHeader::decode(&b)) else {
            return Ok(None);
        };
        if header.version != VERSION {
            return Err(WalError::Version {
                file: file(),
                version: header.version,
                supported: VERSION,
            });
        }
        if header.identity != self.identity {
            return Err(WalError::Foreign {
                file: file(),
                expected: self.identity,
                found: header.identity,
            });
        }
        Ok(Some(header).filter(|header| header.number == number))
    }

    fn read_batches<D: DiskRead>(
        &mut self,
        reader: &mut SegmentReader<'_, D>,
        segment: u64,
        mut offset: u64,
    ) -> Result<Stop, WalError> {
        loop {
            let stop = |what| Stop { segment, offset, what };
            let bytes = reader.bytes(offset, BATCH_HEADER_LEN).map_err(open_error)?;
            let Some(header) = bytes.and_then(|b| BatchHeader::decode(&b)) else {
                return Ok(stop("the batch header does not read"));
            };
            if header.lsn != self.end || header.incarnation != self.identity.incarnation {
                return Ok(stop("the batch is of another place"));
            }
            if header.is_hole() {
                self.lose(segment, offset, header.group_mask);
            } else {
                let body_at = offset + BATCH_HEADER_LEN as u64;
                let Some(mut body) = reader.bytes(body_at, header.body_len as usize).map_err(open_error)? else {
                    return Ok(stop("the batch is cut short"));
                };
                let torn_tail_valid = settle_base::mutant!("torn_tail_valid");
                let records = if crc32c::crc32c(&body) == header.body_crc {
                    record::decode_body(body, header.records)
                        .filter(|records| records.iter().all(|r| group_bit(r.group()) & header.group_mask != 0))
                        .ok_or_else(|| {
                            let groups = self.known_in(header.group_mask);
                            corrupt(segment, offset, groups, "the batch has no meaning")
                        })?
                } else if torn_tail_valid {
                    record::decode_while_good(&mut body, header.records)
                } else {
                    return Ok(stop("the batch fails its checksum"));
                };
                for record in records {
                    self.apply(record, segment, header.lsn);
                }
                self.report.batches += 1;
                self.report.bytes += header.len();
                if header.records > 0 {
                    self.unproven.push_back(Unproven {
                        segment,
                        offset,
                        end: Lsn(self.end.0 + header.len()),
                        group_mask: header.group_mask,
                    });
                }
            }
            offset += header.len();
            self.end = Lsn(self.end.0 + header.len());
            self.proven = self.proven.max(header.durable_to);
            while self.unproven.pop_front_if(|batch| batch.end <= self.proven).is_some() {}
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
        let is_new = !self.groups.contains_key(&group);
        let rebuild = self.groups.entry(group).or_insert_with(|| Rebuild::new(group));
        if let Some(at) = self
            .first_hole
            .filter(|_| is_new && self.holes_mask & group_bit(group) != 0)
        {
            rebuild.lose(at, &self.index);
        }
        if let Record::Resume { keeps_entries, .. } = record {
            rebuild.resume_again(keeps_entries, &mut self.index);
            return;
        }
        self.index.apply(&record, segment);
        rebuild.apply(record);
    }

    /// Looks at everything from the stop on: for proof that it was durable, for whom it may have held, and for where
    /// the log goes on.
    fn judge(&mut self, disk: &mut impl DiskRead, stop: Stop) -> Result<Tail, WalError> {
        let mut tail = Tail::default();
        let files: Vec<_> = self
            .files
            .range(stop.segment..)
            .map(|(number, len)| (*number, *len))
            .collect();
        let mut bases = Vec::with_capacity(files.len());
        for &(number, len) in &files {
            let mut reader = SegmentReader::new(disk, segment_name(number), len);
            let header = self.read_segment_header(&mut reader, number)?;
            bases.push(header.map(|header| header.base));
        }
        for (i, &(number, len)) in files.iter().enumerate() {
            let base = match stop.offset {
                0 if number == stop.segment => Some(self.end).filter(|_| self.has_base),
                offset if number == stop.segment => self.end.0.checked_sub(offset - SEGMENT_HEADER_LEN as u64).map(Lsn),
                _ => bases[i].filter(|base| *base >= self.end),
            };
            let limit = bases[i + 1..].iter().flatten().next().copied().unwrap_or(Lsn(u64::MAX));
            let mut reader = SegmentReader::new(disk, segment_name(number), len);
            let from = if number == stop.segment { stop.offset } else { 0 };
            self.look_through(&mut reader, (number, from), base, limit, &mut tail)
                .map_err(open_error)?;
        }
        Ok(tail)
    }

    fn look_through<D: DiskRead>(
        &mut self,
        reader: &mut SegmentReader<'_, D>,
        (segment, start): (u64, u64),
        base: Option<Lsn>,
        limit: Lsn,
        tail: &mut Tail,
    ) -> Result<(), DiskError> {
        let mut offset = start;
        if start == 0 && self.has_base && base.is_some() && reader.bytes(0, 1)?.is_some_and(|b| b[0] != 0) {
            tail.damage.get_or_insert((segment, 0));
            offset = SEGMENT_HEADER_LEN as u64;
            let batch = reader.bytes(offset, BATCH_HEADER_LEN)?;
            if batch.and_then(|b| BatchHeader::decode(&b)).is_none() {
                tail.group_mask = u64::MAX;
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
            tail.damage.get_or_insert((segment, offset));
            let header = match rest[zeros] == BATCH_MAGIC[0] {
                true => reader.bytes(offset, BATCH_HEADER_LEN)?,
                false => None,
            };
            let header = header
                .and_then(|bytes| BatchHeader::decode(&bytes))
                .filter(|h| h.incarnation == self.identity.incarnation && h.lsn >= self.end);
            if let Some(header) = header {
                tail.durable_to = tail.durable_to.max(header.durable_to);
                let ends = Lsn(header.lsn.0.saturating_add(header.len()));
                let own = header
                    .lsn
                    .0
                    .checked_sub(offset.wrapping_sub(SEGMENT_HEADER_LEN as u64))
                    .map(Lsn);
                let fits = |own: &Lsn| *own >= self.end || start > 0 || !self.has_base;
                let own = own.filter(|own| ends <= limit && base.is_none_or(|base| base == *own) && fits(own));
                if let Some(own) = own {
                    if tail.resume.is_none() && (offset != start || header.lsn > self.end) {
                        tail.resume = Some(Place {
                            segment,
                            offset,
                            lsn: header.lsn,
                            base: own,
                            is_header_damaged: base.is_none(),
                        });
                    }
                    tail.group_mask |= header.group_mask;
                    offset = offset.saturating_add(header.len());
                    continue;
                }
                // Written to a wrong place: what was here is gone, and what belongs elsewhere may be.
                self.astray = (self.astray.0.max(ends), self.astray.1 | header.group_mask);
            }
            // Bytes that no intact header owns may be of any group.
            tail.group_mask = u64::MAX;
            let after = &rest[zeros + 1..];
            let next = after.iter().position(|b| *b == BATCH_MAGIC[0]);
            offset += 1 + next.unwrap_or(after.len()) as u64;
        }
        Ok(())
    }

    /// Goes on at `place`: what lies between is lost.
    fn bridge(&mut self, disk: &mut impl DiskRead, stop: Stop, place: Place) -> Result<(), WalError> {
        let header_len = SEGMENT_HEADER_LEN as u64;
        let mut from = (stop.segment, stop.offset);
        if stop.offset == 0 {
            // The oldest segment's own header.
            if !self.has_base {
                self.has_base = true;
                self.end = match place.segment == stop.segment {
                    true => place.base,
                    // Nothing of the segment reads; where it began is of no matter, but a hole has a length.
                    false => Lsn(place.base.0.saturating_sub(BATCH_HEADER_LEN as u64)),
                };
                self.proven = self.end;
            }
            self.headers.push((stop.segment, self.end));
            from.1 = header_len;
        }
        let bytes = {
            let len = self.files.get(&from.0).copied().unwrap_or(0);
            let mut reader = SegmentReader::new(disk, segment_name(from.0), len);
            reader.bytes(from.1, BATCH_HEADER_LEN).map_err(open_error)?
        };
        // With one batch damaged and the next where it ends, its header tells whose it was.
        let one = bytes
            .and_then(|b| BatchHeader::decode(&b))
            .filter(|h| h.lsn == self.end);
        let mask_to = |to: Lsn| match one {
            Some(header) if header.lsn.0 + header.len() == to.0 => header.group_mask,
            _ => u64::MAX,
        };
        if place.segment == from.0 {
            self.dig(from, place.lsn, mask_to(place.lsn));
        } else {
            self.dig(from, place.base, mask_to(place.base));
            self.ends.insert(from.0, (from.1, self.end));
            let between = self.files.range(from.0 + 1..place.segment).map(|(number, _)| *number);
            self.unreadable.extend(between);
            if place.is_header_damaged {
                self.headers.push((place.segment, place.base));
            }
            self.dig((place.segment, header_len), place.lsn, u64::MAX);
        }
        let unreadable = &self.unreadable;
        self.files.retain(|number, _| !unreadable.contains(number));
        Ok(())
    }

    /// Everything from here up to `to` is lost.
    fn dig(&mut self, (segment, offset): (u64, u64), to: Lsn, group_mask: u64) {
        if to > self.end {
            let (lsn, lost) = (self.end, to.0 - self.end.0);
            self.holes.push(Hole {
                segment,
                offset,
                lsn,
                lost,
                group_mask,
            });
            self.end = to;
            self.lose(segment, offset, group_mask);
        }
    }

    fn lose(&mut self, segment: u64, offset: u64, group_mask: u64) {
        let kind = MarkKind::Middle;
        let at = Mark { kind, segment, offset };
        self.first_hole.get_or_insert(at);
        self.holes_mask |= group_mask;
        for (group, rebuild) in &mut self.groups {
            if group_bit(*group) & group_mask != 0 {
                rebuild.lose(at, &self.index);
            }
        }
    }

    /// What is to be written where, so that the log reads through its damage.
    pub(crate) fn mends(&self) -> Vec<(u64, u64, Bytes)> {
        let headers = self.headers.iter().map(|&(number, base)| {
            let header = SegmentHeader {
                version: VERSION,
                identity: self.identity,
                number,
                base,
            };
            (number, 0, Bytes::copy_from_slice(&header.encode()))
        });
        let holes = self.holes.iter().map(|hole| {
            let header = BatchHeader::hole(hole.lsn, hole.lost, self.identity.incarnation, hole.group_mask);
            (hole.segment, hole.offset, Bytes::copy_from_slice(&header.encode()))
        });
        headers.chain(holes).collect()
    }

    pub(crate) fn known_in(&self, mask: u64) -> Vec<GroupId> {
        let hit = |group: &GroupId| group_bit(*group) & mask != 0;
        self.groups.keys().copied().filter(hit).collect()
    }
}

/// Where damage at a stop begins: at the head of the next segment when the stop's own has only zeros left.
pub(crate) fn place_of(stop: Stop, tail: &Tail) -> (u64, u64) {
    match tail.damage {
        Some((segment, _)) if segment != stop.segment => (stop.segment + 1, 0),
        _ => (stop.segment, stop.offset),
    }
}

pub(crate) fn corrupt(segment: u64, offset: u64, groups: Vec<GroupId>, what: &'static str) -> WalError {
    let file: FileName = segment_name(segment);
    WalError::Corrupt {
        file,
        offset,
        groups,
        what,
    }
}

pub(crate) fn open_error(source: DiskError) -> WalError {
    WalError::Open { source }
}
