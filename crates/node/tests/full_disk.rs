//! A host on a real disk that is full: it stops accepting, serves reads, and goes on by itself once there is space.

mod counter;

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc::{Receiver, sync_channel},
    time::Duration,
};

use bytes::Bytes;
use settle_base::{GroupId, Mono, NodeId, PeerId};
use settle_disk_file::{FileDisk, FileDiskOptions};
use settle_host::{Host, HostAction, HostConfig, HostEvent, HostNote};
use settle_machine::{Action, Context, Event, Service};
use settle_telemetry::Clock;

use counter::Counter;

const GROUP: GroupId = GroupId(1);
const LINE: usize = 4 << 10;
const PATIENCE: Duration = Duration::from_secs(30);

/// A small file system of its own; unmounted in the end.
struct Small(PathBuf);

impl Small {
    /// `None` where nobody may mount.
    fn mount(path: &Path) -> Option<Small> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=8m", "settle-test"]).arg(path);
        let is_mounted = mount.output().is_ok_and(|output| output.status.success());
        is_mounted.then(|| Small(path.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

enum Ask {
    Add,
    Read,
}

#[derive(Default)]
struct Front;

impl Service for Front {
    type Machine = Counter;
    type Request = Ask;
    /// The count that was read.
    type Response = u64;

    fn step(&mut self, event: Event<'_, (), Ask>, context: &mut Context<'_, Counter, u64>) {
        let group = GROUP;
        match event {
            Event::Request(Ask::Add) => {
                let command = Bytes::from(vec![7; LINE]);
                context.act(Action::Propose {
                    group,
                    command,
                    expected_term: None,
                });
            }
            Event::Request(Ask::Read) => context.act(Action::Read { group, token: 1 }),
            Event::Applied { effects, .. } => effects.clear(),
            Event::ReadReady { .. } => {
                let count = context.group(group).expect("it was read").machine.0;
                context.act(Action::Respond(count));
            }
            _ => {}
        }
    }
}

struct Node {
    host: Host<Front, FileDisk>,
    bell: Receiver<()>,
    clock: Clock,
    notes: Vec<HostNote>,
    reads: Vec<u64>,
}

impl Node {
    fn start(path: &Path) -> Node {
        let (ring, bell) = sync_channel(1);
        let notify = move || {
            let _ = ring.try_send(());
        };
        let disk = FileDisk::open(path, FileDiskOptions::default(), notify).expect("the directory is free");
        let mut config = HostConfig::new(NodeId(1), vec![(NodeId(1), "node-1:7070".to_owned())], 7);
        config.wal.segment_bytes = 512 << 10;
        config.snapshot_after_bytes = 1 << 20;
        let machine = |_, _| Counter::default();
        let host = Host::open(config, disk, Front, machine, PeerId(1), Mono::ZERO).expect("the directory opens");
        let mut node = Node {
            host,
            bell,
            clock: Clock::start(),
            notes: Vec::new(),
            reads: Vec::new(),
        };
        node.until("a leader", |node| node.host.groups_led() == 1 && node.applied() > 1);
        node
    }

    fn applied(&self) -> u64 {
        self.host.raft(GROUP).map_or(0, |raft| raft.applied())
    }

    fn count(&self) -> u64 {
        self.host.machine(GROUP).expect("it is here").0
    }

    fn give(&mut self, event: HostEvent<Ask>) {
        let now = self.clock.now();
        let mut out = Vec::new();
        self.host.step(event, now, &mut out);
        self.host.flush(now, &mut out);
        for action in out {
            match action {
                HostAction::Note(note) => self.notes.push(note),
                HostAction::Respond(count) => self.reads.push(count),
                HostAction::Fatal(error) => panic!("{error:?}"),
                _ => {}
            }
        }
    }

    /// Ticks, and takes what the disk has done, until it is so.
    fn until(&mut self, what: &str, done: impl Fn(&Node) -> bool) {
        let deadline = self.clock.now() + PATIENCE;
        while !done(self) {
            assert!(self.clock.now() < deadline, "no {what}; notes {:?}", self.notes);
            if self.bell.recv_timeout(Duration::from_millis(20)).is_ok() {
                self.give(HostEvent::DiskReady);
            }
            self.give(HostEvent::Tick);
        }
    }

    fn has_noted(&self, note: &HostNote) -> bool {
        self.notes.contains(note)
    }
}

#[test]
fn a_full_disk_stops_writes_and_not_reads_and_heals_when_there_is_space() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let Some(_mounted) = Small::mount(root.path()) else {
        assert!(std::env::var_os("CI").is_none(), "CI has to be able to mount a tmpfs");
        eprintln!("skipped: needs the right to mount a tmpfs");
        return;
    };
    let data = root.path().join("data");
    let mut node = Node::start(&data);
    node.give(HostEvent::Request(Ask::Add));
    node.until("first entry", |node| node.count() == 1);

    // Somebody else takes the space.
    let ballast = root.path().join("ballast");
    let mut size = 16 << 20;
    while size >= 4 << 10 {
        use std::io::Write;
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&ballast);
        let written = file.and_then(|mut file| file.write_all(&vec![1; size]));
        if written.is_err() {
            size /= 2;
        }
    }
    let clock = Clock::start();
    while !node.has_noted(&HostNote::DiskFull) {
        assert!(clock.now() < Mono::ZERO + PATIENCE, "a segment has an end");
        node.give(HostEvent::Request(Ask::Add));
        node.give(HostEvent::Tick);
    }
    let counted = node.count();
    let dropped = node.host.counters().dropped_disk_full;
    node.give(HostEvent::Request(Ask::Add));
    assert_eq!(
        node.host.counters().dropped_disk_full,
        dropped + 1,
        "it does not accept"
    );
    node.give(HostEvent::Request(Ask::Read));
    node.until("an answer", |node| !node.reads.is_empty());
    assert!(node.reads[0] >= counted, "it serves reads");
    assert!(!node.has_noted(&HostNote::DiskHasSpace));

    std::fs::remove_file(&ballast).expect("it is ours");
    node.until("space", |node| {
        node.has_noted(&HostNote::DiskHasSpace) && node.host.is_written()
    });
    let counted = node.count();
    node.give(HostEvent::Request(Ask::Add));
    node.until("one more entry", |node| node.count() > counted);

    // What was answered is there after a restart.
    let counted = node.count();
    drop(node);
    let mut again = Node::start(&data);
    // A leader has what it led before only once its own first entry is committed.
    again.until("what was counted", |node| node.count() >= counted);
}
