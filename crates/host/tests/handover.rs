//! Leadership leaves a node that cannot serve, goes where it is wanted, and stays where it is otherwise.

mod harness;

use std::time::Duration;

use harness::{Cluster, GROUP, open};
use settle_base::{GroupId, NodeId};
use settle_host::{HostEvent, HostNote, MemberRole, OperatorDone, OperatorError, OperatorOutcome, OperatorRequest};
use settle_storage::Latency;

fn ask(cluster: &mut Cluster, node: u32, request: OperatorRequest) -> OperatorOutcome {
    cluster.notes.clear();
    cluster.give(node, HostEvent::Operator(request));
    let outcome = cluster.notes.iter().find_map(|(by, note)| match note {
        HostNote::Operated { outcome, .. } if *by == node => Some(outcome.clone()),
        _ => None,
    });
    cluster.deliver();
    outcome.expect("each request is answered in its step")
}

fn term(cluster: &Cluster, node: u32) -> u64 {
    cluster.hosts[&node].raft(GROUP).expect("a member").term()
}

#[test]
fn a_node_that_is_about_to_stop_hands_over_what_it_leads_and_takes_no_more() {
    let mut cluster = Cluster::resting(3);
    let old = cluster.leader().expect("it was founded");
    let outcome = ask(&mut cluster, old, OperatorRequest::HandOverAll);
    assert_eq!(outcome, Ok(OperatorDone::HandingOver { groups: 1 }));
    let new = cluster.leader().expect("handed over");
    assert_ne!(new, old, "without a tick");
    cluster.ticks(2);
    let to = NodeId(old);
    _ = ask(&mut cluster, new, OperatorRequest::TransferLeader { group: GROUP, to });
    cluster.ticks(3);
    assert!(cluster.leader().is_some_and(|leader| leader != old));
}

/// Those that nobody can take come first in the order of ids.
#[test]
fn a_node_that_is_about_to_stop_hands_over_all_groups_that_another_can_lead() {
    const GROUPS: u64 = 12;
    const ALONE: u64 = 4;
    let mut cluster = Cluster::tuned(3, |config| {
        config.groups = (1..=GROUPS).map(GroupId).collect();
        config.leader_moves_per_second = 0;
        config.limits.hand_overs_per_tick = 2;
    });
    cluster.auto_replace = false;
    cluster.connect_all();
    let led = |c: &Cluster, node: u32| c.hosts[&node].groups_led() as u64;
    let all_led = |c: &Cluster| (1..=3).map(|node| led(c, node)).sum::<u64>() == GROUPS;
    cluster.until("leaders", all_led);
    // One after the other, all to node 1, and the first ones to it alone.
    for group in (1..=GROUPS).map(GroupId) {
        let leads = |c: &Cluster, node: u32| c.hosts[&node].raft(group).is_some_and(|raft| raft.is_leader());
        let leader = (1..=3).find(|node| leads(&cluster, *node)).expect("each has one");
        let to = NodeId(1);
        _ = ask(&mut cluster, leader, OperatorRequest::TransferLeader { group, to });
        cluster.until("leadership", |c| leads(c, 1));
        for node in [2, 3].map(NodeId).into_iter().filter(|_| group.0 <= ALONE) {
            let before = cluster.hosts[&1].raft(group).expect("a member").conf().voters.len();
            let role = MemberRole::Removed;
            let remove = OperatorRequest::ChangeMember { group, node, role };
            cluster.ticks(2);
            assert_eq!(ask(&mut cluster, 1, remove), Ok(OperatorDone::Begun));
            cluster.until("fewer members", |c| {
                let conf = c.hosts[&1].raft(group).expect("a member").conf();
                conf.voters.len() < before && !conf.is_joint()
            });
        }
    }
    cluster.tick();
    assert_eq!(led(&cluster, 1), GROUPS);
    _ = ask(&mut cluster, 1, OperatorRequest::HandOverAll);
    cluster.ticks(GROUPS as u32);
    assert_eq!(led(&cluster, 1), ALONE);
    assert!(all_led(&cluster));
}

/// Its disk syncs so slowly that the others commit what it cannot apply.
#[test]
fn a_leader_that_applies_too_late_hands_over() {
    let mut cluster = Cluster::founded(3);
    let old = cluster.leader().expect("it was founded");
    cluster.stop(old);
    let mut config = harness::config(old, 3);
    config.apply_lag_max = 5;
    config.slow_disk = Duration::from_secs(3_600);
    let host = open(config, &cluster.disks[&old], 0).expect("its directory is whole");
    cluster.hosts.insert(old, host);
    cluster.connect_all();
    cluster.until("another leader", |c| c.leader().is_some());
    let (leader, to) = (cluster.leader().expect("just seen"), NodeId(old));
    cluster.ticks(5);
    assert_eq!(
        ask(
            &mut cluster,
            leader,
            OperatorRequest::TransferLeader { group: GROUP, to }
        ),
        Ok(OperatorDone::Begun)
    );
    cluster.until("the old leader", |c| c.leader() == Some(old));
    cluster.ticks(3);
    let sync_us = 20_000_000..20_000_001;
    cluster.disks[&old].set_latency(Latency {
        sync_us,
        ..Latency::NONE
    });
    (0..20).for_each(|_| cluster.propose(old, "not applied here"));
    cluster.ticks(10);
    assert_ne!(cluster.leader(), Some(old), "{:?}", cluster.notes);
}

