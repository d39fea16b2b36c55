//! The state of one group at one peer: how it is restored, how its terms and roles change, what can be seen of it.

use std::sync::Arc;

use settle_base::{GroupId, GroupTime, Index, PeerId, Prng, Term};

use crate::{
    conf::{ConfChange, ConfState},
    election::{Ballot, REFUSALS_MAX},
    entry::{Entry, EntryKind, HardState, SnapshotMeta},
    hibernation::Rest,
    log::Log,
    message::{Body, Message},
    peer_map::PeerMap,
    progress::{Progress, ProgressState},
    read::Reads,
    ready::{Outbox, RoleChange},
    recovering::{self, Recovering},
    reset::Forced,
    validate::StepError,
};

#[derive(Clone, Debug)]
pub struct Config {
    pub group: GroupId,
    pub id: PeerId,
    /// With group, peer, term and a counter, decides every election timeout.
    pub seed: u64,
    /// A follower that heard no leader for this many ticks, and up to as many again at random, campaigns.
    /// The host ticks every 50 ms: 10 is 500 ms.
    pub election_ticks: u32,
    /// A leader is heard from at least this often; less than `election_ticks`.
    pub heartbeat_ticks: u32,
    /// Entries of one append, in bytes; a larger entry travels alone.
    pub max_append_bytes: usize,
    /// Appends on the way to one follower.
    pub max_inflight_messages: usize,
    /// Bytes on the way to one follower; reached by the append that crosses it.
    pub max_inflight_bytes: usize,
    /// Proposed but uncommitted bytes at a leader; beyond, proposals are refused.
    pub max_uncommitted_bytes: usize,
    /// What may wait in the log for a machine that cannot go on ([`Raft::hold_apply`]); reached by the append that crosses
    /// it.
    pub max_held_bytes: usize,
    /// Reads waiting at this peer; beyond, reads are refused.
    pub max_pending_reads: usize,
    /// Entries that a follower or learner may have to apply yet before it could answer a read; beyond, the read fails at
    /// once instead of waiting. See [`ReadError::Behind`](crate::ReadError::Behind).
    pub max_read_lag: u64,
    /// How willingly this peer leads, 0 to [`PRIORITY_MAX`]. See `election.rs`.
    pub priority: u8,
}

/// The [`Config::priority`] of a peer that is as good a leader as any.
pub const PRIORITY_MAX: u8 = 100;

impl Config {
    pub fn new(group: GroupId, id: PeerId, seed: u64) -> Config {
        Config {
            group,
            id,
            seed,
            election_ticks: 10,
            heartbeat_ticks: 2,
            max_append_bytes: 256 << 10,
            max_inflight_messages: 256,
            max_inflight_bytes: 8 << 20,
            max_uncommitted_bytes: 64 << 20,
            max_held_bytes: 64 << 20,
            max_pending_reads: 65_536,
            max_read_lag: 65_536,
            priority: PRIORITY_MAX,
        }
    }
}

/// What the host found on its disk.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    pub hard_state: HardState,
    /// The newest snapshot. Before the first one: index 0, term 0, and the configuration that the group starts with
    /// (the same at each of its first peers). A peer that joins later has no configuration and waits for a snapshot.
    /// Its index counts as applied.
    pub snapshot: SnapshotMeta,
    /// The log after the snapshot.
    pub entries: Vec<Entry>,
    /// The last batch of the log was damaged, so votes and acks may have been given that the disk no longer tells.
    /// The number tells this start from every other of this peer: see `recovering.rs`.
    pub recovering: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error("restore group {group}: {what}")]
    Config { group: GroupId, what: &'static str },
    #[error("restore group {group}: the snapshot's configuration is not valid")]
    Conf { group: GroupId },
    #[error(
        "restore group {group}: entry {found} of term {term} cannot follow entry {after} (term {hard_term} on disk)"
    )]
    Entries {
        group: GroupId,
        after: Index,
        found: Index,
        term: Term,
        hard_term: Term,
    },
    #[error("restore group {group}: committed to {commit}, but the log ends at {last}")]
    CommitBeyondLog { group: GroupId, commit: Index, last: Index },
    #[error("restore group {group}: term {hard_term} on disk is below term {term} of the snapshot")]
    Term {
        group: GroupId,
        hard_term: Term,
        term: Term,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Follower,
    /// Asks whether an election could be won, without touching anybody's term.
    PreCandidate,
    Candidate,
    Leader,
}

