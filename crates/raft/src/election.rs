//! Elections (Raft §5.2), with pre-vote (thesis §9.6), the leader's check of its quorum and the lease that it gives
//! (thesis §6.2: a peer that hears a leader ignores candidates), and leadership transfer's forced election.

use settle_base::{Index, PeerId, Term};

use crate::{
    conf::VoteResult,
    entry::EntryKind,
    message::Body,
    raft::{Raft, Role},
};

impl Raft {
    /// Starts an election, pre-vote first. Nothing happens at a leader, at a peer that is no voter or is recovering,
    /// nor while a membership change or a snapshot waits to take effect here.
    pub fn campaign(&mut self) {
        if self.may_campaign() {
            self.become_pre_candidate();
        }
        self.assert_invariants();
    }

    pub(crate) fn may_campaign(&self) -> bool {
        self.role != Role::Leader
            && self.conf.is_voter(self.config.id)
            && self.recovering.is_none()
            && self.log.durable >= self.log.base()
            && self.log.applied >= self.log.base()
            && !self.has_unapplied_conf_change()
    }

    fn become_pre_candidate(&mut self) {
        self.leave_role(PeerId::NONE);
        self.role = Role::PreCandidate;
        self.leader = PeerId::NONE;
        let (last_index, last_term) = (self.log.last_index(), self.log.last_term());
        self.ask_voters(
            self.term + 1,
            Body::PreVote {
                last_index,
                last_term,
                force: false,
            },
        );
        // Asking itself promises nothing, so nothing has to be durable.
        self.votes.insert(self.config.id, true);
        self.poll();
    }

    /// `force`: the leader asked for it, so its lease is no reason to refuse.
    fn become_candidate(&mut self, force: bool) {
        assert_ne!(self.role, Role::Leader, "a leader does not campaign");
        self.set_term(self.term + 1);
        self.leave_role(PeerId::NONE);
        self.role = Role::Candidate;
        self.leader = PeerId::NONE;
        self.vote = self.config.id;
        let (last_index, last_term) = (self.log.last_index(), self.log.last_term());
        self.ask_voters(
            self.term,
            Body::Vote {
                last_index,
                last_term,
                force,
            },
        );
    }

    fn ask_voters(&mut self, term: Term, body: Body) {
        for peer in self.conf.peers() {
            if peer != self.config.id && self.conf.is_voter(peer) {
                self.send(peer, term, body.clone());
            }
        }
    }

    /// The candidate's vote for itself is durable.
    pub(crate) fn count_own_vote(&mut self) {
        let id = self.config.id;
        if (self.log.durable_term, self.log.durable_vote) == (self.term, id) && self.votes.insert(id, true).is_none() {
            self.poll();
        }
    }

    fn poll(&mut self) {
        let id = self.config.id;
        let result = self.conf.vote_result(|peer| self.votes.get(&peer).copied());
        match (result, self.role) {
            (VoteResult::Won, Role::PreCandidate) => self.become_candidate(false),
            // Others may answer before our own write is reported; without it there is no leader.
            (VoteResult::Won, Role::Candidate) if self.votes.contains_key(&id) => self.become_leader(),
            (VoteResult::Lost, Role::PreCandidate | Role::Candidate) => self.become_follower(self.term, PeerId::NONE),
            _ => {}
        }
    }

    /// A leader was heard within the election timeout, so no candidate is needed.
    fn has_lease(&self) -> bool {
        !self.leader.is_none() && self.election_elapsed < self.config.election_ticks
    }

