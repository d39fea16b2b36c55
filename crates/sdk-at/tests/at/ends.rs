//! How branches end: late, twice, in conflict, over rows that somebody else has changed, and with a lost connection.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use settle_sdk::{BranchStatus, Current, Retryable};
use settle_sdk_at::{At, AtError, AtOptions};
use settle_seata_wire::Message;
use sqlx::{
    Row,
    mysql::{MySqlConnectOptions, MySqlPoolOptions},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    bank::{Bank, URL, XID},
    fake,
};

const SCHEMA: &[&str] = &[
    "CREATE TABLE account (id INT NOT NULL PRIMARY KEY, balance BIGINT NOT NULL, note VARCHAR(40)) ENGINE = InnoDB",
    "INSERT INTO account VALUES (1, 100, 'a'), (2, 100, 'b')",
];
const TAKE: &str = "UPDATE account SET balance = balance - 10 WHERE id = 1";
const OTHER: &str = "127.0.0.1:8091:8";

#[tokio::test]
async fn a_committed_branch_keeps_its_rows_and_a_second_call_finds_nothing_to_do() -> Result<()> {
    let Some(bank) = Bank::open(SCHEMA).await? else {
        return Ok(());
    };
    let branch = bank.branch(&[TAKE]).await?;
    for _ in 0..2 {
        assert_eq!(bank.end(branch, true).await?, BranchStatus::PhaseTwoCommitted);
        assert_eq!(bank.undo_logs().await?, 0);
    }
    let balance = "SELECT balance FROM account WHERE id = 1";
    assert_eq!(bank.number(balance).await?, 90);
    // Nothing was changed: there is no branch.
    assert_eq!(bank.branch(&["UPDATE account SET balance = 1 WHERE id = 9"]).await?, 0);

    // A rollback that comes again leaves its defence, as Java's does, and nothing else.
    let branch = bank.branch(&[TAKE]).await?;
    for _ in 0..3 {
        assert_eq!(bank.end(branch, false).await?, BranchStatus::PhaseTwoRollbacked);
        assert_eq!(bank.number(balance).await?, 90);
    }
    assert_eq!(
        bank.number("SELECT COUNT(*) FROM undo_log WHERE log_status = 1")
            .await?,
        1
    );
    // What cannot be reached now is called again later.
    bank.sql("RENAME TABLE undo_log TO hidden").await?;
    assert_eq!(
        bank.end(branch, true).await?,
        BranchStatus::PhaseTwoCommitFailedRetryable
    );
    assert_eq!(
        bank.end(branch, false).await?,
        BranchStatus::PhaseTwoRollbackFailedRetryable
    );
    bank.close().await;
    Ok(())
}

#[tokio::test]
async fn a_row_that_somebody_else_changed_stays_as_it_is_and_is_told_of() -> Result<()> {
    let Some(bank) = Bank::open(SCHEMA).await? else {
        return Ok(());
    };
    let branch = bank
        .branch(&["UPDATE account SET note = 'c' WHERE id = 2", TAKE])
        .await?;
    // Another column than those that the branch changed is not its business.
    bank.sql("UPDATE account SET balance = 50 WHERE id = 2").await?;
    bank.sql("UPDATE account SET balance = 80 WHERE id = 1").await?;
    let dump = bank.dump(&["account"]).await?;
    for _ in 0..2 {
        let status = bank.end(branch, false).await?;
        assert_eq!(status, BranchStatus::PhaseTwoRollbackFailedUnretryable);
        assert_eq!(bank.dump(&["account"]).await?, dump, "half a rollback");
        assert_eq!(bank.undo_logs().await?, 1);
    }
    // The operator puts it as it was before: then it needs no restoring, and the rest is done.
    bank.sql("UPDATE account SET balance = 100 WHERE id = 1").await?;
    assert_eq!(bank.end(branch, false).await?, BranchStatus::PhaseTwoRollbacked);
    assert_eq!(
        bank.dump(&["account"]).await?,
        "account: '1' '100' 'a'\naccount: '2' '50' 'b'\n"
    );
    assert_eq!(bank.undo_logs().await?, 0);
    bank.close().await;
    Ok(())
}

