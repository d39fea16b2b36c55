//! The bytes that nodes exchange: fixed for this version, and harmless whatever they are.

use bytes::Bytes;
use proptest::prelude::*;
use settle_base::{GroupId, GroupTime, NodeId, PeerId};
use settle_host::{
    ChunkContent, ClusterId, Hello, JoinMessage, Leads, Member, PeerMessage, SnapshotChunk,
    peer_codec::{decode, decode_hello, encode, encode_hello},
};
use settle_raft::{Body, ConfState, Entry, EntryKind, Message, Reject, SnapshotMeta};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn raft(body: Body) -> PeerMessage {
    let (group, from, to) = (GroupId(1), PeerId(2), PeerId(3));
    PeerMessage::Raft(vec![Message {
        group,
        from,
        to,
        term: 4,
        body,
    }])
}

#[test]
fn the_bytes_of_version_1_never_change() {
    let hello = Hello {
        protocol: 1,
        protocol_min: 1,
        build: 3,
        cluster: Some(ClusterId(7)),
        node: NodeId(2),
        incarnation: PeerId(9),
        witness: true,
    };
    assert_eq!(
        hex(&encode_hello(&hello)),
        "736574746c652f70 0100 0100 07000000000000000000000000000000 02000000 0900000000000000 03000000 01"
            .replace(' ', "")
    );
    let entry = Entry {
        term: 4,
        index: 6,
        kind: EntryKind::Normal,
        time: GroupTime(5),
        data: Bytes::from_static(b"hi"),
    };
    let append = raft(Body::Append {
        prev_index: 5,
        prev_term: 3,
        commit: 5,
        entries: vec![entry],
    });
    // Version, kind, count, the two replicas.
    let start = "01 01 01000000 0200000000000000 0300000000000000".replace(' ', "");
    // Kind, group (up by 1), term; what precedes, commit, count; then term, index, kind, time (up by 5), length.
    let body = "05 02 04 05 03 05 01000000 00 00 00 0a 02 6869".replace(' ', "");
    assert_eq!(hex(&encode(&append)), format!("{start}{body}"));
    let ack = raft(Body::AppendReply {
        result: Ok(6),
        recovering: None,
    });
    assert_eq!(hex(&encode(&ack)), format!("{start}060204010600"));
    let grant = raft(Body::VoteReply {
        granted: true,
        recovering: Some(7),
    });
    assert_eq!(hex(&encode(&grant)), format!("{start}04020401010700000000000000"));
    let ask = raft(Body::PreVote {
        last_index: 6,
        last_term: 3,
        commit: (5, 2),
        priority: 100,
    });
    assert_eq!(hex(&encode(&ask)), format!("{start}01020406036405 02").replace(' ', ""));
    let refusal = raft(Body::PreVoteReply {
        granted: false,
        commit: (5, 2),
        recovering: None,
    });
    assert_eq!(hex(&encode(&refusal)), format!("{start}02020400000502"));
    let propose = |expected_term| PeerMessage::Propose {
        group: GroupId(1),
        command: Bytes::from_static(b"c"),
        expected_term,
    };
    let start = "01050100000000000000";
    assert_eq!(hex(&encode(&propose(None))), format!("{start}000100000063"));
    let in_term_3 = format!("{start}0103000000000000000100000063");
    assert_eq!(hex(&encode(&propose(Some(3)))), in_term_3);
    let founders = vec![Member {
        peer: PeerId(9),
        node: NodeId(2),
        address: "a:1".to_owned(),
        witness: true,
    }];
    let found = PeerMessage::Join(JoinMessage::Found {
        cluster: ClusterId(7),
        founders,
    });
    assert_eq!(
        hex(&encode(&found)),
        "0107070000000000000000000000000000000100000009000000000000000200000003 00613a3101".replace(' ', "")
    );
}

