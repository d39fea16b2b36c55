//! Snapshots on their way: what breaks costs a window of chunks, what is large disturbs nobody.

mod harness;

use harness::{Cluster, GROUP, TICK_MS};
use settle_base::NodeId;
use settle_host::{ChunkContent, HostEvent, HostNote, OperatorRequest, PeerMessage};
use settle_raft::Body;
use settle_storage::{DiskRead, FileName, Op};

/// A cluster in which `behind` lacks so much that only a snapshot helps it, cut off.
fn with_one_behind(lines: usize) -> (Cluster, u32, u32) {
    let mut cluster = Cluster::founded(3);
    let leader = cluster.leader().expect("it was founded");
    let behind = leader % 3 + 1;
    (1..=3).for_each(|other| cluster.disconnect(behind, other));
    for _ in 0..lines {
        cluster.propose(leader, "a line of thirty bytes or so...");
    }
    let group = GROUP;
    cluster.give(leader, HostEvent::Operator(OperatorRequest::TakeSnapshot { group }));
    cluster.until("a snapshot", |c| {
        c.notes
            .iter()
            .any(|(node, note)| *node == leader && matches!(note, HostNote::SnapshotTaken { .. }))
    });
    (cluster, leader, behind)
}

fn chunks_sent(cluster: &Cluster, from: u32, to: u32) -> usize {
    let is_data = |message: &PeerMessage| matches!(message, PeerMessage::SnapshotChunk(chunk) if matches!(chunk.content, ChunkContent::Data(_)));
    let sent = cluster.sent.iter();
    sent.filter(|(f, t, message)| (*f, *t) == (from, to) && is_data(message))
        .count()
}

fn is_installed(cluster: &Cluster, node: u32) -> bool {
    let mut notes = cluster.notes.iter();
    notes.any(|(n, note)| *n == node && matches!(note, HostNote::SnapshotInstalled { .. }))
}

#[test]
fn a_transfer_goes_on_after_each_broken_connection_from_where_it_was() {
    let (mut cluster, leader, behind) = with_one_behind(200);
    let mut breaks = 0;
    let whole = 200 * 32 / 16;
    cluster.connect_undelivered(leader, behind);
    while !is_installed(&cluster, behind) {
        assert!(breaks < 100, "it never arrives");
        cluster.tick_undelivered();
        // The link holds for less than a tenth of the snapshot.
        cluster.deliver_some(60);
        cluster.disconnect(leader, behind);
        cluster.connect_undelivered(leader, behind);
        breaks += 1;
    }
    let seen = chunks_sent(&cluster, leader, behind);
    assert!(breaks > 5, "{breaks} breaks");
    let again = 8 * (breaks + 2);
    assert!(seen <= whole + again, "{seen} chunks sent for {whole}, {breaks} breaks");
    cluster.until("all lines", |c| c.lines(behind) == c.lines(leader));
}

#[test]
fn a_snapshot_that_comes_again_under_the_name_of_one_left_behind_stays() {
    let (mut cluster, leader, behind) = with_one_behind(20);
    cluster.connect_undelivered(leader, behind);
    let starts = |c: &Cluster| -> Vec<(u64, u64)> {
        let started = c.sent.iter().filter_map(|(_, to, message)| match message {
            PeerMessage::SnapshotChunk(chunk) if *to == behind => Some(chunk),
            _ => None,
        });
        let started = started.filter_map(|chunk| match &chunk.content {
            ChunkContent::Start(message) => Some((chunk.stream, &message.body)),
            _ => None,
        });
        let of = |(stream, body): (u64, &Body)| match body {
            Body::Snapshot { meta } => (stream, meta.index),
            other => panic!("{other:?} starts no transfer"),
        };
        started.map(of).collect()
    };
    cluster.step_until("the first chunk", |c| !starts(c).is_empty());
    let (stream, index) = starts(&cluster)[0];
    // All of it had arrived and had its name, but was not in the log yet, when the receiver was killed.
    cluster.stop(behind);
    let file = FileName::new(&format!("snap-{:x}-{index:x}-{stream:x}", GROUP.0)).expect("a name");
    let mut disk = cluster.disks[&behind].clone();
    disk.run(Op::Create {
        file: file.clone(),
        reserve: 0,
    })
    .expect("there is room");
    cluster.start(behind).expect("a file that no log names harms nobody");
    cluster.connect(leader, behind);
    cluster.until("the snapshot", |c| is_installed(c, behind));
    assert_eq!(
        starts(&cluster).last(),
        Some(&(stream, index)),
        "it was the same transfer"
    );
    for _ in 0..3 {
        cluster.propose(leader, "later");
        cluster.ticks(5);
    }
    let files = disk.list().expect("it reads");
    assert!(
        files.iter().any(|(name, _)| *name == file),
        "it was removed as left behind"
    );
    cluster.stop(behind);
    cluster.start(behind).expect("nothing is lost");
    assert!(cluster.hosts[&behind].recovering_groups().is_empty());
}

