//! How directories become a cluster, and how they never become two.

mod harness;

use std::time::Duration;

use harness::{Cluster, GROUP, TICK_MS, config, open};
use settle_base::{Mono, NodeId, PeerId};
use settle_host::{
    ClusterId, HostEvent, HostNote, JoinMessage, Member, MemberRole, OpenError, OperatorDone, OperatorError,
    OperatorOutcome, OperatorRequest, PeerError, PeerMessage,
};
use settle_raft::Body;
use settle_storage::{DiskRead, FileName, MemDisk, Op};

fn clusters(cluster: &Cluster) -> Vec<Option<settle_host::ClusterId>> {
    cluster.hosts.values().map(|host| host.identity().cluster).collect()
}

#[test]
fn a_cluster_is_founded_only_when_every_configured_node_is_there() {
    let mut cluster = Cluster::new(3);
    cluster.connect(1, 2);
    cluster.ticks(100);
    assert_eq!(clusters(&cluster), [None; 3], "node 3 could remember a cluster");
    cluster.connect(2, 3);
    cluster.ticks(100);
    assert_eq!(clusters(&cluster), [None; 3], "node 1 has not heard node 3");
    cluster.connect(1, 3);
    let ids = clusters(&cluster);
    assert!(ids[0].is_some() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    cluster.until("leader", |c| c.leader().is_some());
}

#[test]
fn one_configured_node_founds_alone() {
    let mut cluster = Cluster::new(1);
    cluster.until("leader", |c| c.leader() == Some(1));
    cluster.propose(1, "alone");
    assert_eq!(cluster.lines(1), ["alone"]);
}

#[test]
fn a_wiped_first_node_founds_nothing_while_anybody_is_away() {
    let mut cluster = Cluster::founded(3);
    (1..=3).for_each(|node| cluster.stop(node));
    cluster.disks[&1].wipe();
    cluster.start(1).expect("an empty directory opens");
    cluster.ticks(200);
    assert!(cluster.hosts[&1].identity().cluster.is_none());
    // Another that lost everything changes nothing: node 2 still remembers.
    cluster.disks[&3].wipe();
    cluster.start(3).expect("an empty directory opens");
    cluster.connect(1, 3);
    cluster.ticks(200);
    assert!(cluster.hosts.values().all(|host| host.identity().cluster.is_none()));
}

#[test]
fn a_wiped_node_votes_only_after_it_was_let_in_and_caught_up() {
    let mut cluster = Cluster::founded(3);
    let leader = cluster.leader().expect("it was founded");
    for text in ["a", "b", "c"] {
        cluster.propose(leader, text);
    }
    let lost = if leader == 3 { 2 } else { 3 };
    cluster.stop(lost);
    cluster.disks[&lost].wipe();
    cluster.start(lost).expect("an empty directory opens");
    cluster.sent.clear();
    cluster.connect_all();
    cluster.until("replaced voter", |c| c.is_voter(lost));
    assert_eq!(cluster.lines(lost), ["a", "b", "c"]);
    let votes = cluster.sent.iter().filter(|(from, _, message)| {
        let PeerMessage::Raft(messages) = message else {
            return false;
        };
        *from == lost
            && messages
                .iter()
                .any(|m| matches!(m.body, Body::VoteReply { granted: true, .. }))
    });
    assert_eq!(votes.count(), 0);
    // The old incarnation is gone from the membership.
    let conf = cluster.hosts[&lost].raft(GROUP).expect("a member").conf();
    assert_eq!((conf.voters.len(), conf.learners.len()), (3, 0), "{conf:?}");
}

#[test]
fn without_permission_a_wiped_node_stays_outside_until_an_operator_says_so() {
    let mut cluster = Cluster::new(3);
    cluster.auto_replace = false;
    for node in 1..=3 {
        cluster.stop(node);
        cluster.start(node).expect("it is empty");
    }
    cluster.connect_all();
    cluster.until("leader", |c| c.leader().is_some());
    let leader = cluster.leader().expect("just seen");
    let lost = leader % 3 + 1;
    cluster.stop(lost);
    cluster.disks[&lost].wipe();
    cluster.start(lost).expect("an empty directory opens");
    cluster.connect_all();
    cluster.ticks(200);
    let members = |c: &Cluster| c.hosts[&leader].raft(GROUP).expect("a member").conf().peers().len();
    assert_eq!((members(&cluster), cluster.is_voter(lost)), (3, false));
    let node = settle_base::NodeId(lost);
    cluster.give(
        leader,
        HostEvent::Operator(OperatorRequest::ReplaceMember { node, at_ms: 0 }),
    );
    cluster.until("replaced voter", |c| c.is_voter(lost));
}

#[test]
fn an_operator_makes_a_voter_a_learner_that_stays_one_removes_it_and_brings_it_back() {
    let mut cluster = Cluster::founded(3);
    let leader = cluster.leader().expect("it was founded");
    let other = leader % 3 + 1;
    let turn_into = |c: &mut Cluster, role| {
        let node = NodeId(other);
        let request = OperatorRequest::ChangeMember {
            group: GROUP,
            node,
            role,
        };
        c.give(leader, HostEvent::Operator(request));
    };
    let sizes = |c: &Cluster| {
        let conf = c.hosts[&leader].raft(GROUP).expect("a member").conf();
        (conf.voters.len(), conf.outgoing.len(), conf.learners.len())
    };
    turn_into(&mut cluster, MemberRole::Learner);
    cluster.until("a learner", |c| sizes(c) == (2, 0, 1));
    cluster.propose(leader, "a");
    cluster.ticks(300);
    assert_eq!(sizes(&cluster), (2, 0, 1), "nobody promotes it by himself");
    assert_eq!(cluster.lines(other), ["a"]);
    turn_into(&mut cluster, MemberRole::Removed);
    cluster.until("removed", |c| sizes(c) == (2, 0, 0));
    turn_into(&mut cluster, MemberRole::Voter);
    cluster.ticks(50);
    assert_eq!(sizes(&cluster), (2, 0, 0), "first a learner");
    cluster.propose(leader, "b");
    turn_into(&mut cluster, MemberRole::Learner);
    cluster.until("a learner again", |c| {
        sizes(c) == (2, 0, 1) && c.lines(other) == ["a", "b"]
    });
    turn_into(&mut cluster, MemberRole::Voter);
    cluster.until("a voter again", |c| sizes(c) == (3, 0, 0));
}

#[test]
fn an_operator_replaces_a_majority_of_the_voters_at_once_when_the_new_ones_have_caught_up() {
    let mut cluster = Cluster::founded(5);
    let mut leader = cluster.leader().expect("it was founded");
    let others: Vec<u32> = (1..=5).filter(|node| *node != leader).collect();
    // As its leader has it: who left may never hear of it.
    let voters = |c: &Cluster| {
        let conf = c.hosts[&c.leader()?].raft(GROUP)?.conf();
        let votes = |node: &u32| conf.voters.contains(&c.hosts[node].identity().incarnation);
        (!conf.is_joint()).then(|| (1..=5).filter(votes).collect::<Vec<u32>>())
    };
    let ask = |c: &mut Cluster, leader, nodes: &[u32]| {
        let voters = nodes.iter().map(|node| NodeId(*node)).collect();
        let request = OperatorRequest::ChangeVoters { group: GROUP, voters };
        c.give(leader, HostEvent::Operator(request));
    };
    let (stay, come) = ([leader, others[0], others[1]], [leader, others[2], others[3]]);
    ask(&mut cluster, leader, &stay);
    cluster.until("three of five", |c| voters(c) == Some(sorted(&stay)));
    ask(&mut cluster, leader, &come);
    cluster.ticks(50);
    assert_eq!(voters(&cluster), Some(sorted(&stay)), "nobody of them is a learner yet");
    for node in &come[1..] {
        let (node, role) = (NodeId(*node), MemberRole::Learner);
        let group = GROUP;
        let request = OperatorRequest::ChangeMember { group, node, role };
        cluster.give(leader, HostEvent::Operator(request));
        cluster.ticks(50);
    }
    cluster.propose(leader, "a");
    cluster.ticks(50);
    ask(&mut cluster, leader, &come);
    cluster.until("two of three replaced", |c| voters(c) == Some(sorted(&come)));
    // The leader may be one that leaves.
    for node in [others[0], others[1]] {
        let (node, role) = (NodeId(node), MemberRole::Learner);
        let group = GROUP;
        let request = OperatorRequest::ChangeMember { group, node, role };
        cluster.give(leader, HostEvent::Operator(request));
        cluster.ticks(50);
    }
    ask(&mut cluster, leader, &others[..3]);
    cluster.until("without the leader", |c| voters(c) == Some(sorted(&others[..3])));
    cluster.until("another leads", |c| {
        c.leader().is_some_and(|node| others.contains(&node))
    });
    leader = cluster.leader().expect("it was just seen");
    cluster.propose(leader, "b");
    cluster.until("all three apply", |c| {
        others[..3].iter().all(|node| c.lines(*node) == ["a", "b"])
    });
}

fn sorted(nodes: &[u32]) -> Vec<u32> {
    let mut nodes = nodes.to_vec();
    nodes.sort_unstable();
    nodes
}

#[test]
fn a_node_of_another_cluster_is_refused_by_name() {
    let mut one = Cluster::founded(3);
    let two = Cluster::new(1);
    let mut stranger = two.hosts[&1].hello();
    stranger.cluster = Some(settle_host::ClusterId(99));
    stranger.node = settle_base::NodeId(2);
    stranger.incarnation = settle_base::PeerId(999);
    let node = stranger.node;
    one.disconnect(1, 2);
    one.give(1, HostEvent::PeerUp { node, hello: stranger });
    assert!(
        matches!(one.closed[..], [(1, PeerError::OtherCluster { .. })]),
        "{:?}",
        one.closed
    );
    assert_eq!(one.closed[0].1.code().to_string(), "HO0041");
}

#[test]
fn nodes_whose_versions_meet_talk_and_others_are_refused_by_name() {
    let mut cluster = Cluster::founded(3);
    let mut newer = cluster.hosts[&2].hello();
    newer.protocol += 1;
    cluster.disconnect(1, 2);
    let node = newer.node;
    cluster.give(1, HostEvent::PeerUp { node, hello: newer });
    assert!(
        cluster.closed.is_empty(),
        "one of the build after this, as in a rolling upgrade"
    );
    newer.protocol_min = newer.protocol;
    cluster.give(1, HostEvent::PeerUp { node, hello: newer });
    assert_eq!(cluster.closed[0].1.code().to_string(), "HO0050");
    assert!(cluster.closed[0].1.to_string().contains("versions 2..=2"));
}

#[test]
fn founders_that_cannot_be_found_nothing() {
    let member = |peer, node| Member {
        peer: PeerId(peer),
        node: NodeId(node),
        address: "a:1".to_owned(),
        witness: peer == 9,
    };
    let cases = [
        (1, vec![]),
        (0, vec![member(1, 1)]),
        (1, vec![member(0, 1)]),
        (1, vec![member(1, 1), member(1, 2)]),
        (1, vec![member(1, 1), member(2, 1)]),
        (1, vec![member(1, 1), member(9, 2)]),
        (1, (1..=65).map(|n| member(n, n as u32)).collect()),
    ];
    for (id, founders) in cases {
        let mut cluster = Cluster::new(3);
        cluster.connect(1, 2);
        let cluster_id = ClusterId(id);
        let found = JoinMessage::Found {
            cluster: cluster_id,
            founders,
        };
        let (from, message) = (NodeId(1), PeerMessage::Join(found));
        cluster.give(2, HostEvent::Peer { from, message });
        assert_eq!(cluster.closed[0].1.code().to_string(), "HO0049");
        assert!(cluster.fatal.is_empty(), "{:?}", cluster.fatal);
        cluster.connect_all();
        cluster.until("a cluster of its own", |c| c.leader().is_some());
    }
}

#[test]
fn a_lost_replica_is_replaced_only_when_it_has_been_gone_for_long() {
    let mut cluster = Cluster::founded(3);
    let leader = cluster.leader().expect("it was founded");
    let twice = leader % 3 + 1;
    let ours = cluster.disks[&twice].clone();
    // By mistake the node is started again on an empty directory, and after four seconds on its own.
    cluster.stop(twice);
    cluster.disks.insert(twice, MemDisk::new(99));
    cluster.start(twice).expect("an empty directory opens");
    cluster.connect_all();
    cluster.ticks(80);
    let peers = |c: &Cluster| c.hosts[&leader].raft(GROUP).expect("a member").conf().peers().len();
    assert_eq!(peers(&cluster), 3);
    cluster.stop(twice);
    let other = cluster.disks.insert(twice, ours).expect("it was just there");
    cluster.start(twice).expect("its own directory opens");
    cluster.connect_all();
    cluster.ticks(80);
    assert!(cluster.is_voter(twice));
    // The empty one again, for good.
    cluster.stop(twice);
    cluster.disks.insert(twice, other);
    cluster.start(twice).expect("it opens");
    cluster.connect_all();
    cluster.ticks(95);
    assert_eq!(peers(&cluster), 3, "five seconds are not over");
    cluster.until("a new voter", |c| c.is_voter(twice));
}

#[test]
fn a_second_founding_is_refused_by_who_knows_better() {
    let mut cluster = Cluster::founded(3);
    let cluster_id = settle_host::ClusterId(1);
    let found = JoinMessage::Found {
        cluster: cluster_id,
        founders: Vec::new(),
    };
    let before = cluster.hosts[&2].identity().clone();
    let from = settle_base::NodeId(1);
    cluster.give(
        2,
        HostEvent::Peer {
            from,
            message: PeerMessage::Join(found),
        },
    );
    assert!(matches!(cluster.closed[..], [(2, PeerError::OtherCluster { .. })]));
    assert_eq!(*cluster.hosts[&2].identity(), before);
}

#[test]
fn founding_survives_a_device_that_fails_at_any_operation() {
    let mut failures = 0;
    for ops in 0..40 {
        let mut cluster = Cluster::new(3);
        cluster.connect(2, 3);
        cluster.disks[&1].die_after(ops);
        cluster.connect_all();
        cluster.ticks(3);
        if cluster.fatal.contains_key(&1) {
            failures += 1;
        }
        cluster.stop(1);
        cluster
            .start(1)
            .unwrap_or_else(|error| panic!("after {ops} operations: {error}"));
        cluster.connect_all();
        cluster.until("a leader", |c| c.leader().is_some());
        let ids = clusters(&cluster);
        assert!(ids.iter().all(|id| *id == ids[0]), "after {ops} operations: {ids:?}");
    }
    assert!(
        failures > 5,
        "the device must fail while founding, not only later: {failures}"
    );
}

#[test]
fn directories_that_are_not_ours_are_refused_by_name() {
    let disk = MemDisk::new(1);
    drop(open(config(1, 3), &disk, 5).expect("an empty directory opens"));
    let other = open(config(2, 3), &disk, 6).err().expect("it is node 1's");
    assert!(matches!(other, OpenError::OtherNode { .. }), "{other}");
    assert_eq!(
        open(config(1, 3), &disk, 7).expect("ours").hello().incarnation.0,
        5,
        "an incarnation is for life"
    );

    let identity = FileName::new("identity").expect("a valid name");
    let newer = disk.fork();
    newer.flip_bit(&identity, 9, 0);
    assert!(matches!(
        open(config(1, 3), &newer, 8),
        Err(OpenError::NewerFormat { found: 257, .. })
    ));
    let damaged = disk.fork();
    damaged.flip_bit(&identity, 20, 3);
    assert!(matches!(
        open(config(1, 3), &damaged, 8),
        Err(OpenError::IdentityDamaged)
    ));

    let cluster = Cluster::founded(1);
    let mut without = cluster.disks[&1].fork();
    without.run(Op::Remove { file: identity }).expect("the file is there");
    assert!(matches!(
        open(config(1, 1), &without, 9),
        Err(OpenError::IdentityMissing { .. })
    ));
    let mut without_log = cluster.disks[&1].fork();
    for (file, _) in without_log.list().expect("readable") {
        if file.as_str().starts_with("wal-") {
            without_log.run(Op::Remove { file }).expect("the file is there");
        }
    }
    assert!(matches!(
        open(config(1, 1), &without_log, 9),
        Err(OpenError::LogMissing { .. })
    ));
}

#[test]
fn a_restarted_cluster_goes_on_where_it_was() {
    let mut cluster = Cluster::founded(3);
    let leader = cluster.leader().expect("it was founded");
    cluster.propose(leader, "before");
    (1..=3).for_each(|node| cluster.stop(node));
    for node in 1..=3 {
        cluster.start(node).expect("its own directory opens");
    }
    cluster.now = Mono::from_millis(cluster.now.as_millis() + 1);
    cluster.connect_all();
    cluster.until("a leader", |c| c.leader().is_some());
    let leader = cluster.leader().expect("just seen");
    cluster.propose(leader, "after");
    cluster.ticks(10);
    for node in 1..=3 {
        assert_eq!(cluster.lines(node), ["before", "after"], "node {node}");
    }
    assert_eq!(
        cluster
            .notes
            .iter()
            .filter(|(_, n)| matches!(n, HostNote::Founded { .. }))
            .count(),
        1
    );
}

/// A cluster of `size` in which only operators have lost members replaced.
fn strict(size: u32) -> Cluster {
    let tune: harness::Tune = |config| {
        config.auto_replace = false;
        config.replace_permission = Duration::from_secs(20);
    };
    let mut cluster = Cluster::tuned(size, tune);
    cluster.auto_replace = false;
    (1..=size).for_each(|node| {
        cluster.stop(node);
        cluster.start(node).expect("it is empty");
    });
    cluster.connect_all();
    cluster.until("leader", |c| c.leader().is_some());
    cluster
}

fn outcome(cluster: &mut Cluster, asked: u32, node: u32) -> OperatorOutcome {
    cluster.notes.clear();
    let request = OperatorRequest::ReplaceMember {
        node: NodeId(node),
        at_ms: 0,
    };
    cluster.give(asked, HostEvent::Operator(request));
    let told = cluster.notes.iter().find_map(|(_, note)| match note {
        HostNote::Operated { outcome, .. } => Some(outcome.clone()),
        _ => None,
    });
    cluster.deliver();
    told.expect("each request is answered in the same step")
}

#[test]
fn a_permission_asked_of_any_member_outlives_the_leader_and_serves_for_one_replacement() {
    let mut cluster = strict(5);
    let leader = cluster.leader().expect("just seen");
    let (asked, lost) = (leader % 5 + 1, (leader + 1) % 5 + 1);
    cluster.stop(lost);
    cluster.disks[&lost].wipe();
    assert_eq!(outcome(&mut cluster, asked, lost), Ok(OperatorDone::Begun));
    cluster.ticks(4);
    cluster.stop(leader);
    cluster.until("the next leader", |c| c.leader().is_some());
    cluster.start(lost).expect("an empty directory opens");
    cluster.connect_all();
    cluster.until("replaced voter", |c| c.is_voter(lost));
    cluster.start(leader).expect("its directory is whole");
    cluster.connect_all();
    cluster.ticks(20);
    // It comes back empty once more, and nobody was asked again.
    cluster.stop(lost);
    cluster.disks[&lost].wipe();
    cluster.start(lost).expect("an empty directory opens");
    cluster.connect_all();
    cluster.ticks(200);
    assert!(!cluster.is_voter(lost));
    // The lost node itself knows of nobody to pass it on to.
    let unknown = OperatorError::UnknownMember { node: NodeId(lost) };
    assert_eq!(outcome(&mut cluster, lost, lost), Err(unknown));
}

#[test]
fn a_permission_that_nobody_used_in_time_is_over_and_one_that_reaches_no_leader_is_refused() {
    let mut cluster = strict(3);
    let leader = cluster.leader().expect("just seen");
    let (other, lost) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.stop(lost);
    cluster.disks[&lost].wipe();
    assert_eq!(outcome(&mut cluster, leader, lost), Ok(OperatorDone::Begun));
    cluster.ticks(21 * 1_000 / TICK_MS as u32);
    cluster.start(lost).expect("an empty directory opens");
    cluster.connect_all();
    cluster.ticks(200);
    assert!(!cluster.is_voter(lost));
    cluster.stop(leader);
    cluster.ticks(40);
    let node = NodeId(lost);
    assert_eq!(
        outcome(&mut cluster, other, lost),
        Err(OperatorError::NotTaken { node, groups: 1 })
    );
}

#[test]
fn a_permission_on_its_way_into_the_log_is_not_given_again() {
    let mut cluster = strict(3);
    let leader = cluster.leader().expect("just seen");
    let lost = leader % 3 + 1;
    (1..=3).for_each(|other| cluster.disconnect(leader, other));
    let last = |c: &Cluster| c.hosts[&leader].raft(GROUP).expect("a member").last_index();
    let before = last(&cluster);
    for _ in 0..50 {
        assert_eq!(outcome(&mut cluster, leader, lost), Ok(OperatorDone::Begun));
    }
    assert_eq!(last(&cluster), before + 1, "nothing is committed, and one is asked for");
}
