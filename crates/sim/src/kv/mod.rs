//! The KV store: real regions on the host, split and merged without end; clients who put, get, compare, take numbers of
//! sequences and locks.

mod clients;
mod lockers;
mod service;

pub(crate) use clients::Store;
