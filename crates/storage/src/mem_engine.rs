//! An engine in memory: the engine of nodes that keep all in memory, and of simulations, where it loses on demand what
//! was not durable.
//!
//! Each key has its versions by the number of the write that made them. A view is no more than such a number. A version
//! stays for as long as a view, or a crash that may still happen, needs it; what is not needed any more is freed by the
//! writes that follow, a bounded part at each.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use settle_base::Prng;

use crate::engine::{
    Batch, Change, Direction, EngineError, KeyRange, KvEngine, KvRead, Limit, Page, Seq, Usage, key_after,
};

/// What a version costs beside its bytes, about.
const VERSION_BYTES: u64 = 96;
/// Keys that a write looks after beside its own.
const CARE_KEYS: usize = 64;

/// What a [`MemEngine`] keeps when its process dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keeps {
    /// Nothing: it is memory and no more.
    Nothing,
    /// What was flushed, and some of what was written behind it: a disk, for a simulation.
    WhatWasFlushed,
}

/// See the module. Clones share it.
#[derive(Clone)]
pub struct MemEngine(Arc<Mutex<State>>);

struct State {
    /// A key's versions, the oldest first; a `None` is a removal, and never the oldest.
    rows: BTreeMap<Bytes, Row>,
    last: u64,
    keeps: Keeps,
    durable: u64,
    /// To be durable once the flush under way ends.
    flushing: u64,
    flush_is_nothing: bool,
    /// How many views see what was written up to here.
    views: BTreeMap<u64, usize>,
    /// Keys with a version that may not be needed once all views are of at least this write. Each at most once.
    superseded: BTreeSet<(u64, Bytes)>,
    clearing: VecDeque<KeyRange>,
    bytes: u64,
    bytes_max: u64,
    is_closed: bool,
}

#[derive(Default)]
struct Row {
    versions: Vec<Version>,
    is_superseded: bool,
}

struct Version {
    seq: u64,
    value: Option<Bytes>,
}

/// A [`MemEngine`] at one moment.
#[derive(Clone)]
pub struct MemView(Arc<Pin>);

struct Pin {
    engine: MemEngine,
    seq: u64,
}

impl MemEngine {
    /// `bytes_max`: what it may hold.
    pub fn new(keeps: Keeps, bytes_max: u64) -> MemEngine {
        MemEngine(Arc::new(Mutex::new(State {
            rows: BTreeMap::new(),
            last: 0,
            keeps,
            durable: 0,
            flushing: 0,
            flush_is_nothing: false,
            views: BTreeMap::new(),
            superseded: BTreeSet::new(),
            clearing: VecDeque::new(),
            bytes: 0,
            bytes_max,
            is_closed: false,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no call panics half-way")
    }

    /// What was asked to be durable now is.
    pub fn finish_flush(&self) {
        self.state().finish_flush();
    }

    /// The mutant engine that tells of a flush without having made anything durable. A test of durability must fail on it.
    pub fn set_flush_is_nothing(&self, yes: bool) {
        self.state().flush_is_nothing = yes;
    }

    /// The process dies and the system lives: nothing is lost yet, and what was not durable is not. What the process still
    /// holds of this engine is closed. Gives the engine as the next process finds it.
    pub fn reopen(&self) -> MemEngine {
        let mut state = self.state();
        state.is_closed = true;
        let next = MemEngine::new(state.keeps, state.bytes_max);
        if state.keeps == Keeps::WhatWasFlushed {
            let mut born = next.state();
            (born.rows, born.bytes) = (std::mem::take(&mut state.rows), state.bytes);
            born.superseded = std::mem::take(&mut state.superseded);
            (born.last, born.durable, born.flushing) = (state.last, state.durable, state.durable);
            born.flush_is_nothing = state.flush_is_nothing;
        }
        next
    }

    /// The power fails: as [`MemEngine::reopen`], with what is left of the writes that were not durable. What is left is on
    /// the medium.
    pub fn crash(&self, prng: &mut Prng) -> MemEngine {
        let mut state = self.state();
        state.is_closed = true;
        let next = MemEngine::new(state.keeps, state.bytes_max);
        if state.keeps == Keeps::WhatWasFlushed {
            let certain = if state.flush_is_nothing { 0 } else { state.durable };
            let kept = prng.between(certain, state.last + 1);
            let mut born = next.state();
            let rows = std::mem::take(&mut state.rows);
            for (key, row) in rows {
                let value = row.at(kept).cloned();
                born.put(&key, value, kept);
            }
            // Numbers that are not used again keep what was lost apart from what comes.
            (born.last, born.durable, born.flushing) = (state.last, state.last, state.last);
            born.flush_is_nothing = state.flush_is_nothing;
        }
        next
    }
}

impl KvRead for MemEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.state().get(key, u64::MAX)
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: Limit) -> Result<Page, EngineError> {
        self.state().scan(range, direction, limit, u64::MAX)
    }
}

impl KvEngine for MemEngine {
    type View = MemView;

    fn write(&self, batch: Batch) -> Result<Seq, EngineError> {
        self.state().write(&batch)
    }

    fn view(&self) -> MemView {
        let mut state = self.state();
        let seq = state.last;
        *state.views.entry(seq).or_default() += 1;
        let engine = self.clone();
        MemView(Arc::new(Pin { engine, seq }))
    }

    fn flush(&self) -> Seq {
        let mut state = self.state();
        state.flushing = state.last;
        Seq(state.last)
    }

    fn durable(&self) -> Result<Seq, EngineError> {
        let state = self.state();
        state.open()?;
        Ok(Seq(state.durable))
    }

    fn clear(&self, range: KeyRange) {
        if !range.is_empty() {
            self.state().clearing.push_back(range);
        }
    }

    fn usage(&self) -> Usage {
        self.state().usage()
    }
}

impl KvRead for MemView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.engine.state().get(key, self.0.seq)
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: Limit) -> Result<Page, EngineError> {
        self.0.engine.state().scan(range, direction, limit, self.0.seq)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        // After a panic in here there is nothing to look after any more.
        let Ok(mut state) = self.engine.0.lock() else {
            return;
        };
        if let Some(count) = state.views.get_mut(&self.seq) {
            *count -= 1;
            if *count == 0 {
                state.views.remove(&self.seq);
            }
        }
        state.free(CARE_KEYS);
    }
}

