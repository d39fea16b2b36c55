//! Groups created and destroyed while their nodes run, machines that wait, logs that are kept.

mod harness;

use std::time::Duration;

use bytes::Bytes;
use harness::{Ask, Cluster, GROUP, Told, config, open};
use settle_base::{GroupId, GroupTime, Mono, Prng};
use settle_host::{HostEvent, HostNote, OperatorRequest};
use settle_machine::{Action, Birth, CreateOutcome, HandedEntries, LogEntry, NewGroup};
use settle_storage::{DiskRead, Latency, MemDisk};

const CHILD: GroupId = GroupId(7);

fn act(cluster: &mut Cluster, node: u32, action: Action<Told>) {
    cluster.give(node, HostEvent::Request(Ask::Act(action)));
    cluster.deliver();
}

/// A child of the founded group, as every replica of it would create it.
fn child(cluster: &Cluster) -> NewGroup {
    let members = cluster.hosts[&1].members(GROUP).expect("a founded group").encoded;
    let birth = Birth {
        members,
        index: 5,
        term: 5,
        time: GroupTime(9),
        chunks: vec![Bytes::from_static(b"born\n")],
        campaigns: false,
    };
    NewGroup {
        group: CHILD,
        birth: Some(birth),
    }
}

fn create_everywhere(cluster: &mut Cluster) {
    let new = child(cluster);
    for node in 1..=3 {
        act(cluster, node, Action::Create(Box::new(new.clone())));
    }
    let is_here = |c: &Cluster| (1..=3).all(|n| c.hosts[&n].raft(CHILD).is_some_and(|r| !r.leader().is_none()));
    cluster.until("a leader of the child", is_here);
}

fn outcomes(cluster: &Cluster, node: u32) -> Vec<CreateOutcome> {
    let told = cluster.told.iter().filter(|(n, _)| *n == node);
    let outcome = |told: &Told| match told {
        Told::Created(CHILD, outcome) => Some(*outcome),
        _ => None,
    };
    told.filter_map(|(_, told)| outcome(told)).collect()
}

fn restart(cluster: &mut Cluster, node: u32) {
    cluster.stop(node);
    cluster.start(node).expect("a sound directory opens");
    cluster.connect_all();
}

#[test]
fn a_group_created_on_all_nodes_begins_with_its_state_and_survives_restarts() {
    let mut cluster = Cluster::founded(3);
    create_everywhere(&mut cluster);
    for node in 1..=3 {
        assert_eq!(outcomes(&cluster, node), [CreateOutcome::Created]);
        restart(&mut cluster, node);
        let machine = cluster.hosts[&node].machine(CHILD).expect("it was durable");
        assert_eq!(machine.lines, [Bytes::from_static(b"born")]);
    }
    let again = child(&cluster);
    act(&mut cluster, 1, Action::Create(Box::new(again)));
    assert_eq!(outcomes(&cluster, 1), [CreateOutcome::Created, CreateOutcome::Exists]);
}

#[test]
fn a_replica_that_missed_the_beginning_waits_empty_for_a_snapshot() {
    let mut cluster = Cluster::founded(3);
    let new = child(&cluster);
    for node in 1..=2 {
        act(&mut cluster, node, Action::Create(Box::new(new.clone())));
    }
    cluster.until("a leader of the child", |c| {
        c.hosts[&1].raft(CHILD).is_some_and(|r| !r.leader().is_none())
    });
    assert!(cluster.hosts[&3].raft(CHILD).is_none(), "messages create nothing");
    let empty = NewGroup {
        group: CHILD,
        birth: None,
    };
    act(&mut cluster, 3, Action::Create(Box::new(empty)));
    cluster.until("the state", |c| {
        c.hosts[&3].machine(CHILD).is_some_and(|m| !m.lines.is_empty())
    });
}

fn damage_last_batch(disk: &MemDisk) {
    let mut disk = disk.clone();
    let files = disk.list().expect("readable");
    let mut logs = files.iter().filter(|(name, _)| name.as_str().ends_with(".seg"));
    let (log, len) = logs.next_back().expect("there is a log");
    let bytes = disk.read(log, 0, *len as usize).expect("readable");
    let last = bytes.iter().rposition(|byte| *byte != 0).expect("it was written to");
    disk.flip_bit(log, last as u64, 0);
}

