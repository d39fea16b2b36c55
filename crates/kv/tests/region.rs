//! Rules of a region that the random histories do not reach.

mod rig;

use bytes::Bytes;
use rig::{FIRST, Rig, engine, members, put};
use settle_base::{GroupId, GroupTime, Prng};
use settle_kv::{Command, Commit, Effect, Op, Operator, Query, Refusal, Region, Reply, Space, limits};
use settle_machine::{
    Members, StateMachine,
    ranges::{Ranged, State},
};
use settle_storage::{Direction, Keeps, KeyRange, KvRead, Limit, MemEngine};

const CHILD: GroupId = GroupId(2);

fn commit_of(source: &Rig, target: &Rig) -> Commit {
    let descriptor = source.region.descriptor();
    let State::Merging(merging) = descriptor.state else {
        panic!("it is not prepared");
    };
    Commit {
        epoch: target.region.descriptor().epoch,
        source: descriptor.group,
        range: descriptor.range.clone(),
        prepared: merging.prepared,
        prev_index: merging.prepared,
        prev_term: 1,
        entries: Vec::new(),
    }
}

fn prepare(source: &mut Rig, target: &Rig) -> Vec<Effect<settle_storage::MemView>> {
    source.apply(&Command::Prepare {
        epoch: source.region.descriptor().epoch,
        target: target.region.descriptor().group,
        target_epoch: target.region.descriptor().epoch,
        min_index: 1,
    })
}

#[test]
fn a_command_that_was_right_when_it_was_proposed_is_refused_when_the_region_is_another_by_then() {
    let mut rig = Rig::new();
    rig.ask(put("b", "before", None));
    let version = rig.version();
    let child = rig.split("b", CHILD, Space(2));
    for key in ["a", "b"] {
        let reply = rig.ask_at(version, put(key, "late", None));
        let Reply::Refused(Refusal::Elsewhere { epoch, range }) = reply else {
            panic!("{reply:?}");
        };
        assert_eq!((epoch.version, range), (version + 1, KeyRange::new("", "b")));
    }
    let reply = rig.ask(put("b", "not here", None));
    assert!(matches!(reply, Reply::Refused(Refusal::Elsewhere { .. })), "{reply:?}");
    assert_eq!((rig.get("a"), child.get("b")), (None, Some(Bytes::from("before"))));
    let admitted = rig.region.admit(&Command::Requests {
        version,
        requests: Vec::new(),
    });
    assert!(matches!(admitted, Err(Refusal::Elsewhere { .. })), "{admitted:?}");
}

#[test]
fn a_change_of_members_is_another_epoch_and_a_silent_region_takes_none() {
    let (mut rig, target) = (Rig::new(), Rig::new());
    let epoch = rig.region.descriptor().epoch;
    rig.region.members_changed(&members(&[1, 2, 3]));
    assert_eq!(rig.region.descriptor().epoch, epoch, "they are told at each start");
    rig.region.members_changed(&members(&[1, 2, 4]));
    assert_eq!(rig.region.descriptor().epoch.conf_ver, epoch.conf_ver + 1);
    let split = Command::Split {
        epoch,
        at: Bytes::from("b"),
        child: CHILD,
    };
    assert!(
        matches!(rig.apply(&split)[..], [Effect::Outdated]),
        "of the members before"
    );
    rig.region.members_changed(&Members {
        is_joint: true,
        ..members(&[1, 2, 4, 5])
    });
    let mut source = Rig::of(Region::new(engine(), Space(1), CHILD, true));
    let joint = source.region.descriptor().epoch;
    source.region.members_changed(&Members {
        is_joint: true,
        ..members(&[1, 2, 4])
    });
    assert!(matches!(prepare(&mut source, &target)[..], [Effect::Outdated]));
    source.region.members_changed(&members(&[1, 2, 4]));
    assert!(source.region.takes_members());
    assert!(matches!(prepare(&mut source, &target)[..], [Effect::Prepared { .. }]));
    assert!(!source.region.takes_members());
    assert!(
        source.region.descriptor().epoch.conf_ver > joint.conf_ver + 2,
        "a merge is another epoch of both kinds"
    );
}

