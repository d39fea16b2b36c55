//! What a Rust service links to begin, join and end global transactions: a client of the Seata wire, at home with
//! Settle's coordinators.
//!
//! - [`Tm`] begins transactions and ends them. A [`Transaction`] that is dropped open is rolled back.
//! - [`Tm::run`] does work in a transaction, with Seata's [`Propagation`] modes; [`current`] tells which one a task is in.
//! - [`Rm`] serves resources: it registers branches, and the coordinator calls a [`TccResource`] for their second phase.
//! - [`fence`] makes second-phase calls harmless when they come twice, late, or before their phase one, in the
//!   application's own database transaction.
//! - [`saga`]: steps with compensations, written as a function, that survive their process.
//! - [`connection`] is one connection without any of that, for load generators and tests.
//!
//! # What it promises
//! - Any address will do. A request goes to a coordinator that is well, and through another when its answer is late; a
//!   lost connection comes back by itself, and resources are registered again.
//! - A commit, a rollback and a question for the status are asked as often as needed: the coordinator decides once, and
//!   tells the same outcome to whoever asks. A commit is `Ok` only when it is decided for good.
//! - Errors tell *not done* from *may have been done* ([`Error::retryable`]). A branch is registered at most once by one
//!   call: it is asked again only of coordinators that know a registration that comes again, which Settle's do.
//! - A transaction of which a branch may be registered that nobody knows of does not commit.
//! - Nothing is unbounded: every queue and wait has its field in [`Options`].
//!
//! Two services to start from are among the examples: `office` behind HTTP by `axum`, `office-grpc` behind gRPC by `tonic`.
//!
//! # A service that keeps money
//! ```no_run
//! # #[cfg(feature = "rusqlite")]
//! # mod example {
//! use std::{sync::{Arc, Mutex}, time::Duration};
//!
//! use rusqlite::{Connection, TransactionBehavior};
//! use settle_sdk::{
//!     BranchCall, Options, Rm, TccError, TccFuture, TccResource, Tm,
//!     fence::{self, FenceKey, Pass},
//! };
//!
//! const ACCOUNTS: &str = "accounts";
//!
//! /// Accounts in this service's own database: `balance` and, of open transactions, `frozen`.
//! struct Accounts(Mutex<Connection>);
//!
//! impl Accounts {
//!     /// Phase one: freezes the amount, if the fence still lets it.
//!     fn freeze(&self, key: FenceKey<'_>, account: i64, amount: i64) -> Result<(), TccError> {
//!         let mut database = self.0.lock().expect("no holder of this lock panics");
//!         let mut tx = database.transaction_with_behavior(TransactionBehavior::Immediate).map_err(TccError::retryable)?;
//!         fence::prepare(&mut tx, key)?;
//!         let sql = "UPDATE account SET balance = balance - ?2, frozen = frozen + ?2 WHERE id = ?1 AND balance >= ?2";
//!         if tx.execute(sql, (account, amount)).map_err(TccError::retryable)? == 0 {
//!             return Err(TccError::unretryable("there is not enough money"));
//!         }
//!         tx.commit().map_err(TccError::retryable)
//!     }
//!
//!     /// Phase two: what was frozen is gone, or comes back.
//!     fn end(&self, call: &BranchCall, is_commit: bool) -> Result<(), TccError> {
//!         let (account, amount): (i64, i64) = call.context().map_err(TccError::unretryable)?;
//!         let mut database = self.0.lock().expect("no holder of this lock panics");
//!         let mut tx = database.transaction_with_behavior(TransactionBehavior::Immediate).map_err(TccError::retryable)?;
//!         let (pass, sql) = if is_commit {
//!             let sql = "UPDATE account SET frozen = frozen - ?2 WHERE id = ?1";
//!             (fence::commit(&mut tx, call.into())?, sql)
//!         } else {
//!             let sql = "UPDATE account SET balance = balance + ?2, frozen = frozen - ?2 WHERE id = ?1";
//!             (fence::rollback(&mut tx, call.into())?, sql)
//!         };
//!         if pass == Pass::Do {
//!             tx.execute(sql, (account, amount)).map_err(TccError::retryable)?;
//!         }
//!         tx.commit().map_err(TccError::retryable)
//!     }
//! }
//!
//! impl TccResource for Accounts {
//!     fn name(&self) -> &str {
//!         ACCOUNTS
//!     }
//!     fn commit<'a>(&'a self, call: &'a BranchCall) -> TccFuture<'a> {
//!         Box::pin(async move { self.end(call, true) })
//!     }
//!     fn rollback<'a>(&'a self, call: &'a BranchCall) -> TccFuture<'a> {
//!         Box::pin(async move { self.end(call, false) })
//!     }
//! }
//!
//! async fn pay(accounts: Arc<Accounts>) -> Result<(), Box<dyn std::error::Error>> {
//!     let options = Options::new(["127.0.0.1:8091", "127.0.0.1:8191", "127.0.0.1:8291"], "bank");
//!     let rm = Rm::connect(options.clone(), vec![accounts.clone()]).await?;
//!     let tm = Tm::connect(options).await?;
//!
//!     let transaction = tm.begin("pay", Duration::from_secs(60)).await?;
//!     // From here on every `?` rolls back: the transaction is dropped.
//!     let context = (7_i64, 100_i64);
//!     let branch_id = rm.register(transaction.xid(), ACCOUNTS, &context).await?;
//!     let key = FenceKey { xid: transaction.xid(), branch_id, action: ACCOUNTS };
//!     accounts.freeze(key, context.0, context.1)?;
//!     // Other services join under `transaction.xid()`.
//!     transaction.commit().await?;
//!     Ok(())
//! }
//! # }
//! ```

mod at;
pub mod connection;
mod coordinators;
mod current;
mod dispatch;
mod error;
pub mod fence;
#[cfg(feature = "http")]
pub mod http;
mod marks;
mod options;
mod outcome;
mod rm;
pub mod saga;
mod scope;
mod tcc;
#[cfg(feature = "tls")]
mod tls;
mod tm;
mod tokens;
mod transaction;

pub use coordinators::Health;
pub use current::{Current, Unsure, Within, current, within, within_sync};
pub use error::{Act, Error};
pub use options::{AccessKey, Options};
pub use outcome::{Decision, Outcome, Progress, Standing};
pub use rm::Rm;
pub use scope::{Propagation, ScopeError};
pub use settle_base::{ErrorCode, Retryable};
pub use settle_seata_wire::{BranchStatus, BranchType, ExceptionCode, GlobalStatus};
pub use tcc::{BranchCall, TccError, TccFuture, TccResource};
#[cfg(feature = "tls")]
pub use tls::Tls;
pub use tm::Tm;
pub use transaction::Transaction;