/// One group's consensus at one peer.
#[derive(Debug)]
pub struct Raft {
    pub(crate) config: Config,
    pub(crate) term: Term,
    pub(crate) vote: PeerId,
    pub(crate) role: Role,
    pub(crate) leader: PeerId,
    pub(crate) log: Log,
    /// Thousands of groups with the same members share one, see [`Raft::share_conf`].
    pub(crate) conf: Arc<ConfState>,
    /// The configuration of a received snapshot: in force once the host reports the snapshot's index as applied, since
    /// changes of earlier entries may still be on their way through the host.
    pub(crate) installing: Option<Box<(Index, ConfState)>>,
    /// The newest snapshot's index: what a peer that needs compacted entries will be sent at least.
    pub(crate) snapshot_index: Index,
    pub(crate) recovering: Option<Recovering>,
    /// See [`Raft::set_machine_lost`].
    pub(crate) machine_is_lost: bool,
    /// `conf` is what an operator forced; see `reset.rs`.
    pub(crate) forced: Option<Box<Forced>>,
    /// All full voters hold the log up to here.
    pub(crate) held: Index,
    /// Up to here our log is known to be that of this term's leader: a leader never takes back what it sent.
    pub(crate) agreed: Index,

    pub(crate) election_elapsed: u32,
    pub(crate) election_timeout: u32,
    election_draws: u64,
    pinned_timeout: Option<u32>,
    pub(crate) heartbeat_elapsed: u32,
    pub(crate) rest: Rest,
    /// At a follower: the host heard that the leader's node is gone, and nothing of the leader since.
    pub(crate) leader_is_lost: bool,
    /// So often yet this peer refuses a candidate of lower priority, to campaign itself instead.
    pub(crate) refusals_left: u8,

    /// Answers to this (pre-)candidate; its own vote joins when it is durable.
    pub(crate) votes: PeerMap<Ballot>,
    /// At a candidate: who granted the pre-vote, and as what. See `recovering.rs`.
    pub(crate) pre_grants: PeerMap<Option<u64>>,
    /// At a leader: every voter granted its vote, so that recovering ones (itself too) count.
    pub(crate) is_unanimous: bool,
    /// Every other peer of the configuration. Meaningful at a leader.
    pub(crate) progress: PeerMap<Progress>,
    /// No further membership change before this index is applied.
    pub(crate) pending_conf: Index,
    pub(crate) uncommitted_bytes: usize,
    pub(crate) transferee: PeerId,
    pub(crate) reads: Reads,
    pub(crate) out: Outbox,
}

