//! A teller beside Java tellers on the same tables: SQL in global transactions, with undo logs and locks that both sides
//! understand.
//!
//! ```sh
//! cargo run -p settle-sdk-at --example teller -- \
//!     mysql://bank@127.0.0.1/bank jdbc:mysql://127.0.0.1:3306/bank org.apache.seata 127.0.0.1:8091 127.0.0.1:8191
//! ```
//! joins the database by its first URL, under the name that the Java services know it by, with the root of their classes,
//! and these coordinators. Orders come as lines of JSON, and what becomes of them goes out the same way:
//!
//! ```text
//! {"cmd": "transfer", "id": "a", "statements": ["UPDATE account SET balance = balance - 1 WHERE id = 7"], "refuse": false}
//! {"event": "done", "id": "a", "xid": "…", "told": "committed"}
//! ```
//! `refuse` rolls back after the local work was committed; `timeout_ms` is the transaction's; with `"pause": ["registered"]`
//! it stands still there until `{"cmd": "go", "id": "a"}`. To coordinators that ask who their clients are it signs with the
//! key in `TELLER_ACCESS_KEY` and `TELLER_SECRET_KEY`.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::Deserialize;
use serde_json::json;
use settle_sdk::{AccessKey, Options, Tm};
use settle_sdk_at::{At, AtOptions, JavaPackage, Zone};
use sqlx::MySqlPool;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::oneshot,
    task::JoinSet,
};

type Failure = Box<dyn Error + Send + Sync>;

#[derive(Deserialize)]
#[serde(tag = "cmd", rename_all = "lowercase")]
enum Command {
    Transfer(Order),
    Go { id: String },
}

#[derive(Deserialize)]
struct Order {
    id: String,
    statements: Vec<String>,
    #[serde(default)]
    refuse: bool,
    #[serde(default)]
    pause: Vec<String>,
    timeout_ms: Option<u64>,
}

#[derive(Clone)]
struct Teller {
    tm: Tm,
    at: At,
    paused: Arc<Mutex<BTreeMap<String, oneshot::Sender<()>>>>,
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [database, jdbc_url, package, coordinators @ ..] = arguments.as_slice() else {
        return Err("usage: teller <mysql url> <jdbc url> <package root> <coordinator>…".into());
    };
    let mut at_options = AtOptions::new(jdbc_url);
    at_options.java_package = match package.as_str() {
        "io.seata" => JavaPackage::IoSeata,
        "org.apache.seata" => JavaPackage::OrgApacheSeata,
        other => return Err(format!("no version of Seata has its classes in {other}").into()),
    };
    // The Java services run with UTC as their time zone.
    at_options.zone = Some(Zone::UTC);
    let mut options = Options::new(coordinators, "teller");
    let key = (std::env::var("TELLER_ACCESS_KEY"), std::env::var("TELLER_SECRET_KEY"));
    if let (Ok(access), Ok(secret)) = key {
        options.access_key = Some(AccessKey { access, secret });
    }
    let pool = MySqlPool::connect(database).await?;
    let teller = Teller {
        tm: Tm::connect(options.clone()).await?,
        at: At::connect(at_options, options, pool).await?,
        paused: Arc::default(),
    };
    println!("{}", json!({"event": "ready"}));

    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut orders = JoinSet::new();
    while let Some(line) = lines.next_line().await? {
        match serde_json::from_str(&line)? {
            Command::Transfer(order) => {
                let teller = teller.clone();
                orders.spawn(async move { teller.serve(order).await });
            }
            Command::Go { id } => {
                let paused = teller.paused.lock().expect("no holder of this lock panics").remove(&id);
                // Who waits may have been dropped.
                paused.map(|go| go.send(()));
            }
        }
    }
    while orders.join_next().await.is_some() {}
    Ok(())
}

impl Teller {
    async fn serve(&self, order: Order) {
        let (told, detail) = match self.transfer(&order).await {
            Ok(told) => (told, String::new()),
            Err(error) => ("exception", error.to_string()),
        };
        println!(
            "{}",
            json!({"event": "done", "id": order.id, "told": told, "detail": detail})
        );
    }

    async fn transfer(&self, order: &Order) -> Result<&'static str, Failure> {
        let timeout = Duration::from_millis(order.timeout_ms.unwrap_or(60_000));
        let transaction = self.tm.begin(&order.id, timeout).await?;
        // From here on every `?` rolls back: both transactions are dropped.
        let mut local = self.at.begin(transaction.xid()).await?;
        for sql in &order.statements {
            local.execute(sql, &[]).await?;
        }
        local.commit().await?;
        if order.pause.iter().any(|point| point == "registered") {
            let (go, gone_on) = oneshot::channel();
            self.paused
                .lock()
                .expect("no holder of this lock panics")
                .insert(order.id.clone(), go);
            println!(
                "{}",
                json!({"event": "paused", "id": order.id, "at": "registered", "xid": transaction.xid()})
            );
            gone_on.await?;
        }
        if order.refuse {
            transaction.rollback().await?;
            return Ok("RollbackDone");
        }
        transaction.commit().await?;
        Ok("committed")
    }
}
