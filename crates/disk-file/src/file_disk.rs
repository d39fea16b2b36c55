use std::{
    collections::VecDeque,
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use settle_storage::{Completion, Disk, DiskError, DiskRead, FileName, Op, Token};

use crate::{
    OpenDirError,
    directory::{self, Before, Directory, lock_of as lock},
    lanes::{self, BULK, Ended, LOG, Lanes},
    lossy::Unsynced,
};

/// Written to a bulk file and not synced, in bytes: beyond it the file is synced in between, so that the device never
/// has much of it to do at once.
const BULK_DIRTY_MAX: u64 = 1 << 20;

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

#[derive(Clone, Default)]
pub struct FileDiskOptions {
    pub kind: DiskKind,
    /// Files whose names begin so are written by a thread of their own, and in small steps: what others wait for, the
    /// log above all, never waits for them.
    pub bulk_prefixes: &'static [&'static str],
    /// For tests: called before each operation, on its thread.
    #[doc(hidden)]
    pub before: Option<Before>,
}

impl std::fmt::Debug for FileDiskOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("FileDiskOptions");
        debug
            .field("kind", &self.kind)
            .field("bulk_prefixes", &self.bulk_prefixes);
        debug.finish_non_exhaustive()
    }
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
    bulk_prefixes: &'static [&'static str],
    shared: Arc<Shared>,
    /// Completions taken from `shared` and not yet polled.
    completed: VecDeque<Completion>,
    /// Submitted, for the next [`FileDisk::dispatch`]; `None`: each submission goes to a thread at once.
    gathered: Option<VecDeque<(Op, Answer)>>,
    /// Dispatches that still go to the thread since the disk was slow.
    by_thread: u32,
    threads: Vec<JoinHandle<()>>,
    /// Holds the directory's lock.
    _lock: File,
}

struct Shared {
    lanes: Lanes<Answer>,
    directory: Directory,
    completed: Mutex<VecDeque<Completion>>,
    /// Held by a thread while it does an operation of a lossy disk, so that a read sees whole ones.
    unsynced: Mutex<Unsynced>,
    notify: Mutex<Box<dyn Fn() + Send>>,
}

type Request = lanes::Request<Answer>;

/// An operation that has ended and whose owner does not know yet.
struct Done {
    ended: Ended,
    answer: Answer,
    result: Result<(), DiskError>,
    took: Duration,
}

enum Answer {
    Completion(Token),
    Caller(SyncSender<Result<(), DiskError>>),
}

