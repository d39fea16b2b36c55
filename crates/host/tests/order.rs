//! Nothing is promised, applied or answered before what it rests on is durable; and what happens when the disk fails.

mod harness;

use std::time::Duration;

use bytes::Bytes;
use harness::{Ask, Cluster, GROUP, Told};
use settle_base::{Mono, NodeId, Prng};
use settle_host::{HostError, HostEvent, HostNote, OperatorRequest, PeerMessage};
use settle_machine::Action;
use settle_raft::{Body, Message};
use settle_storage::{DiskRead, Latency};

fn raft_messages(cluster: &Cluster, from: u32) -> Vec<Message> {
    let of = |(sender, _, message): &(u32, u32, PeerMessage)| match message {
        PeerMessage::Raft(messages) if *sender == from => messages.clone(),
        _ => Vec::new(),
    };
    cluster.sent.iter().flat_map(of).collect()
}

/// Every operation takes `ms`.
fn slow(ms: u64) -> Latency {
    let us = ms * 1_000..ms * 1_000 + 1;
    Latency {
        write_us: us.clone(),
        sync_us: us.clone(),
        other_us: us,
        ..Latency::NONE
    }
}

fn after(cluster: &mut Cluster, ms: u64) {
    cluster.now = cluster.now + Duration::from_millis(ms);
}

#[test]
fn an_acknowledgement_leaves_only_when_the_entry_is_synced() {
    let mut cluster = Cluster::founded(2);
    cluster.ticks(5);
    let leader = cluster.leader().expect("it was founded");
    let follower = 3 - leader;
    cluster.disks[&follower].set_latency(slow(20));
    cluster.sent.clear();
    cluster.propose(leader, "x");
    let acks = |c: &Cluster| {
        let messages = raft_messages(c, follower);
        messages
            .iter()
            .filter(|m| matches!(m.body, Body::AppendReply { result: Ok(_), .. }))
            .count()
    };
    assert_eq!((acks(&cluster), cluster.lines(leader).len()), (0, 0));
    after(&mut cluster, 20);
    cluster.give(follower, HostEvent::DiskReady);
    assert_eq!(acks(&cluster), 0, "written, but not synced");
    after(&mut cluster, 20);
    cluster.give(follower, HostEvent::DiskReady);
    cluster.deliver();
    assert!(acks(&cluster) > 0);
    assert_eq!(cluster.lines(leader).len(), 1);
}

#[test]
fn a_leader_sends_at_once_but_counts_and_applies_its_own_copy_only_when_synced() {
    let mut cluster = Cluster::founded(1);
    cluster.disks[&1].set_latency(slow(20));
    cluster.propose(1, "x");
    after(&mut cluster, 30);
    cluster.give(1, HostEvent::DiskReady);
    assert_eq!(cluster.told, []);
    after(&mut cluster, 10);
    cluster.give(1, HostEvent::DiskReady);
    assert_eq!(cluster.told, [(1, Told::Applied("x".into()))]);

    let mut cluster = Cluster::founded(3);
    cluster.ticks(5);
    let leader = cluster.leader().expect("it was founded");
    cluster.disks[&leader].set_latency(slow(20));
    cluster.sent.clear();
    cluster.give(leader, HostEvent::Request(Ask::Propose("x")));
    let appends = raft_messages(&cluster, leader);
    assert!(
        appends
            .iter()
            .any(|m| matches!(&m.body, Body::Append { entries, .. } if entries.len() == 1))
    );
    cluster.deliver();
    // Both followers hold it durably, so it is committed, but the leader's replica waits for its own disk.
    assert_eq!(cluster.lines(leader).len(), 0);
    after(&mut cluster, 40);
    cluster.give(leader, HostEvent::DiskReady);
    assert_eq!(cluster.lines(leader).len(), 1);
}

#[test]
fn a_vote_leaves_only_when_it_is_synced() {
    let mut cluster = Cluster::founded(3);
    cluster.ticks(5);
    let leader = cluster.leader().expect("it was founded");
    let voters: Vec<u32> = (1..=3).filter(|n| *n != leader).collect();
    voters.iter().for_each(|n| cluster.disks[n].set_latency(slow(20)));
    cluster.stop(leader);
    cluster.sent.clear();
    let votes = |c: &Cluster| {
        let all = voters.iter().flat_map(|n| raft_messages(c, *n));
        all.filter(|m| matches!(m.body, Body::Vote { .. } | Body::VoteReply { granted: true, .. }))
            .count()
    };
    let wants_to_lead = |c: &Cluster| {
        c.hosts
            .values()
            .any(|h| h.raft(GROUP).is_some_and(|r| r.role() == settle_raft::Role::Candidate))
    };
    cluster.until("a candidate", wants_to_lead);
    assert_eq!(votes(&cluster), 0, "not even its own vote is durable");
    cluster.until("a leader", |c| c.leader().is_some());
    assert!(votes(&cluster) >= 2);
}

