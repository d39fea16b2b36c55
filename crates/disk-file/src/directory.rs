//! The directory and its files: what each operation is in terms of the system.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, FileExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use bytes::{Bytes, BytesMut};
use settle_base::{ErrorCode, Retryable};
use settle_storage::{Act, DiskError, DiskErrorKind, FileName, Op};

use crate::freed::Freed;

/// Not a [`FileName`], so it can collide with none.
const LOCK_FILE: &str = "LOCK";
/// Open files kept at most; beyond it one that owes no sync is closed.
const OPEN_MAX: usize = 64;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenDirError {
    #[error("{} is in use by another process", path.display())]
    Locked { path: PathBuf },
    #[error("open the directory {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("start the disk's thread")]
    Thread { source: io::Error },
}

impl OpenDirError {
    pub fn code(&self) -> ErrorCode {
        match self {
            OpenDirError::Locked { .. } => ErrorCode::new("DF", 1),
            OpenDirError::Open { .. } => ErrorCode::new("DF", 2),
            OpenDirError::Thread { .. } => ErrorCode::new("DF", 3),
        }
    }

    pub fn retryable(&self) -> Retryable {
        match self {
            OpenDirError::Locked { .. } => Retryable::Yes,
            OpenDirError::Open { .. } | OpenDirError::Thread { .. } => Retryable::No,
        }
    }
}

