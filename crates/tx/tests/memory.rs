//! What open transactions cost in memory, counted by the allocator as glibc gives it out.

mod rig;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use rig::Rig;
use settle_base::GroupTime;
use settle_tx::{BranchType, Driver, DriverConfig, MachineConfig};

thread_local! {
    /// Bytes that the running test holds.
    static HELD: Cell<i64> = const { Cell::new(0) };
}

struct Counting;

/// Eight bytes in front of each piece, and sizes are multiples of 16, from 32 on.
fn given_out(layout: Layout) -> i64 {
    (layout.size() + 8).next_multiple_of(16).max(32) as i64
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has no counter any more.
        let _ = HELD.try_with(|held| held.set(held.get() + given_out(layout)));
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let _ = HELD.try_with(|held| held.set(held.get() - given_out(layout)));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// As full as the hash maps are with eight times as many, which a group may have open.
const OPEN: u64 = 125_000;
/// With the table of locks: on every replica.
const EACH_MAX: i64 = 480;
/// And for the driver of the leader.
const DRIVEN_MAX: i64 = 90;

#[test]
fn an_open_transaction_with_a_branch_and_a_lock_takes_so_many_bytes() {
    let before = HELD.get();
    let mut rig = Rig::new(MachineConfig::new(1));
    for n in 0..OPEN {
        let tid = rig.begin();
        rig.register(tid, BranchType::At, &format!("account:{n}"))
            .expect("nobody holds it");
    }
    let each = (HELD.get() - before) / OPEN as i64;
    // In order, as those of clients are that give each as long.
    let before = HELD.get();
    let mut driver = Driver::new(DriverConfig::default(), 1);
    driver.lead(1, &rig.machine);
    driver.poll(&rig.machine, GroupTime(1_000), &mut Vec::new());
    let driven = (HELD.get() - before) / OPEN as i64;
    println!("{each} bytes for each, {driven} more on the leader");
    assert!(each <= EACH_MAX, "{each} bytes");
    assert!(driven <= DRIVEN_MAX, "{driven} bytes more on the leader");
}
