//! A region as simple as it can be said: plain maps, no engine, nothing shared with the crate but its vocabulary.

use std::collections::BTreeMap;

use bytes::Bytes;
use settle_kv::{Compare, Found, Marks, Op, Operator, Put, Query, Refusal, Relation, Reply, Request, What, limits};
use settle_storage::{Direction, KeyRange, key_after};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    pub value: Bytes,
    pub created: u64,
    pub modified: u64,
    pub version: u64,
    pub deadline: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Lock {
    owner: Bytes,
    token: u64,
    deadline: u64,
    holds: u32,
    context: Bytes,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub range: KeyRange,
    pub version: u64,
    pub conf_ver: u64,
    pub is_silent: bool,
    pub time: u64,
    pub marks: Marks,
    pub rows: BTreeMap<Bytes, Row>,
    pub locks: BTreeMap<Bytes, Lock>,
    pub sequences: BTreeMap<Bytes, (u64, u64)>,
    /// Number and answer.
    pub sessions: BTreeMap<u64, (u64, Reply)>,
}

impl Model {
    pub fn whole() -> Model {
        Model {
            range: KeyRange::prefixed(""),
            version: 1,
            conf_ver: 1,
            is_silent: false,
            time: 0,
            marks: Marks::default(),
            rows: BTreeMap::new(),
            locks: BTreeMap::new(),
            sequences: BTreeMap::new(),
            sessions: BTreeMap::new(),
        }
    }

    /// An entry of that time: what has ended goes.
    pub fn begin(&mut self, time: u64) {
        if self.is_silent {
            return;
        }
        self.time = self.time.max(time);
        let time = self.time;
        let ended = self
            .rows
            .extract_if(.., |_, row| row.deadline.is_some_and(|d| d <= time));
        self.marks.revision += ended.count() as u64;
        self.locks.retain(|_, lock| lock.deadline > time);
    }

    pub fn ask(&mut self, version: u64, request: &Request) -> Reply {
        if let Some(refusal) = self.refuses(version) {
            return refusal;
        }
        let mut is_here = true;
        keys(&request.op, &mut |key, is_end| is_here &= self.has(key, is_end));
        if !is_here {
            return self.elsewhere();
        }
        let ticket = request.ticket;
        if request.is_remembered
            && let Some((number, reply)) = self.sessions.get(&ticket.session)
            && *number >= ticket.number
        {
            let is_same = *number == ticket.number;
            return if is_same { reply.clone() } else { Reply::Forgotten };
        }
        let mut tried = self.clone();
        let mut revision = None;
        let reply = match tried.run(&request.op, &mut revision) {
            Ok(reply) => {
                *self = tried;
                reply
            }
            Err(refusal) => Reply::Refused(refusal),
        };
        if request.is_remembered {
            let mut encoded = Vec::new();
            reply.encode(&mut encoded);
            let is_kept = encoded.len() <= limits::KEPT_REPLY_MAX;
            let kept = if is_kept { reply.clone() } else { Reply::Forgotten };
            self.sessions.insert(ticket.session, (ticket.number, kept));
        }
        reply
    }

    pub fn read(&self, version: u64, query: &Query) -> Reply {
        if let Some(refusal) = self.refuses(version) {
            return refusal;
        }
        let mut is_here = true;
        query_keys(query, &mut |key, is_end| is_here &= self.has(key, is_end));
        if is_here { self.query(query) } else { self.elsewhere() }
    }

    fn refuses(&self, version: u64) -> Option<Reply> {
        match self.is_silent {
            true => Some(Reply::Refused(Refusal::Silent)),
            false => (version != self.version).then(|| self.elsewhere()),
        }
    }

    fn elsewhere(&self) -> Reply {
        Reply::Refused(Refusal::Elsewhere {
            epoch: settle_machine::ranges::Epoch {
                version: self.version,
                conf_ver: self.conf_ver,
            },
            range: self.range.clone(),
        })
    }

    fn has(&self, key: Option<&Bytes>, is_end: bool) -> bool {
        match (key, is_end) {
            (Some(key), false) => self.range.contains(key),
            (Some(end), true) => self.range.start < *end && self.range.end.as_ref().is_none_or(|last| end <= last),
            (None, _) => self.range.end.is_none(),
        }
    }

