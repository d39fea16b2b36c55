//! What a message costs in memory, counted by the allocator: a fixed multiple of the bytes received, whatever they say.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    collections::BTreeMap,
};

use settle_hessian::{DecodeOptions, Dialect, Document, HessianDecode, HessianEncode, Reader, from_bytes, to_bytes};

/// Counts the bytes that the running test holds.
struct Counting;

#[derive(Clone, Copy, Default)]
struct Held {
    now: usize,
    peak: usize,
    allocations: usize,
}

thread_local! {
    static HELD: Cell<Held> = const { Cell::new(Held { now: 0, peak: 0, allocations: 0 }) };
}

fn change(change: impl FnOnce(&mut Held)) {
    // A thread that ends has no counter any more.
    let _ = HELD.try_with(|held| {
        let mut copy = held.get();
        change(&mut copy);
        copy.peak = copy.peak.max(copy.now);
        held.set(copy);
    });
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        change(|held| {
            held.now += layout.size();
            held.allocations += 1;
        });
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        change(|held| held.now = held.now.saturating_sub(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes held at once while `work` ran, and the number of allocations.
fn cost<T>(work: impl FnOnce() -> T) -> (T, Held) {
    HELD.set(Held::default());
    let value = work();
    (value, HELD.get())
}

/// A node, the tables' entries and the doubling of what grows, per byte of input; and what an empty reader may have.
const PER_BYTE: usize = 400;
const BASE: usize = 64 << 10;

fn hostile_messages() -> Vec<(Dialect, &'static str, Vec<u8>)> {
    let sofa = |name, bytes| (Dialect::Sofa3, name, bytes);
    let last = |name, bytes| (Dialect::Hessian2, name, bytes);
    let nested = |head: &[u8], times: usize| head.repeat(times);
    let long_def: Vec<u8> = [&b"C\x01aI\0\0\x0f\xff"[..], &b"\0".repeat(4095), &b"\x60".repeat(2000)].concat();
    vec![
        sofa("a list of 2 GiB", b"V\x6c\x7f\xff\xff\xff".to_vec()),
        last("a list of 2 GiB", b"\x58I\x7f\xff\xff\xff".to_vec()),
        last(
            "a list of 4 million in 40 bytes",
            [&b"\x58I\0\x3f\0\0"[..], &[0x90; 40]].concat(),
        ),
        last("a string of 65535 without its characters", b"S\xff\xff".to_vec()),
        last("a binary of 65535 without its bytes", b"B\xff\xff".to_vec()),
        sofa("a class name of 2 GiB", b"OI\x7f\xff\xff\xffa".to_vec()),
        last("a class of 2 billion fields", b"C\x01aI\x7f\xff\xff\xff".to_vec()),
        last("objects of 4095 fields that never come", long_def),
        last("lists inside each other", nested(b"\x79", 100_000)),
        // Each claims as many items as there are bytes left.
        last(
            "lists inside each other that claim all the rest",
            nested(b"\x58\xd4\x4e\x20", 30_000),
        ),
        sofa("maps inside each other", nested(b"M", 100_000)),
        last("empty lists", nested(b"\x78", 100_000)),
        sofa("empty maps", nested(b"Mz", 100_000)),
        last("definitions of classes", nested(b"C\0\x90", 60_000)),
        last(
            "fields of classes",
            nested(&[&b"C\0\xdf"[..], &[0; 15]].concat(), 10_000),
        ),
        last("type names", nested(b"\x70\0", 60_000)),
        last("chunks of nothing", nested(b"R\0\0", 100_000)),
        last("characters in chunks of one", nested(b"R\0\x01a", 100_000)),
        last("surrogates in chunks of one", nested(b"R\0\x01\xed\xa0\x80", 50_000)),
        last(
            "references to one list",
            [&b"\x58I\0\x01\x86\xa0"[..], &b"\x51\x90".repeat(100_000)].concat(),
        ),
    ]
}

#[test]
fn memory_grows_with_the_bytes_received_and_not_with_what_they_claim() {
    for (dialect, name, bytes) in hostile_messages() {
        let options = DecodeOptions::new(dialect);
        let bound = bytes.len() * PER_BYTE + BASE;
        let (read, held) = cost(|| Document::decode(&bytes, &options).map(|_| ()));
        assert!(
            held.peak <= bound,
            "{name}: {} bytes for {} received ({read:?})",
            held.peak,
            bytes.len()
        );
        let (_, held) = cost(|| Reader::new(&bytes, &options).and_then(|mut reader| reader.skip()));
        assert!(held.peak <= bound / 4, "skipping {name}: {} bytes", held.peak);
    }
}

#[test]
fn binaries_and_text_are_borrowed_from_the_input() {
    let mut document = Document::new();
    document.push("a".repeat(30_000).into());
    document.push("é".repeat(30_000).into());
    document.push(settle_hessian::Value::Binary(vec![7; 4000].into()));
    let bytes = document.encode(Dialect::Sofa3).unwrap();
    let options = DecodeOptions::new(Dialect::Sofa3);
    let (read, held) = cost(|| Document::decode(&bytes, &options).unwrap());
    assert_eq!(read, document);
    assert!(held.peak < 1000, "{} bytes beside the input", held.peak);
    assert_eq!(held.allocations, 1, "the list of roots");
}

#[derive(HessianEncode, HessianDecode, PartialEq, Debug)]
#[hessian(class = "com.example.Line")]
struct Line {
    sku: String,
    quantity: i32,
}

#[derive(HessianEncode, HessianDecode, PartialEq, Debug)]
#[hessian(class = "com.example.Order")]
struct Order {
    id: i64,
    name: String,
    city: Option<String>,
    lines: Vec<Line>,
    counts: Vec<i32>,
    limits: BTreeMap<String, i64>,
}

#[test]
fn a_derived_type_allocates_what_it_owns_and_nothing_else() {
    let line = |quantity| Line {
        sku: format!("SKU-{quantity}"),
        quantity,
    };
    let order = Order {
        id: 7,
        name: "Zhang San".to_owned(),
        city: Some("杭州市".to_owned()),
        lines: (0..3).map(line).collect(),
        counts: (0..20).collect(),
        limits: (0..5).map(|limit| (format!("limit{limit}"), limit)).collect(),
    };
    // Two names; the list of lines and what each has; the list of counts; the map's one node and its keys.
    let owned = 2 + (1 + 3) + 1 + (1 + 5);
    for dialect in [Dialect::Sofa3, Dialect::Hessian2] {
        let bytes = to_bytes(dialect, &order).unwrap();
        let options = DecodeOptions::new(dialect);
        let (read, held) = cost(|| from_bytes::<Order>(&bytes, &options).unwrap());
        assert_eq!(read, order);
        assert_eq!(held.allocations, owned, "{dialect:?}");
    }
}
