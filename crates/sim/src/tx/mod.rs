//! Money moved between accounts of many databases by applications that behave as Seata's Java clients do: the real gate,
//! machine and driver under real consensus.
//!
//! `apps.rs` is the world of clients and what they hear, `app.rs` one process of it, `threads.rs` and `transfer.rs` the
//! transactions that it runs (AT, TCC with and without a fence table, XA, Saga), `process.rs` what happens to it and what
//! it is called for, `operators.rs` who interferes, `movers.rs` who moves service groups about, `thieves.rs` who wants what is not his, `bank.rs` the databases; `invariants/` judges what was told, asked and logged.
//!
//! What they do as Java does (versions 1.5 to 2.2): a connection of each manager to every server, or one address for all;
//! the server that the xid names is preferred; the resource manager gathers messages into one frame, whose answers come in
//! one; a begin is tried once, an end and a report five times, a branch that meets a lock a few times; a connection that is
//! dead is noticed when it has been silent for too long, and who waits on one that is closed waits for its own timeout.

mod app;
mod apps;
mod bank;
mod invariants;
mod movers;
mod operators;
mod process;
mod thieves;
mod threads;
mod transfer;

pub(crate) use apps::Apps;
