//! A bucket of tokens, filled by time: bytes that may be sent, or written, in a second.

use std::time::Duration;

use settle_base::Mono;

#[derive(Debug)]
pub(crate) struct Throttle {
    per_second: u64,
    /// Bytes times microseconds of a second. A chunk may overdraw it: the next waits for so much longer.
    balance: i64,
    filled: Mono,
}

impl Throttle {
    pub(crate) fn new(per_second: u64, now: Mono) -> Throttle {
        Throttle {
            per_second,
            balance: 0,
            filled: now,
        }
    }

    /// A pause is not made up for by a burst: no more than a tenth of a second is saved up.
    pub(crate) fn fill(&mut self, now: Mono) {
        let passed = now.since(self.filled).min(Duration::from_millis(100)).as_micros() as u64;
        self.add(self.per_second.saturating_mul(passed));
        self.filled = now;
    }

    /// Bytes that may go beside those of the time that passes. They are not saved up either.
    pub(crate) fn earn(&mut self, bytes: u64) {
        self.add(bytes.saturating_mul(1_000_000));
    }

    fn add(&mut self, earned: u64) {
        let bound = |tokens: u64| tokens.min(i64::MAX as u64 / 2) as i64;
        let most = bound(self.per_second.saturating_mul(100_000));
        self.balance = self.balance.saturating_add(bound(earned)).min(most);
    }

    pub(crate) fn may_go_on(&self) -> bool {
        self.balance >= 0
    }

    pub(crate) fn spend(&mut self, bytes: usize) {
        self.balance = self.balance.saturating_sub(bytes as i64 * 1_000_000);
    }
}
