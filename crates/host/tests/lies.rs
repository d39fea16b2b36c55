//! What a broken or lying peer says costs it its connection, and costs the group nothing.

mod harness;

use bytes::Bytes;
use harness::{Ask, Cluster, GROUP};
use settle_base::NodeId;
use settle_host::{HostEvent, PeerMessage};

#[test]
fn a_command_that_no_replica_could_apply_never_reaches_the_log() {
    let mut cluster = Cluster::founded(3);
    let leader = cluster.leader().expect("it was founded");
    let from = NodeId(leader % 3 + 1);
    let (group, command) = (GROUP, Bytes::from_static(b"two\nlines"));
    let message = PeerMessage::Propose { group, command };
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
