//! Every history agrees with the naive model: operations of all kinds while regions split and merge, replicas load each
//! other's snapshots, and the node's engine crashes and loses what was not flushed.

mod model;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use model::Model;
use proptest::prelude::*;
use settle_base::{GroupId, GroupTime, Prng};
use settle_kv::{
    Changed, Command, Commit, Compare, Effect, Image, Op, Operator, Put, Query, Region, Relation, Reply, Request,
    Space, What,
};
use settle_machine::{EntryMeta, StateMachine, Ticket, ranges::Ranged};
use settle_storage::{Direction, Keeps, KeyRange, KvEngine, KvRead, Limit, MemEngine, MemView};

#[derive(Clone, Debug)]
enum Step {
    Ask {
        op: Op,
        session: u64,
        is_remembered: bool,
        times: u8,
        is_stale: bool,
    },
    Read(Query),
    /// The last request of a session comes once more, wherever its keys are by now.
    Again {
        session: u64,
    },
    /// Time goes on for the group of a key.
    Pass {
        key: Bytes,
        ms: u64,
    },
    Split {
        at: Bytes,
    },
    Merge {
        at: Bytes,
        to_left: bool,
        rolls_back: bool,
    },
    Crash {
        seed: u64,
    },
    Flush,
    FinishFlush,
    /// The second replica goes on from the first one's snapshot, in chunks of that size.
    Reload {
        chunk: usize,
    },
    /// The second replica applies what it lacks, so many entries at once.
    CatchUp {
        batch: usize,
    },
}

/// One region: its log, what it should be, and two replicas.
struct Group {
    /// Each group has a time of its own.
    now: u64,
    birth: Option<Bytes>,
    log: Vec<(EntryMeta, Bytes, Option<Bytes>)>,
    model: Model,
    first: Region<MemEngine>,
    second: Region<MemEngine>,
}

struct World {
    groups: BTreeMap<GroupId, Group>,
    /// Loses at a crash what was not flushed.
    disk: MemEngine,
    memory: MemEngine,
    next_group: u64,
    next_space: u64,
    numbers: BTreeMap<u64, u64>,
    last: BTreeMap<u64, Request>,
    /// By what watchers are told.
    watched: BTreeMap<Bytes, (u64, Option<Bytes>)>,
    tokens: BTreeMap<Bytes, u64>,
    drawn: BTreeSet<(Bytes, u64, u64)>,
}

const FIRST: GroupId = GroupId(1);

impl World {
    fn new() -> World {
        let disk = MemEngine::new(Keeps::WhatWasFlushed, 1 << 30);
        let memory = MemEngine::new(Keeps::Nothing, 1 << 30);
        let group = Group {
            now: 0,
            birth: None,
            log: Vec::new(),
            model: Model::whole(),
            first: Region::new(disk.clone(), Space(1), FIRST, true),
            second: Region::new(memory.clone(), Space(1), FIRST, true),
        };
        World {
            groups: [(FIRST, group)].into(),
            disk,
            memory,
            next_group: 2,
            next_space: 2,
            numbers: BTreeMap::new(),
            last: BTreeMap::new(),
            watched: BTreeMap::new(),
            tokens: BTreeMap::new(),
            drawn: BTreeSet::new(),
        }
    }

    fn group_of(&self, key: &Bytes) -> GroupId {
        let mut found = self.groups.iter().filter(|(_, group)| group.model.range.contains(key));
        let (id, _) = found.next().expect("every key is somewhere");
        assert!(found.next().is_none(), "no key is at two places");
        *id
    }

    /// Puts a command into a region's log and applies it at the first replica.
    fn apply(&mut self, id: GroupId, command: &Command, given: Option<Bytes>) -> Vec<Effect<MemView>> {
        let group = self.groups.get_mut(&id).expect("it is there");
        let index = group
            .log
            .last()
            .map_or(if group.birth.is_some() { 5 } else { 0 }, |(entry, ..)| entry.index)
            + 1;
        let entry = EntryMeta {
            index,
            term: 1,
            time: GroupTime(group.now),
            version: 1,
        };
        let bytes = command.encode();
        assert_eq!(Command::decode(&bytes).as_ref(), Ok(command));
        group.log.push((entry, bytes.clone(), given.clone()));
        group.model.begin(group.now);
        let mut effects = Vec::new();
        apply(&mut group.first, &[(entry, bytes, given)], &mut effects);
        for effect in &effects {
            if let Effect::Changed(changed) = effect {
                watch(&mut self.watched, changed);
            }
        }
        effects
    }

