//! What has to be so before AT can work: the table of undo logs, connections without a transaction, and an account that
//! sees what a change takes along.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};
use settle_sdk_at::{At, AtOptions, AtResource};
use sqlx::{
    MySqlPool,
    mysql::{MySqlConnectOptions, MySqlPoolOptions},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};

use crate::{
    bank::{Bank, URL, XID},
    fake,
};

const SCHEMA: &[&str] =
    &["CREATE TABLE account (id INT NOT NULL PRIMARY KEY, balance BIGINT NOT NULL) ENGINE = InnoDB"];
const COLUMNS: &str = "branch_id BIGINT NOT NULL, xid VARCHAR(128) NOT NULL, context VARCHAR(128) NOT NULL, \
    log_status INT NOT NULL, log_created DATETIME(6) NOT NULL, log_modified DATETIME(6) NOT NULL";

#[tokio::test]
async fn a_table_of_undo_logs_that_cannot_carry_the_promise_is_refused() -> Result<()> {
    let Some(bank) = Bank::open(SCHEMA).await? else {
        return Ok(());
    };
    for (rest, engine, problem) in [
        (
            ", rollback_info LONGBLOB NOT NULL, PRIMARY KEY (branch_id, xid)",
            "InnoDB",
            None,
        ),
        (
            ", rollback_info LONGBLOB NOT NULL, id INT AUTO_INCREMENT PRIMARY KEY, UNIQUE (xid, branch_id)",
            "InnoDB",
            None,
        ),
        (
            ", rollback_info LONGBLOB NOT NULL, KEY (xid, branch_id)",
            "InnoDB",
            Some("unique"),
        ),
        (
            ", rollback_info LONGBLOB NOT NULL, UNIQUE (branch_id)",
            "InnoDB",
            Some("unique"),
        ),
        (
            ", rollback_info LONGBLOB NOT NULL, UNIQUE (xid(9), branch_id)",
            "InnoDB",
            Some("unique"),
        ),
        (
            ", rollback_info LONGBLOB NOT NULL, UNIQUE (xid, branch_id)",
            "MyISAM",
            Some("MyISAM"),
        ),
        (
            ", rollback_info BLOB NOT NULL, UNIQUE (xid, branch_id)",
            "InnoDB",
            Some("rollback_info"),
        ),
        (", UNIQUE (xid, branch_id)", "InnoDB", Some("rollback_info")),
    ] {
        bank.sql(&format!(
            "CREATE OR REPLACE TABLE logs ({COLUMNS}{rest}) ENGINE = {engine}"
        ))
        .await?;
        let options = AtOptions {
            undo_table: "logs".to_owned(),
            ..AtOptions::new(URL)
        };
        let opened = AtResource::open(options, bank.pool.clone()).await;
        match (opened.err(), problem) {
            (None, None) => {}
            (Some(error), Some(problem)) => {
                assert_eq!(error.code().to_string(), "AT0014", "{rest}");
                assert!(error.to_string().contains(problem), "{rest}: {error}");
            }
            (told, _) => anyhow::bail!("{rest}: {told:?}"),
        }
    }
    bank.close().await;
    Ok(())
}

const GUARDED: &[&str] = &[
    "CREATE TABLE watched (id INT NOT NULL PRIMARY KEY) ENGINE = InnoDB",
    "CREATE TRIGGER watch AFTER INSERT ON watched FOR EACH ROW INSERT INTO account VALUES (99, 99)",
    "CREATE TABLE parent (id INT NOT NULL PRIMARY KEY) ENGINE = InnoDB",
    "CREATE TABLE child (id INT NOT NULL PRIMARY KEY, parent INT NOT NULL, FOREIGN KEY (parent) REFERENCES parent (id) \
     ON DELETE CASCADE) ENGINE = InnoDB",
    "INSERT INTO parent VALUES (1)",
    "INSERT INTO child VALUES (1, 1)",
];

/// What the account is granted, whether it trusts that there is no more than it sees, a statement, and what of its error
/// is looked for.
const SEEN: &[(&[&str], bool, &str, Option<&str>)] = &[
    (
        &["SELECT, INSERT, UPDATE, DELETE ON bank.*"],
        false,
        "INSERT INTO watched VALUES (1)",
        Some("trigger"),
    ),
    (
        &["SELECT, INSERT, UPDATE, DELETE ON bank.*"],
        false,
        "INSERT INTO account VALUES (1, 1)",
        Some("TRIGGER"),
    ),
    (
        &["SELECT, INSERT, UPDATE, DELETE ON bank.*"],
        true,
        "INSERT INTO account VALUES (1, 1)",
        None,
    ),
    (
        &["SELECT, INSERT, UPDATE, DELETE, TRIGGER ON bank.*"],
        false,
        "INSERT INTO watched VALUES (1)",
        Some("triggers, which"),
    ),
    (
        &["SELECT, INSERT, UPDATE, DELETE, TRIGGER ON bank.*"],
        false,
        "INSERT INTO account VALUES (1, 1)",
        None,
    ),
    (
        &["SELECT, INSERT, UPDATE, DELETE, TRIGGER ON bank.*"],
        false,
        "DELETE FROM parent",
        Some("`child` follows"),
    ),
    (
        &[
            "SELECT, INSERT, UPDATE, DELETE, TRIGGER ON bank.parent",
            "SELECT, INSERT, UPDATE, DELETE ON bank.undo_log",
        ],
        false,
        "DELETE FROM parent",
        Some("cannot be seen"),
    ),
];