fn conf() -> impl Strategy<Value = ConfState> {
    let peers = || prop::collection::vec(any::<u64>().prop_map(PeerId), 0..5);
    (peers(), peers(), peers(), peers(), peers(), any::<bool>()).prop_map(
        |(voters, outgoing, learners, learners_next, witnesses, auto_leave)| ConfState {
            voters,
            outgoing,
            learners,
            learners_next,
            witnesses,
            auto_leave,
        },
    )
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

fn entry() -> impl Strategy<Value = Entry> {
    let kind = prop_oneof![
        Just(EntryKind::Normal),
        Just(EntryKind::ConfChange),
        Just(EntryKind::Noop),
        Just(EntryKind::Host)
    ];
    (any::<u64>(), any::<u64>(), kind, any::<u64>(), bytes()).prop_map(|(term, index, kind, time, data)| Entry {
        term,
        index,
        kind,
        time: GroupTime(time),
        data,
    })
}

fn body() -> impl Strategy<Value = Body> {
    let n = any::<u64>;
    let reject = (n(), n(), n()).prop_map(|(prev_index, hint_index, hint_term)| Reject {
        prev_index,
        hint_index,
        hint_term,
    });
    let result = prop_oneof![n().prop_map(Ok), reject.prop_map(Err)];
    let recover = || prop::option::of(any::<u64>());
    prop_oneof![
        (n(), n(), (n(), n()), any::<u8>()).prop_map(|(last_index, last_term, commit, priority)| Body::PreVote {
            last_index,
            last_term,
            commit,
            priority
        }),
        (any::<bool>(), (n(), n()), recover()).prop_map(|(granted, commit, recovering)| Body::PreVoteReply {
            granted,
            commit,
            recovering
        }),
        (n(), n(), any::<bool>()).prop_map(|(last_index, last_term, force)| Body::Vote {
            last_index,
            last_term,
            force
        }),
        (any::<bool>(), recover()).prop_map(|(granted, recovering)| Body::VoteReply { granted, recovering }),
        (n(), n(), n(), prop::collection::vec(entry(), 0..4)).prop_map(|(prev_index, prev_term, commit, entries)| {
            Body::Append {
                prev_index,
                prev_term,
                commit,
                entries,
            }
        }),
        (result, recover()).prop_map(|(result, recovering)| Body::AppendReply { result, recovering }),
        (n(), n(), prop::option::of((n(), n())), any::<bool>()).prop_map(|(commit, read_seq, recover_to, rest)| {
            Body::Heartbeat {
                commit,
                read_seq,
                recover_to,
                rest,
            }
        }),
        (n(), recover(), any::<bool>()).prop_map(|(read_seq, recovering, rested)| Body::HeartbeatReply {
            read_seq,
            recovering,
            rested
        }),
        (n(), n(), conf(), n(), bytes()).prop_map(|(index, term, conf, time, context)| Body::Snapshot {
            meta: SnapshotMeta {
                index,
                term,
                conf,
                time: GroupTime(time),
                context
            },
        }),
        Just(Body::TimeoutNow),
        n().prop_map(|index| Body::Held { index }),
        n().prop_map(|ctx| Body::ReadIndex { ctx }),
        (n(), n()).prop_map(|(ctx, index)| Body::ReadIndexReply { ctx, index }),
    ]
}

fn message() -> impl Strategy<Value = Message> {
    let n = any::<u64>;
    (n(), n(), n(), n(), body()).prop_map(|(group, from, to, term, body)| Message {
        group: GroupId(group),
        from: PeerId(from),
        to: PeerId(to),
        term,
        body,
    })
}

fn peer_message() -> impl Strategy<Value = PeerMessage> {
    let n = any::<u64>;
    let content = prop_oneof![
        message().prop_map(|m| ChunkContent::Start(Box::new(m))),
        bytes().prop_map(ChunkContent::Data),
        n().prop_map(|bytes| ChunkContent::End { bytes }),
    ];
    let chunk = (n(), n(), any::<u32>(), any::<u32>(), content).prop_map(|(group, stream, number, crc, content)| {
        let group = GroupId(group);
        PeerMessage::SnapshotChunk(SnapshotChunk {
            group,
            stream,
            number,
            crc,
            content,
        })
    });
    let member = (n(), any::<u32>(), "[a-z:0-9]{0,20}").prop_map(|(peer, node, address)| Member {
        peer: PeerId(peer),
        node: NodeId(node),
        address,
        witness: peer % 2 == 0,
    });
    let found = (any::<u128>(), prop::collection::vec(member, 0..4)).prop_map(|(cluster, founders)| {
        let cluster = ClusterId(cluster);
        PeerMessage::Join(JoinMessage::Found { cluster, founders })
    });
    prop_oneof![
        prop::collection::vec(message(), 0..4).prop_map(PeerMessage::Raft),
        chunk,
        found,
        (n(), n(), any::<u32>()).prop_map(|(group, stream, next)| PeerMessage::SnapshotAck {
            group: GroupId(group),
            stream,
            next
        }),
        (n(), n()).prop_map(|(group, stream)| PeerMessage::SnapshotReject {
            group: GroupId(group),
            stream
        }),
        (n(), bytes(), any::<Option<u64>>()).prop_map(|(group, command, expected_term)| PeerMessage::Propose {
            group: GroupId(group),
            command,
            expected_term
        }),
        bytes().prop_map(PeerMessage::Service),
        (any::<u32>(), n()).prop_map(|(node, at_ms)| PeerMessage::AllowReplace {
            node: NodeId(node),
            at_ms
        }),
        (n(), any::<u32>(), any::<u8>(), any::<bool>()).prop_map(|(boot, count, priority, accepts)| {
            let leads = Leads {
                count,
                priority,
                accepts,
            };
            PeerMessage::Pulse { boot, leads }
        }),
        (n(), n(), any::<u64>()).prop_map(|(group, index, hash)| PeerMessage::StateHash {
            group: GroupId(group),
            index,
            hash
        }),
        n().prop_map(|group| PeerMessage::WantSnapshot { group: GroupId(group) }),
        any::<u128>().prop_map(|c| PeerMessage::Join(JoinMessage::Adopted { cluster: ClusterId(c) })),
    ]
}

/// The heartbeats of all groups to one node travel as one message.
#[test]
fn a_heartbeat_of_one_group_among_thousands_takes_a_few_bytes() {
    let heartbeat = |group| Message {
        group: GroupId(group),
        from: PeerId(u64::MAX),
        to: PeerId(u64::MAX - 1),
        term: 9,
        body: Body::Heartbeat {
            commit: 100_000,
            read_seq: 3,
            recover_to: None,
            rest: false,
        },
    };
    let bytes = encode(&PeerMessage::Raft((1..=3_333).map(heartbeat).collect()));
    assert!(bytes.len() < 3_333 * 10, "{} bytes", bytes.len());
}

proptest! {
    #[test]
    fn every_message_survives_its_bytes_and_no_part_of_them_is_a_message(message in peer_message()) {
        let bytes = encode(&message);
        prop_assert_eq!(decode(bytes.clone()), Ok(message));
        for cut in 0..bytes.len() {
            prop_assert!(decode(bytes.slice(..cut)).is_err(), "cut at {}", cut);
        }
        let longer = Bytes::from([&bytes[..], &[0]].concat());
        prop_assert!(decode(longer).is_err());
    }

    #[test]
    fn hostile_bytes_are_an_error_or_a_message_never_a_panic(
        message in peer_message(),
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        garbage in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = encode(&message).to_vec();
        for (at, byte) in noise {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(understood) = decode(Bytes::from(bytes)) {
            prop_assert_eq!(decode(encode(&understood)), Ok(understood));
        }
        let _ = decode(Bytes::from(garbage.clone()));
        let _ = decode_hello(Bytes::from(garbage));
    }
}

#[test]
fn a_count_beyond_the_bytes_is_refused_before_anything_is_reserved_for_it() {
    // Raft messages, 2^32 - 1 of them, and then nothing.
    assert!(decode(Bytes::from_static(&[1, 1, 255, 255, 255, 255])).is_err());
    // Founders, likewise.
    let mut found = vec![1, 7];
    found.extend([0; 16]);
    found.extend([255; 4]);
    assert!(decode(Bytes::from(found)).is_err());
}