#[test]
fn a_failed_sync_stops_the_node_and_nothing_more_comes_out() {
    let mut cluster = Cluster::founded(3);
    let leader = cluster.leader().expect("it was founded");
    cluster.ticks(3);
    cluster.disks[&leader].fail_syncs(1);
    cluster.give(leader, HostEvent::Request(Ask::Propose("x")));
    assert!(
        matches!(cluster.fatal[&leader], HostError::Log { .. }),
        "{:?}",
        cluster.fatal
    );
    assert_eq!(cluster.fatal[&leader].code().to_string(), "HO0021");
    cluster.deliver();
    cluster.sent.clear();
    cluster.ticks(40);
    assert_eq!(cluster.sent.iter().filter(|(from, _, _)| *from == leader).count(), 0);
    assert_eq!(cluster.lines(leader).len(), 0);
    // The others had it and go on; the stopped one comes back as what it durably was.
    cluster.stop(leader);
    cluster.start(leader).expect("its directory opens");
    cluster.connect_all();
    cluster.until("the entry everywhere", |c| (1..=3).all(|n| c.lines(n) == ["x"]));
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_recovers_by_itself() {
    let mut cluster = Cluster::founded(1);
    cluster.propose(1, "before");
    let disk = cluster.disks[&1].clone();
    // The segment in use is reserved; a new one cannot be.
    disk.set_capacity(Some(disk.used()));
    for _ in 0..3_000 {
        cluster.propose(1, "filling the segment up with something that has a certain length");
        if cluster.hosts[&1].status(cluster.now).disk_is_full {
            break;
        }
    }
    assert!(cluster.notes.contains(&(1, HostNote::DiskFull)));
    // Trying again at once would only burn the processor.
    let tries = cluster.hosts[&1].wal_stats().full;
    (0..5).for_each(|_| cluster.give(1, HostEvent::DiskReady));
    assert_eq!(cluster.hosts[&1].wal_stats().full, tries);
    cluster.tick();
    (0..5).for_each(|_| cluster.give(1, HostEvent::DiskReady));
    assert_eq!(cluster.hosts[&1].wal_stats().full, tries + 1);
    let lines = cluster.lines(1).len();
    let dropped = cluster.hosts[&1].counters().dropped_disk_full;
    cluster.propose(1, "refused");
    assert_eq!(cluster.hosts[&1].counters().dropped_disk_full, dropped + 1);
    cluster.told.clear();
    cluster.give(1, HostEvent::Request(Ask::Read(7)));
    assert_eq!(cluster.told, [(1, Told::Read { token: 7, lines })]);
    disk.set_capacity(None);
    cluster.ticks(2);
    assert!(cluster.notes.contains(&(1, HostNote::DiskHasSpace)));
    cluster.propose(1, "after");
    assert_eq!(cluster.lines(1).last().expect("a line"), "after");
    assert!(!cluster.lines(1).contains(&"refused".into()));
}

#[test]
fn a_leader_with_a_slow_disk_hands_over() {
    let mut cluster = Cluster::founded(3);
    cluster.ticks(5);
    let leader = cluster.leader().expect("it was founded");
    cluster.disks[&leader].set_latency(slow(60_000));
    cluster.propose(leader, "x");
    cluster.until("another leader", |c| c.leader().is_some_and(|now| now != leader));
    let handed_over = |n: &(u32, HostNote)| n.0 == leader && matches!(n.1, HostNote::HandsOver { .. });
    assert!(cluster.notes.iter().any(handed_over));
}

#[test]
fn a_follower_reads_only_what_the_leader_confirmed_and_it_has_applied() {
    let mut cluster = Cluster::founded(3);
    cluster.ticks(5);
    let leader = cluster.leader().expect("it was founded");
    let follower = leader % 3 + 1;
    cluster.disconnect(leader, follower);
    cluster.propose(leader, "unseen");
    cluster.told.clear();
    cluster.give(follower, HostEvent::Request(Ask::Read(1)));
    cluster.deliver();
    assert_eq!(cluster.told, [], "without the leader it cannot know");
    cluster.connect(leader, follower);
    let answer = |c: &Cluster| {
        c.told
            .iter()
            .find(|(_, told)| !matches!(told, Told::Applied(_)))
            .cloned()
    };
    cluster.until("an answer", |c| answer(c).is_some());
    match answer(&cluster) {
        Some((_, Told::Read { lines, .. })) => assert_eq!(lines, 1),
        other => assert_eq!(other, Some((follower, Told::ReadDropped(1)))),
    }
}

#[test]
fn a_read_of_a_replica_whose_disk_stands_still_is_given_up() {
    let mut cluster = Cluster::founded(3);
    cluster.ticks(5);
    let leader = cluster.leader().expect("it was founded");
    let follower = leader % 3 + 1;
    cluster.disks[&follower].set_latency(slow(60_000));
    cluster.propose(leader, "unseen");
    cluster.ticks(3);
    cluster.told.clear();
    cluster.give(follower, HostEvent::Request(Ask::Read(1)));
    cluster.deliver();
    cluster.ticks(10);
    // The leader has answered; what is missing is the entry.
    assert_eq!(cluster.told, []);
    cluster.until("an end", |c| c.told.contains(&(follower, Told::ReadDropped(1))));
}

#[test]
fn a_replica_that_fell_behind_gets_a_snapshot_and_starts_from_its_file() {
    let mut cluster = Cluster::founded(3);
    cluster.ticks(5);
    let leader = cluster.leader().expect("it was founded");
    let behind = leader % 3 + 1;
    (1..=3).for_each(|n| cluster.disconnect(behind, n));
    for text in ["one", "two", "three", "four"] {
        cluster.propose(leader, text);
    }
    let take = settle_host::OperatorRequest::TakeSnapshot { group: GROUP };
    (1..=3).for_each(|n| cluster.give(n, HostEvent::Operator(take.clone())));
    cluster.until("a snapshot", |c| {
        c.notes.iter().any(|(_, n)| matches!(n, HostNote::SnapshotTaken { .. }))
    });
    cluster.connect_all();
    cluster.until("the lines", |c| c.lines(behind).len() == 4);
    assert_eq!(cluster.lines(behind), cluster.lines(leader));
    assert_eq!(cluster.hosts[&behind].counters().snapshots_installed, 1);
    cluster.propose(leader, "five");

    cluster.stop(behind);
    let mut disk = cluster.disks[&behind].clone();
    let files = disk.list().expect("readable");
    let snapshots: Vec<_> = files
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("snap-"))
        .collect();
    assert_eq!(snapshots.len(), 1, "one snapshot and nothing half: {files:?}");
    cluster.start(behind).expect("its directory opens");
    cluster.connect_all();
    cluster.until("the lines", |c| c.lines(behind).len() == 5);

    cluster.stop(behind);
    let (file, len) = snapshots[0];
    for offset in [0, 30, len / 2, len - 1] {
        let damaged = disk.fork();
        damaged.flip_bit(file, offset, 1);
        let host = harness::open(harness::config(behind, 3), &damaged, 1).expect("the peers have it");
        assert_eq!(host.recovering_groups(), [GROUP], "{offset}: the damage is seen");
    }
}

