//! The `raft` crate 0.7.0 (TiKV's port of etcd's raft) and ours are driven by the same events and must agree, whenever
//! the network is quiet, on every peer's term, vote, leader, commit index and log.
//!
//! Left out is what the two do differently on purpose:
//! followers forward no proposals here, a removed leader retires here, and peers join by snapshot here.

mod cluster;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use bytes::Bytes;
use cluster::Cluster;
use raft::{
    RawNode,
    eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, EntryType, Message},
    storage::MemStorage,
};
use settle_base::{GroupTime, Prng};
use settle_raft::{ConfChange, ConfChangeKind, EntryKind, PeerId, Role};

const PEERS: [u64; 5] = [1, 2, 3, 4, 5];
const ELECTION_TICKS: u32 = 10;

/// Never reached: peers campaign when the script says so. Who wins a race of timers is decided by nothing but the order
/// of messages, which is each implementation's own. Leases and the check of the quorum run by ticks.
const NEVER: u32 = 1_000_000;

#[derive(Clone, Debug)]
enum Event {
    Campaign(u64),
    Propose(u64),
    Tick(u32),
    /// The listed peers on one side, the rest on the other.
    Partition(Vec<u64>),
    Heal,
    Transfer(u64),
    Change(Vec<ConfChangeKind>),
    RestartFollower(u64),
}

/// The oracle's side: the same shape as [`Cluster`], with every write persisted at once.
struct Oracle {
    nodes: BTreeMap<u64, RawNode<MemStorage>>,
    network: Vec<Message>,
    cut: BTreeSet<(u64, u64)>,
    /// What was proposed, by the bytes of its entry.
    changes: BTreeMap<Vec<u8>, ConfChangeV2>,
    proposed: Option<ConfChangeV2>,
}

fn oracle_config(id: u64, applied: u64) -> raft::Config {
    raft::Config {
        id,
        applied,
        election_tick: ELECTION_TICKS as usize,
        heartbeat_tick: 2,
        min_election_tick: NEVER as usize,
        max_election_tick: NEVER as usize + 1,
        max_size_per_msg: 1 << 20,
        max_inflight_msgs: 256,
        pre_vote: true,
        check_quorum: true,
        ..raft::Config::default()
    }
}

fn oracle_node(id: u64, applied: u64, storage: MemStorage) -> RawNode<MemStorage> {
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    RawNode::new(&oracle_config(id, applied), storage, &logger).expect("the oracle accepts its config")
}

impl Oracle {
    fn new() -> Oracle {
        let node = |id| {
            let storage = MemStorage::new_with_conf_state((PEERS.to_vec(), vec![]));
            (id, oracle_node(id, 0, storage))
        };
        Oracle {
            nodes: PEERS.into_iter().map(node).collect(),
            network: Vec::new(),
            cut: BTreeSet::new(),
            changes: BTreeMap::new(),
            proposed: None,
        }
    }

    fn node(&mut self, id: u64) -> &mut RawNode<MemStorage> {
        self.nodes.get_mut(&id).expect("a peer of the test")
    }

    fn pump(&mut self, id: u64) -> bool {
        if !self.node(id).has_ready() {
            return false;
        }
        let mut ready = self.node(id).ready();
        let store = self.node(id).store().clone();
        self.network.extend(ready.take_messages());
        store.wl().append(ready.entries()).expect("the oracle's entries fit");
        if let Some(hard_state) = ready.hs() {
            store.wl().set_hardstate(hard_state.clone());
        }
        self.network.extend(ready.take_persisted_messages());
        self.apply(id, &store, ready.take_committed_entries());
        let mut light = self.node(id).advance(ready);
        if let Some(commit) = light.commit_index() {
            store.wl().mut_hard_state().set_commit(commit);
        }
        self.network.extend(light.take_messages());
        self.apply(id, &store, light.take_committed_entries());
        self.node(id).advance_apply();
        true
    }

