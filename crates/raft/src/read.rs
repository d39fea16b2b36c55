//! Linearizable reads without a log entry (ReadIndex, Raft thesis §6.4).
//!
//! The leader notes its commit index and asks for one round of heartbeats; when a quorum (of both halves of a joint
//! configuration) answered that round or a later one, no later leader had committed anything when the read was asked.
//! Every heartbeat carries the newest round, so a lost one is asked again by the next.

use std::collections::VecDeque;

use settle_base::{Index, PeerId};

use crate::{
    conf::ConfState,
    message::Body,
    progress::Progress,
    raft::{Raft, Role},
    ready::{ReadBehind, ReadReady},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("read: no leader is known")]
    NoLeader,
    #[error("read: {pending} reads are waiting, which is the limit")]
    Full { pending: usize },
    #[error("read: this peer is a witness, which has nothing to read")]
    Witness,
    #[error("read: {lag} committed entries are not applied here, the limit is {max}")]
    Behind { lag: u64, max: u64 },
}

#[derive(Clone, Copy, Debug)]
struct PendingRead {
    round: u64,
    index: Index,
    from: PeerId,
    ctx: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// Absent while nobody reads.
    queues: Option<Box<Queues>>,
    forwarded_elapsed: u32,
    round: u64,
    /// The heartbeats of `round` have not left, so another read may join it.
    round_is_open: bool,
}

#[derive(Debug, Default)]
struct Queues {
    /// At a leader: waiting for a quorum's answers, in the order of their rounds.
    pending: VecDeque<PendingRead>,
    /// At a leader that has not committed in its own term yet: its commit index may be behind the truth.
    waiting: Vec<(PeerId, u64)>,
    /// At a follower: asked of the leader.
    forwarded: Vec<u64>,
}

impl Reads {
    fn queues(&mut self) -> &mut Queues {
        self.queues.get_or_insert_default()
    }

    pub fn newest_round(&self) -> u64 {
        self.round
    }

    pub fn close_round(&mut self) {
        self.round_is_open = false;
    }

    /// A round that no heartbeat has carried yet.
    pub fn open_round(&mut self) -> u64 {
        if !self.round_is_open {
            self.round_is_open = true;
            self.round += 1;
        }
        self.round
    }

    pub fn release_memory(&mut self) {
        if self.is_empty() {
            self.queues = None;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        let of = |queues: &Queues| queues.pending.len() + queues.waiting.len() + queues.forwarded.len();
        self.queues.as_deref().map_or(0, of)
    }
}

impl Raft {
    /// Asks for an index at which a read is linearizable; it comes in [`crate::Ready::reads`], or `ctx` comes back in
    /// [`crate::Ready::reads_dropped`] or, at a follower or learner, in [`crate::Ready::reads_behind`]. `ctx` must be unique among the reads under way at this peer.
    pub fn read_index(&mut self, ctx: u64) -> Result<(), ReadError> {
        if self.is_log_only() {
            return Err(ReadError::Witness);
        }
        if self.reads.len() >= self.config.max_pending_reads {
            return Err(ReadError::Full {
                pending: self.reads.len(),
            });
        }
        let (lag, max) = (
            self.log.commit.saturating_sub(self.log.applied),
            self.config.max_read_lag,
        );
        if self.role != Role::Leader && lag > max {
            return Err(ReadError::Behind { lag, max });
        }
        self.wake();
        if self.role == Role::Leader {
            self.accept_read(self.config.id, ctx);
        } else if self.leader.is_none() {
            return Err(ReadError::NoLeader);
        } else {
            self.reads.queues().forwarded.push(ctx);
            self.send(self.leader, self.term, Body::ReadIndex { ctx });
        }
        Ok(())
    }

    /// The host gave this read up: it takes no room any more, and nothing more is heard of it.
    pub fn withdraw_read(&mut self, ctx: u64) {
        let id = self.config.id;
        let queues = self.reads.queues();
        queues.pending.retain(|read| (read.from, read.ctx) != (id, ctx));
        queues.waiting.retain(|waiting| *waiting != (id, ctx));
        queues.forwarded.retain(|asked| *asked != ctx);
        let out = self.out.seldom();
        out.reads.retain(|read| read.ctx != ctx);
        out.reads_dropped.retain(|dropped| *dropped != ctx);
        out.reads_behind.retain(|read| read.ctx != ctx);
    }

