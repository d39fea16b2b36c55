//! Money moved between accounts of two databases by applications whose every message may be lost: the real gate, machine
//! and driver under real consensus.

mod apps;
mod bank;

pub(crate) use apps::Apps;
