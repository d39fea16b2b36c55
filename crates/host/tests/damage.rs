//! What was acknowledged and then damaged comes back from the peers; a replica in doubt promises nothing until then.

mod harness;

use harness::{Cluster, GROUP, config, open};
use settle_host::{HostEvent, HostNote, OperatorRequest};
use settle_storage::{DiskRead, FileName, MemDisk, Op};
use settle_wal::{WalError, is_evidence};

const LINES: [&str; 8] = ["one", "two", "three", "four", "five", "six", "seven", "eight"];

/// Three members with some entries; also the leader and one of its followers.
fn written() -> (Cluster, u32, u32) {
    let mut cluster = Cluster::founded(3);
    cluster.until("all members", |c| (1..=3).all(|node| c.is_voter(node)));
    let leader = cluster.leader().expect("it was founded");
    for line in LINES {
        cluster.propose(leader, line);
        cluster.ticks(2);
    }
    (cluster, leader, leader % 3 + 1)
}

fn file(disk: &MemDisk, prefix: &str) -> (FileName, u64) {
    let files = disk.clone().list().expect("listable");
    let found = files.into_iter().find(|(name, _)| name.as_str().starts_with(prefix));
    found.unwrap_or_else(|| panic!("there is a file {prefix}"))
}

/// Where `text` is stored.
fn find(disk: &MemDisk, file: &FileName, text: &str) -> u64 {
    let bytes = disk.clone().read(file, 0, 1 << 20).expect("readable");
    let at = bytes.windows(text.len()).position(|part| part == text.as_bytes());
    at.unwrap_or_else(|| panic!("{text} is in {file}")) as u64
}

/// The hurt one helps nobody into office alone, heals among all, and knows that over a restart.
fn heals(cluster: &mut Cluster, leader: u32, hurt: u32) {
    assert_eq!(cluster.hosts[&hurt].recovering_groups(), [GROUP]);
    let other = 6 - leader - hurt;
    cluster.stop(leader);
    cluster.connect(hurt, other);
    cluster.ticks(200);
    assert_eq!(cluster.leader(), None, "one whole replica is no quorum");
    assert_eq!(cluster.hosts[&hurt].recovering_groups(), [GROUP]);
    // The mark outlives the mended log.
    cluster.stop(hurt);
    cluster.start(hurt).expect("its directory opens");
    assert_eq!(cluster.hosts[&hurt].recovering_groups(), [GROUP]);
    cluster.start(leader).expect("its directory opens");
    cluster.connect_all();
    cluster.until("recovery", |c| c.hosts[&hurt].recovering_groups().is_empty());
    let leader = cluster.leader().expect("who recovered was led");
    cluster.propose(leader, "after");
    let is_whole = |c: &Cluster| c.lines(hurt).len() == LINES.len() + 1 && c.is_voter(hurt);
    cluster.until("every line", is_whole);
    assert_eq!(cluster.lines(hurt), cluster.lines(leader));
    cluster.ticks(5);
    cluster.stop(hurt);
    cluster.start(hurt).expect("its directory opens");
    assert_eq!(cluster.hosts[&hurt].recovering_groups(), []);
    cluster.connect_all();
    cluster.until("every line again", is_whole);
}

#[test]
fn damage_in_the_middle_of_a_log_is_kept_aside_and_comes_back_from_the_peers() {
    let (mut cluster, leader, hurt) = written();
    cluster.stop(hurt);
    let disk = cluster.disks[&hurt].clone();
    let (log, _) = file(&disk, "wal-0");
    disk.flip_bit(&log, find(&disk, &log, "four"), 0);
    cluster.start(hurt).expect("others have what is damaged here");
    cluster.tick();
    let is_told = |(node, note): &(u32, HostNote)| {
        let HostNote::LogDamaged { groups, copies, .. } = note else {
            return false;
        };
        *node == hurt && *groups == [GROUP] && copies.len() == 1 && is_evidence(&copies[0])
    };
    assert!(cluster.notes.iter().any(is_told), "{:?}", cluster.notes);
    heals(&mut cluster, leader, hurt);
}

