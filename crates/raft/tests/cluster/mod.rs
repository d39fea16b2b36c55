//! A whole group in one process: a disk per peer that loses what was not persisted, a network that does what the test
//! says, and the promises of Raft checked as the peers move.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use settle_base::GroupId;
use settle_raft::{
    Body, ConfChange, ConfChangeKind, ConfState, Config, Entry, EntryKind, HardState, Index, Message, PeerId, Persist,
    Raft, ReadReady, Ready, Restored, Role, SnapshotMeta, Standing, StepError, Term,
};

pub const GROUP: GroupId = GroupId(1);

/// What a crash leaves.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub hard_state: HardState,
    pub snapshot: SnapshotMeta,
    pub entries: Vec<Entry>,
}

impl Disk {
    pub fn last_index(&self) -> Index {
        self.snapshot.index + self.entries.len() as u64
    }

    fn truncate(&mut self, last: Index) {
        self.entries.truncate(last.saturating_sub(self.snapshot.index) as usize);
    }

    fn write(&mut self, persist: &Persist) {
        if let Some(hard_state) = persist.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(snapshot) = &persist.snapshot {
            self.snapshot = snapshot.clone();
            self.entries.clear();
        }
        if let Some(last) = persist.truncate_after {
            self.truncate(last);
        }
        if let Some(first) = persist.entries.first() {
            assert_eq!(
                first.index,
                self.last_index() + 1,
                "a persist fits behind what is on the disk"
            );
            self.entries.extend(persist.entries.iter().cloned());
        }
    }

    fn compact(&mut self, meta: &SnapshotMeta) {
        if meta.index > self.snapshot.index {
            self.entries.drain(..(meta.index - self.snapshot.index) as usize);
            self.snapshot = meta.clone();
        }
    }
}

pub struct Node {
    pub id: PeerId,
    config: Config,
    /// `None` while crashed.
    pub raft: Option<Raft>,
    pub disk: Disk,
    /// The disk before each of the last writes, the newest last.
    pub earlier_disks: VecDeque<Disk>,
    pub unpersisted: VecDeque<Persist>,
    /// Received snapshots that the disk must hold before they are installed.
    installing: Option<SnapshotMeta>,
    pub to_apply: VecDeque<Entry>,
    pub reads: Vec<ReadReady>,
    pub reads_dropped: Vec<u64>,
    /// Where the checks have seen its commit.
    seen_commit: Index,
    runs: u64,
    pub is_damaged: bool,
}

impl Node {
    pub fn raft(&mut self) -> &mut Raft {
        self.raft.as_mut().expect("the test uses a running peer")
    }

    pub fn view(&self) -> &Raft {
        self.raft.as_ref().expect("the test uses a running peer")
    }

    pub fn is_up(&self) -> bool {
        self.raft.is_some()
    }

    /// The configuration after the entry at `index`, which is on the disk and applied.
    fn conf_at(&self, index: Index) -> ConfState {
        let mut conf = self.disk.snapshot.conf.clone();
        for entry in self.disk.entries.iter().filter(|entry| entry.index <= index) {
            if entry.kind == EntryKind::ConfChange {
                let change = ConfChange::decode(&entry.data).expect("a committed change was valid");
                conf = conf.changed(&change).expect("a committed change can be applied");
            }
        }
        conf
    }
}

#[derive(Default)]
pub struct Promises {
    leaders: BTreeMap<Term, PeerId>,
    /// Index → term of the entry, its content, and the term in which somebody first saw it committed.
    committed: BTreeMap<Index, (Term, Bytes, Term)>,
    /// An entry's identity decides its content and its predecessor's term (log matching, by induction).
    written: BTreeMap<(Index, Term), (Bytes, Term)>,
    pub elections: u64,
    /// Of those, how many had a recovering voter's help.
    pub elections_by_all: u64,
}

impl Promises {
    pub fn last_committed(&self) -> Index {
        self.committed.last_key_value().map_or(0, |(&index, _)| index)
    }

    /// An operator gave up what was committed after `index`.
    pub fn forget_after(&mut self, index: Index) {
        self.committed.retain(|&committed, _| committed <= index);
    }

    pub fn committed_data(&self) -> impl Iterator<Item = &Bytes> {
        self.committed
            .values()
            .map(|(_, data, _)| data)
            .filter(|data| !data.is_empty())
    }
}