impl Raft {
    /// A group from what its disk holds; a new one from [`Restored::snapshot`] at index 0 with the first configuration.
    pub fn restore(config: Config, restored: Restored) -> Result<Raft, RestoreError> {
        let group = config.group;
        let Restored {
            mut hard_state,
            snapshot,
            entries,
            recovering,
        } = restored;
        check_config(&config)?;
        if !snapshot.conf.is_valid() && snapshot.conf != ConfState::default() {
            return Err(RestoreError::Conf { group });
        }
        if snapshot.term > hard_state.term {
            return Err(RestoreError::Term {
                group,
                hard_term: hard_state.term,
                term: snapshot.term,
            });
        }
        let (mut after, mut term, mut time) = (snapshot.index, snapshot.term, snapshot.time);
        for entry in &entries {
            if entry.index != after + 1 || entry.term < term || entry.term > hard_state.term || entry.time < time {
                let (found, hard_term) = (entry.index, hard_state.term);
                return Err(RestoreError::Entries {
                    group,
                    after,
                    found,
                    term: entry.term,
                    hard_term,
                });
            }
            (after, term, time) = (entry.index, entry.term, entry.time);
        }
        if hard_state.commit > after {
            if recovering.is_none() {
                return Err(RestoreError::CommitBeyondLog {
                    group,
                    commit: hard_state.commit,
                    last: after,
                });
            }
            hard_state.commit = after;
        }
        let commit = hard_state.commit.max(snapshot.index);
        let base = (snapshot.index, snapshot.term, snapshot.time);
        let mut raft = Raft {
            term: hard_state.term,
            vote: hard_state.vote,
            role: Role::Follower,
            leader: PeerId::NONE,
            log: Log::new(base, entries, hard_state.term, hard_state.vote, commit),
            conf: Arc::new(snapshot.conf),
            installing: None,
            snapshot_index: snapshot.index,
            recovering: recovering.map(|number| Recovering::new(number, &config)),
            machine_is_lost: false,
            forced: None,
            held: 0,
            agreed: 0,
            election_elapsed: 0,
            election_timeout: 0,
            election_draws: 0,
            pinned_timeout: None,
            heartbeat_elapsed: 0,
            rest: Rest::Awake,
            leader_is_lost: false,
            refusals_left: REFUSALS_MAX,
            votes: PeerMap::new(),
            pre_grants: PeerMap::new(),
            is_unanimous: false,
            progress: PeerMap::new(),
            pending_conf: 0,
            uncommitted_bytes: 0,
            transferee: PeerId::NONE,
            reads: Reads::default(),
            out: Outbox::new(hard_state),
            config,
        };
        raft.draw_election_timeout();
        raft.assert_invariants();
        Ok(raft)
    }

    /// One tick of the host's timer (at most 50 ms apart with the default config). Nothing happens at a resting peer.
    pub fn tick(&mut self) {
        if self.is_resting() {
            return;
        }
        self.election_elapsed += 1;
        if let Some(recovering) = &mut self.recovering {
            recovering.tick();
        }
        match self.role {
            Role::Leader => self.tick_leader(),
            Role::Follower | Role::PreCandidate | Role::Candidate => {
                if self.election_elapsed >= self.election_timeout {
                    self.election_elapsed = 0;
                    if self.may_campaign() {
                        self.campaign();
                    } else if !self.leader.is_none() {
                        // Who may not campaign forgets a silent leader all the same: its lease must not be renewed by
                        // the timer, and others may need this peer's vote.
                        self.become_follower(self.term, PeerId::NONE);
                    }
                }
                self.tick_forwarded_reads();
            }
        }
        self.assert_invariants();
    }

    /// Takes a message from a peer. On an error nothing has changed: the message contradicts what this peer knows, so
    /// its sender is broken (or lost its disk) and the host should close the connection.
    pub fn step(&mut self, message: Message) -> Result<(), StepError> {
        self.validate(&message)?;
        if self.rest != Rest::Awake && !self.keeps_rest(message.from, &message.body) {
            self.wake_for(message.from);
        }
        self.step_valid(message);
        self.assert_invariants();
        Ok(())
    }

