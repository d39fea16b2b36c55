//! Each row of the tables of SQL in the crate's documentation.

use anyhow::{Context, Result, ensure};
use settle_sdk::{BranchStatus, Retryable};
use settle_sdk_at::params;

use crate::bank::{Bank, XID};

const SCHEMA: &[&str] = &[
    "CREATE TABLE account (id INT NOT NULL PRIMARY KEY, balance BIGINT NOT NULL, note VARCHAR(40), \
     doubled BIGINT AS (balance * 2) STORED, changed DATETIME(6)) ENGINE = InnoDB",
    "CREATE TABLE entry (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, text VARCHAR(40) NOT NULL DEFAULT 'none') \
     ENGINE = InnoDB",
    "CREATE TABLE seat (room VARCHAR(9) NOT NULL, number INT NOT NULL, taken VARCHAR(9), PRIMARY KEY (room, number)) \
     ENGINE = InnoDB",
    "CREATE TABLE keyless (id INT) ENGINE = InnoDB",
    "CREATE TABLE old (id INT NOT NULL PRIMARY KEY) ENGINE = MyISAM",
    "CREATE TABLE watched (id INT NOT NULL PRIMARY KEY) ENGINE = InnoDB",
    "CREATE TRIGGER watch AFTER INSERT ON watched FOR EACH ROW INSERT INTO entry (text) VALUES ('seen')",
    "CREATE TABLE parent (id INT NOT NULL PRIMARY KEY, name VARCHAR(9)) ENGINE = InnoDB",
    "CREATE TABLE child (id INT NOT NULL PRIMARY KEY, parent INT NOT NULL, FOREIGN KEY (parent) REFERENCES parent (id) \
     ON DELETE CASCADE ON UPDATE CASCADE) ENGINE = InnoDB",
    "CREATE TABLE rough (id INT NOT NULL PRIMARY KEY, weight FLOAT, name VARCHAR(9)) ENGINE = InnoDB",
    "CREATE TABLE dated (id INT NOT NULL PRIMARY KEY, at DATETIME) ENGINE = InnoDB",
    "CREATE TABLE place (id INT NOT NULL PRIMARY KEY, number INT NOT NULL UNIQUE) ENGINE = InnoDB",
    "INSERT INTO place VALUES (1, 1), (2, 2), (3, 3)",
    "CREATE TABLE badge (id INT NOT NULL PRIMARY KEY, code VARCHAR(9) UNIQUE) ENGINE = InnoDB",
    "CREATE TABLE named (id INT NOT NULL PRIMARY KEY, code VARCHAR(9) NOT NULL UNIQUE, name VARCHAR(9)) ENGINE = InnoDB",
    "CREATE TABLE tagged (id INT NOT NULL PRIMARY KEY, code VARCHAR(9), FOREIGN KEY (code) REFERENCES named (code) \
     ON UPDATE CASCADE ON DELETE CASCADE) ENGINE = InnoDB",
    "CREATE VIEW rich AS SELECT * FROM account WHERE balance > 10",
    "CREATE FUNCTION sneak(n INT) RETURNS INT MODIFIES SQL DATA BEGIN INSERT INTO entry (text) VALUES ('sneak'); \
     RETURN n; END",
    "INSERT INTO account (id, balance, note) VALUES (1, 100, 'a'), (2, 100, 'it''s \\\\ b'), (3, 100, NULL)",
    "INSERT INTO entry (text) VALUES ('first')",
    "INSERT INTO seat VALUES ('red', 1, NULL), ('red', 2, NULL), ('blue', 1, 'ann')",
    "INSERT INTO parent VALUES (1, 'p')",
    "INSERT INTO child VALUES (1, 1)",
    "INSERT INTO named VALUES (1, 'n', 'a')",
    "INSERT INTO tagged VALUES (1, 'n')",
    "INSERT INTO rough VALUES (1, 1.5, 'r')",
    "INSERT INTO dated VALUES (1, '2024-02-29 12:34:56')",
];

const TABLES: &[&str] = &[
    "account", "place", "entry", "seat", "parent", "child", "named", "tagged", "rough", "dated", "watched",
];