    fn apply(&mut self, id: u64, store: &MemStorage, committed: Vec<raft::eraftpb::Entry>) {
        for entry in committed {
            if entry.get_entry_type() == EntryType::EntryConfChangeV2 {
                let change = if entry.data.is_empty() {
                    ConfChangeV2::default()
                } else {
                    let newest = self.proposed.clone().unwrap_or_default();
                    self.changes.entry(entry.data.to_vec()).or_insert(newest).clone()
                };
                let conf = self
                    .node(id)
                    .apply_conf_change(&change)
                    .expect("a committed change can be applied");
                store.wl().set_conf_state(conf);
            }
        }
    }

    fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut moved = false;
            for id in PEERS {
                while self.pump(id) {
                    moved = true;
                }
            }
            for message in std::mem::take(&mut self.network) {
                moved = true;
                if !self.cut.contains(&(message.from, message.to)) {
                    // The oracle answers a message from a peer that it no longer knows with an error.
                    let _ = self.node(message.to).step(message);
                }
            }
            if !moved {
                return;
            }
        }
        panic!("the oracle does not come to rest");
    }

    fn view(&self, id: u64) -> String {
        let raft = &self.nodes[&id].raft;
        let mut view = String::new();
        let committed = raft.raft_log.committed;
        let _ = writeln!(
            view,
            "term {} vote {} leader {} commit {committed}",
            raft.term, raft.vote, raft.leader_id
        );
        for entry in raft.raft_log.all_entries() {
            let data = match entry.get_entry_type() {
                EntryType::EntryNormal => String::from_utf8_lossy(&entry.data).into_owned(),
                _ => "(change)".to_owned(),
            };
            let _ = writeln!(view, "{}/{} {data}", entry.term, entry.index);
        }
        view
    }
}

struct Pair {
    ours: Cluster,
    oracle: Oracle,
    values: u64,
}

impl Pair {
    fn new(seed: u64) -> Pair {
        let mut ours = Cluster::new(&PEERS, &[], seed, |config| config.election_ticks = ELECTION_TICKS);
        PEERS
            .into_iter()
            .for_each(|id| ours.raft(id).pin_election_timeout(NEVER));
        Pair {
            ours,
            oracle: Oracle::new(),
            values: 0,
        }
    }

    fn leader(&self) -> Option<u64> {
        self.ours.leader()
    }

    fn settle(&mut self) {
        self.ours.settle();
        self.oracle.settle();
    }

    fn tick(&mut self, ticks: u32) {
        for _ in 0..ticks {
            for id in PEERS {
                self.ours.raft(id).tick();
                self.oracle.node(id).tick();
            }
            self.settle();
        }
    }

    fn run(&mut self, event: &Event) {
        match event {
            Event::Campaign(id) => {
                if !self.ours.raft(*id).conf().is_voter(PeerId(*id)) {
                    // The oracle lets a learner campaign when told so.
                    return;
                }
                self.ours.raft(*id).campaign();
                let _ = self.oracle.node(*id).campaign();
            }
            Event::Propose(count) => {
                let Some(leader) = self.leader() else { return };
                for _ in 0..*count {
                    self.values += 1;
                    let value = format!("v{}", self.values);
                    let ours = self
                        .ours
                        .raft(leader)
                        .propose(Bytes::from(value.clone()), GroupTime::ZERO, None);
                    let theirs = self.oracle.node(leader).propose(vec![], value.into_bytes());
                    assert_eq!(ours.is_ok(), theirs.is_ok(), "both take or refuse a proposal");
                }
            }
            Event::Tick(ticks) => self.tick(*ticks),
            Event::Partition(side) => {
                for from in PEERS {
                    for to in PEERS {
                        if side.contains(&from) != side.contains(&to) {
                            self.ours.cut.insert((from, to));
                            self.oracle.cut.insert((from, to));
                        }
                    }
                }
            }
            Event::Heal => {
                self.ours.cut.clear();
                self.oracle.cut.clear();
            }
            Event::Transfer(to) => {
                let Some(leader) = self.leader() else { return };
                // The oracle asks its successor once; ours asks again with each ack until the time is over.
                if self.ours.cut.is_empty() && self.ours.raft(leader).transfer_leader(PeerId(*to)).is_ok() {
                    self.oracle.node(leader).transfer_leader(*to);
                }
            }
            Event::Change(kinds) => self.change(kinds),
            Event::RestartFollower(id) => self.restart(*id),
        }
        self.settle();
    }