#[test]
fn a_log_with_a_block_that_the_device_cannot_read_comes_back_from_the_peers() {
    let (mut cluster, leader, hurt) = written();
    let long: &str = "long".repeat(500).leak();
    for _ in 0..8 {
        cluster.propose(leader, long);
        cluster.ticks(2);
    }
    cluster.stop(hurt);
    let disk = cluster.disks[&hurt].clone();
    let (log, _) = file(&disk, "wal-0");
    let at = find(&disk, &log, "eight") + 8_192;
    disk.make_unreadable(&log, at);
    disk.clone().read(&log, at, 1).expect_err("it is unreadable");
    cluster.start(hurt).expect("others have what cannot be read here");
    assert_eq!(cluster.hosts[&hurt].recovering_groups(), [GROUP]);
    cluster.connect_all();
    cluster.until("recovery", |c| c.hosts[&hurt].recovering_groups().is_empty());
    cluster.until("every line", |c| c.lines(hurt) == c.lines(leader));
    disk.clone().read(&log, at, 1).expect("it was put into other blocks");
}

#[test]
fn a_log_of_which_only_the_end_reads_comes_back_from_the_peers() {
    let (mut cluster, leader, hurt) = written();
    cluster.stop(hurt);
    let mut disk = cluster.disks[&hurt].clone();
    let (log, _) = file(&disk, "wal-0");
    let until = find(&disk, &log, "seven");
    let data = vec![0xff; until as usize].into();
    disk.run(Op::Write {
        file: log,
        offset: 0,
        data,
    })
    .expect("written");
    cluster.start(hurt).expect("others have what is damaged here");
    let raft = cluster.hosts[&hurt].raft(GROUP).expect("it was configured");
    assert_eq!(
        (raft.last_index(), raft.conf().peers().len()),
        (0, 0),
        "it waits for a snapshot"
    );
    heals(&mut cluster, leader, hurt);
}

#[test]
fn a_damaged_unreadable_or_missing_snapshot_file_comes_back_from_the_peers() {
    for kind in ["damaged", "unreadable", "missing"] {
        let is_missing = kind == "missing";
        let (mut cluster, leader, hurt) = written();
        cluster.give(
            hurt,
            HostEvent::Operator(OperatorRequest::TakeSnapshot { group: GROUP }),
        );
        cluster.ticks(5);
        cluster.stop(hurt);
        let mut disk = cluster.disks[&hurt].clone();
        let (snapshot, len) = file(&disk, "snap-");
        match kind {
            "damaged" => disk.flip_bit(&snapshot, len / 2, 0),
            "unreadable" => disk.make_unreadable(&snapshot, len / 2),
            _ => disk.run(Op::Remove { file: snapshot.clone() }).expect("removed"),
        }
        cluster.start(hurt).expect("others have what is damaged here");
        cluster.tick();
        let is_told = |(node, note): &(u32, HostNote)| {
            *node == hurt && matches!(note, HostNote::SnapshotDamaged { file, .. } if *file == snapshot)
        };
        assert!(cluster.notes.iter().any(is_told), "{:?}", cluster.notes);
        let kept = disk
            .list()
            .expect("listable")
            .into_iter()
            .filter(|(name, _)| is_evidence(name))
            .count();
        assert_eq!(kept, usize::from(!is_missing));
        heals(&mut cluster, leader, hurt);
    }
}

#[test]
fn a_cluster_of_one_does_not_go_on_without_what_it_lost() {
    let mut cluster = Cluster::founded(1);
    for line in LINES {
        cluster.propose(1, line);
        cluster.ticks(2);
    }
    cluster.give(1, HostEvent::Operator(OperatorRequest::TakeSnapshot { group: GROUP }));
    cluster.ticks(5);
    for line in ["tail", "end", "end of the end"] {
        cluster.propose(1, line);
        cluster.ticks(5);
    }
    cluster.stop(1);
    // What the snapshot holds too was not lost.
    let disk = cluster.disks[&1].fork();
    let (log, _) = file(&disk, "wal-0");
    disk.flip_bit(&log, find(&disk, &log, "eight"), 0);
    assert_eq!(
        open(config(1, 1), &disk, 1)
            .expect("nothing is missing")
            .recovering_groups(),
        []
    );
    for prefix in ["snap-", "wal-0"] {
        let disk = cluster.disks[&1].fork();
        let (name, len) = file(&disk, prefix);
        let at = match prefix {
            "snap-" => len / 2,
            _ => find(&disk, &name, "tail"),
        };
        disk.flip_bit(&name, at, 0);
        for _ in 0..2 {
            let error = open(config(1, 1), &disk, 1).map(drop).expect_err("nobody else has it");
            match error {
                settle_host::OpenError::Snapshot { .. } => assert_eq!(prefix, "snap-"),
                settle_host::OpenError::Log {
                    source: WalError::Corrupt { groups, .. },
                } => assert_eq!((prefix, groups), ("wal-0", vec![GROUP])),
                other => panic!("{other}"),
            }
        }
    }
}
