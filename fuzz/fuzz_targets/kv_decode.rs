//! Any bytes as a command of a region, an answer and a snapshot: an error, or something that can be applied, written and
//! read.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use settle_base::{GroupId, GroupTime};
use settle_kv::{Command, Region, Reply, Space};
use settle_machine::{EntryMeta, StateMachine};
use settle_storage::{Keeps, MemEngine};

const GROUP: GroupId = GroupId(1);

fn engine() -> MemEngine {
    MemEngine::new(Keeps::Nothing, 1 << 30)
}

fn entry(index: u64) -> EntryMeta {
    EntryMeta {
        index,
        term: 1,
        time: GroupTime(index * 1_000),
        version: 1,
    }
}

/// A machine that took something in can be written and read.
fn check(region: &Region<MemEngine>, space: u64) {
    let mut copy = Region::new(engine(), Space(space), GROUP, false);
    copy.load(&mut region.begin_snapshot()).expect("it is a snapshot");
    assert_eq!(copy.state_hash(), region.state_hash());
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(command) = Command::decode(&bytes) {
        let again = command.encode();
        assert_eq!(Command::decode(&again).as_ref(), Ok(&command));
        let mut region = Region::new(engine(), Space(1), GROUP, true);
        let mut effects = Vec::new();
        region.apply(entry(1), &again, &mut effects).expect("it was decoded");
        region
            .apply(entry(2), &Command::Tick.encode(), &mut effects)
            .expect("it is a command");
        check(&region, 2);
    }
    if let Ok(reply) = Reply::decode(bytes.clone()) {
        let mut again = Vec::new();
        reply.encode(&mut again);
        assert_eq!(Reply::decode(again.into()), Ok(reply));
    }
    let mut region = Region::new(engine(), Space(1), GROUP, false);
    if region.load(&mut bytes.chunks(100).map(Bytes::copy_from_slice)).is_ok() {
        check(&region, 2);
    }
});