    fn step_valid(&mut self, message: Message) {
        let Message { from, term, body, .. } = message;
        if matches!(body, Body::PreVote { .. } | Body::Vote { .. }) {
            return self.step_vote(from, term, body);
        }
        let is_from_leader = matches!(
            body,
            Body::Append { .. } | Body::Heartbeat { .. } | Body::Snapshot { .. }
        );
        if self.role == Role::Leader
            && !is_from_leader
            && !self.conf.contains(from)
            && !settle_base::mutant!("removed_peer_counted")
        {
            // A removed peer that does not know it yet: nothing that it answers may disturb the group.
            return;
        }
        if term > self.term {
            match body {
                // The term of a grant is the one that we asked about, not one that anybody is in.
                Body::PreVoteReply { granted: true, .. } => {}
                _ if is_from_leader => self.become_follower(term, from),
                _ => self.become_follower(term, PeerId::NONE),
            }
        } else if term < self.term {
            if is_from_leader {
                self.answer_stale_leader(from, &body);
            }
            return;
        }
        match body {
            Body::PreVote { .. } | Body::Vote { .. } => unreachable!("vote requests were taken above"),
            Body::PreVoteReply {
                granted,
                commit,
                recovering,
            } => self.on_pre_vote_reply(from, term, commit, Ballot { granted, recovering }),
            Body::VoteReply { granted, recovering } => self.on_vote_reply(from, Ballot { granted, recovering }),
            Body::Append {
                prev_index,
                prev_term,
                commit,
                entries,
            } => {
                self.follow(from);
                self.on_append(from, prev_index, prev_term, commit, entries);
            }
            Body::Heartbeat {
                commit,
                read_seq,
                recover_to,
                rest,
            } => {
                self.follow(from);
                self.on_heartbeat(from, commit, read_seq, recover_to, rest);
            }
            Body::Snapshot { meta } => {
                self.follow(from);
                self.on_snapshot(from, meta);
            }
            Body::AppendReply { result, recovering } => self.on_append_reply(from, result, recovering),
            Body::HeartbeatReply {
                read_seq,
                recovering,
                rested,
            } => self.on_heartbeat_reply(from, read_seq, recovering, rested),
            Body::Held { index } => {
                if self.leader == from {
                    self.on_held(index);
                }
            }
            Body::TimeoutNow => self.on_timeout_now(from),
            Body::ReadIndex { ctx } => self.on_read_index(from, ctx),
            Body::ReadIndexReply { ctx, index } => self.on_read_index_reply(from, ctx, index),
        }
    }

    /// Accepts `leader` as this term's.
    fn follow(&mut self, leader: PeerId) {
        if self.role == Role::Follower && self.leader == leader {
            self.election_elapsed = 0;
            self.refusals_left = REFUSALS_MAX;
            if std::mem::take(&mut self.leader_is_lost) {
                self.draw_election_timeout();
            }
        } else {
            self.become_follower(self.term, leader);
        }
    }

    pub(crate) fn set_term(&mut self, term: Term) {
        assert!(term > self.term, "terms only rise: {} to {term}", self.term);
        self.term = term;
        self.vote = PeerId::NONE;
        self.agreed = 0;
        // What waits for its durability speaks in a term that is over.
        self.out.drop_waiting();
    }

    pub(crate) fn become_follower(&mut self, term: Term, leader: PeerId) {
        if term != self.term {
            self.set_term(term);
        }
        self.leave_role(leader);
        self.role = Role::Follower;
        self.leader = leader;
    }

    /// What every change of role or leader ends.
    pub(crate) fn leave_role(&mut self, next_leader: PeerId) {
        if self.role == Role::Leader || self.leader != next_leader {
            self.drop_reads();
        }
        self.election_elapsed = 0;
        self.heartbeat_elapsed = 0;
        self.rest = Rest::Awake;
        self.leader_is_lost = false;
        if !next_leader.is_none() {
            if next_leader != self.config.id {
                self.give_up_force();
            }
            self.refusals_left = REFUSALS_MAX;
        }
        self.draw_election_timeout();
        self.votes = PeerMap::new();
        self.pre_grants = PeerMap::new();
        self.is_unanimous = false;
        self.progress = PeerMap::new();
        self.transferee = PeerId::NONE;
        self.uncommitted_bytes = 0;
        self.out.leave_leadership();
    }

    /// `is_unanimous`: elected by the grants of all voters, those that are recovering among them.
    pub(crate) fn become_leader(&mut self, is_unanimous: bool) {
        assert_eq!(self.role, Role::Candidate, "only a candidate becomes the leader");
        assert_eq!(
            (self.log.durable_term, self.log.durable_vote),
            (self.term, self.config.id),
            "a leader's own vote is durable"
        );
        let ballots = std::mem::take(&mut self.votes);
        self.leave_role(self.config.id);
        self.role = Role::Leader;
        self.leader = self.config.id;
        self.is_unanimous = is_unanimous;
        let last = self.log.last_index();
        // An earlier leader's change may be among the entries not applied yet.
        self.pending_conf = last;
        let others = self.conf.peers().into_iter().filter(|&peer| peer != self.config.id);
        self.progress = others.map(|peer| (peer, Progress::new(last + 1))).collect();
        if is_unanimous {
            self.trust_recovering_voters(&ballots, last + 1);
        }
        self.append_own(EntryKind::Noop, Default::default(), self.log.last_time());
        self.propose_forced_conf();
        self.assert_invariants();
    }