    pub(crate) fn step_vote(&mut self, from: PeerId, term: Term, body: Body) {
        let (last_index, last_term, force, is_pre_vote) = match body {
            Body::PreVote {
                last_index,
                last_term,
                force,
            } => (last_index, last_term, force, true),
            Body::Vote {
                last_index,
                last_term,
                force,
            } => (last_index, last_term, force, false),
            _ => unreachable!("only vote requests come here"),
        };
        // What a recovering peer promised before is lost: it can promise nothing new.
        if self.recovering.is_some() || (term > self.term && self.has_lease() && !force) {
            return;
        }
        if term < self.term {
            if is_pre_vote {
                // Tells a candidate that fell behind the term that it has to reach.
                self.send(from, self.term, Body::PreVoteReply { granted: false });
            }
            return;
        }
        let is_up_to_date = (last_term, last_index) >= self.log_to_judge_by();
        if is_pre_vote {
            let granted = is_up_to_date && (term > self.term || self.may_vote_for(from));
            let reply_term = if granted { term } else { self.term };
            return self.send(from, reply_term, Body::PreVoteReply { granted });
        }
        if term > self.term {
            self.become_follower(term, PeerId::NONE);
        }
        let granted = is_up_to_date && self.may_vote_for(from);
        if granted {
            if self.role == Role::PreCandidate {
                // It only asked so far; now there is a candidate to wait for.
                self.become_follower(term, PeerId::NONE);
            }
            assert_eq!(self.role, Role::Follower, "who leads or campaigns has voted for itself");
            self.vote = from;
            self.election_elapsed = 0;
        }
        self.send(from, self.term, Body::VoteReply { granted });
    }

    /// The (term, index) that a candidate's last entry must reach: our own last one (Raft §5.4.1).
    ///
    /// A peer that has left the voters is asked only by a candidate that has not applied the leave yet, and judges it
    /// by what is committed: the rest of its log may be longer than that of every voter without having counted, and the
    /// voters could not elect anybody. What is committed after the leave is in a majority of the new voters, whom the
    /// candidate needs as well. With a further change in its log the peer may be a voter again, and counted already.
    fn log_to_judge_by(&self) -> (Term, Index) {
        let (commit, last) = (self.log.commit, self.log.last_index());
        let has_left = self.log.applied == commit
            && !self.conf.voters.is_empty()
            && !self.conf.is_voter(self.config.id)
            && self
                .log
                .range(commit + 1, last)
                .all(|entry| entry.kind != EntryKind::ConfChange);
        let committed_term = self.log.term_at(commit).filter(|_| has_left);
        committed_term.map_or((self.log.last_term(), last), |term| (term, commit))
    }

    fn may_vote_for(&self, candidate: PeerId) -> bool {
        self.vote == candidate || (self.vote.is_none() && self.leader.is_none())
    }

    pub(crate) fn on_pre_vote_reply(&mut self, from: PeerId, term: Term, granted: bool) {
        // A grant names the term that was asked about: one of an earlier campaign is of no use.
        if self.role != Role::PreCandidate || (granted && term != self.term + 1) {
            return;
        }
        self.votes.entry(from).or_insert(granted);
        self.poll();
    }

    pub(crate) fn on_vote_reply(&mut self, from: PeerId, granted: bool) {
        if self.role == Role::Candidate {
            self.votes.entry(from).or_insert(granted);
            self.poll();
        }
    }

    pub(crate) fn on_timeout_now(&mut self, from: PeerId) {
        if self.role == Role::Follower && self.leader == from && self.may_campaign() {
            self.become_candidate(true);
        }
    }

    pub(crate) fn tick_leader(&mut self) {
        self.heartbeat_elapsed += 1;
        if self.election_elapsed >= self.config.election_ticks {
            self.election_elapsed = 0;
            if !self.quorum_is_active() || !self.conf.is_voter(self.config.id) {
                return self.become_follower(self.term, PeerId::NONE);
            }
            // The transfer had its time; the group is to be writable again.
            self.transferee = PeerId::NONE;
        }
        if self.heartbeat_elapsed >= self.config.heartbeat_ticks {
            self.heartbeat_elapsed = 0;
            self.out.heartbeat = true;
        }
    }

    fn quorum_is_active(&mut self) -> bool {
        let id = self.config.id;
        let active = |peer| Some(peer == id || self.progress.get(&peer).is_some_and(|p| p.recent_active));
        let result = self.conf.vote_result(active);
        self.progress
            .values_mut()
            .for_each(|progress| progress.recent_active = false);
        result == VoteResult::Won
    }
}