#[test]
fn a_group_that_damage_took_whole_is_created_again_as_one_that_is_recovering() {
    for is_empty in [false, true] {
        let mut cluster = Cluster::founded(3);
        cluster.ticks(5);
        let whole = child(&cluster);
        let birth = whole.birth.clone().filter(|_| !is_empty);
        let new = NewGroup { birth, ..whole.clone() };
        act(&mut cluster, 1, Action::Create(Box::new(new.clone())));
        cluster.until("its creation", |c| outcomes(c, 1) == [CreateOutcome::Created]);
        cluster.stop(1);
        damage_last_batch(&cluster.disks[&1]);
        // A start that ends before it is created again knows it as well as the next one.
        for _ in 0..2 {
            restart(&mut cluster, 1);
            assert!(cluster.hosts[&1].raft(CHILD).is_none());
            assert_eq!(cluster.hosts[&1].recovering_groups(), [CHILD]);
        }
        act(&mut cluster, 1, Action::Create(Box::new(new.clone())));
        cluster.until("its creation", |c| outcomes(c, 1).len() == 2);
        for _ in 0..2 {
            let raft = cluster.hosts[&1].raft(CHILD).expect("it is here again");
            assert!(raft.is_recovering());
            restart(&mut cluster, 1);
        }
        for node in 2..=3 {
            act(&mut cluster, node, Action::Create(Box::new(whole.clone())));
        }
        cluster.until("recovery", |c| c.hosts[&1].recovering_groups().is_empty());
        cluster.until("its state", |c| {
            c.hosts[&1].machine(CHILD).is_some_and(|m| !m.lines.is_empty())
        });
        cluster.ticks(5);
        restart(&mut cluster, 1);
        assert_eq!(cluster.hosts[&1].recovering_groups(), []);
    }
}

#[test]
fn a_group_whose_creation_was_never_told_is_not_taken_for_one_that_damage_took() {
    for is_empty in [false, true] {
        let (mut untold, mut told) = (0, 0);
        let mut cluster = Cluster::founded(3);
        cluster.ticks(5);
        let mut new = child(&cluster);
        new.birth = new.birth.filter(|_| !is_empty);
        let us = |us| us..us + 1;
        cluster.disks[&1].set_latency(Latency {
            write_us: us(10),
            sync_us: us(10),
            other_us: us(10),
            ..Latency::NONE
        });
        cluster.give(1, HostEvent::Request(Ask::Act(Action::Create(Box::new(new.clone())))));
        for seed in 0.. {
            let disk = cluster.disks[&1].fork();
            let is_idle = disk.next_due().is_none();
            disk.crash(&mut Prng::new(seed));
            disk.set_latency(Latency::NONE);
            let after = |disk: &MemDisk| open(config(1, 3), disk, 1).expect("a damaged tail is no reason to refuse");
            let is_in_log = after(&disk.fork()).raft(CHILD).is_some();
            damage_last_batch(&disk);
            let mut host = after(&disk);
            let is_traced = host.recovering_groups().contains(&CHILD);
            if !is_in_log {
                untold += 1;
                assert!(!is_traced, "moment {seed}: it never was");
            }
            if !outcomes(&cluster, 1).is_empty() {
                told += 1;
                assert!(is_traced, "moment {seed}: it may have voted");
            }
            // Either way it can be there.
            for _ in 0..20 {
                let create = Action::Create(Box::new(new.clone()));
                host.step(HostEvent::Request(Ask::Act(create)), Mono(0), &mut Vec::new());
                host.flush(Mono(0), &mut Vec::new());
            }
            let raft = host.raft(CHILD).expect("it was created");
            assert_eq!(raft.is_recovering(), is_traced, "moment {seed}");
            if is_idle {
                break;
            }
            cluster.now.0 += 5;
            cluster.give(1, HostEvent::DiskReady);
        }
        assert!(untold > 5 && told > 0, "{untold} {told}");
    }
}

