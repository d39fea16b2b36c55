//! What is left after a majority is lost for good goes on by an operator's word.

mod cluster;

use bytes::Bytes;
use cluster::Cluster;
use settle_base::GroupTime;
use settle_raft::{ConfChange, ConfChangeKind, ConfState, LossWindow, PeerId, ProposeError, ResetError, SnapshotMeta};

fn tick(cluster: &mut Cluster) {
    for id in cluster.ids() {
        if cluster.node(id).is_up() {
            cluster.raft(id).tick();
        }
    }
    cluster.settle();
}

fn of(ids: &[u64]) -> ConfState {
    ConfState::of_voters(ids.iter().copied().map(PeerId))
}

fn write(cluster: &mut Cluster, id: u64) {
    let data = Bytes::from_static(b"data");
    cluster.raft(id).propose(data, GroupTime::ZERO, None).expect("it leads");
    cluster.settle();
}

fn cut_off(cluster: &mut Cluster, id: u64) {
    for other in cluster.ids() {
        cluster.cut.extend([(id, other), (other, id)]);
    }
}

/// p1 led five; p5 lacks the last entry that all others hold. Then p1, p2 and p3 are gone.
fn survivors() -> Cluster {
    let mut cluster = Cluster::new(&[1, 2, 3, 4, 5], &[6], 1, |_| {});
    cluster.raft(1).campaign();
    cluster.settle();
    write(&mut cluster, 1);
    cut_off(&mut cluster, 5);
    write(&mut cluster, 1);
    for id in [1, 2, 3] {
        cluster.crash(id);
    }
    cluster.cut.clear();
    for _ in 0..60 {
        tick(&mut cluster);
    }
    assert_eq!(cluster.leader(), None, "two of five are no majority");
    cluster
}

fn assert_goes_on(cluster: &mut Cluster, leader: u64, conf: &ConfState) {
    for _ in 0..60 {
        tick(cluster);
    }
    assert_eq!(cluster.leader(), Some(leader));
    write(cluster, leader);
    tick(cluster);
    tick(cluster);
    let commit = cluster.raft(leader).commit();
    for peer in conf.peers() {
        let raft = cluster.raft(peer.0);
        assert_eq!((raft.conf(), raft.commit()), (conf, commit), "{peer}");
    }
}

#[test]
fn the_survivors_go_on_with_all_that_one_of_them_holds() {
    let mut cluster = survivors();
    let done = cluster.promises.last_committed();
    let window = cluster.raft(4).reset_conf(of(&[4, 5]), Bytes::new()).unwrap();
    assert_eq!((window.commit <= done, window.last), (true, done));
    assert_goes_on(&mut cluster, 4, &of(&[4, 5]));
    assert!(cluster.raft(4).commit() > done);
}

#[test]
fn a_survivor_with_an_older_log_is_not_elected_by_force_and_gives_it_up_for_one_with_the_newest() {
    let mut cluster = survivors();
    cluster.raft(5).reset_conf(of(&[4, 5]), Bytes::new()).unwrap();
    for _ in 0..60 {
        tick(&mut cluster);
    }
    assert_eq!(cluster.leader(), None, "p4 has an entry that p5 lacks");
    let window = cluster.raft(4).reset_conf(of(&[4, 5]), Bytes::new()).unwrap();
    assert_eq!((window.last, window.last_term), (3, 1));
    assert_goes_on(&mut cluster, 4, &of(&[4, 5]));
}

#[test]
fn no_survivor_is_passed_over_who_may_know_of_something_committed() {
    let mut cluster = Cluster::new(&[1, 2, 3, 4, 5, 6, 7], &[], 1, |_| {});
    cluster.raft(1).campaign();
    cluster.settle();
    for id in [4, 6, 7] {
        cut_off(&mut cluster, id);
    }
    write(&mut cluster, 1);
    tick(&mut cluster);
    tick(&mut cluster);
    let known = cluster.raft(5).commit();
    assert!(known > cluster.raft(6).last_index(), "p5 knows that it is committed");
    for id in [1, 2, 3, 4] {
        cluster.crash(id);
    }
    cluster.cut.clear();
    cut_off(&mut cluster, 5);
    cluster.raft(6).reset_conf(of(&[5, 6, 7]), Bytes::new()).unwrap();
    for is_cut in [true, false] {
        for _ in 0..60 {
            tick(&mut cluster);
        }
        assert_eq!(cluster.leader(), None, "p5 did not agree; cut off: {is_cut}");
        cluster.cut.clear();
    }
    cluster.raft(5).reset_conf(of(&[5, 6, 7]), Bytes::new()).unwrap();
    assert_goes_on(&mut cluster, 5, &of(&[5, 6, 7]));
    assert!(cluster.raft(6).commit() > known);
}

#[test]
fn one_survivor_goes_on_alone_and_takes_new_peers_in() {
    let mut cluster = survivors();
    cluster.crash(5);
    cluster
        .raft(4)
        .reset_conf(of(&[4]), Bytes::from_static(b"book"))
        .unwrap();
    assert_goes_on(&mut cluster, 4, &of(&[4]));
    cluster.compact(4, 0);
    let change = ConfChange {
        changes: vec![ConfChangeKind::AddVoter(PeerId(6))],
        context: Bytes::new(),
    };
    cluster.raft(4).propose_conf_change(change, GroupTime::ZERO).unwrap();
    for _ in 0..6 {
        tick(&mut cluster);
    }
    assert_goes_on(&mut cluster, 4, &of(&[4, 6]));
    // The forced configuration is in the log: a restart keeps it.
    for id in [4, 6] {
        cluster.crash(id);
        cluster.restart(id, false);
    }
    for _ in 0..60 {
        tick(&mut cluster);
    }
    let leader = cluster.leader().expect("4 and 6 are all there are");
    assert_goes_on(&mut cluster, leader, &of(&[4, 6]));
}

