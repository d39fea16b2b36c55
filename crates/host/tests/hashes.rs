//! Replicas compared while they serve: one that differs serves nothing until it has the others' state.

mod harness;

use std::sync::atomic::Ordering;

use harness::{Ask, Cluster, GROUP, Told};
use settle_base::NodeId;
use settle_host::{HostEvent, HostNote, MemberRole, OperatorError, OperatorRequest, PeerMessage};

/// A cluster that compares after every eighth command.
fn comparing() -> (Cluster, u32) {
    let mut cluster = Cluster::tuned(3, |config| config.state_hash_every = 8);
    cluster.connect_all();
    cluster.until("a leader", |c| c.leader().is_some());
    cluster.ticks(4);
    let leader = cluster.leader().expect("it was just seen");
    (cluster, leader)
}

fn propose(cluster: &mut Cluster, count: usize) {
    for _ in 0..count {
        cluster.until("a leader that serves", |c| {
            let leader = c.leader();
            leader.is_some_and(|n| {
                c.hosts[&n]
                    .view(GROUP, c.now)
                    .is_some_and(|view| view.role.is_ready_leader)
            })
        });
        let leader = cluster.leader().expect("it was just seen");
        cluster.propose(leader, "line");
    }
}

fn err_once(cluster: &mut Cluster, node: u32) {
    cluster.errs[&node].store(true, Ordering::Relaxed);
    propose(cluster, 1);
    cluster.until("the error", |c| !c.errs[&node].load(Ordering::Relaxed));
}

fn quarantines(cluster: &Cluster) -> Vec<u32> {
    let notes = cluster.notes.iter();
    notes
        .filter(|(_, note)| matches!(note, HostNote::Quarantined { .. }))
        .map(|(node, _)| *node)
        .collect()
}

fn is_rebuilt(cluster: &Cluster, node: u32) -> bool {
    let mut notes = cluster.notes.iter();
    notes.any(|(n, note)| *n == node && matches!(note, HostNote::Rebuilt { .. }))
}

fn all_equal(cluster: &Cluster) -> bool {
    let right = |node: u32| {
        let lines = cluster.lines(node);
        lines == cluster.lines(1) && !lines.iter().any(|line| line == "wrong")
    };
    (1..=3).all(right)
}

#[test]
fn replicas_that_are_equal_are_compared_and_left_alone() {
    let (mut cluster, leader) = comparing();
    propose(&mut cluster, 50);
    cluster.ticks(30);
    let counters = cluster.hosts[&leader].counters();
    assert!(counters.hash_marks >= 3 && counters.hash_verdicts >= 3, "{counters:?}");
    assert_eq!(quarantines(&cluster), []);
}

#[test]
fn a_follower_that_differs_serves_nothing_until_it_is_rebuilt() {
    let (mut cluster, leader) = comparing();
    let wrong = leader % 3 + 1;
    err_once(&mut cluster, wrong);
    (0..8).for_each(|_| cluster.give(leader, HostEvent::Request(Ask::Propose("line"))));
    cluster.step_until("quarantine", |c| !quarantines(c).is_empty());
    assert_eq!(quarantines(&cluster), [wrong]);
    let read = HostEvent::Request(Ask::Read(7));
    cluster.give(wrong, read);
    assert!(
        cluster.told.contains(&(wrong, Told::ReadDropped(7))),
        "{:?}",
        cluster.told
    );
    cluster.until("a rebuilt replica", |c| is_rebuilt(c, wrong));
    propose(&mut cluster, 20);
    cluster.until("equal replicas", all_equal);
    cluster.give(wrong, HostEvent::Request(Ask::Read(8)));
    cluster.until("a read", |c| {
        let mut told = c.told.iter();
        told.any(|(node, told)| *node == wrong && matches!(told, Told::Read { token: 8, .. }))
    });
    assert_eq!(quarantines(&cluster), [wrong], "and it stays right");
    assert_eq!(cluster.leader(), Some(leader), "nobody else was disturbed");
}

