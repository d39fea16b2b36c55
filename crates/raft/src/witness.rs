//! Witnesses: voters that keep the log but no machine, so a third copy costs little.
//!
//! A witness votes and acknowledges like any voter. Because it has no machine it serves no reads, takes no proposals and
//! sends no snapshots; it is asked to lead last ([`crate::Config::priority`] 0 counts for it), and it campaigns at all
//! only because its log may be the only one, among those that are left, with every committed entry. As a leader it
//! brings the full voters up to date and hands over to the first that has everything.
//!
//! What it may drop: an entry is of use at a witness only as long as some full voter lacks it. The leader tells how far
//! all full voters are ([`Body::Held`]); [`Raft::held_by_full_voters`] is what the host may compact a witness to, with a
//! snapshot of metadata alone. A full voter that is gone for long makes that log long: it is for the host to bound it
//! (such a voter can then be brought up to date by another full voter only), or to replace the voter.

use settle_base::{Index, PeerId};

use crate::{
    message::Body,
    progress::{Progress, ProgressState},
    raft::{Raft, Role},
    recovering,
};

impl Raft {
    /// This peer keeps no machine.
    pub fn is_witness(&self) -> bool {
        self.conf.is_witness(self.config.id)
    }

    /// The host's machine of this peer is not to be trusted (`true`), or is again (`false`). Its log, votes and acks are
    /// as good as ever; but until then it is as a witness is: serves no reads, takes no proposals, sends no snapshots, and
    /// leads only to bring others up to date and hand over. To say it again at a leader tries once more to hand over.
    pub fn set_machine_lost(&mut self, lost: bool) {
        self.machine_is_lost = lost;
        if lost {
            self.wake();
            self.hand_over_as_witness();
        }
        self.assert_invariants();
    }

    /// This peer has no machine, or none that may be used.
    pub(crate) fn is_log_only(&self) -> bool {
        self.is_witness() || self.machine_is_lost
    }

    /// Every full voter (not learners) holds the log durably up to here, as far as this peer was told.
    pub fn held_by_full_voters(&self) -> Index {
        if self.role == Role::Leader {
            self.full_voters_match()
        } else {
            self.held.min(self.log.commit)
        }
    }

    fn full_voters_match(&self) -> Index {
        let voters = self.conf.voters.iter().chain(&self.conf.outgoing);
        let full = voters.filter(|peer| !self.conf.is_witness(**peer));
        let matched = full.map(|&peer| match peer == self.config.id {
            true => self.log.durable,
            false => self.progress.get(peer).map_or(0, Progress::counted_match),
        });
        matched.min().unwrap_or_default().min(self.log.commit)
    }

    /// At the leader, with its heartbeats: what the witnesses need not keep any more.
    pub(crate) fn tell_witnesses(&mut self) {
        if self.conf.witnesses.is_empty() {
            return;
        }
        let held = self.full_voters_match();
        // A later leader may know less than an earlier one did.
        self.held = self.held.max(held);
        for at in 0..self.conf.witnesses.len() {
            let witness = self.conf.witnesses[at];
            if witness != self.config.id {
                self.send(witness, self.term, Body::Held { index: held });
            }
        }
    }

    /// Followers hold what they are told of durably or will have it: a leader speaks only of what is committed.
    pub(crate) fn on_held(&mut self, index: Index) {
        self.held = self.held.max(index);
    }

    /// At a leader without a machine: what this peer needs next is compacted away.
    pub(crate) fn lacks_snapshot_for(&self, progress: &Progress) -> bool {
        self.is_log_only() && self.log.term_at(progress.next - 1).is_none()
    }

    /// Too few voters are with this leader, perhaps because it has no snapshot to give. The full voter that has one may be
    /// recovering: it campaigns late, and wins by the votes of all, so it has to be let try before this peer leads in
    /// vain again.
    pub(crate) fn step_down(&mut self) {
        let stands_back = self.progress.values().any(|progress| self.lacks_snapshot_for(progress));
        self.become_follower(self.term, PeerId::NONE);
        if stands_back {
            self.election_timeout += recovering::PATIENCE * self.config.election_ticks;
        }
    }

    pub(crate) fn is_full_voter(&self, peer: PeerId) -> bool {
        self.conf.is_voter(peer) && !self.conf.is_witness(peer)
    }

    /// A witness that leads: somebody who may lead for good and has everything is to take over.
    pub(crate) fn hand_over_as_witness(&mut self) {
        if self.role != Role::Leader || !self.is_log_only() {
            return;
        }
        let last = self.log.last_index();
        let ready = self.progress.iter().filter(|(peer, progress)| {
            self.is_full_voter(*peer)
                && progress.recovery.is_none()
                && progress.state == ProgressState::Replicate
                && progress.matched == last
        });
        // Each hands over to the next in a ring, so that two whose machines are lost do not play for ever.
        let next = ready
            .map(|(peer, _)| peer)
            .min_by_key(|peer| (*peer < self.config.id, *peer));
        if let Some(peer) = next
            && self.transferee != peer
        {
            self.transferee = peer;
            self.election_elapsed = 0;
            self.send(peer, self.term, Body::TimeoutNow);
        }
    }
}
