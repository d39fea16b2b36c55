//! The `raft` crate 0.7.0 (TiKV's port of etcd's raft) and ours are driven by the same events and must agree, whenever
//! the network is quiet, on every peer's term, vote, leader, commit index and log, and on every read's index.
//!
//! `cargo test` runs a part of the random scripts. All of them, or some, or one that failed (it is shortened first):
//! `SETTLE_RAFT_SCRIPTS=0:10000 cargo test --profile sim -p settle-raft --test differential -- --nocapture`
//!
//! Every difference that was ever seen was a bug of ours or is one of these, kept out of the comparison:
//!
//! | Theirs (raft 0.7.0) | Ours | How it is kept out |
//! |---|---|---|
//! | A leader that removed itself leads on, in a configuration that it is no part of, until its host hands over (etcd-io/raft, `Config.StepDownOnRemoval`, later added there as an option; raft-rs has none). | It hands over and steps down. | The comparison ends when their leader is removed. |
//! | A transfer's `TimeoutNow` is sent once (`handle_transfer_leader`). | It is sent again with each ack until the time is over. | Transfers only on a whole network. |
//! | The entry that leaves a joint configuration is sent with the answer to a heartbeat only (`commit_apply` appends it without `bcast_append`): a leader that steps down before has told nobody. | It is sent at once. | Their host calls `bcast_append`. |
//! | A new leader has heard nobody when it first checks its quorum (`reset` clears `recent_active`; etcd gives new members alone the benefit of the doubt). | All have one election timeout to answer in. | Their leaders give it too. |
//! | Followers forward proposals. | The host does. | Proposals at leaders. |
//! | A learner that is told to campaigns (`hup` does not look at `promotable`, only its timer does). | A learner never campaigns. | Voters campaign. |
//! | A leader answers the read of a peer that it removed (`step_leader` looks for its progress after `MsgReadIndex`). | It hears nothing from who is no member. | Members read. |
//! | A read of a leader that has committed nothing in its term, or whose question was lost, is never answered (`step_leader`, `MsgReadIndex`). | The first waits, the second is asked again. | We may answer more, not less. |

mod cluster;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use bytes::Bytes;
use cluster::Cluster;
use raft::{
    RawNode, SnapshotStatus, StateRole,
    eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, EntryType, Message, MessageType},
    storage::MemStorage,
};
use settle_base::{GroupTime, Prng};
use settle_raft::{ConfChange, ConfChangeKind, EntryKind, PeerId};

const PEERS: [u64; 5] = [1, 2, 3, 4, 5];
const ELECTION_TICKS: u32 = 10;

/// Never reached: peers campaign when the script says so. Who wins a race of timers is decided by nothing but the order
/// of messages, which is each implementation's own. Leases and the check of the quorum run by ticks.
const NEVER: u32 = 1_000_000;

#[derive(Clone, PartialEq, Debug)]
enum Event {
    Campaign(u64),
    Propose(u64),
    Tick(u32),
    /// The listed peers on one side, the rest on the other.
    Partition(Vec<u64>),
    Heal,
    Transfer(u64),
    Change(Vec<ConfChangeKind>),
    Restart(u64),
    /// Drops the log up to what is applied, at one peer or (0) at all; who needs it gets a snapshot.
    Compact(u64),
    Read(u64),
    /// What the event makes one peer send to another is lost.
    Lossy(u64, u64, Box<Event>),
}

