//! The seam between Settle and a disk: [`Disk`] takes an operation and later gives its completion; it never blocks.
//!
//! Everything above writes through this trait, so the simulator replaces a whole disk, with its torn, lost and reordered
//! writes, by [`MemDisk`]. The promise of every implementation is written as tests in [`contract`].
//!
//! Beside it [`KvEngine`], the seam to an ordered store of keys and values: called, not asked, since who applies a command
//! needs what it reads ([`engine_contract`] is its promise, [`MemEngine`] the one in memory).
//!
//! Architecture invariant: no clock, thread or file is named here. `settle-disk-file` owns the real ones.

pub mod contract;
mod disk;
mod engine;
pub mod engine_contract;
mod image;
mod mem;
mod mem_engine;
mod name;

pub use disk::{Act, Completion, Disk, DiskError, DiskErrorKind, DiskRead, Op, Token};
pub use engine::{
    Batch, Change, Direction, EngineError, KeyRange, KvEngine, KvRead, Limit, Page, Seq, Usage, key_after,
};
pub use mem::{CrashReport, Latency, MemDisk};
pub use mem_engine::{Keeps, MemEngine, MemView};
pub use name::{FileName, FileNameError};