    fn run(&mut self, op: &Op, revision: &mut Option<u64>) -> Result<Reply, Refusal> {
        Ok(match op {
            Op::Read(query) => self.query(query),
            Op::Put(put) => {
                self.put(put, revision);
                self.done()
            }
            Op::PutIfAbsent(put) => {
                let before = self.found(&put.key);
                if before.is_none() {
                    self.put(put, revision);
                }
                Reply::Previous(before)
            }
            Op::GetAndPut(put) => {
                let before = self.found(&put.key);
                self.put(put, revision);
                Reply::Previous(before)
            }
            Op::CompareAndPut { expect, put } => {
                let found = self.found(&put.key);
                let is_done = found.as_ref().map(|found| found.value.clone()) == *expect;
                if is_done {
                    self.put(put, revision);
                }
                Reply::Compared { is_done, found }
            }
            Op::Merge { key, operator, operand } => {
                let old = self.rows.get(key).cloned();
                let deadline = old.as_ref().and_then(|row| row.deadline);
                let old = old.map(|row| row.value);
                let (value, reply) = match operator {
                    Operator::Append => ([old.unwrap_or_default(), operand.clone()].concat(), None),
                    Operator::Max => (Vec::from(old.unwrap_or_default().max(operand.clone())), None),
                    Operator::AddI64 => {
                        let number = |value: &Bytes| <[u8; 8]>::try_from(&value[..]).map(i64::from_le_bytes);
                        let a = old.map_or(Ok(0), |old| number(&old)).map_err(|_| Refusal::NotANumber)?;
                        let b = number(operand).map_err(|_| Refusal::NotANumber)?;
                        let sum = a.checked_add(b).ok_or(Refusal::Overflow)?;
                        (sum.to_le_bytes().to_vec(), Some(Reply::Sum(sum)))
                    }
                };
                if value.len() > limits::VALUE_MAX {
                    return Err(Refusal::TooLarge);
                }
                self.set(key, value.into(), deadline, revision);
                reply.unwrap_or_else(|| self.done())
            }
            Op::Delete { key } => Reply::Deleted {
                count: u64::from(self.remove(key, revision)),
                rest: None,
            },
            Op::DeleteRange { start, end, limit } => {
                let asked = range(start.clone(), end.clone());
                let here = |key: &&Bytes| asked.contains(key) && self.range.contains(key);
                let mut keys: Vec<Bytes> = self.rows.keys().filter(here).cloned().collect();
                let limit = (*limit).clamp(1, limits::ROWS_MAX) as usize;
                let is_cut = keys.len() > limit;
                keys.truncate(limit);
                for key in &keys {
                    self.remove(key, revision);
                }
                let from = match is_cut {
                    true => keys.last().map(|last| key_after(last)),
                    false => self.range.end.clone(),
                };
                let rest = from.map(|start| range(start, end.clone()));
                Reply::Deleted {
                    count: keys.len() as u64,
                    rest: rest.filter(|rest| !rest.is_empty()),
                }
            }
            Op::Sequence { key, count } => {
                if !self.sequences.contains_key(key) {
                    self.marks.generation += 1;
                    self.sequences.insert(key.clone(), (self.marks.generation, 0));
                }
                let (generation, next) = self.sequences.get_mut(key).expect("it is there");
                let first = *next;
                *next = next.checked_add(*count).ok_or(Refusal::Overflow)?;
                Reply::Sequence {
                    generation: *generation,
                    first,
                    count: *count,
                }
            }
            Op::SequenceReset { key } => {
                self.sequences.remove(key);
                self.done()
            }
            Op::Lock {
                key,
                owner,
                lease_ms,
                context,
            } => {
                let deadline = self.time + lease_ms;
                match self.locks.get_mut(key) {
                    Some(lock) if lock.owner != *owner => return Ok(self.holder(key)),
                    Some(lock) => {
                        lock.holds += 1;
                        lock.deadline = lock.deadline.max(deadline);
                    }
                    None => {
                        self.marks.token += 1;
                        let lock = Lock {
                            owner: owner.clone(),
                            token: self.marks.token,
                            deadline,
                            holds: 1,
                            context: context.clone(),
                        };
                        self.locks.insert(key.clone(), lock);
                    }
                }
                self.locked(key)
            }
            Op::KeepLock {
                key,
                owner,
                token,
                lease_ms,
            } => {
                let deadline = self.time + lease_ms;
                let lock = self.held(key, owner, *token)?;
                lock.deadline = lock.deadline.max(deadline);
                self.locked(key)
            }
            Op::Unlock { key, owner, token } => {
                let lock = self.held(key, owner, *token)?;
                lock.holds -= 1;
                let holds = lock.holds;
                if holds == 0 {
                    self.locks.remove(key);
                }
                Reply::Unlocked { holds }
            }
            Op::Txn {
                compare,
                then,
                otherwise,
            } => {
                let is_met = compare.iter().all(|compare| self.holds(compare));
                let branch = if is_met { then } else { otherwise };
                let replies = branch
                    .iter()
                    .map(|op| self.run(op, revision))
                    .collect::<Result<_, _>>()?;
                Reply::Txn { is_met, replies }
            }
        })
    }

