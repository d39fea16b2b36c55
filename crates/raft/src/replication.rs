//! Log replication (Raft §5.3): proposals, pipelined appends within a window, conflict hints, commitment.

use bytes::Bytes;
use settle_base::{GroupTime, Index, PeerId, Term};

use crate::{
    conf::ConfState,
    entry::{Entry, EntryKind, SnapshotMeta},
    message::{Body, Reject},
    progress::{Progress, ProgressState},
    raft::{Raft, Role},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// `leader` is [`PeerId::NONE`] when unknown.
    #[error("propose: not the leader; it is peer {leader}")]
    NotLeader { leader: PeerId },
    #[error("propose: expected term {expected}, but term {term} is in force")]
    TermChanged { expected: Term, term: Term },
    #[error("propose: leadership is being handed to peer {to}")]
    Transferring { to: PeerId },
    #[error("propose: {uncommitted} bytes wait to be committed, the limit is {max}")]
    Full { uncommitted: usize, max: usize },
    #[error("propose: the machine cannot go on, and what waits for it has reached the limit of {max} bytes")]
    Held { max: usize },
    #[error("propose: this leader is a witness, which takes no proposals; it is about to hand over")]
    Witness,
    #[error("propose a membership change: an earlier one, at or before {index}, is not applied yet")]
    ConfChangePending { index: Index },
    #[error("propose a membership change: {0}")]
    ConfChange(crate::conf::ConfChangeError),
}

impl Raft {
    /// Puts `data` into the log, if this peer leads (in `expected_term`, when given). `time` is raised to the last
    /// entry's if it is lower. The entry may still be lost until it comes back in [`crate::Ready::committed`].
    pub fn propose(
        &mut self,
        data: Bytes,
        time: GroupTime,
        expected_term: Option<Term>,
    ) -> Result<(Term, Index), ProposeError> {
        self.propose_as(EntryKind::Normal, data, time, expected_term)
    }

    /// As [`Raft::propose`], for an entry that the host reads itself ([`EntryKind::Host`]) instead of its machine.
    pub fn propose_host(
        &mut self,
        data: Bytes,
        time: GroupTime,
        expected_term: Option<Term>,
    ) -> Result<(Term, Index), ProposeError> {
        self.propose_as(EntryKind::Host, data, time, expected_term)
    }

    fn propose_as(
        &mut self,
        kind: EntryKind,
        data: Bytes,
        time: GroupTime,
        expected_term: Option<Term>,
    ) -> Result<(Term, Index), ProposeError> {
        self.check_proposer(expected_term)?;
        let (uncommitted, max) = (self.uncommitted_bytes, self.config.max_uncommitted_bytes);
        // One entry is always taken, however large: a limit must not stop the group for ever.
        if uncommitted > 0 && uncommitted.saturating_add(data.len()) > max {
            return Err(ProposeError::Full { uncommitted, max });
        }
        if self.holds_too_much() {
            let max = self.config.max_held_bytes;
            return Err(ProposeError::Held { max });
        }
        let index = self.append_own(kind, data, time);
        Ok((self.term, index))
    }

    pub(crate) fn check_proposer(&self, expected_term: Option<Term>) -> Result<(), ProposeError> {
        if self.role != Role::Leader {
            return Err(ProposeError::NotLeader { leader: self.leader });
        }
        if let Some(expected) = expected_term
            && expected != self.term
        {
            return Err(ProposeError::TermChanged {
                expected,
                term: self.term,
            });
        }
        if self.is_log_only() {
            return Err(ProposeError::Witness);
        }
        if !self.transferee.is_none() {
            return Err(ProposeError::Transferring { to: self.transferee });
        }
        Ok(())
    }

    /// Sends what is due to every peer. Called once per [`Raft::ready`], so that all proposals between two calls share
    /// their appends and all reads share one round of heartbeats.
    pub(crate) fn flush_replication(&mut self) {
        let heartbeat = std::mem::take(&mut self.out.heartbeat);
        if heartbeat {
            self.reads.close_round();
        }
        if !heartbeat && !self.out.replicate {
            return;
        }
        self.out.replicate = false;
        if heartbeat {
            // Before the heartbeats, so that a request to rest is the last word.
            self.tell_witnesses();
        }
        let mut progress = std::mem::take(&mut self.progress);
        for (peer, progress) in progress.iter_mut() {
            if heartbeat {
                let recover_to = progress.recovery.filter(|recovery| recovery.barrier <= self.log.commit);
                // Not beyond what the peer holds: its log may differ from ours after that.
                let shown = match settle_base::mutant!("commit_past_the_match") {
                    true => self.log.commit,
                    false => progress.matched,
                };
                let body = Body::Heartbeat {
                    commit: self.log.commit.min(shown),
                    read_seq: self.reads.newest_round(),
                    recover_to: recover_to.map(|recovery| (recovery.number, recovery.barrier)),
                    rest: self.is_asking_to_rest(),
                };
                self.send(peer, self.term, body);
            }
            self.send_appends(peer, progress);
            progress.assert_invariants(self.log.last_index());
        }
        self.progress = progress;
    }

