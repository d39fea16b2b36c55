//! Rest: a group in which nothing happens needs no heartbeats and no ticks.
//!
//! A leader whose every peer holds, durably, just what is committed asks all of them to rest, in a round of heartbeats.
//! A peer that its host cannot reach, and that has not been heard from for an election timeout, is excused, as long as the
//! others are a quorum: for it nothing can be done before it is back. Its return must end the rest, or it would stay
//! behind: the host calls [`Raft::wake`] at the leader when it can reach the peer again, and whatever the peer itself says
//! wakes whom it reaches, as everything from a member that does not rest does; and a follower that anybody but its leader
//! wakes tells the leader, or one whom the peer cannot reach would go on leading in its sleep.
//!
//! A follower rests only when its log ends at exactly the committed entry that the leader names, and that entry is of
//! the leader's own term: by log matching the two logs are then the same, so a request that is late, repeated or of
//! another term puts nobody with another log to rest. The leader rests when all have answered that round.
//!
//! Whatever else arrives wakes a resting peer: a leader sends heartbeats at once, a follower waits one whole, fresh
//! election timeout for its leader. Nobody may conclude from a rest that the leader lives: whoever does not call
//! [`Raft::tick`] for resting groups must watch the leaders' nodes by other means, and call [`Raft::wake`] or
//! [`Raft::leader_is_down`] when one of them goes silent. A peer that starts is awake.

use settle_base::{Index, PeerId, Prng};

use crate::{
    conf::VoteResult,
    message::Body,
    progress::{Progress, ProgressState},
    raft::{Raft, Role},
};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Rest {
    #[default]
    Awake,
    /// At a leader: the peers are asked, in this round of heartbeats and since so many ticks.
    Asking { round: u64, ticks: u32 },
    /// `round` is the one that all have answered, or that this follower has.
    Resting { round: u64 },
}

impl Raft {
    /// Whether this leader may ask its group to rest: nothing is under way, and every peer, heard from lately, holds
    /// durably all that is committed, applied and told, but for those that `is_gone` says cannot be reached, while the
    /// others are a quorum. An answer of yes may turn into no with any call.
    pub fn may_rest(&self, is_gone: impl Fn(PeerId) -> bool) -> bool {
        let (last, log) = (self.log.last_index(), &self.log);
        let is_quiet = log.durable == last && log.commit == last && log.applied == last && log.inflight.is_empty();
        self.role == Role::Leader
            && is_quiet
            && log.last_term() == self.term
            && !self.conf.is_joint()
            && self.conf.is_voter(self.config.id)
            && self.installing.is_none()
            && self.recovering.is_none()
            && self.forced.is_none()
            && !self.is_log_only()
            && self.transferee.is_none()
            && self.reads.is_empty()
            && self.may_rest_without(
                |peer, progress| is_excused(peer, progress, &is_gone),
                |progress| {
                    progress.state == ProgressState::Replicate
                        && progress.recent_active
                        && progress.recovery.is_none()
                        && (progress.matched, progress.commit_told) == (last, last)
                },
            )
    }

    /// Whether all others are as `is_ready` says, and a quorum.
    fn may_rest_without(
        &self,
        is_excused: impl Fn(PeerId, &Progress) -> bool,
        is_ready: impl Fn(&Progress) -> bool,
    ) -> bool {
        let takes_part = |peer| {
            let progress = self.progress.get(peer);
            Some(peer == self.config.id || progress.is_some_and(|progress| !is_excused(peer, progress)))
        };
        self.conf.vote_result(takes_part) == VoteResult::Won
            && self
                .progress
                .iter()
                .all(|(peer, progress)| is_excused(peer, progress) || is_ready(progress))
    }

    /// Asks the group to rest, if [`Raft::may_rest`]. This leader itself rests once every peer has answered that it
    /// does, see [`Raft::is_resting`]; until then it has to be ticked. When somebody does not answer within an election
    /// timeout, or answers that it cannot, all are woken again.
    pub fn rest(&mut self, is_gone: impl Fn(PeerId) -> bool) {
        if self.rest == Rest::Awake && self.may_rest(&is_gone) {
            for (peer, progress) in self.progress.iter_mut() {
                progress.is_excused = is_excused(peer, progress, &is_gone);
            }
            let round = self.reads.open_round();
            self.out.heartbeat = true;
            self.rest = Rest::Asking { round, ticks: 0 };
            self.rest_if_all_do();
        }
        self.assert_invariants();
    }

    /// This peer counts no ticks: [`Raft::tick`] does nothing and need not be called.
    pub fn is_resting(&self) -> bool {
        matches!(self.rest, Rest::Resting { .. })
    }

    /// Ends a rest: a leader heartbeats at once, a follower gives its leader one whole, fresh election timeout.
    /// Does nothing at a peer that is awake.
    pub fn wake(&mut self) {
        if self.rest == Rest::Awake {
            return;
        }
        self.rest = Rest::Awake;
        self.election_elapsed = 0;
        self.heartbeat_elapsed = 0;
        if self.role == Role::Leader {
            self.out.heartbeat = true;
            // As after an election: one election timeout for each to answer in.
            for progress in self.progress.values_mut() {
                progress.recent_active = true;
            }
        } else {
            self.draw_election_timeout();
        }
    }

