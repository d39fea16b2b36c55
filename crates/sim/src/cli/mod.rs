//! The command `settle-sim`: words in, runs over all cores, what they covered and how to replay a failure out.

pub(crate) mod arguments;
pub(crate) mod catch;
pub(crate) mod seeds;