    fn ask(&mut self, op: &Op, session: u64, is_remembered: bool, times: u8, is_stale: bool) {
        let id = self.group_of(&first_key(op));
        let number = self.numbers.entry(session).or_default();
        *number += 1;
        let ticket = Ticket {
            session,
            number: *number,
        };
        let request = Request {
            ticket,
            is_remembered,
            op: op.clone(),
        };
        if is_remembered {
            self.last.insert(session, request.clone());
        }
        // A copy that was late is of another version by now, or it is done and answered once.
        let times = if is_remembered { times } else { 1 };
        let mut is_done = false;
        for copy in 0..times {
            let model = &self.groups[&id].model;
            let version = model.version - u64::from(is_stale && copy == 0 && model.version > 1);
            let command = Command::Requests {
                version,
                requests: vec![request.clone()],
            };
            let effects = self.apply(id, &command, None);
            let group = self.groups.get_mut(&id).expect("it is there");
            let expected = group.model.ask(version, &request);
            let Some(Effect::Replied { ticket: of, reply }) = effects.last() else {
                panic!("a request is answered: {effects:?}");
            };
            assert_eq!((of, reply), (&ticket, &expected), "{op:?}");
            let encoded = {
                let mut out = Vec::new();
                reply.encode(&mut out);
                Bytes::from(out)
            };
            assert_eq!(Reply::decode(encoded).as_ref(), Ok(reply));
            if !std::mem::replace(&mut is_done, !matches!(reply, Reply::Refused(_))) {
                self.promise(op, reply);
            }
        }
    }

    /// What holds for a key for ever, wherever it lives.
    fn promise(&mut self, op: &Op, reply: &Reply) {
        match (op, reply) {
            (Op::Lock { key, .. }, Reply::Locked { token, holds: 1, .. }) => {
                let last = self.tokens.insert(key.clone(), *token);
                assert!(last < Some(*token), "the token {token} of {key:?} comes after {last:?}");
            }
            (
                Op::Sequence { key, .. },
                Reply::Sequence {
                    generation,
                    first,
                    count,
                },
            ) => {
                for n in *first..first + count {
                    let is_new = self.drawn.insert((key.clone(), *generation, n));
                    assert!(is_new, "{n} of {key:?} came twice in generation {generation}");
                }
            }
            (Op::Txn { then, otherwise, .. }, Reply::Txn { is_met, replies }) => {
                let branch = if *is_met { then } else { otherwise };
                branch
                    .iter()
                    .zip(replies)
                    .for_each(|(op, reply)| self.promise(op, reply));
            }
            _ => {}
        }
    }

    fn split(&mut self, at: &Bytes) {
        let id = self.group_of(at);
        let group = &self.groups[&id];
        let (epoch, child) = (group.first.descriptor().epoch, GroupId(self.next_group));
        let (is_inside, is_free) = (
            group.model.range.start < *at,
            group.first.descriptor().has_finished_merges(),
        );
        let at = at.clone();
        let effects = self.apply(
            id,
            &Command::Split {
                epoch,
                at: at.clone(),
                child,
            },
            None,
        );
        let Some(Effect::Split { image, .. }) = effects.last() else {
            assert!(!is_inside || !is_free, "it can be split: {effects:?}");
            return;
        };
        self.next_group += 1;
        let birth = all(image.clone());
        let model = self.groups.get_mut(&id).expect("it is there").model.split(&at);
        let group = Group {
            now: self.groups[&id].now,
            first: self.born(self.disk.clone(), child, &birth),
            second: self.born(self.memory.clone(), child, &birth),
            birth: Some(birth),
            log: Vec::new(),
            model,
        };
        self.groups.insert(child, group);
    }

    fn space(&mut self) -> Space {
        self.next_space += 1;
        Space(self.next_space)
    }

