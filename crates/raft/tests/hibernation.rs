//! A group in which nothing happens rests; nothing that matters is hidden by it.

mod cluster;

use bytes::Bytes;
use cluster::Cluster;
use settle_base::{GroupTime, Prng};
use settle_raft::{Body, Message, PeerId, Role};

/// As a host does it: resting peers are not ticked at all.
fn tick(cluster: &mut Cluster) {
    for id in cluster.ids() {
        if let Some(raft) = &mut cluster.node(id).raft
            && !raft.is_resting()
        {
            raft.tick();
        }
    }
    cluster.settle();
}

fn with_leader(voters: &[u64], seed: u64) -> Cluster {
    let mut cluster = Cluster::new(voters, &[], seed, |_| {});
    cluster.raft(1).campaign();
    cluster.settle();
    assert_eq!(cluster.leader(), Some(1));
    for _ in 0..3 {
        tick(&mut cluster);
    }
    cluster
}

fn at_rest(voters: &[u64], seed: u64) -> Cluster {
    let mut cluster = with_leader(voters, seed);
    assert!(cluster.raft(1).may_rest(|_| false));
    cluster.raft(1).rest(|_| false);
    cluster.settle();
    for id in cluster.ids() {
        assert!(cluster.raft(id).is_resting(), "p{id}");
    }
    cluster
}

fn write(cluster: &mut Cluster, id: u64) {
    let data = Bytes::from_static(b"data");
    cluster.raft(id).propose(data, GroupTime::ZERO, None).expect("it leads");
}

/// Takes what was sent, without delivering it.
fn sent(cluster: &mut Cluster) -> Vec<Message> {
    for id in cluster.ids() {
        while cluster.pump(id).is_some() {
            while cluster.persist(id) {}
        }
    }
    std::mem::take(&mut cluster.network)
}

#[test]
fn a_group_at_rest_sends_nothing_and_wakes_for_a_write_and_rests_again() {
    let mut cluster = at_rest(&[1, 2, 3], 1);
    let term = cluster.raft(1).term();
    for _ in 0..100 {
        for id in cluster.ids() {
            cluster.raft(id).tick();
        }
        assert!(sent(&mut cluster).is_empty(), "a tick of a resting peer does nothing");
    }
    write(&mut cluster, 1);
    cluster.settle();
    for id in cluster.ids() {
        let raft = cluster.raft(id);
        assert!(!raft.is_resting(), "p{id}");
        assert_eq!((raft.commit(), raft.term()), (2, term));
    }
    tick(&mut cluster);
    tick(&mut cluster);
    cluster.raft(1).rest(|_| false);
    cluster.settle();
    assert!(cluster.ids().into_iter().all(|id| cluster.raft(id).is_resting()));
}

#[test]
fn who_has_anything_under_way_may_not_rest() {
    let mut cluster = with_leader(&[1, 2, 3], 1);
    assert!(!cluster.raft(2).may_rest(|_| false), "only a leader asks");
    let quiet = |cluster: &mut Cluster| {
        cluster.settle();
        tick(cluster);
        tick(cluster);
        assert!(cluster.raft(1).may_rest(|_| false));
    };
    write(&mut cluster, 1);
    assert!(!cluster.raft(1).may_rest(|_| false), "an entry is not committed");
    quiet(&mut cluster);
    cluster.raft(1).read_index(7).unwrap();
    assert!(!cluster.raft(1).may_rest(|_| false), "a read waits");
    quiet(&mut cluster);
    cluster.cut.extend([(1, 3), (3, 1)]);
    write(&mut cluster, 1);
    cluster.settle();
    assert!(!cluster.raft(1).may_rest(|_| false), "a peer lacks an entry");
    cluster.cut.clear();
    cluster.raft(1).report_unreachable(PeerId(3));
    quiet(&mut cluster);
    cluster.crash(3);
    for _ in 0..11 {
        tick(&mut cluster);
    }
    assert!(
        !cluster.raft(1).may_rest(|_| false),
        "a peer was not heard for an election timeout"
    );
}