#[test]
fn a_flapping_link_raises_no_term_and_moves_no_leader() {
    for is_leaders in [true, false] {
        let mut cluster = Cluster::founded(3);
        let leader = cluster.leader().expect("it was founded");
        cluster.ticks(5);
        let before = term(&cluster, leader);
        let (next, last) = (leader % 3 + 1, (leader + 1) % 3 + 1);
        let (a, b) = if is_leaders { (leader, next) } else { (next, last) };
        for _ in 0..60 {
            cluster.disconnect(a.min(b), a.max(b));
            cluster.ticks(3);
            cluster.connect_all();
            cluster.ticks(3);
        }
        assert_eq!(cluster.leader(), Some(leader));
        assert!((1..=3).all(|node| term(&cluster, node) == before), "link {a} to {b}");
    }
}

#[test]
fn a_survivor_goes_on_alone_and_tells_what_may_be_lost() {
    let mut cluster = Cluster::founded(3);
    cluster.auto_replace = false;
    let leader = cluster.leader().expect("it was founded");
    cluster.propose(leader, "kept");
    let reset = |survivors| OperatorRequest::ResetMembers {
        group: GROUP,
        survivors,
    };
    let survivor = leader % 3 + 1;
    let refused = ask(&mut cluster, survivor, reset(vec![NodeId(survivor)]));
    assert!(matches!(refused, Err(OperatorError::HasQuorum { .. })), "{refused:?}");
    let lost: Vec<u32> = (1..=3).filter(|node| *node != survivor).collect();
    lost.iter().for_each(|node| cluster.stop(*node));
    cluster.ticks(40);
    let refused = ask(&mut cluster, survivor, reset(vec![NodeId(lost[0])]));
    assert!(matches!(refused, Err(OperatorError::Reset { .. })), "{refused:?}");
    let done = ask(&mut cluster, survivor, reset(vec![NodeId(survivor)]));
    let Ok(OperatorDone::Reset(report)) = done else {
        panic!("{done:?}");
    };
    let raft = cluster.hosts[&survivor].raft(GROUP).expect("a member");
    assert_eq!(report.voters, [raft.id()]);
    assert!(report.window.commit <= report.window.last && report.window.last <= raft.last_index());
    assert_eq!(report.lost.iter().map(|lost| lost.node.0).collect::<Vec<_>>(), lost);
    assert!(report.lost.iter().all(|lost| lost.unconnected_for.as_secs() >= 2));
    cluster.until("a leader", |c| c.leader() == Some(survivor) && c.is_voter(survivor));
    cluster.propose(survivor, "and on");
    cluster.ticks(3);
    assert_eq!(cluster.lines(survivor), ["kept", "and on"]);
}

#[test]
fn a_snapshot_does_not_keep_members_that_were_forced_and_never_came_into_force() {
    let mut cluster = Cluster::founded(3);
    cluster.auto_replace = false;
    let leader = cluster.leader().expect("it was founded");
    cluster.propose(leader, "kept");
    let (survivor, other) = (leader, leader % 3 + 1);
    (1..=3)
        .filter(|node| *node != survivor)
        .for_each(|node| cluster.stop(node));
    cluster.ticks(40);
    let survivors = vec![NodeId(survivor), NodeId(other)];
    let reset = OperatorRequest::ResetMembers {
        group: GROUP,
        survivors,
    };
    assert!(matches!(ask(&mut cluster, survivor, reset), Ok(OperatorDone::Reset(_))));
    let voters = |c: &Cluster| c.hosts[&survivor].raft(GROUP).expect("a member").conf().voters.len();
    assert_eq!(voters(&cluster), 2);
    let taken = ask(&mut cluster, survivor, OperatorRequest::TakeSnapshot { group: GROUP });
    assert_eq!(taken, Ok(OperatorDone::Begun));
    cluster.ticks(5);
    cluster.stop(survivor);
    cluster.start(survivor).expect("a sound directory opens");
    assert_eq!(cluster.lines(survivor), ["kept"]);
    assert_eq!(voters(&cluster), 3, "the others did not agree");
}