/// Statements, and the rows that they lock.
const SUPPORTED: &[(&[&str], &str)] = &[
    (
        &["UPDATE account SET balance = balance - 10, note = 'x' WHERE id = 1"],
        "account:1",
    ),
    (
        &["UPDATE account AS a SET a.balance = 5 WHERE a.balance >= 100 AND a.id <> 2;"],
        "account:1,3",
    ),
    (&["UPDATE account SET note = NULL LIMIT 2"], "account:1,2"),
    (
        &["UPDATE account SET balance = 0 ORDER BY id DESC LIMIT 2"],
        "account:2,3",
    ),
    // Each finds the place that the one before it has left.
    (
        &["UPDATE place SET number = number + 1 ORDER BY number DESC"],
        "place:1,2,3",
    ),
    (
        &["UPDATE `account` SET note = 'where \\' limit 1' WHERE note = 'it''s \\\\ b' -- it is"],
        "account:2",
    ),
    (
        &["UPDATE account SET balance = (SELECT COUNT(*) FROM seat) WHERE id IN (SELECT number FROM seat)"],
        "account:1,2",
    ),
    (&["UPDATE bank.account SET balance = ABS(-7) WHERE id = 3"], "account:3"),
    (
        &["UPDATE seat SET taken = 'bob' WHERE room = 'red'"],
        "seat:1_red,2_red",
    ),
    // Nobody follows these columns.
    (
        &["UPDATE parent SET name = 'q'", "UPDATE named SET name = 'q'"],
        "parent:1;named:1",
    ),
    (&["DELETE FROM account WHERE id > 1"], "account:2,3"),
    (&["DELETE FROM account ORDER BY id DESC LIMIT 1"], "account:3"),
    (&["DELETE FROM seat"], "seat:1_blue,1_red,2_red"),
    (
        &["INSERT INTO account (id, balance) VALUES (7, 1), (8, 2)"],
        "account:7,8",
    ),
    (&["INSERT INTO account VALUES (7, 1, 'n', DEFAULT, NULL)"], "account:7"),
    (
        &[
            "INSERT INTO account (id, balance) VALUES (1, 7) ON DUPLICATE KEY UPDATE balance = balance + VALUES(balance)",
        ],
        "account:1",
    ),
    (
        &["INSERT INTO account (id, balance) VALUES (9, 7) ON DUPLICATE KEY UPDATE balance = 0"],
        "account:9",
    ),
    (&["INSERT INTO entry (text) VALUES ('b'), ('c')"], "entry:2,3"),
    (&["INSERT INTO entry VALUES (DEFAULT, 'b')"], "entry:4"),
    (
        &["INSERT INTO seat (number, room) VALUES (-4, 'green')"],
        "seat:-4_green",
    ),
    (
        &[
            "UPDATE account SET balance = 1 WHERE id = 1",
            "UPDATE account SET balance = 2 WHERE id = 1",
            "DELETE FROM account WHERE id = 1",
            "INSERT INTO account (id, balance) VALUES (1, 3)",
            "DELETE FROM seat WHERE room = 'blue'",
        ],
        "account:1;seat:1_blue",
    ),
];