/// Else a merge would bring rows of long ago back, or the sweep would take what came back.
#[test]
fn what_a_split_gave_away_is_swept_before_it_may_come_back() {
    let mut rig = Rig::new();
    for n in 0..200 {
        rig.ask(put(&format!("k{n:03}"), "first", (n % 2 == 0).then_some(5_000)));
    }
    rig.ask(Op::Sequence {
        key: Bytes::from("z"),
        count: 1,
    });
    let mut child = rig.split("k", CHILD, Space(2));
    for n in 0..100 {
        let key = Bytes::from(format!("k{n:03}"));
        child.ask(Op::Delete { key });
    }
    prepare(&mut child, &rig);
    let commit = commit_of(&child, &rig);
    let command = Command::Commit(Box::new(commit));
    let mut swept = 0;
    while rig.region.needs(&command.encode()).is_none() {
        assert!(rig.region.wants_tick(GroupTime(0)));
        assert!(matches!(rig.apply(&command)[..], [Effect::Outdated]));
        swept += 1;
    }
    assert_eq!(
        swept,
        201_usize.div_ceil(limits::SWEPT_ROWS_MAX),
        "a bounded part with each entry"
    );
    let (entry, mut effects) = (rig.entry(), Vec::new());
    let given = child.region.inheritance();
    let applied = rig.region.apply_given(entry, &command.encode(), given, &mut effects);
    applied.expect("what it needs");
    assert!(matches!(effects[..], [Effect::Absorbed { .. }]), "{effects:?}");
    for _ in 0..5 {
        rig.apply(&Command::Tick);
    }
    assert_eq!((rig.get("k099"), rig.get("k100")), (None, Some(Bytes::from("first"))));
    assert!(rig.region.descriptor().given_away.is_empty());
}

#[test]
fn a_region_is_not_split_nor_merged_while_a_replica_may_wait_for_what_it_absorbed() {
    let mut rig = Rig::new();
    let mut child = rig.split("k", CHILD, Space(2));
    rig.apply(&Command::Tick);
    prepare(&mut child, &rig);
    let command = Command::Commit(Box::new(commit_of(&child, &rig)));
    let (entry, given) = (rig.entry(), child.region.inheritance());
    let applied = rig.region.apply_given(entry, &command.encode(), given, &mut Vec::new());
    applied.expect("what it needs");
    let split = |rig: &Rig| Command::Split {
        epoch: rig.region.descriptor().epoch,
        at: Bytes::from("b"),
        child: GroupId(3),
    };
    assert!(matches!(rig.apply(&split(&rig))[..], [Effect::Outdated]));
    let other = Rig::of(Region::new(engine(), Space(1), GroupId(9), true));
    assert!(matches!(prepare(&mut rig, &other)[..], [Effect::Outdated]));
    assert!(matches!(
        rig.apply(&Command::Finish { source: CHILD })[..],
        [Effect::Finished { .. }]
    ));
    assert!(matches!(rig.apply(&split(&rig))[..], [Effect::Split { .. }]));
}

#[test]
fn a_cancelled_merge_can_never_be_committed() {
    let mut rig = Rig::new();
    let mut child = rig.split("k", CHILD, Space(2));
    rig.apply(&Command::Tick);
    prepare(&mut child, &rig);
    let commit = commit_of(&child, &rig);
    let (epoch, source) = (commit.epoch, CHILD);
    rig.apply(&Command::Cancel { epoch, source });
    let command = Command::Commit(Box::new(commit)).encode();
    assert_eq!(rig.region.needs(&command), None);
    let given = child.region.inheritance();
    let entry = rig.entry();
    assert!(rig.region.apply_given(entry, &command, given, &mut Vec::new()).is_err());
}