#[test]
fn a_throttled_snapshot_takes_its_time_while_writes_go_on_and_nobody_calls_an_election() {
    let mut slow = Cluster::tuned(3, |config| config.snapshot_bytes_per_second = 1_000);
    slow.connect_all();
    slow.until("a leader", |c| c.leader().is_some());
    let leader = slow.leader().expect("it was just seen");
    let behind = leader % 3 + 1;
    (1..=3).for_each(|other| slow.disconnect(behind, other));
    for _ in 0..200 {
        slow.propose(leader, "a line of thirty bytes or so...");
    }
    let group = GROUP;
    slow.give(leader, HostEvent::Operator(OperatorRequest::TakeSnapshot { group }));
    slow.ticks(2);
    let term = slow.hosts[&leader].raft(GROUP).expect("a member").term();
    let begun = slow.now;
    slow.connect_all();
    while !is_installed(&slow, behind) {
        slow.propose(leader, "more");
        slow.tick();
        let seconds = slow.now.since(begun).as_secs_f64();
        let sent = chunks_sent(&slow, leader, behind) as f64 * 16.0;
        assert!(
            sent <= 1_000.0 * (seconds + 0.1 + TICK_MS as f64 / 1_000.0) + 16.0,
            "{sent} B in {seconds} s"
        );
        assert!(seconds < 20.0, "it never arrives");
    }
    assert!(slow.now.since(begun).as_secs() >= 5, "6.4 kB at 1 kB/s");
    let raft = slow.hosts[&leader].raft(GROUP).expect("a member");
    assert_eq!(raft.term(), term, "an election was called");
    slow.until("all lines", |c| c.lines(behind) == c.lines(leader));
}

#[test]
fn a_chunk_that_changed_on_its_way_ends_the_transfer_and_the_next_one_starts_anew() {
    let (mut cluster, leader, behind) = with_one_behind(50);
    cluster.connect_undelivered(leader, behind);
    while chunks_sent(&cluster, leader, behind) == 0 {
        cluster.deliver_some(10);
        cluster.tick_undelivered();
    }
    let changed = cluster.change_on_the_wire(|message| match message {
        PeerMessage::SnapshotChunk(chunk) => match &mut chunk.content {
            ChunkContent::Data(data) => {
                *data = data.iter().map(|byte| byte ^ 1).collect();
                true
            }
            _ => false,
        },
        _ => false,
    });
    assert!(changed, "a chunk is on the wire");
    cluster.deliver();
    let failed = |c: &Cluster| {
        let mut notes = c.notes.iter();
        notes.any(|(_, note)| matches!(note, HostNote::SnapshotSent { ok: false, .. }))
    };
    assert!(failed(&cluster), "{:?}", cluster.notes);
    cluster.until("a snapshot", |c| is_installed(c, behind));
    cluster.until("all lines", |c| c.lines(behind) == c.lines(leader));
}

#[test]
fn a_replaced_machine_is_handed_out_to_be_freed_elsewhere() {
    let (mut cluster, leader, behind) = with_one_behind(20);
    let before = cluster.discarded;
    cluster.connect(leader, behind);
    cluster.until("a snapshot", |c| is_installed(c, behind));
    assert_eq!(cluster.discarded, before + 1);
}

#[test]
fn logs_that_are_small_but_old_or_large_only_together_are_saved_too() {
    let is_taken = |c: &Cluster| c.notes.iter().any(|(_, n)| matches!(n, HostNote::SnapshotTaken { .. }));
    for tune in [
        (|config| config.snapshot_after = std::time::Duration::from_secs(5)) as harness::Tune,
        |config| config.log_memory_max = 1_000,
    ] {
        let mut cluster = Cluster::tuned(1, tune);
        cluster.until("a leader", |c| c.leader().is_some());
        for _ in 0..20 {
            cluster.propose(1, "a line of thirty bytes or so...");
        }
        cluster.until("a snapshot", is_taken);
        assert_eq!(cluster.hosts[&1].config().node, NodeId(1));
    }
}

/// How long a leader's snapshot of 6,400 bytes takes while it is told a line of 30 bytes, which is as many in its log and a
/// few more, at each of so many ticks.
fn seconds_to_take(tune: harness::Tune, lines_per_tick: u32) -> f64 {
    let mut cluster = Cluster::tuned(1, tune);
    cluster.until("a leader", |c| c.leader().is_some());
    for _ in 0..200 {
        cluster.propose(1, "a line of thirty bytes or so...");
    }
    cluster.ticks(2);
    let group = GROUP;
    let begun = cluster.now;
    cluster.give(1, HostEvent::Operator(OperatorRequest::TakeSnapshot { group }));
    let is_taken = |c: &Cluster| c.notes.iter().any(|(_, n)| matches!(n, HostNote::SnapshotTaken { .. }));
    while !is_taken(&cluster) {
        for _ in 0..lines_per_tick {
            cluster.propose(1, "a line of thirty bytes or so...");
        }
        cluster.tick();
        assert!(cluster.now.since(begun).as_secs() < 20, "it is never whole");
    }
    cluster.now.since(begun).as_secs_f64()
}

#[test]
fn a_snapshot_is_written_at_its_pace_or_that_of_the_log_and_at_once_when_memory_is_short() {
    let paced: harness::Tune = |config| config.snapshot_write_bytes_per_second = 1_000;
    let alone = seconds_to_take(paced, 0);
    assert!((5.0..8.0).contains(&alone), "6.4 kB at 1 kB/s took {alone} s");
    let beside_writes = seconds_to_take(paced, 1);
    assert!(
        (1.5..4.0).contains(&beside_writes),
        "at 1 kB/s and twice the log's it took {beside_writes} s"
    );
    let short: harness::Tune = |config| {
        config.snapshot_write_bytes_per_second = 1_000;
        config.log_memory_max = 10_000;
    };
    let at_once = seconds_to_take(short, 0);
    assert!(at_once < 0.5, "with short memory it took {at_once} s");
}