    fn done(&self) -> Reply {
        Reply::Done {
            revision: self.marks.revision,
        }
    }

    fn next_revision(&mut self, revision: &mut Option<u64>) -> u64 {
        if revision.is_none() {
            self.marks.revision += 1;
            *revision = Some(self.marks.revision);
        }
        self.marks.revision
    }

    fn put(&mut self, put: &Put, revision: &mut Option<u64>) {
        let deadline = put.ttl_ms.map(|ttl| self.time + ttl);
        self.set(&put.key, put.value.clone(), deadline, revision);
    }

    fn set(&mut self, key: &Bytes, value: Bytes, deadline: Option<u64>, revision: &mut Option<u64>) {
        let modified = self.next_revision(revision);
        let old = self.rows.get(key);
        let row = Row {
            value,
            created: old.map_or(modified, |row| row.created),
            modified,
            version: old.map_or(1, |row| row.version + 1),
            deadline,
        };
        self.rows.insert(key.clone(), row);
    }

    fn remove(&mut self, key: &Bytes, revision: &mut Option<u64>) -> bool {
        let is_there = self.rows.remove(key).is_some();
        if is_there {
            self.next_revision(revision);
        }
        is_there
    }

    fn found(&self, key: &Bytes) -> Option<Found> {
        self.rows.get(key).map(|row| self.shown(row))
    }

    fn shown(&self, row: &Row) -> Found {
        Found {
            value: row.value.clone(),
            created: row.created,
            modified: row.modified,
            version: row.version,
            left_ms: row.deadline.map(|deadline| deadline - self.time),
        }
    }

    fn query(&self, query: &Query) -> Reply {
        match query {
            Query::Get { key } => Reply::Found(self.found(key)),
            Query::Scan {
                start,
                end,
                direction,
                limit,
                keys_only,
            } => {
                let asked = range(start.clone(), end.clone());
                let here = self.rows.iter().filter(|(key, _)| asked.contains(key));
                let mut rows: Vec<_> = here.map(|(key, row)| (key.clone(), self.shown(row))).collect();
                if *direction == Direction::Backward {
                    rows.reverse();
                }
                let limit = (*limit).clamp(1, limits::ROWS_MAX) as usize;
                let is_cut = rows.len() > limit;
                rows.truncate(limit);
                if *keys_only {
                    rows.iter_mut().for_each(|(_, found)| found.value = Bytes::new());
                }
                let last = rows.last().map(|(key, _)| key.clone()).filter(|_| is_cut);
                let rest = match direction {
                    Direction::Forward => {
                        let from = last.map(|last| key_after(&last)).or(self.range.end.clone());
                        from.map(|from| range(from, end.clone()))
                    }
                    Direction::Backward => {
                        let to = last.unwrap_or_else(|| self.range.start.clone());
                        Some(range(start.clone(), Some(to)))
                    }
                };
                let rest = rest.filter(|rest| !rest.is_empty());
                Reply::Rows { rows, rest }
            }
            Query::SequenceLatest { key } => {
                let (generation, first) = self.sequences.get(key).copied().unwrap_or_default();
                Reply::Sequence {
                    generation,
                    first,
                    count: 0,
                }
            }
            Query::LockHolder { key } => match self.locks.contains_key(key) {
                true => self.holder(key),
                false => Reply::Free,
            },
        }
    }

    fn holder(&self, key: &Bytes) -> Reply {
        let lock = &self.locks[key];
        Reply::Held {
            owner: lock.owner.clone(),
            token: lock.token,
            left_ms: lock.deadline - self.time,
            context: lock.context.clone(),
        }
    }

    fn locked(&self, key: &Bytes) -> Reply {
        let lock = &self.locks[key];
        Reply::Locked {
            token: lock.token,
            holds: lock.holds,
            left_ms: lock.deadline - self.time,
        }
    }

