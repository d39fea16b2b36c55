//! Waiting on a condition with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long it asks at the short pace.
const SOON: Duration = Duration::from_secs(5);

/// Asks `ready` every 50 ms, and after 5 s every 250 ms, until it gives a value; fails with `what` and the last reason
/// after `limit`.
/// `ready` gives `Ok(Err(reason))` for "not yet" and `Err` to stop at once.
pub fn until<T>(what: &str, limit: Duration, mut ready: impl FnMut() -> Result<Result<T, String>>) -> Result<T> {
    let start = Instant::now();
    loop {
        match ready()? {
            Ok(value) => return Ok(value),
            Err(reason) if start.elapsed() >= limit => {
                bail!("{what}: not within {} s: {reason}", limit.as_secs())
            }
            Err(_) => std::thread::sleep(Duration::from_millis(if start.elapsed() < SOON { 50 } else { 250 })),
        }
    }
}
