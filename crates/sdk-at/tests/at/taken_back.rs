//! Rows that a rollback cannot simply put back: others refer to them by now, a constraint is in the way, the database would
//! give them another key.

use anyhow::{Context, Result};
use settle_sdk::BranchStatus;
use settle_sdk_at::{params, undo::decode};
use settle_testkit::until;

use crate::{
    bank::{Bank, XID},
    fake,
};

const FAMILY: &[&str] = &[
    "CREATE TABLE parent (id INT NOT NULL PRIMARY KEY, code VARCHAR(9) NOT NULL UNIQUE, nick VARCHAR(9) UNIQUE) \
     ENGINE = InnoDB",
    "CREATE TABLE child (id INT NOT NULL PRIMARY KEY, parent INT NOT NULL, FOREIGN KEY (parent) REFERENCES parent (id) \
     ON DELETE CASCADE) ENGINE = InnoDB",
    "CREATE TABLE ward (id INT NOT NULL PRIMARY KEY, parent INT, FOREIGN KEY (parent) REFERENCES parent (id) \
     ON DELETE SET NULL) ENGINE = InnoDB",
    "CREATE TABLE coded (id INT NOT NULL PRIMARY KEY, code VARCHAR(9), nick VARCHAR(9), \
     FOREIGN KEY (code) REFERENCES parent (code) ON DELETE CASCADE, \
     FOREIGN KEY (nick) REFERENCES parent (nick) ON DELETE CASCADE) ENGINE = InnoDB",
    "CREATE TABLE strict (id INT NOT NULL PRIMARY KEY, parent INT NOT NULL, FOREIGN KEY (parent) REFERENCES parent (id)) \
     ENGINE = InnoDB",
    "CREATE TABLE tree (id INT NOT NULL PRIMARY KEY, up INT, FOREIGN KEY (up) REFERENCES tree (id) ON DELETE CASCADE) \
     ENGINE = InnoDB",
    "INSERT INTO parent VALUES (1, 'one', NULL)",
];
const FAMILY_TABLES: &[&str] = &["parent", "child", "ward", "coded", "strict", "tree"];
const BORN: &str = "INSERT INTO parent VALUES (2, 'two', NULL)";

#[tokio::test]
async fn an_insert_is_not_taken_back_with_rows_that_others_have_hung_on_it() -> Result<()> {
    let Some(bank) = Bank::open(FAMILY).await? else {
        return Ok(());
    };
    let before = bank.dump(FAMILY_TABLES).await?;
    for (table, hung) in [
        ("child", "INSERT INTO child VALUES (1, 2)"),
        ("ward", "INSERT INTO ward VALUES (1, 2)"),
        ("coded", "INSERT INTO coded VALUES (1, 'TWO', NULL)"),
        ("strict", "INSERT INTO strict VALUES (1, 2)"),
    ] {
        let branch = bank.branch(&[BORN]).await?;
        bank.sql(hung).await?;
        let dump = bank.dump(FAMILY_TABLES).await?;
        let status = bank.end(branch, false).await?;
        assert_eq!(status, BranchStatus::PhaseTwoRollbackFailedUnretryable, "{table}");
        assert_eq!(bank.dump(FAMILY_TABLES).await?, dump, "{table}");
        assert_eq!(bank.undo_logs().await?, 1);
        bank.sql(&format!("DELETE FROM {table}")).await?;
        assert_eq!(bank.end(branch, false).await?, BranchStatus::PhaseTwoRollbacked);
        assert_eq!(bank.dump(FAMILY_TABLES).await?, before, "{table}");
    }
    bank.close().await;
    Ok(())
}

#[tokio::test]
async fn what_the_transaction_itself_has_hung_on_a_row_goes_before_it() -> Result<()> {
    let Some(bank) = Bank::open(FAMILY).await? else {
        return Ok(());
    };
    let before = bank.dump(FAMILY_TABLES).await?;
    // In branches of their own, and in one.
    let parent = bank.branch(&[BORN]).await?;
    let child = bank.branch(&["INSERT INTO child VALUES (1, 2)"]).await?;
    assert_eq!(bank.end(child, false).await?, BranchStatus::PhaseTwoRollbacked);
    assert_eq!(bank.end(parent, false).await?, BranchStatus::PhaseTwoRollbacked);
    for statements in [
        &[
            BORN,
            "INSERT INTO strict VALUES (1, 2), (2, 2)",
            "INSERT INTO coded VALUES (1, 'two', NULL)",
        ][..],
        // A row that refers to itself, and rows of one statement whose keys are not in the order in which they came.
        &["INSERT INTO tree VALUES (5, NULL), (3, 5), (4, 3), (9, 9)"],
    ] {
        let branch = bank.branch(statements).await?;
        assert_eq!(bank.end(branch, false).await?, BranchStatus::PhaseTwoRollbacked);
        assert_eq!(bank.dump(FAMILY_TABLES).await?, before, "{statements:?}");
    }
    bank.close().await;
    Ok(())
}

