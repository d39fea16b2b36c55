use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use settle_base::Mono;

/// The process's monotonic clock. Copies share one origin.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that starts at zero now.
    #[expect(clippy::disallowed_methods, reason = "this is the clock that everything else asks")]
    pub fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    pub fn now(&self) -> Mono {
        Mono(self.origin.elapsed().as_micros() as u64)
    }

    /// Wall time since the Unix epoch, for display only.
    #[expect(clippy::disallowed_methods, reason = "this is the clock that everything else asks")]
    pub fn wall() -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}
