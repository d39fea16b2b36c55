use std::{
    collections::VecDeque,
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use settle_storage::{Completion, Disk, DiskError, DiskRead, FileName, Op, Token};

use crate::{
    OpenDirError,
    directory::{self, Directory},
    lossy::Unsynced,
};

/// How a [`FileDisk`] treats what is not synced.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum DiskKind {
    #[default]
    Real,
    /// For tests: unsynced writes stay in the process, so that killing it loses exactly them.
    Lossy,
    /// For tests: as `Lossy`, and a sync does nothing either. Everything since the start is lost by a kill; a durability
    /// test that passes on this tests nothing.
    LossyWithoutSync,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FileDiskOptions {
    pub kind: DiskKind,
}

/// A directory of real files. Dropping it does everything that was submitted, then lets the directory go.
pub struct FileDisk {
    path: PathBuf,
    kind: DiskKind,
    shared: Arc<Shared>,
    /// Completions taken from `shared` and not yet polled.
    completed: VecDeque<Completion>,
    thread: Option<JoinHandle<()>>,
    /// Holds the directory's lock.
    _lock: File,
}

struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    completed: Mutex<VecDeque<Completion>>,
    /// Held by the thread while it does an operation, so that a read sees whole ones.
    unsynced: Mutex<Unsynced>,
}

#[derive(Default)]
struct Queue {
    requests: VecDeque<Request>,
    closing: bool,
}

struct Request {
    op: Op,
    answer: Answer,
}

/// An operation that has ended and whose owner does not know yet.
struct Done {
    answer: Answer,
    result: Result<(), DiskError>,
    took: Duration,
}

enum Answer {
    Completion(Token),
    Caller(SyncSender<Result<(), DiskError>>),
}

impl FileDisk {
    /// Opens the directory `path`, made if absent, for this process alone. `notify` is called on the disk's thread
    /// whenever new completions can be polled; it must not block.
    ///
    /// # Errors
    /// When another process (or another `FileDisk`) has the directory, or it cannot be made or opened.
    pub fn open(
        path: &Path,
        options: FileDiskOptions,
        notify: impl Fn() + Send + 'static,
    ) -> Result<FileDisk, OpenDirError> {
        let lock = directory::lock(path)?;
        let directory = Directory::open(path).map_err(|source| {
            let path = path.to_owned();
            OpenDirError::Open { path, source }
        })?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            filled: Condvar::new(),
            completed: Mutex::default(),
            unsynced: Mutex::default(),
        });
        let of_thread = shared.clone();
        let kind = options.kind;
        let thread = std::thread::Builder::new()
            .name("settle-disk".to_owned())
            .spawn(move || of_thread.work(directory, kind, notify))
            .map_err(|source| OpenDirError::Thread { source })?;
        Ok(FileDisk {
            path: path.to_owned(),
            kind,
            shared,
            completed: VecDeque::new(),
            thread: Some(thread),
            _lock: lock,
        })
    }

    fn push(&self, request: Request) {
        lock(&self.shared.queue).requests.push_back(request);
        self.shared.filled.notify_one();
    }
}

impl Disk for FileDisk {
    fn submit(&mut self, token: Token, op: Op) {
        self.push(Request {
            op,
            answer: Answer::Completion(token),
        });
    }

    fn poll(&mut self) -> Option<Completion> {
        if self.completed.is_empty() {
            std::mem::swap(&mut *lock(&self.shared.completed), &mut self.completed);
        }
        self.completed.pop_front()
    }
}

impl DiskRead for FileDisk {
    fn list(&mut self) -> Result<Vec<(FileName, u64)>, DiskError> {
        let unsynced = lock(&self.shared.unsynced);
        let mut files = directory::list(&self.path)?;
        for (file, len) in &mut files {
            *len = unsynced.len(file, *len);
        }
        Ok(files)
    }

    fn read(&mut self, file: &FileName, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        if self.kind == DiskKind::Real {
            return directory::read(&self.path, file, offset, len);
        }
        let unsynced = lock(&self.shared.unsynced);
        let stored = directory::read(&self.path, file, offset, len)?;
        let stored_len = directory::len(&self.path, file)?;
        Ok(unsynced.overlay(file, offset, len, stored, stored_len))
    }