#[tokio::test]
async fn a_row_that_is_being_hung_on_an_insert_is_waited_for() -> Result<()> {
    let Some(bank) = Bank::open(FAMILY).await? else {
        return Ok(());
    };
    for hung in [
        "INSERT INTO child VALUES (1, 2)",
        "INSERT INTO coded VALUES (1, 'two', NULL)",
        "INSERT INTO coded VALUES (1, NULL, 'deux')",
    ] {
        let branch = bank.branch(&["INSERT INTO parent VALUES (2, 'two', 'deux')"]).await?;
        let mut other = bank.pool.begin().await?;
        sqlx::query(hung).execute(&mut *other).await?;
        let answer = bank.call(branch, false).await?;
        let waits = "SELECT CAST(VARIABLE_VALUE AS SIGNED) FROM information_schema.GLOBAL_STATUS \
                     WHERE VARIABLE_NAME = 'INNODB_ROW_LOCK_CURRENT_WAITS'";
        until("the rollback waits", std::time::Duration::from_secs(20), async || {
            let waiting = bank.number(waits).await?;
            anyhow::ensure!(waiting == 1, "{waiting} wait");
            Ok::<(), anyhow::Error>(())
        })
        .await?;
        other.commit().await?;
        let status = fake::status(answer).await?;
        assert_eq!(status, BranchStatus::PhaseTwoRollbackFailedUnretryable, "{hung}");
        bank.sql("DELETE FROM child; DELETE FROM coded").await?;
        assert_eq!(bank.end(branch, false).await?, BranchStatus::PhaseTwoRollbacked);
    }
    bank.close().await;
    Ok(())
}

const CONSTRAINED: &[&str] = &[
    "CREATE TABLE owner (id INT NOT NULL PRIMARY KEY) ENGINE = InnoDB",
    "CREATE TABLE pet (id INT NOT NULL PRIMARY KEY, owner INT NOT NULL, tag VARCHAR(9) NOT NULL UNIQUE, \
     CHECK (tag <> 'never'), FOREIGN KEY (owner) REFERENCES owner (id)) ENGINE = InnoDB",
    "CREATE TABLE queue (id INT NOT NULL PRIMARY KEY, place INT NOT NULL UNIQUE) ENGINE = InnoDB",
    "INSERT INTO owner VALUES (1), (2)",
    "INSERT INTO pet VALUES (1, 1, 'a'), (2, 2, 'b')",
    "INSERT INTO queue VALUES (1, 1), (2, 2), (3, 3), (7, 14), (8, 13), (9, 12)",
];
const CONSTRAINED_TABLES: &[&str] = &["owner", "pet", "queue"];

#[tokio::test]
async fn a_row_that_a_constraint_keeps_out_is_for_an_operator() -> Result<()> {
    let Some(bank) = Bank::open(CONSTRAINED).await? else {
        return Ok(());
    };
    let before = bank.dump(CONSTRAINED_TABLES).await?;
    for (done, since, mended) in [
        (
            "DELETE FROM pet WHERE id = 1",
            "INSERT INTO pet VALUES (9, 2, 'a')",
            "DELETE FROM pet WHERE id = 9",
        ),
        (
            "DELETE FROM pet WHERE id = 1",
            "DELETE FROM owner WHERE id = 1",
            "INSERT INTO owner VALUES (1)",
        ),
        (
            "UPDATE pet SET tag = 'c' WHERE id = 1",
            "INSERT INTO pet VALUES (9, 2, 'a')",
            "DELETE FROM pet WHERE id = 9",
        ),
        (
            "INSERT INTO owner VALUES (3)",
            "INSERT INTO pet VALUES (9, 3, 'c')",
            "DELETE FROM pet WHERE id = 9",
        ),
        (
            "UPDATE pet SET tag = 'd' WHERE id = 1",
            "ALTER TABLE pet ADD CONSTRAINT late CHECK (tag <> 'a')",
            "ALTER TABLE pet DROP CONSTRAINT late",
        ),
    ] {
        let branch = bank.branch(&[done]).await?;
        bank.sql(since).await?;
        let dump = bank.dump(CONSTRAINED_TABLES).await?;
        let status = bank.end(branch, false).await?;
        assert_eq!(status, BranchStatus::PhaseTwoRollbackFailedUnretryable, "{since}");
        assert_eq!(bank.dump(CONSTRAINED_TABLES).await?, dump, "{since}");
        bank.sql(mended).await?;
        assert_eq!(bank.end(branch, false).await?, BranchStatus::PhaseTwoRollbacked);
        assert_eq!(bank.dump(CONSTRAINED_TABLES).await?, before, "{since}");
    }
    bank.close().await;
    Ok(())
}

