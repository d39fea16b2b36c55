//! What every other crate may rely on: ids, sizes, time as a value, seeded randomness, fixed-hash maps, error codes.
//!
//! Nothing here reads a clock, the environment or an entropy source, and nothing depends on another Settle crate.
//! What does not belong here: anything only one layer needs.

mod code;
mod hash;
mod ids;
pub mod mutants;
mod prng;
mod size;
mod time;

pub use code::{ErrorCode, Retryable};
pub use hash::{FixedHasher, FixedMap, FixedSet, FixedState, fingerprint};
pub use ids::{GroupId, Index, NodeId, PeerId, Term};
pub use prng::Prng;
pub use size::{ByteSize, ParseByteSizeError};
pub use time::{GroupTime, Mono};
