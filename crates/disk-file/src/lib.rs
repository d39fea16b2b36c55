//! Real files behind the [`Disk`](settle_storage::Disk) seam: one directory, one I/O thread, one process at a time.
//!
//! `submit` queues and returns; the thread does the operations in order, syncs what they promise, and tells the owner
//! through its `notify`. An owner that waits for nothing else may do a small write and its sync on its own thread instead
//! ([`FileDisk::dispatch`]). Start-up reads go straight to the files from the caller's thread.
//!
//! The page cache survives `kill -9`, so a killed process proves nothing about syncs. For tests there are
//! [`DiskKind::Lossy`], which keeps every unsynced write in the process, so that a kill loses it, and
//! [`DiskKind::LossyWithoutSync`], the build on which a durability test has to fail.

mod directory;
mod file_disk;
mod lossy;

pub use directory::OpenDirError;
pub use file_disk::{DiskKind, FileDisk, FileDiskOptions};
