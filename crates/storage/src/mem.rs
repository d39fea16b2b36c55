//! A disk in memory that knows what is durable, and loses the rest on demand.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Range,
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use settle_base::{Mono, Prng};

use crate::{
    Act, Completion, Disk, DiskError, DiskErrorKind, DiskRead, FileName, Op, Token,
    image::{Change, Image},
};

/// What a crash keeps or loses whole. Within it a write is atomic: the sector holds its old bytes or its new ones.
const SECTOR: u64 = 512;
/// What a system reads and writes at once.
const BLOCK: u64 = 4096;

/// How long operations take, in microseconds. Zero-width ranges are constants.
#[derive(Clone, Debug)]
pub struct Latency {
    pub write_us: Range<u64>,
    pub sync_us: Range<u64>,
    /// Create, truncate, rename, remove.
    pub other_us: Range<u64>,
    /// How many operations of a million take `stall_us` more.
    pub stalls_per_million: u64,
    pub stall_us: Range<u64>,
}

impl Latency {
    /// Everything completes at the time it was submitted.
    pub const NONE: Latency = Latency {
        write_us: 0..0,
        sync_us: 0..0,
        other_us: 0..0,
        stalls_per_million: 0,
        stall_us: 0..0,
    };
}

/// What one [`MemDisk::crash`] did, so that a simulation can count what it covered.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct CrashReport {
    pub writes_kept: u64,
    pub writes_lost: u64,
    pub writes_torn: u64,
    /// Creations, renames and removals that were in flight and did not happen.
    pub names_lost: u64,
    /// Operations whose completion nobody will see.
    pub in_flight: u64,
}

/// A deterministic disk. Clones share it: the host writes to one, the simulator advances and crashes another.
///
/// An operation takes effect when it completes, which is when [`MemDisk::advance`] (or a poll at the same time) passes
/// its latency. Reads see completed operations.
#[derive(Clone)]
pub struct MemDisk(Rc<RefCell<State>>);

#[derive(Clone)]
struct State {
    now: Mono,
    prng: Prng,
    latency: Latency,
    files: BTreeMap<FileName, MemFile>,
    /// By due time, then by submission.
    in_flight: BTreeMap<(Mono, u64), InFlight>,
    submitted: u64,
    busy_until: BTreeMap<FileName, Mono>,
    completed: VecDeque<Completion>,
    capacity: Option<u64>,
    allocates_late: bool,
    failing_syncs: u32,
    dies_after: Option<u64>,
    sync_is_nothing: bool,
}

#[derive(Clone)]
struct InFlight {
    token: Token,
    op: Op,
    took: Duration,
}

#[derive(Clone, Default)]
struct MemFile {
    durable: Image,
    live: Image,
    /// What turns `durable` into `live`.
    unsynced: Vec<Change>,
    poisoned: bool,
    /// Blocks that the device cannot read.
    unreadable: BTreeSet<u64>,
}

impl MemDisk {
    /// An empty disk without latency. `seed` decides latencies and partial writes.
    pub fn new(seed: u64) -> MemDisk {
        MemDisk(Rc::new(RefCell::new(State {
            now: Mono::ZERO,
            prng: Prng::new(seed),
            latency: Latency::NONE,
            files: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            submitted: 0,
            busy_until: BTreeMap::new(),
            completed: VecDeque::new(),
            capacity: None,
            allocates_late: false,
            failing_syncs: 0,
            dies_after: None,
            sync_is_nothing: false,
        })))
    }

    /// An independent copy of everything, as it is now.
    pub fn fork(&self) -> MemDisk {
        MemDisk(Rc::new(RefCell::new(self.0.borrow().clone())))
    }

    pub fn set_latency(&self, latency: Latency) {
        self.0.borrow_mut().latency = latency;
    }

