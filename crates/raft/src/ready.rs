//! The way out: what the host has to write, send, apply and answer, and what it reports back.

use std::{collections::VecDeque, sync::Arc};

use settle_base::{Index, PeerId, Term};

use crate::{
    entry::{Entry, HardState, SnapshotMeta},
    log::Inflight,
    message::{Body, Message},
    raft::{Raft, Role},
};

/// The number of a [`Persist`]; they count up from 1 in each run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PersistSeq(pub u64);

/// One write for the log: all of it becomes durable together, and in the order of `seq`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Persist {
    pub seq: PersistSeq,
    /// Written whenever anything in it changed.
    pub hard_state: Option<HardState>,
    /// Entries after this one are no longer part of the log; `entries` then start right behind it.
    pub truncate_after: Option<Index>,
    pub entries: Vec<Entry>,
    /// Replaces the whole log before it; `entries` then start right behind it.
    pub snapshot: Option<SnapshotMeta>,
    /// May leave only when `seq` is durable: granted votes, own vote requests, acks, whatever speaks in a new term.
    /// When the host releases them late, those that [`crate::Standing::Stale`] describes are to be dropped.
    pub after: Vec<Message>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadReady {
    pub ctx: u64,
    /// A read is linearizable at a machine that has applied up to here.
    pub index: Index,
}

/// A read that this replica could answer only after it has applied more than [`crate::Config::max_read_lag`] entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadBehind {
    pub ctx: u64,
    /// What would have to be applied first.
    pub index: Index,
    pub applied: Index,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RoleChange {
    pub role: Role,
    pub term: Term,
    /// [`PeerId::NONE`] when unknown.
    pub leader: PeerId,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ready {
    /// Hand it to the log, in order, and report [`Raft::on_persisted`].
    pub persist: Option<Persist>,
    /// May leave at once.
    pub messages: Vec<Message>,
    /// A received snapshot to install into the machine before anything of `committed`, once the `persist` that carries
    /// it too is durable; then report its index by [`Raft::on_applied`], which puts its configuration in force.
    pub snapshot: Option<SnapshotMeta>,
    /// To apply, in order, each once; all of it is committed and durable here.
    pub committed: Vec<Entry>,
    /// At a leader: these peers need a snapshot streamed, of index 1 or more and not older than the newest one that
    /// [`Raft::compact`] was told of; then [`Raft::report_snapshot`].
    pub need_snapshot: Vec<PeerId>,
    pub reads: Vec<ReadReady>,
    /// These reads got no answer and will get none; ask again.
    pub reads_dropped: Vec<u64>,
    /// These reads failed, because this replica is too far behind; another one can answer them sooner.
    pub reads_behind: Vec<ReadBehind>,
    pub role_change: Option<RoleChange>,
}

/// Outputs since the last [`Ready`].
#[derive(Debug)]
pub(crate) struct Outbox {
    pub messages: Vec<Message>,
    /// Wait for the next persist.
    after: Vec<Message>,
    /// Wait for a persist that is under way.
    held: Vec<(PersistSeq, Message)>,
    seldom: Option<Box<Seldom>>,
    /// A received snapshot that no persist carries yet.
    pub snapshot: Option<Box<SnapshotMeta>>,
    /// Some peer may have something to be sent.
    pub replicate: bool,
    pub heartbeat: bool,
    next_seq: PersistSeq,
    persisted: PersistSeq,
    handed_hard_state: HardState,
    told_role: Option<RoleChange>,
}

/// What most groups have nothing of most of the time, in a place of its own: a replica at rest is to be small.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    pub need_snapshot: Vec<PeerId>,
    pub reads: Vec<ReadReady>,
    pub reads_dropped: Vec<u64>,
    pub reads_behind: Vec<ReadBehind>,
}

impl Seldom {
    fn is_empty(&self) -> bool {
        self.need_snapshot.is_empty()
            && self.reads.is_empty()
            && self.reads_dropped.is_empty()
            && self.reads_behind.is_empty()
    }
}

impl Outbox {
    pub fn seldom(&mut self) -> &mut Seldom {
        self.seldom.get_or_insert_default()
    }

    pub fn new(hard_state: HardState) -> Outbox {
        Outbox {
            messages: Vec::new(),
            after: Vec::new(),
            held: Vec::new(),
            seldom: None,
            snapshot: None,
            replicate: false,
            heartbeat: false,
            next_seq: PersistSeq(1),
            persisted: PersistSeq(0),
            handed_hard_state: hard_state,
            told_role: None,
        }
    }

    pub fn drop_waiting(&mut self) {
        self.after.clear();
        self.held.clear();
    }

    /// Acks that wait for a log that is being replaced.
    pub fn drop_acks(&mut self) {
        let is_ack = |message: &Message| matches!(message.body, Body::AppendReply { result: Ok(_), .. });
        self.after.retain(|message| !is_ack(message));
        self.held.retain(|(_, message)| !is_ack(message));
    }

