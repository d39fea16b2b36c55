//! One group on this node: its consensus, its machine, and what waits between the two.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use settle_base::{GroupId, GroupTime, Index, Mono, NodeId, PeerId, Term, mutant};
use settle_machine::{GroupRole, GroupView, StateMachine};
use settle_raft::{PeerStatus, ProgressState, Raft, Role, SnapshotMeta};
use settle_storage::FileName;

use crate::{
    groups::Filed,
    hashes::Hashes,
    members::{self, Book},
    snapshots::{Received, Taking},
    stages::Line,
    surgery::Surgery,
    transfers::{Receiving, Sending},
    witness::WitnessLog,
};

pub(crate) struct Group<M: StateMachine> {
    pub(crate) id: GroupId,
    pub(crate) filed: Filed,
    pub(crate) raft: Raft,
    /// A witness has none.
    pub(crate) machine: Option<M>,
    pub(crate) witness: WitnessLog,
    pub(crate) effects: Vec<M::Effect>,
    /// As of the last applied entry.
    pub(crate) book: Arc<Book>,
    pub(crate) applied: Applied,
    pub(crate) office: Option<Office>,
    /// What the service was told last.
    pub(crate) role: GroupRole,
    /// Asked of consensus, by their number there.
    pub(crate) reads: BTreeMap<u64, PendingRead>,
    /// Confirmed, but this replica has not applied up to there.
    pub(crate) reads_confirmed: BTreeMap<(Index, u64), PendingRead>,
    pub(crate) was_recovering: bool,
    /// At a leader: for how many ticks the log has ended at this index and nobody has asked for a read.
    pub(crate) quiet_ticks: u32,
    quiet_at: Index,

    /// Applied since the last snapshot, in bytes.
    pub(crate) log_bytes: u64,
    /// Since when there is any.
    pub(crate) log_since: Option<Mono>,
    pub(crate) snapshot_file: Option<FileName>,
    pub(crate) snapshot_retry_at: Mono,
    pub(crate) taking: Option<Box<Taking>>,
    pub(crate) sending: BTreeMap<PeerId, Sending>,
    pub(crate) receiving: Option<Box<Receiving<M>>>,
    /// Handed to consensus; installed once the log says so durably.
    pub(crate) received: Option<Box<Received<M>>>,
    /// The log says so durably.
    pub(crate) snapshot_index: Index,
    pub(crate) hashes: Hashes,
    /// At a leader: permissions to replace a node that are on their way into the log, by the term and index of each.
    pub(crate) allowing: Vec<(NodeId, Term, Index)>,
    /// Most groups never have any.
    pub(crate) surgery: Option<Box<Surgery>>,
    pub(crate) line: Line,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Applied {
    pub(crate) index: Index,
    pub(crate) term: Term,
    pub(crate) time: GroupTime,
}

/// A leader's clock: the group's time when it took office, and when that was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Office {
    pub(crate) term: Term,
    base: GroupTime,
    since: Mono,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingRead {
    pub(crate) token: u64,
    pub(crate) asked: Mono,
}

impl Office {
    pub(crate) fn take(term: Term, base: GroupTime, now: Mono) -> Office {
        Office { term, base, since: now }
    }

    fn time(&self, now: Mono) -> GroupTime {
        self.base + Duration::from_millis(now.since(self.since).as_millis() as u64)
    }
}

impl<M: StateMachine> Group<M> {
    pub(crate) fn new(
        raft: Raft,
        id: GroupId,
        machine: Option<M>,
        book: Arc<Book>,
        meta: &SnapshotMeta,
        file: Option<FileName>,
    ) -> Group<M> {
        let mut group = Group {
            id,
            filed: Filed::NOWHERE,
            was_recovering: raft.is_recovering(),
            raft,
            machine,
            witness: WitnessLog::from(meta.index),
            effects: Vec::new(),
            book,
            applied: Applied {
                index: meta.index,
                term: meta.term,
                time: meta.time,
            },
            office: None,
            role: GroupRole::default(),
            quiet_ticks: 0,
            quiet_at: 0,
            reads: BTreeMap::new(),
            reads_confirmed: BTreeMap::new(),
            log_bytes: 0,
            log_since: None,
            snapshot_file: file,
            snapshot_retry_at: Mono::ZERO,
            taking: None,
            sending: BTreeMap::new(),
            receiving: None,
            received: None,
            snapshot_index: meta.index,
            hashes: Hashes::default(),
            allowing: Vec::new(),
            surgery: None,
            line: Line::default(),
        };
        group.tell_members();
        group
    }

