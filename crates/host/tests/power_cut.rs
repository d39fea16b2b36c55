//! A power failure of all nodes at once that tears the last batch of each log.

mod harness;

use std::time::Duration;

use harness::{Cluster, GROUP, config, open};
use settle_base::Prng;
use settle_host::{HostEvent, HostNote};
use settle_storage::{DiskRead, FileName, Latency, MemDisk, Op};

/// More than one sector, so that it may be torn.
const LINE: &str = match str::from_utf8(&[b'x'; 700]) {
    Ok(line) => line,
    Err(_) => unreachable!(),
};

/// The disk as some power failure leaves it, with a batch torn.
fn torn(disk: &MemDisk, node: u32, size: u32) -> MemDisk {
    let found = (0..500).find_map(|seed| {
        let disk = disk.fork();
        disk.crash(&mut Prng::new(seed));
        disk.set_latency(Latency::NONE);
        let host = open(config(node, size), &disk.fork(), 1).ok()?;
        (!host.recovering_groups().is_empty()).then_some(disk)
    });
    found.unwrap_or_else(|| panic!("no power failure tears a batch of node {node}"))
}

/// All logs torn in the same moment, one entry acknowledged by nobody in them.
fn all_torn(size: u32) -> Cluster {
    let mut cluster = Cluster::founded(size);
    cluster.until("all members", |c| (1..=size).all(|node| c.is_voter(node)));
    let leader = cluster.leader().expect("it was founded");
    cluster.propose(leader, "kept");
    cluster.ticks(5);
    for node in 1..=size {
        cluster.disks[&node].set_latency(Latency {
            write_us: 20_000..20_001,
            sync_us: 20_000..20_001,
            other_us: 20_000..20_001,
            ..Latency::NONE
        });
    }
    cluster.propose(leader, LINE);
    cluster.now = cluster.now + Duration::from_millis(25);
    // Written and not synced.
    (1..=size).for_each(|node| cluster.give(node, HostEvent::DiskReady));
    let disks: Vec<MemDisk> = (1..=size).map(|node| cluster.disks[&node].fork()).collect();
    for (node, disk) in (1..=size).zip(&disks) {
        cluster.stop(node);
        cluster.disks.insert(node, torn(disk, node, size));
    }
    for node in 1..=size {
        cluster.start(node).expect("a damaged tail is no reason to refuse");
        assert_eq!(cluster.hosts[&node].recovering_groups(), [GROUP]);
    }
    cluster.connect_all();
    cluster
}

fn heals(size: u32) {
    let mut cluster = all_torn(size);
    let nodes = || 1..=size;
    cluster.until("recovery", |c| {
        nodes().all(|n| c.hosts[&n].recovering_groups().is_empty())
    });
    for node in nodes() {
        assert_eq!(cluster.lines(node)[0], "kept");
        assert!(cluster.notes.contains(&(node, HostNote::Recovered { group: GROUP })));
    }
    let leader = cluster.leader().expect("who recovered was led");
    cluster.propose(leader, "after");
    cluster.until("the entry everywhere", |c| {
        nodes().all(|n| c.lines(n).last().is_some_and(|line| line == "after"))
    });
    // That they healed is in their logs.
    nodes().for_each(|node| cluster.stop(node));
    for node in nodes() {
        cluster.start(node).expect("its directory opens");
        assert_eq!(cluster.hosts[&node].recovering_groups(), []);
    }
}

#[test]
fn a_cluster_whose_logs_are_all_torn_comes_back_and_says_so_in_its_logs() {
    heals(3);
}

#[test]
fn a_single_node_whose_log_is_torn_goes_on_alone() {
    heals(1);
}

#[test]
fn torn_replicas_elect_nobody_while_one_of_the_voters_is_missing() {
    let mut cluster = all_torn(3);
    cluster.stop(2);
    cluster.ticks(400);
    assert_eq!(cluster.leader(), None);
    cluster.start(2).expect("its directory opens");
    cluster.connect_all();
    cluster.until("a leader", |c| c.leader().is_some());
}

#[test]
fn a_full_disk_puts_no_group_in_doubt_for_a_snapshot_that_was_never_finished() {
    let mut cluster = Cluster::tuned(1, |config| config.wal.segment_bytes = 4 << 10);
    cluster.until("a leader", |c| c.leader().is_some());
    let in_use = |disk: &MemDisk| {
        let files = disk.clone().list().expect("listable");
        let mut segments = files.into_iter().filter(|(name, _)| name.as_str().ends_with(".seg"));
        let (segment, len) = segments.next_back().expect("there is a log");
        let bytes = disk.clone().read(&segment, 0, len as usize).expect("readable");
        bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
    };
    while in_use(&cluster.disks[&1]) < 3 << 10 {
        cluster.propose(1, LINE);
        cluster.ticks(2);
    }
    let lines = cluster.lines(1);
    cluster.stop(1);
    // More than half of the log's last segment is in use, and nothing else could go but what is not finished.
    let mut disk = cluster.disks[&1].clone();
    let files = disk.list().expect("listable");
    let spares = files
        .into_iter()
        .filter(|(name, _)| name.as_str().starts_with("spare-"));
    spares.for_each(|(file, _)| disk.run(Op::Remove { file }).expect("healthy"));
    let (file, reserve) = (FileName::new("snap-1-taking.tmp").expect("valid"), 4 << 10);
    disk.run(Op::Create { file, reserve }).expect("healthy");
    disk.set_capacity(Some(disk.used()));
    cluster.start(1).expect("its directory opens");
    assert_eq!(cluster.hosts[&1].recovering_groups(), []);
    disk.set_capacity(None);
    cluster.until("what was written", |c| c.lines(1) == lines);
}