    pub fn release_memory(&mut self) {
        self.messages.shrink_to_fit();
        self.after.shrink_to_fit();
        self.held.shrink_to_fit();
    }

    pub fn leave_leadership(&mut self) {
        if let Some(seldom) = &mut self.seldom {
            seldom.need_snapshot.clear();
        }
        self.replicate = false;
        self.heartbeat = false;
    }
}

impl Raft {
    /// Sends now, or as soon as what the message rests on is durable.
    pub(crate) fn send(&mut self, to: PeerId, term: Term, body: Body) {
        let message = Message {
            group: self.config.group,
            from: self.config.id,
            to,
            term,
            body,
        };
        let Some(rests_on) = message.rests_on() else {
            return self.out.messages.push(message);
        };
        assert_eq!(
            term, self.term,
            "a message that rests on durability speaks in the current term"
        );
        if self.log.has_durable(&rests_on) {
            return self.out.messages.push(message);
        }
        match self.log.awaited_write(&rests_on) {
            Some(seq) => self.out.held.push((seq, message)),
            None => self.send_after(message),
        }
    }

    /// Appends are acked for all of one persist together: the highest ack tells all.
    fn send_after(&mut self, message: Message) {
        if let Body::AppendReply { result: Ok(index), .. } = message.body {
            let covered = self.out.after.iter_mut().find(|earlier| {
                let ack_below = matches!(earlier.body, Body::AppendReply { result: Ok(lower), .. } if lower <= index);
                earlier.to == message.to && ack_below
            });
            if let Some(earlier) = covered {
                *earlier = message;
                return;
            }
        }
        self.out.after.push(message);
    }

    fn hard_state(&self) -> HardState {
        HardState {
            term: self.term,
            vote: self.vote,
            commit: self.log.commit,
        }
    }

    fn needs_persist(&self) -> bool {
        let handed = &self.out.handed_hard_state;
        // A commit that moved alone is not worth a write: it is learnt again from the leader.
        (self.term, self.vote) != (handed.term, handed.vote)
            || self.log.handed < self.log.last_index()
            || self.out.snapshot.is_some()
            || self.log.truncated_to.is_some()
    }

    fn appliable(&self) -> Index {
        match self.log.held_bytes() {
            Some(_) => self.log.apply_handed,
            None => self.log.commit.min(self.log.durable),
        }
    }

    /// The machine cannot go on (`true`) behind what was reported by [`Raft::on_applied`], or can again (`false`). While it
    /// cannot, [`Ready::committed`] is empty: what is committed stays in the log alone, and what was handed out and is not
    /// applied is handed out again afterwards. Beyond [`Config::max_held_bytes`](crate::Config::max_held_bytes) of it a
    /// leader takes no proposals and a follower no entries. A snapshot that is installed does not end it.
    pub fn hold_apply(&mut self, is_held: bool) {
        match is_held {
            true => self.log.hold_apply(),
            false => self.log.end_hold(),
        }
        self.assert_invariants();
    }

    /// Whether so much waits for the machine that no more may come.
    pub(crate) fn holds_too_much(&self) -> bool {
        self.log
            .held_bytes()
            .is_some_and(|held| held > self.config.max_held_bytes)
    }

    /// Whether [`Raft::ready`] has something to tell (or, at a leader, something may have to be sent).
    pub fn has_ready(&self) -> bool {
        let out = &self.out;
        !out.messages.is_empty()
            || out.replicate
            || out.heartbeat
            || out.seldom.as_ref().is_some_and(|seldom| !seldom.is_empty())
            || self.needs_persist()
            || self.log.apply_handed < self.appliable()
            || out.told_role != Some(self.role_view())
    }

    /// Takes everything that has to happen. May be called again while earlier writes are under way.
    pub fn ready(&mut self) -> Ready {
        if self.role == Role::Leader {
            self.flush_replication();
        }
        let snapshot = self.out.snapshot.as_deref().cloned();
        let persist = self.take_persist();
        if let Some(meta) = &snapshot {
            self.log.apply_handed = meta.index;
        }
        let appliable = self.appliable();
        let mut committed = Vec::new();
        if self.log.apply_handed < appliable {
            committed = self.log.range(self.log.apply_handed + 1, appliable).cloned().collect();
            assert_eq!(
                committed.len() as u64,
                appliable - self.log.apply_handed,
                "nothing unapplied is compacted"
            );
            self.log.apply_handed = appliable;
        }
        let role = self.role_view();
        let role_change = (self.out.told_role != Some(role)).then_some(role);
        self.out.told_role = Some(role);
        let seldom = self.out.seldom.take().map_or_else(Seldom::default, |seldom| *seldom);
        self.assert_invariants();
        Ready {
            persist,
            messages: std::mem::take(&mut self.out.messages),
            snapshot,
            committed,
            need_snapshot: seldom.need_snapshot,
            reads: seldom.reads,
            reads_dropped: seldom.reads_dropped,
            reads_behind: seldom.reads_behind,
            role_change,
        }
    }

