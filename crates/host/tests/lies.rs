//! What a broken or lying peer says costs it its connection, and costs the group nothing.

mod harness;

use bytes::Bytes;
use harness::{Ask, Cluster, GROUP};
use settle_base::{GroupTime, NodeId};
use settle_host::{ChunkContent, HostEvent, PeerMessage, SnapshotChunk};
use settle_raft::{Body, Message, SnapshotMeta};
use settle_storage::DiskRead;

/// A membership book of nobody, well written.
const EMPTY_BOOK: Bytes = Bytes::from_static(&[3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);

#[test]
fn a_command_that_no_replica_could_apply_never_reaches_the_log() {
    let mut cluster = Cluster::founded(3);
    let leader = cluster.leader().expect("it was founded");
    let from = NodeId(leader % 3 + 1);
    let (group, command) = (GROUP, Bytes::from_static(b"two\nlines"));
    let expected_term = None;
    let message = PeerMessage::Propose {
        group,
        command,
        expected_term,
    };
    cluster.give(leader, HostEvent::Peer { from, message });
    assert_eq!(cluster.closed.len(), 1);
    assert_eq!(cluster.closed[0].1.code().to_string(), "HO0047");
    // Its own service is not cut off, but is not believed either.
    cluster.give(leader, HostEvent::Request(Ask::Propose("two\nlines")));
    assert_eq!(cluster.hosts[&leader].counters().dropped_unreadable, 2);
    cluster.connect_all();
    cluster.propose(leader, "one line");
    cluster.until("the line everywhere", |c| (1..=3).all(|n| c.lines(n) == ["one line"]));
    assert!(cluster.fatal.is_empty(), "{:?}", cluster.fatal);
}

/// The announcement of a snapshot of the next hundred entries, from a follower's leader, as stream 9.
fn announcement(cluster: &Cluster, from: u32, to: u32, context: Bytes) -> PeerMessage {
    let raft = cluster.hosts[&to].raft(GROUP).expect("a member");
    let meta = SnapshotMeta {
        index: raft.last_index() + 100,
        term: raft.term(),
        conf: raft.conf().clone(),
        time: GroupTime(1_000_000),
        context,
    };
    let announcement = Message {
        group: GROUP,
        from: cluster.hosts[&from].identity().incarnation,
        to: raft.id(),
        term: raft.term(),
        body: Body::Snapshot { meta },
    };
    chunk(0, 0, ChunkContent::Start(Box::new(announcement)))
}

fn chunk(number: u32, crc: u32, content: ChunkContent) -> PeerMessage {
    let (group, stream) = (GROUP, 9);
    PeerMessage::SnapshotChunk(SnapshotChunk {
        group,
        stream,
        number,
        crc,
        content,
    })
}

/// A cluster with a line, its leader, and a follower that restarts well after whatever `lies` the leader tells it.
fn survives(lies: impl Fn(&Cluster, u32, u32) -> Vec<PeerMessage>) -> Cluster {
    let mut cluster = Cluster::founded(3);
    let leader = cluster.leader().expect("it was founded");
    let follower = leader % 3 + 1;
    cluster.propose(leader, "a line");
    cluster.ticks(3);
    for message in lies(&cluster, leader, follower) {
        let from = NodeId(leader);
        cluster.give(follower, HostEvent::Peer { from, message });
    }
    assert!(cluster.fatal.is_empty(), "{:?}", cluster.fatal);
    let files = cluster.disks[&follower].clone().list().expect("readable");
    let left = files.iter().find(|(file, _)| file.as_str().starts_with("snap-"));
    assert_eq!(left, None, "nothing of the lie stays");
    cluster.stop(follower);
    cluster.start(follower).expect("its log speaks of no such snapshot");
    cluster.connect_all();
    cluster.propose(leader, "another");
    cluster.until("both lines", |c| c.lines(follower) == ["a line", "another"]);
    cluster
}

fn code(cluster: &Cluster) -> String {
    cluster.closed[0].1.code().to_string()
}

#[test]
fn a_snapshot_whose_state_cannot_be_loaded_is_refused_before_the_log_hears_of_it() {
    let data = Bytes::from_static(b"a line\nhalf a li");
    let cluster = survives(|cluster, leader, follower| {
        let crc = crc32c::crc32c(&data);
        let bytes = data.len() as u64;
        vec![
            announcement(cluster, leader, follower, EMPTY_BOOK),
            chunk(1, crc, ChunkContent::Data(data.clone())),
            chunk(2, crc, ChunkContent::End { bytes }),
        ]
    });
    assert_eq!(code(&cluster), "HO0048");
}

#[test]
fn a_snapshot_of_nobody_s_membership_is_refused_before_a_byte_is_written() {
    for context in [Bytes::from_static(b"garbage"), Bytes::from(vec![0; 17 << 20])] {
        let cluster = survives(|cluster, leader, follower| {
            let start = announcement(cluster, leader, follower, context.clone());
            let end = chunk(1, 0, ChunkContent::End { bytes: 0 });
            vec![start, end]
        });
        assert_eq!(code(&cluster), "HO0048");
    }
}

#[test]
fn a_snapshot_whose_parts_are_whole_but_not_the_sender_s_whole_is_given_up() {
    let cluster = survives(|cluster, leader, follower| {
        let data = Bytes::from_static(b"a line\n");
        let (crc, bytes) = (crc32c::crc32c(&data), data.len() as u64);
        vec![
            announcement(cluster, leader, follower, EMPTY_BOOK),
            chunk(1, crc, ChunkContent::Data(data)),
            chunk(2, crc ^ 1, ChunkContent::End { bytes }),
        ]
    });
    assert_eq!(cluster.closed.len(), 0, "it may have been the network");
    let reject = |(_, _, message): &(u32, u32, PeerMessage)| matches!(message, PeerMessage::SnapshotReject { .. });
    assert!(cluster.sent.iter().any(reject));
}
