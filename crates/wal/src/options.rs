use settle_base::ByteSize;

/// The bounds of a [`Wal`](crate::Wal).
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// A segment is closed before it would grow past this; a batch that is larger gets a segment of its own.
    pub segment_bytes: u64,
    /// Appended and not yet flushed, at most: beyond it `append` answers `Backlog`. Also the largest batch's body.
    pub max_batch_bytes: usize,
    /// Flushes whose sync has not completed, at most.
    pub max_in_flight: usize,
    /// Dead segments that are kept, at most; 0: none. One is kept for a start on a full disk, the others become new ones.
    pub spares_max: usize,
    /// Bytes zeroed in one step of a spare's preparation.
    pub spare_step_bytes: usize,
    /// Copies of damaged segments that are kept for whoever looks into it, at most.
    pub evidence_files_max: usize,
}

impl Default for WalOptions {
    fn default() -> WalOptions {
        WalOptions {
            segment_bytes: ByteSize::mib(64).bytes(),
            max_batch_bytes: 32 << 20,
            max_in_flight: 2,
            spares_max: 3,
            spare_step_bytes: 256 << 10,
            evidence_files_max: 4,
        }
    }
}