#[test]
fn a_group_that_is_new_is_created_whole_although_the_log_was_damaged() {
    let mut cluster = Cluster::founded(3);
    cluster.ticks(5);
    cluster.stop(1);
    damage_last_batch(&cluster.disks[&1]);
    restart(&mut cluster, 1);
    let new = child(&cluster);
    act(&mut cluster, 1, Action::Create(Box::new(new)));
    cluster.until("its creation", |c| outcomes(c, 1) == [CreateOutcome::Created]);
    assert!(!cluster.hosts[&1].raft(CHILD).expect("it is here").is_recovering());
}

#[test]
fn a_group_that_is_told_to_be_destroyed_stays_so_when_the_last_batch_of_an_idle_log_is_damaged() {
    let mut cluster = Cluster::founded(3);
    cluster.ticks(5);
    let new = child(&cluster);
    act(&mut cluster, 1, Action::Create(Box::new(new)));
    for node in 2..=3 {
        cluster.stop(node);
    }
    act(&mut cluster, 1, Action::Destroy { group: CHILD });
    cluster.until("its end", |c| c.told.contains(&(1, Told::Destroyed(CHILD))));
    cluster.stop(1);
    damage_last_batch(&cluster.disks[&1]);
    cluster.start(1).expect("a damaged tail is no reason to refuse");
    assert!(cluster.hosts[&1].is_tombstoned(CHILD));
}

#[test]
fn a_destroyed_group_never_comes_back() {
    let mut cluster = Cluster::founded(3);
    create_everywhere(&mut cluster);
    act(&mut cluster, 1, Action::Destroy { group: CHILD });
    cluster.until("its end", |c| c.told.contains(&(1, Told::Destroyed(CHILD))));
    let new = child(&cluster);
    act(&mut cluster, 1, Action::Create(Box::new(new.clone())));
    restart(&mut cluster, 1);
    cluster.ticks(40);
    act(&mut cluster, 1, Action::Create(Box::new(new)));
    cluster.ticks(2);
    use CreateOutcome::{Created, Tombstoned};
    assert_eq!(outcomes(&cluster, 1), [Created, Tombstoned, Tombstoned]);
    assert!(cluster.hosts[&1].raft(CHILD).is_none());
    let files = cluster.disks[&1].fork().list().expect("readable");
    assert!(
        files.iter().all(|(f, _)| !f.as_str().starts_with("snap-7-")),
        "{files:?}"
    );
}

#[test]
fn a_birth_that_makes_no_sense_here_is_refused() {
    let mut cluster = Cluster::founded(3);
    let sound = child(&cluster);
    let spoil: [fn(&mut Birth); 4] = [
        |birth| birth.members = Bytes::from_static(b"nobody"),
        |birth| birth.index = 0,
        |birth| birth.term = 0,
        |birth| birth.chunks = vec![Bytes::from_static(b"no end")],
    ];
    for spoil in spoil {
        let mut new = sound.clone();
        spoil(new.birth.as_mut().expect("a birth"));
        act(&mut cluster, 1, Action::Create(Box::new(new)));
    }
    assert_eq!(outcomes(&cluster, 1), [CreateOutcome::Refused; 4]);
}

#[test]
fn a_held_log_outlives_no_snapshot_until_it_is_released() {
    let mut cluster = Cluster::founded(3);
    cluster.propose(1, "first");
    cluster.ticks(2);
    let (group, holder) = (GROUP, 1);
    let index = cluster.hosts[&1].raft(GROUP).expect("founded").applied();
    let taken = |c: &Cluster| {
        c.notes
            .iter()
            .any(|(n, note)| *n == 1 && matches!(note, HostNote::SnapshotTaken { .. }))
    };
    let take = || HostEvent::Operator(OperatorRequest::TakeSnapshot { group });
    act(&mut cluster, 1, Action::Hold { group, holder, index });
    cluster.give(1, take());
    cluster.ticks(5);
    assert!(!taken(&cluster));
    act(&mut cluster, 1, Action::Release { group, holder });
    cluster.give(1, take());
    cluster.until("a snapshot", taken);
}

