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
//! - A rollback puts back what the branch left. A row that somebody outside has changed since stays as it is, and the
//!   coordinator is told that an operator has to look.
//! - A phase one that comes after its rollback cannot commit.
//!
//! # SQL
//! Of one table with a primary key, in the connection's own database:
//!
//! | statement | |
//! |---|---|
//! | `SELECT …` | runs as it is; the global locks are not looked at |
//! | `SELECT … FOR UPDATE` | waits for other global transactions that hold the rows |
//! | `INSERT … VALUES (…), …` | keys given as `?` or plain literals, or numbered by the database, for all rows alike |
//! | `UPDATE … SET … WHERE …`, with an alias, with `LIMIT` | not of the primary key |
//! | `DELETE FROM … WHERE …`, with `ORDER BY` and `LIMIT` | |
//! | composite primary keys | locked in the order in which Java names the columns |
//! | columns computed by the database | left out of what is kept |
//!
//! | refused | why |
//! |---|---|
//! | several tables, joins, `INSERT … SELECT` | not supported |
//! | `INSERT IGNORE`, `ON DUPLICATE KEY UPDATE`, `REPLACE`, `RETURNING` | not supported |
//! | an `UPDATE` with `ORDER BY`, `DIV`, optimizer comments, hints, partitions | the parser cannot be relied on |
//! | an assignment to the primary key | the row could not be found again |
//! | a key by an expression, or `0` for an automatic one | the row could not be found |
//! | `CREATE`, `ALTER`, `DROP`, `TRUNCATE`, `LOCK TABLES`, `COMMIT`, `SAVEPOINT`, `SET`, `CALL`, several statements | they commit, or change what nobody sees |
//! | stored functions | they may change anything |
//! | tables without a primary key, views, engines other than InnoDB, triggers | what changes cannot be told |
//! | a `DELETE` or `UPDATE` that a foreign key of another table follows | the other table's rows would not be kept |
//! | columns of type `FLOAT`, `YEAR`, `TINYINT(1) UNSIGNED`, geometry; dates without [`AtOptions::zone`]; zero dates, times beyond a day | Java does not keep them exactly |
//! | a session with `ANSI_QUOTES` or `NO_BACKSLASH_ESCAPES` | it reads SQL in another way |
//!
//! Triggers are seen by accounts with the privilege `TRIGGER` on the tables, and tables are looked up again every
//! [`AtOptions::table_max_age`]: changes of the schema want as much caution as with the Java client. Whoever writes to
//! these tables outside of global transactions is not kept from it, and is found out only when a rollback meets the row.

mod at;
mod branch;
mod change;
mod civil;
mod error;
mod image;
mod kind;
mod options;
mod resource;
mod restore;
mod schema;
mod session;
pub mod statement;
mod table;
pub mod undo;
mod value;

pub use at::At;
pub use branch::{AtTransaction, Done};
pub use error::AtError;
pub use options::{AtOptions, Zone, resource_id};
pub use resource::AtResource;
pub use undo::JavaPackage;
pub use value::Value;
