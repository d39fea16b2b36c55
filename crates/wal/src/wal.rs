//! The running log: append, flush, complete, purge.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use settle_base::GroupId;
use settle_storage::{Act, Completion, Disk, DiskError, DiskErrorKind, DiskRead, FileName, Op, Token};

use crate::{
    LiveEntries, LogIdentity, Lsn, RecoveredGroup, RecoveryReport, WalError, WalOptions,
    format::{BATCH_HEADER_LEN, BatchHeader, SEGMENT_HEADER_LEN, SegmentHeader, VERSION, group_bit, segment_name},
    groups::GroupIndex,
    marks::{Mark, MarkKind, Marks},
    rebuild::no_snapshot,
    record::Record,
    recovery,
    spares::Spares,
};

/// The top byte of every token that the log submits. Others that use the same disk keep off it.
pub const TOKEN_SPACE: u64 = 0x57 << 56;

/// A batch is staged behind room for both headers, so that a flush never copies it.
const HEADROOM: usize = SEGMENT_HEADER_LEN + BATCH_HEADER_LEN;

/// What a completion meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalProgress {
    /// The token is not of this log.
    NotMine,
    /// Nothing new is durable.
    Pending,
    /// Everything before this is durable now.
    Durable(Lsn),
    /// The disk is full: nothing was lost, and the next `flush` writes the same bytes again.
    Full,
}

/// Counts since the log was opened.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct WalStats {
    pub batches: u64,
    pub records: u64,
    pub bytes: u64,
    pub syncs: u64,
    pub sync_time_total: Duration,
    pub sync_time_max: Duration,
    pub sync_time_last: Duration,
    /// Flushes refused by a full disk.
    pub full: u64,
    /// Segments there are, and their lengths in bytes.
    pub segments: u64,
    pub segment_bytes: u64,
    pub segments_removed: u64,
    pub segments_begun: u64,
    /// Of these, those that are dead ones zeroed.
    pub segments_recycled: u64,
    /// Dead segments kept to be the next ones.
    pub spares: u64,
}

/// One node's log. See the crate's head for the format and the rules.
pub struct Wal {
    options: WalOptions,
    identity: LogIdentity,
    index: GroupIndex,
    /// Groups in the file of marks, and whether they have healed.
    marked: BTreeMap<GroupId, (Mark, bool)>,
    /// Groups that damage still in the log may have held: a new one of them has to say that it is new.
    holes_mask: u64,
    report: RecoveryReport,

    /// Headroom, then records; empty when nothing is staged.
    staging: BytesMut,
    staged_records: u32,
    staged_groups: BTreeSet<GroupId>,

    /// What the next batch starts at.
    submitted: Lsn,
    durable: Lsn,
    proven: Lsn,
    in_flight: VecDeque<Flush>,
    failed: Option<DiskError>,

    /// Segments and their lengths; the last is `current` once this process has made one.
    segments: BTreeMap<u64, u64>,
    spares: Spares,
    current: Option<Current>,
    purge: Purge,
    next_token: u64,
    stats: WalStats,
}

/// The segment that batches go to.
#[derive(Clone, Copy)]
struct Current {
    number: u64,
    written: u64,
}

/// One batch on its way to the disk. Its bytes stay until they are durable, since a full disk means writing them again.
struct Flush {
    segment: u64,
    offset: u64,
    data: Bytes,
    /// The segment begins with this flush.
    begin: Option<Begin>,
    end: Lsn,
    /// What the batch itself says was durable when it was sealed.
    durable_to: Lsn,
    tokens: std::ops::Range<u64>,
    /// Completions still to come of this attempt.
    awaited: u32,
    full: bool,
    done: bool,
}

/// How a segment comes to be.
#[derive(Clone)]
enum Begin {
    Create { reserve: u64 },
    Reuse { spare: FileName },
}

/// Segments go one at a time, the oldest first: a crash must never leave a gap.
#[derive(Default)]
struct Purge {
    /// Segments below the number may go once the Lsn is proven: what made them dead lies before it.
    waiting: Option<(Lsn, u64)>,
    allowed_below: u64,
    removing: Option<(u64, u64)>,
    /// What it is to be called, if it becomes a spare.
    spare: Option<FileName>,
}

