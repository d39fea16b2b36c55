//! What each operation does to the rows.

use bytes::Bytes;
use settle_base::GroupTime;
use settle_storage::{Direction, EngineError, KeyRange, KvEngine, KvRead, Limit, key_after};

use crate::{
    Compare, Op, Operator, Put, Query, Refusal, Relation, Reply, Standing, What,
    draft::Draft,
    encoding::DecodeError,
    limits::{ROWS_BYTES_MAX, ROWS_MAX, VALUE_MAX},
    rows::{Kind, LockRow, Row, SequenceRow, Space, bare},
};

/// What one request may touch, write and answer in all, with everything that a transaction of it does.
const WORK_ROWS_MAX: usize = 8192;
const WORK_BYTES_MAX: usize = 4 << 20;

/// Rows that a scan looks at in vain when all that it meets has ended.
const LOOKED_ROWS_MAX: usize = 2 * ROWS_MAX as usize;

/// Why a region cannot go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RegionError {
    #[error("the engine failed")]
    Engine {
        #[from]
        source: EngineError,
    },
    /// What the engine gave is not what was put there.
    #[error("a stored row is damaged")]
    Damaged {
        #[from]
        source: DecodeError,
    },
}

pub(crate) enum Stop {
    Refused(Refusal),
    Failed(RegionError),
}

impl<T: Into<RegionError>> From<T> for Stop {
    fn from(error: T) -> Stop {
        Stop::Failed(error.into())
    }
}

/// A change of a key, for those who watch it. Each key's changes come in the order of their revisions, and none is left
/// out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changed {
    pub key: Bytes,
    pub revision: u64,
    /// `None`: it is gone.
    pub row: Option<Row>,
}

/// Where and when rows are read.
pub(crate) struct Look<'a, R> {
    pub rows: &'a R,
    pub space: Space,
    pub range: &'a KeyRange,
    pub time: GroupTime,
}

