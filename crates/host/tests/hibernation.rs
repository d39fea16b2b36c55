//! A group in which nothing happens costs nothing, serves as soon as it is asked, and hides no dead leader.

mod harness;

use harness::{Ask, Cluster, GROUP, HIBERNATE_TICKS, Told};
use settle_base::NodeId;
use settle_host::{HostEvent, MemberRole, OperatorRequest, PeerMessage};

const ELECTION_TICKS: u32 = 10;

fn another_leads(cluster: &Cluster, old: u32) -> bool {
    cluster.leader().is_some_and(|leader| leader != old)
}

#[test]
fn a_resting_group_sends_nothing_but_the_pulses_of_its_nodes() {
    let mut cluster = Cluster::resting(3);
    cluster.sent.clear();
    cluster.ticks(100);
    let is_pulse = |message: &PeerMessage| matches!(message, PeerMessage::Pulse { .. });
    assert!(cluster.sent.iter().all(|(_, _, message)| is_pulse(message)));
    assert_eq!(
        cluster.sent.len(),
        100 * 3 * 2,
        "one for each pair of nodes, direction and tick"
    );
    assert_eq!(cluster.hosts[&1].group_counts().awake, 0);
}

#[test]
fn a_resting_group_serves_at_once_whoever_is_asked() {
    let mut cluster = Cluster::resting(3);
    let leader = cluster.leader().expect("it was founded");
    let follower = leader % 3 + 1;
    cluster.propose(follower, "by way of a follower");
    assert_eq!(cluster.lines(leader).len(), 1, "without a tick");
    cluster.until("rest again", |c| (1..=3).all(|node| c.is_resting(node)));
    assert!((1..=3).all(|node| cluster.lines(node).len() == 1));
    cluster.give(follower, HostEvent::Request(Ask::Read(7)));
    cluster.deliver();
    let read = Told::Read { token: 7, lines: 1 };
    assert!(cluster.told.contains(&(follower, read)), "{:?}", cluster.told);
}

#[test]
fn a_group_that_is_asked_something_now_and_then_stays_awake() {
    let mut cluster = Cluster::founded(3);
    let leader = cluster.leader().expect("it was founded");
    for read in 0..20 {
        cluster.ticks(HIBERNATE_TICKS / 2);
        assert!(!cluster.is_resting(leader));
        cluster.give(leader, HostEvent::Request(Ask::Read(read)));
        cluster.deliver();
    }
}

#[test]
fn the_leader_of_a_resting_group_that_dies_is_replaced_within_an_election_timeout() {
    let mut cluster = Cluster::resting(3);
    let dead = cluster.leader().expect("it was founded");
    cluster.stop(dead);
    cluster.ticks(ELECTION_TICKS);
    assert!(another_leads(&cluster, dead), "{:?}", cluster.notes);
}

/// A host that hangs, a cable that is cut: no connection breaks.
#[test]
fn the_leader_of_a_resting_group_whose_node_falls_silent_is_replaced() {
    let mut cluster = Cluster::resting(3);
    let silent = cluster.leader().expect("it was founded");
    cluster.muted.extend((1..=3).map(|node| (silent, node)));
    cluster.ticks(ELECTION_TICKS * 4);
    assert!(another_leads(&cluster, silent), "{:?}", cluster.notes);
}

#[test]
fn the_service_hears_once_that_a_node_is_silent_and_once_that_it_speaks_again() {
    let mut cluster = Cluster::founded(3);
    let told = |cluster: &Cluster, what: &Told| cluster.told.iter().filter(|told| **told == (1, what.clone())).count();
    let (silent, heard) = (Told::Silent(NodeId(3)), Told::Heard(NodeId(3)));
    cluster.ticks(ELECTION_TICKS * 2);
    assert_eq!(told(&cluster, &silent), 0);
    cluster.muted.insert((3, 1));
    cluster.ticks(ELECTION_TICKS - 1);
    assert_eq!(told(&cluster, &silent), 0);
    cluster.ticks(ELECTION_TICKS * 2);
    assert_eq!((told(&cluster, &silent), told(&cluster, &heard)), (1, 0));
    cluster.muted.clear();
    cluster.ticks(2);
    assert_eq!((told(&cluster, &silent), told(&cluster, &heard)), (1, 1));
}

