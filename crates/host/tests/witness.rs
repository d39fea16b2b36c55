//! A node that is a witness keeps groups alive with its log alone: no machine, no snapshot, no leadership for good.

mod harness;

use harness::{Ask, Cluster, GROUP, Told, config, open};
use settle_base::NodeId;
use settle_host::{HostConfig, HostEvent, HostNote, MemberRole, OpenError, OperatorDone, OperatorRequest};
use settle_raft::ConfState;
use settle_storage::{DiskRead, MemDisk};

const WITNESS: u32 = 3;

fn tune(config: &mut HostConfig) {
    config.witness = config.node == NodeId(WITNESS);
    config.wal.segment_bytes = 16 << 10;
    config.snapshot_after_bytes = 64 << 10;
    config.witness_log_bytes_max = 128 << 10;
    config.hibernate_after_ticks = 0;
}

/// Nodes 1 and 2 and the witness, with a leader.
fn founded() -> Cluster {
    let mut cluster = Cluster::tuned(3, tune);
    cluster.connect_all();
    cluster.until("a leader that is no witness", |c| {
        c.leader().is_some_and(|l| l != WITNESS)
    });
    cluster
}

fn conf(cluster: &Cluster, node: u32) -> ConfState {
    cluster.hosts[&node]
        .raft(GROUP)
        .expect("it has the group")
        .conf()
        .clone()
}

/// Entries that the witness keeps.
fn kept(cluster: &Cluster) -> u64 {
    let raft = cluster.hosts[&WITNESS].raft(GROUP).expect("it has the group");
    raft.last_index() + 1 - raft.first_index()
}

fn disk_bytes(cluster: &Cluster, node: u32) -> u64 {
    let files = cluster.disks[&node].clone().list().expect("a sound disk");
    files.iter().map(|(_, size)| *size).sum()
}

const LINE: &str = "a line that is long enough to fill a log with a few hundred of its kind, one after the other, each of \
                    them with the same hundred and fifty bytes or so, whatever they say";

#[test]
fn a_group_of_two_and_a_witness_goes_on_without_either_of_the_two() {
    let mut cluster = founded();
    let leader = cluster.leader().expect("it was founded");
    let other = 3 - leader;
    cluster.propose(leader, "with both");
    cluster.stop(leader);
    cluster.until("another leader", |c| c.leader() == Some(other));
    cluster.propose(other, "with the witness");
    cluster.until("applied", |c| c.lines(other) == ["with both", "with the witness"]);
    let witness = &cluster.hosts[&WITNESS];
    assert!(witness.machine(GROUP).is_none() && witness.view(GROUP, cluster.now).is_none());
    // It asks others, and reads nothing itself.
    cluster.propose(WITNESS, "by way of the witness");
    cluster.until("applied", |c| c.lines(other).len() == 3);
    cluster.give(WITNESS, HostEvent::Request(Ask::Read(7)));
    assert!(cluster.told.contains(&(WITNESS, Told::ReadDropped(7))));
}

#[test]
fn a_witness_that_alone_has_the_newest_entries_brings_the_other_up_to_date_and_hands_over() {
    let mut cluster = founded();
    let leader = cluster.leader().expect("it was founded");
    let other = 3 - leader;
    cluster.disconnect(leader, other);
    for text in ["a", "b", "c"] {
        cluster.propose(leader, text);
    }
    cluster.until("applied", |c| c.lines(leader) == ["a", "b", "c"]);
    assert_eq!(cluster.lines(other).len(), 0);
    cluster.stop(leader);
    for _ in 0..200 {
        cluster.tick();
        let status = &cluster.hosts[&WITNESS].group_statuses(None, 1, cluster.now)[0];
        assert!(!status.role.is_ready_leader, "a witness serves nobody");
    }
    let won = cluster.hosts[&WITNESS].counters().elections_won;
    assert!(won > 0, "nobody else could bring node {other} up to date");
    assert_eq!(cluster.leader(), Some(other));
    assert_eq!(cluster.lines(other), ["a", "b", "c"]);
    cluster.propose(other, "d");
    cluster.until("applied", |c| c.lines(other).len() == 4);
}

#[test]
fn a_wiped_witness_is_replaced_by_a_witness_without_any_data() {
    let mut cluster = founded();
    let leader = cluster.leader().expect("it was founded");
    for text in ["a", "b"] {
        cluster.propose(leader, text);
    }
    let old = conf(&cluster, leader).witnesses;
    cluster.stop(WITNESS);
    cluster.disks[&WITNESS].wipe();
    cluster.start(WITNESS).expect("an empty directory opens");
    cluster.connect_all();
    cluster.until("replaced witness", |c| c.is_voter(WITNESS));
    let conf = conf(&cluster, leader);
    assert_eq!(
        (conf.voters.len(), conf.witnesses.len(), conf.learners.len()),
        (3, 1, 0)
    );
    assert_ne!(conf.witnesses, old);
    // The new one counts.
    cluster.stop(3 - leader);
    cluster.propose(leader, "c");
    cluster.until("applied", |c| c.lines(leader) == ["a", "b", "c"]);
    let files = cluster.disks[&WITNESS].clone().list().expect("a sound disk");
    assert!(
        files.iter().all(|(file, _)| !file.as_str().starts_with("snap-")),
        "{files:?}"
    );
}