#[test]
fn a_machine_that_needs_something_stops_there_until_it_is_given() {
    let mut cluster = Cluster::founded(3);
    for text in ["before", "needs help", "after"] {
        cluster.propose(1, text);
    }
    cluster.until("pauses", |c| {
        (1..=3).all(|n| c.lines(n).len() == 1 && paused(c, n).is_some())
    });
    cluster.ticks(20);
    let (index, needs) = paused(&cluster, 2).expect("just seen");
    assert_eq!(needs, "help");
    let given = Bytes::from_static(b"given");
    for node in [1, 2] {
        let (group, given) = (GROUP, given.clone());
        let wrong = index + 1;
        act(
            &mut cluster,
            node,
            Action::Resume {
                group,
                index: wrong,
                given: given.clone(),
            },
        );
        assert_eq!(cluster.lines(node).len(), 1);
        act(&mut cluster, node, Action::Resume { group, index, given });
        assert_eq!(cluster.lines(node), ["before", "given", "after"]);
    }
    // What was not given before a restart is asked for again.
    cluster.told.clear();
    restart(&mut cluster, 3);
    cluster.until("its question", |c| paused(c, 3).is_some());
    assert_eq!(cluster.lines(3), ["before"]);
}

/// For good, if need be: what it waits for may never come.
#[test]
fn what_waits_for_a_paused_machine_is_bounded_and_nothing_of_it_is_lost() {
    const LINE: &str = "a line of no great length, which is said again and again while nobody can apply any of them";
    const BYTES_MAX: usize = 16 << 10;
    let mut cluster = Cluster::tuned(3, |config| config.limits.paused_log_bytes_max = BYTES_MAX);
    cluster.connect_all();
    cluster.until("a leader", |c| c.leader().is_some());
    let leader = cluster.leader().expect("it was just seen");
    cluster.propose(leader, "needs help");
    cluster.until("pauses", |c| (1..=3).all(|n| paused(c, n).is_some()));
    let (index, _) = paused(&cluster, leader).expect("just seen");
    let waiting = |cluster: &Cluster, node: u32| {
        let raft = cluster.hosts[&node].raft(GROUP).expect("founded");
        raft.entries(index..=raft.last_index())
            .map(|entry| entry.size())
            .sum::<usize>()
    };
    for _ in 0..1_000 {
        cluster.propose(leader, LINE);
    }
    // A follower that is given what it needs takes what the others have, and no more.
    let follower = leader % 3 + 1;
    let given = Bytes::from_static(b"given");
    let resume = |cluster: &mut Cluster, node: u32| {
        let (group, given) = (GROUP, given.clone());
        act(cluster, node, Action::Resume { group, index, given });
    };
    resume(&mut cluster, follower);
    cluster.ticks(20);
    for node in 1..=3 {
        let bytes = waiting(&cluster, node);
        assert!(
            (BYTES_MAX..2 * BYTES_MAX).contains(&bytes),
            "{bytes} bytes at node {node}"
        );
    }
    assert!(cluster.hosts[&leader].counters().dropped_full > 500);
    (1..=3).for_each(|node| resume(&mut cluster, node));
    cluster.propose(leader, "and on");
    cluster.until("everything", |c| {
        (1..=3).all(|n| c.lines(n).last().is_some_and(|line| line == "and on"))
    });
    assert_eq!(cluster.lines(1), cluster.lines(2));
    assert_eq!(cluster.lines(1), cluster.lines(3));
    assert!(cluster.lines(1).iter().filter(|line| *line == LINE).count() > 50);
}

fn paused(cluster: &Cluster, node: u32) -> Option<(u64, Bytes)> {
    let told = cluster.told.iter().filter(|(n, _)| *n == node);
    let mut pauses = told.filter_map(|(_, told)| match told {
        Told::Paused(index, needs) => Some((*index, needs.clone())),
        _ => None,
    });
    pauses.next_back()
}

