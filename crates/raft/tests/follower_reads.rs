//! Reads at every kind of replica, and how far behind one may be that answers them.

mod cluster;

use bytes::Bytes;
use cluster::Cluster;
use settle_base::GroupTime;
use settle_raft::{ConfChange, ConfChangeKind, PeerId, ReadError};

/// p1 leads p2, p3 and the learner p4.
fn group() -> Cluster {
    let mut cluster = Cluster::new(&[1, 2, 3], &[4], 1, |config| config.max_read_lag = 3);
    cluster.raft(1).campaign();
    cluster.settle();
    cluster.compact(1, 0);
    let change = ConfChange {
        changes: vec![ConfChangeKind::AddLearner(PeerId(4))],
        context: Bytes::new(),
    };
    cluster
        .raft(1)
        .propose_conf_change(change, GroupTime::ZERO)
        .expect("a learner may be added");
    for _ in 0..4 {
        cluster.settle();
        cluster.raft(1).tick();
    }
    assert_eq!(cluster.raft(4).conf().learners, [PeerId(4)]);
    cluster
}

fn write(cluster: &mut Cluster, count: u32) {
    for _ in 0..count {
        cluster
            .raft(1)
            .propose(Bytes::new(), GroupTime::ZERO, None)
            .expect("a leader takes proposals");
    }
}

#[test]
fn leader_follower_and_learner_see_every_write_that_was_done_before_the_read() {
    let mut cluster = group();
    for id in [1, 2, 4] {
        write(&mut cluster, 1);
        cluster.settle();
        let done = cluster.raft(1).commit();
        cluster.raft(id).read_index(id).unwrap();
        cluster.settle();
        let read = cluster.node(id).reads.pop().expect("it is answered");
        assert_eq!((read.ctx, read.index), (id, done));
    }
}

#[test]
fn a_replica_that_is_too_far_behind_fails_a_read_at_once_or_with_the_leaders_answer() {
    for id in [2, 4] {
        let mut cluster = group();
        // It knows nothing of four writes until the leader answers.
        cluster.cut.insert((1, id));
        write(&mut cluster, 4);
        cluster.settle();
        let done = cluster.raft(1).commit();
        cluster.raft(id).read_index(7).unwrap();
        cluster.pump(id);
        let ask: Vec<_> = cluster.network.drain(..).collect();
        cluster.cut.clear();
        ask.into_iter().for_each(|message| cluster.deliver(message));
        // The answer, but nothing of the log, arrives.
        let mut behind = Vec::new();
        for _ in 0..4 {
            for other in [1, 2, 3, 4] {
                let ready = cluster.pump(other).unwrap_or_default();
                behind.extend(ready.reads_behind.iter().map(|read| (other, read.ctx, read.index)));
                while cluster.persist(other) {}
            }
            for message in std::mem::take(&mut cluster.network) {
                let is_log = matches!(message.body, settle_raft::Body::Append { .. });
                if !is_log {
                    cluster.deliver(message);
                }
            }
        }
        assert_eq!(behind, [(id, 7, done)]);
        assert!(cluster.node(id).reads.is_empty());
    }
}

#[test]
fn a_replica_that_knows_how_far_behind_it_is_asks_nobody() {
    let mut cluster = group();
    write(&mut cluster, 4);
    for _ in 0..8 {
        for id in [1, 2, 3, 4] {
            cluster.pump(id);
            while cluster.persist(id) {}
        }
        for message in std::mem::take(&mut cluster.network) {
            cluster.deliver(message);
        }
    }
    assert_eq!(
        cluster.raft(2).read_index(7),
        Err(ReadError::Behind { lag: 4, max: 3 }),
        "committed here, but not applied"
    );
    cluster
        .raft(1)
        .read_index(8)
        .expect("the leader's own machine is never too far behind to wait for");
    cluster.apply(2);
    cluster.raft(2).read_index(9).expect("within the limit");
}