    fn born(&mut self, engine: MemEngine, id: GroupId, birth: &Bytes) -> Region<MemEngine> {
        let mut region = Region::new(engine, self.space(), id, false);
        region.load(&mut std::iter::once(birth.clone())).expect("an image");
        region
    }

    fn merge(&mut self, at: &Bytes, to_left: bool, rolls_back: bool) {
        let source = self.group_of(at);
        let range = self.groups[&source].model.range.clone();
        let is_next = |other: &KeyRange| match to_left {
            true => other.end.as_ref() == Some(&range.start),
            false => range.end.as_ref() == Some(&other.start),
        };
        let mut others = self.groups.iter().filter(|(_, group)| is_next(&group.model.range));
        let Some((&target, _)) = others.next() else { return };
        let (s, t) = (
            self.groups[&source].first.descriptor(),
            self.groups[&target].first.descriptor(),
        );
        let (epoch, target_epoch) = (s.epoch, t.epoch);
        let prepare = Command::Prepare {
            epoch,
            target,
            target_epoch,
            min_index: 1,
        };
        let effects = self.apply(source, &prepare, None);
        let Some(Effect::Prepared { prepared, .. }) = effects.last() else {
            panic!("it can be merged: {effects:?}");
        };
        let prepared = *prepared;
        self.groups.get_mut(&source).expect("it is there").model.prepare();
        // Whatever its log still brings changes nothing.
        self.groups.get_mut(&source).expect("it is there").now += 3;
        let put = Op::Delete {
            key: range.start.clone(),
        };
        self.ask_of(source, &put);
        if rolls_back {
            let effects = self.apply(source, &Command::Rollback { prepared }, None);
            assert!(matches!(effects.last(), Some(Effect::RolledBack { .. })), "{effects:?}");
            return self.groups.get_mut(&source).expect("it is there").model.roll_back();
        }
        let commit = Command::Commit(Box::new(Commit {
            epoch: target_epoch,
            source,
            range: self.groups[&source].model.range.clone(),
            prepared,
            prev_index: prepared,
            prev_term: 1,
            entries: Vec::new(),
        }));
        self.catch_up(source, 3);
        // What was given away is swept first.
        let mut tries = 0;
        while self.groups[&target].first.needs(&commit.encode()).is_none() {
            let effects = self.apply(target, &commit, None);
            assert!(matches!(effects.last(), Some(Effect::Outdated)), "{effects:?}");
            tries += 1;
            assert!(tries < 5, "it is swept some time");
        }
        let gone = self.groups.remove(&source).expect("it is there");
        let given = gone.first.inheritance();
        assert_eq!(
            gone.second.inheritance(),
            given,
            "what is given is the same on every replica"
        );
        let effects = self.apply(target, &commit, Some(given));
        assert!(matches!(effects.last(), Some(Effect::Absorbed { .. })), "{effects:?}");
        self.groups
            .get_mut(&target)
            .expect("it is there")
            .model
            .absorb(gone.model);
        self.apply(target, &Command::Finish { source }, None);
    }

    fn ask_of(&mut self, id: GroupId, op: &Op) {
        let ticket = Ticket { session: 9, number: 0 };
        let request = Request {
            ticket,
            is_remembered: true,
            op: op.clone(),
        };
        self.send(id, &request);
    }

    fn send(&mut self, id: GroupId, request: &Request) {
        let version = self.groups[&id].model.version;
        let requests = vec![request.clone()];
        let effects = self.apply(id, &Command::Requests { version, requests }, None);
        let expected = self
            .groups
            .get_mut(&id)
            .expect("it is there")
            .model
            .ask(version, request);
        let Some(Effect::Replied { reply, .. }) = effects.last() else {
            panic!("a request is answered: {effects:?}");
        };
        assert_eq!(*reply, expected, "{request:?}");
    }

