//! Membership changes and leadership transfer at one peer. The rules of configurations themselves are in `conf.rs`.

use std::sync::Arc;

use settle_base::{GroupTime, Index, PeerId, Term};

use crate::{
    conf::{ConfChange, ConfChangeError, ConfState},
    entry::{Entry, EntryKind},
    message::Body,
    progress::Progress,
    raft::{Raft, Role},
    replication::ProposeError,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    #[error("transfer leadership: not the leader; it is peer {leader}")]
    NotLeader { leader: PeerId },
    /// No voter, or a witness, or one that lost the tail of its log.
    #[error("transfer leadership: peer {to} is no voter that could lead")]
    NotAVoter { to: PeerId },
}

impl Raft {
    /// Proposes one membership change. Refused while another is not applied, or when it could not be applied.
    pub fn propose_conf_change(&mut self, change: ConfChange, time: GroupTime) -> Result<(Term, Index), ProposeError> {
        self.check_proposer(None)?;
        // It would not go through a joint configuration; an operator has another way to it.
        if change.is_reset() {
            return Err(ProposeError::ConfChange(ConfChangeError::BadReset));
        }
        if self.pending_conf > self.log.applied {
            return Err(ProposeError::ConfChangePending {
                index: self.pending_conf,
            });
        }
        self.check_change(&change).map_err(ProposeError::ConfChange)?;
        Ok((self.term, self.append_conf_change(&change, time)))
    }

    pub(crate) fn append_conf_change(&mut self, change: &ConfChange, time: GroupTime) -> Index {
        let index = self.append_own(EntryKind::ConfChange, change.encode(), time);
        self.pending_conf = index;
        index
    }

    /// The host applies a committed membership change: to be called for each, in the order of the log, before
    /// [`Raft::on_applied`] of its index. Returns the configuration now in force.
    ///
    /// An error is the same at every replica (it depends on the log alone) and changes nothing.
    pub fn apply_conf_change(&mut self, change: &ConfChange) -> Result<ConfState, ConfChangeError> {
        if self.forced.is_some() {
            return self.apply_under_force(change);
        }
        if settle_base::mutant!("conf_change_applied_when_appended") && self.conf.changed(change).is_err() {
            return Ok(ConfState::clone(&self.conf));
        }
        self.conf = Arc::new(self.conf.changed(change)?);
        self.wake();
        if self.role == Role::Leader {
            self.adopt_conf_as_leader();
        }
        self.assert_invariants();
        Ok(ConfState::clone(&self.conf))
    }

    /// A deliberate bug: what takes effect before it is committed has to be undone when it is truncated, and is not.
    pub(crate) fn apply_appended_changes(&mut self, entries: &[Entry]) {
        for entry in entries.iter().filter(|entry| entry.kind == EntryKind::ConfChange) {
            let changed = ConfChange::decode(&entry.data).map(|change| self.conf.changed(&change));
            if let Ok(Ok(conf)) = changed {
                self.conf = Arc::new(conf);
            }
        }
    }

    fn adopt_conf_as_leader(&mut self) {
        let id = self.config.id;
        let next = self.log.last_index() + 1;
        if !settle_base::mutant!("removed_peer_counted") {
            self.progress.retain(|peer| self.conf.contains(peer));
        }
        for peer in self.conf.peers().into_iter().filter(|&peer| peer != id) {
            self.progress.insert_new(peer, Progress::new(next));
        }
        if !self.conf.is_voter(self.transferee) {
            self.transferee = PeerId::NONE;
        }
        self.out.replicate = true;
        if !self.conf.is_voter(id) {
            self.retire();
        }
        // A smaller quorum may be reached already.
        self.advance_commit();
        self.release_reads();
    }

    /// The joint configuration is left and this leader has no part in the new one. It takes no more proposals and hands
    /// over to the voter that is furthest. It steps down at the next check of its quorum at the latest; until then it
    /// goes on telling the commit index, because the new voters may not know yet that they are alone.
    fn retire(&mut self) {
        let voters = self.progress.iter().filter(|(peer, _)| self.is_full_voter(*peer));
        let furthest = voters
            .max_by_key(|(_, progress)| progress.counted_match())
            .map(|(peer, _)| peer);
        self.transferee = furthest.unwrap_or(PeerId::NONE);
        self.election_elapsed = 0;
        self.hand_over_if_ready(self.transferee);
    }

    /// A joint configuration that this leader has applied is left at once.
    pub(crate) fn leave_joint_if_due(&mut self) {
        if self.conf.is_joint() && self.conf.auto_leave && self.log.applied >= self.pending_conf {
            self.append_conf_change(&ConfChange::default(), self.log.last_time());
        }
    }

    /// Hands leadership to `to` once its log has caught up. Proposals are refused meanwhile, for one election timeout
    /// at most; then the transfer is given up.
    pub fn transfer_leader(&mut self, to: PeerId) -> Result<(), TransferError> {
        if self.role != Role::Leader {
            return Err(TransferError::NotLeader { leader: self.leader });
        }
        if to == self.config.id {
            return Ok(());
        }
        let can_lead = self
            .progress
            .get(to)
            .is_some_and(|progress| progress.recovery.is_none());
        if !can_lead || !self.is_full_voter(to) {
            return Err(TransferError::NotAVoter { to });
        }
        self.wake();
        if self.transferee != to {
            self.transferee = to;
            self.election_elapsed = 0;
            self.out.replicate = true;
            self.hand_over_if_ready(to);
        }
        Ok(())
    }

    pub(crate) fn hand_over_if_ready(&mut self, to: PeerId) {
        let has_all = self
            .progress
            .get(to)
            .is_some_and(|progress| progress.matched == self.log.last_index());
        if self.transferee == to && has_all {
            self.send(to, self.term, Body::TimeoutNow);
        }
    }
}
