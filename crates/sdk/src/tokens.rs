//! Tokens by which a coordinator knows a registration that comes again: no two alike, in any process.

use std::sync::{
    LazyLock,
    atomic::{AtomicU64, Ordering},
};

/// What tells this process from all others.
static PROCESS: LazyLock<Option<u64>> = LazyLock::new(|| {
    let mut random = [0; 8];
    #[allow(
        clippy::disallowed_methods,
        reason = "once per process, for what must differ between processes"
    )]
    getrandom::fill(&mut random).ok()?;
    Some(u64::from_le_bytes(random))
});

/// Letters and digits; none where the system has no randomness: then nothing is asked for twice.
pub(crate) fn next() -> Option<String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let process = (*PROCESS)?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Some(format!("{process:016x}x{number:x}"))
}