pub struct Cluster {
    pub nodes: BTreeMap<u64, Node>,
    pub network: Vec<Message>,
    /// Directed links that lose everything.
    pub cut: BTreeSet<(u64, u64)>,
    pub promises: Promises,
    pub snapshots_sent: u64,
    pub joint_changes: u64,
    pub witnesses_added: u64,
    pub dropped: u64,
}

impl Cluster {
    /// Peers `voters` with that configuration, and `others` that know none.
    pub fn new(voters: &[u64], others: &[u64], seed: u64, tune: impl Fn(&mut Config)) -> Cluster {
        let conf = ConfState::of_voters(voters.iter().copied().map(PeerId));
        let mut nodes = BTreeMap::new();
        for &id in voters.iter().chain(others) {
            let mut config = Config::new(GROUP, PeerId(id), seed);
            tune(&mut config);
            let mut disk = Disk::default();
            if voters.contains(&id) {
                disk.snapshot.conf = conf.clone();
            }
            nodes.insert(
                id,
                Node {
                    id: PeerId(id),
                    config,
                    raft: None,
                    disk,
                    earlier_disks: VecDeque::new(),
                    unpersisted: VecDeque::new(),
                    installing: None,
                    to_apply: VecDeque::new(),
                    reads: Vec::new(),
                    reads_dropped: Vec::new(),
                    seen_commit: 0,
                    runs: 0,
                    is_damaged: false,
                },
            );
        }
        let mut cluster = Cluster {
            nodes,
            network: Vec::new(),
            cut: BTreeSet::new(),
            promises: Promises::default(),
            snapshots_sent: 0,
            joint_changes: 0,
            witnesses_added: 0,
            dropped: 0,
        };
        for id in cluster.ids() {
            cluster.restart(id, false);
        }
        cluster
    }

    pub fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    pub fn node(&mut self, id: u64) -> &mut Node {
        self.nodes.get_mut(&id).expect("the test names an existing peer")
    }

    pub fn raft(&mut self, id: u64) -> &mut Raft {
        self.node(id).raft()
    }

    /// Stops a peer; what was not persisted is gone.
    pub fn crash(&mut self, id: u64) {
        let node = self.node(id);
        // A damaged log is whole only once it has caught up, however often the peer restarts.
        node.is_damaged = node.raft.as_ref().is_some_and(Raft::is_recovering);
        node.raft = None;
        node.unpersisted.clear();
        node.to_apply.clear();
        node.installing = None;
    }

    /// The last `writes` of a stopped peer's disk rot, votes and terms in them too. Its connections ended with its run.
    pub fn rot(&mut self, id: u64, writes: usize) {
        let node = self.node(id);
        assert!(!node.is_up());
        for _ in 0..writes {
            node.disk = node.earlier_disks.pop_back().unwrap_or_else(|| node.disk.clone());
        }
        self.disconnect(id);
    }

    /// What is under way from or to a peer is lost.
    pub fn disconnect(&mut self, id: u64) {
        let peer = PeerId(id);
        let (lost, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.network)
            .into_iter()
            .partition(|message| message.from == peer || message.to == peer);
        self.network = kept;
        lost.iter().for_each(|message| self.lose(message));
    }

    /// Starts a stopped peer from its disk. `damaged`: its log reader says that the last batch was unreadable.
    pub fn restart(&mut self, id: u64, damaged: bool) {
        let node = self.node(id);
        assert!(!node.is_up());
        node.runs += 1;
        let restored = Restored {
            hard_state: node.disk.hard_state,
            snapshot: node.disk.snapshot.clone(),
            entries: node.disk.entries.clone(),
            recovering: (damaged || node.is_damaged).then_some(node.runs),
        };
        let raft = Raft::restore(node.config.clone(), restored).expect("what was persisted can be restored");
        node.seen_commit = raft.commit();
        node.is_damaged = false;
        node.raft = Some(raft);
    }

    /// Takes what a peer has to do: writes wait in `unpersisted`, entries in `to_apply`, messages go to the network.
    pub fn pump(&mut self, id: u64) -> Option<Ready> {
        let node = self.node(id);
        let raft = node.raft.as_mut()?;
        if !raft.has_ready() {
            return None;
        }
        let ready = raft.ready();
        let told = ready.clone();
        if let Some(persist) = ready.persist {
            node.unpersisted.push_back(persist);
        }
        if let Some(meta) = ready.snapshot {
            node.installing = Some(meta);
        }
        node.to_apply.extend(ready.committed);
        node.reads.extend(&ready.reads);
        node.reads_dropped.extend(&ready.reads_dropped);
        for peer in ready.need_snapshot {
            self.send_snapshot(id, peer);
        }
        self.release(id, ready.messages);
        self.check(id);
        Some(told)
    }

