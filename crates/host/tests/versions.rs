//! What a log tells a replica beside the service's commands, and what it cannot apply.

mod harness;

use bytes::Bytes;
use harness::{Cluster, GROUP, Told};
use settle_base::NodeId;
use settle_host::{
    HostCommand, HostEvent, HostNote, OperatorDone, OperatorError, OperatorOutcome, OperatorRequest, PeerMessage,
};
use settle_raft::{Body, Entry, EntryKind, Message};

/// A cluster in which one follower has `log` from its leader, committed; and that follower and the index before.
fn with_entries(log: Vec<(EntryKind, Bytes)>) -> (Cluster, u32, u64) {
    let mut cluster = Cluster::tuned(3, |config| config.build_version = 3);
    cluster.connect_all();
    cluster.until("a leader", |c| c.leader().is_some());
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

/// What the leader answers to an operator who asks for cluster version 2.
fn raise(cluster: &mut Cluster) -> OperatorOutcome {
    let leader = cluster.leader().expect("there is one");
    let request = OperatorRequest::RaiseClusterVersion { version: 2, at_ms: 0 };
    cluster.give(leader, HostEvent::Operator(request));
    let note = cluster.notes.last().cloned();
    let Some((_, HostNote::Operated { outcome, .. })) = note else {
        panic!("an operator is answered in the same step, not by {note:?}");
    };
    outcome
}

fn restart(cluster: &mut Cluster, node: u32, build: u32) {
    cluster.stop(node);
    cluster.builds.insert(node, build);
    cluster.start(node).expect("it wrote this directory");
    cluster.connect_all();
    cluster.until("a leader", |c| c.leader().is_some());
    cluster.ticks(4);
}

fn same_lines(cluster: &Cluster, lines: &[&str]) -> bool {
    (1..=cluster.size).all(|node| cluster.lines(node) == lines)
}

/// Three nodes, of which the first still runs the old build.
fn half_upgraded() -> Cluster {
    let mut cluster = Cluster::founded(3);
    for node in [2, 3] {
        restart(&mut cluster, node, 2);
    }
    let leader = cluster.leader().expect("restarting waits for it");
    cluster.propose(leader, "a");
    cluster.until("the same everywhere", |c| same_lines(c, &["a"]));
    cluster
}

#[test]
fn builds_run_side_by_side_and_a_raised_version_begins_at_one_entry_for_all_even_after_restart_or_by_snapshot() {
    let mut cluster = half_upgraded();
    restart(&mut cluster, 1, 2);
    let done = OperatorDone::RaisingVersion {
        groups: 1,
        ask: Vec::new(),
        leaderless: 0,
    };
    let leader = cluster.leader().expect("there is one");
    cluster.propose(leader, "b");
    assert_eq!(raise(&mut cluster), Ok(done));
    cluster.deliver();
    cluster.propose(leader, "c");
    cluster.until("the change at one entry", |c| same_lines(c, &["a", "b", "C"]));
    assert_eq!(cluster.hosts[&leader].versions().in_force, Some((2, 2)));

    let [restarted, late] = [leader % 3 + 1, (leader + 1) % 3 + 1];
    cluster.stop(late);
    restart(&mut cluster, restarted, 2);
    assert_eq!(cluster.lines(restarted), ["a", "b", "C"], "from its log alone");
    let leader = cluster.leader().expect("two of three");
    cluster.propose(leader, "d");
    for node in [leader, restarted] {
        cluster.give(
            node,
            HostEvent::Operator(OperatorRequest::TakeSnapshot { group: GROUP }),
        );
    }
    cluster.ticks(4);
    cluster.start(late).expect("it wrote this directory");
    cluster.connect_all();
    cluster.ticks(4);
    let leader = cluster.leader().expect("all three");
    cluster.propose(leader, "e");
    cluster.until("the same everywhere", |c| same_lines(c, &["a", "b", "C", "D", "E"]));
    let is_installed =
        |(node, note): &(u32, HostNote)| *node == late && matches!(note, HostNote::SnapshotInstalled { .. });
    assert!(cluster.notes.iter().any(is_installed), "it came by snapshot");
}

#[test]
fn a_version_is_not_raised_while_a_member_cannot_or_is_not_known_to() {
    let mut cluster = half_upgraded();
    let old = OperatorError::OldBuild {
        node: NodeId(1),
        build: 1,
        version: 2,
    };
    let builds = |cluster: &Cluster, at: u32| cluster.hosts[&at].versions().builds;
    let leader = cluster.leader().expect("there is one");
    assert_eq!(raise(&mut cluster), Err(old));
    assert_eq!(builds(&cluster, leader), [1, 2, 3].map(|n| (NodeId(n), Some(n.min(2)))));
    cluster.stop(1);
    cluster.until("a leader", |c| c.leader().is_some());
    let unknown = OperatorError::UnknownBuild {
        node: NodeId(1),
        version: 2,
    };
    assert_eq!(raise(&mut cluster), Err(unknown));
}

#[test]
fn a_build_that_cannot_apply_the_version_in_force_neither_starts_nor_is_talked_to() {
    let mut cluster = half_upgraded();
    restart(&mut cluster, 1, 2);
    let leader = cluster.leader().expect("there is one");
    let [unaware, aware] = [leader % 3 + 1, (leader + 1) % 3 + 1];
    raise(&mut cluster).expect("all can");
    cluster.disconnect(leader, unaware);
    cluster.disconnect(aware, unaware);
    cluster.ticks(4);
    for node in [unaware, aware] {
        cluster.stop(node);
        cluster.builds.insert(node, 1);
    }
    let refused = cluster.start(aware).expect_err("it has applied the raise");
    assert_eq!(refused.code().to_string(), "HO0012");
    cluster.start(unaware).expect("nobody has told it");
    cluster.closed.clear();
    cluster.connect(leader, unaware);
    let codes: Vec<_> = cluster
        .closed
        .iter()
        .map(|(node, reason)| (*node, reason.code().to_string()))
        .collect();
    assert_eq!(codes, [(leader, "HO0052".to_owned())]);
}
