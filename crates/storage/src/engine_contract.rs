//! What every [`KvEngine`] promises: [`run`] while it lives, [`run_crashes`] when its process dies.

use std::collections::BTreeMap;

use bytes::Bytes;
use settle_base::Prng;

use crate::engine::{Batch, Change, Direction, KeyRange, KvEngine, KvRead, Limit, Page, Seq};

const ALL: Limit = Limit {
    rows: usize::MAX,
    bytes: usize::MAX,
};

type Model = BTreeMap<Bytes, Bytes>;

/// Runs the suite of a living engine. `make` gives an empty one.
///
/// # Panics
/// When the engine breaks a promise.
pub fn run<E: KvEngine>(mut make: impl FnMut() -> E) {
    a_batch_is_made_in_its_order(make());
    a_scan_goes_both_ways_in_pages(make());
    a_view_stays_as_it_was(make());
    what_is_cleared_goes_with_the_writes_that_follow_and_nothing_else(make());
    for seed in 0..30 {
        it_is_a_sorted_map(make(), seed);
    }
}

/// Runs the suite of an engine that keeps something over a crash. `make` gives an empty one, `wait` lets time pass until
/// a flush may have ended, `crash` ends the process, losing what was not made durable, and opens the engine again; `reopen`
/// loses nothing and makes nothing durable.
///
/// # Panics
/// When the engine breaks a promise.
pub fn run_crashes<E: KvEngine>(
    mut make: impl FnMut() -> E,
    mut wait: impl FnMut(&E),
    mut crash: impl FnMut(E, &mut Prng) -> E,
    mut reopen: impl FnMut(E) -> E,
) {
    for seed in 0..60 {
        what_a_dead_process_left_is_durable_once_it_was_flushed(make(), seed, &mut wait, &mut crash, &mut reopen);
        a_crash_keeps_the_writes_up_to_one(make(), seed, &mut wait, &mut crash);
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn range(start: &str, end: &str) -> KeyRange {
    KeyRange::new(bytes(start), bytes(end))
}

fn everything() -> KeyRange {
    KeyRange {
        start: Bytes::new(),
        end: None,
    }
}

fn write(engine: &impl KvEngine, batch: Batch) -> Seq {
    engine.write(batch).expect("there is room")
}

fn put(engine: &impl KvEngine, pairs: &[(&str, &str)]) -> Seq {
    let mut batch = Batch::default();
    for (key, value) in pairs {
        batch.put(bytes(key), bytes(value));
    }
    write(engine, batch)
}

fn scan(engine: &impl KvRead, range: &KeyRange, direction: Direction, limit: Limit) -> Page {
    engine.scan(range, direction, limit).expect("an engine that is open")
}

fn keys(page: &Page) -> String {
    let keys = page.rows.iter().map(|(key, _)| String::from_utf8_lossy(key));
    keys.collect::<Vec<_>>().join(" ")
}

fn get(engine: &impl KvRead, key: &str) -> Option<Bytes> {
    engine.get(key.as_bytes()).expect("an engine that is open")
}

/// All of it, by pages of random sizes, which must fit together.
fn contents(engine: &impl KvRead, range: &KeyRange, direction: Direction, prng: &mut Prng) -> Vec<(Bytes, Bytes)> {
    let (mut rows, mut rest) = (Vec::new(), Some(range.clone()));
    while let Some(range) = rest {
        let limit = Limit {
            rows: prng.between(1, 9) as usize,
            bytes: prng.between(0, 90) as usize,
        };
        let page = scan(engine, &range, direction, limit);
        assert!(page.rows.len() <= limit.rows, "{} rows at once", page.rows.len());
        let size: usize = page.rows.iter().map(|(key, value)| key.len() + value.len()).sum();
        assert!(size <= limit.bytes || page.rows.len() <= 1, "{size} bytes at once");
        assert!(!page.rows.is_empty() || page.rest.is_none(), "a page brings a scan on");
        rows.extend(page.rows);
        rest = page.rest;
    }
    rows
}

fn a_batch_is_made_in_its_order(engine: impl KvEngine) {
    let first = put(&engine, &[("a", "1"), ("b", "1"), ("c", "1")]);
    let mut batch = Batch::default();
    batch.put(bytes("a"), bytes("2"));
    batch.delete(bytes("a"));
    batch.delete_range(range("b", "d"));
    batch.put(bytes("c"), bytes("3"));
    batch.put(bytes("d"), bytes("3"));
    batch.put(bytes("d"), bytes("4"));
    batch.delete(bytes("never there"));
    assert!(write(&engine, batch) > first, "the number of a write rises");
    let page = scan(&engine, &everything(), Direction::Forward, ALL);
    let expected = [(bytes("c"), bytes("3")), (bytes("d"), bytes("4"))];
    assert_eq!((page.rows, page.rest), (expected.to_vec(), None));
    assert_eq!((get(&engine, "a"), get(&engine, "c")), (None, Some(bytes("3"))));
    let mut batch = Batch::default();
    batch.put(bytes("empty"), Bytes::new());
    batch.delete_range(range("z", "a"));
    write(&engine, batch);
    assert_eq!(get(&engine, "empty"), Some(Bytes::new()), "an empty value is a value");
}

fn a_scan_goes_both_ways_in_pages(engine: impl KvEngine) {
    put(
        &engine,
        &[("a", "11"), ("b", "22"), ("c", "33"), ("d", "44"), ("d\0", "55")],
    );
    let (rows, bytes) = (2, usize::MAX);
    let two = Limit { rows, bytes };
    let page = scan(&engine, &range("b", "d"), Direction::Forward, two);
    assert_eq!(
        (keys(&page).as_str(), &page.rest),
        ("b c", &None),
        "the end is excluded"
    );
    let page = scan(&engine, &everything(), Direction::Forward, two);
    assert_eq!(keys(&page), "a b");
    let rest = page.rest.expect("there is more");
    assert_eq!(keys(&scan(&engine, &rest, Direction::Forward, ALL)), "c d d\0");
    let page = scan(&engine, &everything(), Direction::Backward, two);
    assert_eq!(keys(&page), "d\0 d");
    let rest = page.rest.expect("there is more");
    assert_eq!(keys(&scan(&engine, &rest, Direction::Backward, ALL)), "c b a");
    let small = Limit { rows: 9, bytes: 1 };
    let page = scan(&engine, &everything(), Direction::Forward, small);
    assert_eq!(keys(&page), "a", "one row is given however large it is");
    assert_eq!(
        scan(&engine, &range("x", "z"), Direction::Backward, ALL),
        Page::default()
    );
    assert_eq!(
        scan(&engine, &range("c", "a"), Direction::Forward, ALL),
        Page::default()
    );
}

fn a_view_stays_as_it_was(engine: impl KvEngine) {
    let empty = engine.view();
    put(&engine, &[("a", "1"), ("b", "1")]);
    let view = engine.view();
    let same = view.clone();
    let mut batch = Batch::default();
    batch.delete(bytes("a"));
    batch.put(bytes("b"), bytes("2"));
    batch.put(bytes("c"), bytes("2"));
    write(&engine, batch);
    let later = engine.view();
    engine.clear(everything());
    drop(view);
    put(&engine, &[("zz", "3")]);
    assert_eq!(keys(&scan(&empty, &everything(), Direction::Forward, ALL)), "");
    assert_eq!(keys(&scan(&same, &everything(), Direction::Forward, ALL)), "a b");
    assert_eq!(get(&same, "b"), Some(bytes("1")));
    assert_eq!(keys(&scan(&later, &everything(), Direction::Backward, ALL)), "c b");
    assert_eq!(get(&later, "b"), Some(bytes("2")));
}

fn what_is_cleared_goes_with_the_writes_that_follow_and_nothing_else(engine: impl KvEngine) {
    for n in 0..500 {
        put(&engine, &[(&format!("a{n}"), "left"), (&format!("b{n}"), "stays")]);
    }
    engine.clear(range("a", "b"));
    engine.clear(range("c", "d"));
    let is_gone = |engine: &_| scan(engine, &range("a", "b"), Direction::Forward, ALL).rows.is_empty();
    let writes = (0..1_000).take_while(|n| {
        put(&engine, &[("b", &n.to_string())]);
        !is_gone(&engine)
    });
    assert!(writes.count() < 1_000, "it is gone some time");
    assert_eq!(scan(&engine, &everything(), Direction::Forward, ALL).rows.len(), 501);
}

fn random_batch(prng: &mut Prng) -> Batch {
    let mut batch = Batch::default();
    let key = |prng: &mut Prng| bytes(&format!("{:02}", prng.below(60)));
    for _ in 0..prng.between(0, 6) {
        match prng.below(10) {
            0..6 => {
                let value = vec![prng.next_u64() as u8; prng.below(40) as usize];
                batch.put(key(prng), value.into());
            }
            6..9 => batch.delete(key(prng)),
            _ => {
                let (start, end) = (key(prng), Some(key(prng)));
                batch.delete_range(KeyRange { start, end });
            }
        }
    }
    batch
}

fn change(model: &mut Model, batch: &Batch) {
    for change in batch.changes() {
        match change {
            Change::Put { key, value } => drop(model.insert(key.clone(), value.clone())),
            Change::Delete { key } => drop(model.remove(key)),
            Change::DeleteRange(range) => model.retain(|key, _| !range.contains(key)),
        }
    }
}

fn check(engine: &impl KvRead, model: &Model, prng: &mut Prng) {
    let range = match prng.percent(50) {
        true => everything(),
        false => range(&prng.below(60).to_string(), &prng.below(60).to_string()),
    };
    let mut rows: Vec<_> = model.iter().filter(|(key, _)| range.contains(key)).collect();
    let found = contents(engine, &range, Direction::Forward, prng);
    assert!(found.iter().map(|(k, v)| (k, v)).eq(rows.iter().copied()), "{range:?}");
    rows.reverse();
    let found = contents(engine, &range, Direction::Backward, prng);
    assert!(found.iter().map(|(k, v)| (k, v)).eq(rows), "{range:?} backward");
    let key = format!("{:02}", prng.below(60));
    assert_eq!(get(engine, &key), model.get(key.as_bytes()).cloned());
}

fn it_is_a_sorted_map<E: KvEngine>(engine: E, seed: u64) {
    let mut prng = Prng::from_parts(&[0x6b76, seed]);
    let (mut model, mut views): (Model, Vec<(E::View, Model)>) = Default::default();
    let mut last = Seq(0);
    for _ in 0..400 {
        let batch = random_batch(&mut prng);
        change(&mut model, &batch);
        let seq = write(&engine, batch);
        assert!(seq > last, "the number of a write rises");
        last = seq;
        match prng.below(12) {
            0 => views.push((engine.view(), model.clone())),
            1 if !views.is_empty() => drop(views.swap_remove(prng.below(views.len() as u64) as usize)),
            2 => check(&engine, &model, &mut prng),
            3 => {
                engine.flush();
            }
            _ => {}
        }
    }
    check(&engine, &model, &mut prng);
    for (view, model) in &views {
        check(view, model, &mut prng);
    }
}

fn a_crash_keeps_the_writes_up_to_one<E: KvEngine>(
    mut engine: E,
    seed: u64,
    wait: &mut impl FnMut(&E),
    crash: &mut impl FnMut(E, &mut Prng) -> E,
) {
    let mut prng = Prng::from_parts(&[0x6372, seed]);
    // What there was behind each write since the last crash.
    let mut history: Vec<(Seq, Model)> = vec![(Seq(0), Model::new())];
    for _ in 0..6 {
        let mut model = history.last().expect("it begins with one").1.clone();
        for _ in 0..prng.below(40) {
            let batch = random_batch(&mut prng);
            change(&mut model, &batch);
            history.push((write(&engine, batch), model.clone()));
            match prng.below(12) {
                0 => {
                    engine.flush();
                }
                1 => wait(&engine),
                2 => {
                    let asked = engine.flush();
                    assert!(asked >= history.last().expect("there is one").0, "all of it is flushed");
                    wait(&engine);
                    let durable = engine.durable().expect("an engine that is open");
                    assert!(durable >= asked, "what was waited for is durable");
                }
                _ => {}
            }
        }
        let durable = engine.durable().expect("an engine that is open");
        engine = crash(engine, &mut prng);
        let found: Model = contents(&engine, &everything(), Direction::Forward, &mut prng)
            .into_iter()
            .collect();
        let kept = history.iter().rposition(|(_, model)| *model == found);
        let kept = kept.unwrap_or_else(|| panic!("seed {seed}: what is left is not what there was at any time"));
        assert!(history[kept].0 >= durable, "seed {seed}: a durable write is gone");
        let newest = history.last().expect("there is one").0;
        history = vec![(newest, found)];
    }
}

fn what_a_dead_process_left_is_durable_once_it_was_flushed<E: KvEngine>(
    engine: E,
    seed: u64,
    wait: &mut impl FnMut(&E),
    crash: &mut impl FnMut(E, &mut Prng) -> E,
    reopen: &mut impl FnMut(E) -> E,
) {
    let mut prng = Prng::from_parts(&[0x726f, seed]);
    for n in 0..20 {
        put(&engine, &[("a", &n.to_string())]);
    }
    let engine = reopen(engine);
    assert_eq!(get(&engine, "a"), Some(bytes("19")), "nothing is lost");
    let asked = engine.flush();
    let waits = prng.percent(50);
    if waits {
        wait(&engine);
    }
    let is_durable = engine.durable().expect("an engine that is open") >= asked;
    assert!(is_durable || !waits, "what was waited for is durable");
    let engine = crash(engine, &mut prng);
    let is_there = get(&engine, "a") == Some(bytes("19"));
    assert!(is_there || !is_durable, "seed {seed}: a durable write is gone");
}