    pub(crate) fn draw_election_timeout(&mut self) {
        self.election_draws += 1;
        let Config {
            seed,
            group,
            id,
            election_ticks,
            ..
        } = self.config;
        let mut prng = Prng::from_parts(&[seed, group.0, id.0, self.term, self.election_draws]);
        let drawn = prng.between(u64::from(election_ticks), 2 * u64::from(election_ticks)) as u32;
        let patience = self.recovering.map_or(0, |_| recovering::PATIENCE * election_ticks);
        let reluctance = self.reluctance(2 * election_ticks);
        self.election_timeout = self.pinned_timeout.unwrap_or(drawn + patience + reluctance);
    }

    /// Fixes the election timeout, for tests that drive another implementation by the same ticks.
    #[doc(hidden)]
    pub fn pin_election_timeout(&mut self, ticks: u32) {
        self.pinned_timeout = Some(ticks);
        self.election_timeout = ticks;
    }

    pub(crate) fn assert_invariants(&self) {
        self.log.assert_invariants();
        let id = self.config.id;
        assert!(self.log.durable_term <= self.term, "nothing of a later term is durable");
        assert!(self.log.last_term() <= self.term, "no entry is of a later term");
        match self.role {
            Role::Follower => {
                assert_ne!(self.leader, id, "a follower does not follow itself");
                assert!(
                    !self.is_resting() || !self.leader.is_none(),
                    "a resting follower knows for whom"
                );
            }
            Role::PreCandidate => assert!(self.leader.is_none(), "a pre-candidate knows no leader"),
            Role::Candidate => {
                assert!(self.leader.is_none(), "a candidate knows no leader");
                assert_eq!(self.vote, id, "a candidate votes for itself");
            }
            Role::Leader => {
                assert_eq!(
                    (self.leader, self.vote),
                    (id, id),
                    "a leader voted for itself and leads"
                );
                assert!(
                    self.recovering.is_none() || self.is_unanimous,
                    "a recovering peer leads only when all voters elected it"
                );
            }
        }
    }

    pub fn id(&self) -> PeerId {
        self.config.id
    }

    pub fn role(&self) -> Role {
        self.role
    }

    pub fn is_leader(&self) -> bool {
        self.role == Role::Leader
    }

    /// This term's leader, [`PeerId::NONE`] when unknown.
    pub fn leader(&self) -> PeerId {
        self.leader
    }

    pub fn term(&self) -> Term {
        self.term
    }

    pub fn commit(&self) -> Index {
        self.log.commit
    }

    pub fn applied(&self) -> Index {
        self.log.applied
    }

    pub fn last_index(&self) -> Index {
        self.log.last_index()
    }

    pub fn first_index(&self) -> Index {
        self.log.base() + 1
    }

