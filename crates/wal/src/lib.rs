//! One log for all groups of a node: append in memory, flush as one write and one sync, recover exactly what was durable.
//!
//! [`Wal`] is a state machine over [`Disk`](settle_storage::Disk): it submits operations, takes their completions, and says
//! up to which [`Lsn`] everything is durable. One sync covers the waiting records of every group (group commit).
//!
//! # Layout
//! Segment files `wal-<16 hex digits>.seg`, numbered without gaps, each a 64-byte header and then batches, one after the
//! other. A batch is a 64-byte header and a body of records, both under CRC-32C; all integers little-endian. Each batch
//! carries its own [`Lsn`] and `durable_to`, the Lsn up to which everything was durable when it was written. The first
//! batch of a segment ends with a checkpoint: what is known of every group except its entries, so that older segments
//! can go once their entries are dead: they become spares, are zeroed and then reused (`spares.rs`). A process never
//! appends to a segment of an earlier one.
//!
//! # Damage (design, correctness contract: log damage)
//! A bad batch at Lsn X with proof, in any later batch header, that X was durable, is corruption. The segment is copied
//! aside, a *hole* is written over the beginning of what does not read, so that the log reads on behind it, and the groups
//! that it may have held go back to what is certain (`rebuild.rs`): they are [`Damage::Middle`] unless nothing was lost.
//! Without proof it is the unsynced tail, or an acknowledged last batch that rotted, and nobody can tell which: the tail
//! is cut off, and the groups that it may have held are [`Damage::LastBatch`]. Both are remembered over restarts until
//! [`Record::Healed`] is durable. A tail that is absent or all zeros is no damage. A log of which nothing reads, or one
//! of another directory, is refused. Bytes that the device cannot read are damaged bytes (`bad_blocks.rs`).
//! The fault model: sectors of 512 bytes are atomic, and a completed sync is true.

mod bad_blocks;
mod error;
mod format;
mod groups;
mod marks;
mod options;
mod rebuild;
mod record;
mod recovery;
mod scan;
mod segment_reader;
mod spares;
mod unproven;
mod wal;

pub use error::WalError;
pub use format::{LogIdentity, Lsn, SPARE_PREFIX};
pub use groups::{Damage, LiveEntries, RecoveredGroup};
pub use options::WalOptions;
pub use record::{HardState, Record, Snapshot, WalEntry};
pub use recovery::{RecoveryReport, evidence_name, is_evidence};
pub use wal::{TOKEN_SPACE, Wal, WalProgress, WalStats};

/// Decodes `bytes` as the body of a batch of `records` records: the entry point for fuzzing.
pub fn fuzz_decode_body(bytes: bytes::Bytes, records: u32) -> Option<Vec<Record>> {
    record::decode_body(bytes, records)
}

/// Reads `bytes` as a segment header and as a batch header: the entry point for fuzzing.
pub fn fuzz_decode_headers(bytes: &[u8]) {
    let _ = format::SegmentHeader::decode(bytes);
    let _ = format::BatchHeader::decode(bytes);
}