impl Wal {
    /// Recovers the log of `identity` in this directory, or begins it in an empty one. Blocks. What is returned is durable.
    /// `expected` are groups that must exist: one that damage may have hidden comes back empty.
    ///
    /// # Errors
    /// `Corrupt` when damage is beyond mending, `Foreign`, `Version`, or `Open` when the disk fails.
    ///
    /// # Panics
    /// When an option is out of its bounds.
    pub fn open(
        disk: &mut impl DiskRead,
        options: WalOptions,
        identity: LogIdentity,
        expected: &[GroupId],
    ) -> Result<(Wal, Vec<RecoveredGroup>), WalError> {
        Wal::open_with_traces(disk, options, identity, expected, &[])
    }

    /// As [`Wal::open`], for a directory with files of the groups `traced`, which perhaps were in the log: of one that
    /// damage may have hidden [`Wal::may_have_held`] says so from then on.
    ///
    /// # Errors
    /// As those of `open`.
    ///
    /// # Panics
    /// When an option is out of its bounds.
    pub fn open_with_traces(
        disk: &mut impl DiskRead,
        options: WalOptions,
        identity: LogIdentity,
        expected: &[GroupId],
        traced: &[GroupId],
    ) -> Result<(Wal, Vec<RecoveredGroup>), WalError> {
        assert!(options.max_in_flight > 0, "a log that may not flush is no log");
        assert!(options.max_batch_bytes <= 1 << 30, "a batch's length has 32 bits");
        assert!(
            options.segment_bytes > HEADROOM as u64,
            "a segment holds more than headers"
        );
        let recovered = recovery::recover(disk, &options, identity, expected, traced)?;
        let mut wal = Wal {
            options,
            identity,
            index: recovered.index,
            marked: recovered.marked,
            holes_mask: recovered.holes_mask,
            report: recovered.report,
            staging: BytesMut::new(),
            staged_records: 0,
            staged_groups: BTreeSet::new(),
            submitted: recovered.end,
            durable: recovered.end,
            proven: recovered.proven,
            in_flight: VecDeque::new(),
            failed: None,
            segments: recovered.segments,
            spares: Spares::new(recovered.spares, recovered.new_spare),
            current: None,
            purge: Purge::default(),
            next_token: TOKEN_SPACE,
            stats: WalStats::default(),
        };
        // The first words of the next batch: nothing new may rest on what damage left unclear.
        for group in recovered.missing {
            let data = Bytes::new();
            wal.stage_own(&[Record::Create { group, data }]);
        }
        for (group, keeps_entries) in recovered.resumed {
            wal.stage_own(&[Record::Resume { group, keeps_entries }]);
        }
        Ok((wal, recovered.groups.into_values().collect()))
    }

    /// Empties a group whose machine's snapshot file does not read: marks it, durably, as recovering, and begins its log
    /// anew, keeping its hard state. Blocks; only right after opening.
    ///
    /// # Errors
    /// `Open` when the disk fails.
    pub fn forget(&mut self, disk: &mut impl DiskRead, group: GroupId) -> Result<(), WalError> {
        self.marked.retain(|_, (_, healed)| !*healed);
        let (kind, segment, offset) = (MarkKind::SnapshotFile, 0, 0);
        let mark = Mark { kind, segment, offset };
        self.marked.entry(group).or_insert((mark, false));
        let groups = self.marked.iter().map(|(group, (mark, _))| (*group, *mark)).collect();
        let lsn = self.submitted;
        let marks = Marks { lsn, groups };
        marks.write(disk).map_err(|source| WalError::Open { source })?;
        let (snapshot, reset) = (no_snapshot(), true);
        self.stage_own(&[Record::Snapshot { group, snapshot, reset }]);
        Ok(())
    }

    /// Whether `group` is not here, but perhaps was, with promises that damage took: whoever creates it must take it for
    /// recovering. Once it is here its damage says that, as long as it has not healed.
    pub fn may_have_held(&self, group: GroupId) -> bool {
        let is_marked = self.marked.get(&group).is_some_and(|(_, healed)| !*healed);
        is_marked && !self.index.knows(group)
    }

    /// Those of which [`Wal::may_have_held`] says so.
    pub fn perhaps_held(&self) -> impl Iterator<Item = GroupId> {
        self.marked.keys().copied().filter(|group| self.may_have_held(*group))
    }

