//! Calls for branches, one behind the other in any order and at the same time. Written once for both databases, whose
//! types `sqlx` keeps apart.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use settle_base::Prng;
use settle_sdk::fence::{FenceError, FenceKey, Pass, nonblocking};
use settle_testkit::throughout;
use tokio::{task::JoinSet, time::timeout};

/// Below the time for which InnoDB waits for a lock.
const APART_WITHIN: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    Prepare,
    Commit,
    Rollback,
}

pub type Told = Result<Pass, FenceError<sqlx::Error>>;

fn key(branch_id: i64) -> FenceKey<'static> {
    FenceKey {
        xid: "127.0.0.1:8091:7",
        branch_id,
        action: "accounts",
    }
}

macro_rules! calls_over {
    ($name:ident, $database:ty) => {
        pub mod $name {
            use super::*;

            type Pool = sqlx::Pool<$database>;
            type Transaction = sqlx::Transaction<'static, $database>;

            /// What an application does for a call, up to the end of its database transaction.
            async fn call(tx: &mut Transaction, branch: i64, call: Call) -> Result<Told> {
                let told = match call {
                    Call::Prepare => nonblocking::prepare(&mut **tx, key(branch))
                        .await
                        .map(|()| Pass::Do),
                    Call::Commit => nonblocking::commit(&mut **tx, key(branch)).await,
                    Call::Rollback => nonblocking::rollback(&mut **tx, key(branch)).await,
                };
                if matches!(told, Ok(Pass::Do)) {
                    let done = format!("INSERT INTO done VALUES ({branch}, '{call:?}')");
                    sqlx::query(&done).execute(&mut **tx).await?;
                }
                Ok(told)
            }

            async fn end(tx: Transaction, told: &Told, is_cut: bool) -> Result<()> {
                match told {
                    Ok(_) if !is_cut => tx.commit().await?,
                    _ => tx.rollback().await?,
                }
                Ok(())
            }

            async fn once(pool: &Pool, branch: i64, wanted: Call, is_cut: bool) -> Result<Told> {
                let mut tx = pool.begin().await?;
                let told = call(&mut tx, branch, wanted).await?;
                end(tx, &told, is_cut).await?;
                Ok(told)
            }

            async fn count(pool: &Pool, branch: i64, part: Call) -> Result<i64> {
                let sql = format!("SELECT count(*) FROM done WHERE branch = {branch} AND part = '{part:?}'");
                Ok(sqlx::query_scalar(&sql).fetch_one(pool).await?)
            }

            /// One behind the other, repeated, reordered and cut off.
            pub async fn shuffled(pool: &Pool) -> Result<()> {
                for branch in 0..60 {
                    let mut random = Prng::new(branch as u64);
                    let last = if random.percent(50) {
                        Call::Commit
                    } else {
                        Call::Rollback
                    };
                    let mut is_rolled_back = false;
                    for _ in 0..random.between(1, 8) {
                        let wanted = if random.percent(50) { Call::Prepare } else { last };
                        let is_cut = random.percent(30);
                        let told = once(pool, branch, wanted, is_cut).await?;
                        ensure!(
                            !(wanted == Call::Prepare && is_rolled_back && told.is_ok()),
                            "seed {branch}: phase one after the rollback"
                        );
                        is_rolled_back |= wanted == Call::Rollback && told.is_ok() && !is_cut;
                    }
                    let told = once(pool, branch, last, false).await?;
                    let tried = count(pool, branch, Call::Prepare).await?;
                    ensure!(
                        told.is_ok() || (last == Call::Commit && tried == 0),
                        "seed {branch}: {told:?}"
                    );
                    let (confirmed, cancelled) = (
                        count(pool, branch, Call::Commit).await?,
                        count(pool, branch, Call::Rollback).await?,
                    );
                    let expected = if last == Call::Commit {
                        (tried, 0)
                    } else {
                        (0, tried)
                    };
                    ensure!(
                        tried <= 1 && (confirmed, cancelled) == expected,
                        "seed {branch}: tried {tried}, confirmed {confirmed}, cancelled {cancelled}"
                    );
                }
                Ok(())
            }

            /// Old rows that ended go, the others stay.
            pub async fn cleaned(pool: &Pool) -> Result<()> {
                ensure!(once(pool, 2_000, Call::Prepare, false).await?.is_ok());
                let old = "UPDATE tcc_fence_log SET gmt_modified = '2020-01-01 00:00:00'";
                sqlx::query(old).execute(pool).await?;
                ensure!(once(pool, 2_001, Call::Rollback, false).await?.is_ok());
                let ended = "SELECT count(*) FROM tcc_fence_log WHERE status IN (2, 3, 4)";
                let before: i64 = sqlx::query_scalar(ended).fetch_one(pool).await?;
                let mut tx = pool.begin().await?;
                let first = nonblocking::clean(&mut *tx, Duration::ZERO, 1).await?;
                let rest = nonblocking::clean(&mut *tx, Duration::ZERO, 10_000).await?;
                tx.commit().await?;
                ensure!(
                    (first, rest) == (1, before as u64 - 2),
                    "{first} and {rest} of {before}"
                );
                let left: i64 = sqlx::query_scalar("SELECT count(*) FROM tcc_fence_log WHERE branch_id >= 2000")
                    .fetch_one(pool)
                    .await?;
                ensure!(left == 2, "{left} are left");
                Ok(())
            }

            /// Branches that are rolled back before their phase one share nothing, though their rows lie side by side.
            pub async fn apart(pool: &Pool) -> Result<()> {
                let mut open = Vec::new();
                for branch in [3_002, 3_001, 3_003] {
                    let mut tx = pool.begin().await?;
                    let called = timeout(APART_WITHIN, call(&mut tx, branch, Call::Rollback)).await;
                    let told = called.with_context(|| format!("branch {branch} waits for another"))??;
                    ensure!(matches!(told, Ok(Pass::Nothing)), "branch {branch}: {told:?}");
                    open.push((tx, told));
                }
                for (tx, told) in open {
                    end(tx, &told, false).await?;
                }
                Ok(())
            }

            /// Phase one and the rollback meet in the database: whichever comes first, nothing is left undone.
            pub async fn at_once(pool: &Pool) -> Result<()> {
                let meetings = [
                    (1_000, false, Call::Prepare, Call::Rollback),
                    (1_001, false, Call::Rollback, Call::Prepare),
                    (1_002, true, Call::Commit, Call::Commit),
                    (1_003, true, Call::Rollback, Call::Rollback),
                ];
                for (branch, is_tried, first, second) in meetings {
                    if is_tried {
                        ensure!(once(pool, branch, Call::Prepare, false).await?.is_ok());
                    }
                    let mut leading = pool.begin().await?;
                    let told = call(&mut leading, branch, first).await?;
                    ensure!(told.is_ok(), "{told:?}");
                    let mut waiting = JoinSet::new();
                    let following = pool.clone();
                    waiting.spawn(async move { once(&following, branch, second, false).await });
                    let met = throughout(Duration::from_millis(100), async || {
                        ensure!(
                            waiting.try_join_next().is_none(),
                            "{second:?} did not wait for {first:?}"
                        );
                        Ok(())
                    });
                    met.await?;
                    end(leading, &told, false).await?;
                    let told = waiting.join_all().await.pop().expect("there is one")?;
                    match second {
                        // It waited for the row, and found it done.
                        _ if first == second => {
                            ensure!(matches!(told, Ok(Pass::Nothing)), "{told:?}");
                            ensure!(count(pool, branch, first).await? == 1);
                            continue;
                        }
                        Call::Rollback if told.is_err() => {
                            ensure!(
                                matches!(told, Err(FenceError::Raced { .. } | FenceError::Store(_))),
                                "{told:?}"
                            );
                            // The coordinator calls again.
                            let again = once(pool, branch, second, false).await?;
                            ensure!(matches!(again, Ok(Pass::Do)), "{again:?}");
                        }
                        Call::Rollback => ensure!(matches!(told, Ok(Pass::Do)), "{told:?}"),
                        _ => ensure!(matches!(told, Err(FenceError::TooLate { .. })), "{told:?}"),
                    }
                    ensure!(count(pool, branch, Call::Prepare).await? == count(pool, branch, Call::Rollback).await?);
                }
                Ok(())
            }
        }
    };
}

calls_over!(mariadb, sqlx::MySql);
calls_over!(postgres, sqlx::Postgres);
