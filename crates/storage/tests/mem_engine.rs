//! The promises of `MemEngine` beyond the contract: what it holds, and what a crash takes.

use bytes::Bytes;
use settle_base::Prng;
use settle_storage::{
    Batch, Direction, EngineError, Keeps, KeyRange, KvEngine, KvRead, Limit, MemEngine, Seq, engine_contract,
};

const LARGE: u64 = 1 << 30;

fn put(engine: &MemEngine, key: &str, value: &[u8]) -> Result<Seq, EngineError> {
    let mut batch = Batch::default();
    batch.put(Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value));
    engine.write(batch)
}

fn crash(engine: MemEngine, prng: &mut Prng) -> MemEngine {
    engine.crash(prng)
}

#[test]
fn the_contract_holds_whatever_it_keeps() {
    engine_contract::run(|| MemEngine::new(Keeps::Nothing, LARGE));
    engine_contract::run(|| MemEngine::new(Keeps::WhatWasFlushed, LARGE));
    let make = || MemEngine::new(Keeps::WhatWasFlushed, LARGE);
    engine_contract::run_crashes(make, MemEngine::finish_flush, crash, |engine| engine.reopen());
}

#[test]
#[should_panic(expected = "a durable write is gone")]
fn with_the_mutant_engine_a_durable_write_can_be_lost() {
    let make = || {
        let engine = MemEngine::new(Keeps::WhatWasFlushed, LARGE);
        engine.set_flush_is_nothing(true);
        engine
    };
    engine_contract::run_crashes(make, MemEngine::finish_flush, crash, |engine| engine.reopen());
}

#[test]
fn one_that_keeps_nothing_is_empty_after_a_crash_and_the_dead_process_sees_neither() {
    let engine = MemEngine::new(Keeps::Nothing, LARGE);
    put(&engine, "a", b"1").expect("there is room");
    engine.flush();
    engine.finish_flush();
    assert_eq!(engine.durable(), Ok(Seq(0)));
    let view = engine.view();
    let next = engine.crash(&mut Prng::new(1));
    assert_eq!(next.get(b"a"), Ok(None));
    assert_eq!(view.get(b"a"), Err(EngineError::Closed));
    assert_eq!(put(&engine, "a", b"2"), Err(EngineError::Closed));
}

#[test]
fn a_full_engine_refuses_what_adds_to_it_and_takes_what_frees() {
    let engine = MemEngine::new(Keeps::Nothing, 1_000);
    put(&engine, "a", &[1; 600]).expect("there is room");
    let refused = put(&engine, "b", &[1; 600]);
    assert!(matches!(refused, Err(EngineError::NoSpace { .. })), "{refused:?}");
    assert_eq!(engine.get(b"b"), Ok(None), "nothing of it was done");
    put(&engine, "a", &[2; 600]).expect("it replaces as much");
    let mut batch = Batch::default();
    batch.delete(Bytes::from_static(b"a"));
    batch.put(Bytes::from_static(b"b"), Bytes::from_static(b"small"));
    engine.write(batch).expect("it frees more than it takes");
    put(&engine, "c", &[1; 600]).expect("there is room again");
}

/// What is kept for views and for a crash goes once nobody needs it: without it a key that is written for ever would take
/// the whole memory.
#[test]
fn what_nobody_sees_any_more_is_freed_by_the_writes_that_follow() {
    for keeps in [Keeps::Nothing, Keeps::WhatWasFlushed] {
        let engine = MemEngine::new(keeps, LARGE);
        let write = |n: usize| put(&engine, &format!("{:04}", n % 3_000), &[n as u8; 50]).expect("there is room");
        let flush = || {
            engine.flush();
            engine.finish_flush();
        };
        for n in 0..3_000 {
            write(n);
        }
        let view = engine.view();
        for n in 0..30_000 {
            write(n);
            flush();
        }
        let with_a_view = engine.usage().bytes;
        // The view's, the newest, and one that was the newest when it was not yet known to be durable.
        assert!(with_a_view <= 3_000 * 3 * 150, "{with_a_view} bytes for 3,000 keys");
        drop(view);
        engine.clear(KeyRange::new("0100", "3000"));
        for n in 0..=300 {
            write(n % 100);
            if n.is_multiple_of(100) {
                flush();
            }
        }
        let limit = Limit {
            rows: 5_000,
            bytes: usize::MAX,
        };
        let page = engine
            .scan(&KeyRange::prefixed(""), Direction::Forward, limit)
            .expect("it is open");
        let bytes = engine.usage().bytes;
        assert_eq!(page.rows.len(), 100);
        assert!(bytes < 100 * 250, "{keeps:?}: {bytes} bytes for 100 keys");
    }
}