#[tokio::test]
async fn an_account_that_may_not_see_what_a_change_takes_along_is_told_so() -> Result<()> {
    let schema = [SCHEMA, GUARDED].concat();
    let Some(bank) = Bank::open(&schema).await? else {
        return Ok(());
    };
    // From here on the server asks for privileges.
    bank.sql("FLUSH PRIVILEGES").await?;
    let before = bank.dump(&["account", "watched", "parent", "child"]).await?;
    for (grants, trust_unseen, sql, problem) in SEEN {
        bank.sql("CREATE OR REPLACE USER app@'%'").await?;
        for grant in *grants {
            bank.sql(&format!("GRANT {grant} TO app@'%'")).await?;
        }
        let app = MySqlConnectOptions::clone(&bank.pool.connect_options()).username("app");
        let pool = MySqlPoolOptions::new().max_connections(1).connect_with(app).await?;
        let options = AtOptions {
            trust_unseen: *trust_unseen,
            ..AtOptions::new(URL)
        };
        let at = At::connect(options, fake::options([&bank.fake]), pool).await?;
        let mut local = at.begin(XID).await?;
        match (local.execute(sql, &[]).await, problem) {
            (Ok(_), None) => {}
            (Err(error), Some(problem)) => {
                assert_eq!(error.code().to_string(), "AT0003", "{grants:?} {sql}: {error}");
                assert!(error.to_string().contains(problem), "{grants:?} {sql}: {error}");
            }
            (told, _) => anyhow::bail!("{grants:?} {sql}: {told:?}"),
        }
        local.rollback().await?;
    }
    assert_eq!(bank.dump(&["account", "watched", "parent", "child"]).await?, before);
    bank.close().await;
    Ok(())
}

#[tokio::test]
async fn a_begin_that_is_given_up_leaves_no_transaction_in_the_pool() -> Result<()> {
    let Some(bank) = Bank::open(SCHEMA).await? else {
        return Ok(());
    };
    let held = HeldAtBegin::before(&bank).await?;
    {
        let begin = held.at.begin(XID);
        tokio::pin!(begin);
        tokio::select! {
            biased;
            begun = &mut begin => anyhow::bail!("the BEGIN was answered: {:?}", begun.err()),
            () = held.begun.notified() => {}
        }
    }
    held.go_on.notify_one();
    // The only connection of the pool, or one in its place.
    sqlx::query("INSERT INTO account VALUES (1, 1)")
        .execute(&held.pool)
        .await?;
    let count = bank.number("SELECT COUNT(*) FROM account").await?;
    assert_eq!(count, 1, "a plain statement was run in a transaction that nobody ends");
    bank.close().await;
    Ok(())
}

/// AT over one connection, which holds back the answer to the first `BEGIN`.
struct HeldAtBegin {
    at: At,
    pool: MySqlPool,
    begun: Arc<Notify>,
    go_on: Arc<Notify>,
    _tasks: JoinSet<()>,
}

impl HeldAtBegin {
    async fn before(bank: &Bank) -> Result<HeldAtBegin> {
        let options = bank.pool.connect_options();
        let server: SocketAddr = format!("127.0.0.1:{}", options.get_port()).parse()?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let (begun, go_on): (Arc<Notify>, Arc<Notify>) = Default::default();
        let mut tasks = JoinSet::new();
        let (told, asked) = (begun.clone(), go_on.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (told, asked) = (told.clone(), asked.clone());
                connections.spawn(async move {
                    // Either way the connection is over.
                    let _ = pass_on(client, server, &told, &asked).await;
                });
            }
        });
        let direct = MySqlConnectOptions::clone(&options).port(port);
        let pool = MySqlPoolOptions::new().max_connections(1).connect_with(direct).await?;
        let at = At::connect(AtOptions::new(URL), fake::options([&bank.fake]), pool.clone()).await?;
        Ok(HeldAtBegin {
            at,
            pool,
            begun,
            go_on,
            _tasks: tasks,
        })
    }
}

async fn pass_on(client: TcpStream, server: SocketAddr, begun: &Notify, go_on: &Notify) -> Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = TcpStream::connect(server).await?.into_split();
    let (mut sent, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            biased; // What was sent first.
            count = from_client.read(&mut sent) => {
                let count = count.context("read")?;
                to_server.write_all(&sent[..count]).await?;
                if count == 0 {
                    return Ok(());
                }
                if sent[..count].ends_with(b"BEGIN") {
                    begun.notify_one();
                    go_on.notified().await;
                }
            }
            count = from_server.read(&mut answered) => {
                let count = count?;
                to_client.write_all(&answered[..count]).await?;
                if count == 0 {
                    return Ok(());
                }
            }
        }
    }
}
