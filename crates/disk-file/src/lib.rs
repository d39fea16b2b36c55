//! Real files behind the [`Disk`](settle_storage::Disk) seam: one directory, its I/O threads, one process at a time.
//!
//! `submit` queues and returns; the threads do the operations of each file in order, sync what they promise, and tell the
//! owner through its `notify`. Bulk files have a thread of their own (`lanes.rs`), so that the log never waits for them,
//! and so has the space of large files that were removed (`freed.rs`).
//! An owner that waits for nothing else may do a small write and its sync on its own thread ([`FileDisk::dispatch`]).
//! Start-up reads go straight to the files from the caller's thread.
//!
//! The page cache survives `kill -9`, so a killed process proves nothing about syncs. For tests there are
//! [`DiskKind::Lossy`], which keeps every unsynced write in the process, so that a kill loses it, and
//! [`DiskKind::LossyWithoutSync`], the build on which a durability test has to fail.

mod directory;
mod file_disk;
mod freed;
mod lanes;
mod lossy;

pub use directory::OpenDirError;
pub use file_disk::{DiskKind, FileDisk, FileDiskOptions};