const REFUSED: &[(&str, &str)] = &[
    ("UPDATE account, seat SET balance = 1", "cannot be read"),
    (
        "UPDATE account JOIN seat ON number = id SET balance = 1",
        "an UPDATE of several tables",
    ),
    (
        "DELETE account FROM account JOIN seat ON number = id",
        "a DELETE of several tables",
    ),
    ("INSERT INTO entry (text) SELECT note FROM account", "INSERT … SELECT"),
    ("INSERT IGNORE INTO entry (text) VALUES ('a')", "INSERT IGNORE"),
    (
        "INSERT INTO account (id, balance) VALUES (1, 1), (2, 1) ON DUPLICATE KEY UPDATE balance = 2",
        "ON DUPLICATE KEY UPDATE of several rows",
    ),
    (
        "INSERT INTO account (id, balance) VALUES (1, 1) ON DUPLICATE KEY UPDATE id = 9",
        "of the primary key",
    ),
    (
        "INSERT INTO entry (text) VALUES ('a') ON DUPLICATE KEY UPDATE text = 'b'",
        "without the primary key",
    ),
    (
        "INSERT INTO badge VALUES (1, 'b') ON DUPLICATE KEY UPDATE code = 'c'",
        "a further unique key",
    ),
    ("REPLACE INTO account (id, balance) VALUES (1, 1)", "REPLACE"),
    ("DELETE FROM account WHERE id = 1 RETURNING id", "RETURNING"),
    ("UPDATE account SET balance = 1 ORDER BY 1", "an ORDER BY of a place"),
    ("UPDATE account SET balance = balance DIV 2", "DIV"),
    (
        "UPDATE account SET balance = 1 /*! WHERE id = 1 */",
        "a comment that the server executes",
    ),
    ("UPDATE account USE INDEX (PRIMARY) SET balance = 1", "hint"),
    (
        "UPDATE /*+ NO_MERGE() */ account SET balance = 1",
        "a comment that the server executes",
    ),
    ("UPDATE account SET id = 9 WHERE id = 1", "of the primary key"),
    (
        "INSERT INTO account (id, balance) VALUES (1 + 8, 1)",
        "a primary key given by an expression",
    ),
    (
        "INSERT INTO entry (id, text) VALUES (0, 'a')",
        "a 0 for an automatic primary key",
    ),
    (
        "INSERT INTO entry (id, text) VALUES (8, 'a'), (NULL, 'b')",
        "leaves others",
    ),
    ("INSERT INTO account (balance) VALUES (1)", "without its primary key"),
    ("CREATE TABLE more (id INT)", "a change of the schema"),
    ("ALTER TABLE account ADD more INT", "a change of the schema"),
    ("DROP TABLE account", "a change of the schema"),
    ("TRUNCATE TABLE account", "TRUNCATE"),
    ("LOCK TABLES account WRITE", "LOCK TABLES"),
    ("COMMIT", "ends or parts the transaction"),
    ("SAVEPOINT s", "ends or parts the transaction"),
    ("SET autocommit = 1", "a change of the session"),
    ("CALL anything()", "CALL"),
    (
        "UPDATE account SET balance = 1; DELETE FROM account",
        "more than one statement",
    ),
    (
        "UPDATE account SET balance = sneak(1) WHERE id = 1",
        "stored function `sneak`",
    ),
    (
        "UPDATE account SET balance = bank.sneak(1) WHERE id = 1",
        "stored function `sneak`",
    ),
    ("UPDATE keyless SET id = 1", "no primary key"),
    ("UPDATE rich SET balance = 1", "it is a view"),
    ("UPDATE old SET id = 1", "MyISAM"),
    ("INSERT INTO watched VALUES (1)", "triggers"),
    (
        "DELETE FROM parent WHERE id = 1",
        "foreign key of `child` follows its deletes",
    ),
    (
        "UPDATE named SET code = 'q'",
        "foreign key of `tagged` follows its updates",
    ),
    ("UPDATE rough SET weight = 2", "type `float`"),
    ("DELETE FROM rough", "type `float`"),
    (
        "UPDATE dated SET at = '2024-01-01' WHERE id = 1",
        "time zone of the Java services",
    ),
    ("UPDATE other.account SET balance = 1", "other.account"),
    ("UPDATE undo_log SET log_status = 1", "undo logs"),
    ("UPDATE nowhere SET a = 1", "no table of this name"),
    ("UPDATE account SET nothing = 1", "no column `nothing`"),
    ("LOAD DATA INFILE 'x' INTO TABLE account", "cannot be read"),
    ("this is no SQL", "cannot be read"),
];

