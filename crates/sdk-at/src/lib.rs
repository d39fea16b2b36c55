//! AT for Rust services on MySQL and MariaDB: plain SQL in a local transaction that commits at once, and is taken back
//! when the global transaction is rolled back.
//!
//! What a statement changes is read before and after, and written as an undo log in the same local transaction. The log,
//! the global locks and the resource's id are those of Seata's Java client (`seata-all` 1.5 to 2.x with the parser
//! `jackson`), so that Rust and Java services share tables, and each can take back what the other did.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use settle_sdk::{Options, Tm};
//! use settle_sdk_at::{At, AtOptions, params};
//!
//! # async fn pay() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = sqlx::MySqlPool::connect("mysql://bank@127.0.0.1/bank").await?;
//! let options = Options::new(["127.0.0.1:8091", "127.0.0.1:8191", "127.0.0.1:8291"], "bank");
//! let tm = Tm::connect(options.clone()).await?;
//! let at = At::connect(AtOptions::new("jdbc:mysql://127.0.0.1:3306/bank"), options, pool).await?;
//!
//! let transaction = tm.begin("pay", Duration::from_secs(60)).await?;
//! let mut local = at.begin(transaction.xid()).await?;
//! let sql = "UPDATE account SET balance = balance - ? WHERE id = ? AND balance >= ?";
//! let paid = local.execute(sql, &params![100, 7, 100]).await?;
//! if paid.rows == 1 {
//!     local.commit().await?;
//!     // Other services join under `transaction.xid()`.
//!     transaction.commit().await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What it promises
//! - A statement that could not be taken back exactly is an error that says why, and is not run. Nothing runs plain that
//!   might write: what the parser does not understand whole is refused.
//! - Exactly the rows that were kept are changed: a statement's condition picks and locks rows, which are then updated or
//!   deleted by their primary keys.
//! - A branch's local commit and its undo log are one local transaction, under global locks that were taken before.
//! - A rollback puts back what the branch left. What somebody outside has changed since stays as it is, and the
//!   coordinator is told that an operator has to look: another value in the row, a row that refers to one that would go,
//!   a constraint that is in the way.
//! - A phase one that comes after its rollback cannot commit.
//!
//! # SQL
//! Of one table with a primary key, in the connection's own database:
//!
//! | statement | |
//! |---|---|
//! | `SELECT …` | runs as it is; the global locks are not looked at |
//! | `SELECT … FOR UPDATE` | waits for other global transactions that hold the rows which it returns, or an aggregate is over |
//! | `INSERT … VALUES (…), …` | keys given as `?` or plain literals, or numbered by the database, for all rows alike |
//! | `INSERT … VALUES (…) ON DUPLICATE KEY UPDATE …` | one row with its key, in a table without a further unique key |
//! | `UPDATE … SET … WHERE …`, with an alias, `ORDER BY` and `LIMIT` | not of the primary key |
//! | `DELETE FROM … WHERE …`, with `ORDER BY` and `LIMIT` | |
//! | composite primary keys | locked in the order in which Java names the columns |
//! | columns computed by the database | left out of what is kept |
//!
//! | refused | why |
//! |---|---|
//! | several tables, joins, `INSERT … SELECT` | not supported |
//! | `INSERT IGNORE`, other forms of `ON DUPLICATE KEY UPDATE`, `REPLACE`, `RETURNING` | not supported |
//! | `DIV`, optimizer comments, hints, partitions | the parser cannot be relied on |
//! | an assignment to the primary key | the row could not be found again |
//! | a key by an expression or of another type than its column, `0` for an automatic one | the row could not be found |
//! | `SELECT … FOR UPDATE` with `LIMIT` and an aggregate, or an `ORDER BY` of a place or an alias | rows are picked before it runs |
//! | `CREATE`, `ALTER`, `DROP`, `TRUNCATE`, `LOCK TABLES`, `COMMIT`, `SAVEPOINT`, `SET`, `CALL`, several statements | they commit, or change what nobody sees |
//! | stored functions | they may change anything |
//! | tables without a primary key, views, engines other than InnoDB, triggers | what changes cannot be told |
//! | a `DELETE`, or an `UPDATE` of columns, that a foreign key of another table follows | the other table's rows would not be kept |
//! | an `INSERT` of rows that others may refer to without a unique key, or in a table that cannot be read, when they follow its deletes | whether any do could not be told at a rollback |
//! | columns of type `FLOAT`, `YEAR`, `TINYINT(1) UNSIGNED`, geometry; dates without [`AtOptions::zone`]; zero dates, times beyond a day | Java does not keep them exactly |
//! | a session with `ANSI_QUOTES` or `NO_BACKSLASH_ESCAPES` | it reads SQL in another way |
//!
//! # Beside global transactions
//! Work that belongs to no global transaction, and must not build on rows that one may still take back, begins with
//! [`At::begin_outside`] or [`At::run_outside`] (Java's `@GlobalLock`): the same SQL, which keeps off the rows that global
//! transactions hold. What it changes has no undo log, so any kind of column but in the key is allowed.
//!
//! # What it cannot see
//! - Tables are looked up again every [`AtOptions::table_max_age`]: changes of the schema want as much caution as with the
//!   Java client.
//! - Triggers are seen by accounts with the privilege `TRIGGER` on the table, foreign keys of other tables by those that
//!   may write in the whole database. Without both, tables are refused unless [`AtOptions::trust_unseen`] says that there
//!   are none. Foreign keys of tables in *other* databases, on which the account has no privilege, are not seen by anybody
//!   but an administrator; and privileges that MySQL grants by a role are not counted.
//! - A view that calls a stored function is read like any table.
//! - Whoever writes to these tables outside of global transactions is not kept from it, and is found out only when a
//!   rollback meets the row.

pub mod statement;
pub mod undo;
mod value;

#[cfg(feature = "database")]
mod at;
#[cfg(feature = "database")]
mod branch;
#[cfg(feature = "database")]
mod change;
#[cfg(feature = "database")]
mod civil;
#[cfg(feature = "database")]
mod error;
#[cfg(feature = "database")]
mod grants;
#[cfg(feature = "database")]
mod image;
#[cfg(feature = "database")]
mod kind;
#[cfg(feature = "database")]
mod local;
#[cfg(feature = "database")]
mod options;
#[cfg(feature = "database")]
mod put_back;
#[cfg(feature = "database")]
mod references;
#[cfg(feature = "database")]
mod resource;
#[cfg(feature = "database")]
mod restore;
#[cfg(feature = "database")]
mod schema;
#[cfg(feature = "database")]
mod session;
#[cfg(feature = "database")]
mod table;
#[cfg(feature = "database")]
mod undo_rows;

pub use undo::JavaPackage;
pub use value::Value;

#[cfg(feature = "database")]
pub use {
    at::At,
    branch::{AtTransaction, Done},
    error::{AtError, DirtyCause},
    options::{AtOptions, Zone, resource_id},
    resource::AtResource,
};