    /// The first replicas' process dies with what was not flushed, and what is lost is applied again.
    fn crash(&mut self, seed: u64) {
        let durable: Vec<_> = self
            .groups
            .values_mut()
            .map(|group| group.first.durable_index())
            .collect();
        self.disk = self.disk.crash(&mut Prng::new(seed));
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        for (id, durable) in ids.into_iter().zip(durable) {
            let space = self.groups[&id].first.space();
            let opened = Region::open(self.disk.clone(), space).expect("nothing is damaged");
            let found = opened.as_ref().map_or(0, |region| region.standing().index);
            assert!(found >= durable.expect("it was open"), "what was durable is there");
            let birth = self.groups[&id].birth.clone();
            let region = match (opened, birth) {
                (Some(region), _) => region,
                (None, Some(birth)) => self.born(self.disk.clone(), id, &birth),
                (None, None) => Region::new(self.disk.clone(), self.space(), id, true),
            };
            let group = self.groups.get_mut(&id).expect("it is there");
            let old = std::mem::replace(&mut group.first, region);
            drop(old);
            let from = group.first.standing().index;
            let tail: Vec<_> = group
                .log
                .iter()
                .filter(|(entry, ..)| entry.index > from)
                .cloned()
                .collect();
            apply(&mut group.first, &tail, &mut Vec::new());
        }
    }

    fn reload(&mut self, chunk: usize) {
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        for id in ids {
            let space = self.space();
            let group = self.groups.get_mut(&id).expect("it is there");
            let image: Vec<u8> = group.first.begin_snapshot().flatten().collect();
            let mut region = Region::new(self.memory.clone(), space, id, id == FIRST);
            region
                .load(&mut image.chunks(chunk).map(Bytes::copy_from_slice))
                .expect("a snapshot");
            assert_eq!(region.state_hash(), group.first.state_hash());
            group.second = region;
        }
    }

    fn catch_up(&mut self, id: GroupId, batch: usize) {
        let group = self.groups.get_mut(&id).expect("it is there");
        let from = group.second.standing().index;
        let tail: Vec<_> = group
            .log
            .iter()
            .filter(|(entry, ..)| entry.index > from)
            .cloned()
            .collect();
        for entries in tail.chunks(batch) {
            apply(&mut group.second, entries, &mut Vec::new());
        }
    }

    fn check(&mut self) {
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        for id in &ids {
            self.catch_up(*id, 1);
            let group = &self.groups[id];
            assert_eq!(
                group.first.state_hash(),
                group.second.state_hash(),
                "replicas of {id} differ"
            );
            assert_eq!(group.first.standing().marks, group.model.marks);
            let descriptor = group.first.descriptor();
            assert_eq!(descriptor.range, group.model.range);
            let mut stored = vec![&descriptor.range];
            stored.extend(&descriptor.given_away);
            for kind in [0x10, 0x20, 0x30] {
                let space = [&group.first.space().0.to_be_bytes()[..], &[kind]].concat();
                let limit = Limit {
                    rows: 1_000,
                    bytes: usize::MAX,
                };
                let rows = self.disk.scan(&KeyRange::prefixed(space), Direction::Forward, limit);
                for (key, _) in rows.expect("it is open").rows {
                    let is_known = stored.iter().any(|range| range.contains(&key[9..]));
                    assert!(is_known, "{id} stores {key:?}");
                }
            }
        }
        let rows = self.groups.values().flat_map(|group| &group.model.rows);
        let rows: BTreeMap<_, _> = rows.map(|(key, row)| (key.clone(), row.value.clone())).collect();
        let watched = self
            .watched
            .iter()
            .filter_map(|(key, (_, value))| Some((key.clone(), value.clone()?)));
        assert_eq!(
            watched.collect::<BTreeMap<_, _>>(),
            rows,
            "who watched knows what there is"
        );
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Ask {
                op,
                session,
                is_remembered,
                times,
                is_stale,
            } => self.ask(op, *session, *is_remembered, *times, *is_stale),
            Step::Read(query) => {
                let group = &self.groups[&self.group_of(&first_key(&Op::Read(query.clone())))];
                let version = group.model.version;
                assert_eq!(group.first.read(version, query), Ok(group.model.read(version, query)));
            }
            Step::Again { session } => {
                if let Some(request) = self.last.get(session).cloned() {
                    let id = self.group_of(&first_key(&request.op));
                    self.send(id, &request);
                }
            }
            Step::Pass { key, ms } => {
                let id = self.group_of(key);
                self.groups.get_mut(&id).expect("it is there").now += ms;
            }
            Step::Split { at } => self.split(at),
            Step::Merge {
                at,
                to_left,
                rolls_back,
            } => self.merge(at, *to_left, *rolls_back),
            Step::Crash { seed } => self.crash(*seed),
            Step::Flush => {
                self.groups.values_mut().for_each(|group| group.first.flush());
            }
            Step::FinishFlush => self.disk.finish_flush(),
            Step::Reload { chunk } => self.reload(*chunk),
            Step::CatchUp { batch } => {
                let ids: Vec<GroupId> = self.groups.keys().copied().collect();
                ids.into_iter().for_each(|id| self.catch_up(id, *batch));
            }
        }
    }
}

