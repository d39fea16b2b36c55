//! The money of one account service, in its own SQLite file: try reserves, confirm posts, cancel gives back. Each in one
//! local transaction with the SDK's fence.

use std::{path::Path, time::Duration};

use anyhow::Context;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params};

use super::judge::{Account, Branch, End, Posting};

/// The last account of each service takes part in nothing.
pub const ACCOUNTS: i64 = 20;
pub const BLOCKED_ACCOUNT: i64 = ACCOUNTS;
pub const OPENING_BALANCE: i64 = 1_000;

/// A reader waits so long for a writer. There is one writer; the judge reads when it is gone.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// `reservation` has no key beyond its branch, `posting` none at all: nothing here is to hide what the judge looks for.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS account (
        id INTEGER PRIMARY KEY,
        opening INTEGER NOT NULL,
        balance INTEGER NOT NULL,
        reserved INTEGER NOT NULL,
        is_blocked INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS reservation (
        branch INTEGER NOT NULL,
        account INTEGER NOT NULL,
        amount INTEGER NOT NULL
    );
    CREATE INDEX IF NOT EXISTS reservation_by_branch ON reservation (branch);
    CREATE TABLE IF NOT EXISTS posting (
        xid TEXT NOT NULL,
        account INTEGER NOT NULL,
        amount INTEGER NOT NULL
    );
";

/// Why the business says no.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("there is no account {0}")]
    NoAccount(i64),
    #[error("account {0} is blocked")]
    Blocked(i64),
    #[error("account {account} has {free} to spend")]
    NotEnough { account: i64, free: i64 },
}

/// Opens the file for the one process that writes it, and puts the money in when it is new.
pub fn open(path: &Path) -> anyhow::Result<Connection> {
    let mut connection = Connection::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // What was answered is on the disk.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(SCHEMA)?;
    transaction.execute_batch(settle_sdk::fence::SQLITE_SCHEMA)?;
    let mut insert = transaction.prepare("INSERT OR IGNORE INTO account VALUES (?1, ?2, ?2, 0, ?3)")?;
    for id in 1..=ACCOUNTS {
        insert.execute(params![id, OPENING_BALANCE, id == BLOCKED_ACCOUNT])?;
    }
    drop(insert);
    transaction.commit()?;
    Ok(connection)
}

/// Promises that `amount` can be taken (below 0) or given.
///
/// # Errors
/// The inner one is the business saying no.
pub fn reserve(
    transaction: &Transaction<'_>,
    branch: i64,
    account: i64,
    amount: i64,
) -> rusqlite::Result<Result<(), Refusal>> {
    let row = transaction
        .prepare_cached("SELECT balance - reserved, is_blocked FROM account WHERE id = ?1")?
        .query_row([account], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?)))
        .optional()?;
    let refusal = match row {
        None => Refusal::NoAccount(account),
        Some((_, true)) => Refusal::Blocked(account),
        Some((free, false)) if free + amount < 0 => Refusal::NotEnough { account, free },
        Some(_) => {
            transaction
                .prepare_cached("INSERT INTO reservation VALUES (?1, ?2, ?3)")?
                .execute([branch, account, amount])?;
            hold(transaction, account, -amount.min(0))?;
            return Ok(Ok(()));
        }
    };
    Ok(Err(refusal))
}

/// Moves what was reserved.
pub fn post(transaction: &Transaction<'_>, xid: &str, branch: i64) -> rusqlite::Result<()> {
    let (account, amount) = take_reservation(transaction, branch)?;
    transaction
        .prepare_cached("UPDATE account SET balance = balance + ?2 WHERE id = ?1")?
        .execute([account, amount])?;
    transaction
        .prepare_cached("INSERT INTO posting VALUES (?1, ?2, ?3)")?
        .execute(params![xid, account, amount])?;
    Ok(())
}

/// Gives back what was reserved.
pub fn release(transaction: &Transaction<'_>, branch: i64) -> rusqlite::Result<()> {
    take_reservation(transaction, branch).map(drop)
}

