//! How a node comes to belong to a cluster, and how a lost replica is replaced.
//!
//! A new cluster is founded only when every configured node is connected and none has a cluster; then by the lowest.
//! So a node whose directory was wiped can never found a second one: somebody remembers the first, and while that
//! somebody is away, it waits. Until then a node has no group and so nothing to vote with.

use std::collections::BTreeSet;

use settle_base::{GroupId, GroupTime, Mono, NodeId, PeerId};
use settle_machine::{Event, Service, StateMachine};
use settle_raft::{ConfState, Config, HardState, MAX_PEERS, Raft, Restored, SnapshotMeta};
use settle_storage::{Disk, DiskError, DiskErrorKind, DiskRead, FileName, Op};
use settle_wal::{LogIdentity, Record, Wal, WalError};

use crate::{
    ClusterId, Hello, Host, HostAction, HostConfig, HostError, HostNote, Identity, JoinMessage, Member, PeerError,
    PeerMessage,
    group::Group,
    host::{Peer, send},
    identity::identity_file,
    members::{self, Book, encode_conf, next_change},
    peer_codec::{PROTOCOL_VERSION, PROTOCOL_VERSION_MIN},
    versions::is_new_enough,
};

/// A founded group starts as if from a snapshot at this index, of this term: so a replica that is let in later can only
/// start from a snapshot, which tells it the membership.
pub(crate) const FOUNDED: (u64, u64) = (1, 1);

/// Groups whose members are looked at in one tick, so that a node with thousands to replace does nothing else meanwhile.
const MISFITS_PER_TICK: usize = 256;

/// Of thousands of groups created at once: so many bytes in one batch of the log, more or less. In one piece, the memory
/// for all of it would stay a hole in the heap.
const CREATE_BATCH_BYTES: usize = 256 << 10;

/// Syncs that creating a group may take before the disk is called broken.
const CREATE_SYNCS_MAX: u32 = 1_000;