impl<R: KvRead> Look<'_, R> {
    fn get(&self, kind: Kind, key: &[u8]) -> Result<Option<Bytes>, RegionError> {
        Ok(self.rows.get(&self.space.key(kind, key))?)
    }

    /// As it is stored: it may have ended.
    fn stored(&self, key: &[u8]) -> Result<Option<Row>, RegionError> {
        Ok(self.get(Kind::Data, key)?.map(Row::decode).transpose()?)
    }

    fn is_live(&self, row: &Row) -> bool {
        row.deadline.is_none_or(|deadline| deadline > self.time)
    }

    fn row(&self, key: &[u8]) -> Result<Option<Row>, RegionError> {
        Ok(self.stored(key)?.filter(|row| self.is_live(row)))
    }

    fn lock(&self, key: &[u8]) -> Result<Option<LockRow>, RegionError> {
        let stored = self.get(Kind::Lock, key)?.map(LockRow::decode).transpose()?;
        Ok(stored.filter(|lock| lock.deadline > self.time))
    }

    fn sequence(&self, key: &[u8]) -> Result<Option<SequenceRow>, RegionError> {
        Ok(self.get(Kind::Sequence, key)?.map(SequenceRow::decode).transpose()?)
    }

    pub fn query(&self, query: &Query) -> Result<Reply, RegionError> {
        Ok(match query {
            Query::Get { key } => Reply::Found(self.row(key)?.map(|row| row.found(self.time))),
            Query::Scan {
                start,
                end,
                direction,
                limit,
                keys_only,
            } => {
                let (start, end) = (start.clone(), end.clone());
                return self.scan(&KeyRange { start, end }, *direction, *limit, *keys_only);
            }
            Query::SequenceLatest { key } => {
                let row = self.sequence(key)?;
                let (generation, first) = row.map_or((0, 0), |row| (row.generation, row.next));
                Reply::Sequence {
                    generation,
                    first,
                    count: 0,
                }
            }
            Query::LockHolder { key } => self.lock(key)?.map_or(Reply::Free, |lock| self.held(lock)),
        })
    }

    fn held(&self, lock: LockRow) -> Reply {
        Reply::Held {
            left_ms: lock.deadline.0.saturating_sub(self.time.0),
            owner: lock.owner,
            token: lock.token,
            context: lock.context,
        }
    }

    fn scan(&self, asked: &KeyRange, direction: Direction, limit: u32, keys_only: bool) -> Result<Reply, RegionError> {
        let here = within(asked, self.range);
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let (mut looked, mut last) = (0, None);
        let mut rest = Some(self.space.range(Kind::Data, &here)).filter(|_| !here.is_empty());
        let rows_max = limit.clamp(1, ROWS_MAX) as usize;
        'pages: while let Some(range) = rest.take() {
            let limit = Limit {
                rows: rows_max - rows.len(),
                bytes: ROWS_BYTES_MAX,
            };
            let page = self.rows.scan(&range, direction, limit)?;
            rest = page.rest;
            looked += page.rows.len();
            for (key, value) in page.rows {
                let (key, row) = (bare(&key), Row::decode(value)?);
                if !self.is_live(&row) {
                    last = Some(key);
                    continue;
                }
                let mut found = row.found(self.time);
                if keys_only {
                    found.value = Bytes::new();
                }
                bytes += key.len() + found.size();
                if bytes > ROWS_BYTES_MAX && !rows.is_empty() {
                    rest = Some(range);
                    break 'pages;
                }
                last = Some(key.clone());
                rows.push((key, found));
            }
            if rows.len() >= rows_max || looked >= LOOKED_ROWS_MAX {
                break;
            }
        }
        // What is left of the asked range is behind the last row that was looked at, or where this region ends.
        let rest = match (rest, last, direction) {
            (Some(_), Some(last), Direction::Forward) => KeyRange {
                start: key_after(&last),
                end: asked.end.clone(),
            },
            (Some(_), Some(last), Direction::Backward) => KeyRange {
                start: asked.start.clone(),
                end: Some(last),
            },
            (_, _, Direction::Forward) => KeyRange {
                start: self.range.end.clone().unwrap_or_else(|| here.start.clone()),
                end: self
                    .range
                    .end
                    .as_ref()
                    .map_or(Some(Bytes::new()), |_| asked.end.clone()),
            },
            (_, _, Direction::Backward) => KeyRange {
                start: asked.start.clone(),
                end: Some(self.range.start.clone()),
            },
        };
        let rest = Some(rest).filter(|rest| !rest.is_empty());
        Ok(Reply::Rows { rows, rest })
    }

    fn holds(&self, compare: &Compare) -> Result<bool, RegionError> {
        let row = self.row(&compare.key)?;
        let number = |of: fn(&Row) -> u64| row.as_ref().map_or(0, of);
        let order = match &compare.what {
            What::Value(value) => match &row {
                Some(row) => row.value.cmp(value),
                None => return Ok(false),
            },
            What::Version(n) => number(|row| row.version).cmp(n),
            What::Created(n) => number(|row| row.created).cmp(n),
            What::Modified(n) => number(|row| row.modified).cmp(n),
        };
        Ok(match compare.relation {
            Relation::Equal => order.is_eq(),
            Relation::NotEqual => order.is_ne(),
            Relation::Less => order.is_lt(),
            Relation::Greater => order.is_gt(),
        })
    }
}

/// One request under way.
pub(crate) struct Turn<'a, E> {
    pub draft: &'a mut Draft<E>,
    pub space: Space,
    pub range: &'a KeyRange,
    pub standing: &'a mut Standing,
    pub changes: &'a mut Vec<Changed>,
    /// Of this request; taken with its first change.
    pub revision: Option<u64>,
    pub work_rows: usize,
    pub work_bytes: usize,
}