#[tokio::test]
async fn a_phase_one_that_comes_after_its_rollback_cannot_commit() -> Result<()> {
    let Some(bank) = Bank::open(SCHEMA).await? else {
        return Ok(());
    };
    let dump = bank.dump(&["account"]).await?;
    let mut local = bank.at.begin(XID).await?;
    local.execute(TAKE, &[]).await?;
    // The branch that will be registered next.
    assert_eq!(bank.end(1, false).await?, BranchStatus::PhaseTwoRollbacked);
    let row = sqlx::query("SELECT context, rollback_info, log_status FROM undo_log")
        .fetch_one(&bank.pool)
        .await?;
    let (context, info, status): (String, Vec<u8>, i32) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    assert_eq!(
        (context.as_str(), &info[..], status),
        ("serializer=jackson&compressorType=NONE", &b"{}"[..], 1)
    );
    let error = local.commit().await.expect_err("it was rolled back");
    assert!(matches!(error, AtError::TooLate { branch_id: 1, .. }), "{error:?}");
    assert_eq!(bank.dump(&["account"]).await?, dump);
    // Many at once, next to each other in the table, do not stand in each other's way.
    let mut answers = Vec::new();
    for branch_id in 100..140 {
        answers.push(bank.call(branch_id, false).await?);
    }
    for answer in answers {
        assert_eq!(fake::status(answer).await?, BranchStatus::PhaseTwoRollbacked);
    }
    assert_eq!(bank.undo_logs().await?, 41);
    let reports: Vec<BranchStatus> = bank.desk().reports.iter().map(|report| report.status).collect();
    assert_eq!(reports, [BranchStatus::PhaseOneFailed]);
    bank.close().await;
    Ok(())
}

#[tokio::test]
async fn held_rows_are_waited_for_and_then_given_up_with_nothing_done() -> Result<()> {
    let Some(bank) = Bank::open(SCHEMA).await? else {
        return Ok(());
    };
    let dump = bank.dump(&["account"]).await?;
    let hold = || bank.desk().locks.insert("account:1".to_owned(), OTHER.to_owned());
    hold();
    let mut local = bank.at.begin(XID).await?;
    local.execute(TAKE, &[]).await?;
    let error = local.commit().await.expect_err("the row is held");
    assert!(
        matches!(&error, AtError::LockConflict { lock_keys, .. } if lock_keys == "account:1"),
        "{error:?}"
    );
    assert_eq!(error.retryable(), Retryable::Yes);
    assert_eq!(bank.desk().conflicts, 31, "30 more attempts");
    assert_eq!(
        (bank.dump(&["account"]).await?, bank.undo_logs().await?),
        (dump.clone(), 0)
    );

    let mut local = bank.at.begin(XID).await?;
    let lock = "SELECT balance FROM account WHERE id = 1 FOR UPDATE";
    let error = local.fetch_all(lock, &[]).await.expect_err("the row is held");
    assert!(matches!(error, AtError::LockConflict { .. }), "{error:?}");
    drop(local);
    let mut local = bank.at.begin(XID).await?;
    assert_eq!(
        local
            .fetch_all("SELECT balance FROM account WHERE id = 2 FOR UPDATE", &[])
            .await?
            .len(),
        1
    );
    assert_eq!(
        local
            .fetch_all("SELECT balance FROM account WHERE id = 9 FOR UPDATE", &[])
            .await?
            .len(),
        0
    );
    local.commit().await?;

    // Work that is done again as a whole waits with no row in its hands.
    let mut tries = 0;
    bank.desk().conflicts = 0;
    let done = bank.at.run(XID, async |local| {
        tries += 1;
        if tries == 3 {
            bank.desk().locks.clear();
        }
        local.execute(TAKE, &[]).await
    });
    assert_eq!(done.await?.rows, 1);
    assert_eq!((tries, bank.desk().conflicts), (3, 2));
    assert!(!bank.desk().data.contains("autoCommit"));
    assert_eq!(bank.end(1, false).await?, BranchStatus::PhaseTwoRollbacked);
    assert_eq!(bank.dump(&["account"]).await?, dump);
    bank.close().await;
    Ok(())
}

#[tokio::test]
async fn a_failed_local_commit_is_reported_only_when_it_cannot_have_been_done() -> Result<()> {
    let Some(bank) = Bank::open(SCHEMA).await? else {
        return Ok(());
    };
    let dump = bank.dump(&["account"]).await?;
    // The connection ends before the undo log is written: nothing can have been committed.
    let mut local = bank.at.begin(XID).await?;
    local.execute(TAKE, &[]).await?;
    let id: u64 = local.fetch_all("SELECT CONNECTION_ID()", &[]).await?[0].try_get(0)?;
    bank.sql(&format!("KILL {id}")).await?;
    let error = local.commit().await.expect_err("the connection is gone");
    assert!(matches!(error, AtError::Database(_)), "{error:?}");
    assert_eq!(bank.desk().reports.len(), 1);
    assert_eq!(bank.desk().reports[0].status, BranchStatus::PhaseOneFailed);
    assert_eq!(bank.dump(&["account"]).await?, dump);
    assert!(!Current::joined(XID).is_rollback_only());

    // That one is rolled back. The next ends with the commit on its way, which is done and never answered. This process
    // remembers that of the transaction.
    const DOOMED: &str = "127.0.0.1:8091:8";
    bank.desk().locks.clear();
    let cut = CutAtCommit::before(&bank).await?;
    let current = Current::joined(DOOMED);
    let mut local = cut.at.begin(DOOMED).await?;
    local.execute(TAKE, &[]).await?;
    cut.armed.store(true, Ordering::SeqCst);
    let error = local.commit().await.expect_err("nobody answered");
    assert!(
        matches!(error, AtError::CommitUnknown { branch_id: 2, .. }),
        "{error:?}"
    );
    assert_eq!(error.retryable(), Retryable::Unknown);
    assert!(current.is_rollback_only(), "its transaction may not commit");
    assert_eq!(
        bank.desk().reports.len(),
        1,
        "a branch that may stand was reported as failed"
    );
    settle_testkit::until("the commit is done", Duration::from_secs(20), async || {
        let balance = bank.number("SELECT balance FROM account WHERE id = 1").await?;
        anyhow::ensure!(balance == 90, "it is {balance}");
        Ok::<(), anyhow::Error>(())
    })
    .await?;
    cut.armed.store(false, Ordering::SeqCst);
    let rolled_back = fake::status(bank.call_in(DOOMED, 2, false).await?).await?;
    assert_eq!(rolled_back, BranchStatus::PhaseTwoRollbacked);
    assert_eq!(bank.dump(&["account"]).await?, dump);
    bank.close().await;
    Ok(())
}