impl State {
    fn open(&self) -> Result<(), EngineError> {
        match self.is_closed {
            true => Err(EngineError::Closed),
            false => Ok(()),
        }
    }

    fn usage(&self) -> Usage {
        Usage {
            bytes: self.bytes,
            bytes_max: self.bytes_max,
        }
    }

    fn get(&self, key: &[u8], seq: u64) -> Result<Option<Bytes>, EngineError> {
        self.open()?;
        Ok(self.rows.get(key).and_then(|row| row.at(seq)).cloned())
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: Limit, seq: u64) -> Result<Page, EngineError> {
        self.open()?;
        if range.is_empty() {
            return Ok(Page::default());
        }
        let mut rows = self.rows.range::<[u8], _>(bounds(range));
        let mut next = || match direction {
            Direction::Forward => rows.next(),
            Direction::Backward => rows.next_back(),
        };
        let (mut page, mut bytes) = (Page::default(), 0);
        while let Some((key, row)) = next() {
            let Some(value) = row.at(seq) else { continue };
            bytes += key.len() + value.len();
            let is_over = page.rows.len() >= limit.rows || bytes > limit.bytes;
            if let Some((last, _)) = page.rows.last().filter(|_| is_over) {
                let (start, end) = (range.start.clone(), range.end.clone());
                page.rest = Some(match direction {
                    Direction::Forward => KeyRange {
                        start: key_after(last),
                        end,
                    },
                    Direction::Backward => KeyRange {
                        start,
                        end: Some(last.clone()),
                    },
                });
                break;
            }
            page.rows.push((key.clone(), value.clone()));
        }
        Ok(page)
    }

    fn write(&mut self, batch: &Batch) -> Result<Seq, EngineError> {
        self.open()?;
        let (added, freed) = self.weigh(batch);
        if added > freed && self.bytes + (added - freed) > self.bytes_max {
            let usage = self.usage();
            return Err(EngineError::NoSpace { usage });
        }
        self.last += 1;
        let seq = self.last;
        for change in batch.changes() {
            match change {
                Change::Put { key, value } => self.put(key, Some(value.clone()), seq),
                Change::Delete { key } => self.put(key, None, seq),
                Change::DeleteRange(range) => drop(self.delete_range(range, seq, usize::MAX)),
            }
        }
        self.go_on_clearing(seq);
        self.free(CARE_KEYS + 2 * batch.changes().len());
        Ok(Seq(seq))
    }

    /// What a batch adds, and what it takes away from what is there; nothing is counted for deleted ranges.
    fn weigh(&self, batch: &Batch) -> (u64, u64) {
        let (mut added, mut freed) = (0, 0);
        for change in batch.changes() {
            let (key, value) = match change {
                Change::Put { key, value } => (key, Some(value)),
                Change::Delete { key } => (key, None),
                Change::DeleteRange(_) => continue,
            };
            added += value.map_or(0, |value| weight(key, Some(value)));
            let before = self.rows.get(key).and_then(|row| row.at(u64::MAX));
            freed += before.map_or(0, |value| weight(key, Some(value)));
        }
        (added, freed)
    }