#[test]
fn what_has_ended_is_not_seen_however_much_ends_at_once() {
    let mut rig = Rig::new();
    for n in 0..200 {
        rig.ask(put(&format!("{n:03}"), "x", Some(10)));
    }
    rig.ask(put("stays", "x", Some(1_000)));
    assert!(!rig.region.wants_tick(GroupTime(9)) && rig.region.wants_tick(GroupTime(10)));
    rig.time = 10;
    let scan = Query::Scan {
        start: Bytes::new(),
        end: None,
        direction: Direction::Forward,
        limit: 3,
        keys_only: true,
    };
    let mut ticks = 0;
    while rig.region.wants_tick(GroupTime(rig.time)) {
        let gone = rig.apply(&Command::Tick);
        ticks += 1;
        assert!(
            gone.iter()
                .all(|effect| matches!(effect, Effect::Changed(changed) if changed.row.is_none()))
        );
        let Ok(Reply::Rows { rows, rest }) = rig.region.read(rig.version(), &scan) else {
            panic!("it serves");
        };
        assert_eq!((rows.len(), &rows[0].0[..], rest), (1, &b"stays"[..], None));
    }
    assert_eq!(ticks, 200_usize.div_ceil(limits::SWEPT_ROWS_MAX));
    assert!(!rig.region.wants_tick(GroupTime(999)));
    for n in 0..2_500 {
        rig.ask(put(&format!("{n:04}"), "x", Some(10)));
    }
    rig.time += 10;
    rig.apply(&Command::Tick);
    let Ok(Reply::Rows { rows, rest }) = rig.region.read(rig.version(), &scan) else {
        panic!("it serves");
    };
    let rest = rest.expect("so much is looked at, and no more");
    assert!(rows.is_empty() && rest.contains(b"stays") && rest.start > b"1"[..]);
}

#[test]
fn loading_clears_what_was_there_and_takes_nothing_that_is_not_whole() {
    let (mut rig, mut other) = (Rig::new(), Rig::new());
    rig.ask(put("kept", "x", None));
    other.ask(put("deleted on the leader", "x", Some(50)));
    other.ask(Op::Lock {
        key: Bytes::from("a lock"),
        owner: Bytes::from("me"),
        lease_ms: 9,
        context: Bytes::new(),
    });
    let image: Vec<u8> = rig.region.begin_snapshot().flatten().collect();
    let whole = Bytes::from(image.clone());
    for cut in 0..image.len() {
        let mut region = Region::new(engine(), Space(1), FIRST, false);
        let loaded = region.load(&mut std::iter::once(whole.slice(..cut)));
        assert!(loaded.is_err(), "{cut} bytes of {}", image.len());
        let mut damaged = image.clone();
        damaged[cut] ^= 1;
        let mut region = Region::new(engine(), Space(1), FIRST, false);
        let loaded = region.load(&mut std::iter::once(Bytes::from(damaged)));
        assert!(loaded.is_err(), "with byte {cut} changed");
    }
    let mut region = Region::new(engine(), Space(1), CHILD, false);
    assert!(
        region.load(&mut std::iter::once(whole.clone())).is_err(),
        "of another region"
    );
    let mut large = Rig::new();
    for n in 0..300 {
        large.ask(put(&format!("{n:03}"), &"x".repeat(1_000), None));
    }
    let frames: Vec<Bytes> = large.region.begin_snapshot().collect();
    for missing in 0..frames.len() {
        let mut region = Region::new(engine(), Space(1), FIRST, false);
        let others = (0..frames.len()).filter(|n| *n != missing);
        let loaded = region.load(&mut others.map(|n| frames[n].clone()));
        assert!(loaded.is_err(), "without frame {missing} of {}", frames.len());
    }
    other.region.load(&mut std::iter::once(whole)).expect("a snapshot");
    assert_eq!(other.region.state_hash(), rig.region.state_hash());
    let all = Limit {
        rows: 100,
        bytes: usize::MAX,
    };
    let rows = other
        .region
        .engine()
        .scan(&KeyRange::prefixed(""), Direction::Forward, all);
    let own = rig
        .region
        .engine()
        .scan(&KeyRange::prefixed(""), Direction::Forward, all);
    assert_eq!(rows, own, "and nothing else is stored");
}