#[test]
fn a_change_under_way_is_overruled_whether_it_was_entered_or_not() {
    for is_entered in [false, true] {
        let mut cluster = Cluster::new(&[1, 2, 3, 4, 5], &[], 1, |_| {});
        cluster.raft(1).campaign();
        cluster.settle();
        let change = ConfChange {
            changes: vec![ConfChangeKind::Remove(PeerId(5)), ConfChangeKind::Remove(PeerId(4))],
            context: Bytes::new(),
        };
        cluster.raft(1).propose_conf_change(change, GroupTime::ZERO).unwrap();
        // One trip: the entry is everywhere. More: it is committed and applied too, the leave perhaps not.
        for _ in 0..if is_entered { 3 } else { 1 } {
            for id in cluster.ids() {
                cluster.pump(id);
                while cluster.persist(id) {}
                while cluster.apply(id).is_some() {}
            }
            for message in std::mem::take(&mut cluster.network) {
                cluster.deliver(message);
            }
        }
        for id in [1, 2, 3] {
            cluster.crash(id);
        }
        cluster.settle();
        assert_eq!(cluster.raft(4).conf().is_joint(), is_entered);
        cluster.raft(4).reset_conf(of(&[4, 5]), Bytes::new()).unwrap();
        assert_goes_on(&mut cluster, 4, &of(&[4, 5]));
        // Later changes find nothing of the old one.
        let change = ConfChange {
            changes: vec![ConfChangeKind::AddLearner(PeerId(5))],
            context: Bytes::new(),
        };
        cluster.raft(4).propose_conf_change(change, GroupTime::ZERO).unwrap();
        for _ in 0..4 {
            tick(&mut cluster);
        }
        assert_eq!(
            (cluster.raft(4).conf().voters.len(), cluster.raft(4).conf().is_joint()),
            (1, false)
        );
    }
}

#[test]
fn a_survivor_that_restarts_before_the_reset_is_in_the_log_is_asked_again() {
    let mut cluster = survivors();
    cluster.raft(4).reset_conf(of(&[4, 5]), Bytes::new()).unwrap();
    cluster.crash(4);
    cluster.restart(4, false);
    for _ in 0..60 {
        tick(&mut cluster);
    }
    assert_eq!(cluster.leader(), None);
    cluster.raft(4).reset_conf(of(&[4, 5]), Bytes::new()).unwrap();
    assert_goes_on(&mut cluster, 4, &of(&[4, 5]));
}

#[test]
fn survivors_that_lost_the_tail_of_their_logs_go_on_when_all_of_the_new_voters_are_there() {
    for conf in [of(&[4]), of(&[4, 5])] {
        let mut cluster = survivors();
        for id in [4, 5] {
            cluster.crash(id);
            cluster.restart(id, true);
        }
        cluster.raft(4).reset_conf(conf.clone(), Bytes::new()).unwrap();
        for _ in 0..200 {
            tick(&mut cluster);
        }
        assert_goes_on(&mut cluster, 4, &conf);
        assert!(!cluster.raft(4).is_recovering());
    }
}

#[test]
fn what_cannot_be_forced_is_refused_by_name() {
    let mut cluster = survivors();
    let raft = cluster.raft(4);
    let before = raft.status();
    let joint = of(&[4])
        .changed(&ConfChange {
            changes: vec![ConfChangeKind::AddVoter(PeerId(5))],
            context: Bytes::new(),
        })
        .unwrap();
    for conf in [ConfState::default(), joint] {
        assert_eq!(raft.reset_conf(conf, Bytes::new()), Err(ResetError::Conf));
    }
    let refused: Result<LossWindow, _> = raft.reset_conf(of(&[5]), Bytes::new());
    assert_eq!(refused, Err(ResetError::NotAVoter { id: PeerId(4) }));
    let conf = ConfState {
        witnesses: vec![PeerId(5)],
        ..of(&[4, 5, 6])
    };
    let refused = raft.reset_conf(conf, Bytes::new());
    assert_eq!(
        refused,
        Err(ResetError::WitnessChange { id: PeerId(5) }),
        "it is a full voter"
    );
    assert_eq!(raft.status(), before);
    // A leader that lives changes its members the ordinary way.
    raft.reset_conf(of(&[4]), Bytes::new()).unwrap();
    for _ in 0..30 {
        tick(&mut cluster);
    }
    let reset = ConfChange {
        changes: vec![ConfChangeKind::Reset, ConfChangeKind::AddVoter(PeerId(4))],
        context: Bytes::new(),
    };
    let refused = cluster.raft(4).propose_conf_change(reset, GroupTime::ZERO);
    assert!(matches!(refused, Err(ProposeError::ConfChange(_))));
}

#[test]
fn a_machine_that_is_replaced_brings_no_earlier_members_back() {
    let mut cluster = survivors();
    let raft = cluster.raft(4);
    let before = raft.conf().clone();
    raft.reset_conf(of(&[4]), Bytes::new()).unwrap();
    let meta = SnapshotMeta {
        index: raft.applied(),
        term: raft.term_at(raft.applied()).expect("it is in the log"),
        time: GroupTime::ZERO,
        conf: before.clone(),
        ..SnapshotMeta::default()
    };
    raft.replace_machine(&meta);
    assert_eq!((raft.conf(), raft.conf_by_log()), (&of(&[4]), &before));
}