    /// Completes what is due by `now`. Time never goes back: an earlier `now` changes nothing.
    pub fn advance(&self, now: Mono) {
        let mut state = self.0.borrow_mut();
        state.now = state.now.max(now);
        state.complete_due();
    }

    /// When the next operation in flight completes.
    pub fn next_due(&self) -> Option<Mono> {
        self.0.borrow().in_flight.keys().next().map(|(due, _)| *due)
    }

    /// The power fails. Each unsynced write is kept, lost or torn, each on its own; names in flight changed or did not;
    /// completions not yet polled are gone. What was synced stays. Injected faults and poison end with the process.
    pub fn crash(&self, prng: &mut Prng) -> CrashReport {
        self.0.borrow_mut().crash(prng)
    }

    /// The process dies but the system lives (`kill -9`): everything submitted takes effect, completions are gone.
    pub fn kill(&self) {
        let mut state = self.0.borrow_mut();
        while let Some((_, in_flight)) = state.in_flight.pop_first() {
            state.finish(in_flight);
        }
        state.forget_process();
    }

    /// Bounds the sum of all file lengths, in bytes. `None`: unbounded.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.0.borrow_mut().capacity = capacity;
    }

    /// Whether what grows a file finds out only at its sync that there is no room, as behind a quota or over a network.
    /// Such a sync poisons the file like any other that fails.
    pub fn set_allocates_late(&self, yes: bool) {
        self.0.borrow_mut().allocates_late = yes;
    }

    /// Sum of all file lengths, in bytes.
    pub fn used(&self) -> u64 {
        self.0.borrow().used()
    }

    /// The next `count` syncs fail, and poison their files.
    pub fn fail_syncs(&self, count: u32) {
        self.0.borrow_mut().failing_syncs = count;
    }

    /// After `ops` more operations the device is gone: every further one fails with `Io`, without effect. A crash brings
    /// it back.
    pub fn die_after(&self, ops: u64) {
        self.0.borrow_mut().dies_after = Some(ops);
    }

    /// Flips one bit of what is stored, as rot does. Past the end it does nothing.
    pub fn flip_bit(&self, file: &FileName, offset: u64, bit: u8) {
        if let Some(f) = self.0.borrow_mut().files.get_mut(file) {
            f.durable.flip_bit(offset, bit);
            f.live.flip_bit(offset, bit);
        }
    }

    /// The sector that holds `offset` reads as garbage from now on, as after rot. Past the end it does nothing.
    pub fn corrupt_sector(&self, file: &FileName, offset: u64, prng: &mut Prng) {
        let start = offset / SECTOR * SECTOR;
        let garbage: Vec<u8> = (0..SECTOR).map(|_| prng.next_u64() as u8).collect();
        self.overwrite(file, start, &garbage);
    }

    /// The block that holds `offset` cannot be read from now on, nor written: to write a part of a block the system reads
    /// it first. It stays so for as long as the file is there.
    pub fn make_unreadable(&self, file: &FileName, offset: u64) {
        if let Some(f) = self.0.borrow_mut().files.get_mut(file) {
            f.unreadable.insert(offset / BLOCK);
        }
    }

    /// A write of `len` bytes that was synced never reached the medium: zeros are there, as in a fresh file.
    pub fn lose_write(&self, file: &FileName, offset: u64, len: u64) {
        self.overwrite(file, offset, &vec![0; len as usize]);
    }

    /// `len` bytes that were written to `offset` of `from` are at `at` of `to` instead, and zeros where they belong.
    /// Neither file changes its length.
    pub fn misdirect(&self, from: &FileName, offset: u64, len: u64, to: &FileName, at: u64) {
        let stored = self
            .0
            .borrow()
            .files
            .get(from)
            .map(|f| f.durable.read(offset, len as usize));
        if let Some(stored) = stored {
            self.overwrite(from, offset, &vec![0; stored.len()]);
            self.overwrite(to, at, &stored);
        }
    }

    /// Changes what is stored, within the file's length.
    fn overwrite(&self, file: &FileName, offset: u64, data: &[u8]) {
        if let Some(f) = self.0.borrow_mut().files.get_mut(file) {
            for image in [&mut f.durable, &mut f.live] {
                let len = image.len().saturating_sub(offset).min(data.len() as u64);
                image.write(offset, &data[..len as usize]);
            }
        }
    }

    /// The mutant disk whose sync completes without making anything durable. A durability test must fail on it.
    pub fn set_sync_is_nothing(&self, yes: bool) {
        self.0.borrow_mut().sync_is_nothing = yes;
    }

    /// The disk was taken out and an empty one put in its place.
    pub fn wipe(&self) {
        let mut state = self.0.borrow_mut();
        state.files.clear();
        state.in_flight.clear();
        state.forget_process();
    }
}