    fn change(&mut self, kinds: &[ConfChangeKind]) {
        let Some(leader) = self.leader() else { return };
        if kinds.iter().any(|kind| kind.peer().0 == leader) {
            return;
        }
        let change = ConfChange {
            changes: kinds.to_vec(),
            context: Bytes::new(),
        };
        if self
            .ours
            .raft(leader)
            .propose_conf_change(change, GroupTime::ZERO)
            .is_err()
        {
            return;
        }
        let single = |kind: &ConfChangeKind| {
            let mut single = ConfChangeSingle {
                node_id: kind.peer().0,
                ..ConfChangeSingle::default()
            };
            single.set_change_type(match kind {
                ConfChangeKind::AddVoter(_) => ConfChangeType::AddNode,
                ConfChangeKind::AddLearner(_) => ConfChangeType::AddLearnerNode,
                ConfChangeKind::Remove(_) => ConfChangeType::RemoveNode,
                ConfChangeKind::AddWitness(_) | ConfChangeKind::Reset => unreachable!("the oracle knows neither"),
            });
            single
        };
        let mut theirs = ConfChangeV2::default();
        theirs.set_transition(ConfChangeTransition::Implicit);
        theirs.set_changes(kinds.iter().map(single).collect::<Vec<_>>().into());
        // Makes the bytes of each change its own.
        self.values += 1;
        theirs.context = self.values.to_string().into_bytes().into();
        self.oracle.proposed = Some(theirs.clone());
        self.oracle
            .node(leader)
            .propose_conf_change(vec![], theirs)
            .expect("the oracle takes what we took");
    }

    /// Both write everything at once, so nothing is lost; the commit index comes back with the leader's next word.
    fn restart(&mut self, id: u64) {
        let Some(leader) = self.leader().filter(|&leader| leader != id) else {
            return;
        };
        if !self.ours.cut.is_empty() || !self.ours.raft(leader).conf().contains(PeerId(id)) {
            return;
        }
        self.ours.crash(id);
        self.ours.restart(id, false);
        self.ours.raft(id).pin_election_timeout(NEVER);
        let old = self.oracle.nodes.remove(&id).expect("a peer of the test");
        let applied = old.raft.raft_log.applied;
        self.oracle
            .nodes
            .insert(id, oracle_node(id, applied, old.store().clone()));
    }

    fn our_view(&self, id: u64) -> String {
        let raft = self.ours.nodes[&id].view();
        let status = raft.status();
        let mut view = String::new();
        let (vote, leader) = (status.vote.0, status.leader.0);
        let _ = writeln!(
            view,
            "term {} vote {vote} leader {leader} commit {}",
            status.term, status.commit
        );
        for entry in raft.entries(1..=status.last_index) {
            let data = match entry.kind {
                EntryKind::Normal | EntryKind::Host | EntryKind::Noop => {
                    String::from_utf8_lossy(&entry.data).into_owned()
                }
                EntryKind::ConfChange => "(change)".to_owned(),
            };
            let _ = writeln!(view, "{}/{} {data}", entry.term, entry.index);
        }
        view
    }

    fn oracle_has_removed_leader(&self) -> bool {
        let is_removed = |node: &RawNode<MemStorage>| {
            let raft = &node.raft;
            raft.state == raft::StateRole::Leader && !raft.prs().conf().voters().contains(raft.id)
        };
        self.oracle.nodes.values().any(is_removed)
    }