#[tokio::test]
async fn what_a_supported_statement_changes_is_locked_and_taken_back_and_the_rest_is_refused() -> Result<()> {
    // Dates are not kept without a zone, and the table has none but in a column that is null.
    let Some(bank) = Bank::open(SCHEMA).await? else {
        return Ok(());
    };
    for (statements, locks) in SUPPORTED {
        let before = bank.dump(TABLES).await?;
        let branch = bank.branch(statements).await?;
        ensure!(
            bank.desk().branches.last().map(String::as_str) == Some(locks),
            "{statements:?}: {:?}",
            bank.desk().branches.last()
        );
        ensure!(bank.dump(TABLES).await? != before, "{statements:?} changed nothing");
        ensure!(bank.undo_logs().await? == 1, "{statements:?} left no undo log");
        let status = bank.end(branch, false).await?;
        ensure!(status == BranchStatus::PhaseTwoRollbacked, "{statements:?}: {status:?}");
        let after = bank.dump(TABLES).await?;
        ensure!(after == before, "{statements:?} was not taken back:\n{before}\n{after}");
        ensure!(bank.undo_logs().await? == 0, "{statements:?} left its undo log");
        bank.desk().locks.clear();
    }

    let (before, branches) = (bank.dump(TABLES).await?, bank.desk().branches.len());
    for (sql, why) in REFUSED {
        let mut local = bank.at.begin(XID).await?;
        let error = local
            .execute(sql, &[])
            .await
            .err()
            .with_context(|| format!("{sql} was run"))?;
        ensure!(error.to_string().contains(why), "{sql}: {error}");
        ensure!(error.retryable() == Retryable::No, "{sql}: {error:?}");
        drop(local);
    }
    ensure!(bank.dump(TABLES).await? == before && bank.desk().branches.len() == branches);
    bank.close().await;
    Ok(())
}

#[tokio::test]
async fn values_go_to_their_places_and_a_statement_s_limits_hold() -> Result<()> {
    let Some(bank) = Bank::with(SCHEMA, |options| options.rows_max = 2).await? else {
        return Ok(());
    };
    let before = bank.dump(TABLES).await?;
    let mut local = bank.at.begin(XID).await?;
    let sql = "UPDATE account SET balance = balance - ?, note = ? WHERE id = ? AND balance >= ?";
    assert_eq!(local.execute(sql, &params![30, "?", 2, 30]).await?.rows, 1);
    assert_eq!(
        local.execute(sql, &params![90, "?", 2, 90]).await?.rows,
        0,
        "there is not so much"
    );
    let done = local
        .execute("INSERT INTO entry (text) VALUES (?)", &params!["e"])
        .await?;
    assert_eq!((done.rows, done.last_insert_id), (1, 2));
    let rows = local
        .fetch_all("SELECT text FROM entry WHERE id = ? FOR UPDATE", &params![2_i64])
        .await?;
    assert_eq!(rows.len(), 1);
    // A row that is there already leaves the transaction as it was.
    let again = local
        .execute("INSERT INTO account (id, balance) VALUES (?, 1)", &params![1])
        .await;
    assert!(again.is_err());
    assert_eq!(
        local
            .execute("DELETE FROM account WHERE id = ?", &params![1])
            .await?
            .rows,
        1
    );
    let sql = "INSERT INTO account (id, note, balance) VALUES (?, ?, ?) ON DUPLICATE KEY UPDATE note = ?, balance = ?";
    for id in [3, 8] {
        local.execute(sql, &params![id, "in", 1, "up", 2]).await?;
    }
    local.commit().await?;
    assert_eq!(
        bank.number("SELECT COUNT(*) FROM account WHERE (id, note, balance) IN ((3, 'up', 2), (8, 'in', 1))")
            .await?,
        2
    );
    assert_eq!(
        bank.desk().branches,
        ["account:2;entry:2;account:1;account:3;account:8"]
    );
    assert!(bank.desk().data.contains("\"autoCommit\":false"));
    assert_eq!(
        bank.number("SELECT balance FROM account WHERE id = 2 AND note = '?'")
            .await?,
        70
    );
    assert_eq!(bank.end(1, false).await?, BranchStatus::PhaseTwoRollbacked);
    assert_eq!(bank.dump(TABLES).await?, before);

    for (sql, params, code) in [
        ("UPDATE account SET balance = ?", &params![1, 2][..], "AT0004"),
        ("UPDATE account SET balance = 1", &[], "AT0005"),
        ("INSERT INTO entry (text) VALUES ('a'), ('b'), ('c')", &[], "AT0005"),
        ("SELECT * FROM account", &[], "AT0002"),
    ] {
        let mut local = bank.at.begin(XID).await?;
        let error = local
            .execute(sql, params)
            .await
            .err()
            .with_context(|| format!("{sql} was run"))?;
        ensure!(error.code().to_string() == code, "{sql}: {error}");
    }
    assert_eq!(bank.dump(TABLES).await?, before);
    bank.close().await;
    Ok(())
}
