//! What may change while the server runs, and is looked at again and again: files, not events of a file system, since a
//! file that is mounted into a container changes without one.

use std::time::Duration;

use settle_net::Stop;
use settle_telemetry::prometheus::metrics::counter::Counter;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::ConfigError;

/// Lets `look` look for changes of `what` and put them in force, until `stop`. It says whether there were any. `every`
/// may be zero, which is never.
pub async fn keep(
    what: &'static str,
    mut look: impl FnMut() -> Result<bool, ConfigError> + Send + 'static,
    every: Duration,
    failures: Counter,
    mut stop: Stop,
) {
    if every.is_zero() {
        return;
    }
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.stopped() => return,
            _ = ticks.tick() => {}
        }
        let looked = tokio::task::spawn_blocking(move || {
            let changed = look();
            (look, changed)
        });
        let Ok((same, changed)) = looked.await else { return };
        look = same;
        match changed {
            Ok(false) => {}
            Ok(true) => tracing::info!("{what} reloaded"),
            Err(error) => {
                failures.inc();
                tracing::error!(code = %error.code(), %error, "{what} not reloaded: what was before stays in force");
            }
        }
    }
}
