//! What AT costs beside a plain transaction: the same update of one row, plain and in three other ways, in turns.
//!
//! ```sh
//! cargo run --release -p settle-sdk-at --example cost -- mysql://root@127.0.0.1/bank 16 127.0.0.1:8091 127.0.0.1:8191
//! ```
//! makes its tables in that database, and works with so many tasks at once, each on a row of its own.

use std::{error::Error, time::Duration};

use settle_sdk::{Options, Tm};
use settle_sdk_at::{At, AtOptions, params};
use sqlx::{MySqlPool, mysql::MySqlPoolOptions};
use tokio::{task::JoinSet, time::Instant};

type Failure = Box<dyn Error + Send + Sync>;

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(3);
const TAKE: &str = "UPDATE cost_account SET balance = balance - ? WHERE id = ?";

const TABLES: &str = "CREATE TABLE IF NOT EXISTS undo_log (branch_id BIGINT NOT NULL, xid VARCHAR(128) NOT NULL, \
    context VARCHAR(128) NOT NULL, rollback_info LONGBLOB NOT NULL, log_status INT NOT NULL, \
    log_created DATETIME(6) NOT NULL, log_modified DATETIME(6) NOT NULL, UNIQUE KEY ux_undo_log (xid, branch_id)) \
    ENGINE = InnoDB; \
    CREATE OR REPLACE TABLE cost_account (id INT NOT NULL PRIMARY KEY, balance BIGINT NOT NULL) ENGINE = InnoDB; \
    INSERT INTO cost_account SELECT seq, 1000000 FROM seq_1_to_1000";

#[derive(Clone, Copy)]
enum Way {
    Plain,
    /// Looks at the global locks, and takes none.
    Outside,
    /// A branch of a global transaction that is there for the whole round.
    Branch,
    /// A global transaction with one branch, from its begin to its answered commit.
    Whole,
}

const WAYS: [(Way, &str); 4] = [
    (Way::Plain, "plain"),
    (Way::Outside, "outside of a global transaction"),
    (Way::Branch, "one more branch of a global transaction"),
    (Way::Whole, "a global transaction with one branch"),
];

#[derive(Clone)]
struct Bench {
    pool: MySqlPool,
    at: At,
    tm: Tm,
}

impl Bench {
    async fn once(&self, way: Way, xid: &str, row: i64) -> Result<(), Failure> {
        match way {
            Way::Plain => {
                let mut local = self.pool.begin().await?;
                sqlx::query(TAKE).bind(1).bind(row).execute(&mut *local).await?;
                local.commit().await?;
            }
            Way::Outside => {
                let mut local = self.at.begin_outside().await?;
                local.execute(TAKE, &params![1, row]).await?;
                local.commit().await?;
            }
            Way::Branch => self.branch(xid, row).await?,
            Way::Whole => {
                let global = self.tm.begin("cost", Duration::from_secs(60)).await?;
                self.branch(global.xid(), row).await?;
                global.commit().await?;
            }
        }
        Ok(())
    }

    async fn branch(&self, xid: &str, row: i64) -> Result<(), Failure> {
        let mut local = self.at.begin(xid).await?;
        local.execute(TAKE, &params![1, row]).await?;
        Ok(local.commit().await?)
    }

    /// How long each took, for one of the tasks.
    async fn round(&self, way: Way, tasks: usize) -> Result<Duration, Failure> {
        let global = self.tm.begin("cost", Duration::from_secs(60)).await?;
        let ends = Instant::now() + ROUND;
        let mut running = JoinSet::new();
        for task in 0..tasks {
            let (bench, xid) = (self.clone(), global.xid().to_owned());
            running.spawn(async move {
                let mut done = 0_u32;
                while Instant::now() < ends {
                    bench.once(way, &xid, task as i64 + 1).await?;
                    done += 1;
                }
                Ok::<u32, Failure>(done)
            });
        }
        let mut done = 0;
        while let Some(task) = running.join_next().await {
            done += task??;
        }
        global.commit().await?;
        // Undo logs of committed branches go in the second phase, which belongs to no other round.
        let mut left = 1;
        while left > 0 {
            left = sqlx::query_scalar("SELECT COUNT(*) FROM undo_log")
                .fetch_one(&self.pool)
                .await?;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(ROUND * tasks as u32 / done)
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut words = std::env::args().skip(1);
    let url = words.next().ok_or("the database's URL is missing")?;
    let tasks: usize = words.next().ok_or("the number of tasks is missing")?.parse()?;
    let options = Options::new(words.collect::<Vec<_>>(), "cost");
    let pool = MySqlPoolOptions::new()
        .max_connections(tasks as u32 + 2)
        .connect(&url)
        .await?;
    sqlx::raw_sql(TABLES).execute(&pool).await?;
    let tm = Tm::connect(options.clone()).await?;
    let at = At::connect(AtOptions::new(&format!("jdbc:{url}")), options, pool.clone()).await?;
    let bench = Bench { pool, at, tm };
    let mut took = vec![Vec::new(); WAYS.len()];
    for _ in 0..ROUNDS {
        for ((way, _), took) in WAYS.iter().zip(&mut took) {
            took.push(bench.round(*way, tasks).await?);
        }
    }
    for took in &mut took {
        took.sort();
    }
    let plain = took[0][ROUNDS / 2];
    println!("{tasks} at once; the median of {ROUNDS} rounds, and how much longer than plain it is");
    for ((_, name), took) in WAYS.iter().zip(&took) {
        let each = took[ROUNDS / 2];
        println!(
            "{name:42} {:6} µs {:5.2}",
            each.as_micros(),
            each.as_secs_f64() / plain.as_secs_f64()
        );
    }
    Ok(())
}
