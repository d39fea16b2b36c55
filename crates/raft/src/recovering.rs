//! A peer whose log was damaged in its last batch, and what its leader makes of it.
//!
//! Such a peer may have voted and acked what its disk no longer tells. Until it has caught up it gives no vote, does
//! not campaign, and its acks are not counted; every answer carries the number of this start. The leader that sees the
//! number takes back what it had counted for the peer and appends a *barrier* entry, which no ack from before the loss
//! can reach, however late it arrives. Once the barrier is committed by the others, heartbeats tell the peer to recover
//! up to it: the log up to there holds whatever the peer may have helped to commit. The peer is whole again when it has
//! that durable, and counts again from its next ack.
//!
//! A vote that was lost is not in the log. Whoever got it has won, or has given up, after two full election timeouts;
//! the peer is silent for so long at least. The host must not deliver messages of an earlier run of a peer after later
//! ones (one connection per run does).

use settle_base::{Index, PeerId};

use crate::{
    entry::EntryKind,
    message::Reject,
    progress::{Progress, Recovery},
    raft::{Config, Raft},
};

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
        self.recovering.map(|recovering| recovering.number)
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

    /// At the leader: a peer answers that it is recovering. What was counted for it is taken back.
    pub(crate) fn note_recovering(&mut self, from: PeerId, number: u64) {
        let Some(progress) = self.progress.get(&from) else {
            return;
        };
        if progress.recovery.is_some_and(|known| known.number == number) {
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
        fresh.recovery = Some(Recovery { number, barrier });
        self.progress.insert(from, fresh);
        if self.transferee == from {
            self.transferee = PeerId::NONE;
        }
    }

    /// At the leader: a peer that was recovering answers an append without saying so. Only an ack that reaches the
    /// barrier is from after the loss. Returns whether the answer may be used.
    pub(crate) fn note_recovered(&mut self, from: PeerId, result: &Result<Index, Reject>) -> bool {
        let Some(progress) = self.progress.get_mut(&from) else {
            return false;
        };
        let Some(recovery) = progress.recovery else { return true };
        let is_whole = matches!(result, Ok(index) if *index >= recovery.barrier);
        if is_whole {
            progress.recovery = None;
        }
        is_whole
    }
}