    fn accept_read(&mut self, from: PeerId, ctx: u64) {
        let knows_commit = self.log.term_at(self.log.commit) == Some(self.term);
        if !knows_commit && !settle_base::mutant!("stale_read_after_transfer") {
            return self.reads.queues().waiting.push((from, ctx));
        }
        let round = self.reads.open_round();
        self.out.heartbeat = true;
        let read = PendingRead {
            round,
            index: self.log.commit,
            from,
            ctx,
        };
        self.reads.queues().pending.push_back(read);
        // A group of one needs nobody's answer.
        self.release_reads();
    }

    pub(crate) fn start_waiting_reads(&mut self) {
        let Some(queues) = &mut self.reads.queues else { return };
        for (from, ctx) in std::mem::take(&mut queues.waiting) {
            self.accept_read(from, ctx);
        }
    }

    pub(crate) fn release_reads(&mut self) {
        let is_pending = |queues: &Queues| !queues.pending.is_empty();
        if !self.reads.queues.as_deref().is_some_and(is_pending) {
            return;
        }
        let (id, round) = (self.config.id, self.reads.round);
        let confirmed_by = |peer| {
            if peer == id {
                round
            } else {
                self.progress.get(peer).map_or(0, Progress::counted_read_seq)
            }
        };
        let mut confirmed = self.conf.quorum_value(confirmed_by);
        if settle_base::mutant!("joint_reads_count_one_side") {
            // JRaft and others count the new voters alone: the old ones may have elected somebody else.
            confirmed = ConfState::of_voters(self.conf.voters.iter().copied()).quorum_value(confirmed_by);
        }
        if settle_base::mutant!("read_without_quorum_round") {
            confirmed = round;
        }
        let is_confirmed = |read: &mut PendingRead| read.round <= confirmed;
        while let Some(read) = self.reads.queues().pending.pop_front_if(is_confirmed) {
            assert!(read.index <= self.log.commit, "a read index is committed");
            if read.from == id {
                self.out.seldom().reads.push(ReadReady {
                    ctx: read.ctx,
                    index: read.index,
                });
            } else {
                self.send(
                    read.from,
                    self.term,
                    Body::ReadIndexReply {
                        ctx: read.ctx,
                        index: read.index,
                    },
                );
            }
        }
    }

    pub(crate) fn on_read_index(&mut self, from: PeerId, ctx: u64) {
        // Beyond the limit the asker asks again later.
        if self.role == Role::Leader && self.reads.len() < self.config.max_pending_reads {
            self.accept_read(from, ctx);
        }
    }

    pub(crate) fn on_read_index_reply(&mut self, from: PeerId, ctx: u64, index: Index) {
        if self.leader == from
            && let Some(queues) = &mut self.reads.queues
            && let Some(at) = queues.forwarded.iter().position(|&asked| asked == ctx)
        {
            queues.forwarded.swap_remove(at);
            // Only now it is known how far the leader is.
            if index.saturating_sub(self.log.applied) > self.config.max_read_lag {
                let applied = self.log.applied;
                self.out.seldom().reads_behind.push(ReadBehind { ctx, index, applied });
            } else {
                self.out.seldom().reads.push(ReadReady { ctx, index });
            }
        }
    }

    /// Either message may have been lost: ask again.
    pub(crate) fn tick_forwarded_reads(&mut self) {
        let has_asked = |queues: &Queues| !queues.forwarded.is_empty();
        if !self.reads.queues.as_deref().is_some_and(has_asked) || self.leader.is_none() {
            self.reads.forwarded_elapsed = 0;
            return;
        }
        self.reads.forwarded_elapsed += 1;
        if self.reads.forwarded_elapsed >= self.config.election_ticks {
            self.reads.forwarded_elapsed = 0;
            let asked = std::mem::take(&mut self.reads.queues().forwarded);
            for &ctx in &asked {
                self.send(self.leader, self.term, Body::ReadIndex { ctx });
            }
            self.reads.queues().forwarded = asked;
        }
    }

    /// The leader that would have answered is gone.
    pub(crate) fn drop_reads(&mut self) {
        let id = self.config.id;
        self.reads.round_is_open = false;
        let Some(queues) = self.reads.queues.take() else { return };
        let Queues {
            mut pending,
            mut waiting,
            mut forwarded,
        } = *queues;
        let own_pending = pending.drain(..).filter(|read| read.from == id).map(|read| read.ctx);
        let own_waiting = waiting.drain(..).filter(|(from, _)| *from == id).map(|(_, ctx)| ctx);
        let own = own_pending.chain(own_waiting).chain(forwarded.drain(..));
        self.out.seldom().reads_dropped.extend(own);
    }
}
