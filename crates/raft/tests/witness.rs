//! Voters without a machine.

mod cluster;

use bytes::Bytes;
use cluster::Cluster;
use settle_base::{GroupTime, Prng};
use settle_raft::{
    ConfChange, ConfChangeError, ConfChangeKind, ConfState, PeerId, ProposeError, ReadError, Role, TransferError,
};

const WITNESS: u64 = 3;

fn change(changes: &[ConfChangeKind]) -> ConfChange {
    ConfChange {
        changes: changes.to_vec(),
        context: Bytes::new(),
    }
}

fn tick(cluster: &mut Cluster) {
    for id in cluster.ids() {
        if cluster.node(id).is_up() {
            cluster.raft(id).tick();
        }
    }
    cluster.settle();
}

/// p1 leads p2 and the witness p3.
fn group(seed: u64) -> Cluster {
    let mut cluster = Cluster::new(&[1, 2], &[WITNESS], seed, |_| {});
    cluster.raft(1).campaign();
    cluster.settle();
    cluster.compact(1, 0);
    let add = change(&[ConfChangeKind::AddWitness(PeerId(WITNESS))]);
    cluster
        .raft(1)
        .propose_conf_change(add, GroupTime::ZERO)
        .expect("a witness may be added");
    for _ in 0..4 {
        cluster.settle();
        tick(&mut cluster);
    }
    for id in [1, 2, WITNESS] {
        assert_eq!(cluster.raft(id).conf().witnesses, [PeerId(WITNESS)], "p{id}");
        assert!(!cluster.raft(id).conf().is_joint());
    }
    cluster
}

fn write(cluster: &mut Cluster, id: u64, count: u64) {
    for n in 0..count {
        let data = Bytes::from(n.to_string());
        cluster.raft(id).propose(data, GroupTime::ZERO, None).expect("it leads");
    }
    cluster.settle();
}

fn cut_off(cluster: &mut Cluster, id: u64) {
    for other in cluster.ids() {
        cluster.cut.extend([(id, other), (other, id)]);
    }
}

#[test]
fn a_witness_with_the_newest_log_brings_the_full_voter_up_to_date_and_hands_over() {
    for seed in 0..50 {
        let mut cluster = group(seed);
        cut_off(&mut cluster, 2);
        write(&mut cluster, 1, 5);
        let done = cluster.promises.last_committed();
        assert_eq!(cluster.raft(1).commit(), done, "p1 and the witness are a quorum");
        cluster.crash(1);
        cluster.cut.clear();
        let mut witness_led = false;
        for _ in 0..150 {
            // Step by step: what it answers while it leads.
            for id in [2, WITNESS] {
                cluster.raft(id).tick();
            }
            for _ in 0..6 {
                for id in [2, WITNESS] {
                    cluster.pump(id);
                    while cluster.persist(id) {}
                    while cluster.apply(id).is_some() {}
                }
                let raft = cluster.raft(WITNESS);
                if raft.role() == Role::Leader {
                    witness_led = true;
                    let refused = raft.propose(Bytes::new(), GroupTime::ZERO, None);
                    assert_eq!(refused, Err(ProposeError::Witness));
                    assert_eq!(raft.read_index(1), Err(ReadError::Witness));
                }
                for message in std::mem::take(&mut cluster.network) {
                    cluster.deliver(message);
                }
            }
        }
        assert!(witness_led, "seed {seed}: nobody else had the log");
        assert_eq!(cluster.leader(), Some(2), "seed {seed}");
        assert!(cluster.raft(2).commit() > done);
        write(&mut cluster, 2, 1);
        tick(&mut cluster);
    }
}

#[test]
fn a_witness_does_not_lead_where_a_full_voter_can() {
    for seed in 0..200 {
        let mut cluster = group(seed);
        write(&mut cluster, 1, 3);
        tick(&mut cluster);
        cluster.crash(1);
        if seed % 2 == 0 {
            [2, WITNESS]
                .into_iter()
                .for_each(|id| cluster.raft(id).leader_is_down());
        }
        while cluster.leader().is_none() {
            tick(&mut cluster);
        }
        assert_eq!(cluster.leader(), Some(2), "seed {seed}");
    }
}

#[test]
fn a_witness_learns_what_every_full_voter_holds_and_keeps_the_rest() {
    let mut cluster = group(1);
    write(&mut cluster, 1, 3);
    for _ in 0..2 {
        tick(&mut cluster);
    }
    let all = cluster.raft(1).commit();
    assert_eq!(cluster.raft(WITNESS).held_by_full_voters(), all);
    cut_off(&mut cluster, 2);
    write(&mut cluster, 1, 5);
    for _ in 0..4 {
        tick(&mut cluster);
    }
    let raft = cluster.raft(WITNESS);
    assert_eq!(
        (raft.commit(), raft.held_by_full_voters()),
        (all + 5, all),
        "p2 lacks five"
    );
    assert_eq!(cluster.raft(1).held_by_full_voters(), all);
    cluster.cut.clear();
    for _ in 0..12 {
        tick(&mut cluster);
    }
    let commit = cluster.raft(1).commit();
    assert_eq!(cluster.raft(WITNESS).held_by_full_voters(), commit);
}