    fn send_appends(&mut self, peer: PeerId, progress: &mut Progress) {
        loop {
            let is_open = progress.window_is_open(self.config.max_inflight_messages, self.config.max_inflight_bytes);
            let has_entries = is_open && progress.next <= self.log.last_index();
            // While more is on its way to being committed, the next entries or that commit will tell of this one too: a
            // message of its own would cost both sides a third of what a batch does. A heartbeat tells it in any case.
            let is_last = self.log.commit == self.log.last_index();
            let tells_commit =
                is_last && progress.state == ProgressState::Replicate && progress.commit_told < self.log.commit;
            let nudges = progress.nudge && !matches!(progress.state, ProgressState::Snapshot { .. });
            if !has_entries && !tells_commit && !nudges {
                return;
            }
            let prev_index = progress.next - 1;
            let Some(prev_term) = self.log.term_at(prev_index) else {
                return self.ask_for_snapshot(peer, progress);
            };
            let (entries, bytes) = if has_entries {
                self.log.page(progress.next, self.config.max_append_bytes)
            } else {
                (Vec::new(), 0)
            };
            progress.sent(prev_index + entries.len() as u64, bytes);
            progress.nudge = false;
            progress.commit_told = self.log.commit;
            let body = Body::Append {
                prev_index,
                prev_term,
                commit: self.log.commit,
                entries,
            };
            self.send(peer, self.term, body);
        }
    }

    /// What the peer needs next is compacted away.
    fn ask_for_snapshot(&mut self, peer: PeerId, progress: &mut Progress) {
        // A peer that cannot be heard could not take it; it is asked for when it answers again.
        if !progress.recent_active {
            return;
        }
        if self.is_log_only() {
            // It has none to send. Another full voter may come back that can.
            progress.wait_for_answer();
            return;
        }
        assert!(
            self.snapshot_index >= self.log.base(),
            "what is compacted is in a snapshot"
        );
        progress.become_snapshot(self.snapshot_index);
        progress.nudge = false;
        self.out.seldom().need_snapshot.push(peer);
    }

    /// Whether `to` gets nothing before [`Raft::report_snapshot`] of it, or its own word that it has one.
    pub fn awaits_snapshot(&self, to: PeerId) -> bool {
        let state = self.progress.get(to).map(|progress| progress.state);
        self.role == Role::Leader && matches!(state, Some(ProgressState::Snapshot { .. }))
    }

    /// The host's stream of a snapshot to `to` ended. Its bytes arriving is not enough: the peer's own ack counts.
    pub fn report_snapshot(&mut self, to: PeerId, ok: bool) {
        if let Some(progress) = self.progress.get_mut(to)
            && matches!(progress.state, ProgressState::Snapshot { .. })
        {
            if !ok {
                progress.state = ProgressState::Probe;
            }
            progress.become_probe();
            // On success the ack is on its way; on failure the peer has trouble. Either way wait for it to speak.
            progress.wait_for_answer();
        }
    }

    /// Messages to `to` were lost.
    pub fn report_unreachable(&mut self, to: PeerId) {
        // Who rests already needs no answer; who asks will get none.
        if self.is_asking_to_rest() {
            self.wake();
        }
        if let Some(progress) = self.progress.get_mut(to)
            && progress.state == ProgressState::Replicate
        {
            progress.become_probe();
            progress.nudge = false;
        }
    }

    /// The announcement that goes with the bytes of the snapshot `meta` to `to`.
    pub fn snapshot_message(&self, to: PeerId, meta: SnapshotMeta) -> Option<crate::Message> {
        let (group, from, term) = (self.config.group, self.config.id, self.term);
        let body = Body::Snapshot { meta };
        (self.role == Role::Leader).then_some(crate::Message {
            group,
            from,
            to,
            term,
            body,
        })
    }

