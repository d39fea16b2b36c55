//! What a leader knows of one peer's log, and how much it may send ahead of the answers.

use std::collections::VecDeque;

use settle_base::Index;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProgressState {
    /// The match is being searched: one append at a time.
    Probe,
    /// The match is known: appends are pipelined within the window.
    Replicate,
    /// The peer needs entries that are compacted; nothing is appended until the snapshot up to `pending` is reported.
    Snapshot { pending: Index },
}

/// A peer that lost the tail of its log; see `recovering.rs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Recovery {
    pub number: u64,
    /// An entry appended after the loss was reported: no older ack can reach it.
    pub barrier: Index,
    /// The leader was elected by every voter, by this one after its loss: it counts from the start.
    pub is_trusted: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// The peer's durable log equals ours up to here.
    pub matched: Index,
    /// The first index to send next.
    pub next: Index,
    pub state: ProgressState,
    /// In `Probe`: one append is out, its answer or a heartbeat's answer comes first.
    pub probe_sent: bool,
    /// Send an append even with nothing new in it: its rejection shows that an earlier one was lost.
    pub nudge: bool,
    /// The commit index that the newest append told.
    pub commit_told: Index,
    /// Heard from since the last check of the quorum.
    pub recent_active: bool,
    /// The newest round of reads that the peer confirmed.
    pub read_seq: u64,
    /// The newest round in which the peer answered that it rests.
    pub rested_in: u64,
    /// The group rests without this peer, which nobody can reach.
    pub is_excused: bool,
    /// While this is set and not trusted, nothing of the peer counts in a quorum.
    pub recovery: Option<Recovery>,
    /// The number of the loss that the peer has recovered from; answers that still name it are late.
    pub recovered: Option<u64>,
    inflight: VecDeque<(Index, usize)>,
    inflight_bytes: usize,
}

impl Progress {
    pub fn new(next: Index) -> Progress {
        Progress {
            matched: 0,
            next,
            state: ProgressState::Probe,
            probe_sent: false,
            nudge: true,
            commit_told: 0,
            // One full election timeout to answer in, before it counts as silent.
            recent_active: true,
            read_seq: 0,
            rested_in: 0,
            is_excused: false,
            recovery: None,
            recovered: None,
            inflight: VecDeque::new(),
            inflight_bytes: 0,
        }
    }

    /// Whether the peer may be part of a quorum.
    pub fn counts(&self) -> bool {
        self.recovery.is_none_or(|recovery| recovery.is_trusted)
    }

    /// What the peer's copy counts for in a quorum.
    pub fn counted_match(&self) -> Index {
        if self.counts() { self.matched } else { 0 }
    }

    pub fn counted_read_seq(&self) -> u64 {
        if self.counts() { self.read_seq } else { 0 }
    }

    fn enter(&mut self, state: ProgressState) {
        self.state = state;
        self.probe_sent = false;
        self.inflight.clear();
        self.inflight_bytes = 0;
    }

    pub fn become_probe(&mut self) {
        self.next = match self.state {
            // The peer may have installed the snapshot although its answer was lost.
            ProgressState::Snapshot { pending } => (self.matched + 1).max(pending + 1),
            _ if settle_base::mutant!("next_not_above_match") => self.matched.max(1),
            _ => self.matched + 1,
        };
        self.enter(ProgressState::Probe);
        self.nudge = true;
    }

    /// Nothing more is sent before the peer speaks.
    pub fn wait_for_answer(&mut self) {
        if self.state == ProgressState::Replicate {
            self.become_probe();
        }
        self.nudge = false;
        self.probe_sent = true;
    }

    pub fn become_replicate(&mut self) {
        self.next = self.matched + 1;
        self.enter(ProgressState::Replicate);
    }

    pub fn become_snapshot(&mut self, pending: Index) {
        self.enter(ProgressState::Snapshot { pending });
    }

    /// Takes an ack. Returns whether it told anything new.
    pub fn ack(&mut self, index: Index) -> bool {
        self.free_to(index);
        self.next = self.next.max(index + 1);
        if index <= self.matched {
            return false;
        }
        self.matched = index;
        true
    }

