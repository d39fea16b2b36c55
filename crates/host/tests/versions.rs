//! The cluster version: raised by an entry, in force from the next one on.

mod harness;

use bytes::Bytes;
use harness::{Cluster, GROUP};
use settle_base::NodeId;
use settle_host::{HostCommand, HostEvent, PeerMessage};
use settle_raft::{Body, Entry, EntryKind, Message};

#[test]
fn machines_apply_as_of_the_version_that_the_log_says_and_it_never_falls() {
    let mut cluster = Cluster::founded(3);
    let leader = cluster.leader().expect("it was founded");
    let follower = leader % 3 + 1;
    cluster.ticks(4);
    let raft = cluster.hosts[&follower].raft(GROUP).expect("a member");
    let (to, term, last) = (raft.id(), raft.term(), raft.last_index());
    let (prev_term, time) = (raft.term_at(last).expect("its last"), raft.last_time());
    let from = cluster.hosts[&leader].hello().incarnation;
    let raised = |version| {
        let (by, at_ms) = (NodeId(leader), 0);
        HostCommand::ClusterVersion { version, by, at_ms }.encode()
    };
    let log = [
        (EntryKind::Normal, Bytes::from_static(b"one")),
        (EntryKind::Host, raised(3)),
        (EntryKind::Normal, Bytes::from_static(b"two")),
        (EntryKind::Host, raised(2)),
        (EntryKind::Normal, Bytes::from_static(b"three")),
    ];
    let entries = log.into_iter().zip(last + 1..).map(|((kind, data), index)| Entry {
        term,
        index,
        kind,
        time,
        data,
    });
    let body = Body::Append {
        prev_index: last,
        prev_term,
        commit: last + 5,
        entries: entries.collect(),
    };
    let message = Message {
        group: GROUP,
        from,
        to,
        term,
        body,
    };
    let message = PeerMessage::Raft(vec![message]);
    let from = NodeId(leader);
    cluster.give(follower, HostEvent::Peer { from, message });
    for _ in 0..5 {
        cluster.give(follower, HostEvent::DiskReady);
    }
    let machine = cluster.hosts[&follower].machine(GROUP).expect("a member");
    assert_eq!(machine.versions, [1, 3, 3]);
}
