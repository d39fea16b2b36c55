//! What an idle replica costs: thousands of groups share one process.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use settle_base::{GroupId, GroupTime};
use settle_raft::{Body, ConfState, Config, HardState, Message, PeerId, Raft, Restored, SnapshotMeta};

/// The consensus part of an idle replica, heap and all, in bytes.
const IDLE_BYTES_MAX: usize = 1_536;

struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; the counters have no destructor and allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.set(LIVE.get() + layout.size() as isize);
        CALLS.set(CALLS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - layout.size() as isize);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn heap() -> isize {
    LIVE.get()
}

fn restored() -> Restored {
    Restored {
        hard_state: HardState {
            term: 7,
            commit: 900,
            ..HardState::default()
        },
        snapshot: SnapshotMeta {
            index: 900,
            term: 7,
            conf: ConfState::of_voters([1, 2, 3].map(PeerId)),
            time: GroupTime::ZERO,
            context: Default::default(),
        },
        ..Restored::default()
    }
}

fn trio() -> [Raft; 3] {
    [1, 2, 3].map(|id| Raft::restore(Config::new(GroupId(1), PeerId(id), 1), restored()).expect("an honest story"))
}

/// Moves everything until nothing is left to do.
fn settle(group: &mut [Raft; 3]) {
    loop {
        let mut network: Vec<Message> = Vec::new();
        for raft in group.iter_mut() {
            if !raft.has_ready() {
                continue;
            }
            let ready = raft.ready();
            network.extend(ready.messages);
            if let Some(persist) = ready.persist {
                raft.on_persisted(persist.seq);
                network.extend(persist.after);
            }
            if let Some(last) = ready.committed.last() {
                raft.on_applied(last.index);
            }
        }
        if network.is_empty() && !group.iter().any(Raft::has_ready) {
            return;
        }
        for message in network {
            let to = message.to.0 as usize - 1;
            group[to].step(message).expect("honest peers send valid messages");
        }
    }
}

fn tick(group: &mut [Raft; 3]) {
    group.iter_mut().for_each(Raft::tick);
    settle(group);
}

#[test]
fn an_idle_replica_takes_at_most_one_and_a_half_kibibytes() {
    let before = heap();
    let mut group = trio();
    let restored = size_of::<Raft>() as isize + (heap() - before) / 3;
    group[0].campaign();
    settle(&mut group);
    for _ in 0..200 {
        group[0]
            .propose(vec![0; 100].into(), GroupTime::ZERO, None)
            .expect("it leads");
        settle(&mut group);
    }
    for _ in 0..10 {
        tick(&mut group);
    }
    for raft in &mut group {
        let index = raft.applied();
        let meta = SnapshotMeta {
            index,
            term: raft.term_at(index).expect("it is in the log"),
            conf: raft.conf().clone(),
            time: GroupTime::ZERO,
            context: Default::default(),
        };
        raft.compact(&meta, 0);
    }
    group[0].rest(|_| false);
    settle(&mut group);
    assert!(group.iter().all(Raft::is_resting));
    let mut live = Vec::new();
    for raft in group {
        let with = heap();
        drop(raft);
        live.push(size_of::<Raft>() as isize + with - heap());
    }
    println!(
        "size_of {}, restored {restored}, after a life: leader {}, followers {:?}",
        size_of::<Raft>(),
        live[0],
        &live[1..]
    );
    let largest = live.into_iter().chain([restored]).max().expect("there are some");
    assert!(largest as usize <= IDLE_BYTES_MAX, "{largest} bytes");
}

#[test]
fn ticks_allocate_nothing_and_a_heartbeat_only_its_answer() {
    let mut group = trio();
    group[0].campaign();
    settle(&mut group);
    for _ in 0..3 {
        tick(&mut group);
    }
    for _ in 0..3 {
        let calls = CALLS.get();
        group.iter_mut().for_each(Raft::tick);
        assert_eq!(CALLS.get(), calls, "a tick only counts");
        settle(&mut group);
    }
    group[0].tick();
    group[0].tick();
    let ready = group[0].ready();
    let to_p2 = ready.messages.into_iter().find(|message| message.to == PeerId(2));
    let heartbeat = to_p2.expect("two ticks without one are a heartbeat");
    assert!(matches!(heartbeat.body, Body::Heartbeat { .. }));
    let calls = CALLS.get();
    group[1].step(heartbeat).expect("an honest message");
    assert!(CALLS.get() - calls <= 1, "only the answer's own place is made");
}