fn all(image: Image<MemView>) -> Bytes {
    image.chunks().flatten().collect::<Vec<u8>>().into()
}

fn apply(
    region: &mut Region<MemEngine>,
    entries: &[(EntryMeta, Bytes, Option<Bytes>)],
    effects: &mut Vec<Effect<MemView>>,
) {
    let mut entries = entries.iter().peekable();
    while let Some((entry, command, given)) = entries.peek() {
        region.check(command).expect("a command");
        let applied = match given {
            Some(given) => {
                assert_eq!(region.needs(command), Some(command.clone()));
                entries.next();
                region.apply_given(*entry, command, given.clone(), effects)
            }
            None => {
                let mut batch = std::iter::from_fn(|| {
                    let (entry, command, _) = entries.next_if(|(_, _, given)| given.is_none())?;
                    Some((*entry, command))
                });
                region.apply_batch(&mut batch, effects)
            }
        };
        applied.expect("a command of a region");
    }
}

/// The changes of a key come in order.
fn watch(watched: &mut BTreeMap<Bytes, (u64, Option<Bytes>)>, changed: &Changed) {
    let value = changed.row.as_ref().map(|row| row.value.clone());
    let before = watched.insert(changed.key.clone(), (changed.revision, value));
    let last = before.map_or(0, |(revision, _)| revision);
    assert!(last <= changed.revision, "a change of {:?} comes late", changed.key);
}

fn first_key(op: &Op) -> Bytes {
    match op {
        Op::Read(Query::Get { key } | Query::SequenceLatest { key } | Query::LockHolder { key })
        | Op::Merge { key, .. }
        | Op::Delete { key }
        | Op::Sequence { key, .. }
        | Op::SequenceReset { key }
        | Op::Lock { key, .. }
        | Op::KeepLock { key, .. }
        | Op::Unlock { key, .. } => key.clone(),
        Op::Read(Query::Scan { start, .. }) | Op::DeleteRange { start, .. } => start.clone(),
        Op::Put(put) | Op::PutIfAbsent(put) | Op::GetAndPut(put) | Op::CompareAndPut { put, .. } => put.key.clone(),
        Op::Txn { compare, then, .. } => match compare.first() {
            Some(compare) => compare.key.clone(),
            None => then.first().map_or_else(Bytes::new, first_key),
        },
    }
}

fn key() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["a", "b", "c", "cc", "d", "e", "f"]).prop_map(Bytes::from)
}

fn end() -> impl Strategy<Value = Option<Bytes>> {
    prop::option::weighted(0.8, key())
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        prop::sample::select(vec!["", "x", "y", "long enough"]).prop_map(Bytes::from),
        prop::sample::select(vec![1_i64, -7, i64::MAX]).prop_map(|n| Bytes::copy_from_slice(&n.to_le_bytes())),
        Just(Bytes::from(vec![b'v'; 1_100])),
    ]
}

fn put() -> impl Strategy<Value = Put> {
    let ttl_ms = prop::option::weighted(0.3, 1_u64..50);
    (key(), value(), ttl_ms).prop_map(|(key, value, ttl_ms)| Put { key, value, ttl_ms })
}

fn owner() -> impl Strategy<Value = Bytes> {
    prop::sample::select(vec!["me", "you"]).prop_map(Bytes::from)
}