fn take_reservation(transaction: &Transaction<'_>, branch: i64) -> rusqlite::Result<(i64, i64)> {
    let (account, amount) = transaction
        .prepare_cached("DELETE FROM reservation WHERE branch = ?1 RETURNING account, amount")?
        .query_row([branch], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
    hold(transaction, account, amount.min(0))?;
    Ok((account, amount))
}

fn hold(transaction: &Transaction<'_>, account: i64, more: i64) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("UPDATE account SET reserved = reserved + ?2 WHERE id = ?1")?
        .execute([account, more])?;
    Ok(())
}

/// What the judge reads of a file.
pub struct Contents {
    pub accounts: Vec<Account>,
    pub postings: Vec<Posting>,
    pub branches: Vec<Branch>,
}

pub fn read(path: &Path) -> anyhow::Result<Contents> {
    let connection = open_to_read(path)?;
    let accounts = connection
        .prepare("SELECT id, opening, balance, reserved FROM account")?
        .query_map([], |row| {
            Ok(Account {
                id: row.get(0)?,
                opening: row.get(1)?,
                balance: row.get(2)?,
                reserved: row.get(3)?,
            })
        })?
        .collect::<Result<_, _>>()?;
    let postings = connection
        .prepare("SELECT xid, account, amount FROM posting")?
        .query_map([], |row| {
            Ok(Posting {
                xid: row.get(0)?,
                account: row.get(1)?,
                amount: row.get(2)?,
            })
        })?
        .collect::<Result<_, _>>()?;
    let branches = connection
        .prepare("SELECT xid, branch_id, status FROM tcc_fence_log")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)?)))?
        .map(|row| {
            let (xid, branch, status) = row?;
            // As Seata numbers them: tried, committed, rolled back, rolled back before it was tried.
            let end = match status {
                1 => None,
                2 => Some(End::Committed),
                3 | 4 => Some(End::RolledBack),
                other => anyhow::bail!("{}: the fence has a status {other}", path.display()),
            };
            Ok(Branch { xid, branch, end })
        })
        .collect::<Result<_, _>>()?;
    Ok(Contents {
        accounts,
        postings,
        branches,
    })
}

/// Branches tried and not ended.
pub fn undecided(path: &Path) -> anyhow::Result<i64> {
    let connection = open_to_read(path)?;
    let count = "SELECT count(*) FROM tcc_fence_log WHERE status = 1";
    Ok(connection.query_row(count, [], |row| row.get(0))?)
}

fn open_to_read(path: &Path) -> anyhow::Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(|| format!("cannot open {}", path.display()))?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_cannot_be_spent_again_and_only_what_is_posted_moves() {
        let dir = settle_testkit::Scratch::new().expect("a folder");
        let path = dir.path().join("money.sqlite");
        let mut connection = open(&path).expect("a new file");
        let transaction = connection.transaction().expect("it begins");
        let reserve =
            |branch, account, amount| reserve(&transaction, branch, account, amount).expect("it can be asked");
        assert_eq!(reserve(1, 3, -700), Ok(()));
        let refusal = Refusal::NotEnough { account: 3, free: 300 };
        assert_eq!(reserve(2, 3, -301), Err(refusal));
        assert_eq!(reserve(3, 3, -300), Ok(()));
        // What is promised to come cannot be spent yet.
        assert_eq!(reserve(4, 3, 50), Ok(()));
        assert_eq!(reserve(5, 3, -1), Err(Refusal::NotEnough { account: 3, free: 0 }));
        assert_eq!(reserve(6, BLOCKED_ACCOUNT, 1), Err(Refusal::Blocked(BLOCKED_ACCOUNT)));
        assert_eq!(reserve(7, ACCOUNTS + 1, 1), Err(Refusal::NoAccount(ACCOUNTS + 1)));
        post(&transaction, "x", 1).expect("it was reserved");
        release(&transaction, 3).expect("it was reserved");
        post(&transaction, "x", 4).expect("it was reserved");
        transaction.commit().expect("it ends");

        let contents = read(&path).expect("it can be read");
        let account = &contents.accounts[2];
        assert_eq!((account.id, account.balance, account.reserved), (3, 350, 0));
        let posted: Vec<i64> = contents.postings.iter().map(|posting| posting.amount).collect();
        assert_eq!(posted, [-700, 50]);
        dir.finish();
    }
}
