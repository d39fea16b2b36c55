//! A node that comes back with an empty disk lacks all its groups at once.

mod harness;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use harness::{Ask, Cluster, Tune};
use settle_base::{GroupId, NodeId};
use settle_host::{ChunkContent, HostConfig, HostEvent, HostNote, OperatorRequest, PeerMessage};
use settle_machine::Action;

const GROUPS: u64 = 120;
const AT_ONCE: usize = 6;
const TO_ONE: usize = 3;

/// Five nodes with all groups, of which 4 and 5 are down.
fn without_two(tune: Tune) -> Cluster {
    let mut cluster = Cluster::tuned(5, tune);
    cluster.connect_all();
    cluster.until("leaders", |c| led(c) == GROUPS as usize);
    [4, 5].into_iter().for_each(|node| cluster.stop(node));
    cluster.until("new leaders", |c| led(c) == GROUPS as usize);
    cluster
}

fn tune(config: &mut HostConfig) {
    config.groups = (1..=GROUPS).map(GroupId).collect();
    config.leader_moves_per_second = 0;
    config.limits.snapshots_sent_max = AT_ONCE;
    config.limits.snapshots_sent_to_peer_max = TO_ONE;
    config.wal.segment_bytes = 1 << 20;
}

/// One peer can take all places.
fn with_two_wiped() -> Cluster {
    let mut cluster = without_two(|config| {
        tune(config);
        config.limits.snapshots_sent_max = TO_ONE;
    });
    for node in [4, 5] {
        cluster.disks[&node].wipe();
        cluster.start(node).expect("an empty directory opens");
    }
    cluster
}

/// They lack an entry of each group that is in no log any more.
fn with_two_behind() -> Cluster {
    let mut cluster = without_two(tune);
    for group in (1..=GROUPS).map(GroupId) {
        let leads = |node: &u32| cluster.hosts[node].raft(group).is_some_and(|raft| raft.is_leader());
        let leader = (1..=3).find(leads).expect("each has a leader");
        let (command, expected_term) = (Bytes::from_static(b"missed"), None);
        let propose = Action::Propose {
            group,
            command,
            expected_term,
        };
        cluster.give(leader, HostEvent::Request(Ask::Act(propose)));
        cluster.deliver();
        cluster.give(leader, HostEvent::Operator(OperatorRequest::TakeSnapshot { group }));
    }
    cluster.ticks(5);
    for node in [4, 5] {
        cluster.start(node).expect("its directory is whole");
    }
    cluster.sent.clear();
    cluster.notes.clear();
    cluster
}

fn has_all(cluster: &Cluster, node: u32) -> bool {
    let lines = |group| {
        cluster.hosts[&node]
            .machine(GroupId(group))
            .map_or(0, |m| m.lines.len())
    };
    (1..=GROUPS).all(|group| lines(group) == 1)
}

fn led(cluster: &Cluster) -> usize {
    cluster.hosts.values().map(|host| host.group_counts().led).sum()
}

fn votes_in_all(cluster: &Cluster, node: u32) -> bool {
    let votes = |group| {
        let raft = cluster.hosts[&node].raft(GroupId(group));
        raft.is_some_and(|raft| raft.conf().voters.contains(&raft.id()))
    };
    (1..=GROUPS).all(votes)
}

/// Transfers begun and not ended, by sender and receiver, as the wires and the notes tell.
#[derive(Default)]
struct Open {
    seen: (usize, usize),
    streams: BTreeMap<(u32, u32), BTreeSet<GroupId>>,
    most: (usize, usize),
}

impl Open {
    fn look(&mut self, cluster: &Cluster) {
        for (from, to, message) in &cluster.sent[self.seen.0..] {
            if let PeerMessage::SnapshotChunk(chunk) = message
                && matches!(chunk.content, ChunkContent::Start(_))
            {
                self.streams.entry((*from, *to)).or_default().insert(chunk.group);
            }
        }
        for (from, note) in &cluster.notes[self.seen.1..] {
            if let HostNote::SnapshotSent { group, to, .. } = note {
                self.streams.entry((*from, to.0)).or_default().remove(group);
            }
        }
        self.seen = (cluster.sent.len(), cluster.notes.len());
        for from in 1..=5 {
            let from_here = self.streams.iter().filter(|((sender, _), _)| *sender == from);
            let counts: Vec<usize> = from_here.map(|(_, groups)| groups.len()).collect();
            let to_one = counts.iter().max().copied().unwrap_or_default();
            self.most = (self.most.0.max(counts.iter().sum()), self.most.1.max(to_one));
        }
    }
}

#[test]
fn so_many_snapshots_are_on_their_way_at_once_and_every_group_gets_its_own() {
    let mut cluster = with_two_behind();
    let mut open = Open::default();
    for a in 1..=5 {
        for b in a + 1..=5 {
            cluster.connect_undelivered(a, b);
        }
    }
    for _ in 0..400_000 {
        if has_all(&cluster, 4) && has_all(&cluster, 5) {
            break;
        }
        if !cluster.deliver_one() {
            cluster.tick_undelivered();
        }
        open.look(&cluster);
    }
    assert!(has_all(&cluster, 4) && has_all(&cluster, 5));
    let (at_once, to_one) = open.most;
    assert!((TO_ONE + 1..=AT_ONCE).contains(&at_once), "{at_once} at once");
    assert_eq!(to_one, TO_ONE);
}

/// Neither one that is cut off nor one that says nothing keeps a place that another could use.
#[test]
fn a_receiver_that_vanished_holds_up_no_other() {
    for is_cut in [true, false] {
        let mut cluster = with_two_wiped();
        let mut open = Open::default();
        (1..=3).for_each(|node| cluster.connect_undelivered(node, 4));
        cluster.step_until_open(&mut open, 4);
        if is_cut {
            (1..=3).for_each(|node| cluster.disconnect(node, 4));
        } else {
            cluster.muted.extend((1..=3).map(|node| (4, node)));
        }
        (1..=3).for_each(|node| cluster.connect_undelivered(node, 5));
        cluster.until("the other", |c| votes_in_all(c, 5));
        assert!(!votes_in_all(&cluster, 4));
        cluster.muted.clear();
        cluster.connect_all();
        cluster.until("the one that was away", |c| votes_in_all(c, 4));
    }
}

impl Cluster {
    /// All transfers to `node` that may be on their way are.
    fn step_until_open(&mut self, open: &mut Open, node: u32) {
        for _ in 0..20_000 {
            if !self.deliver_one() {
                self.tick_undelivered();
            }
            open.look(self);
            if (1..=3).all(|from| {
                open.streams
                    .get(&(from, node))
                    .is_some_and(|groups| groups.len() == TO_ONE)
            }) {
                return;
            }
        }
        panic!("too few transfers to node {:?}", NodeId(node));
    }
}