impl FileDisk {
    /// Opens the directory `path`, made if absent, for this process alone. `notify` is called on a thread of the disk
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
        let directory = Directory::open(path, options.before).map_err(|source| {
            let path = path.to_owned();
            OpenDirError::Open { path, source }
        })?;
        let shared = Arc::new(Shared {
            lanes: Lanes::new(),
            directory,
            completed: Mutex::default(),
            unsynced: Mutex::default(),
            notify: Mutex::new(Box::new(notify)),
        });
        let kind = options.kind;
        let mut disk = FileDisk {
            path: path.to_owned(),
            kind,
            bulk_prefixes: options.bulk_prefixes,
            shared: shared.clone(),
            completed: VecDeque::new(),
            gathered: None,
            by_thread: 0,
            threads: Vec::new(),
            _lock: lock,
        };
        let mut start = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
            disk.threads
                .push(thread.map_err(|source| OpenDirError::Thread { source })?);
            Ok(())
        };
        for (lane, name) in [(LOG, "settle-disk"), (BULK, "settle-disk-bulk")] {
            let shared = shared.clone();
            start(name, Box::new(move || shared.work(lane, kind)))?;
        }
        start("settle-disk-free", Box::new(move || shared.directory.freed().work()))?;
        Ok(disk)
    }

    /// From now on submissions are only gathered, and an owner that has other work to do first calls
    /// [`FileDisk::dispatch`] after it.
    pub fn gather(&mut self) {
        self.gathered.get_or_insert_default();
    }

    /// Whether [`FileDisk::dispatch`] has something to do.
    pub fn has_gathered(&self) -> bool {
        self.gathered.as_ref().is_some_and(|gathered| !gathered.is_empty())
    }

    /// Lets what was gathered be done. With `by_caller` it is done here and now if it is little, the log's thread has
    /// nothing to do and the disk is quick: two threads' wake-ups cost more than a fast disk's sync. Bulk files go to
    /// their thread in any case. True when it was done here, so that completions are there; `notify` is not called for
    /// them.
    pub fn dispatch(&mut self, by_caller: bool) -> bool {
        let Some(gathered) = self.gathered.as_mut().filter(|gathered| !gathered.is_empty()) else {
            return false;
        };
        let mut gathered = std::mem::take(gathered);
        let is_small = |op: &Op| match op {
            Op::Write { data, .. } => data.len() <= BY_CALLER_BYTES,
            Op::Sync { .. } => true,
            _ => false,
        };
        // A rename ties two files together, so nothing is taken out of a turn that has one.
        let is_rename = |op: &Op| matches!(op, Op::Rename { .. });
        if !gathered.iter().any(|(op, _)| is_rename(op)) {
            let (bulk, log) = gathered.into_iter().partition(|(op, _)| self.lane_of(op) == BULK);
            gathered = log;
            VecDeque::into_iter(bulk).for_each(|(op, answer)| self.shared.lanes.push(BULK, op, answer));
        }
        let is_little = !gathered.is_empty() && gathered.len() <= 4 && gathered.iter().all(|(op, _)| is_small(op));
        let wants = by_caller && is_little && self.by_thread == 0;
        self.by_thread = self.by_thread.saturating_sub(1);
        let mut batch = VecDeque::new();
        let stands_in = wants && self.shared.lanes.stand_in(LOG, &mut gathered, &mut batch);
        if stands_in {
            self.shared.work_off(LOG, &mut batch, &mut Vec::new(), self.kind, false);
        }
        for (op, answer) in gathered {
            self.shared.lanes.push(self.lane_of(&op), op, answer);
        }
        stands_in
    }

    fn push(&mut self, op: Op, answer: Answer) {
        match &mut self.gathered {
            Some(gathered) => gathered.push_back((op, answer)),
            None => self.shared.lanes.push(self.lane_of(&op), op, answer),
        }
    }

    fn lane_of(&self, op: &Op) -> usize {
        let has_bulk_name = |file: &FileName| self.bulk_prefixes.iter().any(|p| file.as_str().starts_with(p));
        let is_bulk = match op {
            // Who asked for the new name waits for it.
            Op::Rename { to, .. } => has_bulk_name(to),
            op => has_bulk_name(op.file()),
        };
        if is_bulk { BULK } else { LOG }
    }
}

impl Disk for FileDisk {
    fn submit(&mut self, token: Token, op: Op) {
        self.push(op, Answer::Completion(token));
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
            let read = || directory::read(&self.path, file, offset, len);
            return self.shared.directory.freed().while_reading(read);
        }
        let unsynced = lock(&self.shared.unsynced);
        let stored = directory::read(&self.path, file, offset, len)?;
        let stored_len = directory::len(&self.path, file)?;
        Ok(unsynced.overlay(file, offset, len, stored, stored_len))
    }

    fn run(&mut self, op: Op) -> Result<(), DiskError> {
        let (sender, receiver) = sync_channel(1);
        self.dispatch(false);
        self.shared.lanes.wait_for_all();
        self.push(op, Answer::Caller(sender));
        self.dispatch(false);
        receiver.recv().expect("the thread answers everything before it ends")
    }
}

impl Drop for FileDisk {
    fn drop(&mut self) {
        self.dispatch(false);
        self.shared.lanes.close();
        self.shared.directory.freed().close();
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(
                ended.is_ok() || std::thread::panicking(),
                "a thread of the disk panicked"
            );
        }
        lock(&self.shared.unsynced).write_all_out(&self.shared.directory);
    }
}

impl Shared {
    fn work(&self, lane: usize, kind: DiskKind) {
        let (mut batch, mut done) = (VecDeque::new(), Vec::new());
        while self.lanes.take(lane, &mut batch) {
            self.work_off(lane, &mut batch, &mut done, kind, true);
        }
    }

