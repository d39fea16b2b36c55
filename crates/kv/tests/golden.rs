//! What is in the log, in answers and in snapshots, and what applying does, in the only version there is. Once a version
//! is out its file stays as it is: a difference means that replicas of another build would differ from those of this one.
//! Then applying goes by `EntryMeta::version`, and the new one gets a file of its own
//! (`UPDATE_EXPECT=1 cargo test -p settle-kv --test golden`).

mod rig;

use std::fmt::Write;

use bytes::Bytes;
use expect_test::expect_file;
use rig::{Rig, put};
use settle_base::{GroupId, GroupTime};
use settle_kv::{Command, Commit, Compare, Effect, Op, Operator, Put, Query, Relation, Reply, Request, Space, What};
use settle_machine::{
    LogEntry, StateMachine, Ticket,
    ranges::{Epoch, Ranged},
};
use settle_storage::{Direction, KeyRange};

fn hex(text: &mut String, bytes: &[u8]) {
    for line in bytes.chunks(48) {
        for byte in line {
            write!(text, "{byte:02x}").expect("a string takes it");
        }
        text.push('\n');
    }
}

struct Script {
    rig: Rig,
    text: String,
}

impl Script {
    /// The command's bytes, what came of it, and the hash of the state behind it.
    fn apply(&mut self, command: &Command) {
        self.rig.time += 1_000;
        hex(&mut self.text, &command.encode());
        for effect in self.rig.apply(command) {
            match effect {
                Effect::Replied { reply, .. } => {
                    let mut encoded = Vec::new();
                    reply.encode(&mut encoded);
                    assert_eq!(Reply::decode(encoded.clone().into()), Ok(reply.clone()));
                    writeln!(self.text, "{reply:?}").expect("a string takes it");
                    hex(&mut self.text, &encoded);
                }
                Effect::Split { image, .. } => {
                    self.text.push_str("Split\n");
                    image.chunks().for_each(|chunk| hex(&mut self.text, &chunk));
                }
                other => writeln!(self.text, "{other:?}").expect("a string takes it"),
            }
        }
        writeln!(self.text, "{:016x}\n", self.rig.region.state_hash()).expect("a string takes it");
    }

    fn ask(&mut self, op: Op) {
        self.rig.number += 1;
        let ticket = Ticket {
            session: 0xa55e,
            number: self.rig.number,
        };
        let is_remembered = true;
        let requests = vec![Request {
            ticket,
            is_remembered,
            op,
        }];
        let version = self.rig.version();
        self.apply(&Command::Requests { version, requests });
    }
}

