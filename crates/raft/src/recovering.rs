//! A peer whose log was damaged in its last batch, and what the others make of it.
//!
//! Such a peer may have voted and acked what its disk no longer tells; mostly, though, the batch was never synced and
//! nothing is lost, but nobody can tell. The fault model: of each configuration fewer than a quorum are *hurt* at a
//! time, that is, lost something durable; any number may be recovering. So of each quorum that ever voted or acked
//! there is one who remembers. "Recovering" lasts until the peer holds what a quorum has confirmed, over restarts too.
//! Every answer of the peer carries the number of this start, so that one loss can be told from the next.
//!
//! # While a quorum is whole
//! A recovering peer's acks and grants count for nothing. The leader that sees a new number takes back what it had
//! counted and appends a *barrier* entry, which no ack from before the loss can reach, however late it arrives. Once the
//! others have committed the barrier, heartbeats tell the peer to recover up to it: the log up to there holds whatever
//! the peer may have helped to commit. With that durable it is whole, and it counts from its next ack. Who still had a
//! lost vote of it cannot win without one of those who acked the barrier, and his log lacks the barrier. Besides, for
//! two full election timeouts and more the peer says nothing about votes at all.
//!
//! # When no quorum is whole: election by all
//! A power failure of all peers can leave a majority recovering, and no leader could ever be elected. A leader can also
//! be elected by **every voter** (of both halves of a joint configuration); learners have no part in it. Recovering
//! voters grant under the ordinary rules, durably, and say what they are; after long silence they ask themselves. A
//! candidate that is itself recovering wins in no other way. A voter that is gone for good makes such an election
//! impossible: fewer copies than the fault model needs are left, and an operator has to decide.
//!
//! Each voter has to grant twice, the pre-vote and then the vote, with the same number (or none) both times. Let `t` be
//! the moment when the candidate C, with all pre-votes, asks for votes in term T. No voter lost anything between its two
//! grants, so every loss that its vote says nothing of lies after its vote, and each one before `t` lies before its
//! pre-vote: at `t` the cluster is still, and what its disks hold decides everything.
//! - *No leader was elected in a later term than T.* It had a quorum's votes, and one voter remembers: it would not
//!   grant T. So what a recovering peer lost was of T at most, and the terms of this election are beyond it.
//! - *No other leader in T*, earlier or later: one of its voters remembers and refuses C; and C's own voters have voted.
//!   C itself may have led T and lost that: then one of its voters refuses the pre-vote, because it voted in T already.
//! - *C holds every committed entry.* One of the quorum that acked it has it still, and acked before it granted T. C's
//!   log ends at a (term, index) not below that voter's. By log matching and leader completeness it contains the entry;
//!   cut tails have changed nothing in what precedes their ends.
//! - *No vote or ack lost before `t` counts after it.* A later candidate D with such a vote had asked before `t` for a
//!   term after T. It granted T in between, so it forgot that term in a loss of its own, and its candidacy with it. (A
//!   D outside of C's configuration, a peer that is being added, has given up during the silence.)
//!
//! So after their votes for C all voters are as good as whole ones. C counts the recovering ones by the numbers in their
//! grants (`Recovery::is_trusted`) and itself, for commits, reads and its check of the quorum; a new number ends that,
//! and the rules of the first part apply. Its first entry is the barrier: when it is committed, everybody who holds it,
//! C included, is whole. If C fails before, all are still recovering, with votes and acks in T that are durable like any
//! others, and elect again by all. A leader for whom too many do not count steps down at its check of the quorum, for
//! it could commit nothing and only an election by all helps. A group of one is the smallest case: no copy may be hurt,
//! so its tail was never synced, and it goes on alone.
//!
//! What the host owes: messages of an earlier run of a peer, from it or to it, are not delivered to or after a later
//! one (one connection per pair of runs does), and the mark is kept until a whole peer's log says so durably.

use settle_base::{Index, PeerId};

use crate::{
    election::Ballot,
    entry::EntryKind,
    message::Reject,
    peer_map::PeerMap,
    progress::{Progress, Recovery},
    raft::{Config, Raft, Role},
};

