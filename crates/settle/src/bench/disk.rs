//! The physical floor: what a sync of a small append costs on the disk under test, measured in the same run.

use std::{
    fs::{File, OpenOptions},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context;
use hdrhistogram::Histogram;
use settle_telemetry::Clock;

use super::{raft::client::pause, report::histogram};

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

/// Someone else on the disk under test while it is under load: a file of its own, of which 4 KiB are written and synced
/// every five milliseconds. What it waits for is the disk's and the file system's, not the servers'.
pub struct Bystander {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Histogram<u64>>>,
}

impl Bystander {
    const EVERY: Duration = Duration::from_millis(5);
    const BLOCK: usize = 4096;
    const BLOCKS: u64 = 64;

    /// # Errors
    /// When `dir` cannot be written or the system gives no thread.
    pub fn start(dir: &Path) -> anyhow::Result<Bystander> {
        let path = dir.join(format!("settle-bench-bystander-{}", std::process::id()));
        let mut file = File::create_new(&path).with_context(|| format!("cannot write in {}", dir.display()))?;
        let removed = Removed(path);
        // Its blocks are there before, so that a sync is a write of data and nothing else.
        file.write_all(&[0; Self::BLOCK * Self::BLOCKS as usize])?;
        file.sync_all()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("bystander".to_owned());
        let thread = thread.spawn(move || {
            let _removed = removed;
            Self::look_on(&mut file, &stopped)
        });
        let thread = thread.context("cannot start a thread of the load")?;
        Ok(Bystander { stop, thread })
    }

    /// From falling due to its end, since one that stalls keeps the next waiting.
    fn look_on(file: &mut File, stop: &AtomicBool) -> anyhow::Result<Histogram<u64>> {
        let clock = Clock::start();
        let mut times = histogram();
        let mut due = clock.now();
        for i in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            file.seek(SeekFrom::Start(i % Self::BLOCKS * Self::BLOCK as u64))?;
            file.write_all(&[i as u8; Self::BLOCK])?;
            file.sync_data()?;
            times.saturating_record(clock.now().since(due).as_micros().max(1) as u64);
            due = due + Self::EVERY;
            pause(due.since(clock.now()));
        }
        Ok(times)
    }

    /// # Errors
    /// When the disk failed.
    pub fn finish(self) -> anyhow::Result<Histogram<u64>> {
        self.stop.store(true, Ordering::Relaxed);
        let times = self.thread.join();
        times.map_err(|_| anyhow::anyhow!("the bystander panicked"))?
    }
}

struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