#[test]
fn a_quarantined_replica_that_restarts_is_found_again_and_acks_the_log_meanwhile() {
    let (mut cluster, leader) = comparing();
    let wrong = leader % 3 + 1;
    let other = 6 - leader - wrong;
    err_once(&mut cluster, wrong);
    // The error is in its snapshot, so a restart does not mend it.
    let group = GROUP;
    cluster.give(wrong, HostEvent::Operator(OperatorRequest::TakeSnapshot { group }));
    cluster.ticks(2);
    let taken = |(n, note): &(u32, HostNote)| *n == wrong && matches!(note, HostNote::SnapshotTaken { .. });
    assert!(cluster.notes.iter().any(taken));
    (0..8).for_each(|_| cluster.give(leader, HostEvent::Request(Ask::Propose("line"))));
    cluster.step_until("quarantine", |c| !quarantines(c).is_empty());
    for restarts in 1..4 {
        cluster.stop(wrong);
        cluster.start(wrong).expect("its directory is whole");
        cluster.give(wrong, HostEvent::Operator(OperatorRequest::TakeSnapshot { group }));
        cluster.connect_undelivered(leader, wrong);
        cluster.step_until("quarantine", |c| {
            quarantines(c).len() > restarts || is_rebuilt(c, wrong)
        });
        assert!(!is_rebuilt(&cluster, wrong), "it was forgotten");
    }
    // Without the third, what is committed needs the acks of the quarantined one.
    cluster.stop(other);
    let before = cluster.lines(leader).len();
    cluster.propose(leader, "more");
    cluster.until("a commit", |c| c.lines(leader).len() > before);
    cluster.until("a rebuilt replica", |c| is_rebuilt(c, wrong));
    cluster.start(other).expect("its directory is whole");
    cluster.connect_all();
    cluster.until("equal replicas", all_equal);
}

/// As the only voter it would lead, with nobody left to rebuild it.
#[test]
fn a_quarantined_replica_is_no_survivor_to_reset_the_members_at() {
    let (mut cluster, leader) = comparing();
    cluster.auto_replace = false;
    let wrong = leader % 3 + 1;
    err_once(&mut cluster, wrong);
    (0..8).for_each(|_| cluster.give(leader, HostEvent::Request(Ask::Propose("line"))));
    cluster.step_until("quarantine", |c| !quarantines(c).is_empty());
    (1..=3)
        .filter(|node| *node != wrong)
        .for_each(|node| cluster.stop(node));
    cluster.ticks(40);
    let (group, survivors) = (GROUP, vec![NodeId(wrong)]);
    let request = OperatorRequest::ResetMembers { group, survivors };
    cluster.give(wrong, HostEvent::Operator(request.clone()));
    let outcome = Err(OperatorError::Quarantined { group });
    assert!(
        cluster
            .notes
            .contains(&(wrong, HostNote::Operated { request, outcome }))
    );
    cluster.ticks(40);
    assert_eq!(cluster.leader(), None);
}

#[test]
fn a_hash_told_late_or_twice_or_by_a_stranger_to_a_leader_changes_nothing() {
    let (mut cluster, leader) = comparing();
    propose(&mut cluster, 20);
    cluster.ticks(30);
    let told = cluster.sent.iter().filter_map(|(from, _, message)| match message {
        PeerMessage::StateHash { .. } => Some((*from, message.clone())),
        _ => None,
    });
    let told: Vec<_> = told.collect();
    assert!(!told.is_empty());
    let verdicts = cluster.hosts[&leader].counters().hash_verdicts;
    for (from, message) in told {
        let PeerMessage::StateHash { group, index, hash } = message else {
            unreachable!()
        };
        for index in [index, index + 1_000_000] {
            for hash in [hash, !hash] {
                for to in (1..=3).filter(|to| *to != from) {
                    let message = PeerMessage::StateHash { group, index, hash };
                    let from = NodeId(from);
                    cluster.give(to, HostEvent::Peer { from, message });
                }
            }
        }
    }
    cluster.ticks(30);
    assert_eq!(cluster.hosts[&leader].counters().hash_verdicts, verdicts);
    assert_eq!(quarantines(&cluster), []);
    assert!(all_equal(&cluster));
}

#[test]
fn a_leader_that_differs_hands_over_and_is_rebuilt() {
    let (mut cluster, leader) = comparing();
    err_once(&mut cluster, leader);
    propose(&mut cluster, 16);
    cluster.until("another leader", |c| c.leader().is_some_and(|other| other != leader));
    cluster.until("a rebuilt replica", |c| is_rebuilt(c, leader));
    assert_eq!(quarantines(&cluster), [leader]);
    propose(&mut cluster, 20);
    cluster.until("equal replicas", all_equal);
    assert_eq!(quarantines(&cluster), [leader], "and it stays right");
}