    /// What opening found.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.report
    }

    /// Stages records in memory, all or none. They are durable once [`Wal::durable`] reaches the returned Lsn; records of
    /// one append never come back without each other.
    ///
    /// # Errors
    /// `Backlog` when more would wait than `max_batch_bytes`; `UnknownGroup` for a group not created, or destroyed;
    /// `Failed` once the log has failed.
    ///
    /// # Panics
    /// When entries are empty or not consecutive.
    pub fn append(&mut self, records: &[Record]) -> Result<Lsn, WalError> {
        self.check_failed()?;
        let mut size = 0;
        // Groups that the records so far made (true) or ended.
        let mut changed = BTreeMap::new();
        for record in records {
            self.check_record(&mut changed, record)?;
            size += record.encoded_len();
        }
        let staged = self.staged_bytes();
        if staged + size > self.options.max_batch_bytes {
            let limit = self.options.max_batch_bytes;
            return Err(WalError::Backlog { staged, size, limit });
        }
        self.stage_all(records, size);
        Ok(self.appended())
    }

    /// Stages records that the log itself has to say. They are few and small.
    fn stage_own(&mut self, records: &[Record]) {
        self.stage_all(records, records.iter().map(Record::encoded_len).sum());
    }

    fn stage_all(&mut self, records: &[Record], size: usize) {
        if self.staging.is_empty() && !records.is_empty() {
            self.staging.reserve(HEADROOM + size);
            self.staging.resize(HEADROOM, 0);
        }
        for record in records {
            let group = record.group();
            let is_new = matches!(record, Record::Create { .. }) && !self.index.is_live(group);
            self.stage(record);
            if is_new && self.holes_mask & group_bit(group) != 0 {
                // Else the next recovery would think that the damage hid the group's beginning.
                let keeps_entries = true;
                self.stage(&Record::Resume { group, keeps_entries });
            }
        }
    }

    /// Where everything appended so far ends, unless the flush that takes it also begins a segment: then it ends a little
    /// later, and is durable no earlier.
    pub fn appended(&self) -> Lsn {
        let staged = self.staging.len().saturating_sub(SEGMENT_HEADER_LEN) as u64;
        Lsn(self.submitted.0 + staged)
    }

    /// Bytes of records appended and not flushed.
    pub fn staged_bytes(&self) -> usize {
        self.staging.len().saturating_sub(HEADROOM)
    }

    /// Everything before this survives any crash.
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// Everything before this was durable when a batch was written that is durable itself. Damage of what is durable but
    /// not proven is taken for a torn tail, and recovery goes back to what was there before: so nothing that such a
    /// record replaced may be thrown away.
    pub fn proven(&self) -> Lsn {
        self.proven
    }

    /// Whether the disk was full at the last attempt. The host stops accepting, makes room, and calls `flush` now and then.
    pub fn is_full(&self) -> bool {
        self.in_flight.iter().any(|flush| flush.full)
    }

    /// Whether every appended record is durable.
    pub fn is_idle(&self) -> bool {
        self.staging.is_empty() && self.in_flight.is_empty()
    }

    /// Submits everything staged as one batch: one write and one sync, for all groups. Does nothing when nothing is
    /// staged, when `max_in_flight` batches are on their way (call it again after a completion), or when the log failed.
    /// After `Full` it writes the refused bytes again instead.
    pub fn flush(&mut self, disk: &mut impl Disk) {
        if self.failed.is_some() {
            return;
        }
        self.prepare_spares(disk);
        if self.is_full() {
            // Only once every attempt has ended: what is left of one must not be mixed up with the next.
            if self.in_flight.iter().all(|flush| flush.awaited == 0) {
                let full: Vec<_> = (0..self.in_flight.len()).filter(|i| self.in_flight[*i].full).collect();
                full.into_iter().for_each(|i| self.submit(i, disk));
            }
            return;
        }
        if self.staging.is_empty() || self.in_flight.len() >= self.options.max_in_flight {
            return;
        }
        // After a crash, a segment behind one that could not be begun would look like a log with a gap.
        let is_beginning = self.in_flight.iter().any(|flush| flush.begin.is_some());
        if is_beginning && self.fitting_segment().is_none() {
            return;
        }
        let flush = self.seal();
        self.in_flight.push_back(flush);
        self.submit(self.in_flight.len() - 1, disk);
    }

    /// Takes a completion of the disk that `flush` and `purge` submitted to.
    ///
    /// # Errors
    /// `Failed` when a write failed other than for space, or a sync failed at all: from then on nothing becomes durable.
    pub fn complete(&mut self, completion: &Completion, disk: &mut impl Disk) -> Result<WalProgress, WalError> {
        let token = completion.token.0;
        if token >> 56 != TOKEN_SPACE >> 56 {
            return Ok(WalProgress::NotMine);
        }
        if let Some((removing, number)) = self.purge.removing
            && removing == token
        {
            self.purge.removing = None;
            self.removed(number, completion);
            self.remove_next(disk);
            self.prepare_spares(disk);
            return Ok(WalProgress::Pending);
        }
        let next_token = &mut self.next_token;
        if self.spares.complete(completion, &self.options, next_token, disk) {
            self.prepare_spares(disk);
            return Ok(WalProgress::Pending);
        }
        self.check_failed()?;
        let Some(at) = self.in_flight.iter().position(|flush| flush.tokens.contains(&token)) else {
            return Ok(WalProgress::NotMine);
        };
        let segment = self.in_flight[at].segment;
        let not_created = self
            .in_flight
            .range(..=at)
            .any(|f| f.full && f.begin.is_some() && f.segment == segment);
        let flush = &mut self.in_flight[at];
        flush.awaited -= 1;
        if flush.begin.is_some() && token == flush.tokens.start && completion.result.is_ok() {
            // Another attempt must not empty the segment again.
            flush.begin = None;
        }
        let is_sync = token + 1 == flush.tokens.end;
        if is_sync && completion.result.is_ok() {
            self.stats.syncs += 1;
            self.stats.sync_time_last = completion.took;
            self.stats.sync_time_max = self.stats.sync_time_max.max(completion.took);
            self.stats.sync_time_total += completion.took;
        }
        if let Err(error) = &completion.result {
            if error.kind == DiskErrorKind::NoSpace && matches!(error.act, Act::Create | Act::Rename | Act::Write) {
                flush.full = true;
            } else if not_created && error.kind == DiskErrorKind::NotFound {
                // What was submitted behind a refused creation shares its fate.
                flush.full = true;
            } else if is_sync && settle_base::mutant!("failed_sync_retried") {
                // As if the pages that the system dropped were still there to be written.
                let (token, file) = (Token(self.next_token), segment_name(segment));
                self.next_token += 1;
                flush.tokens = token.0..token.0 + 1;
                flush.awaited = 1;
                disk.submit(token, Op::Sync { file });
            } else {
                let source = error.clone();
                self.failed = Some(source.clone());
                return Err(WalError::Failed { source });
            }
        }
        if flush.awaited > 0 {
            return Ok(WalProgress::Pending);
        }
        if flush.full {
            self.stats.full += 1;
            return Ok(WalProgress::Full);
        }
        flush.done = true;
        let before = self.durable;
        while self.in_flight.front().is_some_and(|flush| flush.done) {
            let flush = self.in_flight.pop_front().expect("it was just seen");
            assert!(flush.end > self.durable, "durability only grows");
            self.durable = flush.end;
            self.proven = flush.durable_to;
        }
        if self.durable == before {
            return Ok(WalProgress::Pending);
        }
        if self.is_idle() {
            // Whatever room a burst has taken, or the birth of thousands of groups.
            self.staging = BytesMut::new();
        }
        self.allow_purge();
        self.remove_next(disk);
        Ok(WalProgress::Durable(self.durable))
    }

    /// Removes segments in which nothing lives any more, once what killed it is proven. Cheap: call it after snapshots.
    pub fn purge(&mut self, disk: &mut impl Disk) {
        let current = self.current.map_or(0, |current| current.number);
        let below = self.index.oldest_segment().unwrap_or(u64::MAX).min(current);
        let first = self.segments.keys().next().copied().unwrap_or(u64::MAX);
        if self.purge.waiting.is_none() && below > first.max(self.purge.allowed_below) {
            self.purge.waiting = Some((self.appended(), below));
            self.allow_purge();
        }
        self.remove_next(disk);
    }

    /// How many segments this log has begun.
    pub fn segments_begun(&self) -> u64 {
        self.stats.segments_begun
    }

    /// Whether what could go, but for live entries in it, takes more than `factor` times what lives, and more than two
    /// segments. Costs a look at every group.
    pub fn is_wasteful(&self, factor: u64) -> bool {
        let current = self.current.map_or(u64::MAX, |current| current.number);
        let closed = self.segments.range(self.purge.allowed_below..current);
        let (count, bytes) = closed.fold((0, 0), |(count, bytes), (_, len)| (count + 1, bytes + len));
        count > 2 && bytes > self.index.live_bytes().saturating_mul(factor)
    }

    /// The groups, at most `limit`, whose live entries keep the oldest segment.
    pub fn pins(&self, limit: usize) -> Vec<LiveEntries> {
        let oldest = self.segments.range(self.purge.allowed_below..).next();
        let pins = oldest.map(|(segment, _)| self.index.living_up_to(*segment).take(limit));
        pins.into_iter().flatten().collect()
    }

    pub fn stats(&self) -> WalStats {
        WalStats {
            segments: self.segments.len() as u64,
            segment_bytes: self.segments.values().sum(),
            spares: self.spares.count() as u64,
            ..self.stats
        }
    }

    fn check_failed(&self) -> Result<(), WalError> {
        match &self.failed {
            Some(source) => Err(WalError::Failed { source: source.clone() }),
            None => Ok(()),
        }
    }

    fn check_record(&self, changed: &mut BTreeMap<GroupId, bool>, record: &Record) -> Result<(), WalError> {
        let group = record.group();
        match record {
            Record::Create { .. } => drop(changed.insert(group, true)),
            Record::Destroy { .. } => drop(changed.insert(group, false)),
            _ if !changed
                .get(&group)
                .copied()
                .unwrap_or_else(|| self.index.is_live(group)) =>
            {
                return Err(WalError::UnknownGroup { group });
            }
            Record::Entries { entries, .. } => {
                assert!(!entries.is_empty(), "a record of entries has some");
                let consecutive = entries.windows(2).all(|pair| pair[0].index + 1 == pair[1].index);
                assert!(consecutive, "entries are consecutive");
            }
            _ => {}
        }
        Ok(())
    }

    fn stage(&mut self, record: &Record) {
        record.encode(&mut self.staging);
        self.staged_records += 1;
        self.staged_groups.insert(record.group());
        match record {
            Record::Healed { group } => {
                if let Some((_, healed)) = self.marked.get_mut(group) {
                    *healed = true;
                }
            }
            _ => self.index.stage(record),
        }
    }

    /// The segment in use, when what is staged fits into it, and behind it the proof that a start may have to add: so a
    /// spare has always room for a copy.
    fn fitting_segment(&self) -> Option<Current> {
        let batch = (self.staging.len() - SEGMENT_HEADER_LEN + BATCH_HEADER_LEN) as u64;
        let fits = |current: &Current| current.written + batch <= self.options.segment_bytes;
        self.current.filter(fits)
    }

    /// Turns what is staged into a batch at the end of the log.
    fn seal(&mut self) -> Flush {
        let current = self.fitting_segment();
        if current.is_none() {
            self.stage_checkpoint();
        }
        let number = match current {
            Some(current) => current.number,
            None => self.segments.keys().next_back().map_or(1, |last| last + 1),
        };
        let mut group_mask = 0;
        for group in std::mem::take(&mut self.staged_groups) {
            group_mask |= group_bit(group);
            self.index.place(group, number);
        }
        let body = &self.staging[HEADROOM..];
        let header = BatchHeader {
            body_len: u32::try_from(body.len()).expect("staging is bounded far below 4 GiB"),
            records: std::mem::take(&mut self.staged_records),
            lsn: self.submitted,
            durable_to: self.durable,
            incarnation: self.identity.incarnation,
            group_mask,
            body_crc: crc32c::crc32c(body),
            lost: 0,
        };
        self.staging[SEGMENT_HEADER_LEN..HEADROOM].copy_from_slice(&header.encode());
        let (offset, begin, skip) = match current {
            Some(current) => (current.written, None, SEGMENT_HEADER_LEN),
            None => {
                let segment = SegmentHeader {
                    version: VERSION,
                    identity: self.identity,
                    number,
                    base: self.submitted,
                };
                self.staging[..SEGMENT_HEADER_LEN].copy_from_slice(&segment.encode());
                let needed = (self.staging.len() + BATCH_HEADER_LEN) as u64;
                let reserve = match self.options.segment_bytes {
                    usual if needed <= usual => usual,
                    // No spare has room for a copy of it, so it brings that along.
                    _ => 2 * needed,
                };
                let begin = match self.spares.take(reserve) {
                    Some(spare) => Begin::Reuse { spare },
                    None => Begin::Create { reserve },
                };
                self.stats.segments_recycled += u64::from(matches!(begin, Begin::Reuse { .. }));
                self.segments.insert(number, reserve);
                self.stats.segments_begun += 1;
                (0, Some(begin), 0)
            }
        };
        let data = self.staging.split().freeze().slice(skip..);
        let written = offset + data.len() as u64;
        self.current = Some(Current { number, written });
        self.submitted = Lsn(self.submitted.0 + header.len());
        self.stats.batches += 1;
        self.stats.records += u64::from(header.records);
        self.stats.bytes += data.len() as u64;
        Flush {
            segment: number,
            offset,
            data,
            begin,
            end: self.submitted,
            durable_to: header.durable_to,
            tokens: 0..0,
            awaited: 0,
            full: false,
            done: false,
        }
    }

    /// Everything known of the groups but their entries, behind the records that made it so, in the same batch.
    fn stage_checkpoint(&mut self) {
        let (staging, groups) = (&mut self.staging, &mut self.staged_groups);
        let mut count = 0;
        let mut put = |record: Record| {
            record.encode(staging);
            groups.insert(record.group());
            count += 1;
        };
        self.index.checkpoint(&mut put);
        for (&group, _) in self.marked.iter().filter(|(_, (_, healed))| *healed) {
            put(Record::Healed { group });
        }
        self.staged_records += count;
    }

    fn submit(&mut self, i: usize, disk: &mut impl Disk) {
        let flush = &mut self.in_flight[i];
        let file = segment_name(flush.segment);
        let first = self.next_token;
        let mut ops = 0..;
        let mut next = || Token(first + ops.next().expect("the range is endless"));
        let begin = flush.begin.clone().map(|begin| match begin {
            Begin::Create { reserve } => Op::Create {
                file: file.clone(),
                reserve,
            },
            Begin::Reuse { spare } => Op::Rename {
                from: spare,
                to: file.clone(),
            },
        });
        if let Some(op) = begin {
            disk.submit(next(), op);
        }
        let (offset, data) = (flush.offset, flush.data.clone());
        disk.submit(
            next(),
            Op::Write {
                file: file.clone(),
                offset,
                data,
            },
        );
        disk.submit(next(), Op::Sync { file });
        flush.awaited = if flush.begin.is_some() { 3 } else { 2 };
        flush.full = false;
        flush.tokens = first..first + u64::from(flush.awaited);
        self.next_token = flush.tokens.end;
    }

    fn prepare_spares(&mut self, disk: &mut impl Disk) {
        if self.failed.is_none() {
            let is_full = self.is_full();
            self.spares.go_on(&self.options, is_full, &mut self.next_token, disk);
        }
    }

    fn allow_purge(&mut self) {
        if let Some((lsn, below)) = self.purge.waiting
            && (self.proven >= lsn || settle_base::mutant!("purge_too_early"))
        {
            self.purge.allowed_below = below;
            self.purge.waiting = None;
        }
    }

    fn remove_next(&mut self, disk: &mut impl Disk) {
        let Some(&number) = self.segments.keys().next() else {
            return;
        };
        if self.purge.removing.is_some() || number >= self.purge.allowed_below {
            return;
        }
        let token = self.next_token;
        self.next_token += 1;
        self.purge.removing = Some((token, number));
        let file = segment_name(number);
        let is_usual = self.segments.get(&number) == Some(&self.options.segment_bytes);
        if is_usual && self.spares.count() < self.options.spares_max && !self.is_full() {
            let to = self.spares.next_name();
            self.purge.spare = Some(to.clone());
            disk.submit(Token(token), Op::Rename { from: file, to });
        } else {
            disk.submit(Token(token), Op::Remove { file });
        }
    }

    fn removed(&mut self, number: u64, completion: &Completion) {
        let spare = self.purge.spare.take();
        match &completion.result {
            Err(error) if error.kind != DiskErrorKind::NotFound => {
                // The next purge tries again; nothing depends on it but space.
                self.purge.allowed_below = 0;
            }
            result => {
                let len = self.segments.remove(&number);
                self.stats.segments_removed += 1;
                if let (Some(spare), Some(len), Ok(())) = (spare, len, result) {
                    self.spares.add(spare, len);
                }
            }
        }
    }
}