    fn run(&mut self, op: Op) -> Result<(), DiskError> {
        let (sender, receiver) = sync_channel(1);
        self.push(Request {
            op,
            answer: Answer::Caller(sender),
        });
        receiver.recv().expect("the thread answers everything before it ends")
    }
}

impl Drop for FileDisk {
    fn drop(&mut self) {
        lock(&self.shared.queue).closing = true;
        self.shared.filled.notify_one();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the disk's thread panicked");
        }
    }
}

impl Shared {
    fn work(&self, mut directory: Directory, kind: DiskKind, notify: impl Fn()) {
        let (mut batch, mut done) = (VecDeque::new(), Vec::new());
        while self.take(&mut batch) {
            while let Some(request) = batch.pop_front() {
                let is_sync = matches!(request.op, Op::Sync { .. });
                if is_sync {
                    self.sync_together(request, &mut batch, &mut directory, kind, &mut done);
                } else {
                    done.push(self.time(request, &mut directory, kind));
                }
                // Whoever waits for a sync is not kept waiting for the rest of the batch.
                if is_sync || batch.is_empty() {
                    self.answer(&mut done, &notify);
                }
            }
        }
        lock(&self.unsynced).write_all_out(&mut directory);
    }

    /// One sync for `first` and for those that follow it with nothing but writes of the same file between: a sync that
    /// comes later than asked promises no less.
    fn sync_together(
        &self,
        first: Request,
        batch: &mut VecDeque<Request>,
        directory: &mut Directory,
        kind: DiskKind,
        done: &mut Vec<Done>,
    ) {
        let file = first.op.file().clone();
        let mut syncs = vec![(done.len(), first.answer)];
        loop {
            let is_write = |r: &&Request| matches!(&r.op, Op::Write { file: of, .. } if *of == file);
            let writes = batch.iter().take_while(is_write).count();
            if !batch
                .get(writes)
                .is_some_and(|r| matches!(&r.op, Op::Sync { file: of } if *of == file))
            {
                break;
            }
            for write in batch.drain(..writes) {
                done.push(self.time(write, directory, kind));
            }
            let sync = batch.pop_front().expect("it was just seen");
            syncs.push((done.len(), sync.answer));
        }
        let started = now();
        let result = self.execute(Op::Sync { file }, directory, kind);
        let took = now().duration_since(started);
        // From the last, so that the places of the others stay what they were.
        for (at, answer) in syncs.into_iter().rev() {
            let result = result.clone();
            done.insert(at, Done { answer, result, took });
        }
    }

    fn time(&self, request: Request, directory: &mut Directory, kind: DiskKind) -> Done {
        let Request { op, answer } = request;
        let started = now();
        let result = self.execute(op, directory, kind);
        let took = now().duration_since(started);
        Done { answer, result, took }
    }

    fn answer(&self, done: &mut Vec<Done>, notify: &impl Fn()) {
        let mut untold = false;
        let mut completed = lock(&self.completed);
        for Done { answer, result, took } in done.drain(..) {
            match answer {
                // A caller that is gone has no use for the answer.
                Answer::Caller(caller) => drop(caller.send(result)),
                Answer::Completion(token) => {
                    completed.push_back(Completion { token, result, took });
                    untold = true;
                }
            }
        }
        drop(completed);
        if untold {
            notify();
        }
    }

    fn execute(&self, op: Op, directory: &mut Directory, kind: DiskKind) -> Result<(), DiskError> {
        match kind {
            DiskKind::Real => directory.execute(&op, false),
            DiskKind::Lossy => lock(&self.unsynced).execute(op, directory, false),
            DiskKind::LossyWithoutSync => lock(&self.unsynced).execute(op, directory, true),
        }
    }

    /// Waits for requests and takes all there are; false at the end.
    fn take(&self, batch: &mut VecDeque<Request>) -> bool {
        let mut queue = lock(&self.queue);
        while queue.requests.is_empty() && !queue.closing {
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut queue.requests, batch);
        !batch.is_empty()
    }
}

/// No code panics while it holds one of these locks in a state that another could not use.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[allow(
    clippy::disallowed_methods,
    reason = "a service time is a difference of two readings and reaches no decision here"
)]
fn now() -> Instant {
    Instant::now()
}