/// AT over a connection that passes on what comes until a `COMMIT`, and is gone then.
struct CutAtCommit {
    at: At,
    armed: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

impl CutAtCommit {
    async fn before(bank: &Bank) -> Result<CutAtCommit> {
        let options = bank.pool.connect_options();
        let server: SocketAddr = format!("127.0.0.1:{}", options.get_port()).parse()?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let armed: Arc<AtomicBool> = Arc::default();
        let mut tasks = JoinSet::new();
        let is_armed = armed.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let is_armed = is_armed.clone();
                connections.spawn(async move {
                    // Either way the connection is over.
                    let _ = pass_on(client, server, is_armed).await;
                });
            }
        });
        let direct = MySqlConnectOptions::clone(&options).port(port);
        let pool = MySqlPoolOptions::new().max_connections(2).connect_with(direct).await?;
        let at = At::connect(AtOptions::new(URL), fake::options([&bank.fake]), pool).await?;
        Ok(CutAtCommit {
            at,
            armed,
            _tasks: tasks,
        })
    }
}

async fn pass_on(mut client: TcpStream, server: SocketAddr, armed: Arc<AtomicBool>) -> Result<()> {
    let mut server = TcpStream::connect(server).await?;
    let (mut sent, mut answered) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            biased; // What was sent first: a commit is passed on before anything is cut.
            count = client.read(&mut sent) => {
                let count = count?;
                server.write_all(&sent[..count]).await?;
                let is_commit = sent[..count].windows(6).any(|word| word == b"COMMIT");
                if count == 0 || is_commit && armed.load(Ordering::SeqCst) {
                    // So that the server has read it before it sees the end.
                    let _ = server.read(&mut answered).await;
                    return Ok(());
                }
            }
            count = server.read(&mut answered) => {
                let count = count?;
                client.write_all(&answered[..count]).await?;
                if count == 0 {
                    return Ok(());
                }
            }
        }
    }
}

#[tokio::test]
async fn a_transaction_that_was_broken_or_dropped_changes_nothing() -> Result<()> {
    let Some(bank) = Bank::open(SCHEMA).await? else {
        return Ok(());
    };
    let dump = bank.dump(&["account"]).await?;
    let mut local = bank.at.begin(XID).await?;
    local.execute(TAKE, &[]).await?;
    // The server takes the statement back, and this crate does not know how much with it.
    let too_long = format!("UPDATE account SET note = '{}' WHERE id = 1", "x".repeat(50));
    local.execute(&too_long, &[]).await.expect_err("the column is shorter");
    assert!(matches!(local.execute(TAKE, &[]).await, Err(AtError::Broken)));
    assert!(matches!(local.commit().await, Err(AtError::Broken)));
    let mut local = bank.at.begin(XID).await?;
    local.execute(TAKE, &[]).await?;
    drop(local);
    let mut local = bank.at.begin(XID).await?;
    local.execute(TAKE, &[]).await?;
    local.rollback().await?;
    assert_eq!(bank.dump(&["account"]).await?, dump);
    assert_eq!(
        bank.fake.count(|message| matches!(message, Message::BranchRegister(_))),
        0
    );
    let at = AtOptions {
        undo_table: "nowhere".to_owned(),
        ..AtOptions::new(URL)
    };
    let opened = At::connect(at, fake::options([&bank.fake]), bank.pool.clone()).await;
    let error = opened.err().context("there are no undo logs")?;
    assert!(error.to_string().contains("nowhere"), "{error}");
    bank.close().await;
    Ok(())
}