#[test]
fn a_leader_stays_awake_until_all_have_answered_and_gives_up_after_an_election_timeout() {
    let mut cluster = with_leader(&[1, 2, 3], 1);
    cluster.crash(3);
    cluster.raft(1).rest(|_| false);
    cluster.settle();
    assert!(cluster.raft(2).is_resting());
    assert!(!cluster.raft(1).is_resting(), "p3 did not answer");
    for _ in 0..12 {
        tick(&mut cluster);
    }
    assert!(!cluster.raft(1).is_resting());
    assert!(!cluster.raft(2).is_resting(), "woken by the next heartbeat");
    assert_eq!((cluster.leader(), cluster.raft(1).term()), (Some(1), 1));
}

#[test]
fn a_dead_leader_is_replaced_whichever_way_its_followers_hear_of_it() {
    for way in 0..3 {
        let mut cluster = at_rest(&[1, 2, 3], 5);
        cluster.crash(1);
        match way {
            // The host of one follower alone noticed that a pulse is missing.
            0 => cluster.raft(2).wake(),
            1 => [2, 3].into_iter().for_each(|id| cluster.raft(id).leader_is_down()),
            // The leader's node comes back, awake and with no idea of the rest.
            _ => cluster.restart(1, false),
        }
        let mut ticks = 0;
        while cluster.leader().is_none() {
            tick(&mut cluster);
            ticks += 1;
            assert!(ticks < 80, "way {way}: no leader");
        }
        if way == 1 {
            assert!(
                ticks <= 3,
                "it took {ticks} ticks although the leader is known to be dead"
            );
        }
    }
}

#[test]
fn a_follower_that_rests_under_a_dead_leader_helps_the_one_that_was_woken() {
    // p3 is never woken by its host: p2's requests do it, and p3's own patience then runs out like p2's.
    let mut cluster = at_rest(&[1, 2, 3], 9);
    cluster.crash(1);
    cluster.raft(2).leader_is_down();
    for _ in 0..60 {
        tick(&mut cluster);
    }
    assert!(cluster.leader().is_some());
}

#[test]
fn a_request_to_rest_that_comes_late_puts_nobody_with_another_log_to_rest() {
    let mut cluster = with_leader(&[1, 2, 3], 1);
    cluster.raft(1).rest(|_| false);
    let requests = sent(&mut cluster);
    let is_request = |message: &Message| matches!(message.body, Body::Heartbeat { rest: true, .. });
    assert_eq!(requests.iter().filter(|message| is_request(message)).count(), 2);
    write(&mut cluster, 1);
    cluster.settle();
    for request in &requests {
        cluster.deliver(request.clone());
        assert!(!cluster.raft(request.to.0).is_resting(), "it has one entry more");
    }
    cluster.settle();
    // The same with a request of an old term, at a peer with the same log.
    let mut cluster = with_leader(&[1, 2, 3], 1);
    cluster.raft(1).rest(|_| false);
    let old = sent(&mut cluster);
    cluster.raft(1).transfer_leader(PeerId(3)).unwrap();
    cluster.settle();
    assert_eq!(cluster.leader(), Some(3));
    for request in old.into_iter().filter(is_request) {
        let to = request.to.0;
        cluster.deliver(request);
        assert!(!cluster.raft(to).is_resting());
    }
}

#[test]
fn a_request_to_rest_that_is_repeated_after_the_group_woke_hides_no_entry() {
    let mut cluster = with_leader(&[1, 2, 3], 1);
    cluster.raft(1).rest(|_| false);
    let requests = sent(&mut cluster);
    requests.iter().for_each(|request| cluster.deliver(request.clone()));
    cluster.settle();
    assert!(cluster.raft(1).is_resting());
    // p3 misses the append and the heartbeat that wakes; then the old request comes once more, and p3 still has the
    // log that it names.
    cluster.cut.insert((1, 3));
    write(&mut cluster, 1);
    cluster.settle();
    cluster.cut.clear();
    requests
        .iter()
        .filter(|request| request.to == PeerId(3))
        .for_each(|request| cluster.deliver(request.clone()));
    cluster.settle();
    for _ in 0..3 {
        tick(&mut cluster);
    }
    assert!(!cluster.raft(3).is_resting());
    assert_eq!((cluster.raft(3).commit(), cluster.raft(1).term()), (2, 1));
}

