//! What is bounded. A change of any of these changes what applying does, so it comes with another version of it.

/// A key, in bytes.
pub const KEY_MAX: usize = 8 << 10;
/// A value, in bytes.
pub const VALUE_MAX: usize = 1 << 20;
/// Comparisons of a transaction; operations of either of its parts; requests of a command.
pub const OPS_MAX: usize = 1024;
/// The name of a lock's owner, in bytes.
pub const OWNER_MAX: usize = 1 << 10;
/// What a lock's owner has to say to the others, in bytes.
pub const CONTEXT_MAX: usize = 4 << 10;
/// Rows of one answer, and rows that one operation deletes.
pub const ROWS_MAX: u32 = 1024;
/// Bytes of the rows of one answer; one row is given however large it is.
pub const ROWS_BYTES_MAX: usize = 1 << 20;
/// Sessions whose last request is remembered.
pub const SESSIONS_MAX: usize = 4096;
/// A longer answer is not kept: who asks again is told that it was done.
pub const KEPT_REPLY_MAX: usize = 1 << 10;
/// Rows that one entry removes because their time is over, and as many that a split gave away.
pub const SWEPT_ROWS_MAX: usize = 64;