#[test]
fn a_snapshot_goes_only_when_damage_of_the_log_cannot_bring_it_back() {
    let mut cluster = Cluster::founded(3);
    let leader = cluster.leader().expect("it was founded");
    let hurt = leader % 3 + 1;
    let take = || HostEvent::Operator(OperatorRequest::TakeSnapshot { group: GROUP });
    for text in ["first", "second"] {
        cluster.propose(leader, text);
        cluster.ticks(3);
        cluster.give(hurt, take());
    }
    cluster.stop(hurt);
    let mut disk = cluster.disks[&hurt].clone();
    let files = disk.list().expect("readable");
    let mut logs = files.iter().filter(|(name, _)| name.as_str().ends_with(".seg"));
    let (log, len) = logs.next_back().expect("there is a log");
    let bytes = disk.read(log, 0, *len as usize).expect("readable");
    let last = bytes.iter().rposition(|byte| *byte != 0).expect("it was written to");
    // The last batch says that the second snapshot is there.
    disk.flip_bit(log, last as u64, 0);
    cluster.start(hurt).expect("the first snapshot is there still");
    assert_eq!(cluster.hosts[&hurt].recovering_groups(), [GROUP]);
    cluster.connect_all();
    cluster.until("recovery", |c| c.hosts[&hurt].recovering_groups().is_empty());
    for text in ["third", "fourth"] {
        cluster.propose(leader, text);
        cluster.ticks(3);
    }
    let files = disk.list().expect("readable");
    let snapshots = files.iter().filter(|(name, _)| name.as_str().starts_with("snap-"));
    assert_eq!(snapshots.count(), 1, "one is enough once the log went on: {files:?}");
}