#[test]
fn late_answers_to_the_request_do_not_wake_the_leader() {
    let mut cluster = with_leader(&[1, 2, 3], 1);
    cluster.raft(1).rest(|_| false);
    for request in sent(&mut cluster) {
        cluster.deliver(request);
    }
    let answers = sent(&mut cluster);
    for _ in 0..2 {
        for answer in &answers {
            cluster.deliver(answer.clone());
        }
    }
    assert!(cluster.raft(1).is_resting());
    assert!(sent(&mut cluster).is_empty());
}

#[test]
fn a_read_wakes_a_resting_leader_which_answers_only_after_a_round() {
    let mut cluster = at_rest(&[1, 2, 3], 1);
    cluster.cut.extend([(1, 2), (1, 3)]);
    cluster.raft(1).read_index(7).unwrap();
    cluster.settle();
    assert!(cluster.node(1).reads.is_empty(), "nobody confirmed that p1 leads still");
    cluster.cut.clear();
    for _ in 0..3 {
        tick(&mut cluster);
    }
    assert_eq!(cluster.node(1).reads.len(), 1);
    cluster.raft(2).read_index(8).unwrap();
    cluster.settle();
    assert_eq!(cluster.node(2).reads.len(), 1);
}

#[test]
fn a_removed_peer_that_asks_for_votes_again_and_again_wakes_nobody() {
    use settle_raft::{ConfChange, ConfChangeKind};
    let mut cluster = with_leader(&[1, 2, 3], 1);
    // p3 never hears of its removal.
    for other in [1, 2] {
        cluster.cut.extend([(other, 3), (3, other)]);
    }
    let change = ConfChange {
        changes: vec![ConfChangeKind::Remove(PeerId(3))],
        context: Bytes::new(),
    };
    cluster.raft(1).propose_conf_change(change, GroupTime::ZERO).unwrap();
    for _ in 0..8 {
        cluster.settle();
        tick(&mut cluster);
    }
    cluster.raft(1).rest(|_| false);
    cluster.settle();
    cluster.cut.retain(|&(from, _)| from != 3);
    let requests = cluster.dropped;
    for _ in 0..200 {
        tick(&mut cluster);
    }
    assert_eq!(cluster.dropped, requests, "what p3 asks arrives, and nobody answers");
    assert!([1, 2].into_iter().all(|id| cluster.raft(id).is_resting()));
}

#[test]
fn a_learner_and_a_removed_voter_rest_and_wake_like_the_others() {
    use settle_raft::{ConfChange, ConfChangeKind};
    let mut cluster = Cluster::new(&[1, 2, 3], &[4], 1, |_| {});
    cluster.raft(1).campaign();
    cluster.settle();
    cluster.compact(1, 0);
    let change = ConfChange {
        changes: vec![ConfChangeKind::AddLearner(PeerId(4)), ConfChangeKind::Remove(PeerId(3))],
        context: Bytes::new(),
    };
    cluster.raft(1).propose_conf_change(change, GroupTime::ZERO).unwrap();
    for _ in 0..8 {
        cluster.settle();
        tick(&mut cluster);
    }
    assert!(!cluster.raft(1).conf().is_joint());
    cluster.raft(1).rest(|_| false);
    cluster.settle();
    assert!([1, 2, 4].into_iter().all(|id| cluster.raft(id).is_resting()));
    write(&mut cluster, 1);
    cluster.settle();
    let commit = cluster.raft(1).commit();
    for id in [2, 4] {
        assert_eq!(cluster.raft(id).commit(), commit, "p{id}");
    }
}

