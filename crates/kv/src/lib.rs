//! One region of the KV store: a state machine over an ordered engine. Pure.
//!
//! A region holds the keys of a range, and is one group of the host. Commands carry the version of the region that they
//! are meant for, which is looked at when they are proposed and, what counts, when they are applied. A split gives a part
//! of the range to a child, a merge takes a neighbour in; what rises for a key (revisions, fencing tokens, generations of
//! sequences, the epoch) goes on rising through both.
//!
//! What has a time ends by the time of the group's entries, never by a replica's clock: so whoever reads, everybody sees
//! the same.

mod command;
mod descriptor;
mod draft;
mod encoding;
mod execute;
mod image;
pub mod limits;
mod op;
mod region;
mod reply;
mod rows;
mod sessions;
mod surgery;

pub use command::{Command, Commit};
pub use descriptor::{Descriptor, Marks, Standing};
pub use encoding::DecodeError;
pub use execute::{Changed, RegionError};
pub use image::Image;
pub use op::{Compare, Op, Operator, Put, Query, Relation, Request, What};
pub use region::{Effect, Region};
pub use reply::{Found, Refusal, Reply};
pub use rows::{Row, Space};
