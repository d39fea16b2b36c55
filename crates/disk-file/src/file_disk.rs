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

/// What the caller's own thread takes at most, in bytes of writes …
const BY_CALLER_BYTES: usize = 64 << 10;
/// … and only while the disk answers faster than this: a caller that waits for a slow disk does nothing else.
const QUICK: Duration = Duration::from_millis(2);
/// So many dispatches go to the thread after an operation that was not quick.
const BY_THREAD_AFTER_SLOW: u32 = 200;

/// A directory of real files. Dropping it does everything that was submitted, then lets the directory go.
pub struct FileDisk {
    path: PathBuf,
    kind: DiskKind,
    shared: Arc<Shared>,
    /// Completions taken from `shared` and not yet polled.
    completed: VecDeque<Completion>,
    /// Submitted, for the next [`FileDisk::dispatch`]; `None`: each submission goes to the thread at once.
    gathered: Option<VecDeque<Request>>,
    /// Dispatches that still go to the thread since the disk was slow.
    by_thread: u32,
    thread: Option<JoinHandle<()>>,
    /// Holds the directory's lock.
    _lock: File,
}

struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    completed: Mutex<VecDeque<Completion>>,
    /// Held while requests are done, by the thread or by a caller.
    directory: Mutex<Directory>,
    /// Held by the thread while it does an operation, so that a read sees whole ones.
    unsynced: Mutex<Unsynced>,
}

#[derive(Default)]
struct Queue {
    requests: VecDeque<Request>,
    /// Taken requests are being done, by the thread or by a caller: the other one waits.
    is_busy: bool,
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
            directory: Mutex::new(directory),
            unsynced: Mutex::default(),
        });
        let of_thread = shared.clone();
        let kind = options.kind;
        let thread = std::thread::Builder::new()
            .name("settle-disk".to_owned())
            .spawn(move || of_thread.work(kind, notify))
            .map_err(|source| OpenDirError::Thread { source })?;
        Ok(FileDisk {
            path: path.to_owned(),
            kind,
            shared,
            completed: VecDeque::new(),
            gathered: None,
            by_thread: 0,
            thread: Some(thread),
            _lock: lock,
        })
    }

    /// From now on submissions are only gathered, and an owner that has other work to do first calls
    /// [`FileDisk::dispatch`] after it.
    pub fn gather(&mut self) {
        self.gathered.get_or_insert_default();
    }

    /// Lets what was gathered be done. With `by_caller` it is done here and now if it is little, the thread has nothing
    /// to do and the disk is quick: two threads' wake-ups cost more than a fast disk's sync. True when it was, so
    /// that the completions are there; `notify` is not called for them.
    pub fn dispatch(&mut self, by_caller: bool) -> bool {
        let Some(gathered) = self.gathered.as_mut().filter(|gathered| !gathered.is_empty()) else {
            return false;
        };
        let is_small = |request: &Request| match &request.op {
            Op::Write { data, .. } => data.len() <= BY_CALLER_BYTES,
            Op::Sync { .. } => true,
            _ => false,
        };
        let is_little = gathered.len() <= 4 && gathered.iter().all(is_small);
        let wants = by_caller && is_little && self.by_thread == 0;
        self.by_thread = self.by_thread.saturating_sub(1);
        let mut queue = lock(&self.shared.queue);
        if !wants || queue.is_busy || !queue.requests.is_empty() {
            queue.requests.append(gathered);
            drop(queue);
            self.shared.filled.notify_one();
            return false;
        }
        queue.is_busy = true;
        drop(queue);
        self.shared.work_off(gathered, &mut Vec::new(), self.kind, &|| {});
        lock(&self.shared.queue).is_busy = false;
        true
    }

    fn push(&mut self, request: Request) {
        match &mut self.gathered {
            Some(gathered) => gathered.push_back(request),
            None => {
                lock(&self.shared.queue).requests.push_back(request);
                self.shared.filled.notify_one();
            }
        }
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
        let completion = self.completed.pop_front()?;
        if completion.took > QUICK {
            self.by_thread = BY_THREAD_AFTER_SLOW;
        }
        Some(completion)
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
        self.dispatch(false);
        receiver.recv().expect("the thread answers everything before it ends")
    }
}

impl Drop for FileDisk {
    fn drop(&mut self) {
        self.dispatch(false);
        lock(&self.shared.queue).closing = true;
        self.shared.filled.notify_one();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the disk's thread panicked");
        }
    }
}

impl Shared {
    fn work(&self, kind: DiskKind, notify: impl Fn()) {
        let (mut batch, mut done) = (VecDeque::new(), Vec::new());
        while self.take(&mut batch) {
            self.work_off(&mut batch, &mut done, kind, &notify);
            lock(&self.queue).is_busy = false;
        }
        lock(&self.unsynced).write_all_out(&mut lock(&self.directory));
    }

    /// Does everything in `batch` and answers it.
    fn work_off(&self, batch: &mut VecDeque<Request>, done: &mut Vec<Done>, kind: DiskKind, notify: &impl Fn()) {
        let directory = &mut *lock(&self.directory);
        while let Some(request) = batch.pop_front() {
            let is_sync = matches!(request.op, Op::Sync { .. });
            if is_sync {
                self.sync_together(request, batch, directory, kind, done);
            } else {
                done.push(self.time(request, directory, kind));
            }
            // Whoever waits for a sync is not kept waiting for the rest of the batch.
            if is_sync || batch.is_empty() {
                self.answer(done, notify);
            }
        }
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
        // Its owner closes it, so no caller is busy by then.
        while queue.requests.is_empty() && !queue.closing {
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut queue.requests, batch);
        queue.is_busy = !batch.is_empty();
        queue.is_busy
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