/// Peers 2 and 3 of three after 3 was lost, at rest without it.
fn at_rest_without_3() -> Cluster {
    let mut cluster = with_leader(&[1, 2, 3], 1);
    cluster.crash(3);
    write(&mut cluster, 1);
    let is_gone = |peer| peer == PeerId(3);
    assert!(!cluster.raft(1).may_rest(is_gone), "it may only be slow");
    for _ in 0..40 {
        tick(&mut cluster);
    }
    assert!(!cluster.raft(1).may_rest(|_| false), "nobody says that it is gone");
    cluster.raft(1).rest(is_gone);
    cluster.settle();
    assert!([1, 2].into_iter().all(|id| cluster.raft(id).is_resting()));
    cluster
}

#[test]
fn a_group_rests_without_a_peer_that_is_gone_and_brings_it_up_to_date_when_it_is_back() {
    for by_host in [true, false] {
        let mut cluster = at_rest_without_3();
        let (commit, term) = (cluster.raft(1).commit(), cluster.raft(1).term());
        cluster.restart(3, false);
        assert!(cluster.raft(3).last_index() < commit);
        if by_host {
            cluster.raft(1).wake();
        }
        // Else it asks for votes after a while, and that wakes the others.
        for _ in 0..60 {
            tick(&mut cluster);
        }
        assert_eq!(cluster.raft(3).commit(), commit);
        assert_eq!((cluster.leader(), cluster.raft(1).term()), (Some(1), term));
        cluster.raft(1).rest(|_| false);
        cluster.settle();
        assert!((1..=3).all(|id| cluster.raft(id).is_resting()));
    }
}

#[test]
fn the_leader_of_a_group_that_rests_without_a_peer_is_replaced_with_its_help() {
    let mut cluster = at_rest_without_3();
    cluster.crash(1);
    cluster.restart(3, false);
    cluster.raft(2).leader_is_down();
    for _ in 0..60 {
        tick(&mut cluster);
    }
    assert_eq!(cluster.leader(), Some(2), "the other lacks an entry");
    assert_eq!(cluster.raft(3).commit(), cluster.raft(2).commit());
}

#[test]
fn a_leader_without_a_quorum_does_not_rest() {
    let mut cluster = with_leader(&[1, 2, 3], 1);
    cluster.crash(2);
    cluster.crash(3);
    for _ in 0..200 {
        tick(&mut cluster);
        cluster.raft(1).rest(|peer| peer != PeerId(1));
        assert!(!cluster.raft(1).is_resting());
    }
    assert_eq!(cluster.leader(), None, "it stepped down");
}

/// Whoever claims that its leader is dead while the others hear it disturbs nobody.
#[test]
fn a_link_that_breaks_again_and_again_raises_no_term() {
    let mut cluster = with_leader(&[1, 2, 3], 1);
    let term = cluster.raft(1).term();
    for round in 0..200 {
        cluster.raft(3).leader_is_down();
        cluster.cut.extend([(1, 3), (3, 1)]);
        for _ in 0..round % 30 {
            tick(&mut cluster);
        }
        cluster.cut.clear();
        tick(&mut cluster);
    }
    for _ in 0..3 {
        tick(&mut cluster);
    }
    assert_eq!((cluster.leader(), cluster.raft(3).term()), (Some(1), term));
    assert_eq!(cluster.raft(3).leader(), PeerId(1));
}