    /// The next write becomes durable, and what waited for it leaves.
    pub fn persist(&mut self, id: u64) -> bool {
        let node = self.node(id);
        let Some(persist) = node.unpersisted.pop_front() else {
            return false;
        };
        node.earlier_disks.push_back(node.disk.clone());
        if node.earlier_disks.len() > 3 {
            node.earlier_disks.pop_front();
        }
        node.disk.write(&persist);
        node.raft().on_persisted(persist.seq);
        if let Some(meta) = node.installing.take_if(|meta| node.disk.snapshot.index >= meta.index) {
            node.to_apply.retain(|entry| entry.index > meta.index);
            node.raft().on_applied(meta.index);
        }
        self.release(id, persist.after);
        self.check(id);
        true
    }

    /// Applies one entry.
    pub fn apply(&mut self, id: u64) -> Option<Entry> {
        let node = self.node(id);
        if node.installing.is_some() {
            return None;
        }
        let entry = node.to_apply.pop_front()?;
        assert!(entry.index <= node.disk.last_index(), "what is applied is durable");
        if entry.kind == EntryKind::ConfChange {
            let change = ConfChange::decode(&entry.data).expect("a committed change was valid");
            let conf = node
                .raft()
                .apply_conf_change(&change)
                .expect("a committed change can be applied");
            self.joint_changes += u64::from(conf.is_joint());
            let is_witness = |kind: &&ConfChangeKind| matches!(kind, ConfChangeKind::AddWitness(_));
            self.witnesses_added += change.changes.iter().filter(is_witness).count() as u64;
        }
        self.raft(id).on_applied(entry.index);
        self.check(id);
        Some(entry)
    }

    pub fn compact(&mut self, id: u64, keep: u64) {
        let node = self.node(id);
        if node.view().applied() + 1 < node.view().first_index() {
            // A received snapshot is not installed yet.
            return;
        }
        let meta = snapshot_of(node.view());
        if meta.index > node.disk.snapshot.index {
            node.disk.compact(&meta);
            node.raft().compact(&meta, keep);
            self.check(id);
        }
    }

    /// As the host of a witness does it: what every full voter holds may go, and there is no machine to take a snapshot of.
    pub fn compact_witness(&mut self, id: u64) {
        let node = self.node(id);
        let raft = node.view();
        let index = raft.held_by_full_voters().min(raft.applied());
        if index < raft.first_index() || index <= node.disk.snapshot.index {
            return;
        }
        let meta = SnapshotMeta {
            index,
            term: raft.term_at(index).expect("it is in the log"),
            time: raft.time_at(index).expect("it is in the log"),
            conf: node.conf_at(index),
            context: Bytes::new(),
        };
        node.disk.compact(&meta);
        node.raft().compact(&meta, 0);
        self.check(id);
    }

    fn send_snapshot(&mut self, from: u64, to: PeerId) {
        let raft = self.raft(from);
        let meta = snapshot_of(raft);
        if meta.index > 0
            && let Some(message) = raft.snapshot_message(to, meta)
        {
            self.snapshots_sent += 1;
            self.network.push(message);
        } else {
            raft.report_snapshot(to, false);
        }
    }

    /// The rule of durability, judged against the disk itself.
    fn release(&mut self, id: u64, messages: Vec<Message>) {
        let disk = &self.node(id).disk;
        let (hard_state, last) = (disk.hard_state, disk.last_index());
        for message in messages {
            let standing = message
                .rests_on()
                .map(|rests_on| rests_on.standing(hard_state.term, hard_state.vote, last));
            match standing {
                None | Some(Standing::Met) => self.network.push(message),
                Some(Standing::Stale) => {}
                Some(Standing::Missing) => panic!("{message:?} left before its durability; the disk is {hard_state:?}"),
            }
        }
    }

    pub fn is_cut(&self, from: PeerId, to: PeerId) -> bool {
        self.cut.contains(&(from.0, to.0))
    }

