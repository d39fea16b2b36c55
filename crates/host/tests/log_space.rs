//! The log stays small although some of its groups sleep.

mod harness;

use bytes::Bytes;
use harness::Journal;
use settle_base::{GroupId, GroupTime, Mono, NodeId, PeerId};
use settle_host::{Host, HostAction, HostConfig, HostEvent};
use settle_machine::{Action, Context, Event, HandedEntries, LogEntry, Service};
use settle_raft::Role;
use settle_storage::{DiskRead, MemDisk};

const GROUPS: u64 = 100;
const ASLEEP: GroupId = GroupId(42);
const SEGMENT: u64 = 64 << 10;

struct Many;

impl Service for Many {
    type Machine = Journal;
    type Request = Action<()>;
    type Response = ();

    fn step(&mut self, event: Event<'_, Bytes, Action<()>>, context: &mut Context<'_, Journal, ()>) {
        match event {
            Event::Request(action) => context.act(action),
            Event::Applied { effects, .. } => effects.clear(),
            _ => {}
        }
    }
}

struct Node {
    host: Host<Many, MemDisk>,
    disk: MemDisk,
    now: Mono,
}

impl Node {
    fn start(disk: &MemDisk) -> Node {
        Node::start_with(disk, |_| {})
    }

    fn start_with(disk: &MemDisk, tune: fn(&mut HostConfig)) -> Node {
        let mut config = HostConfig::new(NodeId(1), vec![(NodeId(1), "node-1:7070".to_owned())], 7);
        config.groups = (1..=GROUPS).map(GroupId).collect();
        config.wal.segment_bytes = SEGMENT;
        config.snapshot_after_bytes = 2 << 10;
        config.keep_tail_entries = 0;
        tune(&mut config);
        let machine = |_, _| Journal::default();
        let now = Mono::from_millis(1_000);
        let host = Host::open(config, disk.clone(), Many, machine, PeerId(1), now).expect("the directory opens");
        let disk = disk.clone();
        let mut node = Node { host, disk, now };
        while !(1..=GROUPS).all(|group| node.leads(GroupId(group))) {
            node.tick();
        }
        node
    }

    fn leads(&self, group: GroupId) -> bool {
        self.host
            .raft(group)
            .is_some_and(|raft| raft.role() == Role::Leader && raft.applied() == raft.last_index())
    }

    fn give(&mut self, event: HostEvent<Action<()>>) {
        let mut out = Vec::new();
        self.host.step(event, self.now, &mut out);
        self.host.flush(self.now, &mut out);
        assert!(
            !out.iter().any(|action| matches!(action, HostAction::Fatal(_))),
            "{out:?}"
        );
    }

    fn tick(&mut self) {
        self.now = Mono::from_millis(self.now.as_millis() + 50);
        self.give(HostEvent::Tick);
    }

    fn propose(&mut self, group: GroupId, line: &[u8]) {
        self.give(HostEvent::Request(Action::Propose {
            group,
            command: Bytes::copy_from_slice(line),
            expected_term: None,
        }));
    }

    /// All but one group write.
    fn round(&mut self, round: u32) {
        for group in (1..=GROUPS).map(GroupId).filter(|group| *group != ASLEEP) {
            self.propose(group, &[b'a' + (round % 26) as u8; 200]);
        }
        self.tick();
    }

    fn log_bytes(&self) -> u64 {
        let files = self.disk.clone().list().expect("listable");
        let logs = files.iter().filter(|(name, _)| name.as_str().ends_with(".seg"));
        logs.map(|(_, len)| len).sum()
    }

    fn lines(&self, group: GroupId) -> Vec<Bytes> {
        self.host.machine(group).expect("it is here").lines.clone()
    }
}

