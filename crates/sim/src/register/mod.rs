//! Versioned registers: the smallest service that can lose a write, double one, or read stale.

mod clients;
mod machine;
mod service;

pub(crate) use clients::Registers;
