//! Ten thousand groups on three nodes: what an idle replica costs, how soon a sleeping group serves, and how soon the
//! thousands that a dead node led do. Time is by hand, so nothing here depends on the machine.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    collections::{BTreeMap, BTreeSet, VecDeque},
};

use bytes::Bytes;
use settle_base::{GroupId, Mono, NodeId, PeerId};
use settle_host::{GroupCounts, Host, HostAction, HostConfig, HostEvent, HostNote, PeerMessage};
use settle_machine::{Action, ApplyError, Context, EntryMeta, Event, LoadError, Service, SnapshotChunks, StateMachine};
use settle_storage::MemDisk;

const GROUPS: u64 = 10_000;
const NODES: u32 = 3;
const TICK_MS: u64 = 50;
/// What a replica in which nothing happens may allocate, its machine and the log's index of it included. The promise is 4 KiB
/// of resident memory, which the allocator's overhead and the holes in its heap share (`cargo xtask many-groups`).
const REPLICA_BYTES_MAX: usize = 2 << 10;

thread_local! {
    /// Of this test: others run beside it.
    static LIVE_BYTES: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // At a thread's end nobody asks any more.
    let _ = LIVE_BYTES.try_with(|live| live.set(live.get() + bytes));
}

struct Counting;

// SAFETY: everything is the system allocator's; counting touches no memory that it hands out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts its commands.
#[derive(Default)]
struct Counter(u64);

impl StateMachine for Counter {
    type Effect = u64;

    fn check(&self, _: &Bytes) -> Result<(), ApplyError> {
        Ok(())
    }

    fn apply(&mut self, _: EntryMeta, _: &Bytes, effects: &mut Vec<u64>) -> Result<(), ApplyError> {
        self.0 += 1;
        effects.push(self.0);
        Ok(())
    }

    fn begin_snapshot(&self) -> SnapshotChunks {
        Box::new(std::iter::once(Bytes::copy_from_slice(&self.0.to_le_bytes())))
    }

    fn load_chunk(&mut self, _: Bytes) -> Result<(), LoadError> {
        let reason = "nothing here is behind by a snapshot".to_owned();
        Err(LoadError { reason })
    }

    fn finish_load(&mut self) -> Result<(), LoadError> {
        Ok(())
    }

    fn state_hash(&self) -> u64 {
        self.0
    }
}

/// Proposes to the group that it is asked about, and tells when something was applied there.
struct Front;

impl Service for Front {
    type Machine = Counter;
    type Request = GroupId;
    type Response = GroupId;

    fn step(&mut self, event: Event<'_, u64, GroupId>, context: &mut Context<'_, Counter, GroupId>) {
        match event {
            Event::Request(group) => context.act(Action::Propose {
                group,
                command: Bytes::from_static(b"one more"),
                expected_term: None,
            }),
            Event::Applied { group, .. } => context.act(Action::Respond(group)),
            _ => {}
        }
    }
}

struct Nodes {
    now: Mono,
    disks: BTreeMap<u32, MemDisk>,
    hosts: BTreeMap<u32, Host<Front, MemDisk>>,
    wires: VecDeque<(u32, u32, PeerMessage)>,
    applied: BTreeMap<u32, BTreeSet<GroupId>>,
    messages: usize,
    pulses: usize,
    elections: usize,
}

impl Nodes {
    fn founded(groups: u64, leader_moves_per_second: u32) -> Nodes {
        let mut nodes = Nodes {
            now: Mono::from_millis(1_000),
            disks: (1..=NODES).map(|node| (node, MemDisk::new(node.into()))).collect(),
            hosts: BTreeMap::new(),
            wires: VecDeque::new(),
            applied: BTreeMap::new(),
            messages: 0,
            pulses: 0,
            elections: 0,
        };
        (1..=NODES).for_each(|node| nodes.start(node, groups, leader_moves_per_second));
        nodes.connect(&[(1, 2), (1, 3), (2, 3)]);
        nodes
    }

