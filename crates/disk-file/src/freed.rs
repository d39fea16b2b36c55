//! The space of removed files is given back a piece at a time.
//!
//! A file system that is mounted with `discard` tells the device of every block that becomes free, and a device that is
//! told of a gigabyte at once has kept every sync on it waiting for 0.1 to 0.2 seconds. So a large file that was removed,
//! which nobody can open any more, is shortened in steps by a thread of its own.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use crate::directory::lock_of;

/// Given back at once; a smaller file goes as it is.
const STEP: u64 = 8 << 20;
/// Between two steps: 160 MiB each second.
const PAUSE: Duration = Duration::from_millis(50);
/// Files that wait, at most; one more goes at once.
const WAITING_MAX: usize = 256;

/// Removed files whose blocks are still theirs.
#[derive(Default)]
pub(crate) struct Freed {
    state: Mutex<State>,
    changed: Condvar,
    /// Held while a file is read by its name: what is found there must not become shorter meanwhile.
    reading: Mutex<()>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<File>,
    /// Somebody needs the space now.
    in_haste: bool,
    closing: bool,
}

impl Freed {
    /// Does `read` while no removed file is shortened.
    pub(crate) fn while_reading<T>(&self, read: impl FnOnce() -> T) -> T {
        let _reading = lock_of(&self.reading);
        read()
    }

    /// Takes a file that has no name any more.
    pub(crate) fn push(&self, file: File) {
        // Another name may be left, or the system knows better than to tell; closing the file is never wrong.
        let is_gone = |metadata: &std::fs::Metadata| metadata.nlink() == 0 && metadata.len() > STEP;
        if !file.metadata().as_ref().is_ok_and(is_gone) {
            return;
        }
        let mut state = lock_of(&self.state);
        if state.waiting.len() < WAITING_MAX && !state.closing {
            state.waiting.push_back(file);
            self.changed.notify_one();
        }
    }

    /// The disk is full: what waits is given back without pauses.
    pub(crate) fn hasten(&self) {
        let mut state = lock_of(&self.state);
        state.in_haste = !state.waiting.is_empty();
        self.changed.notify_one();
    }

    /// What still waits is closed, which gives its space back at once; [`Freed::work`] ends.
    pub(crate) fn close(&self) {
        let mut state = lock_of(&self.state);
        state.closing = true;
        state.waiting.clear();
        self.changed.notify_one();
    }

    /// The thread's work, until [`Freed::close`].
    pub(crate) fn work(&self) {
        let mut state = lock_of(&self.state);
        while !state.closing {
            let Some(file) = state.waiting.pop_front() else {
                state.in_haste = false;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let left = self.shorten(&file);
            state = lock_of(&self.state);
            if !matches!(left, Ok(1..)) || state.closing {
                continue;
            }
            state.waiting.push_front(file);
            if !state.in_haste {
                let hurried = |state: &mut State| !state.in_haste && !state.closing;
                let waited = self.changed.wait_timeout_while(state, PAUSE, hurried);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    /// One step; the length that is left. A file that cannot be shortened is closed, which does the same.
    fn shorten(&self, file: &File) -> io::Result<u64> {
        // A read that opened the file before it was removed has ended once this is passed.
        drop(lock_of(&self.reading));
        let len = file.metadata()?.len().saturating_sub(STEP);
        file.set_len(len)?;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Instant};

    use super::*;

    fn removed(bytes: u64) -> File {
        let file = tempfile::tempfile().expect("a file without a name");
        file.set_len(bytes).expect("a length");
        file
    }

    #[test]
    fn a_removed_file_becomes_shorter_by_a_step_at_a_time() {
        let freed = Freed::default();
        let file = removed(2 * STEP + 1);
        assert_eq!(freed.shorten(&file).expect("a step"), STEP + 1);
        assert_eq!(freed.shorten(&file).expect("a step"), 1);
        assert_eq!(freed.shorten(&file).expect("a step"), 0);
    }

    #[test]
    fn a_small_file_and_one_that_has_another_name_are_let_alone() {
        let freed = Freed::default();
        freed.push(removed(STEP));
        let named = tempfile::NamedTempFile::new().expect("a file");
        named.as_file().set_len(4 * STEP).expect("a length");
        freed.push(named.reopen().expect("the same file"));
        assert!(lock_of(&freed.state).waiting.is_empty());
        freed.push(removed(STEP + 1));
        assert_eq!(lock_of(&freed.state).waiting.len(), 1);
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the test's own deadline")]
    fn a_full_disk_gets_everything_back_and_an_end_waits_for_nothing() {
        let freed = Freed::default();
        let watched = removed(1_000 * STEP);
        freed.push(watched.try_clone().expect("the same file"));
        freed.hasten();
        thread::scope(|scope| {
            scope.spawn(|| freed.work());
            // At its usual pace this would take most of a minute.
            let deadline = Instant::now() + Duration::from_secs(20);
            while watched.metadata().expect("its length").len() > 0 && Instant::now() < deadline {
                thread::yield_now();
            }
            freed.push(removed(1_000 * STEP));
            freed.close();
        });
        assert_eq!(watched.metadata().expect("its length").len(), 0, "it is not in haste");
    }
}