#[test]
fn one_of_a_hundred_groups_asleep_does_not_keep_the_log_and_is_not_woken() {
    let disk = MemDisk::new(1);
    let mut node = Node::start(&disk);
    node.propose(ASLEEP, b"good night");
    let raft = node.host.raft(ASLEEP).expect("it is here");
    let (term, last, commit) = (raft.term(), raft.last_index(), raft.commit());
    let mut largest = 0;
    for round in 0..100u32 {
        node.round(round);
        largest = largest.max(node.log_bytes());
    }
    assert!(
        node.host.wal_stats().segments_removed > 20,
        "{:?}",
        node.host.wal_stats()
    );
    // Live are at most 2 KiB of each group and what its snapshot takes to be written; two segments are always granted.
    let live = GROUPS * (4 << 10);
    assert!(largest <= (2 * live).max(2 * SEGMENT) + 3 * SEGMENT, "{largest} bytes");
    let rewritten = node.host.counters().groups_rewritten;
    assert!(rewritten > 0, "it slept through many segments");
    let raft = node.host.raft(ASLEEP).expect("it is here");
    assert_eq!(
        (raft.term(), raft.last_index(), raft.commit()),
        (term, last, commit),
        "it never woke"
    );
    let counters = node.host.counters();
    assert_eq!(counters.elections_won, GROUPS, "nobody was disturbed");

    drop(node);
    disk.kill();
    let node = Node::start(&disk);
    assert_eq!(node.lines(ASLEEP), ["good night"]);
    assert_eq!(node.lines(GroupId(1)).len(), 100);
}

#[test]
fn a_large_sleeper_takes_a_snapshot_instead() {
    let disk = MemDisk::new(1);
    let mut node = Node::start_with(&disk, |config| config.log_rewrite_bytes_max = 1_000);
    node.propose(ASLEEP, &[b'z'; 1_500]);
    for round in 0..60u32 {
        node.round(round);
    }
    let files = disk.clone().list().expect("listable");
    let of_sleeper = format!("snap-{:x}-", ASLEEP.0);
    assert!(
        files.iter().any(|(name, _)| name.as_str().starts_with(&of_sleeper)),
        "{files:?}"
    );
    drop(node);
    disk.kill();
    assert_eq!(Node::start(&disk).lines(ASLEEP), [[b'z'; 1_500].as_slice()]);
}

/// Tells it of another history.
fn stop(node: &mut Node, group: GroupId) {
    let raft = node.host.raft(group).expect("it is here");
    let (last, term) = (raft.last_index(), raft.term());
    let (kind, time, data) = (0, GroupTime(0), Bytes::new());
    let entry = LogEntry {
        index: last,
        term: term + 1,
        kind,
        time,
        data,
    };
    node.give(HostEvent::Request(Action::HandEntries(HandedEntries {
        group,
        prev_index: last - 1,
        prev_term: term,
        entries: vec![entry],
    })));
    assert!(node.host.stopped_groups().any(|(stopped, _)| stopped == group));
}

#[test]
fn a_large_group_that_was_stopped_does_not_keep_the_log() {
    let disk = MemDisk::new(1);
    let mut node = Node::start_with(&disk, |config| config.log_rewrite_bytes_max = 1_000);
    node.propose(ASLEEP, &[b'z'; 1_500]);
    stop(&mut node, ASLEEP);
    for round in 0..100 {
        node.round(round);
    }
    let stats = node.host.wal_stats();
    assert!(stats.segments_removed > 20, "{stats:?}");
    drop(node);
    disk.kill();
    assert_eq!(Node::start(&disk).lines(ASLEEP), [[b'z'; 1_500].as_slice()]);
}

#[test]
fn a_stopped_group_that_no_batch_holds_does_not_keep_others_from_being_written_again() {
    let disk = MemDisk::new(1);
    let mut node = Node::start_with(&disk, |config| {
        config.log_rewrite_bytes_max = 1_000;
        config.wal.max_batch_bytes = 16 << 10;
        config.snapshot_after_bytes = 64 << 10;
    });
    let huge = GroupId(1);
    (0..3).for_each(|_| node.propose(huge, &[b'z'; 7_000]));
    node.propose(ASLEEP, &[b'z'; 1_500]);
    stop(&mut node, huge);
    stop(&mut node, ASLEEP);
    for round in 0..20 {
        node.round(round);
    }
    assert!(node.host.wal_stats().segments_begun > 5);
    for _ in 0..3 {
        node.propose(GroupId(2), b"one more tick");
        node.tick();
    }
    assert!(node.host.counters().groups_rewritten > 0);
}
