use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use settle_storage::{DiskError, DiskErrorKind, DiskRead, FileName, Op};

use crate::{
    Entry, Gap,
    format::{ENTRY_MAX, HEAD_MAX, Head, Summary, entry_bytes, get_entry, get_head, put_entry, put_head},
    gaps::{GAP_ID, Gaps},
};

const PREFIX: &str = "history-";
/// Segments that the bytes are cut into, about: what goes at once when there is too much.
const SEGMENTS: u64 = 16;
/// Entries wait in memory up to about this many bytes; beyond, none is taken in until [`History::flush`].
const BUFFER_MAX: usize = 8 << 20;
const READ_BYTES: usize = 256 << 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HistoryConfig {
    /// All segments together, at most.
    pub bytes_max: u64,
    /// Entries are kept at least so long if there is room, and at most an eighth longer.
    pub age_max_ms: u64,
}

impl HistoryConfig {
    fn segment_bytes(&self) -> u64 {
        (self.bytes_max / SEGMENTS).clamp(64 << 10, 16 << 20)
    }
}

/// A segment as it is known without reading it.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub number: u64,
    pub file: FileName,
    pub bytes: u64,
    pub wall_ms_first: u64,
    /// `None`: not known, so it may hold anything.
    pub summary: Option<Summary>,
}

/// The record over a disk that may block.
pub struct History<D> {
    pub(crate) disk: D,
    config: HistoryConfig,
    /// Oldest first.
    pub(crate) segments: Vec<Segment>,
    /// The last segment is written on. Not after an error: what became of it is unknown.
    is_open: bool,
    last: BTreeMap<u8, Last>,
    /// By group: the last index of which everything is on the disk.
    flushed: BTreeMap<u8, u64>,
    buffer: Vec<u8>,
    /// Of what is buffered.
    buffered: Summary,
    buffered_first_ms: u64,
    next_number: u64,
    gaps: Gaps,
}

/// The last log entry of a group that is recorded.
#[derive(Default)]
struct Last {
    index: u64,
    /// What was recorded of it; `None`: everything.
    ids: Option<BTreeSet<i64>>,
}

impl<D: DiskRead> History<D> {
    /// Opens what is on the disk, or begins.
    ///
    /// # Errors
    /// When the disk cannot be read, or a torn end not be cut off.
    pub fn open(disk: D, config: HistoryConfig) -> Result<History<D>, DiskError> {
        let mut history = History {
            disk,
            config,
            segments: Vec::new(),
            is_open: false,
            last: BTreeMap::new(),
            flushed: BTreeMap::new(),
            buffer: Vec::new(),
            buffered: Summary::default(),
            buffered_first_ms: 0,
            next_number: 1,
            gaps: Gaps::default(),
        };
        for (file, bytes) in history.disk.list()? {
            let number = file.as_str().strip_prefix(PREFIX);
            let Some(number) = number.and_then(|hex| u64::from_str_radix(hex, 16).ok()) else {
                continue;
            };
            history.next_number = history.next_number.max(number + 1);
            history.segments.push(Segment {
                number,
                file,
                bytes,
                wall_ms_first: 0,
                summary: None,
            });
        }
        history.segments.sort_by_key(|segment| segment.number);
        history.read_heads()?;
        history.read_last()?;
        history.forget_gaps();
        Ok(history)
    }

    fn read_heads(&mut self) -> Result<(), DiskError> {
        let mut kept: Vec<Segment> = Vec::new();
        for mut segment in std::mem::take(&mut self.segments) {
            let bytes = self.disk.read(&segment.file, 0, HEAD_MAX);
            let head = match bytes {
                Ok(bytes) => get_head(&bytes).map(|(head, _)| head),
                Err(error) if error.kind == DiskErrorKind::Unreadable => None,
                Err(error) => return Err(error),
            };
            let Some(head) = head else {
                // It was torn before anything of it counted, or is damaged where nothing can be told of the rest.
                self.disk.run(Op::Remove { file: segment.file })?;
                continue;
            };
            segment.wall_ms_first = head.wall_ms_first;
            for gap in head.gaps.iter() {
                self.gaps.add(*gap);
            }
            for (group, index) in head.last {
                self.last.insert(group, Last { index, ids: None });
            }
            if let Some(before) = kept.last_mut().filter(|before| before.number + 1 == segment.number) {
                before.summary = (head.before.wall_ms_last > 0).then_some(head.before);
            }
            kept.push(segment);
        }
        self.segments = kept;
        Ok(())
    }