    pub(crate) fn on_append(
        &mut self,
        from: PeerId,
        prev_index: Index,
        prev_term: Term,
        commit: Index,
        mut entries: Vec<Entry>,
    ) {
        let last_new = prev_index + entries.len() as u64;
        if self.holds_too_much() && last_new > self.log.last_index() {
            // Without an answer the leader comes again with each round of heartbeats, with one append.
            return;
        }
        let result = if self.conf.voters.is_empty() && self.log.base() == 0 {
            // Changes of membership mean nothing without what they change: a peer that joins starts from a snapshot.
            Err(Reject {
                prev_index,
                hint_index: 0,
                hint_term: 0,
            })
        } else if prev_index < self.log.base() {
            // Compacted here, so committed: the leader has it all the same.
            Ok(self.log.commit)
        } else if self.log.matches(prev_index, prev_term)
            || (settle_base::mutant!("append_ignores_prev_term") && prev_index <= self.log.last_index())
        {
            if let Some(first_new) = self.log.first_new(&entries) {
                if settle_base::mutant!("conf_change_applied_when_appended") {
                    self.apply_appended_changes(&entries[first_new..]);
                }
                self.log.append(entries.drain(first_new..));
            }
            self.agreed = self.agreed.max(last_new);
            // What follows in our log may be of another leader.
            self.log.commit_to(commit.min(last_new));
            Ok(last_new)
        } else {
            let hint = prev_index.min(self.log.last_index());
            let (hint_index, hint_term) = self.log.find_conflict_by_term(hint, prev_term);
            Err(Reject {
                prev_index,
                hint_index,
                hint_term,
            })
        };
        self.reply_append(from, result);
    }

    pub(crate) fn reply_append(&mut self, to: PeerId, result: Result<Index, Reject>) {
        let recovering = self.recovering_number();
        self.send(to, self.term, Body::AppendReply { result, recovering });
    }

    /// Something of a leader whose term is over: our higher term makes it step down. This also frees a peer whose term
    /// ran ahead while it was cut off, which the group would otherwise ignore for ever.
    pub(crate) fn answer_stale_leader(&mut self, from: PeerId, body: &Body) {
        let prev_index = if let Body::Append { prev_index, .. } = body {
            *prev_index
        } else {
            0
        };
        self.reply_append(
            from,
            Err(Reject {
                prev_index,
                hint_index: 0,
                hint_term: 0,
            }),
        );
    }

    pub(crate) fn on_heartbeat(
        &mut self,
        from: PeerId,
        commit: Index,
        read_seq: u64,
        recover_to: Option<(u64, Index)>,
        rest: bool,
    ) {
        // The leader may count on acks that a recovering peer has lost; what it heard since is surely the same.
        let is_ours = if self.recovering.is_some() {
            self.agreed
        } else {
            self.log.last_index()
        };
        self.log.commit_to(commit.min(is_ours));
        self.finish_recovering(recover_to);
        let rested = rest && self.rest_as_follower(commit, read_seq);
        let recovering = self.recovering_number();
        let body = Body::HeartbeatReply {
            read_seq,
            recovering,
            rested,
        };
        self.send(from, self.term, body);
    }

    pub(crate) fn on_snapshot(&mut self, from: PeerId, meta: SnapshotMeta) {
        self.agreed = self.agreed.max(meta.index);
        if meta.index > self.log.commit {
            if self.log.matches(meta.index, meta.term) {
                self.log.commit_to(meta.index);
            } else {
                // Until the snapshot is durable, a crash may leave neither it nor what was there before.
                self.out.drop_acks();
                self.log.reset(meta.index, meta.term, meta.time);
                self.installing = Some(Box::new((meta.index, meta.conf.clone())));
                self.snapshot_index = meta.index;
                self.out.snapshot = Some(Box::new(meta));
            }
        }
        self.reply_append(from, Ok(self.log.commit));
    }

