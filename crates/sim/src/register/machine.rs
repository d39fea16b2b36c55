use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use settle_base::{fingerprint, mutant};
use settle_machine::{ApplyError, EntryMeta, LoadError, SnapshotChunks, StateMachine};

/// One client's write. A client asks one thing at a time, so its newest number is all there is to remember.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Write {
    pub(crate) client: u32,
    pub(crate) number: u64,
    pub(crate) key: u32,
    pub(crate) value: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cell {
    /// How many writes there were.
    pub(crate) version: u64,
    pub(crate) value: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Written {
    pub(crate) client: u32,
    pub(crate) number: u64,
    pub(crate) version: u64,
}

#[derive(Clone, Default, Debug)]
pub(crate) struct RegisterMachine {
    cells: BTreeMap<u32, Cell>,
    /// Number and resulting version of each client's last write.
    last: BTreeMap<u32, (u64, u64)>,
    /// Entries applied: one applied twice shows although its writes are known.
    entries: u64,
    /// The times of the last few entries by their count. Older ones are forgotten, so that what is left of another
    /// state shows.
    recent: BTreeMap<u64, u64>,
    /// Writes applied as of cluster version 2: builds before that know nothing of it.
    counted: u64,
    build: u32,
    /// The deliberate bug: this replica applies one entry unlike the others.
    differs: bool,
    /// Which slips are in this state, its own and those of whom it came from by a snapshot; 0: none.
    slips: u64,
    next_slip: Slip,
    /// What has arrived of a snapshot.
    loading: Vec<u8>,
}

/// A fault of a node's memory or processor: what one entry does to its machine is not what it does to the others. Not 0
/// when it is to happen, to whichever machine of the node applies next; then what tells it from other slips.
#[derive(Clone, Default, Debug)]
pub(crate) struct Slip(Arc<AtomicU64>);

impl Slip {
    pub(crate) fn is_to_happen(&self, which: u64) {
        self.0.store(which, Ordering::Relaxed);
    }

    pub(crate) fn is_pending(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// So many entries are remembered one by one.
const RECENT: u64 = 16;

impl RegisterMachine {
    pub(crate) fn new(build: u32, differs: bool, next_slip: Slip) -> RegisterMachine {
        RegisterMachine {
            build,
            differs,
            next_slip,
            ..RegisterMachine::default()
        }
    }

    /// Equal for machines that are to be equal when they have applied the same.
    pub(crate) fn slips(&self) -> u64 {
        self.slips
    }

    pub(crate) fn get(&self, key: u32) -> Cell {
        self.cells.get(&key).copied().unwrap_or_default()
    }

    pub(crate) fn cells(&self) -> impl Iterator<Item = (u32, Cell)> {
        self.cells.iter().map(|(key, cell)| (*key, *cell))
    }

    fn image(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u32_le(self.cells.len() as u32);
        for (key, cell) in &self.cells {
            out.put_u32_le(*key);
            out.put_u64_le(cell.version);
            out.put_u64_le(cell.value);
        }
        out.put_u32_le(self.last.len() as u32);
        for (client, (number, version)) in &self.last {
            out.put_u32_le(*client);
            out.put_u64_le(*number);
            out.put_u64_le(*version);
        }
        out.put_u64_le(self.entries);
        out.put_u64_le(self.counted);
        out.put_u64_le(self.slips);
        out.put_u32_le(self.recent.len() as u32);
        for (count, time) in &self.recent {
            out.put_u64_le(*count);
            out.put_u64_le(*time);
        }
        out.freeze()
    }

    fn from_image(mut image: &[u8]) -> Option<RegisterMachine> {
        let mut machine = RegisterMachine::default();
        for _ in 0..image.try_get_u32_le().ok()? {
            let key = image.try_get_u32_le().ok()?;
            let version = image.try_get_u64_le().ok()?;
            let value = image.try_get_u64_le().ok()?;
            machine.cells.insert(key, Cell { version, value });
        }
        for _ in 0..image.try_get_u32_le().ok()? {
            let client = image.try_get_u32_le().ok()?;
            let number = image.try_get_u64_le().ok()?;
            machine.last.insert(client, (number, image.try_get_u64_le().ok()?));
        }
        machine.entries = image.try_get_u64_le().ok()?;
        machine.counted = image.try_get_u64_le().ok()?;
        machine.slips = image.try_get_u64_le().ok()?;
        for _ in 0..image.try_get_u32_le().ok()? {
            let count = image.try_get_u64_le().ok()?;
            machine.recent.insert(count, image.try_get_u64_le().ok()?);
        }
        image.is_empty().then_some(machine)
    }
}

/// `padding` bytes make entries as long as real ones.
pub(crate) fn encode(writes: &[Write], padding: usize) -> Bytes {
    let mut out = BytesMut::with_capacity(4 + writes.len() * 24 + padding);
    out.put_u32_le(writes.len() as u32);
    for write in writes {
        out.put_u32_le(write.client);
        out.put_u64_le(write.number);
        out.put_u32_le(write.key);
        out.put_u64_le(write.value);
    }
    out.put_bytes(0x5a, padding);
    out.freeze()
}

fn decode(command: &Bytes) -> Option<Vec<Write>> {
    let mut bytes = &command[..];
    let count = bytes.try_get_u32_le().ok()? as usize;
    let mut writes = Vec::with_capacity(count.min(bytes.len() / 24));
    for _ in 0..count {
        writes.push(Write {
            client: bytes.try_get_u32_le().ok()?,
            number: bytes.try_get_u64_le().ok()?,
            key: bytes.try_get_u32_le().ok()?,
            value: bytes.try_get_u64_le().ok()?,
        });
    }
    bytes.iter().all(|b| *b == 0x5a).then_some(writes)
}

impl StateMachine for RegisterMachine {
    type Effect = Written;

    fn check(&self, command: &Bytes) -> Result<(), ApplyError> {
        let reason = "not a batch of writes".to_owned();
        decode(command).map(drop).ok_or(ApplyError { index: 0, reason })
    }

    fn apply(&mut self, entry: EntryMeta, command: &Bytes, effects: &mut Vec<Written>) -> Result<(), ApplyError> {
        let index = entry.index;
        let reason = "not a batch of writes".to_owned();
        let writes = decode(command).ok_or(ApplyError { index, reason })?;
        self.entries += 1;
        self.slips ^= self.next_slip.take();
        if entry.version >= 2 && self.build >= 2 {
            self.counted += writes.len() as u64;
        }
        let time = entry.time.0 ^ u64::from(self.differs && self.entries == 8);
        self.recent.insert(self.entries, time);
        self.recent.remove(&self.entries.saturating_sub(RECENT));
        for Write {
            client,
            number,
            key,
            value,
        } in writes
        {
            let version = match self.last.get(&client) {
                Some((last, _)) if *last > number => continue,
                Some((last, version)) if *last == number => *version,
                _ => {
                    let cell = self.cells.entry(key).or_default();
                    cell.version += 1;
                    cell.value = value;
                    self.last.insert(client, (number, cell.version));
                    cell.version
                }
            };
            effects.push(Written {
                client,
                number,
                version,
            });
        }
        Ok(())
    }

    fn begin_snapshot(&self) -> SnapshotChunks {
        let image = self.image();
        let cut = image.len() / 3;
        Box::new([image.slice(..cut), image.slice(cut..)].into_iter())
    }

    fn load_chunk(&mut self, chunk: Bytes) -> Result<(), LoadError> {
        self.loading.extend_from_slice(&chunk);
        Ok(())
    }

    fn finish_load(&mut self) -> Result<(), LoadError> {
        let image = std::mem::take(&mut self.loading);
        let reason = "not an image of registers".to_owned();
        let mut loaded = RegisterMachine::from_image(&image).ok_or(LoadError { reason })?;
        if mutant!("load_without_clearing") {
            loaded.recent.append(&mut self.recent);
        }
        loaded.build = self.build;
        loaded.differs = self.differs;
        loaded.next_slip = self.next_slip.clone();
        *self = loaded;
        Ok(())
    }

    fn state_hash(&self) -> u64 {
        fingerprint(&self.image())
    }

    /// The states are small.
    fn is_hash_cheap(&self) -> bool {
        true
    }
}