fn key(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

#[test]
fn commands_answers_states_and_snapshots_are_those_of_this_version() {
    let mut script = Script {
        rig: Rig::new(),
        text: String::new(),
    };
    let of = |name: &str, ttl_ms| Put {
        key: key(name),
        value: key("value"),
        ttl_ms,
    };
    let number = |n: i64| Bytes::copy_from_slice(&n.to_le_bytes());
    let merge = |name: &str, operator, operand| Op::Merge {
        key: key(name),
        operator,
        operand,
    };
    let owner = || key("owner");
    let ops = [
        put("apple", "1", None),
        Op::PutIfAbsent(of("apple", None)),
        Op::GetAndPut(of("apple", Some(60_000))),
        Op::CompareAndPut {
            expect: Some(key("value")),
            put: of("apple", None),
        },
        Op::CompareAndPut {
            expect: None,
            put: of("apple", None),
        },
        merge("pear", Operator::Append, key("tail")),
        merge("sum", Operator::AddI64, number(-3)),
        merge("pear", Operator::AddI64, number(1)),
        merge("sum", Operator::AddI64, number(i64::MIN)),
        merge("pear", Operator::Max, key("zz")),
        Op::Read(Query::Get { key: key("apple") }),
        Op::Read(Query::Scan {
            start: key("a"),
            end: Some(key("q")),
            direction: Direction::Forward,
            limit: 1,
            keys_only: false,
        }),
        Op::Read(Query::Scan {
            start: key(""),
            end: None,
            direction: Direction::Backward,
            limit: 9,
            keys_only: true,
        }),
        Op::Sequence {
            key: key("sequence"),
            count: 10,
        },
        Op::Read(Query::SequenceLatest { key: key("sequence") }),
        Op::SequenceReset { key: key("sequence") },
        Op::Sequence {
            key: key("sequence"),
            count: 1,
        },
        Op::Lock {
            key: key("lock"),
            owner: owner(),
            lease_ms: 60_000,
            context: key("context"),
        },
        Op::Lock {
            key: key("lock"),
            owner: key("another"),
            lease_ms: 5,
            context: key(""),
        },
        Op::KeepLock {
            key: key("lock"),
            owner: owner(),
            token: 1,
            lease_ms: 90_000,
        },
        Op::Unlock {
            key: key("lock"),
            owner: owner(),
            token: 2,
        },
        Op::Unlock {
            key: key("lock"),
            owner: owner(),
            token: 1,
        },
        Op::Read(Query::LockHolder { key: key("lock") }),
        Op::Txn {
            compare: vec![
                Compare {
                    key: key("pear"),
                    what: What::Value(key("zz")),
                    relation: Relation::Equal,
                },
                Compare {
                    key: key("pear"),
                    what: What::Modified(1),
                    relation: Relation::Greater,
                },
            ],
            then: vec![put("plum", "1", Some(100)), Op::Delete { key: key("pear") }],
            otherwise: vec![Op::Delete { key: key("apple") }],
        },
        Op::DeleteRange {
            start: key("a"),
            end: Some(key("b")),
            limit: 9,
        },
        put("berry", "1", Some(90_000)),
    ];
    ops.into_iter().for_each(|op| script.ask(op));
    script.apply(&Command::Tick);
    let epoch = script.rig.region.descriptor().epoch;
    script.apply(&Command::Requests {
        version: epoch.version + 1,
        requests: vec![Request {
            ticket: Ticket { session: 1, number: 1 },
            is_remembered: false,
            op: put("apple", "of another version", None),
        }],
    });
    script.apply(&Command::Split {
        epoch,
        at: key("m"),
        child: GroupId(7),
    });
    let epoch = script.rig.region.descriptor().epoch;
    let entry = LogEntry {
        index: 3,
        term: 2,
        kind: 1,
        time: GroupTime(5),
        data: key("data"),
    };
    script.apply(&Command::Commit(Box::new(Commit {
        epoch: Epoch {
            version: 1,
            conf_ver: 1,
        },
        source: GroupId(7),
        range: KeyRange::new("m", "z"),
        prepared: 3,
        prev_index: 2,
        prev_term: 2,
        entries: vec![entry],
    })));
    script.apply(&Command::Cancel {
        epoch: Epoch::default(),
        source: GroupId(7),
    });
    script.apply(&Command::Finish { source: GroupId(7) });
    script.apply(&Command::Prepare {
        epoch,
        target: GroupId(7),
        target_epoch: epoch,
        min_index: 1,
    });
    let prepared = script.rig.index;
    script.ask(put("apple", "to a silent one", None));
    hex(&mut script.text, &script.rig.region.inheritance());
    script.apply(&Command::Rollback { prepared });
    script.ask(Op::Read(Query::Get { key: key("zebra") }));
    let snapshot: Vec<u8> = script.rig.region.begin_snapshot().flatten().collect();
    hex(&mut script.text, &snapshot);
    let mut copy = settle_kv::Region::new(rig::engine(), Space(9), rig::FIRST, false);
    copy.load(&mut std::iter::once(snapshot.into())).expect("a snapshot");
    assert_eq!(copy.state_hash(), script.rig.region.state_hash());
    expect_file!["golden-1.txt"].assert_eq(&script.text);
}
