//! Which snapshots are sent now and which wait: of a node that comes back with an empty disk all groups want one at once.
//!
//! So many are on their way from this node, and so many of them to one peer, see [`Limits`](crate::Limits). Whoever waits is
//! served in the order of asking, peers by turns, so that a peer with thousands of groups holds up no other. A state is
//! read when its turn comes, not before.
//!
//! What is on its way to a peer that is not connected, or says nothing, counts for nobody else: it goes on where it was
//! when the peer is back, and until then its place is free. One that stands still at a peer that lives ends after
//! [`HostConfig::snapshot_resume`](crate::HostConfig::snapshot_resume).

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

use settle_base::{GroupId, Mono, PeerId};
use settle_machine::Service;
use settle_storage::{Disk, DiskRead};

use crate::{Host, HostAction};

/// Why a snapshot is to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cause {
    /// The peer needs entries that are not in the log any more.
    Behind,
    /// The peer's machine has to be rebuilt, or waits for what never comes.
    Wrong,
}

#[derive(Default)]
pub(crate) struct TransferQueue {
    /// By receiver, in the order of asking. None of the queues is empty.
    waiting: BTreeMap<PeerId, VecDeque<GroupId>>,
    /// Of each that waits, once.
    causes: BTreeMap<(PeerId, GroupId), Cause>,
    served_last: Option<PeerId>,
    /// Some may be able to start.
    is_due: bool,
}

impl TransferQueue {
    pub(crate) fn are_due(&mut self) {
        self.is_due = true;
    }

    pub(crate) fn len(&self) -> usize {
        self.causes.len()
    }

    fn push(&mut self, peer: PeerId, group: GroupId, cause: Cause) {
        self.is_due = true;
        if self.causes.insert((peer, group), cause).is_none() {
            self.waiting.entry(peer).or_default().push_back(group);
        }
    }

    fn pop(&mut self, peer: PeerId) -> Option<(GroupId, Cause)> {
        let queue = self.waiting.get_mut(&peer)?;
        let group = queue.pop_front()?;
        if queue.is_empty() {
            self.waiting.remove(&peer);
        }
        let cause = self.causes.remove(&(peer, group));
        Some((group, cause.expect("each that waits has its cause")))
    }

    /// The next peer in turn of those that `may` be served.
    fn next(&self, may: impl Fn(PeerId) -> bool) -> Option<PeerId> {
        let last = self.served_last.unwrap_or(PeerId::NONE);
        let after = self.waiting.range((Bound::Excluded(last), Bound::Unbounded));
        let mut round = after.chain(self.waiting.range(..=last));
        round.find(|(peer, _)| may(**peer)).map(|(peer, _)| *peer)
    }
}

impl<S: Service, D: Disk + DiskRead> Host<S, D> {
    /// `peer` is to get a snapshot of this node's replica when it is its turn.
    pub(crate) fn send_snapshot(&mut self, id: GroupId, peer: PeerId, cause: Cause) {
        if self.node_of(peer).is_some() {
            self.transfers_waiting.push(peer, id, cause);
        } else if let Some(group) = self.groups.get_mut(&id) {
            group.raft.report_snapshot(peer, false);
        }
    }

    /// The peer is not connected any more: it is asked for again when it answers again.
    pub(crate) fn forget_waiting(&mut self, peer: PeerId) {
        while let Some((id, _)) = self.transfers_waiting.pop(peer) {
            if let Some(group) = self.groups.get_mut(&id) {
                group.raft.report_snapshot(peer, false);
            }
        }
        self.transfers_waiting.are_due();
    }

    /// Starts those whose turn it is; true when anything changed.
    pub(crate) fn start_transfers(&mut self, now: Mono, out: &mut Vec<HostAction<S::Response>>) -> bool {
        let is_due = std::mem::take(&mut self.transfers_waiting.is_due);
        if !is_due || self.transfers_waiting.waiting.is_empty() {
            return false;
        }
        let most = self.config.limits.snapshots_sent_max;
        let most_to_peer = self.config.limits.snapshots_sent_to_peer_max;
        let mut open = self.open_transfers();
        let mut any = false;
        while open.values().sum::<usize>() < most {
            let may = |peer: PeerId| self.is_heard(peer) && open.get(&peer).is_none_or(|open| *open < most_to_peer);
            let Some(peer) = self.transfers_waiting.next(may) else {
                break;
            };
            self.transfers_waiting.served_last = Some(peer);
            let (id, cause) = self.transfers_waiting.pop(peer).expect("it was just seen waiting");
            any = true;
            let Some(group) = self.groups.get(&id) else { continue };
            let is_wanted = match cause {
                Cause::Behind => group.raft.awaits_snapshot(peer),
                Cause::Wrong => group.gives_state_to(peer),
            };
            if is_wanted && !group.sending.contains_key(&peer) {
                self.start_sending(id, peer, now, out);
                let is_begun = self.groups[&id].sending.contains_key(&peer);
                *open.entry(peer).or_default() += usize::from(is_begun);
            }
        }
        any
    }

    /// By receiver, those that take a place.
    fn open_transfers(&mut self) -> BTreeMap<PeerId, usize> {
        let mut open = BTreeMap::new();
        for id in self.groups.moving() {
            for peer in self.groups[&id].sending.keys() {
                *open.entry(*peer).or_default() += 1;
            }
        }
        open.retain(|peer, _| self.is_heard(*peer));
        open
    }

    /// It is connected, and not silent for an election timeout.
    fn is_heard(&self, peer: PeerId) -> bool {
        let patience = self.config.election_ticks;
        let mut peers = self.peers.values();
        peers.any(|p| p.hello.incarnation == peer && p.is_heard(patience))
    }
}