/// What cannot be is handed to the child's leader: of two histories one is wrong, and nobody can tell which.
#[test]
fn entries_that_contradict_what_is_committed_stop_the_group_there_and_nothing_else() {
    for is_resting in [false, true] {
        let mut cluster = Cluster::founded(3);
        create_everywhere(&mut cluster);
        let led_by = |c: &Cluster| (1..=3).find(|n| c.hosts[n].raft(CHILD).is_some_and(|raft| raft.is_leader()));
        let wrong = led_by(&cluster).expect("it has a leader");
        if is_resting {
            cluster.until("rest", |c| {
                (1..=3).all(|n| c.hosts[&n].raft(CHILD).is_some_and(|r| r.is_resting()))
            });
        } else {
            cluster.ticks(2);
        }
        let entry = LogEntry {
            index: 6,
            term: 5,
            kind: 0,
            time: GroupTime(10),
            data: Bytes::from_static(b"another history"),
        };
        let handed = HandedEntries {
            group: CHILD,
            prev_index: 5,
            prev_term: 5,
            entries: vec![entry],
        };
        act(&mut cluster, wrong, Action::HandEntries(handed));
        assert!(cluster.fatal.is_empty(), "{:?}", cluster.fatal);
        let is_told = |(n, note): &(u32, HostNote)| {
            *n == wrong
                && matches!(note, HostNote::GroupStopped { group: CHILD, reason } if reason.code().to_string() == "HO0032")
        };
        assert!(cluster.notes.iter().any(is_told), "{:?}", cluster.notes);
        let host = &cluster.hosts[&wrong];
        assert!(host.raft(CHILD).is_none() && host.view(CHILD, cluster.now).is_none());
        assert_eq!((host.group_counts().stopped, host.stopped_groups().count()), (1, 1));
        // The others go on with it, and it with the others.
        cluster.until("another leader", |c| led_by(c).is_some());
        let other = led_by(&cluster).expect("just seen");
        assert_ne!(other, wrong);
        let propose = Action::Propose {
            group: CHILD,
            command: Bytes::from_static(b"on"),
            expected_term: None,
        };
        act(&mut cluster, other, propose);
        cluster.until("its entry", |c| {
            c.hosts[&other].machine(CHILD).is_some_and(|m| m.lines.len() == 2)
        });
        cluster.propose(wrong, "and the node serves");
        cluster.until("its entry", |c| c.lines(wrong).len() == 1);
        // It is not made anew; a restart tries again, and destroying it ends it.
        let again = child(&cluster);
        act(&mut cluster, wrong, Action::Create(Box::new(again)));
        assert_eq!(outcomes(&cluster, wrong).last(), Some(&CreateOutcome::Exists));
        restart(&mut cluster, wrong);
        cluster.until("the others' state", |c| {
            c.hosts[&wrong].machine(CHILD).is_some_and(|m| m.lines.len() == 2)
        });
    }
}

#[test]
fn a_replica_that_is_cut_off_is_brought_to_the_end_by_entries_from_elsewhere() {
    let mut cluster = Cluster::founded(3);
    cluster.propose(1, "first");
    cluster.ticks(2);
    let leader = cluster.leader().expect("founded");
    let lagging = (1..=3).find(|n| *n != leader).expect("three");
    (1..=3).for_each(|other| cluster.disconnect(lagging, other));
    cluster.propose(leader, "second");
    cluster.ticks(2);
    assert_eq!((cluster.lines(leader).len(), cluster.lines(lagging).len()), (2, 1));
    let raft = cluster.hosts[&leader].raft(GROUP).expect("founded");
    let prev_index = raft.last_index() - 1;
    let last = raft
        .entries(raft.last_index()..=raft.last_index())
        .next()
        .expect("it leads")
        .clone();
    let entries = vec![LogEntry {
        index: last.index,
        term: last.term,
        kind: 0,
        time: last.time,
        data: last.data,
    }];
    let prev_term = raft.term_at(prev_index).expect("in memory");
    let handed = HandedEntries {
        group: GROUP,
        prev_index,
        prev_term,
        entries,
    };
    act(&mut cluster, lagging, Action::HandEntries(handed));
    cluster.ticks(2);
    assert_eq!(cluster.lines(lagging), ["first", "second"]);
}

