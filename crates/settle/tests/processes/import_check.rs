//! `settle ctl tx import-check` over a real MariaDB with the tables that seata-server's own script makes.

use std::time::Duration;

use anyhow::{Result, ensure};
use settle_testkit::{Database, Process, Scratch, until};
use sqlx::{Connection, MySqlConnection};

use crate::{SETTLE, SOON};

const UP_WITHIN: Duration = Duration::from_secs(90);

/// The columns, types and keys of 2.x; 1.5 has them all but `lock_table.status`, which stands in its script as well.
const TABLES: &[&str] = &[
    "CREATE TABLE global_table (xid VARCHAR(128) NOT NULL, transaction_id BIGINT, status TINYINT NOT NULL, \
     application_id VARCHAR(32), transaction_service_group VARCHAR(32), transaction_name VARCHAR(128), timeout INT, \
     begin_time BIGINT, application_data VARCHAR(2000), gmt_create DATETIME, gmt_modified DATETIME, PRIMARY KEY (xid), \
     KEY idx_status_gmt_modified (status, gmt_modified), KEY idx_transaction_id (transaction_id)) \
     ENGINE = InnoDB DEFAULT CHARSET = utf8mb4",
    "CREATE TABLE branch_table (branch_id BIGINT NOT NULL, xid VARCHAR(128) NOT NULL, transaction_id BIGINT, \
     resource_group_id VARCHAR(32), resource_id VARCHAR(256), branch_type VARCHAR(8), status TINYINT, \
     client_id VARCHAR(64), application_data VARCHAR(2000), gmt_create DATETIME(6), gmt_modified DATETIME(6), \
     PRIMARY KEY (branch_id), KEY idx_xid (xid)) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4",
    "CREATE TABLE lock_table (row_key VARCHAR(128) NOT NULL, xid VARCHAR(128), transaction_id BIGINT, \
     branch_id BIGINT NOT NULL, resource_id VARCHAR(256), table_name VARCHAR(32), pk VARCHAR(36), \
     status TINYINT NOT NULL DEFAULT 0, gmt_create DATETIME, gmt_modified DATETIME, PRIMARY KEY (row_key), \
     KEY idx_status (status), KEY idx_branch_id (branch_id)) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4",
    "CREATE TABLE distributed_lock (lock_key CHAR(20) NOT NULL, lock_value VARCHAR(20) NOT NULL, expire BIGINT, \
     PRIMARY KEY (lock_key)) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4",
    "INSERT INTO distributed_lock VALUES ('AsyncCommitting', ' ', 0), ('TxTimeoutCheck', ' ', 0)",
];

/// A begun one, one whose rollback failed for good and holds two rows, one that is over, and a lock of nobody.
const OPEN: &[&str] = &[
    "INSERT INTO global_table VALUES \
     ('10.0.0.1:8091:11', 11, 1, 'orders', 'default_tx_group', 'purchase', 60000, UNIX_TIMESTAMP() * 1000 - 30000, \
      NULL, NOW(), NOW()), \
     ('10.0.0.1:8091:12', 12, 12, 'bank', 'bank_tx_group', 'transfer', 60000, UNIX_TIMESTAMP() * 1000 - 7200000, \
      NULL, NOW(), NOW()), \
     ('10.0.0.1:8091:13', 13, 9, NULL, NULL, NULL, 60000, NULL, NULL, NOW(), NOW())",
    "INSERT INTO branch_table VALUES (121, '10.0.0.1:8091:12', 12, NULL, 'jdbc:mysql://db/bank', 'AT', 10, \
     'bank:10.0.0.9:55', NULL, NOW(6), NOW(6))",
    "INSERT INTO lock_table (row_key, xid, transaction_id, branch_id, resource_id, table_name, pk) VALUES \
     ('jdbc:mysql://db/bank^^^account^^^1', '10.0.0.1:8091:12', 12, 121, 'jdbc:mysql://db/bank', 'account', '1'), \
     ('jdbc:mysql://db/bank^^^account^^^2', '10.0.0.1:8091:12', 12, 121, 'jdbc:mysql://db/bank', 'account', '2'), \
     ('jdbc:mysql://db/shop^^^stock^^^7', '10.0.0.1:8091:9', 9, 91, 'jdbc:mysql://db/shop', 'stock', '7')",
    "UPDATE distributed_lock SET lock_value = '10.0.0.1:8091', expire = UNIX_TIMESTAMP() * 1000 + 600000 \
     WHERE lock_key = 'TxTimeoutCheck'",
];