/// The oracle's side: the same shape as [`Cluster`], with every write persisted at once.
struct Oracle {
    nodes: BTreeMap<u64, RawNode<MemStorage>>,
    network: Vec<Message>,
    cut: BTreeSet<(u64, u64)>,
    /// What was proposed, by the bytes of its entry.
    changes: BTreeMap<Vec<u8>, ConfChangeV2>,
    proposed: Option<ConfChangeV2>,
    /// The context of a read and the index that answered it.
    reads: Vec<(u64, u64)>,
    snapshots: u64,
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
            reads: Vec::new(),
            snapshots: 0,
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
        if ready.ss().is_some_and(|state| state.raft_state == StateRole::Leader) {
            let progress = self.node(id).raft.mut_prs().iter_mut();
            progress.for_each(|(_, progress)| progress.recent_active = true);
        }
        self.network.extend(ready.take_messages());
        if !ready.snapshot().is_empty() {
            let snapshot = ready.snapshot().clone();
            store.wl().apply_snapshot(snapshot).expect("a newer snapshot");
        }
        for read in ready.take_read_states() {
            let ctx = read.request_ctx.try_into().expect("a context of ours");
            self.reads.push((u64::from_be_bytes(ctx), read.index));
        }
        store.wl().append(ready.entries()).expect("the oracle's entries fit");
        if let Some(hard_state) = ready.hs() {
            store.wl().set_hardstate(hard_state.clone());
        }
        self.network.extend(ready.take_persisted_messages());
        let mut is_changed = self.apply(id, &store, ready.take_committed_entries());
        let mut light = self.node(id).advance(ready);
        if let Some(commit) = light.commit_index() {
            store.wl().mut_hard_state().set_commit(commit);
        }
        self.network.extend(light.take_messages());
        is_changed |= self.apply(id, &store, light.take_committed_entries());
        self.node(id).advance_apply();
        if is_changed && self.node(id).raft.state == StateRole::Leader {
            self.node(id).raft.bcast_append();
        }
        true
    }

    /// Returns whether the membership changed.
    fn apply(&mut self, id: u64, store: &MemStorage, committed: Vec<raft::eraftpb::Entry>) -> bool {
        let mut is_changed = false;
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
                is_changed = true;
            }
        }
        is_changed
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
                let (from, to) = (message.from, message.to);
                let is_cut = self.cut.contains(&(from, to));
                if message.get_msg_type() == MessageType::MsgSnapshot {
                    self.snapshots += 1;
                    let status = if is_cut {
                        SnapshotStatus::Failure
                    } else {
                        SnapshotStatus::Finish
                    };
                    self.node(from).report_snapshot(to, status);
                }
                if !is_cut {
                    // The oracle answers a message from a peer that it no longer knows with an error.
                    let _ = self.node(to).step(message);
                }
            }
            if !moved {
                return;
            }
        }
        panic!("the oracle does not come to rest");
    }

    fn first_index(&self, id: u64) -> u64 {
        self.nodes[&id].raft.raft_log.first_index()
    }

    fn view(&self, id: u64, first: u64) -> String {
        let raft = &self.nodes[&id].raft;
        let mut view = String::new();
        let committed = raft.raft_log.committed;
        let _ = writeln!(
            view,
            "term {} vote {} leader {} commit {committed}",
            raft.term, raft.vote, raft.leader_id
        );
        for entry in raft
            .raft_log
            .all_entries()
            .into_iter()
            .filter(|entry| entry.index >= first)
        {
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
    /// What was committed when a read was asked for.
    asked: BTreeMap<u64, u64>,
    our_reads: BTreeMap<u64, u64>,
    their_reads: u64,
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
            asked: BTreeMap::new(),
            our_reads: BTreeMap::new(),
            their_reads: 0,
        }
    }

    fn leader(&self) -> Option<u64> {
        self.ours.leader()
    }

    /// To the leader's knowledge.
    fn is_member(&self, id: u64) -> bool {
        self.leader()
            .is_some_and(|leader| self.ours.nodes[&leader].view().conf().contains(PeerId(id)))
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
            Event::Restart(id) => self.restart(*id),
            Event::Compact(0) => PEERS.into_iter().for_each(|id| self.compact(id)),
            Event::Compact(id) => self.compact(*id),
            Event::Read(id) => {
                if !self.is_member(*id) {
                    return;
                }
                self.values += 1;
                let ctx = self.values;
                if self.ours.raft(*id).read_index(ctx).is_ok() {
                    self.asked.insert(ctx, self.ours.promises.last_committed());
                    self.oracle.node(*id).read_index(ctx.to_be_bytes().to_vec());
                }
            }
            Event::Lossy(from, to, event) => {
                let was_cut = (self.ours.cut.clone(), self.oracle.cut.clone());
                self.ours.cut.insert((*from, *to));
                self.oracle.cut.insert((*from, *to));
                self.run(event);
                if !matches!(**event, Event::Partition(_) | Event::Heal) {
                    (self.ours.cut, self.oracle.cut) = was_cut;
                }
                return;
            }
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

    /// Both write everything at once, so nothing is lost. The oracle's host wrote each commit index as well; ours may.
    fn restart(&mut self, id: u64) {
        let commit = self.ours.raft(id).commit();
        self.ours.crash(id);
        self.ours.node(id).disk.hard_state.commit = commit;
        self.ours.restart(id, false);
        self.ours.raft(id).pin_election_timeout(NEVER);
        let old = self.oracle.nodes.remove(&id).expect("a peer of the test");
        let applied = old.raft.raft_log.applied;
        self.oracle
            .nodes
            .insert(id, oracle_node(id, applied, old.store().clone()));
    }

    fn compact(&mut self, id: u64) {
        self.ours.compact(id, 0);
        let raft = &self.oracle.nodes[&id].raft;
        let applied = raft.raft_log.applied;
        if applied >= raft.raft_log.first_index() {
            raft.store().wl().compact(applied).expect("what is applied is there");
        }
    }

    /// Each read that the oracle has answered is answered here, at the same index; and none of ours is stale.
    fn compare_reads(&mut self, after: &[Event]) {
        for id in PEERS {
            for read in std::mem::take(&mut self.ours.node(id).reads) {
                let committed = self.asked[&read.ctx];
                assert!(read.index >= committed, "a stale read after {after:?}");
                self.our_reads.insert(read.ctx, read.index);
            }
        }
        for (ctx, index) in std::mem::take(&mut self.oracle.reads) {
            assert_eq!(
                self.our_reads.get(&ctx),
                Some(&index),
                "read {ctx} (left is ours) after {after:?}"
            );
            self.their_reads += 1;
        }
    }

    fn our_view(&self, id: u64, first: u64) -> String {
        let raft = self.ours.nodes[&id].view();
        let status = raft.status();
        let mut view = String::new();
        let (vote, leader) = (status.vote.0, status.leader.0);
        let _ = writeln!(
            view,
            "term {} vote {vote} leader {leader} commit {}",
            status.term, status.commit
        );
        for entry in raft.entries(first..=status.last_index) {
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
            raft.state == StateRole::Leader && !raft.prs().conf().voters().contains(raft.id)
        };
        self.oracle.nodes.values().any(is_removed)
    }

    fn compare(&self, after: &[Event]) {
        let mut differences = String::new();
        for id in PEERS {
            // Who got what by a snapshot is each one's own.
            let first = self.ours.nodes[&id]
                .view()
                .first_index()
                .max(self.oracle.first_index(id));
            let (ours, theirs) = (self.our_view(id, first), self.oracle.view(id, first));
            if ours != theirs {
                let _ = writeln!(differences, "p{id}, ours:\n{ours}theirs:\n{theirs}");
            }
        }
        assert!(differences.is_empty(), "{differences}after {after:?}");
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
        pair.compare_reads(&done);
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
            Restart(3),
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

const SCRIPTS: u64 = 120;

fn any_peer(prng: &mut Prng) -> u64 {
    1 + prng.below(5)
}

fn any_event(prng: &mut Prng) -> Event {
    match prng.below(100) {
        0..20 => Event::Campaign(any_peer(prng)),
        20..45 => Event::Propose(1 + prng.below(4)),
        45..53 => Event::Tick(1 + prng.below(12) as u32),
        53..60 => Event::Partition((0..=prng.below(2)).map(|_| any_peer(prng)).collect()),
        60..68 => Event::Heal,
        68..73 => Event::Transfer(any_peer(prng)),
        73..80 => {
            let mut peers = BTreeSet::new();
            peers.extend((0..=prng.below(2)).map(|_| PeerId(any_peer(prng))));
            let kind = |peer| match prng.below(4) {
                0 => ConfChangeKind::Remove(peer),
                1 => ConfChangeKind::AddLearner(peer),
                _ => ConfChangeKind::AddVoter(peer),
            };
            Event::Change(peers.into_iter().map(kind).collect())
        }
        80..84 => Event::Restart(any_peer(prng)),
        84..89 => Event::Compact(prng.below(6)),
        89..95 => Event::Read(any_peer(prng)),
        _ => Event::Lossy(any_peer(prng), any_peer(prng), Box::new(any_event(prng))),
    }
}

fn random_script(seed: u64) -> Vec<Event> {
    let mut prng = Prng::from_parts(&[0xd1ff, seed]);
    (0..60).map(|_| any_event(&mut prng)).collect()
}

/// The shortest script that still fails, found by leaving events out one by one.
fn shorten(seed: u64, mut script: Vec<Event>) -> Vec<Event> {
    std::panic::set_hook(Box::new(|_| {}));
    let mut at = script.len();
    while at > 0 {
        at -= 1;
        let mut shorter = script.clone();
        shorter.remove(at);
        if std::panic::catch_unwind(|| check(seed, shorter.clone())).is_err() {
            at = at.min(shorter.len());
            script = shorter;
        }
    }
    let _ = std::panic::take_hook();
    script
}

#[test]
fn random_event_scripts_end_alike() {
    let chosen = std::env::var("SETTLE_RAFT_SCRIPTS").ok();
    let (first, count) = chosen.as_deref().map_or((0, SCRIPTS), |chosen| {
        let (first, count) = chosen.split_once(':').expect("SETTLE_RAFT_SCRIPTS is first:count");
        (first.parse().expect("a number"), count.parse().expect("a number"))
    });
    let [mut elections, mut committed, mut changes, mut reads] = [0; 4];
    let [mut our_snapshots, mut their_snapshots] = [0; 2];
    for seed in first..first + count {
        let script = random_script(seed);
        let Ok(pair) = std::panic::catch_unwind(|| check(seed, script.clone())) else {
            let script = shorten(seed, script);
            println!("seed {seed} differs after {script:#?}");
            check(seed, script);
            unreachable!("it differed");
        };
        elections += pair.ours.promises.elections;
        committed += pair.ours.promises.last_committed();
        changes += pair.ours.joint_changes;
        reads += pair.their_reads;
        our_snapshots += pair.ours.snapshots_sent;
        their_snapshots += pair.oracle.snapshots;
    }
    let counts = [elections, committed, changes, reads, our_snapshots, their_snapshots];
    println!("{count} scripts: elections, entries, changes, reads, snapshots of ours and theirs: {counts:?}");
    for (seen, at_least) in counts.into_iter().zip([2, 10, 5, 1, 0, 0]) {
        assert!(
            count < SCRIPTS || seen > at_least * count,
            "what never happens is not compared: {counts:?}"
        );
    }
    assert!(
        count < SCRIPTS || our_snapshots.min(their_snapshots) > count / 8,
        "{counts:?}"
    );
}