/// Each of `nodes` goes on with what it waits for.
fn resume(cluster: &mut Cluster, nodes: &[u32]) {
    let given = Bytes::from_static(b"given");
    for &node in nodes {
        let (index, _) = paused(cluster, node).expect("it waits");
        let (group, given) = (GROUP, given.clone());
        act(cluster, node, Action::Resume { group, index, given });
    }
}

/// All three wait, and `lines` come behind it. Also who leads, and a follower.
fn waiting(lines: &[&'static str]) -> (Cluster, u32, u32) {
    let mut cluster = Cluster::founded(3);
    cluster.until("all members", |c| (1..=3).all(|node| c.is_voter(node)));
    let leader = cluster.leader().expect("it was founded");
    cluster.propose(leader, "before");
    cluster.propose(leader, "needs help");
    lines.iter().for_each(|line| cluster.propose(leader, line));
    cluster.until("pauses", |c| (1..=3).all(|n| paused(c, n).is_some()));
    (cluster, leader, leader % 3 + 1)
}

fn take_state(cluster: &mut Cluster, node: u32) {
    let (index, _) = paused(cluster, node).expect("it waits");
    act(cluster, node, Action::TakeState { group: GROUP, index });
}

#[test]
fn a_machine_that_waits_for_what_never_comes_goes_on_from_the_leaders_state() {
    let (mut cluster, leader, waits) = waiting(&["after"]);
    let other = 6 - leader - waits;
    // As long as the leader waits itself, it has nothing to give.
    take_state(&mut cluster, waits);
    cluster.ticks(20);
    assert_eq!(cluster.lines(waits), ["before"]);
    resume(&mut cluster, &[leader, other]);
    take_state(&mut cluster, waits);
    cluster.until("the state", |c| c.lines(waits) == ["before", "given", "after"]);
    assert_eq!(cluster.hosts[&waits].counters().states_taken, 1);
    assert_eq!(cluster.hosts[&waits].waiting_groups().count(), 0);
    // What comes too late is for an entry that is behind it.
    resume(&mut cluster, &[waits]);
    cluster.propose(leader, "and on");
    let all = ["before", "given", "after", "and on"];
    cluster.until("every line", |c| (1..=3).all(|n| c.lines(n) == all));
    cluster.ticks(5);
    restart(&mut cluster, waits);
    cluster.until("every line again", |c| c.lines(waits) == all);
}

#[test]
fn what_is_given_while_the_leaders_state_is_on_its_way_is_applied_once() {
    for steps in 0..60 {
        let (mut cluster, leader, waits) = waiting(&["after"]);
        let other = 6 - leader - waits;
        resume(&mut cluster, &[leader, other]);
        let slow = Latency {
            write_us: 400..401,
            sync_us: 400..401,
            other_us: 400..401,
            ..Latency::NONE
        };
        cluster.disks[&waits].set_latency(slow);
        take_state(&mut cluster, waits);
        // Behind the state that is on its way; the second tells that the first is committed.
        for _ in 0..2 {
            cluster.propose(leader, "and on");
            cluster.deliver();
        }
        for _ in 0..steps {
            cluster.now = cluster.now + Duration::from_micros(100);
            cluster.give(waits, HostEvent::DiskReady);
            cluster.deliver();
        }
        resume(&mut cluster, &[waits]);
        let all = ["before", "given", "after", "and on", "and on"];
        cluster.until("every line", |c| (1..=3).all(|n| c.lines(n) == all));
        cluster.ticks(2);
        assert!(cluster.fatal.is_empty(), "{:?}", cluster.fatal);
        assert_eq!(cluster.lines(waits), all);
    }
}

#[test]
fn a_leader_that_waits_for_what_never_comes_hands_over_and_takes_the_state_of_the_next() {
    let (mut cluster, leader, other) = waiting(&[]);
    let third = 6 - leader - other;
    resume(&mut cluster, &[other, third]);
    let is_whole = |c: &Cluster| c.lines(leader) == ["before", "given"];
    for _ in 0..100 {
        if !is_whole(&cluster) {
            take_state(&mut cluster, leader);
            cluster.ticks(2);
        }
    }
    assert!(is_whole(&cluster), "{:?}", cluster.lines(leader));
}