    fn compare(&self, after: &[Event]) {
        for id in PEERS {
            let (ours, theirs) = (self.our_view(id), self.oracle.view(id));
            assert_eq!(ours, theirs, "p{id} (left is ours) after {after:?}");
        }
    }
}

fn check(seed: u64, script: impl IntoIterator<Item = Event>) -> Pair {
    let mut pair = Pair::new(seed);
    let mut done = Vec::new();
    for event in script {
        pair.run(&event);
        // The oracle sends the entry that leaves a joint configuration only with the answer to a heartbeat.
        pair.tick(4);
        done.push(event);
        if pair.oracle_has_removed_leader() {
            // Ours handed over and stepped down; the oracle's goes on leading a group that it is no part of.
            break;
        }
        pair.compare(&done);
    }
    pair
}

#[test]
fn a_written_story_of_elections_conflicts_changes_and_transfers_ends_alike() {
    use Event::*;
    let pair = check(
        1,
        [
            Campaign(1),
            Propose(3),
            Partition(vec![1, 2]),
            Propose(2),
            Tick(ELECTION_TICKS),
            Campaign(3),
            Propose(2),
            Heal,
            Tick(3),
            Change(vec![
                ConfChangeKind::Remove(PeerId(5)),
                ConfChangeKind::AddLearner(PeerId(4)),
            ]),
            Propose(1),
            Transfer(2),
            Propose(1),
            RestartFollower(3),
            Change(vec![
                ConfChangeKind::AddVoter(PeerId(4)),
                ConfChangeKind::AddVoter(PeerId(5)),
            ]),
            Tick(3),
            Partition(vec![2]),
            Tick(2 * ELECTION_TICKS),
            Campaign(3),
            Heal,
            Tick(5),
            Propose(1),
        ],
    );
    assert!(pair.ours.promises.elections >= 4, "the story has its elections");
    assert!(pair.ours.joint_changes >= 10, "the story has its changes at all five");
}

#[test]
fn random_event_scripts_end_alike() {
    let mut elections = 0;
    let mut committed = 0;
    let mut changes = 0;
    for seed in 0..150 {
        let mut prng = Prng::from_parts(&[0xd1ff, seed]);
        let any = |prng: &mut Prng| 1 + prng.below(5);
        let script: Vec<Event> = (0..60)
            .map(|_| match prng.below(20) {
                0..4 => Event::Campaign(any(&mut prng)),
                4..10 => Event::Propose(1 + prng.below(4)),
                10..12 => Event::Tick(1 + prng.below(12) as u32),
                12..14 => Event::Partition((0..=prng.below(2)).map(|_| any(&mut prng)).collect()),
                14..16 => Event::Heal,
                16..17 => Event::Transfer(any(&mut prng)),
                17..19 => {
                    let mut peers = BTreeSet::new();
                    peers.extend((0..=prng.below(2)).map(|_| PeerId(any(&mut prng))));
                    let kind = |peer| match prng.below(4) {
                        0 => ConfChangeKind::Remove(peer),
                        1 => ConfChangeKind::AddLearner(peer),
                        _ => ConfChangeKind::AddVoter(peer),
                    };
                    Event::Change(peers.into_iter().map(kind).collect())
                }
                _ => Event::RestartFollower(any(&mut prng)),
            })
            .collect();
        let pair = std::panic::catch_unwind(|| check(seed, script)).unwrap_or_else(|_| panic!("seed {seed} differs"));
        elections += pair.ours.promises.elections;
        committed += pair.ours.promises.last_committed();
        changes += pair.ours.joint_changes;
        assert!(
            pair.ours
                .nodes
                .values()
                .all(|node| node.view().role() != Role::Candidate)
        );
    }
    assert!(
        elections > 200 && committed > 2_000 && changes > 200,
        "{elections} {committed} {changes}"
    );
}
