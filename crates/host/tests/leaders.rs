//! A follower of leaders that follow each other quickly: what it promised to one is never confused with what it
//! writes for the next, and no message of an honest peer stops it.

mod harness;

use std::time::Duration;

use bytes::Bytes;
use harness::{Ask, Cluster, GROUP};
use settle_base::{GroupTime, Index, NodeId, Term};
use settle_host::{HostAction, HostEvent, PeerMessage};
use settle_raft::{Body, Entry, EntryKind, Message};
use settle_storage::Latency;

/// A follower with two others, one of which leads; the follower's log ends with an entry that nobody else holds.
struct Scene {
    cluster: Cluster,
    follower: u32,
    others: [u32; 2],
    term: Term,
    /// The last entry that all three hold, and its term.
    common: (Index, Term),
}

impl Scene {
    fn new() -> Scene {
        let mut cluster = Cluster::founded(3);
        let leader = cluster.leader().expect("it was founded");
        let follower = leader % 3 + 1;
        cluster.propose(leader, "common");
        cluster.ticks(3);
        let raft = cluster.hosts[&follower].raft(GROUP).expect("a member");
        let last = raft.last_index();
        let (term, common) = (raft.term(), (last, raft.term_at(last).expect("in the log")));
        let others = [leader, 6 - leader - follower];
        let mut scene = Scene {
            cluster,
            follower,
            others,
            term,
            common,
        };
        let append = scene.append(0, 0, scene.common, vec![scene.entry(term)]);
        scene.cluster.give(follower, append);
        scene
    }

    /// The entry right after the common ones, as the leader of `term` wrote it.
    fn entry(&self, term: Term) -> Entry {
        Entry {
            term,
            index: self.common.0 + 1,
            kind: EntryKind::Normal,
            time: GroupTime(1_000_000),
            data: Bytes::from_static(b"x"),
        }
    }

    /// From one of the others as the leader of a term that is so much later.
    fn append(&self, from: usize, later: u64, prev: (Index, Term), entries: Vec<Entry>) -> HostEvent<Ask> {
        let id = |node: u32| self.cluster.hosts[&node].identity().incarnation;
        let body = Body::Append {
            prev_index: prev.0,
            prev_term: prev.1,
            commit: self.common.0,
            entries,
        };
        let message = Message {
            group: GROUP,
            from: id(self.others[from]),
            to: id(self.follower),
            term: self.term + later,
            body,
        };
        HostEvent::Peer {
            from: NodeId(self.others[from]),
            message: PeerMessage::Raft(vec![message]),
        }
    }

    fn last(&self) -> (Index, Term) {
        let last = self.common.0 + 1;
        let raft = self.cluster.hosts[&self.follower].raft(GROUP).expect("a member");
        (last, raft.term_at(last).expect("in the log"))
    }
}

#[test]
fn an_ack_to_one_leader_and_the_cut_of_the_next_may_meet_in_one_burst() {
    let scene = Scene::new();
    let check = scene.append(0, 0, (scene.common.0 + 1, scene.term), vec![]);
    let cut = scene.append(1, 1, scene.common, vec![scene.entry(scene.term + 1)]);
    let Scene {
        mut cluster, follower, ..
    } = scene;
    let now = cluster.now;
    let mut out = Vec::new();
    let host = cluster.hosts.get_mut(&follower).expect("it runs");
    host.step(check, now, &mut out);
    host.step(cut, now, &mut out);
    host.flush(now, &mut out);
    let fatal = out.iter().find(|action| matches!(action, HostAction::Fatal(_)));
    assert!(fatal.is_none(), "{fatal:?}");
}

#[test]
fn an_ack_that_waits_for_its_term_is_dropped_when_a_later_leader_cuts_below_it() {
    let mut scene = Scene::new();
    let (follower, term) = (scene.follower, scene.term);
    let sync_us = 400_000..400_001;
    let slow = Latency {
        sync_us,
        ..Latency::NONE
    };
    scene.cluster.disks[&follower].set_latency(slow);
    // It has the entry already, so only the new term has to be written before the ack may leave.
    let check = scene.append(1, 1, (scene.common.0 + 1, term), vec![]);
    let cut = scene.append(0, 2, scene.common, vec![scene.entry(term + 2)]);
    scene.cluster.give(follower, check);
    scene.cluster.give(follower, cut);
    for _ in 0..60 {
        scene.cluster.now = scene.cluster.now + Duration::from_millis(20);
        scene.cluster.give(follower, HostEvent::DiskReady);
    }
    assert!(scene.cluster.fatal.is_empty(), "{:?}", scene.cluster.fatal);
    assert_eq!(scene.last().1, term + 2);
    assert!(scene.cluster.hosts[&follower].counters().messages_outdated > 0);
}
