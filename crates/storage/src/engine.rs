use bytes::Bytes;

/// A write's place among all writes of an engine: it rises with each. 0 is before the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Seq(pub u64);

/// Keys from `start` on, up to `end`, which is excluded; `None` is the end of all keys.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KeyRange {
    pub start: Bytes,
    pub end: Option<Bytes>,
}

impl KeyRange {
    pub fn new(start: impl Into<Bytes>, end: impl Into<Bytes>) -> KeyRange {
        KeyRange {
            start: start.into(),
            end: Some(end.into()),
        }
    }

    /// All keys that begin with `prefix`.
    pub fn prefixed(prefix: impl Into<Bytes>) -> KeyRange {
        let start = prefix.into();
        let end = start.iter().rposition(|byte| *byte < u8::MAX).map(|last| {
            let mut end = start[..=last].to_vec();
            end[last] += 1;
            Bytes::from(end)
        });
        KeyRange { start, end }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        self.start <= key && self.end.as_ref().is_none_or(|end| key < &end[..])
    }

    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }
}

/// The smallest key behind `key`.
pub fn key_after(key: &[u8]) -> Bytes {
    let mut after = Vec::with_capacity(key.len() + 1);
    after.extend_from_slice(key);
    after.push(0);
    after.into()
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    Put { key: Bytes, value: Bytes },
    Delete { key: Bytes },
    DeleteRange(KeyRange),
}

/// Changes that are made together, each on top of those before it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Batch {
    changes: Vec<Change>,
}

impl Batch {
    pub fn put(&mut self, key: Bytes, value: Bytes) {
        self.changes.push(Change::Put { key, value });
    }

    pub fn delete(&mut self, key: Bytes) {
        self.changes.push(Change::Delete { key });
    }

    /// What is put behind it into the range stays.
    pub fn delete_range(&mut self, range: KeyRange) {
        self.changes.push(Change::DeleteRange(range));
    }

    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    Forward,
    Backward,
}

/// How much of a scan is given at once. At least one row is, if there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    pub rows: usize,
    /// Of keys and values.
    pub bytes: usize,
}

/// The next rows of a scan, in its order.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Page {
    pub rows: Vec<(Bytes, Bytes)>,
    /// What is still to be scanned; `None` when there is nothing more.
    pub rest: Option<KeyRange>,
}

/// What an engine holds, in bytes: keys, values, and what it has to keep beside them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    pub bytes: u64,
    pub bytes_max: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EngineError {
    /// Nothing was done. What frees more than it takes is still done.
    #[error("the engine is full: it holds {} of {} bytes", usage.bytes, usage.bytes_max)]
    NoSpace { usage: Usage },
    /// The engine is not open any more.
    #[error("the engine was closed")]
    Closed,
}

/// What can be read, as it stands now (an engine) or stood at one moment (a view).
pub trait KvRead {
    /// # Errors
    /// When the engine fails.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The first rows of `range` that `limit` lets through, from the front or from the back.
    ///
    /// # Errors
    /// When the engine fails.
    fn scan(&self, range: &KeyRange, direction: Direction, limit: Limit) -> Result<Page, EngineError>;
}

/// An ordered store of keys and values that all regions of a node share. Handles are clones of one another.
///
/// Calls are made by the thread that applies, and return what they did: reads are from memory or a block of a file, and
/// a write goes into memory and an unsynced log. What waits for a device (a sync) or has no bound (removing what a
/// region left) is only begun here and goes on beside: [`KvEngine::flush`], [`KvEngine::clear`]. Why it is so:
/// `docs/adr/0006-kv-engine-is-called.md`.
///
/// A crash keeps the writes up to one of them, whole, and none behind it: at least those up to [`KvEngine::durable`].
pub trait KvEngine: KvRead + Clone + Send + 'static {
    type View: KvRead + Clone + Send + 'static;

    /// Makes all changes of the batch, or none: from here on everybody sees them. They are not durable yet.
    ///
    /// # Errors
    /// `NoSpace` when it would hold more than it may and the batch adds to it; or when the engine fails.
    fn write(&self, batch: Batch) -> Result<Seq, EngineError>;

    /// Everything as it is now, for as long as the view is held, whatever is written meanwhile. Costs the same however
    /// much there is.
    fn view(&self) -> Self::View;

    /// Begins to make durable all that is there, also what was found at the start: a process that died may have left it in
    /// the system's cache alone. It is done once [`KvEngine::durable`] has come to the number that this gives.
    fn flush(&self) -> Seq;

    /// The last write that no crash takes any more; 0 for an engine that keeps nothing over a crash.
    ///
    /// # Errors
    /// When something that was to be made durable was not: it never will be.
    fn durable(&self) -> Result<Seq, EngineError>;

    /// Begins to remove everything in `range`, with the writes that follow. Until that is done some of it is still there:
    /// so nobody may read or write there any more, but views from before. A crash may forget it; then it is asked again.
    fn clear(&self, range: KeyRange);

    fn usage(&self) -> Usage;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_one_also_at_the_end_of_all() {
        let of = KeyRange::prefixed;
        assert_eq!(of(&b"ab"[..]), KeyRange::new(&b"ab"[..], &b"ac"[..]));
        assert_eq!(of(&b"a\xff"[..]), KeyRange::new(&b"a\xff"[..], &b"b"[..]));
        assert_eq!(of(&b"\xff\xff"[..]).end, None);
        assert!(of(&b"a\xff"[..]).contains(b"a\xff\xff\xff") && !of(&b"a\xff"[..]).contains(b"b"));
        assert!(of(&b""[..]).contains(b""));
    }
}