    /// What `from` says ends the rest. A follower lets its leader know, by taking its answer to the request back: the
    /// leader may rest without `from`, and could be replaced by it without ever hearing of that.
    pub(crate) fn wake_for(&mut self, from: PeerId) {
        let was = self.rest;
        self.wake();
        if let Rest::Resting { round } = was
            && self.role == Role::Follower
            && self.leader != from
        {
            let body = Body::HeartbeatReply {
                read_seq: round,
                recovering: self.recovering_number(),
                rested: false,
            };
            self.send(self.leader, self.term, body);
        }
    }

    /// The connection with the leader's node broke, or its node says that it started anew. Until the leader is heard
    /// again it has no lease here, and this follower asks for an election within few ticks. Others who still hear the
    /// leader refuse it, without any harm (pre-vote). Does nothing at a peer that follows nobody.
    pub fn leader_is_down(&mut self) {
        self.wake();
        if self.role != Role::Follower || self.leader.is_none() {
            return;
        }
        self.leader_is_lost = true;
        if self.recovering.is_none() {
            let elapsed = self.election_elapsed;
            self.election_timeout = self.election_timeout.min(elapsed + self.takeover_delay());
        }
        self.assert_invariants();
    }

    /// In ticks. Two who ask at the same moment split the votes, so each has a place in a row, another one each term.
    fn takeover_delay(&self) -> u32 {
        let others = self.conf.voters.iter().filter(|peer| **peer != self.leader);
        let (mut count, mut place) = (0u64, 0u64);
        for peer in others {
            if *peer == self.config.id {
                place = count;
            }
            count += 1;
        }
        // Alike at all of them, so not of the seed, which each process has its own of.
        let turn = Prng::from_parts(&[self.config.group.0, self.term]).below(count.max(1));
        let row = ((place + turn) % count.max(1)).min(u64::from(self.config.election_ticks) - 1) as u32;
        // Thousands of groups at once may make the first of the row late for its tick.
        1 + 2 * row + self.reluctance(self.config.election_ticks / 2)
    }

    /// Whether `body`, which comes in at a resting or asking peer, belongs to the rest itself.
    pub(crate) fn keeps_rest(&self, from: PeerId, body: &Body) -> bool {
        if self.role == Role::Leader && self.progress.get(from).is_some_and(|progress| progress.is_excused) {
            return false;
        }
        match *body {
            // A removed peer that does not know it would ask for ever. It has no vote of ours: the lease holds.
            Body::PreVote { .. } => !self.conf.contains(from) && !self.has_unapplied_conf_change(),
            Body::Heartbeat { rest, .. } => rest && self.role == Role::Follower,
            Body::Held { .. } => self.role == Role::Follower,
            Body::HeartbeatReply { read_seq, rested, .. } => match self.rest {
                Rest::Awake => false,
                Rest::Asking { round, .. } | Rest::Resting { round } => {
                    // Answers to what was sent before the request say nothing about it.
                    rested || read_seq < round
                }
            },
            _ => false,
        }
    }

    /// At a follower: the leader asks it in `round` to rest with the log up to `commit`. Returns whether it does.
    pub(crate) fn rest_as_follower(&mut self, commit: Index, round: u64) -> bool {
        let log = &self.log;
        let may_rest = log.last_index() == commit
            && log.last_term() == self.term
            && (log.durable, log.commit) == (commit, commit)
            && self.installing.is_none()
            && self.recovering.is_none()
            && self.reads.is_empty()
            && self.conf.contains(self.config.id);
        if may_rest {
            // A request that was overtaken by a later one is no news.
            let before = match self.rest {
                Rest::Resting { round } => round,
                _ => 0,
            };
            self.rest = Rest::Resting {
                round: round.max(before),
            };
            self.release_memory();
        } else {
            self.wake();
        }
        may_rest
    }

    /// At the leader: a peer answered the round of `read_seq` that it rests.
    pub(crate) fn note_rested(&mut self, round_answered: u64) {
        if matches!(self.rest, Rest::Asking { round, .. } if round == round_answered) {
            self.rest_if_all_do();
        }
    }

    fn rest_if_all_do(&mut self) {
        let Rest::Asking { round, .. } = self.rest else { return };
        let rests = |progress: &Progress| progress.is_excused || progress.rested_in >= round;
        if self.progress.values().all(rests) {
            self.rest = Rest::Resting { round };
            self.release_memory();
        }
    }

    /// Buffers grow with the load; at rest there is none.
    fn release_memory(&mut self) {
        self.log.release_memory();
        self.reads.release_memory();
        self.out.release_memory();
        self.progress.values_mut().for_each(Progress::release_memory);
    }

    /// At a leader that asks: too long a silence ends the attempt.
    pub(crate) fn tick_asking(&mut self) {
        if let Rest::Asking { ticks, .. } = &mut self.rest {
            *ticks += 1;
            if *ticks >= self.config.election_ticks {
                // Not as new: a leader that asks again and again has to notice as ever that nobody answers.
                self.rest = Rest::Awake;
                self.out.heartbeat = true;
            }
        }
    }

    /// This leader has asked its peers to rest and not heard of all that they do.
    pub fn is_asking_to_rest(&self) -> bool {
        matches!(self.rest, Rest::Asking { .. })
    }
}

fn is_excused(peer: PeerId, progress: &Progress, is_gone: impl Fn(PeerId) -> bool) -> bool {
    !progress.recent_active && is_gone(peer)
}