    /// Takes a rejection of the append after `rejected`. Returns whether it was news, not an echo of an older message.
    pub fn reject(&mut self, rejected: Index, retry_at: Index) -> bool {
        match self.state {
            ProgressState::Snapshot { .. } => false,
            ProgressState::Replicate => {
                if rejected <= self.matched {
                    return false;
                }
                self.become_probe();
                true
            }
            ProgressState::Probe => {
                if self.next != rejected + 1 {
                    return false;
                }
                let next = rejected.min(retry_at + 1).max(self.matched + 1);
                if next == self.next {
                    // It denies what it acked: it lost its log. Asking again at once would go on for ever.
                    return false;
                }
                self.next = next;
                self.probe_sent = false;
                self.nudge = true;
                true
            }
        }
    }

    pub fn window_is_open(&self, max_messages: usize, max_bytes: usize) -> bool {
        match self.state {
            ProgressState::Probe => !self.probe_sent,
            ProgressState::Replicate => self.inflight.len() < max_messages && self.inflight_bytes < max_bytes,
            ProgressState::Snapshot { .. } => false,
        }
    }

    /// Notes that entries up to `last` left, `bytes` in all.
    pub fn sent(&mut self, last: Index, bytes: usize) {
        match self.state {
            ProgressState::Probe => self.probe_sent = true,
            ProgressState::Replicate if bytes > 0 => {
                assert!(last >= self.next, "entries are sent forwards");
                self.next = last + 1;
                self.inflight.push_back((last, bytes));
                self.inflight_bytes += bytes;
            }
            ProgressState::Replicate => {}
            ProgressState::Snapshot { .. } => panic!("nothing is appended while a snapshot is under way"),
        }
    }

    fn free_to(&mut self, index: Index) {
        while let Some(&(last, bytes)) = self.inflight.front()
            && last <= index
        {
            self.inflight.pop_front();
            let left = self.inflight_bytes.checked_sub(bytes);
            self.inflight_bytes = left.expect("the bytes on the way are those of all messages on the way");
        }
    }

    pub fn release_memory(&mut self) {
        self.inflight.shrink_to_fit();
    }

    /// An answer to a heartbeat came: whatever blocks the window may have been lost with its answer.
    pub fn resume(&mut self, last_index: Index) {
        self.probe_sent = false;
        if self.matched < last_index || self.state == ProgressState::Probe {
            self.nudge = true;
        }
    }

    pub fn assert_invariants(&self, last_index: Index) {
        assert!(
            self.matched < self.next,
            "match {} is below next {}",
            self.matched,
            self.next
        );
        assert!(
            self.matched <= last_index,
            "match {} is within the log, which ends at {last_index}",
            self.matched
        );
        assert!(
            self.inflight_bytes == 0 || !self.inflight.is_empty(),
            "{} bytes are on the way without a message",
            self.inflight_bytes
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_closes_by_messages_and_by_bytes_and_an_ack_opens_it() {
        let mut progress = Progress::new(1);
        progress.become_replicate();
        progress.sent(2, 100);
        progress.sent(4, 100);
        assert!(progress.window_is_open(3, 201));
        assert!(!progress.window_is_open(2, 1_000), "two messages are out");
        assert!(!progress.window_is_open(9, 200), "200 bytes are out");
        progress.ack(3);
        assert!(progress.window_is_open(2, 200));
        assert_eq!((progress.matched, progress.next), (3, 5));
    }

    #[test]
    fn an_echoed_rejection_moves_nothing() {
        let mut progress = Progress::new(9);
        assert!(progress.reject(8, 4));
        assert_eq!(progress.next, 5);
        assert!(!progress.reject(8, 4), "the same rejection, twice delivered");
        progress.ack(6);
        progress.become_replicate();
        assert!(!progress.reject(5, 2), "below the match");
        assert_eq!((progress.state, progress.next), (ProgressState::Replicate, 7));
        assert!(progress.reject(7, 0));
        assert!(!progress.reject(6, 0), "the peer denies its own ack");
    }
}