    fn held(&mut self, key: &Bytes, owner: &Bytes, token: u64) -> Result<&mut Lock, Refusal> {
        let lock = self.locks.get_mut(key);
        lock.filter(|lock| lock.owner == *owner && lock.token == token)
            .ok_or(Refusal::NotHeld)
    }

    fn holds(&self, compare: &Compare) -> bool {
        let row = self.rows.get(&compare.key);
        let order = match &compare.what {
            What::Value(value) => match row {
                Some(row) => row.value.cmp(value),
                None => return false,
            },
            What::Version(n) => row.map_or(0, |row| row.version).cmp(n),
            What::Created(n) => row.map_or(0, |row| row.created).cmp(n),
            What::Modified(n) => row.map_or(0, |row| row.modified).cmp(n),
        };
        match compare.relation {
            Relation::Equal => order.is_eq(),
            Relation::NotEqual => order.is_ne(),
            Relation::Less => order.is_lt(),
            Relation::Greater => order.is_gt(),
        }
    }

    pub fn split(&mut self, at: &Bytes) -> Model {
        self.version += 1;
        let child = Model {
            range: range(at.clone(), self.range.end.clone()),
            rows: self.rows.split_off(at),
            locks: self.locks.split_off(at),
            sequences: self.sequences.split_off(at),
            ..self.clone()
        };
        self.range.end = Some(at.clone());
        child
    }

    pub fn prepare(&mut self) {
        self.version += 1;
        self.conf_ver += 1;
        self.is_silent = true;
    }

    pub fn roll_back(&mut self) {
        self.version += 1;
        self.is_silent = false;
    }

    pub fn absorb(&mut self, source: Model) {
        match source.range.end.as_ref() == Some(&self.range.start) {
            true => self.range.start = source.range.start.clone(),
            false => self.range.end = source.range.end.clone(),
        }
        self.version = self.version.max(source.version) + 1;
        self.conf_ver = self.conf_ver.max(source.conf_ver);
        self.marks = Marks {
            revision: self.marks.revision.max(source.marks.revision),
            token: self.marks.token.max(source.marks.token),
            generation: self.marks.generation.max(source.marks.generation),
        };
        let now = self.time;
        let moved = |deadline: u64| now + (deadline - source.time);
        self.rows.extend(source.rows.into_iter().map(|(key, row)| {
            let deadline = row.deadline.map(moved);
            (key, Row { deadline, ..row })
        }));
        self.locks.extend(source.locks.into_iter().map(|(key, lock)| {
            let deadline = moved(lock.deadline);
            (key, Lock { deadline, ..lock })
        }));
        self.sequences.extend(source.sequences);
        for (session, (number, reply)) in source.sessions {
            let own = self.sessions.entry(session).or_insert((number, reply.clone()));
            if own.0 < number {
                *own = (number, reply);
            }
        }
    }
}

pub fn range(start: Bytes, end: Option<Bytes>) -> KeyRange {
    KeyRange { start, end }
}

/// Visits what must be in a region; true for what is behind the last key that is asked for.
fn keys(op: &Op, visit: &mut dyn FnMut(Option<&Bytes>, bool)) {
    match op {
        Op::Read(query) => query_keys(query, visit),
        Op::Put(put) | Op::PutIfAbsent(put) | Op::GetAndPut(put) | Op::CompareAndPut { put, .. } => {
            visit(Some(&put.key), false);
        }
        Op::Merge { key, .. }
        | Op::Delete { key }
        | Op::DeleteRange { start: key, .. }
        | Op::Sequence { key, .. }
        | Op::SequenceReset { key }
        | Op::Lock { key, .. }
        | Op::KeepLock { key, .. }
        | Op::Unlock { key, .. } => visit(Some(key), false),
        Op::Txn {
            compare,
            then,
            otherwise,
        } => {
            compare.iter().for_each(|compare| visit(Some(&compare.key), false));
            then.iter().chain(otherwise).for_each(|op| keys(op, visit));
        }
    }
}

fn query_keys(query: &Query, visit: &mut dyn FnMut(Option<&Bytes>, bool)) {
    match query {
        Query::Scan {
            end,
            direction: Direction::Backward,
            ..
        } => visit(end.as_ref(), true),
        Query::Scan { start: key, .. }
        | Query::Get { key }
        | Query::SequenceLatest { key }
        | Query::LockHolder { key } => visit(Some(key), false),
    }
}