    /// Hands a message to its receiver.
    pub fn deliver(&mut self, message: Message) {
        if self.is_cut(message.from, message.to) || !self.node(message.to.0).is_up() {
            return self.lose(&message);
        }
        self.try_deliver(message).expect("honest peers send valid messages");
    }

    /// Steps a message into its receiver, which may refuse it.
    pub fn try_deliver(&mut self, message: Message) -> Result<(), StepError> {
        let (from, to) = (message.from, message.to);
        let is_snapshot = matches!(message.body, Body::Snapshot { .. });
        self.raft(to.0).step(message)?;
        self.check(to.0);
        if is_snapshot && let Some(raft) = &mut self.node(from.0).raft {
            raft.report_snapshot(to, true);
        }
        Ok(())
    }

    pub fn lose(&mut self, message: &Message) {
        self.dropped += 1;
        if matches!(message.body, Body::Snapshot { .. })
            && let Some(raft) = &mut self.node(message.from.0).raft
        {
            raft.report_snapshot(message.to, false);
        }
    }

    /// Runs everything that is due, in a fixed order, until nothing is left.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut moved = false;
            for id in self.ids() {
                moved |= self.pump(id).is_some();
                while self.persist(id) {
                    moved = true;
                }
                while self.apply(id).is_some() {
                    moved = true;
                }
            }
            for message in std::mem::take(&mut self.network) {
                moved = true;
                self.deliver(message);
            }
            if !moved {
                return;
            }
        }
        panic!("the group does not come to rest");
    }

    pub fn leader(&self) -> Option<u64> {
        let leaders = self
            .nodes
            .values()
            .filter(|node| node.is_up() && node.view().role() == Role::Leader);
        leaders.max_by_key(|node| node.view().term()).map(|node| node.id.0)
    }

    /// Checks what one peer's move may have broken.
    pub fn check(&mut self, id: u64) {
        let Cluster { nodes, promises, .. } = self;
        let node = nodes.get_mut(&id).expect("the test names an existing peer");
        let Some(raft) = &node.raft else { return };
        // Log matching. Older entries were checked when they were the newest.
        let last = raft.last_index();
        let low = raft.first_index().max(last.saturating_sub(12));
        for entry in raft.entries(low..=last) {
            let before = raft
                .term_at(entry.index - 1)
                .expect("the entry before is here or the base");
            let written = promises.written.entry((entry.index, entry.term));
            let (data, term_before) = written.or_insert_with(|| (entry.data.clone(), before));
            assert_eq!(
                (&entry.data, before),
                (&*data, *term_before),
                "log matching at {} of p{id}",
                entry.index
            );
        }
        // State machine safety.
        if raft.commit() > node.seen_commit {
            for entry in raft.entries(node.seen_commit + 1..=raft.commit()) {
                let fresh = || (entry.term, entry.data.clone(), raft.term());
                let (term, data, _) = promises.committed.entry(entry.index).or_insert_with(fresh);
                assert_eq!(
                    (entry.term, &entry.data),
                    (*term, &*data),
                    "committed at {} of p{id}",
                    entry.index
                );
            }
            node.seen_commit = raft.commit();
        }
        if raft.role() == Role::Leader {
            let term = raft.term();
            let known = promises.leaders.get(&term);
            assert!(
                known.is_none_or(|&leader| leader == node.id),
                "p{id} leads term {term} beside {known:?}"
            );
            if known.is_none() {
                promises.leaders.insert(term, node.id);
                promises.elections += 1;
                let is_in_doubt = raft.is_recovering() || raft.status().progress.iter().any(|peer| peer.recovering);
                promises.elections_by_all += u64::from(is_in_doubt);
                // Leader completeness.
                for (&index, &(entry_term, _, committed_in)) in &promises.committed {
                    if committed_in < term && index >= raft.first_index() {
                        let ours = raft.term_at(index);
                        assert_eq!(
                            ours,
                            Some(entry_term),
                            "leader p{id} of term {term} lacks committed entry {index}"
                        );
                    }
                }
            }
        }
    }
}

/// A snapshot of what the peer has applied.
fn snapshot_of(raft: &Raft) -> SnapshotMeta {
    let index = raft.applied();
    let term = raft
        .term_at(index)
        .expect("the applied index is in the log or its base");
    let time = raft
        .time_at(index)
        .expect("the applied index is in the log or its base");
    SnapshotMeta {
        index,
        term,
        conf: raft.conf().clone(),
        time,
        context: Bytes::new(),
    }
}