#[test]
fn a_replica_whose_log_tail_was_damaged_does_not_vote_before_it_recovered() {
    let mut cluster = Cluster::founded(3);
    cluster.ticks(5);
    let leader = cluster.leader().expect("it was founded");
    let hurt = leader % 3 + 1;
    cluster.disks[&hurt].set_latency(slow(20));
    cluster.propose(
        leader,
        "a longer text, so that the batch has more than one sector, or at least may be torn",
    );
    after(&mut cluster, 25);
    cluster.give(hurt, HostEvent::DiskReady);
    // Written and not synced: find a power failure that tears it.
    let undamaged = cluster.disks[&hurt].fork();
    cluster.stop(hurt);
    let torn = (0..200).find_map(|seed| {
        let disk = undamaged.fork();
        disk.crash(&mut Prng::new(seed));
        disk.set_latency(Latency::NONE);
        let host = harness::open(harness::config(hurt, 3), &disk.fork(), 1).ok()?;
        (!host.recovering_groups().is_empty()).then_some(disk)
    });
    cluster.disks.insert(hurt, torn.expect("some crash tears the batch"));
    cluster.start(hurt).expect("a damaged tail is no reason to refuse");
    assert_eq!(cluster.hosts[&hurt].recovering_groups(), [GROUP]);
    cluster.tick();
    assert!(cluster.notes.contains(&(hurt, HostNote::Recovering { group: GROUP })));
    // Alone with one other it could elect a leader, were it allowed to.
    cluster.stop(leader);
    let other = 6 - leader - hurt;
    cluster.connect(hurt, other);
    cluster.ticks(200);
    assert_eq!(cluster.leader(), None);
    assert!(cluster.hosts[&hurt].recovering_groups() == [GROUP]);
    cluster.start(leader).expect("its directory opens");
    cluster.connect_all();
    cluster.until("recovery", |c| c.hosts[&hurt].recovering_groups().is_empty());
    assert!(cluster.notes.contains(&(hurt, HostNote::Recovered { group: GROUP })));
}

#[test]
fn a_peer_that_speaks_for_another_replica_is_cut_off_and_changes_nothing() {
    let mut cluster = Cluster::founded(3);
    let leader = cluster.leader().expect("it was founded");
    let [liar, victim] = [leader % 3 + 1, (leader + 1) % 3 + 1];
    let raft = cluster.hosts[&victim].raft(GROUP).expect("a member");
    let (to, term) = (raft.id(), raft.term());
    let from = cluster.hosts[&leader].hello().incarnation;
    let body = Body::Vote {
        last_index: 9,
        last_term: 9,
        force: true,
    };
    let lie = Message {
        group: GROUP,
        from,
        to,
        term: term + 9,
        body,
    };
    let message = PeerMessage::Raft(vec![lie]);
    cluster.give(
        victim,
        HostEvent::Peer {
            from: NodeId(liar),
            message,
        },
    );
    assert_eq!(cluster.closed.len(), 1);
    assert_eq!(cluster.closed[0].1.code().to_string(), "HO0045");
    assert_eq!(cluster.hosts[&victim].raft(GROUP).expect("a member").term(), term);
    assert!(cluster.now > Mono::ZERO);
}

/// What was true when a command was built may be so no more once another has led in between, even if the leader of then
/// leads again (the ABA problem that JRaft guards against with the same field).
#[test]
fn a_command_for_a_term_that_is_over_is_dropped_wherever_it_is_noticed() {
    let mut cluster = Cluster::founded(3);
    let leader = cluster.leader().expect("it was founded");
    let other = leader % 3 + 1;
    let term = cluster.hosts[&leader].raft(GROUP).expect("a member").term();
    let propose = |text: &'static str| {
        let (group, command, expected_term) = (GROUP, Bytes::from_static(text.as_bytes()), Some(term));
        let action = Action::Propose {
            group,
            command,
            expected_term,
        };
        HostEvent::Request(Ask::Act(action))
    };
    cluster.give(other, propose("forwarded in its term"));
    cluster.deliver();
    cluster.give(leader, propose("in its term"));
    cluster.until("both", |c| c.lines(other) == ["forwarded in its term", "in its term"]);
    // Away and back: the same node leads in a later term.
    for (from, to) in [(leader, other), (other, leader)] {
        let (group, to_node) = (GROUP, NodeId(to));
        let request = OperatorRequest::TransferLeader { group, to: to_node };
        cluster.give(from, HostEvent::Operator(request));
        cluster.until("a handover", |c| c.leader() == Some(to));
        cluster.ticks(4);
    }
    cluster.give(leader, propose("late"));
    cluster.give(other, propose("late, not even forwarded"));
    let (group, command, expected_term) = (GROUP, Bytes::from_static(b"late on its way"), Some(term));
    let message = PeerMessage::Propose {
        group,
        command,
        expected_term,
    };
    let from = NodeId(other);
    cluster.give(leader, HostEvent::Peer { from, message });
    cluster.ticks(10);
    assert_eq!(cluster.lines(other).len(), 2);
    let dropped = |node| cluster.hosts[&node].counters().dropped_term_changed;
    assert_eq!((dropped(leader), dropped(other)), (2, 1));
}