    fn start(&mut self, node: u32, groups: u64, leader_moves_per_second: u32) {
        let all = (1..=NODES).map(|n| (NodeId(n), format!("node-{n}:7070"))).collect();
        let mut config = HostConfig::new(NodeId(node), all, node.into());
        config.groups = (1..=groups).map(GroupId).collect();
        config.hibernate_after_ticks = 10;
        config.leader_moves_per_second = leader_moves_per_second;
        let disk = self.disks[&node].clone();
        let machine = |_, _| Counter::default();
        let host = Host::open(config, disk, Front, machine, PeerId(node.into()), Mono::ZERO);
        self.hosts.insert(node, host.expect("the directory opens"));
    }

    fn connect(&mut self, pairs: &[(u32, u32)]) {
        for (a, b) in pairs {
            for (here, there) in [(a, b), (b, a)] {
                let (node, hello) = (NodeId(*there), self.hosts[there].hello());
                self.give(*here, HostEvent::PeerUp { node, hello });
            }
        }
        self.deliver();
    }

    fn stop(&mut self, node: u32) {
        self.hosts.remove(&node);
        for other in (1..=NODES).filter(|other| *other != node) {
            self.give(other, HostEvent::PeerDown { node: NodeId(node) });
        }
        self.deliver();
    }

    fn give(&mut self, node: u32, event: HostEvent<GroupId>) {
        let Some(host) = self.hosts.get_mut(&node) else { return };
        self.disks[&node].advance(self.now);
        let mut out = Vec::new();
        host.step(event, self.now, &mut out);
        host.flush(self.now, &mut out);
        for action in out {
            match action {
                HostAction::Send { to, message, .. } => {
                    self.messages += 1;
                    self.pulses += usize::from(matches!(message, PeerMessage::Pulse { .. }));
                    self.wires.push_back((node, to.0, message));
                }
                HostAction::Respond(group) => drop(self.applied.entry(node).or_default().insert(group)),
                HostAction::ClosePeer { reason, .. } => panic!("{reason}"),
                HostAction::Fatal(error) => panic!("{error}"),
                HostAction::Discard(_) => {}
                HostAction::Note(note) => self.elections += usize::from(matches!(note, HostNote::BecameLeader { .. })),
            }
        }
    }

    fn deliver(&mut self) {
        while let Some((from, to, message)) = self.wires.pop_front() {
            let from = NodeId(from);
            self.give(to, HostEvent::Peer { from, message });
        }
    }

    fn tick(&mut self) {
        self.now = Mono::from_millis(self.now.as_millis() + TICK_MS);
        for node in 1..=NODES {
            self.give(node, HostEvent::Tick);
        }
        self.deliver();
    }

    /// Ticks until `done`, and how many it took.
    fn until(&mut self, what: &str, ticks_max: u32, done: impl Fn(&Nodes) -> bool) -> u32 {
        for ticks in 0..=ticks_max {
            if done(self) {
                return ticks;
            }
            self.tick();
        }
        panic!("no {what} within {ticks_max} ticks: {:?}", self.counts());
    }

    fn counts(&self) -> Vec<GroupCounts> {
        self.hosts.values().map(Host::group_counts).collect()
    }

    fn is_resting(&self) -> bool {
        self.counts().iter().all(|counts| counts.awake == 0)
    }
}