impl<S: Service, D: Disk + DiskRead> Host<S, D> {
    pub(crate) fn peer_up(
        &mut self,
        node: NodeId,
        hello: Hello,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> Result<(), HostError> {
        if self.peers.contains_key(&node) {
            self.peer_down(node, now, out);
        }
        if let Err(reason) = self.check_hello(node, &hello) {
            out.push(HostAction::ClosePeer { node, reason });
            return Ok(());
        }
        self.peers.insert(node, Peer::new(hello));
        match (self.identity.cluster, hello.cluster) {
            (Some(cluster), None) => {
                let founders = self.identity.founders.clone();
                send(out, node, PeerMessage::Join(JoinMessage::Found { cluster, founders }));
            }
            (Some(_), Some(_)) => self.link(node, now, out),
            (None, _) => self.try_found(now, out)?,
        }
        Ok(())
    }

    fn check_hello(&mut self, node: NodeId, hello: &Hello) -> Result<(), PeerError> {
        if hello.node != node || node == self.config.node {
            let (expected, said) = (node, hello.node);
            return Err(PeerError::OtherNode { expected, said });
        }
        if hello.protocol < PROTOCOL_VERSION_MIN || hello.protocol_min > PROTOCOL_VERSION {
            let (ours, theirs) = (
                PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION,
                hello.protocol_min..=hello.protocol,
            );
            return Err(PeerError::OtherProtocol { node, ours, theirs });
        }
        let in_force = self.groups.books().filter(|book| book.knows_node(node));
        let version = in_force.map(Book::cluster_version).max().unwrap_or_default();
        if !is_new_enough(hello.build, version) {
            let build = hello.build;
            return Err(PeerError::OldBuild { node, build, version });
        }
        let is_member = self.groups.books().any(|book| book.knows_node(node));
        if !is_member && !self.config.nodes.iter().any(|(n, _)| *n == node) {
            return Err(PeerError::UnknownNode { node });
        }
        let incarnation = hello.incarnation;
        if incarnation == self.identity.incarnation {
            return Err(PeerError::SameIncarnation { node, incarnation });
        }
        match (self.identity.cluster, hello.cluster) {
            (Some(ours), Some(theirs)) if ours != theirs => Err(PeerError::OtherCluster { node, ours, theirs }),
            _ => Ok(()),
        }
    }

    pub(crate) fn peer_down(&mut self, node: NodeId, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        let Some(peer) = self.peers.remove(&node) else { return };
        self.last_connected.insert(peer.hello.incarnation, now);
        let members: BTreeSet<PeerId> = self.groups.books().flat_map(|b| b.iter().map(|m| m.peer)).collect();
        self.last_connected.retain(|peer, _| members.contains(peer));
        self.outbox.remove(&node);
        if peer.is_linked {
            self.report_unreachable(peer.hello.incarnation);
            self.forget_waiting(peer.hello.incarnation);
            self.lose_peer(peer.hello.incarnation);
            self.serve(Event::PeerDown { node }, now, out);
            self.update_roles(peer.hello.incarnation, now, out);
        }
    }

    /// The peer and we belong to the same cluster now.
    fn link(&mut self, node: NodeId, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        let Some(peer) = self.peers.get_mut(&node).filter(|p| !p.is_linked) else {
            return;
        };
        peer.is_linked = true;
        let incarnation = peer.hello.incarnation;
        // What went to it before did not arrive, and what happened meanwhile it does not know.
        self.report_unreachable(incarnation);
        self.wake_all_led_with(incarnation);
        self.misfits.extend(self.groups.led_by(self.identity.incarnation));
        self.resume_transfers(incarnation, now, out);
        self.serve(Event::PeerUp { node }, now, out);
        self.update_roles(incarnation, now, out);
    }

    /// Only a leader has anything to do with it.
    fn report_unreachable(&mut self, peer: PeerId) {
        for id in self.groups.led_by(self.identity.incarnation) {
            let group = self.groups.get_mut(&id).expect("only groups that are here are filed");
            if members::is_in(group.raft.conf(), peer) {
                group.raft.report_unreachable(peer);
            }
        }
    }

    /// Where the leader of these groups lives is known now, or not any more.
    fn update_roles(&mut self, leader: PeerId, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        for id in self.groups.led_by(leader) {
            self.update_role(id, now, out);
        }
    }

    pub(crate) fn on_join(
        &mut self,
        from: NodeId,
        message: JoinMessage,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> Result<(), HostError> {
        let (JoinMessage::Found { cluster: theirs, .. } | JoinMessage::Adopted { cluster: theirs }) = message;
        match self.identity.cluster {
            Some(ours) if ours != theirs => {
                let node = from;
                let reason = PeerError::OtherCluster { node, ours, theirs };
                out.push(HostAction::ClosePeer { node, reason });
                return Ok(());
            }
            _ => {}
        }
        if let JoinMessage::Found { cluster, founders } = &message
            && let Err(what) = check_founders(*cluster, founders)
        {
            let reason = PeerError::Founders { node: from, what };
            out.push(HostAction::ClosePeer { node: from, reason });
            return Ok(());
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.hello.cluster = Some(theirs);
        }
        match (message, self.identity.cluster) {
            (JoinMessage::Found { cluster, founders }, None) => self.adopt(cluster, founders, now, out)?,
            // Our hello, or what we said since, did not reach it.
            (JoinMessage::Found { cluster, .. }, Some(_)) => {
                send(out, from, PeerMessage::Join(JoinMessage::Adopted { cluster }));
            }
            (JoinMessage::Adopted { .. }, _) => {}
        }
        if self.identity.cluster.is_some() {
            self.link(from, now, out);
        }
        Ok(())
    }

    /// Founds the cluster when it is certain that there is none and it is this node's turn.
    pub(crate) fn try_found(&mut self, now: Mono, out: &mut Vec<HostAction<S::Response>>) -> Result<(), HostError> {
        if self.identity.cluster.is_some() {
            return Ok(());
        }
        let me = (self.config.node, self.identity.incarnation);
        let mut founders = Vec::with_capacity(self.config.nodes.len());
        for (node, address) in &self.config.nodes {
            let (peer, witness) = match self.peers.get(node) {
                _ if *node == me.0 => (me.1, self.identity.witness),
                Some(peer) if *node > me.0 && peer.hello.cluster.is_none() => {
                    (peer.hello.incarnation, peer.hello.witness)
                }
                _ => return Ok(()),
            };
            let (node, address) = (*node, address.clone());
            founders.push(Member {
                peer,
                node,
                address,
                witness,
            });
        }
        if !founding_conf(&founders).is_valid() {
            let witnesses = founders.iter().filter(|m| m.witness).map(|m| m.node).collect();
            if self.ticks.is_multiple_of(u64::from(self.config.election_ticks)) {
                out.push(HostAction::Note(HostNote::TooManyWitnesses { witnesses }));
            }
            return Ok(());
        }
        let cluster = ClusterId((u128::from(self.prng.next_u64()) << 64 | u128::from(self.prng.next_u64())).max(1));
        self.adopt(cluster, founders.clone(), now, out)?;
        out.push(HostAction::Note(HostNote::Founded { cluster }));
        let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
        for node in nodes {
            let founders = founders.clone();
            send(out, node, PeerMessage::Join(JoinMessage::Found { cluster, founders }));
        }
        Ok(())
    }

    /// Makes this directory the cluster's: first the log with its groups, then the identity, each durable; and only then
    /// anything is said. Blocks, once in a directory's life.
    fn adopt(
        &mut self,
        cluster: ClusterId,
        founders: Vec<Member>,
        now: Mono,
        out: &mut Vec<HostAction<S::Response>>,
    ) -> Result<(), HostError> {
        let mut identity = self.identity.clone();
        identity.cluster = Some(cluster);
        identity.founders = founders;
        if settle_base::mutant!("wiped_voter_votes")
            && let Some(before) = identity.founders.iter().find(|m| m.node == identity.node)
        {
            identity.incarnation = before.peer;
        }
        let as_founder = identity.is_founder();
        let meta = if as_founder {
            founding_meta(&identity.founders)
        } else {
            SnapshotMeta::default()
        };
        self.wal = Some(create_log(&mut self.disk, &self.config, &identity, &meta)?);
        identity
            .write(&mut self.disk)
            .map_err(|source| HostError::Disk { source })?;
        self.identity = identity;
        for id in self.config.groups.clone() {
            let hard_state = founding_hard_state(&meta);
            let restored = Restored {
                hard_state,
                snapshot: meta.clone(),
                ..Restored::default()
            };
            let raft = Raft::restore(raft_config(&self.config, &self.identity, id), restored)
                .map_err(|source| HostError::Start { group: id, source })?;
            let book = if as_founder {
                Book::new(self.identity.founders.clone())
            } else {
                Book::default()
            };
            let machine = self.new_machine(id, cluster);
            self.checker.restored(id, hard_state, meta.index);
            let book = self.groups.share(book);
            self.groups.insert(Group::new(raft, id, machine, book, &meta, None));
        }
        out.push(HostAction::Note(HostNote::Adopted { cluster, as_founder }));
        let nodes: Vec<(NodeId, bool)> = self
            .peers
            .iter()
            .map(|(node, p)| (*node, p.hello.cluster == Some(cluster)))
            .collect();
        for (node, is_same) in nodes {
            send(out, node, PeerMessage::Join(JoinMessage::Adopted { cluster }));
            if is_same {
                self.link(node, now, out);
            }
        }
        Ok(())
    }

    /// Tells peers without a cluster again; once may have been lost.
    pub(crate) fn remind_of_cluster(&mut self, out: &mut Vec<HostAction<S::Response>>) {
        let Some(cluster) = self.identity.cluster else { return };
        for (node, _) in self.peers.iter().filter(|(_, p)| !p.is_linked) {
            let founders = self.identity.founders.clone();
            send(out, *node, PeerMessage::Join(JoinMessage::Found { cluster, founders }));
        }
    }

    /// At each leader: lets in connected nodes of the cluster that lost their disk, and promotes those that caught up.
    pub(crate) fn replace_lost_members(&mut self, now: Mono, out: &mut Vec<HostAction<S::Response>>) {
        let nodes: Vec<(NodeId, Hello)> = self
            .peers
            .iter()
            .filter(|(_, p)| p.is_linked)
            .map(|(node, p)| (*node, p.hello))
            .collect();
        let config = &self.config;
        let patience = config.tick * config.election_ticks * config.auto_replace_after_elections;
        let first = self.misfits.range(self.misfit_next..).take(MISFITS_PER_TICK).copied();
        let ids: Vec<GroupId> = first.collect();
        let is_wrapping = ids.len() < MISFITS_PER_TICK;
        self.misfit_next = ids
            .last()
            .filter(|_| !is_wrapping)
            .map_or(GroupId(0), |last| GroupId(last.0 + 1));
        for id in ids {
            let Some(group) = self.groups.get(&id) else { continue };
            let time = group.time(now);
            // A learner that stands in nobody's place is one because an operator wants it so.
            let is_misfit = |(node, hello): &(NodeId, Hello)| {
                let mut others = group
                    .book
                    .iter()
                    .filter(|m| m.node == *node && m.peer != hello.incarnation);
                let is_wanted = group.book.may_replace(*node, time) || others.next().is_some();
                let can_apply = is_new_enough(hello.build, group.book.cluster_version());
                can_apply
                    && is_wanted
                    && group.book.knows_node(*node)
                    && !group.raft.conf().voters.contains(&hello.incarnation)
            };
            if !group.is_ready_leader() || !nodes.iter().any(is_misfit) {
                self.misfits.remove(&id);
                continue;
            }
            if !group.machine.as_ref().is_some_and(StateMachine::takes_members) {
                continue;
            }
            let due = nodes.iter().filter(|node| is_misfit(node)).find_map(|(node, hello)| {
                let (node, peer) = (*node, hello.incarnation);
                let mut others = group.book.iter().filter(|m| m.node == node && m.peer != peer);
                let is_gone = |m: &Member| {
                    let last = self.last_connected.get(&m.peer).copied().unwrap_or(self.started);
                    now.since(last) >= patience
                };
                let is_allowed =
                    group.book.may_replace(node, time) || (self.config.auto_replace && others.all(is_gone));
                if !is_allowed {
                    return None;
                }
                let configured = self.config.nodes.iter().find(|(n, _)| *n == node);
                let known = || group.book.iter().find(|m| m.node == node).map(|m| m.address.clone());
                let address = configured.map(|(_, a)| a.clone()).or_else(known).unwrap_or_default();
                let caught_up = group.has_caught_up(peer, self.config.promote_within_entries);
                let witness = hello.witness;
                let member = Member {
                    peer,
                    node,
                    address,
                    witness,
                };
                let change = next_change(group.raft.conf(), &group.book, &member, caught_up)?;
                Some((node, peer, change))
            });
            // One change at a time.
            if let Some((node, peer, change)) = due {
                let group = self.groups.get_mut(&id).expect("it was just asked");
                if group.raft.propose_conf_change(change, time).is_ok() {
                    out.push(HostAction::Note(HostNote::ReplacementProposed {
                        group: id,
                        node,
                        peer,
                    }));
                }
            }
        }
    }
}

pub(crate) fn raft_config(config: &HostConfig, identity: &Identity, group: GroupId) -> Config {
    let defaults = Config::new(group, identity.incarnation, config.seed);
    Config {
        election_ticks: config.election_ticks,
        heartbeat_ticks: config.heartbeat_ticks,
        max_append_bytes: config.append_bytes_max,
        max_inflight_messages: config.appends_in_flight_max,
        // One persist must fit the log's staging area.
        max_uncommitted_bytes: defaults.max_uncommitted_bytes.min(config.wal.max_batch_bytes / 2),
        max_inflight_bytes: defaults.max_inflight_bytes.min(config.wal.max_batch_bytes / 4),
        priority: config.election_priority,
        max_read_lag: config.read_lag_max,
        max_held_bytes: config.limits.paused_log_bytes_max,
        max_pending_reads: config.limits.reads_in_flight_max,
        ..defaults
    }
}

/// A founding is for life, so nothing of it is believed that could not have happened.
fn check_founders(cluster: ClusterId, founders: &[Member]) -> Result<(), &'static str> {
    let (mut peers, mut nodes) = (BTreeSet::new(), BTreeSet::new());
    if cluster.0 == 0 {
        Err("a cluster without an id")
    } else if founders.is_empty() || founders.len() > MAX_PEERS {
        Err("none, or more than a configuration may have")
    } else if founders.iter().any(|m| m.peer.is_none() || !peers.insert(m.peer)) {
        Err("a replica that is nobody or is named twice")
    } else if !founders.iter().all(|m| nodes.insert(m.node)) {
        Err("a node that is named twice")
    } else if !founding_conf(founders).is_valid() {
        Err("witnesses that are no minority")
    } else {
        Ok(())
    }
}

fn founding_conf(founders: &[Member]) -> ConfState {
    let witnesses = founders.iter().filter(|m| m.witness).map(|m| m.peer);
    ConfState {
        witnesses: ConfState::of_voters(witnesses).voters,
        ..ConfState::of_voters(founders.iter().map(|m| m.peer))
    }
}

fn founding_meta(founders: &[Member]) -> SnapshotMeta {
    let (index, term) = FOUNDED;
    SnapshotMeta {
        index,
        term,
        conf: founding_conf(founders),
        time: GroupTime::ZERO,
        context: Book::new(founders.iter().cloned()).encode(),
    }
}

fn founding_hard_state(meta: &SnapshotMeta) -> HardState {
    HardState {
        term: meta.term,
        commit: meta.index,
        ..HardState::default()
    }
}

pub(crate) fn log_identity(identity: &Identity, cluster: ClusterId) -> LogIdentity {
    LogIdentity {
        cluster: cluster.0,
        incarnation: identity.incarnation.0,
    }
}

/// The log of a directory that joins a cluster, with its groups, durably. A joiner's groups are empty: no membership, so
/// no vote, until the leader's snapshot tells.
fn create_log(
    disk: &mut (impl Disk + DiskRead),
    config: &HostConfig,
    identity: &Identity,
    meta: &SnapshotMeta,
) -> Result<Wal, HostError> {
    let failed = |source| HostError::Log { source };
    let cluster = identity.cluster.expect("adopting sets it");
    let opened = Wal::open(disk, config.wal.clone(), log_identity(identity, cluster), &[]).map_err(failed)?;
    let (mut wal, groups) = opened;
    assert!(
        groups.is_empty(),
        "a directory without a cluster has no log; leftovers were removed at start"
    );
    let mut groups = config.groups.iter().peekable();
    let mut end = wal.durable();
    for _ in 0..CREATE_SYNCS_MAX {
        while let Some(&&group) = groups.peek() {
            if wal.staged_bytes() >= CREATE_BATCH_BYTES {
                break;
            }
            match wal.append(&birth_records(group, meta, None)) {
                Ok(lsn) => end = lsn,
                Err(WalError::Backlog { .. }) => break,
                Err(source) => return Err(failed(source)),
            }
            groups.next();
        }
        wal.flush(disk);
        // Comes after all that was submitted before it.
        let file = identity_file();
        disk.run(Op::Sync { file })
            .map_err(|source| HostError::Disk { source })?;
        while let Some(completion) = disk.poll() {
            wal.complete(&completion, disk).map_err(failed)?;
        }
        if groups.peek().is_none() && wal.durable() >= end {
            return Ok(wal);
        }
        if wal.is_full() {
            break;
        }
    }
    let source = DiskError::new(DiskErrorKind::NoSpace, settle_storage::Act::Write, &identity_file());
    Err(HostError::Disk { source })
}

/// What the log says of a group that starts as `meta` tells, with its state in `file`; at index 0 it is empty.
pub(crate) fn birth_records(group: GroupId, meta: &SnapshotMeta, file: Option<FileName>) -> Vec<Record> {
    let data = bytes::Bytes::new();
    let mut records = vec![Record::Create { group, data }];
    if meta.index > 0 {
        let state = settle_wal::HardState {
            term: meta.term,
            vote: settle_base::PeerId::NONE,
            commit: meta.index,
        };
        records.push(Record::HardState { group, state });
        let snapshot = settle_wal::Snapshot {
            index: meta.index,
            term: meta.term,
            time: meta.time,
            conf: encode_conf(&meta.conf, &meta.context),
            file,
        };
        let reset = true;
        records.push(Record::Snapshot { group, snapshot, reset });
    }
    records
}