    /// Reads the last segment whole: what is recorded of each group, and where it ends.
    fn read_last(&mut self) -> Result<(), DiskError> {
        let Some(segment) = self.segments.last().cloned() else {
            return Ok(());
        };
        let bytes = match read_whole(&mut self.disk, &segment) {
            Ok(bytes) => bytes,
            Err(error) if error.kind == DiskErrorKind::Unreadable => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut summary = Summary::default();
        let mut at = get_head(&bytes).map_or(0, |(_, end)| end);
        while let Some((entry, len)) = get_entry(&bytes[at..]) {
            summary.add(entry.id, entry.wall_ms);
            self.note(entry.group, entry.index, entry.id);
            if entry.id == GAP_ID {
                let (group, index, wall_ms) = (entry.group, entry.index, entry.wall_ms);
                self.gaps.add(Gap { group, index, wall_ms });
            }
            at += len;
        }
        if at < bytes.len() {
            let (file, len) = (segment.file.clone(), at as u64);
            self.disk.run(Op::Truncate { file, len })?;
            self.disk.run(Op::Sync { file: segment.file })?;
        }
        let segment = self.segments.last_mut().expect("it was just seen");
        (segment.bytes, segment.summary) = (at as u64, Some(summary));
        self.is_open = true;
        // A torn end may have taken a part of the very last one's; what is left of it is known by its ids.
        self.flushed = self.last.iter().map(|(group, last)| (*group, last.index)).collect();
        Ok(())
    }

    /// Takes an entry in, to be written with the next [`History::flush`]. False when it is recorded already, or when there
    /// is no room for it.
    pub fn append(&mut self, entry: Entry<'_>) -> bool {
        assert!(entry.id > GAP_ID, "an entry is about something");
        self.take_in(entry)
    }

    /// Takes in that a snapshot of a group took the place of its log. False as for [`History::append`]; nothing is missing
    /// then when it is recorded already, or the record reaches further.
    pub fn append_gap(&mut self, gap: Gap) -> bool {
        let taken = self.take_in(Entry {
            group: gap.group,
            index: gap.index,
            id: GAP_ID,
            wall_ms: gap.wall_ms,
            payload: &[],
        });
        if taken {
            self.gaps.add(gap);
        }
        taken
    }

    /// Where something may be missing, oldest first, as far as the record reaches back.
    pub fn gaps(&self) -> impl ExactSizeIterator<Item = &Gap> {
        self.gaps.iter()
    }

    fn take_in(&mut self, entry: Entry<'_>) -> bool {
        let bytes = entry_bytes(entry.payload);
        let is_full = bytes > ENTRY_MAX || self.buffer.len() > BUFFER_MAX;
        if is_full || !self.note(entry.group, entry.index, entry.id) {
            return false;
        }
        if self.buffer.is_empty() {
            self.buffered_first_ms = entry.wall_ms;
        }
        put_entry(&mut self.buffer, &entry);
        self.buffered.add(entry.id, entry.wall_ms);
        true
    }

    /// False when this was noted before.
    fn note(&mut self, group: u8, index: u64, id: i64) -> bool {
        let last = self.last.entry(group).or_default();
        if index < last.index {
            return false;
        }
        if index > last.index {
            *last = Last {
                index,
                ids: Some(BTreeSet::new()),
            };
        }
        last.ids.as_mut().is_some_and(|ids| ids.insert(id))
    }

    /// Bytes that wait to be written.
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Bytes on the disk.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Writes and syncs what was taken in, and does away with what is too old or too much.
    ///
    /// # Errors
    /// When the disk cannot take it. What was to be written is given up, and the next entries begin a new segment.
    pub fn flush(&mut self, wall_ms: u64) -> Result<(), DiskError> {
        let written = self.write(wall_ms);
        if written.is_err() {
            self.is_open = false;
        }
        self.buffer.clear();
        self.buffered = Summary::default();
        written?;
        self.evict(wall_ms)
    }

    fn write(&mut self, wall_ms: u64) -> Result<(), DiskError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let is_over = |segment: &Segment| {
            segment.bytes >= self.config.segment_bytes()
                || segment.wall_ms_first + self.config.age_max_ms / 8 <= wall_ms
        };
        if !self.is_open || self.segments.last().is_none_or(is_over) {
            self.begin_segment()?;
        }
        let segment = self.segments.last_mut().expect("there is an open one");
        let data = Bytes::from(std::mem::take(&mut self.buffer));
        let (file, offset, len) = (segment.file.clone(), segment.bytes, data.len() as u64);
        self.disk.run(Op::Write { file, offset, data })?;
        let file = segment.file.clone();
        self.disk.run(Op::Sync { file })?;
        segment.bytes += len;
        self.flushed = self.last.iter().map(|(group, last)| (*group, last.index)).collect();
        let summary = segment.summary.get_or_insert_default();
        summary.add(self.buffered.id_min, self.buffered.wall_ms_last);
        summary.add(self.buffered.id_max, self.buffered.wall_ms_last);
        Ok(())
    }