#[test]
fn a_learner_that_is_being_rebuilt_is_not_promoted() {
    let (mut cluster, leader) = comparing();
    let wrong = leader % 3 + 1;
    let turn_into = |c: &mut Cluster, role| {
        let (group, node) = (GROUP, NodeId(wrong));
        let request = OperatorRequest::ChangeMember { group, node, role };
        c.give(leader, HostEvent::Operator(request));
    };
    let sizes = |c: &Cluster| {
        let conf = c.hosts[&leader].raft(GROUP).expect("a member").conf();
        (conf.voters.len(), conf.outgoing.len(), conf.learners.len())
    };
    turn_into(&mut cluster, MemberRole::Learner);
    cluster.until("a learner", |c| sizes(c) == (2, 0, 1));
    err_once(&mut cluster, wrong);
    (0..8).for_each(|_| cluster.give(leader, HostEvent::Request(Ask::Propose("line"))));
    let is_chunk = |(from, to, message): &(u32, u32, PeerMessage)| {
        (*from, *to) == (leader, wrong) && matches!(message, PeerMessage::SnapshotChunk(_))
    };
    cluster.step_until("a state on its way", |c| c.sent.iter().any(is_chunk));
    assert_eq!(quarantines(&cluster), [wrong]);
    turn_into(&mut cluster, MemberRole::Voter);
    cluster.until("a rebuilt replica", |c| is_rebuilt(c, wrong));
    assert_eq!(sizes(&cluster), (2, 0, 1), "it had the log and could not have led");
    turn_into(&mut cluster, MemberRole::Voter);
    cluster.until("a voter", |c| sizes(c) == (3, 0, 0));
}

#[test]
fn a_witness_notes_no_hash_and_one_of_the_two_others_is_no_majority() {
    const WITNESS: u32 = 3;
    let mut cluster = Cluster::tuned(3, |config| {
        config.witness = config.node == NodeId(WITNESS);
        config.state_hash_every = 8;
    });
    cluster.connect_all();
    propose(&mut cluster, 30);
    let leader = cluster.leader().expect("it took proposals");
    let count = |cluster: &Cluster, node: u32| {
        let counters = cluster.hosts[&node].counters();
        (counters.hash_marks, counters.hash_verdicts)
    };
    cluster.until("verdicts at the witness too", |c| count(c, WITNESS).1 >= 3);
    assert!(count(&cluster, leader).0 >= 3);
    assert_eq!(count(&cluster, WITNESS).0, 0);
    err_once(&mut cluster, 3 - leader);
    propose(&mut cluster, 16);
    cluster.until("a note of the division", |c| {
        let mut notes = c.notes.iter();
        notes.any(|(node, note)| matches!(note, HostNote::HashesDivided { hashes, .. } if *node == leader && hashes.len() == 2))
    });
    assert_eq!(quarantines(&cluster), []);
    assert_eq!(cluster.leader(), Some(leader), "and it serves on");
}

#[test]
fn a_replica_that_takes_no_more_entries_is_rebuilt_by_a_leader_that_needs_its_ack() {
    let mut cluster = Cluster::tuned(3, |config| {
        config.state_hash_every = 8;
        config.limits.paused_log_bytes_max = 300;
    });
    cluster.auto_replace = false;
    cluster.connect_all();
    cluster.until("a leader", |c| c.leader().is_some());
    cluster.ticks(4);
    let leader = cluster.leader().expect("it was just seen");
    let wrong = leader % 3 + 1;
    let other = 6 - leader - wrong;
    err_once(&mut cluster, wrong);
    (0..8).for_each(|_| cluster.give(leader, HostEvent::Request(Ask::Propose("line"))));
    cluster.step_until("quarantine", |c| !quarantines(c).is_empty());
    // More comes than may wait for its machine, before it is rebuilt.
    let long: &'static str = "long".repeat(100).leak();
    let last = |c: &Cluster, n: u32| c.hosts[&n].status(c.now).groups[0].raft.last_index;
    (0..4).for_each(|_| cluster.give(leader, HostEvent::Request(Ask::Propose(long))));
    let end = last(&cluster, leader);
    cluster.step_until("their way to the other", |c| last(c, other) == end);
    assert!(!is_rebuilt(&cluster, wrong));
    cluster.stop(leader);
    cluster.until("its state", |c| is_rebuilt(c, wrong));
    cluster.until("a leader that serves", |c| c.leader() == Some(other));
    cluster.propose(other, "more");
    cluster.until("a write", |c| c.lines(other).iter().any(|line| line == "more"));
}
