//! What a log tells a replica beside the service's commands, and what it cannot apply.

mod harness;

use bytes::Bytes;
use harness::{Cluster, GROUP, Told};
use settle_base::NodeId;
use settle_host::{HostCommand, HostEvent, PeerMessage};
use settle_raft::{Body, Entry, EntryKind, Message};

/// A cluster in which one follower has `log` from its leader, committed; and that follower and the index before.
fn with_entries(log: Vec<(EntryKind, Bytes)>) -> (Cluster, u32, u64) {
    let mut cluster = Cluster::founded(3);
    let leader = cluster.leader().expect("it was founded");
    let follower = leader % 3 + 1;
    cluster.ticks(4);
    let raft = cluster.hosts[&follower].raft(GROUP).expect("a member");
    let (to, term, last) = (raft.id(), raft.term(), raft.last_index());
    let (prev_term, time) = (raft.term_at(last).expect("its last"), raft.last_time());
    let from = cluster.hosts[&leader].hello().incarnation;
    let commit = last + log.len() as u64;
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
        commit,
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
    (cluster, follower, last)
}

#[test]
fn machines_apply_as_of_the_version_that_the_log_says_and_it_never_falls() {
    let raised = |version| {
        let (by, at_ms) = (NodeId(1), 0);
        HostCommand::ClusterVersion { version, by, at_ms }.encode()
    };
    let (cluster, follower, _) = with_entries(vec![
        (EntryKind::Normal, Bytes::from_static(b"one")),
        (EntryKind::Host, raised(3)),
        (EntryKind::Normal, Bytes::from_static(b"two")),
        (EntryKind::Host, raised(2)),
        (EntryKind::Normal, Bytes::from_static(b"three")),
    ]);
    let machine = cluster.hosts[&follower].machine(GROUP).expect("a member");
    assert_eq!(machine.versions, [1, 3, 3]);
}

#[test]
fn an_entry_that_cannot_be_applied_is_told_to_the_service_and_stops_the_node() {
    let (cluster, follower, last) = with_entries(vec![(EntryKind::Normal, Bytes::from_static(b"two\nlines"))]);
    assert!(cluster.told.contains(&(follower, Told::Stopped(last + 1))));
    assert_eq!(cluster.fatal[&follower].code().to_string(), "HO0024");
}
