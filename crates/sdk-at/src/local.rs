//! A local transaction on a connection of the pool.

use std::ops::{Deref, DerefMut};

use sqlx::{Database, MySql, MySqlConnection, MySqlPool, TransactionManager, pool::PoolConnection};

type Manager = <MySql as Database>::TransactionManager;

/// Dropped, it is rolled back, and the connection goes back to the pool; but a connection of which nobody knows whether
/// a transaction was begun on it is closed, which sqlx's own [`Transaction`](sqlx::Transaction) does not do when its
/// `begin` is given up.
pub struct Local {
    /// Taken when it is closed.
    connection: Option<PoolConnection<MySql>>,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Beginning,
    Open,
    Ended,
}

impl Local {
    pub async fn begin(pool: &MySqlPool) -> Result<Local, sqlx::Error> {
        Local::begin_on(pool.acquire().await?).await
    }

    pub async fn begin_on(connection: PoolConnection<MySql>) -> Result<Local, sqlx::Error> {
        let mut local = Local {
            connection: Some(connection),
            phase: Phase::Beginning,
        };
        Manager::begin(&mut local, None).await?;
        local.phase = Phase::Open;
        Ok(local)
    }

    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        Manager::commit(&mut self).await?;
        self.phase = Phase::Ended;
        Ok(())
    }

    pub async fn rollback(mut self) -> Result<(), sqlx::Error> {
        Manager::rollback(&mut self).await?;
        self.phase = Phase::Ended;
        Ok(())
    }
}

const HELD: &str = "a connection is taken only when it is dropped";

impl Deref for Local {
    type Target = MySqlConnection;

    fn deref(&self) -> &MySqlConnection {
        self.connection.as_ref().expect(HELD)
    }
}

impl DerefMut for Local {
    fn deref_mut(&mut self) -> &mut MySqlConnection {
        self.connection.as_mut().expect(HELD)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        match self.phase {
            // The server rolls back with the connection's end.
            Phase::Beginning => drop(connection.detach()),
            // Sent before whatever the connection is used for next.
            Phase::Open => Manager::start_rollback(&mut connection),
            Phase::Ended => {}
        }
    }
}
