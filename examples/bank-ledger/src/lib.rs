//! A bank's ledger as a replicated state machine: accounts, and transfers between them that make and lose no money.
//!
//! It shows what a machine of some size takes care of. A snapshot shares the accounts with the machine and copies only
//! those parts that change while it is being written ([`settle_machine::SharedMap`]); the hash of the state is kept up to
//! date with every change, so that replicas compare themselves while they serve; what a client may do wrong is an effect,
//! not an error.

mod accounts;
mod command;
mod ledger;

pub use command::{Command, Refusal};
pub use ledger::{Balance, Ledger};
