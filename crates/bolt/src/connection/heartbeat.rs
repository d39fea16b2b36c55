//! One timer for signs of life in both directions.
//!
//! Java has one for reading and one for writing, so that its heartbeats come in pairs, and counts an answer that came
//! late as none. Here any byte that arrives shows that the other side lives.

use settle_base::Mono;

use super::HeartbeatConfig;

#[derive(Debug)]
pub(super) struct Heartbeat {
    config: HeartbeatConfig,
    sent_at: Mono,
    /// Its id and until when its answer is waited for.
    pending: Option<(i32, Mono)>,
    misses: u32,
}

/// What is to be done now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    Nothing,
    Send,
    Missed,
    Close,
}

impl Heartbeat {
    pub(super) fn new(config: HeartbeatConfig, now: Mono) -> Heartbeat {
        Heartbeat {
            config,
            sent_at: now,
            pending: None,
            misses: 0,
        }
    }

    pub(super) fn pending_id(&self) -> Option<i32> {
        self.pending.map(|(id, _)| id)
    }

    pub(super) fn timeout_ms(&self) -> i32 {
        i32::try_from(self.config.ack_timeout.as_millis()).unwrap_or(i32::MAX)
    }

    pub(super) fn received(&mut self) {
        self.misses = 0;
    }

    /// Whether this answers the heartbeat that is out.
    pub(super) fn received_ack(&mut self, id: i32) -> bool {
        let fits = self.pending_id() == Some(id);
        if fits {
            self.pending = None;
        }
        fits
    }

    pub(super) fn sent(&mut self, id: i32, now: Mono) {
        assert!(self.pending.is_none(), "one heartbeat is out at a time");
        self.sent_at = now;
        self.pending = Some((id, now + self.config.ack_timeout));
    }

    /// `quiet_since`: the earlier of the last byte sent and the last byte received.
    pub(super) fn due(&mut self, quiet_since: Mono, now: Mono) -> Due {
        if self.deadline(quiet_since) > now {
            return Due::Nothing;
        }
        if self.pending.take().is_none() {
            return Due::Send;
        }
        self.misses += 1;
        if self.misses >= self.config.misses_max {
            Due::Close
        } else {
            Due::Missed
        }
    }

    pub(super) fn deadline(&self, quiet_since: Mono) -> Mono {
        match self.pending {
            Some((_, until)) => until,
            None => quiet_since.max(self.sent_at) + self.config.interval,
        }
    }
}