#[test]
fn what_a_witness_keeps_is_bounded_and_survives_a_restart() {
    let mut cluster = founded();
    let leader = cluster.leader().expect("it was founded");
    let mut most = 0;
    for _ in 0..1_000 {
        cluster.propose(leader, LINE);
        cluster.tick();
        most = most.max(kept(&cluster));
    }
    // 16 KiB are not worth a cut.
    assert!(most < 300, "{most} entries");
    assert!(
        disk_bytes(&cluster, WITNESS) < 256 << 10,
        "{}",
        disk_bytes(&cluster, WITNESS)
    );
    // A full voter that is away makes it longer, within its bound.
    cluster.stop(3 - leader);
    most = 0;
    for _ in 0..1_500 {
        cluster.propose(leader, LINE);
        cluster.tick();
        most = most.max(kept(&cluster));
    }
    assert!((500..2_000).contains(&most), "{most} entries");
    assert!(
        disk_bytes(&cluster, WITNESS) < 512 << 10,
        "{}",
        disk_bytes(&cluster, WITNESS)
    );
    assert_eq!(cluster.hosts[&WITNESS].counters().snapshots_taken, 0);
    let before = conf(&cluster, WITNESS);
    cluster.stop(WITNESS);
    cluster.start(WITNESS).expect("its directory is whole");
    assert_eq!(conf(&cluster, WITNESS), before);
    cluster.connect_all();
    let lines = cluster.lines(leader).len();
    cluster.until("a leader", |c| c.leader() == Some(leader));
    cluster.propose(leader, "after the restart");
    cluster.until("applied", |c| c.lines(leader).len() == lines + 1);
    // The one that was away is brought up to date by the full voter.
    cluster.start(3 - leader).expect("its directory is whole");
    cluster.connect_all();
    cluster.until("caught up", |c| c.lines(3 - leader).len() == lines + 1);
}

/// Left in the middle of the witness's removal: it votes still, but only in the half that is being left.
#[test]
fn the_members_can_be_reset_although_a_witness_was_about_to_leave() {
    let mut cluster = founded();
    cluster.auto_replace = false;
    let leader = cluster.leader().expect("it was founded");
    let (group, node) = (GROUP, NodeId(WITNESS));
    let role = MemberRole::Removed;
    let remove = OperatorRequest::ChangeMember { group, node, role };
    cluster.give(leader, HostEvent::Operator(remove));
    cluster.step_until("joint members", |c| conf(c, leader).is_joint());
    cluster.stop(WITNESS);
    cluster.stop(3 - leader);
    cluster.ticks(40);
    assert!(conf(&cluster, leader).is_joint() && cluster.leader().is_none());
    let survivors = vec![NodeId(leader), NodeId(WITNESS)];
    let reset = OperatorRequest::ResetMembers { group, survivors };
    cluster.give(leader, HostEvent::Operator(reset));
    let answer = cluster.notes.iter().rev().find_map(|(_, note)| match note {
        HostNote::Operated { outcome, .. } => Some(outcome.clone()),
        _ => None,
    });
    assert!(matches!(answer, Some(Ok(OperatorDone::Reset(_)))), "{answer:?}");
    cluster.until("a leader", |c| c.leader() == Some(leader) && c.is_voter(leader));
    let conf = conf(&cluster, leader);
    assert_eq!((conf.voters.len(), conf.witnesses.len()), (1, 0));
}

#[test]
fn witnesses_are_a_minority_and_a_directory_stays_what_it_was_made_for() {
    let mut cluster = Cluster::tuned(3, |config| config.witness = config.node != NodeId(1));
    cluster.connect_all();
    cluster.ticks(100);
    assert!(cluster.hosts.values().all(|host| host.identity().cluster.is_none()));
    let witnesses = vec![NodeId(2), NodeId(3)];
    assert!(cluster.notes.contains(&(1, HostNote::TooManyWitnesses { witnesses })));

    let disk = MemDisk::new(1);
    open(config(1, 3), &disk, 7).expect("an empty directory opens");
    let mut as_witness = config(1, 3);
    as_witness.witness = true;
    let refused = open(as_witness, &disk, 8).err();
    assert!(
        matches!(refused, Some(OpenError::OtherKind { configured: true })),
        "{refused:?}"
    );
}