    fn put(&mut self, key: &Bytes, value: Option<Bytes>, seq: u64) {
        if value.is_none() && self.rows.get(key).is_none_or(|row| row.at(u64::MAX).is_none()) {
            return;
        }
        let row = self.rows.entry(key.clone()).or_default();
        self.bytes += weight(key, value.as_ref());
        row.versions.push(Version { seq, value });
        self.tidy(key);
    }

    /// Where to go on, when there are more keys than it may look at.
    fn delete_range(&mut self, range: &KeyRange, seq: u64, keys_max: usize) -> Option<Bytes> {
        if range.is_empty() {
            return None;
        }
        let rows = self.rows.range::<[u8], _>(bounds(range));
        let mut keys: Vec<Bytes> = rows
            .take(keys_max.saturating_add(1))
            .map(|(key, _)| key.clone())
            .collect();
        let next = if keys.len() > keys_max { keys.pop() } else { None };
        for key in keys {
            self.put(&key, None, seq);
        }
        next
    }

    fn go_on_clearing(&mut self, seq: u64) {
        let Some(range) = self.clearing.pop_front() else {
            return;
        };
        if let Some(start) = self.delete_range(&range, seq, CARE_KEYS) {
            let end = range.end;
            self.clearing.push_front(KeyRange { start, end });
        }
    }

    /// Drops the versions of a key that nobody needs.
    fn tidy(&mut self, key: &Bytes) {
        let Some(row) = self.rows.get_mut(key) else { return };
        if let [Version { value: Some(_), .. }] = row.versions[..] {
            return;
        }
        let ends: Vec<u64> = row.versions.iter().skip(1).map(|version| version.seq).collect();
        let (views, bytes) = (&self.views, &mut self.bytes);
        let certain = match self.keeps {
            Keeps::Nothing => u64::MAX,
            Keeps::WhatWasFlushed if self.flush_is_nothing => 0,
            Keeps::WhatWasFlushed => self.durable,
        };
        let (mut at, mut is_oldest) = (0, true);
        row.versions.retain(|version| {
            let end = ends.get(at).copied();
            at += 1;
            let is_seen = end.is_none_or(|end| views.range(version.seq..end).next().is_some() || end > certain);
            // What was never there needs no removal.
            let stays = is_seen && !(is_oldest && version.value.is_none());
            is_oldest &= !stays;
            *bytes -= if stays { 0 } else { weight(key, version.value.as_ref()) };
            stays
        });
        match row.versions[..] {
            // Who is filed stays until it is looked at, so that it is filed once.
            _ if row.is_superseded => {}
            [] => drop(self.rows.remove(key)),
            [_] => {}
            [_, Version { seq, .. }, ..] => {
                row.is_superseded = true;
                self.superseded.insert((seq, key.clone()));
            }
        }
    }

    /// Looks at so many keys that have versions which may not be needed any more.
    fn free(&mut self, keys_max: usize) {
        let oldest_view = self.views.keys().next().copied().unwrap_or(u64::MAX);
        let certain = match self.keeps {
            Keeps::Nothing => u64::MAX,
            Keeps::WhatWasFlushed => self.durable,
        };
        let floor = oldest_view.min(certain);
        for _ in 0..keys_max {
            if self.superseded.first().is_none_or(|(seq, _)| *seq > floor) {
                return;
            }
            let (_, key) = self.superseded.pop_first().expect("it was just seen");
            let row = self.rows.get_mut(&key).expect("who is filed stays");
            row.is_superseded = false;
            self.tidy(&key);
        }
    }

    fn finish_flush(&mut self) {
        if self.keeps == Keeps::WhatWasFlushed {
            self.durable = self.flushing;
            self.free(CARE_KEYS);
        }
    }
}

impl Row {
    fn at(&self, seq: u64) -> Option<&Bytes> {
        let version = self.versions.iter().rev().find(|version| version.seq <= seq)?;
        version.value.as_ref()
    }
}

fn weight(key: &Bytes, value: Option<&Bytes>) -> u64 {
    VERSION_BYTES + (key.len() + value.map_or(0, Bytes::len)) as u64
}

fn bounds(range: &KeyRange) -> (Bound<&[u8]>, Bound<&[u8]>) {
    let end = range.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    (Bound::Included(&range.start), end)
}

impl fmt::Debug for MemEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        write!(f, "MemEngine({} keys, write {})", state.rows.len(), state.last)
    }
}

impl fmt::Debug for MemView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemView(write {})", self.0.seq)
    }
}
