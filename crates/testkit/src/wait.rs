use std::{fmt::Display, time::Duration};

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, timeout_at};

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks `look` until it gives a value.
///
/// # Errors
/// After `deadline`: `what`, and the last reason that `look` gave.
pub async fn until<T, E: Display>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    let mut reason = "it was never asked".to_owned();
    loop {
        match timeout_at(end, look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => reason = error.to_string(),
            Err(_) => bail!("{what}: not within {deadline:?}: {reason}"),
        }
        if Instant::now() >= end {
            bail!("{what}: not within {deadline:?}: {reason}");
        }
        sleep(PAUSE).await;
    }
}

/// Asks `look` for as long as `time`, and says how often: for what must not happen.
///
/// # Errors
/// The first that `look` gives.
pub async fn throughout(time: Duration, mut look: impl AsyncFnMut() -> Result<()>) -> Result<u32> {
    let end = Instant::now() + time;
    let mut looks = 0;
    while Instant::now() < end {
        look().await?;
        looks += 1;
        sleep(PAUSE).await;
    }
    Ok(looks)
}

/// Waits for `future`.
///
/// # Errors
/// After `deadline`, naming `what`.
pub async fn within<T>(what: &str, deadline: Duration, future: impl Future<Output = T>) -> Result<T> {
    match tokio::time::timeout(deadline, future).await {
        Ok(value) => Ok(value),
        Err(_) => bail!("{what}: not within {deadline:?}"),
    }
}