#[test]
fn a_witness_that_dropped_too_much_sends_no_snapshot_and_waits_for_who_can() {
    let mut cluster = group(1);
    cut_off(&mut cluster, 2);
    write(&mut cluster, 1, 5);
    tick(&mut cluster);
    // As if p2 had been given up.
    cluster.compact(WITNESS, 0);
    let sent = cluster.snapshots_sent;
    cluster.crash(1);
    cluster.cut.clear();
    for _ in 0..200 {
        tick(&mut cluster);
        assert_eq!(cluster.node(2).reads.len(), 0);
        assert_ne!(cluster.leader(), Some(2), "it lacks what is committed");
    }
    assert_eq!(cluster.snapshots_sent, sent);
    cluster.restart(1, false);
    for _ in 0..60 {
        tick(&mut cluster);
    }
    assert_eq!(cluster.leader(), Some(1));
    write(&mut cluster, 1, 1);
    tick(&mut cluster);
    let commit = cluster.raft(1).commit();
    assert_eq!(cluster.raft(2).commit(), commit, "p1 brought p2 up to date");
}

#[test]
fn a_witness_that_dropped_too_much_lets_the_one_that_can_lead_although_that_one_is_recovering() {
    for seed in 0..50 {
        let mut cluster = group(seed);
        cut_off(&mut cluster, 2);
        write(&mut cluster, 1, 5);
        tick(&mut cluster);
        cluster.compact(WITNESS, 0);
        cluster.crash(1);
        cluster.cut.clear();
        while cluster.leader() != Some(WITNESS) {
            tick(&mut cluster);
        }
        cluster.restart(1, true);
        for _ in 0..400 {
            tick(&mut cluster);
        }
        assert_eq!(cluster.leader(), Some(1), "seed {seed}");
        write(&mut cluster, 1, 1);
        tick(&mut cluster);
        let commit = cluster.raft(1).commit();
        assert_eq!(
            cluster.raft(2).commit(),
            commit,
            "seed {seed}: p1 brought p2 up to date"
        );
    }
}

#[test]
fn leadership_is_not_handed_to_a_witness() {
    let mut cluster = group(1);
    let refused = cluster.raft(1).transfer_leader(PeerId(WITNESS));
    assert_eq!(refused, Err(TransferError::NotAVoter { to: PeerId(WITNESS) }));
}

#[test]
fn each_majority_has_a_full_voter_and_nobody_changes_its_kind() {
    use ConfChangeKind::{AddLearner, AddVoter, AddWitness, Remove};
    let [two, three, four] = [2, 3, 4].map(PeerId);
    let of = |ids: &[u64]| ConfState::of_voters(ids.iter().copied().map(PeerId));
    let changed =
        |conf: &ConfState, changes: &[ConfChangeKind]| conf.changed(&change(changes))?.changed(&ConfChange::default());
    let too_many = |witnesses, voters| Err(ConfChangeError::TooManyWitnesses { witnesses, voters });
    assert_eq!(changed(&of(&[1]), &[AddWitness(two)]), too_many(1, 2));
    let conf = changed(&of(&[1]), &[AddVoter(two), AddWitness(three)]).unwrap();
    assert_eq!((conf.voters.len(), &conf.witnesses[..]), (3, &[three][..]));
    assert_eq!(changed(&conf, &[AddWitness(four)]), too_many(2, 4));
    assert_eq!(changed(&conf, &[Remove(two)]), too_many(1, 2));
    for kind in [AddVoter(three), AddLearner(three), AddWitness(two)] {
        let peer = kind.peer();
        assert_eq!(changed(&conf, &[kind]), Err(ConfChangeError::KeepsItsKind { peer }));
    }
    let without = changed(&conf, &[Remove(three)]).unwrap();
    assert!(without.witnesses.is_empty());
    let joint = conf.changed(&change(&[Remove(three)])).unwrap();
    assert!(joint.is_witness(three), "it still votes as one");
}

#[test]
fn random_faults_leave_a_group_with_a_witness_safe_and_led_by_a_full_voter() {
    for seed in 0..100 {
        let mut prng = Prng::new(seed);
        let mut cluster = group(seed);
        let mut led = 0;
        for _ in 0..300 {
            let id = prng.between(1, 4);
            let is_up = cluster.node(id).is_up();
            match prng.below(16) {
                0 if is_up => cluster.crash(id),
                0 | 1 if !is_up => cluster.restart(id, false),
                2 => cut_off(&mut cluster, id),
                3 | 4 => cluster.cut.clear(),
                5..8 if is_up => {
                    let _ = cluster
                        .raft(id)
                        .propose(Bytes::from(seed.to_string()), GroupTime::ZERO, None);
                }
                8 if is_up && id == WITNESS => {
                    let held = cluster.raft(id).held_by_full_voters();
                    let keep = cluster.raft(id).applied().saturating_sub(held);
                    cluster.compact(id, keep);
                }
                8 if is_up => cluster.compact(id, 0),
                _ => tick(&mut cluster),
            }
            led += u64::from(cluster.leader() == Some(WITNESS));
        }
        cluster.cut.clear();
        for id in cluster.ids() {
            if !cluster.node(id).is_up() {
                cluster.restart(id, false);
            }
        }
        for _ in 0..250 {
            tick(&mut cluster);
        }
        let leader = cluster
            .leader()
            .unwrap_or_else(|| panic!("seed {seed}: no leader (the witness led {led})"));
        assert_ne!(leader, WITNESS, "seed {seed}");
        write(&mut cluster, leader, 1);
        tick(&mut cluster);
    }
}
