//! A value of every kind of column comes back exactly, and what Java keeps of it is what Java would have written.

use anyhow::Result;
use settle_sdk::BranchStatus;
use settle_sdk_at::{
    Zone, params,
    undo::{JavaValue, decode},
};

use crate::bank::{Bank, XID};

pub const KINDS: &str = "CREATE TABLE kinds (id BIGINT UNSIGNED NOT NULL PRIMARY KEY, \
    flag TINYINT(1), tiny TINYINT, utiny TINYINT UNSIGNED, small SMALLINT, usmall SMALLINT UNSIGNED, medium MEDIUMINT, \
    plain INT, uplain INT UNSIGNED, big BIGINT, ubig BIGINT UNSIGNED, exact DECIMAL(20,4), twice DOUBLE, \
    fixed CHAR(5), various VARCHAR(40), short_text TINYTEXT, texts TEXT, long_text LONGTEXT, choice ENUM('a','b'), \
    choices SET('a','b'), raw_fixed BINARY(4), raw VARBINARY(9), short_blob TINYBLOB, blobs BLOB, long_blob LONGBLOB, \
    bit_one BIT(1), bits BIT(12), moment DATETIME, fine_moment DATETIME(6), stamp TIMESTAMP NULL, \
    fine_stamp TIMESTAMP(3) NULL, day DATE, clock TIME) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4";

pub const ROWS: &[&str] = &[
    "INSERT INTO kinds VALUES (18446744073709551615, 1, -7, 200, -300, 60000, -70000, -5, 4000000000, \
     -9223372036854775808, 9223372036854775808, -12.3400, 0.1, 'ab', 'ä\"\\\\\n店', 'tt', 't', 'long', 'b', 'a,b', \
     x'00ff', x'01ff', x'02', x'03ff', x'', b'1', b'100000000001', '2024-02-29 12:34:56', \
     '2024-02-29 12:34:56.789123', '2024-02-29 12:34:56', '2024-02-29 12:34:56.789', '2024-02-29', '23:59:59')",
    "INSERT INTO kinds (id, flag, exact, bit_one) VALUES (2, 0, 0, b'0')",
];

#[tokio::test]
async fn every_kind_of_column_comes_back_exactly() -> Result<()> {
    let schema: Vec<&str> = [KINDS].iter().chain(ROWS).copied().collect();
    let zone = Some(Zone::hours_ahead(8));
    let Some(bank) = Bank::with(&schema, |options| options.zone = zone).await? else {
        return Ok(());
    };
    let before = bank.dump(&["kinds"]).await?;
    let mut local = bank.at.begin(XID).await?;
    local.execute("DELETE FROM kinds WHERE id > ?", &params![0]).await?;
    // The same again, by parameters of each kind.
    let sql = "INSERT INTO kinds (id, flag, plain, ubig, exact, twice, various, raw, moment, day) \
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let values = params![
        9_u64,
        true,
        -5,
        u64::MAX,
        "-0.5000",
        1e300,
        "ä",
        vec![0_u8, 255],
        "2024-02-29 12:34:56",
        None::<&str>
    ];
    local.execute(sql, &values).await?;
    local.commit().await?;
    assert_eq!(bank.desk().branches, ["kinds:2,18446744073709551615;kinds:9"]);

    let content: Vec<u8> = sqlx::query_scalar("SELECT rollback_info FROM undo_log")
        .fetch_one(&bank.pool)
        .await?;
    let undo = decode(&content)?;
    let row = &undo.statements[0].before.rows[1];
    let value = |name: &str| &row.iter().find(|field| field.name == name).expect("a column").value;
    assert_eq!(value("flag"), &JavaValue::Boolean(true));
    assert_eq!(value("uplain"), &JavaValue::Long(4_000_000_000));
    assert_eq!(value("ubig"), &JavaValue::BigInteger("9223372036854775808".to_owned()));
    assert_eq!(value("exact"), &JavaValue::BigDecimal("-12.3400".to_owned()));
    // On a clock eight hours ahead; a TIMESTAMP is a moment by itself.
    assert_eq!(value("moment"), &JavaValue::LocalDateTime(1_709_181_296_000_000));
    assert_eq!(value("stamp"), &JavaValue::Timestamp(1_709_210_096_000_000));
    assert_eq!(value("day"), &JavaValue::Date(1_709_136_000_000_000));

    assert_eq!(bank.end(1, false).await?, BranchStatus::PhaseTwoRollbacked);
    assert_eq!(bank.dump(&["kinds"]).await?, before);

    // What cannot be kept stops the statement.
    for sql in [
        "UPDATE kinds SET flag = 2 WHERE id = 2",
        "UPDATE kinds SET clock = '25:00:00' WHERE id = 2",
        "INSERT INTO kinds (id, moment) VALUES (3, '0000-00-00 00:00:00')",
    ] {
        let mut local = bank.at.begin(XID).await?;
        let error = local.execute(sql, &[]).await.expect_err(sql);
        assert_eq!(error.code().to_string(), "AT0003", "{sql}: {error}");
    }
    assert_eq!(bank.dump(&["kinds"]).await?, before);
    bank.close().await;
    Ok(())
}
