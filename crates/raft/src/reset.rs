//! The loss of a majority for good: an operator forces a configuration of what is left.
//!
//! No protocol can do this safely. Whatever the lost voters had acknowledged and no survivor holds is gone; and should
//! they come back, there are two groups of one name. What can be promised: among those of the new configuration the
//! usual rules hold from the reset on. Nothing that a survivor knows to be committed is lost; all of them end with the
//! same log and the same configuration.
//!
//! The reset happens at one survivor, best the one with the newest log. It counts votes and copies by the forced
//! configuration at once, in terms far above those of the lost ones. It is elected by all of the forced voters, each
//! of whom has to be there: they are no majority of those who committed, so any one of them may know alone that an entry
//! is. When it is elected, an entry that puts the configuration in force for everybody follows its first one. Changes of
//! membership that were under way are applied before that entry, as everywhere, but nobody of them is counted. A survivor
//! that restarts before that entry is applied has forgotten the reset: it has to be asked for again.

use std::sync::Arc;

use bytes::Bytes;
use settle_base::{Index, PeerId, Term};

use crate::{
    conf::{ConfChange, ConfChangeError, ConfState, MAX_PEERS},
    raft::Raft,
};

/// So many terms are left to those that are lost, should they come back.
const TERMS_SKIPPED: Term = 1 << 16;

/// A configuration that an operator forced, until the entry that puts it in force for everybody is applied.
#[derive(Debug)]
pub(crate) struct Forced {
    /// The configuration that the log says.
    pub by_log: ConfState,
    pub context: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResetError {
    #[error("reset the configuration: the new one is not valid, is joint, or names too many peers")]
    Conf,
    #[error(
        "reset the configuration: peer {id} is no full voter of the new one, so it cannot be the one that leads it"
    )]
    NotAVoter { id: PeerId },
    #[error(
        "reset the configuration: peer {id} would become a witness or cease to be one; what it keeps is decided when it \
             is added"
    )]
    WitnessChange { id: PeerId },
    #[error("reset the configuration: a snapshot or a membership change is being applied here; ask again")]
    Busy,
}

/// What is known about the loss at the survivor: entries after `last` may have been acknowledged to clients and are
/// gone, entries after `commit` up to `last` are kept although nobody may have been told of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LossWindow {
    pub commit: Index,
    pub last: Index,
    /// The term of the entry at `last`.
    pub last_term: Term,
}

impl Raft {
    /// Forces `conf` after the loss of a majority; see the risks in this module's head (`reset.rs`). `context` is
    /// opaque, as in [`ConfChange`]. To be called at one survivor alone, which has to be a full voter of `conf`, and
    /// again if it restarts before [`Raft::conf`] says so at all survivors. Nothing changes on an error.
    pub fn reset_conf(&mut self, conf: ConfState, context: Bytes) -> Result<LossWindow, ResetError> {
        if !conf.is_valid() || conf.is_joint() || conf.peers().len() >= MAX_PEERS {
            return Err(ResetError::Conf);
        }
        if !conf.voters.contains(&self.config.id) || conf.is_witness(self.config.id) {
            let id = self.config.id;
            return Err(ResetError::NotAVoter { id });
        }
        // A witness has no state that could be read or sent, and a full replica holds what a witness would drop.
        let changes = |known: &ConfState, id| known.contains(id) && known.is_witness(id) != conf.is_witness(id);
        let is_changed = |&id: &PeerId| changes(&self.conf, id) || changes(self.conf_by_log(), id);
        if let Some(id) = conf.peers().into_iter().find(is_changed) {
            return Err(ResetError::WitnessChange { id });
        }
        if self.installing.is_some() || self.has_unapplied_conf_change() {
            return Err(ResetError::Busy);
        }
        self.wake();
        self.become_follower(self.term + TERMS_SKIPPED, PeerId::NONE);
        let by_log = match self.forced.take() {
            Some(earlier) => earlier.by_log,
            None => ConfState::clone(&self.conf),
        };
        self.conf = Arc::new(conf);
        self.forced = Some(Box::new(Forced { by_log, context }));
        self.campaign();
        Ok(LossWindow {
            commit: self.log.commit,
            last: self.log.last_index(),
            last_term: self.log.last_term(),
        })
    }

    /// What the log up to the applied index says, whatever an operator has forced: a snapshot of there is to say the
    /// same, or the force would outlive the restart that forgets it.
    pub fn conf_by_log(&self) -> &ConfState {
        self.forced.as_ref().map_or(&self.conf, |forced| &forced.by_log)
    }

    /// At a leader by force: the others have to learn the configuration too.
    pub(crate) fn propose_forced_conf(&mut self) {
        if let Some(forced) = &self.forced {
            let change = ConfChange::reset_to(&self.conf, forced.context.clone());
            self.append_conf_change(&change, self.log.last_time());
        }
    }

    /// Applies a committed change while a configuration is forced. Returns what the log says from there on.
    pub(crate) fn apply_under_force(&mut self, change: &ConfChange) -> Result<ConfState, ConfChangeError> {
        let forced = self
            .forced
            .as_mut()
            .expect("it is called while a configuration is forced");
        forced.by_log = forced.by_log.changed(change)?;
        let by_log = forced.by_log.clone();
        if change.is_reset() && by_log == *self.conf {
            self.forced = None;
        }
        Ok(by_log)
    }

    /// Somebody else leads: a majority was there after all, or another survivor was reset later.
    pub(crate) fn give_up_force(&mut self) {
        if let Some(forced) = self.forced.take() {
            self.conf = Arc::new(forced.by_log);
        }
    }
}