#[test]
fn a_snapshot_stays_as_it_was_begun_while_applying_goes_on() {
    let mut rig = Rig::new();
    for n in 0..2_000 {
        rig.ask(put(&format!("{n:04}"), &"x".repeat(100), None));
    }
    let hash = rig.region.state_hash();
    let mut chunks = rig.region.begin_snapshot();
    let first: Vec<Bytes> = chunks.by_ref().take(2).collect();
    for n in 0..2_000 {
        rig.ask(put(&format!("{n:04}"), "later", None));
    }
    let _child = rig.split("1", CHILD, Space(2));
    let mut copy = Region::new(engine(), Space(1), FIRST, false);
    copy.load(&mut first.into_iter().chain(chunks)).expect("a snapshot");
    assert_eq!(copy.state_hash(), hash);
}

#[test]
fn the_session_that_was_quiet_for_longest_is_forgotten_first_and_an_inherited_one_before_that() {
    let mut rig = Rig::new();
    let add = |n: i64| Op::Merge {
        key: Bytes::from("k"),
        operator: Operator::AddI64,
        operand: Bytes::copy_from_slice(&n.to_le_bytes()),
    };
    let version = rig.version();
    for session in 0..limits::SESSIONS_MAX as u64 {
        rig.ask_as(version, session, 1, add(1));
    }
    rig.ask_as(version, 0, 2, add(1));
    let sum = limits::SESSIONS_MAX as i64 + 1;
    assert_eq!(rig.ask_as(version, 0, 2, add(1)), Reply::Sum(sum), "it is remembered");
    assert_eq!(rig.ask_as(version, 0, 1, add(1)), Reply::Forgotten);
    assert_eq!(
        rig.ask_as(version, 1, 1, add(1)),
        Reply::Sum(2),
        "and the first of the others"
    );
    rig.ask_as(version, u64::MAX, 1, add(1));
    assert_eq!(
        rig.ask_as(version, 1, 1, add(1)),
        Reply::Sum(sum + 2),
        "the oldest was forgotten"
    );
    assert_eq!(
        rig.ask_as(version, 0, 2, add(1)),
        Reply::Sum(sum),
        "and none that asked since"
    );
    let mut child = rig.split("k", CHILD, Space(2));
    let version = child.version();
    assert_eq!(
        child.ask_as(version, 0, 2, add(1)),
        Reply::Sum(sum),
        "a child knows them too"
    );
    let own = u64::MAX - 1;
    child.ask_as(version, own, 1, put("k", "x", None));
    for session in 0..limits::SESSIONS_MAX as u64 - 1 {
        child.ask_as(version, 1 << 32 | session, 1, put("k", "y", None));
    }
    let again = child.ask_as(version, own, 1, put("k", "z", None));
    assert_eq!(child.get("k"), Some(Bytes::from("y")), "{again:?}");
}

#[test]
fn what_one_request_does_is_bounded_and_it_is_refused_whole() {
    let mut rig = Rig::new();
    let large = "x".repeat(limits::VALUE_MAX);
    for key in ["a", "b", "c", "d", "e"] {
        rig.ask(put(key, &large, None));
    }
    let revision = rig.region.standing().marks.revision;
    let read = |key: &str| {
        let key = Bytes::copy_from_slice(key.as_bytes());
        Op::Read(Query::Get { key })
    };
    let mut then = vec![put("a", "changed", None)];
    then.extend(["b", "c", "d", "e", "b"].map(read));
    let txn = |then| Op::Txn {
        compare: Vec::new(),
        then,
        otherwise: Vec::new(),
    };
    assert_eq!(rig.ask(txn(then.clone())), Reply::Refused(Refusal::TooLarge));
    assert_eq!(
        rig.region.standing().marks.revision,
        revision,
        "as if it had not been asked"
    );
    assert_eq!(rig.get("a").map(|value| value.len()), Some(limits::VALUE_MAX));
    then.truncate(3);
    assert!(matches!(rig.ask(txn(then)), Reply::Txn { .. }));
    let (key, operator, operand) = (Bytes::from("b"), Operator::Append, Bytes::from("more"));
    let append = Op::Merge { key, operator, operand };
    assert_eq!(rig.ask(append), Reply::Refused(Refusal::TooLarge));
}

