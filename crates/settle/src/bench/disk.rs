//! The physical floor: what a sync of a small append costs on the disk under test, measured in the same run.

use std::{fs::OpenOptions, io::Write, path::Path, time::Duration};

use anyhow::Context;
use settle_telemetry::Clock;

/// Appends 4 KiB and syncs, again and again for `total`, and returns the durations in order of time.
///
/// # Errors
/// When `dir` cannot be written.
pub fn sync_times(dir: &Path, total: Duration) -> anyhow::Result<Vec<Duration>> {
    let path = dir.join(format!("settle-bench-sync-{}", std::process::id()));
    let context = || format!("cannot measure the disk in {}", dir.display());
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(&path)
        .with_context(context)?;
    let block = [0x5e; 4096];
    let clock = Clock::start();
    let mut times = Vec::new();
    let outcome = loop {
        let start = clock.now();
        if let Err(error) = file.write_all(&block).and_then(|()| file.sync_data()) {
            break Err(error);
        }
        times.push(clock.now().since(start));
        if clock.now().since(settle_base::Mono::ZERO) >= total {
            break Ok(());
        }
    };
    std::fs::remove_file(&path).with_context(context)?;
    outcome.with_context(context)?;
    Ok(times)
}
