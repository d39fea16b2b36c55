//! The fence over real MariaDB and PostgreSQL servers, on tables with the columns of Seata's scripts.

mod calls;
mod server;

use anyhow::Result;
use server::{mariadb, postgres};
use sqlx::mysql::MySqlPoolOptions;

const MYSQL_SCHEMA: &[&str] = &[
    "CREATE TABLE tcc_fence_log (xid VARCHAR(128) NOT NULL, branch_id BIGINT NOT NULL, action_name VARCHAR(64), \
     status TINYINT NOT NULL, gmt_create DATETIME(3) NOT NULL, gmt_modified DATETIME(3) NOT NULL, \
     PRIMARY KEY (xid, branch_id), KEY idx_gmt_modified (gmt_modified), KEY idx_status (status)) \
     ENGINE = InnoDB DEFAULT CHARSET = utf8",
    "CREATE TABLE done (branch BIGINT NOT NULL, part VARCHAR(16) NOT NULL) ENGINE = InnoDB",
];

const POSTGRES_SCHEMA: &[&str] = &[
    "CREATE TABLE tcc_fence_log (xid VARCHAR(128) NOT NULL, branch_id BIGINT NOT NULL, action_name VARCHAR(64), \
     status SMALLINT NOT NULL, gmt_create TIMESTAMP(3) NOT NULL, gmt_modified TIMESTAMP(3) NOT NULL, \
     CONSTRAINT pk_tcc_fence_log PRIMARY KEY (xid, branch_id))",
    "CREATE TABLE done (branch BIGINT NOT NULL, part VARCHAR(16) NOT NULL)",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_mariadb_a_branch_is_whole_or_absent_whatever_the_order_of_calls() -> Result<()> {
    let Some((server, pool)) = mariadb().await? else {
        return Ok(());
    };
    for statement in MYSQL_SCHEMA {
        sqlx::query(statement).execute(&pool).await?;
    }
    let options = pool.connect_options();
    pool.close().await;
    for level in ["REPEATABLE READ", "READ COMMITTED"] {
        let isolate = format!("SET SESSION TRANSACTION ISOLATION LEVEL {level}");
        let pool = MySqlPoolOptions::new().max_connections(4);
        let pool = pool.after_connect(move |connection, _| {
            let isolate = isolate.clone();
            Box::pin(async move { sqlx::query(&isolate).execute(connection).await.map(drop) })
        });
        let pool = pool.connect_with((*options).clone()).await?;
        for table in ["tcc_fence_log", "done"] {
            sqlx::query(&format!("DELETE FROM {table}")).execute(&pool).await?;
        }
        calls::mariadb::shuffled(&pool).await?;
        calls::mariadb::at_once(&pool).await?;
        calls::mariadb::apart(&pool).await?;
        calls::mariadb::cleaned(&pool).await?;
        pool.close().await;
    }
    server.finish();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_postgres_a_branch_is_whole_or_absent_whatever_the_order_of_calls() -> Result<()> {
    let Some((server, pool)) = postgres().await? else {
        return Ok(());
    };
    for statement in POSTGRES_SCHEMA {
        sqlx::query(statement).execute(&pool).await?;
    }
    calls::postgres::shuffled(&pool).await?;
    calls::postgres::at_once(&pool).await?;
    calls::postgres::apart(&pool).await?;
    calls::postgres::cleaned(&pool).await?;
    pool.close().await;
    server.finish();
    Ok(())
}