    fn begin_segment(&mut self) -> Result<(), DiskError> {
        let wall_ms_first = self.buffered_first_ms;
        let number = self.next_number;
        let file = FileName::new(&format!("{PREFIX}{number:016x}")).expect("a name of ours is a good one");
        let before = self.segments.last().filter(|before| before.number + 1 == number);
        let head = Head {
            wall_ms_first,
            last: self.flushed.clone(),
            before: before.and_then(|before| before.summary).unwrap_or_default(),
            gaps: self.gaps.clone(),
        };
        let mut data = Vec::new();
        put_head(&mut data, &head);
        self.next_number += 1;
        let bytes = data.len() as u64;
        let create = Op::Create {
            file: file.clone(),
            reserve: 0,
        };
        self.disk.run(create)?;
        let write = Op::Write {
            file: file.clone(),
            offset: 0,
            data: data.into(),
        };
        self.disk.run(write)?;
        self.segments.push(Segment {
            number,
            file,
            bytes,
            wall_ms_first,
            summary: None,
        });
        self.is_open = true;
        Ok(())
    }

    /// The oldest segments go while there is too much, or while the next is old enough too.
    fn evict(&mut self, wall_ms: u64) -> Result<(), DiskError> {
        while let [oldest, next, ..] = self.segments.as_slice() {
            let is_old = next.wall_ms_first.saturating_add(self.config.age_max_ms) <= wall_ms;
            if !is_old && self.bytes() <= self.config.bytes_max {
                break;
            }
            let file = oldest.file.clone();
            self.disk.run(Op::Remove { file })?;
            self.segments.remove(0);
            self.forget_gaps();
        }
        // The last one goes when nothing has come for so long.
        if let [only] = self.segments.as_slice() {
            let last = only.summary.map_or(only.wall_ms_first, |summary| summary.wall_ms_last);
            if last.saturating_add(self.config.age_max_ms) <= wall_ms {
                let file = only.file.clone();
                self.disk.run(Op::Remove { file })?;
                self.segments.clear();
                self.is_open = false;
            }
        }
        Ok(())
    }

    fn forget_gaps(&mut self) {
        if let Some(oldest) = self.segments.first() {
            self.gaps.begin_at(oldest.wall_ms_first);
        }
    }
}

pub(crate) fn read_whole(disk: &mut impl DiskRead, segment: &Segment) -> Result<Vec<u8>, DiskError> {
    let mut bytes = Vec::new();
    loop {
        let part = disk.read(&segment.file, bytes.len() as u64, READ_BYTES)?;
        bytes.extend_from_slice(&part);
        if part.len() < READ_BYTES {
            return Ok(bytes);
        }
    }
}
