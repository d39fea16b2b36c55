//! `SELECT … FOR UPDATE`: the rows that it returns are those whose global locks were looked at.

use anyhow::{Context, Result, ensure};
use settle_sdk_at::{AtError, Value, params};
use sqlx::Row;

use crate::bank::{Bank, XID};

const OTHER: &str = "127.0.0.1:8091:8";
const SCHEMA: &[&str] = &[
    "CREATE TABLE account (id INT NOT NULL PRIMARY KEY, balance BIGINT NOT NULL) ENGINE = InnoDB",
    "INSERT INTO account VALUES (1, 300), (2, 200), (3, 100)",
];

/// Queries over a table whose third row another transaction holds: what they return as text, or None when they wait for
/// it.
const QUERIES: &[(&str, Option<&str>)] = &[
    ("SELECT id FROM account ORDER BY id LIMIT 2 FOR UPDATE", Some("1 2")),
    (
        "SELECT id FROM account ORDER BY id LIMIT 1 OFFSET 1 FOR UPDATE",
        Some("2"),
    ),
    ("SELECT id FROM account ORDER BY balance LIMIT 1 FOR UPDATE", None),
    (
        "SELECT id FROM account AS a WHERE a.id < 3 ORDER BY 1 DESC FOR UPDATE",
        Some("2 1"),
    ),
    (
        "SELECT id AS n FROM account WHERE id < 3 ORDER BY n DESC FOR UPDATE",
        Some("2 1"),
    ),
    (
        "SELECT CAST(SUM(balance) AS SIGNED) FROM account WHERE id < 3 FOR UPDATE",
        Some("500"),
    ),
    ("SELECT COUNT(*) FROM account FOR UPDATE", None),
    ("SELECT COUNT(*) FROM account WHERE id > 3 FOR UPDATE", Some("0")),
    ("SELECT id FROM account WHERE id > 3 FOR UPDATE", Some("")),
];

/// What picks rows by what the query names, and would look at others.
const REFUSED: &[&str] = &[
    "SELECT id AS balance, balance AS id FROM account ORDER BY id LIMIT 1 FOR UPDATE",
    "SELECT balance, id FROM account ORDER BY 1 LIMIT 1 FOR UPDATE",
];

#[tokio::test]
async fn the_rows_that_are_returned_are_those_whose_locks_were_looked_at() -> Result<()> {
    let Some(bank) = Bank::with(SCHEMA, |options| options.lock_retry_times = 1).await? else {
        return Ok(());
    };
    bank.desk().locks.insert("account:3".to_owned(), OTHER.to_owned());
    for (sql, expected) in QUERIES {
        let mut local = bank.at.begin(XID).await?;
        match (local.fetch_all(sql, &[]).await, expected) {
            (Ok(rows), Some(expected)) => {
                let cells = rows.iter().map(|row| {
                    let int: Result<i64, _> = row.try_get_unchecked(0);
                    int.map(|int| int.to_string())
                });
                let cells: Result<Vec<String>, _> = cells.collect();
                ensure!(cells?.join(" ") == *expected, "{sql}");
            }
            (Err(AtError::LockConflict { .. }), None) => {}
            (told, _) => anyhow::bail!("{sql}: {told:?}"),
        }
    }
    for sql in REFUSED {
        let mut local = bank.at.begin(XID).await?;
        let error = local
            .fetch_all(sql, &[])
            .await
            .err()
            .with_context(|| format!("{sql} was run"))?;
        ensure!(error.code().to_string() == "AT0002", "{sql}: {error}");
    }
    // Each value goes to its place.
    let mut local = bank.at.begin(XID).await?;
    let sql = "SELECT balance + ?, id FROM account AS a WHERE a.balance > ? ORDER BY FIELD(a.id, ?, ?) DESC LIMIT ? \
               FOR UPDATE";
    let values = params![1, 100, 2, 1, 5];
    let rows = local.fetch_all(sql, &values).await?;
    let rows: Result<Vec<(i64, i32)>, _> = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect();
    let rows = rows.map_err(|error: sqlx::Error| error)?;
    assert_eq!(rows, [(301, 1), (201, 2)]);
    assert_eq!(values[0], Value::Int(1));
    drop(local);
    bank.close().await;
    Ok(())
}

#[tokio::test]
async fn a_transaction_outside_of_a_global_one_keeps_off_the_rows_that_those_hold() -> Result<()> {
    let Some(bank) = Bank::with(SCHEMA, |options| options.lock_retry_times = 3).await? else {
        return Ok(());
    };
    let before = bank.dump(&["account"]).await?;
    for (held, sql) in [
        ("account:3", "UPDATE account SET balance = 0 WHERE id = 3"),
        ("account:3", "DELETE FROM account WHERE id > 1"),
        ("account:4", "INSERT INTO account VALUES (4, 0), (5, 0)"),
    ] {
        bank.desk().locks.insert(held.to_owned(), OTHER.to_owned());
        let mut local = bank.at.begin_outside().await?;
        local.execute(sql, &[]).await?;
        bank.desk().conflicts = 0;
        let error = local.commit().await.expect_err("a row is held");
        ensure!(matches!(error, AtError::LockConflict { .. }), "{sql}: {error:?}");
        assert_eq!(bank.desk().conflicts, 4, "{sql}");
        assert_eq!(bank.dump(&["account"]).await?, before, "{sql}");
        bank.desk().locks.clear();
    }
    bank.desk().locks.insert("account:3".to_owned(), OTHER.to_owned());
    let mut local = bank.at.begin_outside().await?;
    let told = local
        .fetch_all("SELECT id FROM account WHERE id = 3 FOR UPDATE", &[])
        .await;
    assert!(matches!(told, Err(AtError::LockConflict { .. })), "{told:?}");
    drop(local);
    // Each try lets the rows go, so that their holder can take back what it did.
    let mut tries = 0;
    let done = bank.at.run_outside(async |local| {
        tries += 1;
        if tries == 3 {
            bank.desk().locks.clear();
        }
        local.execute("UPDATE account SET balance = 1 WHERE id = 3", &[]).await
    });
    assert_eq!((done.await?.rows, tries), (1, 3));
    bank.desk().locks.insert("account:2".to_owned(), OTHER.to_owned());
    let mut tries = 0;
    let read = bank.at.run_outside(async |local| {
        tries += 1;
        if tries == 3 {
            bank.desk().locks.clear();
        }
        local
            .fetch_all("SELECT id FROM account WHERE id = 2 FOR UPDATE", &[])
            .await
    });
    assert_eq!((read.await?.len(), tries), (1, 3));
    let mut local = bank.at.begin_outside().await?;
    local.execute("DELETE FROM account WHERE id = 1", &[]).await?;
    local.commit().await?;
    assert_eq!(bank.dump(&["account"]).await?, "account: '2' '200'\naccount: '3' '1'\n");
    // It is no branch, and holds nothing.
    assert_eq!(bank.desk().branches.len(), 0);
    assert_eq!(bank.desk().locks.len(), 0);
    assert_eq!(bank.undo_logs().await?, 0);
    bank.close().await;
    Ok(())
}
