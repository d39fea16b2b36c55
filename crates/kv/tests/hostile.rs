//! Bytes from outside are an error or a command: never a panic, and nothing is reserved ahead of them.

mod rig;

use bytes::Bytes;
use rig::{FIRST, Rig, engine, put};
use settle_base::{GroupId, Prng};
use settle_kv::{Command, Commit, Compare, Op, Region, Relation, Reply, Request, Space, What};
use settle_machine::{StateMachine, Ticket, ranges::Epoch};
use settle_storage::KeyRange;

fn samples() -> Vec<Command> {
    let epoch = Epoch {
        version: 3,
        conf_ver: 300,
    };
    let key = Bytes::from("k");
    let then = vec![put("k", "v", Some(9)), Op::Delete { key: key.clone() }];
    let compare = vec![Compare {
        key: key.clone(),
        what: What::Version(1),
        relation: Relation::Less,
    }];
    let op = Op::Txn {
        compare,
        then,
        otherwise: Vec::new(),
    };
    let ticket = Ticket { session: 7, number: 8 };
    let request = Request {
        ticket,
        is_remembered: true,
        op,
    };
    let commit = Commit {
        epoch,
        source: GroupId(4),
        range: KeyRange::new("a", "b"),
        prepared: 9,
        prev_index: 8,
        prev_term: 1,
        entries: Vec::new(),
    };
    vec![
        Command::Requests {
            version: 1,
            requests: vec![request.clone(), request],
        },
        Command::Split {
            epoch,
            at: key,
            child: GroupId(2),
        },
        Command::Commit(Box::new(commit)),
        Command::Tick,
    ]
}

#[test]
fn commands_that_are_cut_extended_or_damaged_are_refused_or_are_others() {
    let mut prng = Prng::new(1);
    for command in samples() {
        let bytes = command.encode();
        assert_eq!(Command::decode(&bytes), Ok(command));
        for cut in 0..bytes.len() {
            assert!(Command::decode(&bytes.slice(..cut)).is_err());
        }
        let longer = Bytes::from([&bytes[..], &[0]].concat());
        assert!(Command::decode(&longer).is_err());
        for _ in 0..2_000 {
            let mut damaged = bytes.to_vec();
            let at = prng.below(damaged.len() as u64) as usize;
            damaged[at] = prng.next_u64() as u8;
            if let Ok(other) = Command::decode(&damaged.into()) {
                assert_eq!(Command::decode(&other.encode()), Ok(other));
            }
        }
    }
}

#[test]
fn lengths_and_counts_that_lie_are_refused() {
    let count = [1, 1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f];
    assert!(
        Command::decode(&Bytes::copy_from_slice(&count)).is_err(),
        "requests without end"
    );
    let key = [1, 1, 0, 1, 0, 0, 0, 7, 0xff, 0xff, 0xff, 0x7f];
    assert!(
        Command::decode(&Bytes::copy_from_slice(&key)).is_err(),
        "a key without end"
    );
    let nested = [1, 1, 0, 1, 0, 0, 0, 14, 0, 1, 14, 0, 0, 0, 0];
    let error = Command::decode(&Bytes::copy_from_slice(&nested)).expect_err("a nested transaction");
    assert_eq!(error.what, "a transaction within another");
    let newer = Command::decode(&Bytes::from_static(&[2, 8])).expect_err("a newer format");
    assert_eq!(newer.at, 1);
}

#[test]
fn garbage_is_no_snapshot_and_no_answer() {
    let mut prng = Prng::new(2);
    let mut rig = Rig::new();
    rig.ask(put("k", "v", Some(9)));
    let image: Vec<u8> = rig.region.begin_snapshot().flatten().collect();
    for _ in 0..500 {
        let mut region = Region::new(engine(), Space(1), FIRST, false);
        let mut garbage: Vec<u8> = (0..prng.between(1, 80)).map(|_| prng.next_u64() as u8).collect();
        drop(Reply::decode(garbage.clone().into()));
        if prng.percent(50) {
            // A right length and checksum in front of it.
            let crc = crc32c::crc32c(&garbage).to_le_bytes();
            garbage = [&(garbage.len() as u32).to_le_bytes()[..], &crc, &garbage].concat();
        }
        if prng.percent(30) {
            garbage.splice(0..0, image.iter().copied());
        }
        assert!(region.load(&mut garbage.chunks(7).map(Bytes::copy_from_slice)).is_err());
    }
    let mut region = Region::new(engine(), Space(1), FIRST, false);
    let too_long = [&u32::MAX.to_le_bytes()[..], &[0; 4]].concat();
    assert!(region.load_chunk(too_long.into()).is_err(), "it is not waited for");
}