/// In election timeouts: how much longer a recovering peer waits before it campaigns. Whole ones come first.
pub(crate) const PATIENCE: u32 = 3;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Recovering {
    number: u64,
    silent_ticks: u32,
}

impl Recovering {
    pub fn new(number: u64, config: &Config) -> Recovering {
        Recovering {
            number,
            silent_ticks: 4 * config.election_ticks,
        }
    }

    pub fn tick(&mut self) {
        self.silent_ticks = self.silent_ticks.saturating_sub(1);
    }
}

impl Raft {
    pub(crate) fn recovering_number(&self) -> Option<u64> {
        if settle_base::mutant!("recovering_votes") {
            return None;
        }
        self.recovering.map(|recovering| recovering.number)
    }

    /// A peer that began to recover lately gives no answer about votes and does not campaign.
    pub(crate) fn is_silent(&self) -> bool {
        self.recovering
            .is_some_and(|recovering| recovering.silent_ticks > 0 && !settle_base::mutant!("recovering_votes"))
    }

    /// At the damaged peer: the leader's heartbeat says how far it has to come.
    pub(crate) fn finish_recovering(&mut self, recover_to: Option<(u64, Index)>) {
        if let (Some(recovering), Some((number, barrier))) = (self.recovering, recover_to)
            && recovering.number == number
            && recovering.silent_ticks == 0
            && self.log.commit >= barrier
            && self.log.durable >= barrier
        {
            self.recovering = None;
        }
    }

    /// At a recovering leader: an entry of its own term is committed and on its own disk.
    pub(crate) fn finish_recovering_as_leader(&mut self) {
        let confirmed = self.log.commit.min(self.log.durable);
        if self.recovering.is_some() && self.role == Role::Leader && self.log.term_at(confirmed) == Some(self.term) {
            self.recovering = None;
        }
    }

    /// At a leader elected by all: its recovering voters count. `barrier` is its first entry.
    pub(crate) fn trust_recovering_voters(&mut self, ballots: &PeerMap<Ballot>, barrier: Index) {
        for (peer, ballot) in ballots.iter() {
            if let (Some(number), Some(progress)) = (ballot.recovering, self.progress.get_mut(peer)) {
                progress.recovery = Some(Recovery {
                    number,
                    barrier,
                    is_trusted: true,
                });
            }
        }
    }

    /// At the leader: a peer answers that it is recovering. What was counted for it is taken back.
    pub(crate) fn note_recovering(&mut self, from: PeerId, number: u64) {
        let Some(progress) = self.progress.get(from) else {
            return;
        };
        let is_known = progress.recovery.is_some_and(|known| known.number == number);
        if is_known || progress.recovered == Some(number) {
            return;
        }
        // A peer that starts again before its barrier is committed cannot have recovered in between: the same one bars
        // it still, and a peer that makes up numbers fills no log.
        let barred = progress.recovery.filter(|known| known.barrier > self.log.commit);
        let barrier = match barred {
            Some(known) => known.barrier,
            None => self.append_own(EntryKind::Noop, Default::default(), self.log.last_time()),
        };
        let mut fresh = Progress::new(barrier);
        fresh.recovery = Some(Recovery {
            number,
            barrier,
            is_trusted: false,
        });
        self.progress.insert(from, fresh);
        if self.transferee == from {
            self.transferee = PeerId::NONE;
        }
    }

    /// At the leader: a peer answers an append without saying that it is recovering. Only an ack that reaches the
    /// barrier is surely from after the loss, unless the peer said nothing in this term before it. Returns whether the
    /// answer may be used.
    pub(crate) fn note_recovered(&mut self, from: PeerId, result: &Result<Index, Reject>) -> bool {
        let Some(progress) = self.progress.get_mut(from) else {
            return false;
        };
        let Some(recovery) = progress.recovery else { return true };
        if recovery.is_trusted || matches!(result, Ok(index) if *index >= recovery.barrier) {
            progress.recovery = None;
            progress.recovered = Some(recovery.number);
        }
        // A rejection promises nothing, and it may be what tells where to go on.
        progress.recovery.is_none() || result.is_err()
    }
}