#[tokio::test]
async fn rows_of_one_statement_do_not_stand_in_each_other_s_way() -> Result<()> {
    let Some(bank) = Bank::open(CONSTRAINED).await? else {
        return Ok(());
    };
    let before = bank.dump(CONSTRAINED_TABLES).await?;
    for moved in [
        "UPDATE queue SET place = place - 1 WHERE id < 4",
        "UPDATE queue SET place = place + 1 WHERE id > 4",
    ] {
        let branch = bank.branch(&[moved]).await?;
        assert_eq!(
            bank.end(branch, false).await?,
            BranchStatus::PhaseTwoRollbacked,
            "{moved}"
        );
        assert_eq!(bank.dump(CONSTRAINED_TABLES).await?, before, "{moved}");
    }
    bank.close().await;
    Ok(())
}

const ZERO: &[&str] = &[
    "CREATE TABLE entry (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, text VARCHAR(9), \
     changed TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6)) ENGINE = InnoDB",
    "CREATE TABLE line (bill INT NOT NULL, number INT NOT NULL AUTO_INCREMENT, text VARCHAR(9), \
     PRIMARY KEY (bill, number), KEY (number)) ENGINE = InnoDB",
    "CREATE TABLE note (id INT NOT NULL PRIMARY KEY, number INT NOT NULL AUTO_INCREMENT, KEY (number)) ENGINE = InnoDB",
    "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO'; \
     INSERT INTO entry VALUES (0, 'zero', '2024-02-29 12:34:56.123456'), (7, 'seven', '2024-02-29 12:34:56'); \
     INSERT INTO line VALUES (1, 0, 'a'), (1, 1, 'b'); INSERT INTO note VALUES (1, 0), (2, 5); \
     SET SESSION sql_mode = DEFAULT",
];
const ZERO_TABLES: &[&str] = &["entry", "line", "note"];

#[tokio::test]
async fn a_row_whose_automatic_key_is_0_comes_back_under_it() -> Result<()> {
    let zone = Some(settle_sdk_at::Zone::UTC);
    let Some(bank) = Bank::with(ZERO, |options| options.zone = zone).await? else {
        return Ok(());
    };
    let before = bank.dump(ZERO_TABLES).await?;
    for statement in ["DELETE FROM entry", "DELETE FROM line", "DELETE FROM note"] {
        let branch = bank.branch(&[statement]).await?;
        assert_eq!(bank.end(branch, false).await?, BranchStatus::PhaseTwoRollbacked);
        assert_eq!(bank.dump(ZERO_TABLES).await?, before, "{statement}");
    }
    // Keys that the database would make others of.
    for key in [params![0][0].clone(), params!["0"][0].clone(), params!["x"][0].clone()] {
        let mut local = bank.at.begin(XID).await?;
        let sql = "INSERT INTO entry (id, text) VALUES (?, 'a')";
        let error = local.execute(sql, &[key]).await.expect_err("no such key is inserted");
        assert_eq!(error.code().to_string(), "AT0002", "{error}");
    }
    assert_eq!(bank.dump(ZERO_TABLES).await?, before);
    bank.close().await;
    Ok(())
}

#[tokio::test]
async fn a_number_that_is_filled_with_zeros_leaves_a_log_that_can_be_read() -> Result<()> {
    let schema = [
        "CREATE TABLE price (id INT NOT NULL PRIMARY KEY, net DECIMAL(9,2) ZEROFILL, pieces INT(6) ZEROFILL) \
         ENGINE = InnoDB",
        "INSERT INTO price VALUES (1, 12.30, 7), (2, 0, 0)",
    ];
    let Some(bank) = Bank::open(&schema).await? else {
        return Ok(());
    };
    let before = bank.dump(&["price"]).await?;
    let branch = bank.branch(&["UPDATE price SET net = net + 0.05, pieces = 8"]).await?;
    let content: Vec<u8> = sqlx::query_scalar("SELECT rollback_info FROM undo_log")
        .fetch_one(&bank.pool)
        .await?;
    decode(&content).context("the undo log")?;
    assert_eq!(bank.end(branch, false).await?, BranchStatus::PhaseTwoRollbacked);
    assert_eq!(bank.dump(&["price"]).await?, before);
    bank.close().await;
    Ok(())
}