/// Makes the directory if it is not there, and locks it for as long as the returned file is open.
pub(crate) fn lock(path: &Path) -> Result<File, OpenDirError> {
    let failed = |source| {
        let path = path.to_owned();
        OpenDirError::Open { path, source }
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed)?;
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    let lock = options.open(path.join(LOCK_FILE)).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenDirError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// All files of ours with their lengths, sorted.
pub(crate) fn list(path: &Path) -> Result<Vec<(FileName, u64)>, DiskError> {
    let failed = |error| disk_error(Act::List, None, &error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(|name| FileName::new(name).ok()) else {
            continue;
        };
        let metadata = entry.metadata().map_err(failed)?;
        if metadata.is_file() {
            files.push((name, metadata.len()));
        }
    }
    files.sort();
    Ok(files)
}

/// The stored length of one file.
pub(crate) fn len(path: &Path, file: &FileName) -> Result<u64, DiskError> {
    let metadata = std::fs::metadata(path.join(file.as_str()));
    let metadata = metadata.map_err(|error| disk_error(Act::Read, Some(file), &error))?;
    Ok(metadata.len())
}

/// Up to `len` bytes; fewer only at the end of the file. Memory grows with what is read.
pub(crate) fn read(path: &Path, file: &FileName, offset: u64, len: usize) -> Result<Bytes, DiskError> {
    const STEP: usize = 256 << 10;
    let failed = |error| disk_error(Act::Read, Some(file), &error);
    let opened = File::open(path.join(file.as_str())).map_err(failed)?;
    let mut out = BytesMut::new();
    while out.len() < len {
        let have = out.len();
        out.resize(have + STEP.min(len - have), 0);
        match opened.read_at(&mut out[have..], offset + have as u64) {
            Ok(n) => out.truncate(have + n),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => out.truncate(have),
            Err(error) => return Err(failed(error)),
        }
        if out.len() == have {
            break;
        }
    }
    Ok(out.freeze())
}

/// Called on an I/O thread before each operation; what it fails with is as if the system had. For tests.
pub type Before = Arc<dyn Fn(&Op) -> io::Result<()> + Send + Sync>;

/// The files as the I/O threads use them. No two threads are at one file at a time; see `lanes.rs`.
pub(crate) struct Directory {
    path: PathBuf,
    handle: File,
    open: Mutex<BTreeMap<FileName, Arc<OpenFile>>>,
    poisoned: Mutex<BTreeSet<FileName>>,
    freed: Freed,
    before: Option<Before>,
}

struct OpenFile {
    file: File,
    /// Written since the last sync, or, for a file that an earlier process left, perhaps so.
    dirty: AtomicBool,
    dirty_bytes: AtomicU64,
    /// The length was set since then: `fdatasync` need not cover a file that became shorter.
    resized: AtomicBool,
}

impl OpenFile {
    fn new(file: File, resized: bool) -> OpenFile {
        OpenFile {
            file,
            dirty: AtomicBool::new(true),
            dirty_bytes: AtomicU64::new(0),
            resized: AtomicBool::new(resized),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match self.resized.load(Relaxed) {
            true => self.file.sync_all()?,
            false => self.file.sync_data()?,
        }
        self.is_clean();
        Ok(())
    }

    fn is_clean(&self) {
        self.dirty.store(false, Relaxed);
        self.resized.store(false, Relaxed);
        self.dirty_bytes.store(0, Relaxed);
    }
}

impl Directory {
    pub(crate) fn open(path: &Path, before: Option<Before>) -> io::Result<Directory> {
        let handle = File::open(path)?;
        // Names that an earlier process made and did not live to sync.
        handle.sync_all()?;
        Ok(Directory {
            path: path.to_owned(),
            handle,
            open: Mutex::default(),
            poisoned: Mutex::default(),
            freed: Freed::default(),
            before,
        })
    }

    /// Does `op`. `skip_sync`: a sync succeeds without one.
    pub(crate) fn execute(&self, op: &Op, skip_sync: bool) -> Result<(), DiskError> {
        let ends_file = matches!(op, Op::Create { .. } | Op::Remove { .. });
        if !ends_file && self.is_poisoned(op.file()) && !settle_base::mutant!("failed_sync_retried") {
            return Err(DiskError::new(DiskErrorKind::Poisoned, op.act(), op.file()));
        }
        let before = self.before.as_ref().map_or(Ok(()), |before| before(op));
        let done = before.and_then(|()| self.execute_io(op, skip_sync));
        done.map_err(|error| {
            if let Op::Sync { file } = op
                && error.kind() != io::ErrorKind::NotFound
            {
                self.poison(file);
            }
            let error = disk_error(op.act(), Some(op.file()), &error);
            if error.kind == DiskErrorKind::NoSpace {
                self.freed.hasten();
            }
            error
        })
    }

    /// The space of removed files.
    pub(crate) fn freed(&self) -> &Freed {
        &self.freed
    }

    /// Syncs `file` early when more than `most` bytes of it wait for that, so that no sync has much to do at once.
    pub(crate) fn relieve(&self, file: &FileName, most: u64) -> Result<(), DiskError> {
        let Some(open) = lock_of(&self.open).get(file).cloned() else {
            return Ok(());
        };
        if open.dirty_bytes.load(Relaxed) <= most {
            return Ok(());
        }
        open.sync().map_err(|error| {
            self.poison(file);
            disk_error(Act::Sync, Some(file), &error)
        })
    }

    pub(crate) fn poison(&self, file: &FileName) {
        lock_of(&self.poisoned).insert(file.clone());
    }

    fn is_poisoned(&self, file: &FileName) -> bool {
        lock_of(&self.poisoned).contains(file)
    }

    fn execute_io(&self, op: &Op, skip_sync: bool) -> io::Result<()> {
        match op {
            Op::Create { file, reserve } => self.create(file, *reserve),
            Op::Write { file, offset, data } => {
                let open = self.file(file)?;
                open.dirty.store(true, Relaxed);
                open.dirty_bytes.fetch_add(data.len() as u64, Relaxed);
                open.file.write_all_at(data, *offset)
            }
            Op::Truncate { file, len } => {
                let open = self.file(file)?;
                open.dirty.store(true, Relaxed);
                open.resized.store(true, Relaxed);
                open.file.set_len(*len)
            }
            Op::Sync { file } => {
                let open = self.file(file)?;
                if open.dirty.load(Relaxed) && !skip_sync {
                    open.sync()?;
                }
                open.is_clean();
                Ok(())
            }
            Op::Rename { from, to } => {
                std::fs::rename(self.path_of(from), self.path_of(to))?;
                lock_of(&self.poisoned).remove(to);
                let mut files = lock_of(&self.open);
                files.remove(to);
                if let Some(open) = files.remove(from) {
                    files.insert(to.clone(), open);
                }
                drop(files);
                self.handle.sync_all()
            }
            Op::Remove { file } => {
                self.unlink(file)?;
                self.handle.sync_all()
            }
        }
    }

    /// With the file goes what its sync failed to write: the name may be another one's.
    fn unlink(&self, file: &FileName) -> io::Result<()> {
        let path = self.path_of(file);
        let kept = lock_of(&self.open).remove(file);
        // Without a handle its space would go with its name.
        let kept = match kept.and_then(Arc::into_inner) {
            Some(open) => Some(open.file),
            None => OpenOptions::new().write(true).open(&path).ok(),
        };
        std::fs::remove_file(&path)?;
        lock_of(&self.poisoned).remove(file);
        kept.into_iter().for_each(|file| self.freed.push(file));
        Ok(())
    }

    fn create(&self, name: &FileName, reserve: u64) -> io::Result<()> {
        if self.is_poisoned(name) {
            match self.unlink(name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => drop(lock_of(&self.poisoned).remove(name)),
                done => done?,
            }
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let path = self.path_of(name);
        let file = options.open(&path)?;
        if reserve > 0 {
            if let Err(error) = allocate(&file, reserve) {
                // Nothing is created that does not have its space; the first error is the one that tells.
                let _ = std::fs::remove_file(&path);
                lock_of(&self.open).remove(name);
                return Err(error);
            }
            // The length and the extents go to disk now, so that later syncs carry data alone.
            file.sync_all()?;
        }
        self.handle.sync_all()?;
        self.keep(name, Arc::new(OpenFile::new(file, false)));
        Ok(())
    }

    fn file(&self, name: &FileName) -> io::Result<Arc<OpenFile>> {
        if let Some(open) = lock_of(&self.open).get(name) {
            return Ok(open.clone());
        }
        let file = OpenOptions::new().read(true).write(true).open(self.path_of(name))?;
        let open = Arc::new(OpenFile::new(file, true));
        self.keep(name, open.clone());
        Ok(open)
    }

    fn keep(&self, name: &FileName, open: Arc<OpenFile>) {
        let mut files = lock_of(&self.open);
        if files.len() >= OPEN_MAX {
            let is_clean = |(_, open): &(&FileName, &Arc<OpenFile>)| !open.dirty.load(Relaxed);
            let clean = files.iter().find(is_clean).map(|(name, _)| name.clone());
            if let Some(clean) = clean {
                files.remove(&clean);
            }
        }
        files.insert(name.clone(), open);
    }

    fn path_of(&self, name: &FileName) -> PathBuf {
        self.path.join(name.as_str())
    }
}

/// No code panics while it holds one of these locks in a state that another could not use.
pub(crate) fn lock_of<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(target_os = "linux")]
fn allocate(file: &File, len: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len) {
        Ok(()) => Ok(()),
        // Some file systems cannot reserve: the length is right, and running out of space shows at a write.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(len),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn allocate(file: &File, len: u64) -> io::Result<()> {
    file.set_len(len)
}

pub(crate) fn disk_error(act: Act, file: Option<&FileName>, error: &io::Error) -> DiskError {
    /// The same number on every system that there is.
    const EIO: i32 = 5;
    let kind = match error.kind() {
        _ if act == Act::Read && error.raw_os_error() == Some(EIO) => DiskErrorKind::Unreadable,
        io::ErrorKind::NotFound => DiskErrorKind::NotFound,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskErrorKind::NoSpace,
        _ => DiskErrorKind::Io,
    };
    DiskError {
        kind,
        act,
        file: file.cloned(),
        os_error: error.raw_os_error(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_the_device_cannot_read_are_told_from_a_disk_that_fails() {
        let eio = io::Error::from_raw_os_error(5);
        assert_eq!(disk_error(Act::Read, None, &eio).kind, DiskErrorKind::Unreadable);
        assert_eq!(disk_error(Act::Write, None, &eio).kind, DiskErrorKind::Io);
        let too_many_files = io::Error::from_raw_os_error(24);
        assert_eq!(disk_error(Act::Read, None, &too_many_files).kind, DiskErrorKind::Io);
    }
}