fn query() -> impl Strategy<Value = Query> {
    let direction = any::<bool>().prop_map(|back| if back { Direction::Backward } else { Direction::Forward });
    prop_oneof![
        key().prop_map(|key| Query::Get { key }),
        (key(), end(), direction, 0_u32..5, any::<bool>()).prop_map(|(start, end, direction, limit, keys_only)| {
            Query::Scan {
                start,
                end,
                direction,
                limit,
                keys_only,
            }
        }),
        key().prop_map(|key| Query::SequenceLatest { key }),
        key().prop_map(|key| Query::LockHolder { key }),
    ]
}

fn compare() -> impl Strategy<Value = Compare> {
    let what = prop_oneof![
        value().prop_map(What::Value),
        (0_u64..4).prop_map(What::Version),
        (0_u64..40).prop_map(What::Created),
        (0_u64..40).prop_map(What::Modified),
    ];
    let relations = [Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater];
    let relation = prop::sample::select(relations.to_vec());
    (key(), what, relation).prop_map(|(key, what, relation)| Compare { key, what, relation })
}

fn simple_op() -> impl Strategy<Value = Op> {
    let operator = prop::sample::select(vec![Operator::Append, Operator::AddI64, Operator::Max]);
    prop_oneof![
        1 => query().prop_map(Op::Read),
        4 => put().prop_map(Op::Put),
        1 => put().prop_map(Op::PutIfAbsent),
        1 => put().prop_map(Op::GetAndPut),
        2 => (prop::option::of(value()), put()).prop_map(|(expect, put)| Op::CompareAndPut { expect, put }),
        2 => (key(), operator, value()).prop_map(|(key, operator, operand)| Op::Merge { key, operator, operand }),
        2 => key().prop_map(|key| Op::Delete { key }),
        1 => (key(), end(), 0_u32..4).prop_map(|(start, end, limit)| Op::DeleteRange { start, end, limit }),
        2 => (key(), 1_u64..5).prop_map(|(key, count)| Op::Sequence { key, count }),
        1 => key().prop_map(|key| Op::SequenceReset { key }),
        3 => (key(), owner(), 1_u64..60, owner()).prop_map(|(key, owner, lease_ms, context)| {
            Op::Lock { key, owner, lease_ms, context }
        }),
        1 => (key(), owner(), 0_u64..6, 1_u64..60).prop_map(|(key, owner, token, lease_ms)| {
            Op::KeepLock { key, owner, token, lease_ms }
        }),
        2 => (key(), owner(), 0_u64..6).prop_map(|(key, owner, token)| Op::Unlock { key, owner, token }),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let ops = || prop::collection::vec(simple_op(), 0..4);
    prop_oneof![
        6 => simple_op(),
        1 => (prop::collection::vec(compare(), 0..3), ops(), ops())
            .prop_map(|(compare, then, otherwise)| Op::Txn { compare, then, otherwise }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => (op(), 0_u64..4, any::<bool>(), 1_u8..3, prop::bool::weighted(0.1)).prop_map(
            |(op, session, is_remembered, times, is_stale)| Step::Ask { op, session, is_remembered, times, is_stale }
        ),
        5 => query().prop_map(Step::Read),
        4 => (0_u64..4).prop_map(|session| Step::Again { session }),
        4 => (key(), 0_u64..40).prop_map(|(key, ms)| Step::Pass { key, ms }),
        3 => key().prop_map(|at| Step::Split { at }),
        3 => (key(), any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(at, to_left, rolls_back)| Step::Merge { at, to_left, rolls_back }),
        2 => any::<u64>().prop_map(|seed| Step::Crash { seed }),
        2 => Just(Step::Flush),
        2 => Just(Step::FinishFlush),
        1 => (1_usize..3_000).prop_map(|chunk| Step::Reload { chunk }),
        2 => (1_usize..9).prop_map(|batch| Step::CatchUp { batch }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_history_agrees_with_the_naive_model(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        // What has ended is gone with the next entry.
        let ids: Vec<GroupId> = world.groups.keys().copied().collect();
        for id in ids {
            world.apply(id, &Command::Tick, None);
        }
        world.check();
        prop_assert!(world.disk.usage().bytes > 0);
    }
}