    pub(crate) fn on_append_reply(&mut self, from: PeerId, result: Result<Index, Reject>, recovering: Option<u64>) {
        if self.role != Role::Leader {
            return;
        }
        match recovering {
            Some(number) => self.note_recovering(from, number),
            None if !self.note_recovered(from, &result) => return,
            None => {}
        }
        let (base, has_none) = (self.log.base(), self.is_log_only());
        let last = self.log.last_index();
        let Some(progress) = self.progress.get_mut(from) else {
            return;
        };
        progress.recent_active = true;
        match result {
            // Even the empty log before the first entry did not fit: the peer joins and knows no configuration yet.
            Err(reject) if reject.prev_index == 0 => {
                if has_none {
                    progress.wait_for_answer();
                } else if !matches!(progress.state, ProgressState::Snapshot { .. }) && progress.matched == 0 {
                    progress.become_snapshot(self.snapshot_index);
                    self.out.seldom().need_snapshot.push(from);
                }
            }
            Err(reject) => {
                let retry_at = if reject.hint_term > 0 {
                    self.log.find_conflict_by_term(reject.hint_index, reject.hint_term).0
                } else {
                    reject.hint_index
                };
                if progress.reject(reject.prev_index, retry_at) {
                    self.out.replicate = true;
                }
            }
            Ok(index) => {
                let was_open =
                    progress.window_is_open(self.config.max_inflight_messages, self.config.max_inflight_bytes);
                let is_news = progress.ack(index);
                progress.assert_invariants(last);
                match progress.state {
                    ProgressState::Probe => progress.become_replicate(),
                    // From here on the log goes on, whichever snapshot it was.
                    ProgressState::Snapshot { .. } if progress.matched >= base => progress.become_replicate(),
                    _ => {}
                }
                if is_news || !was_open || progress.next <= last {
                    self.out.replicate = true;
                }
                // Also without news: a peer that recovered counts from now on.
                self.advance_commit();
                self.hand_over_if_ready(from);
                self.hand_over_as_witness();
            }
        }
    }

    pub(crate) fn on_heartbeat_reply(&mut self, from: PeerId, read_seq: u64, recovering: Option<u64>, rested: bool) {
        if self.role != Role::Leader {
            return;
        }
        if let Some(number) = recovering {
            self.note_recovering(from, number);
        }
        let last = self.log.last_index();
        let Some(progress) = self.progress.get_mut(from) else {
            return;
        };
        progress.recent_active = true;
        progress.resume(last);
        // A peer that recovered has nothing new to ack: have it say so.
        progress.nudge |= progress.recovery.is_some();
        self.out.replicate |= progress.nudge;
        if rested {
            progress.rested_in = progress.rested_in.max(read_seq);
        }
        if read_seq > progress.read_seq {
            progress.read_seq = read_seq;
            self.release_reads();
        }
        if rested {
            self.note_rested(read_seq);
        }
    }

    /// Commits what a quorum holds durably, entries of earlier terms only by way of one of this term (Raft §5.4.2).
    pub(crate) fn advance_commit(&mut self) {
        self.raise_commit();
        self.finish_recovering_as_leader();
    }

    fn raise_commit(&mut self) {
        assert_eq!(self.role, Role::Leader, "only a leader counts");
        let (id, durable) = (self.config.id, self.log.durable);
        let held_by = |peer| {
            if peer == id {
                durable
            } else {
                self.progress.get(peer).map_or(0, Progress::counted_match)
            }
        };
        let mut reached = self.conf.quorum_value(held_by);
        if settle_base::mutant!("joint_commits_count_one_side") {
            reached = ConfState::of_voters(self.conf.voters.iter().copied()).quorum_value(held_by);
        }
        if settle_base::mutant!("removed_peer_counted") {
            let mut held: Vec<Index> = self
                .progress
                .iter()
                .map(|(peer, _)| peer)
                .chain([id])
                .map(held_by)
                .collect();
            held.sort_unstable_by(|a, b| b.cmp(a));
            reached = held.get(self.conf.voters.len() / 2).copied().unwrap_or_default();
        }
        if settle_base::mutant!("learner_counted") {
            let all = self
                .conf
                .voters
                .iter()
                .chain(&self.conf.learners)
                .map(|peer| held_by(*peer));
            let mut held: Vec<Index> = all.collect();
            held.sort_unstable_by(|a, b| b.cmp(a));
            reached = held.get(self.conf.voters.len() / 2).copied().unwrap_or_default();
        }
        let is_own_term = self.log.term_at(reached) == Some(self.term) || settle_base::mutant!("commit_old_term");
        if reached <= self.log.commit || !is_own_term {
            return;
        }
        let committed: usize = self.log.range(self.log.commit + 1, reached).map(Entry::size).sum();
        self.uncommitted_bytes = self.uncommitted_bytes.saturating_sub(committed);
        self.log.commit_to(reached);
        self.out.replicate = true;
        self.start_waiting_reads();
    }
}
