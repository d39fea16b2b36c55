//! The directory and its files: what each operation is in terms of the system.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, FileExt},
    path::{Path, PathBuf},
};

use bytes::{Bytes, BytesMut};
use settle_base::{ErrorCode, Retryable};
use settle_storage::{Act, DiskError, DiskErrorKind, FileName, Op};

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

/// The files as the I/O thread uses them.
pub(crate) struct Directory {
    path: PathBuf,
    handle: File,
    open: BTreeMap<FileName, OpenFile>,
    poisoned: BTreeSet<FileName>,
}

struct OpenFile {
    file: File,
    /// Written since the last sync, or, for a file that an earlier process left, perhaps so.
    dirty: bool,
    /// The length was set since then: `fdatasync` need not cover a file that became shorter.
    resized: bool,
}

impl Directory {
    pub(crate) fn open(path: &Path) -> io::Result<Directory> {
        let handle = File::open(path)?;
        // Names that an earlier process made and did not live to sync.
        handle.sync_all()?;
        Ok(Directory {
            path: path.to_owned(),
            handle,
            open: BTreeMap::new(),
            poisoned: BTreeSet::new(),
        })
    }

    /// Does `op`. `skip_sync`: a sync succeeds without one.
    pub(crate) fn execute(&mut self, op: &Op, skip_sync: bool) -> Result<(), DiskError> {
        if self.poisoned.contains(op.file()) && !settle_base::mutant!("failed_sync_retried") {
            return Err(DiskError::new(DiskErrorKind::Poisoned, op.act(), op.file()));
        }
        let done = self.execute_io(op, skip_sync);
        done.map_err(|error| {
            if let Op::Sync { file } = op
                && error.kind() != io::ErrorKind::NotFound
            {
                self.poisoned.insert(file.clone());
            }
            disk_error(op.act(), Some(op.file()), &error)
        })
    }

    fn execute_io(&mut self, op: &Op, skip_sync: bool) -> io::Result<()> {
        match op {
            Op::Create { file, reserve } => self.create(file, *reserve),
            Op::Write { file, offset, data } => {
                let open = self.file(file)?;
                open.dirty = true;
                open.file.write_all_at(data, *offset)
            }
            Op::Truncate { file, len } => {
                let open = self.file(file)?;
                (open.dirty, open.resized) = (true, true);
                open.file.set_len(*len)
            }
            Op::Sync { file } => {
                let open = self.file(file)?;
                if open.dirty && !skip_sync {
                    if open.resized {
                        open.file.sync_all()?
                    } else {
                        open.file.sync_data()?
                    }
                }
                (open.dirty, open.resized) = (false, false);
                Ok(())
            }
            Op::Rename { from, to } => {
                std::fs::rename(self.path_of(from), self.path_of(to))?;
                self.open.remove(to);
                self.poisoned.remove(to);
                if let Some(open) = self.open.remove(from) {
                    self.open.insert(to.clone(), open);
                }
                self.handle.sync_all()
            }
            Op::Remove { file } => {
                std::fs::remove_file(self.path_of(file))?;
                self.open.remove(file);
                self.handle.sync_all()
            }
        }
    }

    fn create(&mut self, name: &FileName, reserve: u64) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let path = self.path_of(name);
        let file = options.open(&path)?;
        if reserve > 0 {
            if let Err(error) = allocate(&file, reserve) {
                // Nothing is created that does not have its space; the first error is the one that tells.
                let _ = std::fs::remove_file(&path);
                self.open.remove(name);
                return Err(error);
            }
            // The length and the extents go to disk now, so that later syncs carry data alone.
            file.sync_all()?;
        }
        self.handle.sync_all()?;
        let open = OpenFile {
            file,
            dirty: true,
            resized: false,
        };
        self.keep(name.clone(), open);
        Ok(())
    }

    fn file(&mut self, name: &FileName) -> io::Result<&mut OpenFile> {
        if !self.open.contains_key(name) {
            let file = OpenOptions::new().read(true).write(true).open(self.path_of(name))?;
            let open = OpenFile {
                file,
                dirty: true,
                resized: true,
            };
            self.keep(name.clone(), open);
        }
        Ok(self.open.get_mut(name).expect("it was opened just now"))
    }

    fn keep(&mut self, name: FileName, open: OpenFile) {
        if self.open.len() >= OPEN_MAX
            && let Some(clean) = self
                .open
                .iter()
                .find(|(_, open)| !open.dirty)
                .map(|(name, _)| name.clone())
        {
            self.open.remove(&clean);
        }
        self.open.insert(name, open);
    }

    fn path_of(&self, name: &FileName) -> PathBuf {
        self.path.join(name.as_str())
    }
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
    let kind = match error.kind() {
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