    /// Does everything in `batch` and answers it.
    fn work_off(
        &self,
        lane: usize,
        batch: &mut VecDeque<Request>,
        done: &mut Vec<Done>,
        kind: DiskKind,
        notifies: bool,
    ) {
        while let Some(request) = batch.pop_front() {
            self.lanes.wait_for_turn(lane, &request);
            let is_sync = matches!(request.op, Op::Sync { .. });
            if is_sync {
                self.sync_together(request, lane, batch, kind, done);
            } else {
                done.push(self.time(request, lane, kind));
            }
            // Whoever waits for a sync is not kept waiting for the rest of the batch; nor is the other lane, which may
            // wait for any file here.
            if is_sync || lane == BULK || batch.is_empty() {
                let rests = batch.is_empty().then_some(lane);
                self.answer(done, rests, notifies);
            }
        }
    }

    /// One sync for `first` and for those that follow it with nothing but writes of the same file between: a sync that
    /// comes later than asked promises no less.
    fn sync_together(
        &self,
        first: Request,
        lane: usize,
        batch: &mut VecDeque<Request>,
        kind: DiskKind,
        done: &mut Vec<Done>,
    ) {
        let file = first.op.file().clone();
        let mut syncs = vec![(done.len(), first.ended(), first.answer)];
        while !self.lanes.is_crossed(lane, &file) {
            let is_write = |r: &&Request| matches!(&r.op, Op::Write { file: of, .. } if *of == file);
            let writes = batch.iter().take_while(is_write).count();
            if !batch
                .get(writes)
                .is_some_and(|r| matches!(&r.op, Op::Sync { file: of } if *of == file))
            {
                break;
            }
            for write in batch.drain(..writes) {
                done.push(self.time(write, lane, kind));
            }
            let sync = batch.pop_front().expect("it was just seen");
            syncs.push((done.len(), sync.ended(), sync.answer));
        }
        let started = now();
        let result = self.execute(Op::Sync { file }, kind);
        let took = now().duration_since(started);
        // From the last, so that the places of the others stay what they were.
        for (at, ended, answer) in syncs.into_iter().rev() {
            let result = result.clone();
            let one = Done {
                ended,
                answer,
                result,
                took,
            };
            done.insert(at, one);
        }
    }

    fn time(&self, request: Request, lane: usize, kind: DiskKind) -> Done {
        let ended = request.ended();
        let written = match &request.op {
            Op::Write { file, .. } if lane == BULK && kind == DiskKind::Real => Some(file.clone()),
            _ => None,
        };
        let started = now();
        let mut result = self.execute(request.op, kind);
        if let Some(file) = written.filter(|_| result.is_ok()) {
            result = self.directory.relieve(&file, BULK_DIRTY_MAX);
        }
        let took = now().duration_since(started);
        Done {
            ended,
            answer: request.answer,
            result,
            took,
        }
    }

    fn answer(&self, done: &mut Vec<Done>, rests: Option<usize>, notifies: bool) {
        let mut untold = false;
        let mut completed = lock(&self.completed);
        let mut callers = Vec::new();
        let mut ended = Vec::with_capacity(done.len());
        for one in done.drain(..) {
            let result = one.result;
            match one.answer {
                Answer::Caller(caller) => callers.push((caller, result)),
                Answer::Completion(token) => {
                    let took = one.took;
                    completed.push_back(Completion { token, result, took });
                    untold = true;
                }
            }
            ended.push(one.ended);
        }
        drop(completed);
        self.lanes.end(&ended);
        // Before anybody hears of it: who then asks for more finds the lane free.
        if let Some(lane) = rests {
            self.lanes.rest(lane);
        }
        for (caller, result) in callers {
            // A caller that is gone has no use for the answer.
            drop(caller.send(result));
        }
        if untold && notifies {
            lock(&self.notify)();
        }
    }

    fn execute(&self, op: Op, kind: DiskKind) -> Result<(), DiskError> {
        match kind {
            DiskKind::Real => self.directory.execute(&op, false),
            DiskKind::Lossy => lock(&self.unsynced).execute(op, &self.directory, false),
            DiskKind::LossyWithoutSync => lock(&self.unsynced).execute(op, &self.directory, true),
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "a service time is a difference of two readings and reaches no decision here"
)]
fn now() -> Instant {
    Instant::now()
}
