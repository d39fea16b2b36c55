//! Private database servers, and the way to them.

use std::time::Duration;

use anyhow::Result;
use settle_testkit::{Database, until};
use sqlx::{
    MySqlPool, PgPool,
    mysql::{MySqlConnectOptions, MySqlPoolOptions},
    postgres::{PgConnectOptions, PgPoolOptions},
};

const UP_WITHIN: Duration = Duration::from_secs(90);

/// A MariaDB with an empty database; `None` where there is no MariaDB and none is asked for.
pub async fn mariadb() -> Result<Option<(Database, MySqlPool)>> {
    let Some(server) = Database::mariadb()? else {
        return Ok(None);
    };
    let options = MySqlConnectOptions::new()
        .host("127.0.0.1")
        .port(server.port())
        .username("root");
    let pool = until("mariadbd answers", UP_WITHIN, async || {
        let root = MySqlPoolOptions::new()
            .max_connections(1)
            .connect_with(options.clone())
            .await?;
        sqlx::query("CREATE DATABASE IF NOT EXISTS bank").execute(&root).await?;
        root.close().await;
        MySqlPoolOptions::new()
            .max_connections(4)
            .connect_with(options.clone().database("bank"))
            .await
    });
    Ok(Some((server, pool.await?)))
}

/// A PostgreSQL; `None` where there is none and none is asked for.
pub async fn postgres() -> Result<Option<(Database, PgPool)>> {
    let Some(server) = Database::postgres()? else {
        return Ok(None);
    };
    let options = PgConnectOptions::new()
        .host("127.0.0.1")
        .port(server.port())
        .username("bank")
        .database("postgres");
    let pool = until("postgres answers", UP_WITHIN, async || {
        PgPoolOptions::new()
            .max_connections(4)
            .connect_with(options.clone())
            .await
    });
    Ok(Some((server, pool.await?)))
}