#[test]
fn an_engine_without_room_is_an_error_and_what_frees_is_still_applied() {
    let engine = MemEngine::new(Keeps::Nothing, 20_000);
    let mut rig = Rig::of(Region::new(engine, Space(1), FIRST, true));
    let mut ask = |op, number| {
        let (version, is_remembered) = (rig.version(), false);
        let ticket = settle_machine::Ticket { session: 1, number };
        let requests = vec![settle_kv::Request {
            ticket,
            is_remembered,
            op,
        }];
        rig.try_apply(&Command::Requests { version, requests })
    };
    ask(put("a", &"x".repeat(15_000), None), 1).expect("there is room");
    let error = ask(put("b", &"x".repeat(15_000), None), 2).expect_err("there is none");
    assert!(error.reason.contains("full"), "{error}");
    let key = Bytes::from("a");
    ask(Op::Delete { key }, 3).expect("it frees");
}

#[test]
fn a_region_that_is_dropped_is_found_again_and_one_that_is_retired_leaves_nothing() {
    let mut rig = Rig::new();
    let engine = rig.region.engine().clone();
    let mut child = rig.split("k", CHILD, Space(2));
    child.ask(put("key", "value", None));
    let hash = child.region.state_hash();
    drop(child);
    rig.ask(put("a", "1", None));
    let open = |space| Region::open(engine.clone(), space).expect("nothing is damaged");
    let found = open(Space(2)).expect("it is there, whatever ended its process");
    assert_eq!((found.state_hash(), found.descriptor().group), (hash, CHILD));
    assert!(open(Space(3)).is_none());
    found.retire();
    for n in 0..20 {
        rig.ask(put("a", &n.to_string(), None));
    }
    let of_child = KeyRange::prefixed(2_u64.to_be_bytes().to_vec());
    let limit = Limit { rows: 9, bytes: 999 };
    let page = engine.scan(&of_child, Direction::Forward, limit).expect("it is open");
    assert_eq!(page.rows, []);
}

/// Were the log cut at what a dead process left in the system's cache, a power cut would leave neither.
#[test]
fn what_is_found_at_the_start_is_durable_only_once_its_flush_has_ended() {
    let engine = MemEngine::new(Keeps::WhatWasFlushed, 1 << 20);
    let mut rig = Rig::of(Region::new(engine.clone(), Space(1), FIRST, true));
    for n in 0..100 {
        rig.ask(put("a", &n.to_string(), None));
    }
    let reopened = engine.reopen();
    let mut region = Region::open(reopened.clone(), Space(1))
        .expect("nothing is damaged")
        .expect("it is there");
    assert_eq!(region.standing().index, rig.index);
    region.flush();
    assert_eq!(region.durable_index(), Ok(0), "its sync is under way");
    reopened.finish_flush();
    assert_eq!(region.durable_index(), Ok(rig.index));
    let left = Region::open(reopened.crash(&mut Prng::new(1)), Space(1)).expect("nothing is damaged");
    assert_eq!(left.map(|region| region.standing().index), Some(rig.index));
}

#[test]
fn what_a_transaction_writes_is_bounded_however_short_it_is() {
    let mut rig = Rig::new();
    rig.ask(put("k", &"x".repeat(limits::VALUE_MAX / 2), None));
    let append = Op::Merge {
        key: Bytes::from("k"),
        operator: Operator::Append,
        operand: Bytes::from("y"),
    };
    let txn = |count| Op::Txn {
        compare: Vec::new(),
        then: vec![append.clone(); count],
        otherwise: Vec::new(),
    };
    assert_eq!(rig.ask(txn(100)), Reply::Refused(Refusal::TooLarge));
    assert_eq!(rig.get("k").map(|value| value.len()), Some(limits::VALUE_MAX / 2));
    assert!(matches!(rig.ask(txn(3)), Reply::Txn { .. }));
}