impl Disk for MemDisk {
    fn submit(&mut self, token: Token, op: Op) {
        self.0.borrow_mut().submit(token, op);
    }

    fn poll(&mut self) -> Option<Completion> {
        let mut state = self.0.borrow_mut();
        state.complete_due();
        state.completed.pop_front()
    }
}

impl DiskRead for MemDisk {
    fn list(&mut self) -> Result<Vec<(FileName, u64)>, DiskError> {
        let state = self.0.borrow();
        Ok(state
            .files
            .iter()
            .map(|(name, f)| (name.clone(), f.live.len()))
            .collect())
    }

    fn read(&mut self, file: &FileName, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        match self.0.borrow().files.get(file) {
            Some(f) if f.is_unreadable(offset, len as u64) => {
                Err(DiskError::new(DiskErrorKind::Unreadable, Act::Read, file))
            }
            Some(f) => Ok(f.live.read(offset, len)),
            None => Err(DiskError::new(DiskErrorKind::NotFound, Act::Read, file)),
        }
    }

    fn run(&mut self, op: Op) -> Result<(), DiskError> {
        let mut state = self.0.borrow_mut();
        while let Some((_, in_flight)) = state.in_flight.pop_first() {
            let completion = state.finish(in_flight);
            state.completed.push_back(completion);
        }
        state.execute(&op)
    }
}

impl State {
    fn submit(&mut self, token: Token, op: Op) {
        let took = self.draw_latency(op.act());
        let mut start = self.now;
        let mut touched = vec![op.file().clone()];
        if let Op::Rename { to, .. } = &op {
            touched.push(to.clone());
        }
        for file in &touched {
            start = start.max(self.busy_until.get(file).copied().unwrap_or(Mono::ZERO));
        }
        let due = start + took;
        for file in touched {
            self.busy_until.insert(file, due);
        }
        self.submitted += 1;
        let in_flight = InFlight { token, op, took };
        self.in_flight.insert((due, self.submitted), in_flight);
    }

    fn draw_latency(&mut self, act: Act) -> Duration {
        let range = match act {
            Act::Write => self.latency.write_us.clone(),
            Act::Sync => self.latency.sync_us.clone(),
            _ => self.latency.other_us.clone(),
        };
        let mut us = draw(&mut self.prng, range);
        if self.latency.stalls_per_million > 0 && self.prng.per_million(self.latency.stalls_per_million) {
            us += draw(&mut self.prng, self.latency.stall_us.clone());
        }
        Duration::from_micros(us)
    }

    fn complete_due(&mut self) {
        while let Some(entry) = self.in_flight.first_entry() {
            if entry.key().0 > self.now {
                return;
            }
            let in_flight = entry.remove();
            let completion = self.finish(in_flight);
            self.completed.push_back(completion);
        }
        self.busy_until.clear();
    }

    fn finish(&mut self, in_flight: InFlight) -> Completion {
        Completion {
            token: in_flight.token,
            result: self.execute(&in_flight.op),
            took: in_flight.took,
        }
    }

