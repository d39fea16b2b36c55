//! A bounded record on disk of what has happened: entries in segments, the oldest of which go when there are too many bytes
//! or they are too old. What an entry says is its owner's affair.
//!
//! It is written from what a replica applies, and is no part of the replicated state: a loss here is a gap in a record,
//! never a wrong answer about an outcome. Each entry carries the group and the index that it came from, so that a log
//! which is applied again after a restart fills in what a crash cut off, and adds nothing twice.
//!
//! Where a snapshot took the place of the log, nobody told what had happened in between. Such a gap is recorded too: as an
//! entry about nothing, and in the head of every later segment, so that a search can say what it may not have found.
//!
//! A start reads the head of each segment and the last segment whole. A torn end of that one is cut off; damage further
//! back hides the rest of its segment and nothing else.

mod format;
mod gaps;
mod history;
mod search;

pub use gaps::{GAPS_MAX, Gap};
pub use history::{History, HistoryConfig};
pub use search::{Cursor, Found, Page, Search};

/// Something that happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<'a> {
    pub group: u8,
    /// Of the log entry that it came from.
    pub index: u64,
    /// What it is about, 1 or more; one log entry tells of one id once.
    pub id: i64,
    /// When it was recorded, by this node's clock, in milliseconds since 1970.
    pub wall_ms: u64,
    pub payload: &'a [u8],
}
