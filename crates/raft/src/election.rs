//! Elections (Raft §5.2), with pre-vote (thesis §9.6), the leader's check of its quorum and the lease that it gives
//! (thesis §6.2: a peer that hears a leader ignores candidates), and leadership transfer's forced election. What
//! the vote of a recovering peer is worth is in `recovering.rs`.
//!
//! # Priorities
//! A peer that should rather not lead has a lower [`crate::Config::priority`]. It waits longer before it campaigns, by up
//! to two election timeouts at priority 0, so that who is 50 above another has asked before it; and a voter
//! refuses the pre-vote to a candidate of lower priority whose log is no longer than its own, to campaign itself at the
//! next tick. Nothing of it can keep a group without a leader: the wait is bounded, no peer has to know or hear anybody
//! of a high priority, and a voter refuses in that way at most [`REFUSALS_MAX`] times until it hears a leader again. A
//! vote (unlike the pre-vote) is never refused for a priority.

use settle_base::{Index, PeerId, Term};

use crate::{
    conf::VoteResult,
    entry::EntryKind,
    message::Body,
    progress::Progress,
    raft::{PRIORITY_MAX, Raft, Role},
};

/// One would be enough if the better candidate's requests were never lost.
pub(crate) const REFUSALS_MAX: u8 = 2;

/// A voter's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ballot {
    pub granted: bool,
    /// The voter is recovering: the grant counts only among those of all voters.
    pub recovering: Option<u64>,
}

impl Raft {
    /// Starts an election, pre-vote first. Nothing happens at a leader, at a peer that is no voter or began to recover
    /// a short time ago, nor while a membership change or a snapshot waits to take effect here.
    pub fn campaign(&mut self) {
        self.wake();
        if self.may_campaign() {
            self.become_pre_candidate();
        }
        self.assert_invariants();
    }