struct Store {
    url: String,
    scratch: Scratch,
    runs: u32,
}

impl Store {
    async fn check(&mut self, words: &[&str]) -> Result<(i32, String)> {
        self.runs += 1;
        let args = [&["ctl", "tx", "import-check", "--store", &self.url], words].concat();
        let out = self.scratch.path().join(format!("{}.out", self.runs));
        let mut process = Process::spawn("import-check", SETTLE.as_ref(), &args, &out)?;
        let status = process.exit(SOON).await?;
        Ok((status.code().unwrap_or(-1), process.output()))
    }

    async fn tells(&mut self, words: &[&str], code: i32, parts: &[&str]) -> Result<String> {
        let (told, text) = self.check(words).await?;
        ensure!(told == code, "exit code {told}, not {code}: {text}");
        for part in parts {
            ensure!(text.contains(part), "no {part:?} in: {text}");
        }
        Ok(text)
    }
}

async fn run(db: &mut MySqlConnection, statements: &[&str]) -> Result<()> {
    for statement in statements {
        sqlx::raw_sql(statement).execute(&mut *db).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_a_seata_server_has_left_open_is_told_and_nothing_is_changed() -> Result<()> {
    let Some(server) = Database::mariadb()? else {
        return Ok(());
    };
    let root = format!("mysql://root@127.0.0.1:{}", server.port());
    let mut db = until("mariadbd answers", UP_WITHIN, async || {
        MySqlConnection::connect(&root).await
    })
    .await?;
    run(&mut db, &["CREATE DATABASE seata", "USE seata"]).await?;
    let mut store = Store {
        url: format!("{root}/seata"),
        scratch: Scratch::new()?,
        runs: 0,
    };

    // Not to be taken for an empty store.
    store.tells(&[], 3, &["no table `global_table`"]).await?;
    run(&mut db, TABLES).await?;
    store
        .tells(&[], 0, &["Open: 0 transactions, 0 branches, 0 row locks"])
        .await?;
    // Over, and nothing left of it but its row.
    run(
        &mut db,
        &["INSERT INTO global_table (xid, status) VALUES ('10.0.0.1:8091:1', 11)"],
    )
    .await?;
    store.tells(&[], 0, &["Rollbacked", "over"]).await?;
    run(&mut db, &["DELETE FROM global_table"]).await?;

    run(&mut db, OPEN).await?;
    let text = store
        .tells(
            &[],
            1,
            &[
                "Open: 2 transactions, 1 branches, 3 row locks",
                "RollbackFailed",
                "given it up",
                "2 h",
                "1 h to 1 d",
                "bank_tx_group",
                "jdbc:mysql://db/bank",
                "account",
                "10.0.0.1:8091:11",
                "0 branches and 1 row locks",
                "The seata-server 10.0.0.1:8091 is at work",
            ],
        )
        .await?;
    ensure!(!text.contains("10.0.0.1:8091:13"), "it is over: {text}");
    let json = store.tells(&["--json", "--limit", "1"], 1, &[]).await?;
    let json = &json[..=json.rfind('}').unwrap_or(0)];
    let report: serde_json::Value = serde_json::from_str(&json[json.find('{').unwrap_or(0)..])?;
    ensure!(report["oldest"][0]["xid"] == "10.0.0.1:8091:12", "{report}");
    ensure!(
        report["oldest"][0]["locks"] == 2 && report["oldest"][1].is_null(),
        "{report}"
    );

    // Renamed tables, and rows that are left of transactions which are over: still open.
    run(
        &mut db,
        &[
            "DELETE FROM global_table WHERE status <> 9",
            "RENAME TABLE lock_table TO seata_locks",
            "DROP TABLE distributed_lock",
        ],
    )
    .await?;
    store.tells(&[], 3, &["no table `lock_table`"]).await?;
    store
        .tells(
            &["--lock-table", "seata_locks"],
            1,
            &[
                "Open: 0 transactions, 1 branches, 3 row locks",
                "1 branches and 3 row locks",
            ],
        )
        .await?;
    run(&mut db, &["DELETE FROM branch_table", "DELETE FROM seata_locks"]).await?;
    store.tells(&["--lock-table", "seata_locks"], 0, &[]).await?;

    store.url = "mysql://root@127.0.0.1:1/seata".to_owned();
    store.tells(&[], 3, &["cannot connect"]).await?;
    db.close().await?;
    store.scratch.finish();
    server.finish();
    Ok(())
}
