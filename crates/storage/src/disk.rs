use std::{fmt, time::Duration};

use bytes::Bytes;

use crate::FileName;

/// Names an operation between [`Disk::submit`] and its [`Completion`]. Chosen by the caller and only echoed; users that
/// share a disk keep their tokens apart by the top byte.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Token(pub u64);

/// What a disk can do. Operations on one file take effect and complete in the order they were submitted; operations on
/// different files in any order. A rename counts for both of its names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Makes an empty file, in place of any of that name; the name is durable at completion. With `reserve` > 0 that many
    /// bytes are allocated and read as zeros, so a later write into them neither grows the file nor runs out of space.
    Create { file: FileName, reserve: u64 },
    /// Writes at an offset, growing the file when needed (a gap reads as zeros). Durable only after a later `Sync`.
    /// A failed write may have left any part of itself; it may be repeated at the same place.
    Write { file: FileName, offset: u64, data: Bytes },
    /// Sets the length. Durable only after a later `Sync`.
    Truncate { file: FileName, len: u64 },
    /// All earlier writes and truncations of this file are durable at completion (fdatasync).
    Sync { file: FileName },
    /// Replaces `to`, atomically; durable at completion. Unsynced writes of `from` stay unsynced.
    Rename { from: FileName, to: FileName },
    /// The name is gone, durably, at completion.
    Remove { file: FileName },
}

impl Op {
    /// The file that this operation is about; a rename's source.
    pub fn file(&self) -> &FileName {
        match self {
            Op::Create { file, .. }
            | Op::Write { file, .. }
            | Op::Truncate { file, .. }
            | Op::Sync { file }
            | Op::Rename { from: file, .. }
            | Op::Remove { file } => file,
        }
    }

    pub fn act(&self) -> Act {
        match self {
            Op::Create { .. } => Act::Create,
            Op::Write { .. } => Act::Write,
            Op::Truncate { .. } => Act::Truncate,
            Op::Sync { .. } => Act::Sync,
            Op::Rename { .. } => Act::Rename,
            Op::Remove { .. } => Act::Remove,
        }
    }
}

/// The end of one operation.
#[derive(Clone, Debug)]
pub struct Completion {
    pub token: Token,
    pub result: Result<(), DiskError>,
    /// The device's service time, without the wait in the queue: what tells a slow disk from a busy one.
    pub took: Duration,
}

/// What was being done when a disk failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    Create,
    Write,
    Truncate,
    Sync,
    Rename,
    Remove,
    List,
    Read,
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Act::Create => "create",
            Act::Write => "write",
            Act::Truncate => "truncate",
            Act::Sync => "sync",
            Act::Rename => "rename",
            Act::Remove => "remove",
            Act::List => "list",
            Act::Read => "read",
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskErrorKind {
    NotFound,
    /// The device or the quota is full. The operation may be repeated once there is space.
    NoSpace,
    /// The device has the bytes no more, and says so (`EIO` of a read): as good as damaged ones. Other bytes of the file
    /// may be fine, and what is written to a new file is.
    Unreadable,
    /// Anything else that the device or the system reports. What became of the operation is unknown.
    Io,
    /// A sync of this file failed earlier. The system may have dropped the unsynced pages and forgotten the error, so a
    /// later success would mean nothing: every later operation on the file fails, but those that do away with it
    /// (`Remove`, and `Create` or `Rename` in its place), after which the name is that of another file.
    Poisoned,
}

impl fmt::Display for DiskErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DiskErrorKind::NotFound => "no such file",
            DiskErrorKind::NoSpace => "no space left",
            DiskErrorKind::Unreadable => "the device cannot read it",
            DiskErrorKind::Io => "I/O error",
            DiskErrorKind::Poisoned => "refused, since an earlier sync of this file failed",
        })
    }
}

/// An operation that failed, and on what.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{act} of {}: {kind}{}", file.as_ref().map_or("the directory", FileName::as_str), OsError(*os_error))]
pub struct DiskError {
    pub kind: DiskErrorKind,
    pub act: Act,
    /// `None`: the directory itself.
    pub file: Option<FileName>,
    /// The system's error number, when a system was asked.
    pub os_error: Option<i32>,
}

impl DiskError {
    pub fn new(kind: DiskErrorKind, act: Act, file: &FileName) -> DiskError {
        DiskError {
            kind,
            act,
            file: Some(file.clone()),
            os_error: None,
        }
    }
}

struct OsError(Option<i32>);

impl fmt::Display for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => write!(f, " (os error {number})"),
            None => Ok(()),
        }
    }
}

/// A flat directory of files that is written without ever blocking the caller.
pub trait Disk {
    /// Queues `op`. Every submitted operation gets exactly one completion, unless the process dies first. The queue's
    /// bound is the caller's to keep: it knows how many completions it still waits for.
    fn submit(&mut self, token: Token, op: Op);

    /// The next completion, if there is one.
    fn poll(&mut self) -> Option<Completion>;
}

/// What only start-up (recovery) may do: these calls block.
pub trait DiskRead {
    /// All files with their lengths in bytes, sorted by name.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn list(&mut self) -> Result<Vec<(FileName, u64)>, DiskError>;

    /// Up to `len` bytes from `offset`: fewer only at the end of the file, none at or past it.
    ///
    /// # Errors
    /// `NotFound`, `Unreadable` when the device cannot give some of the bytes, or `Io`.
    fn read(&mut self, file: &FileName, offset: u64, len: usize) -> Result<Bytes, DiskError>;

    /// Does `op` after everything submitted before it, and waits for it.
    ///
    /// # Errors
    /// Those that the operation's completion would carry.
    fn run(&mut self, op: Op) -> Result<(), DiskError>;
}