    fn take_persist(&mut self) -> Option<Persist> {
        if !self.needs_persist() {
            assert!(
                self.out.after.is_empty(),
                "what waits for a persist is the reason for one"
            );
            return None;
        }
        let hard_state = self.hard_state();
        let seq = self.out.next_seq;
        self.out.next_seq = PersistSeq(seq.0 + 1);
        let last = self.log.last_index();
        // JRaft kept a vote in memory whose write had failed.
        let is_lost = hard_state.term == self.out.handed_hard_state.term
            && hard_state.vote != self.out.handed_hard_state.vote
            && settle_base::mutant!("grant_after_failed_write");
        let persist = Persist {
            seq,
            hard_state: (hard_state != self.out.handed_hard_state && !is_lost).then_some(hard_state),
            truncate_after: self.log.truncated_to.take(),
            entries: self.log.range(self.log.handed + 1, last).cloned().collect(),
            snapshot: self.out.snapshot.take().map(|meta| *meta),
            after: std::mem::take(&mut self.out.after),
        };
        self.out.handed_hard_state = hard_state;
        self.log.handed = last;
        self.log.inflight.push_back(Inflight {
            seq,
            term: self.term,
            vote: self.vote,
            log_last: last,
        });
        for message in &persist.after {
            let rests_on = message.rests_on().expect("only what rests on something waits");
            assert_eq!(
                self.log.awaited_write(&rests_on),
                Some(seq),
                "this persist, and none before it, carries what {message:?} rests on"
            );
        }
        Some(persist)
    }

    /// All persists up to `seq` are durable. Only here a leader counts its own copy and a candidate its own vote.
    pub fn on_persisted(&mut self, seq: PersistSeq) {
        assert!(seq < self.out.next_seq, "persist {seq:?} was never handed out");
        assert!(seq >= self.out.persisted, "persists become durable in order");
        self.out.persisted = seq;
        self.log.on_persisted(seq);
        let Outbox { held, messages, .. } = &mut self.out;
        messages.extend(
            held.extract_if(.., |(awaited, _)| *awaited <= seq)
                .map(|(_, message)| message),
        );
        if self.log.inflight.is_empty() {
            // Now, not at rest: room that thousands of groups give back all at once leaves a heap full of holes.
            self.log.inflight = VecDeque::new();
            self.out.held.shrink_to_fit();
        }
        match self.role {
            Role::Leader => self.advance_commit(),
            Role::Candidate => self.count_own_vote(),
            Role::Follower | Role::PreCandidate => {}
        }
        self.assert_invariants();
    }

    /// The machine has applied everything up to `index`.
    pub fn on_applied(&mut self, index: Index) {
        assert!(
            index <= self.log.apply_handed,
            "{index} was not handed out to be applied"
        );
        self.log.applied = self.log.applied.max(index);
        if let Some(installed) = self.installing.take_if(|installing| installing.0 <= index) {
            match &mut self.forced {
                // What an operator has forced since stays in force; the snapshot says what the log did.
                Some(forced) => forced.by_log = installed.1,
                None => self.conf = Arc::new(installed.1),
            }
        }
        if self.role == Role::Leader {
            self.leave_joint_if_due();
        }
        self.assert_invariants();
    }

    /// The host replaces its machine by a snapshot of what this log holds already, and then reports it as applied: the
    /// changes of membership up to there pass it by.
    ///
    /// # Panics
    /// When `meta` is of what is not committed and durable here, or of less than was applied.
    pub fn replace_machine(&mut self, meta: &SnapshotMeta) {
        assert!(
            self.log.applied <= meta.index && meta.index <= self.log.commit.min(self.log.durable),
            "snapshot {} cannot stand for what was applied",
            meta.index
        );
        self.log.apply_handed = self.log.apply_handed.max(meta.index);
        self.installing = Some(Box::new((meta.index, meta.conf.clone())));
        self.on_applied(meta.index);
    }

    /// Drops the log up to `meta.index` except for the last `keep` entries, which slow followers may still ask for.
    /// Returns what was dropped, in pieces: to free hundreds of thousands of entries takes long, and need not be done at
    /// once.
    ///
    /// # Panics
    /// When the snapshot is not of an applied index: it must be durable at the host before this call.
    pub fn compact(&mut self, meta: &SnapshotMeta, keep: u64) -> VecDeque<Vec<Entry>> {
        assert!(
            meta.index <= self.log.applied,
            "snapshot {} of what is not applied",
            meta.index
        );
        assert!(
            self.log.term_at(meta.index).is_none_or(|term| term == meta.term),
            "snapshot {} is of another history",
            meta.index
        );
        self.snapshot_index = self.snapshot_index.max(meta.index);
        let dropped = self.log.compact(meta.index.saturating_sub(keep));
        self.assert_invariants();
        dropped
    }
}