/// It hears nobody, so it cannot serve, though everybody hears its pulses.
#[test]
fn the_leader_of_a_resting_group_that_hears_nobody_is_replaced() {
    let mut cluster = Cluster::resting(3);
    let deaf = cluster.leader().expect("it was founded");
    cluster.muted.extend((1..=3).map(|node| (node, deaf)));
    cluster.ticks(ELECTION_TICKS * 6);
    assert!(another_leads(&cluster, deaf), "{:?}", cluster.notes);
}

#[test]
fn a_leaders_node_that_was_started_anew_unnoticed_wakes_those_who_rest() {
    let mut cluster = Cluster::resting(3);
    let leader = cluster.leader().expect("it was founded");
    let follower = leader % 3 + 1;
    let mut message = cluster.sent.iter().rev().find_map(|(from, _, message)| match message {
        PeerMessage::Pulse { .. } if *from == leader => Some(message.clone()),
        _ => None,
    });
    if let Some(PeerMessage::Pulse { boot, .. }) = &mut message {
        *boot += 1;
    }
    let (from, message) = (NodeId(leader), message.expect("one at each tick"));
    cluster.give(follower, HostEvent::Peer { from, message });
    assert!(!cluster.is_resting(follower), "it is another number than before");
    assert!(
        cluster.hosts[&follower]
            .raft(GROUP)
            .is_some_and(|raft| !raft.is_leader())
    );
}

/// Nobody asks for a vote on its behalf, so only its return can tell.
#[test]
fn a_learner_that_was_away_while_the_group_rested_is_brought_up_to_date() {
    let mut cluster = Cluster::founded(3);
    let leader = cluster.leader().expect("it was founded");
    let (group, node) = (GROUP, leader % 3 + 1);
    let role = MemberRole::Learner;
    let change = OperatorRequest::ChangeMember {
        group,
        node: NodeId(node),
        role,
    };
    // A voter is made a learner by way of leaving.
    let leave = OperatorRequest::ChangeMember {
        group,
        node: NodeId(node),
        role: MemberRole::Removed,
    };
    let learners = |c: &Cluster| {
        c.hosts[&leader]
            .raft(GROUP)
            .map_or(0, |raft| raft.conf().learners.len())
    };
    let voters = |c: &Cluster| c.hosts[&leader].raft(GROUP).map_or(0, |raft| raft.conf().voters.len());
    cluster.give(leader, HostEvent::Operator(leave));
    cluster.until("two voters", |c| voters(c) == 2 && c.is_voter(leader));
    cluster.give(leader, HostEvent::Operator(change));
    cluster.until("a learner", |c| learners(c) == 1 && c.is_voter(leader));
    cluster.ticks(5);
    cluster.stop(node);
    cluster.propose(leader, "while it was away");
    cluster.until("rest without it", |c| c.is_resting(leader));
    cluster.start(node).expect("its directory is whole");
    cluster.connect_all();
    cluster.until("its return", |c| c.lines(node).len() == 1);
}

/// The replica that comes back is awake and hears no leader as long as that one rests.
#[test]
fn a_member_that_comes_back_is_heard_and_the_group_rests_again_without_an_election() {
    let mut cluster = Cluster::resting(3);
    let leader = cluster.leader().expect("it was founded");
    let follower = leader % 3 + 1;
    let term = cluster.hosts[&leader].raft(GROUP).map(|raft| raft.term());
    cluster.stop(follower);
    cluster.ticks(100);
    cluster.start(follower).expect("its directory is whole");
    cluster.connect_all();
    cluster.until("rest again", |c| (1..=3).all(|node| c.is_resting(node)));
    assert_eq!(cluster.hosts[&leader].raft(GROUP).map(|raft| raft.term()), term);
    assert_eq!(cluster.leader(), Some(leader));
}
