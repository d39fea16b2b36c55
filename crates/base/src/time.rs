use std::{
    fmt,
    ops::{Add, Sub},
    time::Duration,
};

/// A reading of a monotonic clock, in microseconds since an origin that only its node knows.
///
/// Cores receive it as an argument. Two readings compare only within one run of one node; a jump of the wall clock
/// never moves it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(pub u64);

impl Mono {
    pub const ZERO: Mono = Mono(0);

    pub const fn from_millis(millis: u64) -> Mono {
        Mono(millis * 1_000)
    }

    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000
    }

    /// Time since `earlier`; zero when `earlier` is later.
    pub const fn since(self, earlier: Mono) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Mono {
    type Output = Mono;

    fn add(self, duration: Duration) -> Mono {
        Mono(self.0.saturating_add(duration.as_micros().min(u64::MAX as u128) as u64))
    }
}

impl Sub<Duration> for Mono {
    type Output = Mono;

    fn sub(self, duration: Duration) -> Mono {
        Mono(self.0.saturating_sub(duration.as_micros().min(u64::MAX as u128) as u64))
    }
}

impl fmt::Debug for Mono {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// A group's own clock, in milliseconds: the last entry's time plus the leader's monotonic time since it took office.
///
/// It is written into every log entry, never falls, stands still while the group has no leader, and says nothing about
/// the wall clock. Timeouts of replicated state are measured in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GroupTime(pub u64);

impl GroupTime {
    pub const ZERO: GroupTime = GroupTime(0);

    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Time since `earlier`; zero when `earlier` is later.
    pub const fn since(self, earlier: GroupTime) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for GroupTime {
    type Output = GroupTime;

    fn add(self, duration: Duration) -> GroupTime {
        GroupTime(self.0.saturating_add(duration.as_millis().min(u64::MAX as u128) as u64))
    }
}

impl fmt::Debug for GroupTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}ms", self.0)
    }
}
