//! Ranges that split and merge: the toy of `examples/range-map` under every fault.

mod clients;

pub(crate) use clients::Ranges;