    fn execute(&mut self, op: &Op) -> Result<(), DiskError> {
        let failed = |kind| Err(DiskError::new(kind, op.act(), op.file()));
        if let Some(left) = &mut self.dies_after {
            if *left == 0 {
                return failed(DiskErrorKind::Io);
            }
            *left -= 1;
        }
        let is_poisoned = self.files.get(op.file()).is_some_and(|f| f.poisoned);
        let ends_file = matches!(op, Op::Create { .. } | Op::Remove { .. });
        if is_poisoned && !ends_file && !settle_base::mutant!("failed_sync_retried") {
            return failed(DiskErrorKind::Poisoned);
        }
        let room = self.room();
        if let Op::Create { file, reserve } = op {
            let freed = self.files.get(file).map_or(0, |f| f.live.len());
            if *reserve > room.saturating_add(freed) {
                return failed(DiskErrorKind::NoSpace);
            }
            let image = Image::reserved(*reserve);
            let made = MemFile {
                durable: image.clone(),
                live: image,
                ..MemFile::default()
            };
            self.files.insert(file.clone(), made);
            return Ok(());
        }
        let (grows_late, room_late) = (self.allocates_late, self.room_on_medium());
        let Some(f) = self.files.get_mut(op.file()) else {
            return failed(DiskErrorKind::NotFound);
        };
        match op {
            Op::Create { .. } => unreachable!("handled above"),
            Op::Write { offset, data, .. } => {
                if f.is_unreadable(*offset, data.len() as u64) {
                    return failed(DiskErrorKind::Io);
                }
                let grows = (offset + data.len() as u64).saturating_sub(f.live.len());
                if grows > room && !grows_late {
                    // A full disk takes a part of the write before it says so.
                    let fits = f
                        .live
                        .len()
                        .saturating_add(room)
                        .saturating_sub(*offset)
                        .min(data.len() as u64);
                    let part = self.prng.below(fits + 1) as usize;
                    if part > 0 {
                        let data = data.slice(..part);
                        f.change(Change::Write { offset: *offset, data });
                    }
                    return failed(DiskErrorKind::NoSpace);
                }
                let data = data.clone();
                f.change(Change::Write { offset: *offset, data });
            }
            Op::Truncate { len, .. } => {
                if f.is_unreadable(*len, 1) {
                    return failed(DiskErrorKind::Io);
                }
                if len.saturating_sub(f.live.len()) > room && !grows_late {
                    return failed(DiskErrorKind::NoSpace);
                }
                f.change(Change::Truncate { len: *len });
            }
            Op::Sync { .. } => {
                let is_full = grows_late && f.live.len().saturating_sub(f.durable.len()) > room_late;
                if self.failing_syncs > 0 || is_full {
                    self.failing_syncs -= u32::from(!is_full);
                    f.poisoned = true;
                    // The system drops the pages that it could not write and shows them as clean: reads see them, and a
                    // later sync does not know of them.
                    for change in f.unsynced.drain(..) {
                        if self.prng.percent(50) {
                            f.durable.apply(&change);
                        }
                    }
                    return failed(match is_full {
                        true => DiskErrorKind::NoSpace,
                        false => DiskErrorKind::Io,
                    });
                }
                if !self.sync_is_nothing {
                    for change in f.unsynced.drain(..) {
                        f.durable.apply(&change);
                    }
                }
            }
            Op::Rename { from, to } => {
                let f = self.files.remove(from).expect("it was found above");
                self.files.insert(to.clone(), f);
            }
            Op::Remove { file } => {
                self.files.remove(file);
            }
        }
        Ok(())
    }

    fn used(&self) -> u64 {
        self.files.values().map(|f| f.live.len()).sum()
    }