    pub(crate) fn may_campaign(&self) -> bool {
        self.role != Role::Leader
            && self.conf.is_voter(self.config.id)
            && !self.is_silent()
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
                commit: self.log.committed(),
                priority: self.priority(),
            },
        );
        // Asking itself promises nothing, so nothing has to be durable.
        self.votes.insert(self.config.id, self.own_ballot());
        self.poll();
    }

    /// `force`: the leader asked for it, so its lease is no reason to refuse.
    fn become_candidate(&mut self, force: bool) {
        assert_ne!(self.role, Role::Leader, "a leader does not campaign");
        let pre_grants = self.votes.iter().filter(|(_, ballot)| ballot.granted);
        let pre_grants = pre_grants.map(|(peer, ballot)| (peer, ballot.recovering)).collect();
        self.set_term(self.term + 1);
        self.leave_role(PeerId::NONE);
        self.pre_grants = pre_grants;
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
        let (id, ballot) = (self.config.id, self.own_ballot());
        if (self.log.durable_term, self.log.durable_vote) == (self.term, id) && self.votes.insert_new(id, ballot) {
            self.poll();
        }
    }

    fn own_ballot(&self) -> Ballot {
        Ballot {
            granted: true,
            recovering: self.recovering_number(),
        }
    }

    fn poll(&mut self) {
        let has_own_vote = self.votes.contains(self.config.id);
        let (by_quorum, by_all) = (self.result_by_quorum(), self.result_by_all());
        let (is_won, is_lost) = match (by_quorum, by_all) {
            (VoteResult::Won, _) | (_, VoteResult::Won) => (true, false),
            (VoteResult::Lost, VoteResult::Lost) => (false, true),
            _ => (false, false),
        };
        match self.role {
            Role::PreCandidate if is_won => self.become_candidate(false),
            // Others may answer before our own write is reported; without it there is no leader.
            Role::Candidate if is_won && has_own_vote => self.become_leader(by_quorum != VoteResult::Won),
            Role::PreCandidate | Role::Candidate if is_lost => self.become_follower(self.term, PeerId::NONE),
            _ => {}
        }
    }

    /// The ordinary way: a quorum of voters that are not recovering, the candidate included.
    fn result_by_quorum(&self) -> VoteResult {
        // Those that an operator forced are no majority of those who committed: each may know of something alone.
        if self.recovering.is_some() || self.forced.is_some() {
            return VoteResult::Lost;
        }
        let counts = |ballot: &Ballot| ballot.granted && ballot.recovering.is_none();
        self.conf.vote_result(|peer| self.votes.get(peer).map(counts))
    }

    /// The way out when too many are recovering: every voter grants, in the vote as what it was in the pre-vote.
    fn result_by_all(&self) -> VoteResult {
        let is_candidate = self.role == Role::Candidate;
        let counts = |peer, ballot: &Ballot| {
            ballot.granted && (!is_candidate || self.pre_grants.get(peer) == Some(&ballot.recovering))
        };
        let vote_of = |peer| self.votes.get(peer).map(|ballot| counts(peer, ballot));
        self.conf.unanimous_result(vote_of)
    }

    /// A leader was heard within the election timeout, so no candidate is needed.
    fn has_lease(&self) -> bool {
        !self.leader.is_none() && !self.leader_is_lost && self.election_elapsed < self.config.election_ticks
    }

    pub(crate) fn step_vote(&mut self, from: PeerId, term: Term, body: Body) {
        let (last_index, last_term, force, asked_priority) = match body {
            Body::PreVote {
                last_index,
                last_term,
                commit,
                priority,
            } => {
                self.learn_commit(from, commit);
                (last_index, last_term, false, Some(priority))
            }
            Body::Vote {
                last_index,
                last_term,
                force,
            } => (last_index, last_term, force, None),
            _ => unreachable!("only vote requests come here"),
        };
        if self.is_silent() || (term > self.term && self.has_lease() && !force) {
            return;
        }
        let recovering = self.recovering_number();
        if term < self.term {
            if asked_priority.is_some() {
                // Tells a candidate that fell behind the term that it has to reach.
                self.reply_pre_vote(from, self.term, false);
            }
            return;
        }
        let is_up_to_date =
            (last_term, last_index) >= self.log_to_judge_by() || settle_base::mutant!("vote_despite_newer_log");
        if let Some(priority) = asked_priority {
            // Whom it voted for in this term already asks for it anew only when it lost it: it has to ask for a later one.
            let has_voted = !self.vote.is_none();
            let granted = is_up_to_date
                && (term > self.term || (self.may_vote_for(from) && !has_voted))
                && !self.campaigns_instead(priority, last_index);
            return self.reply_pre_vote(from, if granted { term } else { self.term }, granted);
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
        self.send(from, self.term, Body::VoteReply { granted, recovering });
    }

    fn reply_pre_vote(&mut self, candidate: PeerId, term: Term, granted: bool) {
        let body = Body::PreVoteReply {
            granted,
            commit: self.log.committed(),
            recovering: self.recovering_number(),
        };
        self.send(candidate, term, body);
    }

    /// Peer `from` knows that its entry at `commit` is committed. If it is in this log, it is here too, with all before it
    /// (Raft §5.3, log matching).
    ///
    /// Without it a change of membership can leave nobody to lead: of two voters that see different configurations, since
    /// one does not know yet that the change is committed, the one who may campaign can need the vote of the other, whose
    /// log is longer and who may not campaign itself. (TiKV's `maybe_commit_by_vote` is for the same.)
    fn learn_commit(&mut self, from: PeerId, commit: (Index, Term)) {
        let (index, term) = commit;
        let is_here = self.log.matches(index, term)
            || (index <= self.log.last_index() && settle_base::mutant!("learned_commit_of_another_log"));
        let is_news = index > self.log.commit && is_here;
        if self.role == Role::Leader || !self.conf.contains(from) || !is_news {
            return;
        }
        self.log.commit_to(index);
        // Nobody campaigns while a change that it knows to be committed is unapplied.
        if self.role != Role::Follower && self.has_unapplied_conf_change() {
            self.become_follower(self.term, PeerId::NONE);
        }
    }

    /// How many of `ticks_max` ticks this peer leaves to those of higher priority.
    pub(crate) fn reluctance(&self, ticks_max: u32) -> u32 {
        ticks_max * u32::from(PRIORITY_MAX - self.priority()) / u32::from(PRIORITY_MAX)
    }

    fn priority(&self) -> u8 {
        if self.is_log_only() { 0 } else { self.config.priority }
    }

    /// Whether this peer rather campaigns itself than to help a candidate of lower `priority` with the same log, up to
    /// `last_index`.
    fn campaigns_instead(&mut self, priority: u8, last_index: Index) -> bool {
        let instead = self.priority() > priority
            && self.refusals_left > 0
            && self.log.last_index() >= last_index
            && self.recovering.is_none()
            && self.may_campaign();
        if instead {
            self.refusals_left -= 1;
            self.election_timeout = self.election_timeout.min(self.election_elapsed + 1);
        }
        instead
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
        self.vote == candidate
            || (self.vote.is_none() && self.leader.is_none())
            || (self.role == Role::Follower && settle_base::mutant!("two_votes_in_a_term"))
    }

    pub(crate) fn on_pre_vote_reply(&mut self, from: PeerId, term: Term, commit: (Index, Term), ballot: Ballot) {
        self.learn_commit(from, commit);
        // A grant names the term that was asked about: one of an earlier campaign is of no use.
        if self.role != Role::PreCandidate || (ballot.granted && term != self.term + 1) {
            return;
        }
        self.votes.insert_new(from, ballot);
        self.poll();
    }

    pub(crate) fn on_vote_reply(&mut self, from: PeerId, ballot: Ballot) {
        if self.role == Role::Candidate {
            self.votes.insert_new(from, ballot);
            self.poll();
        }
    }

    pub(crate) fn on_timeout_now(&mut self, from: PeerId) {
        // Without a pre-vote a recovering peer cannot win.
        if self.role == Role::Follower && self.leader == from && self.may_campaign() && self.recovering.is_none() {
            self.become_candidate(true);
        }
    }

    pub(crate) fn tick_leader(&mut self) {
        self.heartbeat_elapsed += 1;
        if self.election_elapsed >= self.config.election_ticks {
            self.election_elapsed = 0;
            if !self.quorum_is_active() || !self.conf.is_voter(self.config.id) {
                return self.step_down();
            }
            // The transfer had its time; the group is to be writable again.
            self.transferee = PeerId::NONE;
            self.hand_over_as_witness();
        }
        if self.heartbeat_elapsed >= self.config.heartbeat_ticks {
            self.heartbeat_elapsed = 0;
            self.out.heartbeat = true;
        }
        self.tick_asking();
    }

    fn quorum_is_active(&mut self) -> bool {
        let id = self.config.id;
        // Those that do not count cannot carry a leader: with too many of them only an election by all helps. Nor can
        // those whom this leader cannot bring up to date.
        let is_active = |p: &Progress| p.recent_active && p.counts() && !self.lacks_snapshot_for(p);
        let active = |peer| Some(peer == id || self.progress.get(peer).is_some_and(is_active));
        let result = self.conf.vote_result(active);
        self.progress
            .values_mut()
            .for_each(|progress| progress.recent_active = false);
        result == VoteResult::Won
    }
}
