//! A toy that splits and merges: a map from numbers to values, cut into ranges, one group each.
//!
//! It is the whole of what a store of regions needs of consensus, without the store: [`RangeMap`] is the machine of one
//! range, [`RangeService`] finds the range of a key, and leaves splits and merges to the [`Surgeon`](settle_machine::ranges::Surgeon).
//! The rules are TiKV's (`components/raftstore/src/store/fsm/apply.rs`), with two differences that make them simpler:
//! a source stays, silent, until every replica of its target holds the merged state durably; and whether a merge comes
//! about is decided in the target's log alone, so no quorum has to agree on giving it up.
//!
//! The simulator drives it: `cargo xtask sim --scenario range`.

mod codec;
mod command;
mod machine;
mod merge;
mod service;

pub use command::{Command, Commit, Put};
pub use machine::{Cell, Effect, RangeMap, WHOLE};
pub use service::{Counters, RangeService, Request, Response};
