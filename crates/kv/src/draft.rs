//! Changes that are not in the engine yet: those of the requests that are done, and on top those of the one under way.
//! They are read as if they were there.

use std::{
    collections::BTreeMap,
    ops::{Bound, RangeBounds},
};

use bytes::Bytes;
use settle_storage::{Batch, Direction, EngineError, KeyRange, KvEngine, KvRead, Limit, Page, Seq, key_after};

type Changes = BTreeMap<Bytes, Option<Bytes>>;

pub(crate) struct Draft<E> {
    engine: E,
    kept: Changes,
    open: Changes,
}

impl<E: KvEngine> Draft<E> {
    pub fn new(engine: E) -> Draft<E> {
        let (kept, open) = Default::default();
        Draft { engine, kept, open }
    }

    pub fn engine(&self) -> &E {
        &self.engine
    }

    pub fn put(&mut self, key: Bytes, value: Bytes) {
        self.open.insert(key, Some(value));
    }

    pub fn delete(&mut self, key: Bytes) {
        self.open.insert(key, None);
    }

    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.open.is_empty()
    }

    /// What is under way is done.
    pub fn keep(&mut self) {
        // Not `append`, which builds all of it anew for each request of a batch.
        self.kept.extend(std::mem::take(&mut self.open));
    }

    /// What is under way is not to be.
    pub fn drop_open(&mut self) {
        self.open.clear();
    }

    /// All that was kept, in one batch.
    pub fn write(&mut self) -> Result<Seq, EngineError> {
        assert!(self.open.is_empty(), "nothing is written half-way");
        let mut batch = Batch::default();
        for (key, value) in std::mem::take(&mut self.kept) {
            match value {
                Some(value) => batch.put(key, value),
                None => batch.delete(key),
            }
        }
        self.engine.write(batch)
    }
}

impl<E: KvEngine> KvRead for Draft<E> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.open.get(key).or_else(|| self.kept.get(key)) {
            Some(value) => Ok(value.clone()),
            None => self.engine.get(key),
        }
    }

    fn scan(&self, range: &KeyRange, direction: Direction, limit: Limit) -> Result<Page, EngineError> {
        if self.is_empty() || range.is_empty() {
            return self.engine.scan(range, direction, limit);
        }
        let (mut page, mut bytes) = (Page::default(), 0);
        let mut rest = Some(range.clone());
        while let Some(range) = rest.take() {
            let stored = self.engine.scan(&range, direction, limit)?;
            let seen = match (&stored.rest, direction) {
                (None, _) => range.clone(),
                (Some(rest), Direction::Forward) => KeyRange {
                    start: range.start.clone(),
                    end: Some(rest.start.clone()),
                },
                (Some(rest), Direction::Backward) => KeyRange {
                    start: rest.end.clone().unwrap_or_default(),
                    end: range.end.clone(),
                },
            };
            let mut rows: Changes = stored.rows.into_iter().map(|(k, v)| (k, Some(v))).collect();
            for changes in [&self.kept, &self.open] {
                let changed = changes.range::<[u8], _>(bounds(&seen));
                rows.extend(changed.map(|(key, value)| (key.clone(), value.clone())));
            }
            let rows = rows.into_iter().filter_map(|(key, value)| Some((key, value?)));
            let rows: Vec<_> = match direction {
                Direction::Forward => rows.collect(),
                Direction::Backward => rows.rev().collect(),
            };
            for (key, value) in rows {
                bytes += key.len() + value.len();
                let is_over = page.rows.len() >= limit.rows || bytes > limit.bytes;
                if let Some((last, _)) = page.rows.last().filter(|_| is_over) {
                    page.rest = Some(behind(&range, direction, last));
                    return Ok(page);
                }
                page.rows.push((key, value));
            }
            rest = stored.rest;
        }
        Ok(page)
    }
}

/// What of `range` is left when `last` was given.
fn behind(range: &KeyRange, direction: Direction, last: &Bytes) -> KeyRange {
    match direction {
        Direction::Forward => KeyRange {
            start: key_after(last),
            end: range.end.clone(),
        },
        Direction::Backward => KeyRange {
            start: range.start.clone(),
            end: Some(last.clone()),
        },
    }
}

fn bounds(range: &KeyRange) -> impl RangeBounds<[u8]> + '_ {
    let end = range.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    (Bound::Included(&range.start[..]), end)
}

#[cfg(test)]
mod tests {
    use settle_base::Prng;
    use settle_storage::{Keeps, MemEngine};

    use super::*;

    const ALL: Limit = Limit {
        rows: usize::MAX,
        bytes: usize::MAX,
    };

    #[test]
    fn what_is_drafted_reads_as_if_it_were_written() {
        for seed in 0..300 {
            let mut prng = Prng::from_parts(&[seed]);
            let engine = MemEngine::new(Keeps::Nothing, 1 << 30);
            let mut draft = Draft::new(engine.clone());
            let mut model: BTreeMap<Bytes, Bytes> = BTreeMap::new();
            let mut kept = model.clone();
            for _ in 0..60 {
                let key = Bytes::from(format!("{:02}", prng.below(40)));
                match prng.below(16) {
                    0..7 => {
                        let value = Bytes::from(vec![1; prng.below(9) as usize]);
                        model.insert(key.clone(), value.clone());
                        draft.put(key, value);
                    }
                    7..11 => {
                        model.remove(&key);
                        draft.delete(key);
                    }
                    11 => {
                        draft.drop_open();
                        model = kept.clone();
                    }
                    12 => {
                        draft.keep();
                        kept = model.clone();
                    }
                    13 => {
                        draft.keep();
                        kept = model.clone();
                        draft.write().expect("there is room");
                        assert!(draft.is_empty());
                    }
                    _ => {
                        assert_eq!(draft.get(&key), Ok(model.get(&key).cloned()));
                        let to = Bytes::from(format!("{:02}", prng.below(50)));
                        let (start, end) = (key, Some(to));
                        let range = KeyRange { start, end };
                        let direction = match prng.percent(50) {
                            true => Direction::Forward,
                            false => Direction::Backward,
                        };
                        let limit = Limit {
                            rows: prng.between(1, 6) as usize,
                            bytes: prng.below(40) as usize,
                        };
                        let (mut found, mut rest) = (Vec::new(), Some(range.clone()));
                        while let Some(range) = rest {
                            let page = draft.scan(&range, direction, limit).expect("it is open");
                            assert!(page.rows.len() <= limit.rows);
                            found.extend(page.rows);
                            rest = page.rest;
                        }
                        let rows = model.iter().filter(|(key, _)| range.contains(key));
                        let mut rows: Vec<_> = rows.map(|(k, v)| (k.clone(), v.clone())).collect();
                        if direction == Direction::Backward {
                            rows.reverse();
                        }
                        assert_eq!(found, rows, "seed {seed}");
                    }
                }
            }
            draft.keep();
            draft.write().expect("there is room");
            let page = engine.scan(&KeyRange::prefixed(""), Direction::Forward, ALL);
            assert!(page.expect("it is open").rows.into_iter().eq(model));
        }
    }
}
