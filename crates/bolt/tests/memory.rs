//! What frames cost in memory, counted by the allocator: nothing that they only claim.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use bytes::{Bytes, BytesMut};
use settle_base::Mono;
use settle_bolt::{Body, Command, Config, Connection, Event, Frame, FrameDecoder, HeaderMap, Switch, Version};

/// Counts the bytes that the running test holds.
struct Counting;

thread_local! {
    static NOW: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has no counters any more.
        let _ = NOW.try_with(|now| {
            now.set(now.get() + layout.size());
            PEAK.with(|peak| peak.set(peak.get().max(now.get())));
            ALLOCATIONS.with(|count| count.set(count.get() + 1));
        });
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let _ = NOW.try_with(|now| now.set(now.get().saturating_sub(layout.size())));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes held at once beyond those before, and the number of allocations, while `work` ran.
fn cost<T>(work: impl FnOnce() -> T) -> (T, usize, usize) {
    NOW.set(0);
    PEAK.set(0);
    ALLOCATIONS.set(0);
    let value = work();
    (value, PEAK.get(), ALLOCATIONS.get())
}

fn request(id: i32, timeout_ms: i32, content: &'static [u8]) -> Frame {
    let body = Body {
        class: Bytes::from_static(b"java.lang.String"),
        header: Bytes::from_static(b"\0\0\0\x01k\0\0\0\x01v"),
        content: Bytes::from_static(content),
    };
    Frame::new(Version::V1, Switch::NONE, id, Command::Request { timeout_ms, body })
}

fn bytes_of(frame: &Frame) -> BytesMut {
    let mut out = BytesMut::new();
    frame.encode(&mut out).unwrap();
    out
}

#[test]
fn a_frame_that_claims_much_costs_nothing_before_it_is_there() {
    let mut head = bytes_of(&request(1, 1, b""));
    head[18..22].copy_from_slice(&(7u32 << 20).to_be_bytes());
    let decoder = FrameDecoder::default();
    let (read, peak, allocations) = cost(|| decoder.decode(&mut head));
    assert_eq!(read, Ok(None));
    assert_eq!((peak, allocations), (0, 0));
}

#[test]
fn reading_a_frame_allocates_no_more_than_what_lets_its_parts_share_its_bytes() {
    static CONTENT: [u8; 100_000] = [7; 100_000];
    let mut bytes = bytes_of(&request(1, 1, &CONTENT));
    let decoder = FrameDecoder::default();
    let (frame, peak, allocations) = cost(|| decoder.decode(&mut bytes).unwrap().unwrap());
    assert!(matches!(frame.command, Command::Request { body, .. } if body.content == CONTENT[..]));
    assert!(
        peak < 200 && allocations <= 1,
        "{peak} bytes in {allocations} allocations"
    );
}

#[test]
fn a_header_costs_a_fixed_multiple_of_its_bytes() {
    let header = [0u8; 32_760];
    let (map, peak, _) = cost(|| HeaderMap::decode(&header).unwrap());
    assert_eq!(map.len(), 32_760 / 8);
    assert!(peak < 16 * header.len(), "{peak} bytes for {}", header.len());
}

#[test]
fn a_flood_of_requests_that_are_never_answered_is_bounded() {
    let config = Config {
        served_max: 100,
        unsent_bytes_max: 10_000,
        ..Config::server()
    };
    let mut server = Connection::new(config, Mono::ZERO);
    let mut flood = BytesMut::new();
    for id in 0..20_000 {
        request(id, -1, b"\x05hello").encode(&mut flood).unwrap();
    }
    let now = Mono::from_millis(1);
    let ((), peak, _) = cost(|| {
        loop {
            match server.step(&mut flood, now) {
                Some(Event::Closed(reason)) => panic!("{reason:?}"),
                Some(_) => {}
                None if flood.is_empty() => return,
                None => {
                    let unsent = server.unsent().len();
                    server.sent(unsent, now);
                }
            }
        }
    });
    assert_eq!(server.requests_in_service(), 100);
    assert_eq!(server.counters().refused_requests, 19_900);
    assert!(peak < 100_000, "{peak} bytes");
}