    /// The group's time: on a leader it runs, elsewhere it is the last applied entry's.
    pub(crate) fn time(&self, now: Mono) -> GroupTime {
        match &self.office {
            Some(office) => office.time(now).max(self.raft.last_time()),
            None => self.applied.time,
        }
    }

    pub(crate) fn view(&self, now: Mono) -> Option<GroupView<'_, M>> {
        Some(GroupView {
            machine: self.machine.as_ref()?,
            peer: self.raft.id(),
            role: self.role,
            version: self.book.cluster_version(),
            time: self.time(now),
            log: self,
        })
    }

    /// Leads, and has applied an entry of its own term: everything committed before is in the machine.
    pub(crate) fn is_ready_leader(&self) -> bool {
        let leads = self.raft.role() == Role::Leader && self.applied.term == self.raft.term();
        leads && !self.is_witness() && !self.is_quarantined()
    }

    /// Whether a member without a right machine may have a snapshot from here. A leader need not be ready for that: what it
    /// has applied is committed, and its first entry may wait for the ack of this very member.
    pub(crate) fn gives_state_to(&self, peer: PeerId) -> bool {
        let has_state = !self.is_witness() && !self.is_quarantined();
        self.raft.is_leader() && has_state && members::is_in(self.raft.conf(), peer)
    }

    /// At the leader: whether `peer`, a learner, could lead once it is a voter. It lacks at most `within` entries, and its
    /// machine is not waiting for a state from here: a voter without one holds the log and can serve nobody.
    pub(crate) fn has_caught_up(&self, peer: PeerId, within: u64) -> bool {
        let status = self.raft.status();
        let is_close = |p: &PeerStatus| {
            let is_served = p.state == ProgressState::Replicate && p.recent_active && !p.recovering;
            p.peer == peer && is_served && status.last_index.saturating_sub(p.matched) <= within
        };
        status.progress.iter().any(is_close) && !self.sending.contains_key(&peer)
    }

    pub(crate) fn rest_if_quiet(&mut self, after_ticks: u32, is_gone: impl Fn(PeerId) -> bool) {
        let last = self.raft.last_index();
        if self.quiet_at != last {
            (self.quiet_at, self.quiet_ticks) = (last, 0);
        }
        self.quiet_ticks += 1;
        if self.quiet_ticks >= after_ticks && self.raft.may_rest(&is_gone) {
            // Whoever cannot yet is asked again as much later.
            self.quiet_ticks = 0;
            self.raft.rest(is_gone);
        }
    }

    /// A snapshot is being taken, sent or received, or is due.
    pub(crate) fn is_moving(&self, snapshot_after_bytes: u64) -> bool {
        let is_under_way = self.taking.is_some() || self.receiving.is_some() || !self.sending.is_empty();
        is_under_way || self.log_bytes >= snapshot_after_bytes
    }

    /// What a snapshot of the machine as it is now stands for.
    pub(crate) fn snapshot_meta(&self) -> SnapshotMeta {
        let mut applied = self.applied;
        if mutant!("snapshot_index_before_state")
            && let before = applied.index.saturating_sub(1)
            && let (Some(term), Some(time)) = (self.raft.term_at(before), self.raft.time_at(before))
        {
            let index = before;
            applied = Applied { index, term, time };
        }
        SnapshotMeta {
            index: applied.index,
            term: applied.term,
            conf: self.raft.conf_by_log().clone(),
            time: applied.time,
            context: self.book.encode(),
        }
    }
}
