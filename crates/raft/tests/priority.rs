//! Priorities decide who leads where they can, and never whether somebody leads.

mod cluster;

use bytes::Bytes;
use cluster::Cluster;
use settle_base::GroupTime;
use settle_raft::{Body, PeerId};

/// An election that has to wait for every timeout there is, twice.
const TICKS_MAX: u32 = 2 * (2 * 10 + 2 * 10) + 10;

fn tick(cluster: &mut Cluster) {
    for id in cluster.ids() {
        if cluster.node(id).is_up() {
            cluster.raft(id).tick();
        }
    }
    cluster.settle();
}

fn group(priorities: [u8; 3], seed: u64) -> Cluster {
    Cluster::new(&[1, 2, 3], &[], seed, |config| {
        config.priority = priorities[config.id.0 as usize - 1];
    })
}

fn elect(cluster: &mut Cluster) -> u64 {
    for _ in 0..TICKS_MAX {
        tick(cluster);
        if let Some(leader) = cluster.leader() {
            return leader;
        }
    }
    panic!("no leader within {TICKS_MAX} ticks");
}

fn patterns() -> impl Iterator<Item = [u8; 3]> {
    let levels = [0, 1, 50, 99, 100];
    (0..125).map(move |n| [levels[n % 5], levels[n / 5 % 5], levels[n / 25]])
}

#[test]
fn every_pattern_of_priorities_elects_with_and_without_any_one_peer() {
    for priorities in patterns() {
        for dead in 0..=3 {
            for seed in 0..4 {
                let mut cluster = group(priorities, seed);
                if dead > 0 {
                    cluster.crash(dead);
                }
                elect(&mut cluster);
            }
        }
    }
}

#[test]
fn a_better_peer_that_cannot_win_holds_nobody_up() {
    // p3 hears every request and refuses it, but its own requests are lost.
    for dead in [1, 2] {
        for seed in 0..50 {
            let mut cluster = group([0, 0, 100], seed);
            cluster.crash(dead);
            let other = 3 - dead;
            let mut ticks = 0;
            while cluster.leader() != Some(other) {
                for id in [other, 3] {
                    cluster.raft(id).tick();
                }
                for _ in 0..8 {
                    for id in [other, 3] {
                        cluster.pump(id);
                        while cluster.persist(id) {}
                    }
                    for message in std::mem::take(&mut cluster.network) {
                        if message.from != PeerId(3) || !matches!(message.body, Body::PreVote { .. }) {
                            cluster.deliver(message);
                        }
                    }
                }
                ticks += 1;
                assert!(ticks < 3 * TICKS_MAX, "seed {seed}: p3 refuses for ever");
            }
        }
    }
}

#[test]
fn among_equal_logs_the_peer_that_is_far_above_the_others_leads() {
    for seed in 0..200 {
        assert_eq!(elect(&mut group([50, 100, 50], seed)), 2, "seed {seed}");
        assert_eq!(elect(&mut group([0, 0, 50], seed)), 3, "seed {seed}");
        let mut cluster = group([50, 100, 0], seed);
        cluster.crash(2);
        assert_eq!(elect(&mut cluster), 1, "seed {seed}: 0 leads only when nobody else can");
        let mut cluster = group([0, 100, 50], seed);
        assert_eq!(elect(&mut cluster), 2);
        cluster.crash(2);
        [1, 3].into_iter().for_each(|id| cluster.raft(id).leader_is_down());
        assert_eq!(
            elect(&mut cluster),
            3,
            "seed {seed}: also when the leader is known to be dead"
        );
    }
}

#[test]
fn the_newest_log_leads_whatever_its_priority() {
    for seed in 0..50 {
        let mut cluster = group([0, 100, 100], seed);
        cluster.raft(1).campaign();
        cluster.settle();
        for _ in 0..3 {
            tick(&mut cluster);
        }
        if cluster.leader() != Some(1) {
            // It was refused in favour of a better one, as it should be.
            let leader = elect(&mut cluster);
            cluster.raft(leader).transfer_leader(PeerId(1)).unwrap();
            cluster.settle();
        }
        assert_eq!(cluster.leader(), Some(1), "a transfer is no question of priority");
        cluster.crash(3);
        let data = Bytes::from_static(b"only p1 and p2 have it");
        cluster.raft(1).propose(data, GroupTime::ZERO, None).unwrap();
        cluster.settle();
        cluster.crash(2);
        cluster.restart(3, false);
        for _ in 0..3 {
            tick(&mut cluster);
        }
        let commit = cluster.raft(1).commit();
        cluster.crash(1);
        cluster.restart(1, false);
        elect(&mut cluster);
        tick(&mut cluster);
        assert!(cluster.promises.last_committed() >= commit);
    }
}