/// Rests, writes, losses, crashes and woken hosts in any order: once faults end, writes go on.
#[test]
fn random_rests_lose_neither_entries_nor_liveness() {
    let (mut rests, mut rests_without) = (0, 0);
    for seed in 0..150 {
        let mut prng = Prng::new(seed);
        let mut cluster = Cluster::new(&[1, 2, 3], &[], seed, |_| {});
        let mut late: Vec<Message> = Vec::new();
        for _ in 0..400 {
            let id = prng.between(1, 4);
            let is_up = cluster.node(id).is_up();
            match prng.below(20) {
                0 if is_up => {
                    cluster.crash(id);
                    for other in cluster.ids() {
                        let is_led_by_it = cluster
                            .node(other)
                            .raft
                            .as_ref()
                            .is_some_and(|raft| raft.leader().0 == id);
                        if is_led_by_it {
                            cluster.raft(other).leader_is_down();
                        }
                    }
                }
                0 | 1 if !is_up => {
                    cluster.restart(id, false);
                    // The others' hosts see it come.
                    let ups: Vec<u64> = cluster
                        .ids()
                        .into_iter()
                        .filter(|id| cluster.node(*id).is_up())
                        .collect();
                    for up in ups {
                        if cluster.raft(up).role() == Role::Leader {
                            cluster.raft(up).wake();
                        }
                    }
                }
                2 | 3 if is_up => {
                    let _ = cluster
                        .raft(id)
                        .propose(Bytes::from(seed.to_string()), GroupTime::ZERO, None);
                }
                4..9 if is_up => {
                    let gone: Vec<u64> = cluster
                        .ids()
                        .into_iter()
                        .filter(|id| !cluster.node(*id).is_up())
                        .collect();
                    cluster.raft(id).rest(|peer| gone.contains(&peer.0));
                    rests_without += u64::from(cluster.raft(id).is_asking_to_rest() && !gone.is_empty());
                    for _ in 0..prng.below(3) {
                        late.extend(sent(&mut cluster).into_iter().inspect(|message| {
                            rests += u64::from(matches!(message.body, Body::HeartbeatReply { rested: true, .. }));
                        }));
                        let messages = late.split_off(prng.below(late.len() as u64 + 1) as usize);
                        messages.into_iter().for_each(|message| cluster.deliver(message));
                    }
                }
                9 if prng.percent(30) => late.extend(sent(&mut cluster)),
                10 => std::mem::take(&mut late)
                    .into_iter()
                    .for_each(|message| cluster.deliver(message)),
                11 => late.clear(),
                _ => tick(&mut cluster),
            }
        }
        for id in cluster.ids() {
            if !cluster.node(id).is_up() {
                cluster.restart(id, false);
            }
            // A missing pulse: hosts wake what they cannot be sure of.
            cluster.raft(id).wake();
        }
        for _ in 0..120 {
            tick(&mut cluster);
        }
        let leader = cluster.leader().unwrap_or_else(|| panic!("seed {seed}: no leader"));
        write(&mut cluster, leader);
        for _ in 0..5 {
            tick(&mut cluster);
        }
        let commit = cluster.raft(leader).commit();
        assert_eq!(cluster.raft(leader).role(), Role::Leader);
        for id in cluster.ids() {
            assert_eq!(cluster.raft(id).commit(), commit, "seed {seed} p{id}");
        }
    }
    assert!(rests > 300, "the groups rested: {rests}");
    assert!(rests_without > 20, "and without one of them: {rests_without}");
}

#[test]
fn a_leader_at_rest_hears_of_an_election_of_whom_it_cannot_reach() {
    for seed in 0..10 {
        let mut cluster = with_leader(&[1, 2, 3], seed);
        cluster.cut.extend([(1, 3), (3, 1)]);
        let is_cut = |a: u64, b: u64| a + b == 4;
        let mut rests = 0;
        for _ in 0..500 {
            tick(&mut cluster);
            for id in 1..=3 {
                cluster.raft(id).rest(|peer| is_cut(id, peer.0));
            }
            cluster.settle();
            let leads = |cluster: &mut Cluster, id| cluster.raft(id).role() == Role::Leader;
            let leaders: Vec<_> = (1..=3).filter(|id| leads(&mut cluster, *id)).collect();
            if let [one] = leaders[..] {
                rests += u32::from(cluster.raft(one).is_resting());
            }
        }
        // Whoever leads: it is one, and nobody else takes itself for the leader for good.
        for _ in 0..30 {
            tick(&mut cluster);
            cluster.settle();
        }
        let leaders = (1..=3).filter(|id| cluster.raft(*id).role() == Role::Leader).count();
        assert_eq!(leaders, 1, "seed {seed}");
        assert!(rests > 0, "seed {seed}: it rested without a peer");
    }
}