    /// The group time of the last entry.
    pub fn last_time(&self) -> GroupTime {
        self.log.last_time()
    }

    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.log.term_at(index)
    }

    pub fn time_at(&self, index: Index) -> Option<GroupTime> {
        self.log.time_at(index)
    }

    pub fn conf(&self) -> &ConfState {
        &self.conf
    }

    /// The same, for [`Raft::share_conf`] of other groups.
    pub fn conf_to_share(&self) -> &Arc<ConfState> {
        &self.conf
    }

    /// Gives its own copy of the configuration up for an equal one.
    ///
    /// # Panics
    /// When `same` is not the same.
    pub fn share_conf(&mut self, same: &Arc<ConfState>) {
        assert_eq!(self.conf, *same, "a configuration changes by changes of it");
        self.conf = Arc::clone(same);
    }

    /// Those entries of the range that are in memory.
    pub fn entries(&self, range: std::ops::RangeInclusive<Index>) -> impl Iterator<Item = &Entry> {
        self.log.range(*range.start(), *range.end())
    }

    pub fn is_recovering(&self) -> bool {
        self.recovering.is_some()
    }

    pub(crate) fn role_view(&self) -> RoleChange {
        RoleChange {
            role: self.role,
            term: self.term,
            leader: self.leader,
        }
    }

    pub fn status(&self) -> Status {
        let peer_status = |(peer, progress): (PeerId, &Progress)| PeerStatus {
            peer,
            matched: progress.matched,
            next: progress.next,
            state: progress.state,
            recent_active: progress.recent_active,
            recovering: progress.recovery.is_some(),
        };
        Status {
            id: self.config.id,
            role: self.role,
            term: self.term,
            vote: self.vote,
            leader: self.leader,
            commit: self.log.commit,
            applied: self.log.applied,
            first_index: self.first_index(),
            last_index: self.log.last_index(),
            durable_index: self.log.durable,
            durable_term: self.log.durable_term,
            conf: ConfState::clone(&self.conf),
            recovering: self.is_recovering(),
            transferee: self.transferee,
            resting: self.is_resting(),
            progress: self.progress.iter().map(peer_status).collect(),
        }
    }

    /// Whether a change of membership among `(applied, commit]` waits to be applied.
    pub(crate) fn has_unapplied_conf_change(&self) -> bool {
        self.log
            .range(self.log.applied + 1, self.log.commit)
            .any(|entry| entry.kind == EntryKind::ConfChange)
    }

    /// Puts an entry of the leader's own into its log. It counts for the quorum once it is durable.
    pub(crate) fn append_own(&mut self, kind: EntryKind, data: bytes::Bytes, time: GroupTime) -> Index {
        assert_eq!(self.role, Role::Leader, "only a leader appends entries of its own");
        self.wake();
        let index = self.log.last_index() + 1;
        let entry = Entry {
            term: self.term,
            index,
            kind,
            time: time.max(self.log.last_time()),
            data,
        };
        self.uncommitted_bytes += entry.size();
        self.log.append([entry]);
        self.out.replicate = true;
        index
    }

    /// Whether `change` could be applied to the configuration in force.
    pub(crate) fn check_change(&self, change: &ConfChange) -> Result<(), crate::conf::ConfChangeError> {
        self.conf.changed(change).map(drop)
    }
}

fn check_config(config: &Config) -> Result<(), RestoreError> {
    let what = if config.id.is_none() {
        "peer 0 is nobody"
    } else if config.heartbeat_ticks == 0 || config.heartbeat_ticks >= config.election_ticks {
        "heartbeat-ticks must be at least 1 and below election-ticks"
    } else if config.max_append_bytes == 0 || config.max_inflight_bytes == 0 || config.max_inflight_messages == 0 {
        "a limit of 0 would stop replication"
    } else if config.priority > PRIORITY_MAX {
        "a priority above the highest one"
    } else {
        return Ok(());
    };
    Err(RestoreError::Config {
        group: config.group,
        what,
    })
}

/// What can be seen of a group at one peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    pub id: PeerId,
    pub role: Role,
    pub term: Term,
    pub vote: PeerId,
    pub leader: PeerId,
    pub commit: Index,
    pub applied: Index,
    pub first_index: Index,
    pub last_index: Index,
    pub durable_index: Index,
    pub durable_term: Term,
    pub conf: ConfState,
    pub recovering: bool,
    /// Leadership is being handed to this peer.
    pub transferee: PeerId,
    /// It counts no ticks: see [`Raft::rest`].
    pub resting: bool,
    /// At a leader: every other peer.
    pub progress: Vec<PeerStatus>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    pub peer: PeerId,
    pub matched: Index,
    pub next: Index,
    pub state: ProgressState,
    pub recent_active: bool,
    pub recovering: bool,
}
