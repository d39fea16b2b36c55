//! Where a proposal's time goes, measured over disks of known latency.

mod harness;

use std::time::Duration;

use harness::{Ask, Cluster, GROUP, Told};
use settle_base::Mono;
use settle_host::{HostAction, HostEvent, STAGES};
use settle_storage::Latency;

const SYNC_US: u64 = 700;

/// A cluster of one in which every sync takes [`SYNC_US`], every write a tenth of it, and all proposals are sampled.
fn alone() -> Cluster {
    let mut cluster = Cluster::tuned(1, |config| config.stage_sample_every = 1);
    cluster.until("a leader", |c| c.leader().is_some());
    cluster.until("its first entry", |c| c.hosts[&1].machine(GROUP).is_some());
    cluster.ticks(4);
    cluster.disks[&1].set_latency(Latency {
        write_us: SYNC_US / 10..SYNC_US / 10 + 1,
        sync_us: SYNC_US..SYNC_US + 1,
        ..Latency::NONE
    });
    cluster
}

#[test]
fn the_stages_of_a_proposal_add_up_to_its_whole_and_the_disk_has_its_part() {
    let mut cluster = alone();
    let (host, disk) = (cluster.hosts.get_mut(&1).expect("it runs"), &cluster.disks[&1]);
    let start = cluster.now;
    let (mut now, mut out) = (start, Vec::new());
    host.step(HostEvent::Request(Ask::Propose("a")), now, &mut out);
    host.step(HostEvent::Request(Ask::Propose("b")), now, &mut out);
    // The turn takes its time before it comes to the log.
    now = now + Duration::from_micros(30);
    host.flush(now, &mut out);
    assert_eq!(host.carried_out(now), 0, "nothing is applied yet");
    let is_told = |out: &[HostAction<Told>]| out.iter().any(|a| matches!(a, HostAction::Respond(Told::Applied(_))));
    while !is_told(&out) {
        now = Mono(disk.next_due().expect("the log waits for its disk").0.max(now.0));
        disk.advance(now);
        host.step(HostEvent::DiskReady, now, &mut out);
        host.flush(now, &mut out);
        assert!(now.since(start) < Duration::from_millis(10), "a few operations");
    }
    let end = now + Duration::from_micros(40);
    assert_eq!(
        host.carried_out(end),
        1,
        "both were made at once, so one timeline stands for them"
    );
    let timeline = *host.timelines().next().expect("every proposal is sampled");
    assert_eq!((timeline.group, timeline.proposed), (GROUP, start));
    assert_eq!(timeline.stages.iter().sum::<Duration>(), end.since(start));
    let stage = |name| timeline.stages[STAGES.iter().position(|s| *s == name).expect("a stage")];
    assert_eq!(stage("queue"), Duration::from_micros(30));
    assert!(stage("sync") >= Duration::from_micros(SYNC_US), "{timeline:?}");
    assert_eq!(stage("replicate"), Duration::ZERO, "alone, the own copy is the quorum");
    assert_eq!(stage("reply"), Duration::from_micros(40));
    let histograms = host.stage_histograms();
    assert!(
        histograms.iter().all(|stage| stage.count() == 2),
        "each proposal counts"
    );
    let sums: u64 = histograms.iter().map(|stage| stage.sum_us).sum();
    assert_eq!(sums, 2 * end.since(start).as_micros() as u64);
}

#[test]
fn what_a_quorum_takes_is_told_apart_from_the_own_disk() {
    let mut cluster = Cluster::tuned(3, |config| config.stage_sample_every = 1);
    cluster.connect_all();
    cluster.until("a leader", |c| c.leader().is_some());
    cluster.ticks(4);
    let leader = cluster.leader().expect("it was just there");
    // The followers hear of it 20 ms after the leader has it on its disk.
    cluster.give(leader, HostEvent::Request(Ask::Propose("a")));
    cluster.give(leader, HostEvent::DiskReady);
    cluster.now = Mono::from_millis(cluster.now.as_millis() + 20);
    cluster.deliver();
    let now = cluster.now;
    let host = cluster.hosts.get_mut(&leader).expect("it runs");
    host.carried_out(now);
    let timeline = *host.timelines().next().expect("every proposal is sampled");
    let stage = |name| timeline.stages[STAGES.iter().position(|s| *s == name).expect("a stage")];
    assert_eq!(stage("replicate"), Duration::from_millis(20), "{timeline:?}");
    assert_eq!(timeline.stages.iter().sum::<Duration>(), Duration::from_millis(20));
}

#[test]
fn proposals_of_a_leader_that_lost_its_office_are_not_measured() {
    let mut cluster = Cluster::tuned(3, |config| config.stage_sample_every = 1);
    cluster.connect_all();
    cluster.until("a leader", |c| c.leader().is_some());
    cluster.ticks(4);
    let old = cluster.leader().expect("it was just there");
    (1..=3)
        .filter(|n| *n != old)
        .for_each(|other| cluster.disconnect(old, other));
    cluster.propose(old, "nobody hears it");
    cluster.until("another leader", |c| c.leader() != Some(old));
    cluster.connect_all();
    cluster.until("one history", |c| {
        c.hosts[&old].raft(GROUP).is_some_and(|raft| !raft.is_leader())
    });
    cluster.propose(cluster.leader().expect("there is one"), "everybody does");
    cluster.ticks(4);
    let now = cluster.now;
    let host = cluster.hosts.get_mut(&old).expect("it runs");
    assert_eq!(host.carried_out(now), 0);
    assert_eq!(host.timelines().count(), 0);
}
