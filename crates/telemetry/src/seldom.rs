use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use settle_base::Mono;

use crate::Clock;

/// Log lines that strangers can cause as often as they like: so many in a second, and then the number of those that were
/// left out.
#[derive(Debug)]
pub struct Seldom {
    clock: Clock,
    per_second: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    since: Option<Mono>,
    told: u32,
    left_out: u64,
}

impl Seldom {
    pub fn new(per_second: u32) -> Seldom {
        Seldom {
            clock: Clock::start(),
            per_second,
            state: Mutex::default(),
        }
    }

    /// Whether a line may be written now, and how many were left out since the last.
    pub fn tell(&self) -> Option<u64> {
        self.tell_at(self.clock.now())
    }

    fn tell_at(&self, now: Mono) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state
            .since
            .is_none_or(|since| now.since(since) >= Duration::from_secs(1))
        {
            (state.since, state.told) = (Some(now), 0);
        }
        if state.told == self.per_second {
            state.left_out += 1;
            return None;
        }
        state.told += 1;
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_told_in_a_second_and_the_rest_are_counted() {
        let seldom = Seldom::new(2);
        let at = |millis| seldom.tell_at(Mono::from_millis(millis));
        assert_eq!([at(0), at(1), at(2), at(999)], [Some(0), Some(0), None, None]);
        assert_eq!([at(1_000), at(1_001), at(1_002)], [Some(2), Some(0), None]);
        assert_eq!(at(5_000), Some(1));
    }
}
