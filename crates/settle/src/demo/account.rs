//! An account service: a process of its own with money in its own SQLite file, a resource manager through the SDK's TCC.
//! It serves `POST /try` to the teller over HTTP, as a service of an application would.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex},
};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use serde::{Deserialize, Serialize};
use settle_net::StopHandle;
use settle_sdk::{
    BranchCall, Options, Rm, TccError, TccFuture, TccResource,
    fence::{self, FenceKey, Pass},
};
use tokio::task::JoinSet;

use super::{
    book::{self, Refusal},
    journal::{Event, Journal},
};
use crate::server::{serve_http, stdin_closed};

/// The header that carries the transaction, as Seata's own integrations name it.
pub const XID_HEADER: &str = "TX_XID";
const CONNECTIONS_MAX: usize = 256;
/// What the branches of both services are registered under.
const RESOURCE: &str = "transfer";

#[derive(clap::Args, Debug)]
pub struct AccountArgs {
    /// What the service is called; with Settle too.
    #[arg(long)]
    name: String,
    /// Where its money and its journal are.
    #[arg(long)]
    data: PathBuf,
    #[arg(long)]
    listen: SocketAddr,
    /// Where Settle's servers listen for Seata clients.
    #[arg(long, value_delimiter = ',')]
    transactions: Vec<String>,
}

/// Where a service of this name keeps its money, and its journal.
pub fn money_path(data: &Path, name: &str) -> PathBuf {
    data.join(format!("{name}.sqlite"))
}

pub fn journal_path(data: &Path, name: &str) -> PathBuf {
    data.join(format!("{name}.journal"))
}

/// What is asked of `POST /try`; the answer has no body, or the reason of a refusal.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Try {
    pub account: i64,
    /// Below 0: to be taken.
    pub amount: i64,
}

/// The service's resource: its money and what it writes down.
#[derive(Clone)]
struct Accounts {
    /// One connection with the file, one caller at a time.
    book: Arc<Mutex<Connection>>,
    journal: Arc<Journal>,
}

#[derive(Clone)]
struct Service {
    accounts: Accounts,
    rm: Rm,
}

pub async fn run(args: AccountArgs) -> ExitCode {
    match serve(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("settle demo-account: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: AccountArgs) -> anyhow::Result<()> {
    let listener = settle_net::bind(args.listen, "the teller", CONNECTIONS_MAX).await?;
    let accounts = Accounts {
        book: Arc::new(Mutex::new(book::open(&money_path(&args.data, &args.name))?)),
        journal: Arc::new(Journal::open(&journal_path(&args.data, &args.name))?),
    };
    accounts.journal.write(Event::Started)?;
    let options = Options::new(args.transactions, args.name);
    let rm = Rm::connect(options, vec![Arc::new(accounts.clone())]).await?;
    let router = Router::new()
        // It is reached only when the resource manager is registered.
        .route("/ready", get(async || "ready\n"))
        .route("/try", post(try_transfer))
        .with_state(Service { accounts, rm });
    let (stop, stopped) = StopHandle::new();
    let mut serving = JoinSet::new();
    serving.spawn(serve_http(listener, router, stopped));
    stdin_closed().await;
    stop.stop();
    while serving.join_next().await.is_some() {}
    Ok(())
}

/// Phase one: 200 reserved, 409 refused by the business, 503 not done for another reason.
async fn try_transfer(State(service): State<Service>, headers: HeaderMap, Json(body): Json<Try>) -> Response {
    let Some(xid) = headers.get(XID_HEADER).and_then(|xid| xid.to_str().ok()) else {
        return (StatusCode::BAD_REQUEST, format!("there is no header {XID_HEADER}")).into_response();
    };
    match service.reserve(xid, &body).await {
        Ok(Ok(())) => StatusCode::OK.into_response(),
        Ok(Err(refusal)) => (StatusCode::CONFLICT, refusal.to_string()).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}")).into_response(),
    }
}

impl Service {
    async fn reserve(&self, xid: &str, &Try { account, amount }: &Try) -> anyhow::Result<Result<(), Refusal>> {
        let branch = self.rm.register(xid, RESOURCE, &()).await?;
        let owned = xid.to_owned();
        let tried = self.accounts.transact(move |transaction| {
            let key = FenceKey {
                xid: &owned,
                branch_id: branch,
                action: RESOURCE,
            };
            fence::prepare(transaction, key)?;
            Ok(book::reserve(transaction, branch, account, amount)?)
        });
        let tried = tried.await?;
        let xid = xid.to_owned();
        self.accounts.journal.write(match &tried {
            Ok(()) => Event::Tried {
                xid,
                branch,
                account,
                amount,
            },
            Err(refusal) => Event::Refused {
                xid,
                branch,
                account,
                amount,
                why: refusal.to_string(),
            },
        })?;
        Ok(tried)
    }
}

impl Accounts {
    /// Does `work` in one transaction of the database: kept when `work` gives `Ok(Ok(_))`, undone otherwise.
    async fn transact<T, E>(
        &self,
        work: impl FnOnce(&mut Transaction<'_>) -> anyhow::Result<Result<T, E>> + Send + 'static,
    ) -> anyhow::Result<Result<T, E>>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        let book = self.book.clone();
        let worked = tokio::task::spawn_blocking(move || {
            let mut connection = book.lock().expect("no holder of this lock panics");
            let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&mut transaction)?;
            if value.is_ok() {
                transaction.commit()?;
            }
            Ok(value)
        });
        worked.await.context("the book was closed")?
    }

    async fn end(&self, call: &BranchCall, is_commit: bool) -> Result<(), TccError> {
        let (xid, branch) = (call.xid.clone(), call.branch_id);
        let event = if is_commit {
            Event::Confirm { xid, branch }
        } else {
            Event::Cancel { xid, branch }
        };
        self.journal.write(event).map_err(TccError::retryable)?;
        let owned = call.clone();
        let ended = self.transact(move |transaction| {
            let (key, xid) = (FenceKey::from(&owned), &owned.xid);
            let passed = if is_commit {
                fence::commit(transaction, key)
            } else {
                fence::rollback(transaction, key)
            };
            let pass = match passed {
                Ok(pass) => pass,
                Err(error) => return Ok(Err(TccError::from(error))),
            };
            match pass {
                Pass::Do if is_commit => book::post(transaction, xid, branch)?,
                Pass::Do => book::release(transaction, branch)?,
                Pass::Nothing => {}
            }
            Ok(Ok(()))
        });
        let ended = ended.await.unwrap_or_else(|error| Err(TccError::retryable(error)));
        if let Err(error) = &ended {
            let failed = Event::Failed {
                xid: call.xid.clone(),
                branch,
                why: error.to_string(),
            };
            self.journal.write(failed).map_err(TccError::retryable)?;
        }
        ended
    }
}

impl TccResource for Accounts {
    fn name(&self) -> &str {
        RESOURCE
    }

    fn commit<'a>(&'a self, call: &'a BranchCall) -> TccFuture<'a> {
        Box::pin(self.end(call, true))
    }

    fn rollback<'a>(&'a self, call: &'a BranchCall) -> TccFuture<'a> {
        Box::pin(self.end(call, false))
    }
}