impl<'a, E: KvEngine> Turn<'a, E> {
    pub fn new(
        draft: &'a mut Draft<E>,
        space: Space,
        range: &'a KeyRange,
        standing: &'a mut Standing,
        changes: &'a mut Vec<Changed>,
    ) -> Turn<'a, E> {
        Turn {
            draft,
            space,
            range,
            standing,
            changes,
            revision: None,
            work_rows: 0,
            work_bytes: 0,
        }
    }

    pub fn look(&self) -> Look<'_, Draft<E>> {
        Look {
            rows: self.draft,
            space: self.space,
            range: self.range,
            time: self.standing.time,
        }
    }

    fn revision(&mut self) -> u64 {
        let marks = &mut self.standing.marks;
        *self.revision.get_or_insert_with(|| {
            marks.revision += 1;
            marks.revision
        })
    }

    /// All that a request does is bounded, or it is refused whole.
    fn works(&mut self, rows: usize, bytes: usize) -> Result<(), Stop> {
        self.work_rows += rows;
        self.work_bytes += bytes;
        match self.work_rows > WORK_ROWS_MAX || self.work_bytes > WORK_BYTES_MAX {
            true => Err(Stop::Refused(Refusal::TooLarge)),
            false => Ok(()),
        }
    }

    pub fn run(&mut self, op: &Op) -> Result<Reply, Stop> {
        self.works(1, 0)?;
        Ok(match op {
            Op::Read(query) => {
                let reply = self.look().query(query)?;
                if let Reply::Rows { rows, .. } = &reply {
                    let bytes = rows.iter().map(|(key, found)| key.len() + found.size()).sum();
                    self.works(rows.len(), bytes)?;
                }
                if let Reply::Found(Some(found)) = &reply {
                    self.works(0, found.size())?;
                }
                reply
            }
            Op::Put(put) => {
                self.put(put)?;
                self.done()
            }
            Op::PutIfAbsent(put) => {
                let before = self.look().row(&put.key)?;
                if before.is_none() {
                    self.put(put)?;
                }
                self.previous(before)?
            }
            Op::GetAndPut(put) => {
                let before = self.look().row(&put.key)?;
                self.put(put)?;
                self.previous(before)?
            }
            Op::CompareAndPut { expect, put } => {
                let before = self.look().row(&put.key)?;
                let is_done = before.as_ref().map(|row| &row.value) == expect.as_ref();
                if is_done {
                    self.put(put)?;
                }
                let found = before.map(|row| row.found(self.standing.time));
                self.works(0, found.as_ref().map_or(0, |found| found.size()))?;
                Reply::Compared { is_done, found }
            }
            Op::Merge { key, operator, operand } => self.merge(key, *operator, operand)?,
            Op::Delete { key } => {
                let count = u64::from(self.delete(key)?);
                Reply::Deleted { count, rest: None }
            }
            Op::DeleteRange { start, end, limit } => {
                let (start, end) = (start.clone(), end.clone());
                self.delete_range(&KeyRange { start, end }, *limit)?
            }
            Op::Sequence { key, count } => self.sequence(key, *count)?,
            Op::SequenceReset { key } => {
                let row = self.space.key(Kind::Sequence, key);
                self.draft.delete(row);
                self.done()
            }
            Op::Lock {
                key,
                owner,
                lease_ms,
                context,
            } => self.take_lock(key, owner, *lease_ms, context)?,
            Op::KeepLock {
                key,
                owner,
                token,
                lease_ms,
            } => {
                let mut lock = self.held_by(key, owner, *token)?;
                let old = lock.deadline;
                lock.deadline = old.max(later(self.standing.time, *lease_ms));
                self.put_lock(key, Some(old), lock)
            }
            Op::Unlock { key, owner, token } => {
                let mut lock = self.held_by(key, owner, *token)?;
                lock.holds -= 1;
                let (holds, old) = (lock.holds, lock.deadline);
                match holds {
                    0 => self.remove_lock(key, old),
                    _ => drop(self.put_lock(key, Some(old), lock)),
                }
                Reply::Unlocked { holds }
            }
            Op::Txn {
                compare,
                then,
                otherwise,
            } => {
                let mut is_met = true;
                for compare in compare {
                    self.works(1, 0)?;
                    is_met &= self.look().holds(compare)?;
                }
                let branch = if is_met { then } else { otherwise };
                let replies = branch.iter().map(|op| self.run(op)).collect::<Result<_, _>>()?;
                Reply::Txn { is_met, replies }
            }
        })
    }

    /// In which revision: the last one, when nothing changed.
    fn done(&self) -> Reply {
        let revision = self.standing.marks.revision;
        Reply::Done { revision }
    }

    fn previous(&mut self, before: Option<Row>) -> Result<Reply, Stop> {
        let found = before.map(|row| row.found(self.standing.time));
        self.works(0, found.as_ref().map_or(0, |found| found.size()))?;
        Ok(Reply::Previous(found))
    }

    fn put(&mut self, put: &Put) -> Result<(), Stop> {
        let deadline = put.ttl_ms.map(|ttl| later(self.standing.time, ttl));
        self.put_value(&put.key, put.value.clone(), deadline)
    }

    fn put_value(&mut self, key: &Bytes, value: Bytes, deadline: Option<GroupTime>) -> Result<(), Stop> {
        // An append of one byte writes, and tells, the whole value.
        self.works(0, key.len() + value.len())?;
        let stored = self.look().stored(key)?;
        if let Some(old) = stored.as_ref().and_then(|row| row.deadline) {
            self.draft.delete(self.space.deadline(old, Kind::Data, key));
        }
        let live = stored.filter(|row| self.look().is_live(row));
        let modified = self.revision();
        let row = Row {
            value,
            created: live.as_ref().map_or(modified, |row| row.created),
            modified,
            version: live.map_or(0, |row| row.version) + 1,
            deadline,
        };
        if let Some(deadline) = deadline {
            self.draft
                .put(self.space.deadline(deadline, Kind::Data, key), Bytes::new());
        }
        self.draft.put(self.space.key(Kind::Data, key), row.encode());
        self.changes.push(Changed {
            key: key.clone(),
            revision: modified,
            row: Some(row),
        });
        Ok(())
    }

    fn merge(&mut self, key: &Bytes, operator: Operator, operand: &Bytes) -> Result<Reply, Stop> {
        let before = self.look().row(key)?;
        let deadline = before.as_ref().and_then(|row| row.deadline);
        let before = before.map(|row| row.value);
        let (value, sum) = match operator {
            Operator::Append => {
                let before = before.unwrap_or_default();
                (Bytes::from([&before[..], &operand[..]].concat()), None)
            }
            Operator::AddI64 => {
                let number = |bytes: &Bytes| {
                    let bytes = bytes[..].try_into().map_err(|_| Stop::Refused(Refusal::NotANumber));
                    bytes.map(i64::from_le_bytes)
                };
                let (a, b) = (before.as_ref().map_or(Ok(0), number)?, number(operand)?);
                let sum = a.checked_add(b).ok_or(Stop::Refused(Refusal::Overflow))?;
                (Bytes::copy_from_slice(&sum.to_le_bytes()), Some(sum))
            }
            Operator::Max => (before.unwrap_or_default().max(operand.clone()), None),
        };
        if value.len() > VALUE_MAX {
            return Err(Stop::Refused(Refusal::TooLarge));
        }
        self.put_value(key, value, deadline)?;
        Ok(sum.map_or_else(|| self.done(), Reply::Sum))
    }

    /// True when there was one, which had not ended.
    fn delete(&mut self, key: &Bytes) -> Result<bool, RegionError> {
        let Some(row) = self.look().stored(key)? else {
            return Ok(false);
        };
        let is_live = self.look().is_live(&row);
        self.delete_row(key, &row);
        Ok(is_live)
    }

    pub fn delete_row(&mut self, key: &Bytes, row: &Row) {
        if let Some(deadline) = row.deadline {
            self.draft.delete(self.space.deadline(deadline, Kind::Data, key));
        }
        self.draft.delete(self.space.key(Kind::Data, key));
        let revision = self.revision();
        self.changes.push(Changed {
            key: key.clone(),
            revision,
            row: None,
        });
    }

    fn delete_range(&mut self, asked: &KeyRange, limit: u32) -> Result<Reply, Stop> {
        let here = within(asked, self.range);
        let (mut count, mut rest) = (0, None);
        if !here.is_empty() {
            let limit = Limit {
                rows: limit.clamp(1, ROWS_MAX) as usize,
                bytes: usize::MAX,
            };
            let range = self.space.range(Kind::Data, &here);
            let page = self.draft.scan(&range, Direction::Forward, limit)?;
            self.works(page.rows.len(), 0)?;
            for (key, value) in page.rows {
                let row = Row::decode(value)?;
                count += u64::from(self.look().is_live(&row));
                self.delete_row(&bare(&key), &row);
            }
            rest = page.rest.map(|rest| KeyRange {
                start: bare(&rest.start),
                end: asked.end.clone(),
            });
        }
        let rest = rest.or_else(|| {
            let start = self.range.end.clone()?;
            let end = asked.end.clone();
            Some(KeyRange { start, end })
        });
        let rest = rest.filter(|rest| !rest.is_empty());
        Ok(Reply::Deleted { count, rest })
    }

    fn sequence(&mut self, key: &Bytes, count: u64) -> Result<Reply, Stop> {
        let row = self.look().sequence(key)?;
        let (generation, first) = match row {
            Some(row) => (row.generation, row.next),
            None => {
                self.standing.marks.generation += 1;
                (self.standing.marks.generation, 0)
            }
        };
        let next = first.checked_add(count).ok_or(Stop::Refused(Refusal::Overflow))?;
        let row = SequenceRow { generation, next };
        self.draft.put(self.space.key(Kind::Sequence, key), row.encode());
        Ok(Reply::Sequence {
            generation,
            first,
            count,
        })
    }

    fn take_lock(&mut self, key: &Bytes, owner: &Bytes, lease_ms: u64, context: &Bytes) -> Result<Reply, Stop> {
        let deadline = later(self.standing.time, lease_ms);
        let stored = self.look().get(Kind::Lock, key)?.map(LockRow::decode).transpose()?;
        let old = stored.as_ref().map(|lock| lock.deadline);
        let lock = match stored.filter(|lock| lock.deadline > self.standing.time) {
            Some(lock) if lock.owner != *owner => return Ok(self.look().held(lock)),
            Some(lock) => LockRow {
                holds: lock.holds.checked_add(1).ok_or(Stop::Refused(Refusal::Overflow))?,
                deadline: lock.deadline.max(deadline),
                ..lock
            },
            None => {
                self.standing.marks.token += 1;
                LockRow {
                    owner: owner.clone(),
                    token: self.standing.marks.token,
                    deadline,
                    holds: 1,
                    context: context.clone(),
                }
            }
        };
        Ok(self.put_lock(key, old, lock))
    }

    fn held_by(&self, key: &Bytes, owner: &Bytes, token: u64) -> Result<LockRow, Stop> {
        let lock = self.look().lock(key)?;
        let held = lock.filter(|lock| lock.owner == *owner && lock.token == token);
        held.ok_or(Stop::Refused(Refusal::NotHeld))
    }

    fn put_lock(&mut self, key: &Bytes, old: Option<GroupTime>, lock: LockRow) -> Reply {
        if let Some(old) = old {
            self.draft.delete(self.space.deadline(old, Kind::Lock, key));
        }
        self.draft
            .put(self.space.deadline(lock.deadline, Kind::Lock, key), Bytes::new());
        self.draft.put(self.space.key(Kind::Lock, key), lock.encode());
        Reply::Locked {
            token: lock.token,
            holds: lock.holds,
            left_ms: lock.deadline.0.saturating_sub(self.standing.time.0),
        }
    }

    pub fn remove_lock(&mut self, key: &Bytes, deadline: GroupTime) {
        self.draft.delete(self.space.deadline(deadline, Kind::Lock, key));
        self.draft.delete(self.space.key(Kind::Lock, key));
    }
}

fn later(time: GroupTime, ms: u64) -> GroupTime {
    GroupTime(time.0.saturating_add(ms))
}

fn within(asked: &KeyRange, range: &KeyRange) -> KeyRange {
    let ends = [&asked.end, &range.end].into_iter().flatten();
    KeyRange {
        start: asked.start.clone().max(range.start.clone()),
        end: ends.min().cloned(),
    }
}
