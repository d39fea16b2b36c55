//! Ranges that split and merge: the toy of `examples/range-map` under every fault, and what every scenario of ranges has.

mod clients;
pub(crate) mod watch;

pub(crate) use clients::Ranges;