    fn room(&self) -> u64 {
        self.capacity
            .map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()))
    }

    /// Of what is durable alone.
    fn room_on_medium(&self) -> u64 {
        let used = || self.files.values().map(|f| f.durable.len()).sum();
        self.capacity
            .map_or(u64::MAX, |capacity| capacity.saturating_sub(used()))
    }

    fn crash(&mut self, prng: &mut Prng) -> CrashReport {
        let mut report = CrashReport::default();
        self.failing_syncs = 0;
        self.dies_after = None;
        let mut in_flight: Vec<_> = std::mem::take(&mut self.in_flight).into_iter().collect();
        in_flight.sort_by_key(|((_, submitted), _)| *submitted);
        for (_, InFlight { op, .. }) in in_flight {
            report.in_flight += 1;
            match op {
                // A sync that did not complete promises nothing; the writes before it take their chance below.
                Op::Sync { .. } => {}
                Op::Write { .. } | Op::Truncate { .. } => drop(self.execute(&op)),
                Op::Create { .. } | Op::Rename { .. } | Op::Remove { .. } if prng.percent(50) => {
                    drop(self.execute(&op))
                }
                Op::Create { .. } | Op::Rename { .. } | Op::Remove { .. } => report.names_lost += 1,
            }
        }
        for f in self.files.values_mut() {
            f.crash(prng, &mut report);
        }
        self.forget_process();
        report
    }

    fn forget_process(&mut self) {
        self.completed.clear();
        self.busy_until.clear();
        self.failing_syncs = 0;
        self.dies_after = None;
        for f in self.files.values_mut() {
            f.poisoned = false;
        }
    }
}

impl MemFile {
    fn is_unreadable(&self, offset: u64, len: u64) -> bool {
        let end = offset.saturating_add(len).min(self.live.len());
        end > offset
            && self
                .unreadable
                .range(offset / BLOCK..end.div_ceil(BLOCK))
                .next()
                .is_some()
    }

    fn change(&mut self, change: Change) {
        self.live.apply(&change);
        self.unsynced.push(change);
    }

    fn crash(&mut self, prng: &mut Prng, report: &mut CrashReport) {
        for change in std::mem::take(&mut self.unsynced) {
            match (change, prng.below(3)) {
                (change, 0) => {
                    report.writes_kept += 1;
                    self.durable.apply(&change);
                }
                (Change::Write { offset, data }, 1) => {
                    report.writes_torn += 1;
                    tear(&mut self.durable, offset, &data, prng);
                }
                (Change::Write { offset, data }, _) => {
                    report.writes_lost += 1;
                    // The length is metadata and may have reached the disk without the data.
                    if prng.percent(30) {
                        self.durable.grow(offset + data.len() as u64);
                    }
                }
                (Change::Truncate { .. }, _) => report.writes_lost += 1,
            }
        }
        self.live = self.durable.clone();
    }
}

/// Stores some first sectors of `data`; of the others each is old, or new, or (whole sectors only) garbage.
fn tear(image: &mut Image, offset: u64, data: &[u8], prng: &mut Prng) {
    let end = offset + data.len() as u64;
    let sectors = (offset / SECTOR)..end.div_ceil(SECTOR);
    let kept_until = prng.between(sectors.start, sectors.end + 1);
    let scattered = prng.percent(50);
    if prng.percent(50) {
        image.grow(end);
    }
    for sector in sectors {
        let start = (sector * SECTOR).max(offset);
        let stop = ((sector + 1) * SECTOR).min(end);
        let new = &data[(start - offset) as usize..(stop - offset) as usize];
        let whole = stop - start == SECTOR;
        if sector < kept_until || (scattered && prng.percent(30)) {
            image.write(start, new);
        } else if whole && scattered && prng.percent(30) {
            let garbage: Vec<u8> = (0..SECTOR).map(|_| prng.next_u64() as u8).collect();
            image.write(start, &garbage);
        }
    }
}

fn draw(prng: &mut Prng, range: Range<u64>) -> u64 {
    if range.is_empty() {
        range.start
    } else {
        prng.between(range.start, range.end)
    }
}
