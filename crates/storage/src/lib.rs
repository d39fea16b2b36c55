//! The seam between Settle and a disk: [`Disk`] takes an operation and later gives its completion; it never blocks.
//!
//! Everything above writes through this trait, so the simulator replaces a whole disk, with its torn, lost and reordered
//! writes, by [`MemDisk`]. The promise of every implementation is written as tests in [`contract`].
//!
//! Architecture invariant: no clock, thread or file is named here. `settle-disk-file` owns the real ones.

pub mod contract;
mod disk;
mod image;
mod mem;
mod name;

pub use disk::{Act, Completion, Disk, DiskError, DiskErrorKind, DiskRead, Op, Token};
pub use mem::{CrashReport, Latency, MemDisk};
pub use name::{FileName, FileNameError};
