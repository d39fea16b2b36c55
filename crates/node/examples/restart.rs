//! How long a node with a large log and many groups takes from its start to serving: `cargo xtask restart`.
//!
//! Fills a data directory through the host itself (one member, so every entry is committed), drops it, and opens it again:
//! once with everything live, once with all but the tail below snapshots.

#[path = "../tests/counter/mod.rs"]
mod counter;

use std::{
    path::Path,
    sync::mpsc::{Receiver, sync_channel},
    time::Duration,
};

use bytes::Bytes;
use settle_base::{GroupId, Mono, NodeId, PeerId};
use settle_disk_file::{FileDisk, FileDiskOptions};
use settle_host::{BULK_PREFIXES, Host, HostAction, HostConfig, HostEvent};
use settle_machine::{Action, Context, Event, Service};
use settle_telemetry::Clock;

use counter::Counter;

struct Front;

impl Service for Front {
    type Machine = Counter;
    type Request = (GroupId, Bytes);
    type Response = ();

    fn step(&mut self, event: Event<'_, (), (GroupId, Bytes)>, context: &mut Context<'_, Counter, ()>) {
        if let Event::Request((group, command)) = event {
            context.act(Action::Propose {
                group,
                command,
                expected_term: None,
            });
        }
    }
}

struct Node {
    host: Host<Front, FileDisk>,
    bell: Receiver<()>,
    clock: Clock,
    ticked: Mono,
}

impl Node {
    fn open(path: &Path, groups: u64, snapshot_after_bytes: u64) -> Node {
        let clock = Clock::start();
        let (ring, bell) = sync_channel(1);
        let notify = move || {
            let _ = ring.try_send(());
        };
        let options = FileDiskOptions {
            bulk_prefixes: BULK_PREFIXES,
            ..FileDiskOptions::default()
        };
        let disk = FileDisk::open(path, options, notify).expect("the directory is free");
        let mut config = HostConfig::new(NodeId(1), vec![(NodeId(1), "node-1:7070".to_owned())], 7);
        config.groups = (1..=groups).map(GroupId).collect();
        config.snapshot_after_bytes = snapshot_after_bytes;
        config.keep_tail_entries = 0;
        let machine = |_, _| Counter::default();
        let host = Host::open(config, disk, Front, machine, PeerId(1), Mono::ZERO).expect("the directory opens");
        Node {
            host,
            bell,
            clock,
            ticked: Mono::ZERO,
        }
    }

    /// Leads everywhere, and has applied everything.
    fn serves(&self, groups: u64) -> bool {
        let is_ready = |group| {
            let raft = self.host.raft(GroupId(group));
            raft.is_some_and(|raft| raft.applied() == raft.last_index())
        };
        self.host.groups_led() as u64 == groups && (1..=groups).all(is_ready)
    }

    fn give(&mut self, events: impl IntoIterator<Item = HostEvent<(GroupId, Bytes)>>) {
        let now = self.clock.now();
        let mut out = Vec::new();
        for event in events {
            self.host.step(event, now, &mut out);
        }
        self.host.flush(now, &mut out);
        for action in out {
            if let HostAction::Fatal(error) = action {
                panic!("{error:?}");
            }
        }
    }

    fn turn(&mut self) {
        if self.bell.recv_timeout(Duration::from_millis(5)).is_ok() {
            self.give([HostEvent::DiskReady]);
        }
        let now = self.clock.now();
        if now.since(self.ticked) >= Duration::from_millis(50) {
            self.ticked = now;
            self.give([HostEvent::Tick]);
        }
    }
}

fn measure(what: &str, bytes: u64, groups: u64, snapshot_after_bytes: u64) {
    let root = tempfile::tempdir().expect("a temporary directory");
    let mut node = Node::open(root.path(), groups, snapshot_after_bytes);
    while !node.serves(groups) {
        node.turn();
    }
    let line = Bytes::from(vec![7; 1_000]);
    let mut next = 0;
    while node.host.wal_stats().bytes < bytes {
        let burst: Vec<_> = (0..1_000)
            .map(|_| {
                next += 1;
                HostEvent::Request((GroupId(1 + next % groups), line.clone()))
            })
            .collect();
        node.give(burst);
        node.turn();
    }
    while !node.serves(groups) || !node.host.is_written() {
        node.turn();
    }
    let stats = node.host.wal_stats();
    drop(node);
    for round in ["first", "second"] {
        let clock = Clock::start();
        let mut node = Node::open(root.path(), groups, snapshot_after_bytes);
        let opened = clock.now().since(Mono::ZERO);
        while !node.serves(groups) {
            node.turn();
        }
        println!(
            "{what}, {round} start: {groups} groups, {} MiB written, {} MiB of segments, {} recycled: \
             opened in {:.2} s, every group serves after {:.2} s",
            stats.bytes >> 20,
            stats.segment_bytes >> 20,
            stats.segments_recycled,
            opened.as_secs_f64(),
            clock.now().since(Mono::ZERO).as_secs_f64(),
        );
    }
}

fn main() {
    let mut args = std::env::args()
        .skip(1)
        .map(|arg| arg.parse::<u64>().expect("a number"));
    let bytes = args.next().unwrap_or(1 << 30);
    let groups = args.next().unwrap_or(100);
    measure("all live", bytes, groups, u64::MAX);
    measure("snapshots every 1 MiB", bytes, groups, 1 << 20);
}