#[test]
fn ten_thousand_groups() {
    let mut nodes = Nodes::founded(GROUPS, 0);
    let led = |n: &Nodes| n.counts().iter().map(|counts| counts.led).sum::<usize>();
    let elected = nodes.until("leaders", 100, |n| led(n) == GROUPS as usize);
    println!("all groups have a leader after {elected} ticks: {:?}", nodes.counts());

    nodes.until("rest", 1_000, Nodes::is_resting);
    (nodes.messages, nodes.pulses) = (0, 0);
    (0..100).for_each(|_| nodes.tick());
    assert!(nodes.is_resting());
    assert_eq!(
        (nodes.messages, nodes.pulses),
        (600, 600),
        "one pulse for each node, peer and tick"
    );

    // Asked at a node that does not lead them all.
    nodes.applied.clear();
    let asked: BTreeSet<GroupId> = (1..=1_000).map(|n| GroupId(n * 10)).collect();
    asked.iter().for_each(|group| nodes.give(1, HostEvent::Request(*group)));
    nodes.deliver();
    let served: BTreeSet<GroupId> = nodes.applied.values().flatten().copied().collect();
    assert_eq!(served, asked, "woken groups serve without a tick");
    nodes.until("rest again", 1_000, Nodes::is_resting);

    // What the host of a node owns, and not what is on its disk.
    let lost: Vec<GroupId> = {
        let leads = |group: &GroupId| nodes.hosts[&1].raft(*group).is_some_and(|raft| raft.is_leader());
        (1..=GROUPS).map(GroupId).filter(leads).collect()
    };
    assert!(lost.len() > 2_000, "each leads about a third");
    let before = LIVE_BYTES.get();
    drop(nodes.hosts.remove(&1));
    let bytes = (before - LIVE_BYTES.get()) as usize / GROUPS as usize;
    println!("{bytes} bytes for each idle replica");
    assert!(bytes <= REPLICA_BYTES_MAX, "{bytes} bytes for each idle replica");

    (nodes.messages, nodes.pulses) = (0, 0);
    nodes.stop(1);
    let moved = nodes.until("new leaders", 60, |n| led(n) == GROUPS as usize);
    println!(
        "{} leaders moved within {moved} ticks, {} messages",
        lost.len(),
        nodes.messages
    );
    nodes.applied.clear();
    lost.iter().for_each(|group| nodes.give(2, HostEvent::Request(*group)));
    nodes.deliver();
    let served: BTreeSet<GroupId> = nodes.applied.values().flatten().copied().collect();
    assert!(lost.iter().all(|group| served.contains(group)), "each serves");
    let ms = u64::from(moved) * TICK_MS;
    assert!(ms <= 3_000, "{ms} ms");
}

#[test]
fn a_node_that_comes_back_gets_its_share_of_the_leaders_and_then_none_moves_any_more() {
    let mut nodes = Nodes::founded(60, 5);
    let led = |n: &Nodes| n.counts().iter().map(|counts| counts.led).collect::<Vec<_>>();
    nodes.until("leaders", 100, |n| led(n).iter().sum::<usize>() == 60);
    nodes.stop(1);
    nodes.until("new leaders", 60, |n| led(n).iter().sum::<usize>() == 60);
    nodes.start(1, 60, 5);
    nodes.connect(&[(1, 2), (1, 3)]);
    assert_eq!(led(&nodes)[0], 0, "nobody waits for it");
    nodes.until("even shares", 200, |n| {
        led(n).iter().all(|count| (19..=21).contains(count))
    });
    (0..60).for_each(|_| nodes.tick());
    nodes.elections = 0;
    (0..400).for_each(|_| nodes.tick());
    assert_eq!(nodes.elections, 0);
}

/// Else a node that is repaired tomorrow has all groups of the others tick until then.
#[test]
fn a_thousand_groups_rest_while_a_node_is_down_and_bring_it_up_to_date_when_it_is_back() {
    const MANY: u64 = 1_000;
    let mut nodes = Nodes::founded(MANY, 0);
    let led = |n: &Nodes| n.counts().iter().map(|counts| counts.led).sum::<usize>();
    nodes.until("leaders", 100, |n| led(n) == MANY as usize);
    nodes.stop(3);
    nodes.until("new leaders", 60, |n| led(n) == MANY as usize);
    (1..=MANY).for_each(|group| nodes.give(1, HostEvent::Request(GroupId(group))));
    nodes.deliver();
    nodes.until("rest without it", 200, Nodes::is_resting);
    (nodes.messages, nodes.pulses) = (0, 0);
    (0..100).for_each(|_| nodes.tick());
    assert!(nodes.is_resting());
    assert_eq!(
        (nodes.messages, nodes.pulses),
        (200, 200),
        "nothing but the pulses of two"
    );

    nodes.elections = 0;
    nodes.start(3, MANY, 0);
    nodes.connect(&[(1, 3), (2, 3)]);
    let applied = |n: &Nodes, node| {
        let applied = |group| n.hosts[&node].machine(GroupId(group)).expect("it is here").0;
        (1..=MANY).map(applied).sum::<u64>()
    };
    nodes.until("the same state there", 20, |n| applied(n, 3) == MANY);
    assert_eq!(nodes.elections, 0, "nobody was disturbed");
    nodes.until("rest with it", 200, Nodes::is_resting);

    nodes.stop(1);
    nodes.until("new leaders", 60, |n| led(n) == MANY as usize);
}
