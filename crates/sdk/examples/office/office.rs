//! A bank's office: accounts in its own SQLite file, HTTP in front. Money moves between two offices in one global
//! transaction, by try, confirm and cancel.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path as InPath, State},
    http::{Request, StatusCode, header::CONTENT_TYPE},
    routing::{get, post},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rusqlite::{Connection, TransactionBehavior};
use serde::{Deserialize, Serialize};
use settle_sdk::{
    BranchCall, Current, Options, Propagation, Rm, TccError, TccFuture, TccResource, Tm,
    fence::{self, FenceKey, Pass, SQLITE_SCHEMA},
    http::{Carry, CarryLayer, JoinLayer},
};
use tower::{Layer, ServiceExt};

const TRANSFER_WITHIN: Duration = Duration::from_secs(60);

/// What one branch does: adds `amount`, which is negative for a withdrawal.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Movement {
    account: i64,
    amount: i64,
}

/// The accounts, and what the coordinator calls them for.
struct Accounts {
    name: String,
    database: Arc<Mutex<Connection>>,
}

impl Accounts {
    fn open(name: &str, file: &Path) -> rusqlite::Result<Accounts> {
        let database = Connection::open(file)?;
        database.execute_batch(SQLITE_SCHEMA)?;
        database
            .execute_batch("CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)")?;
        Ok(Accounts {
            name: name.to_owned(),
            database: Arc::new(Mutex::new(database)),
        })
    }

    /// Runs `work` in one database transaction, where it may block.
    async fn within<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut rusqlite::Transaction<'_>) -> Result<T, TccError> + Send + 'static,
    ) -> Result<T, TccError> {
        let database = self.database.clone();
        let done = tokio::task::spawn_blocking(move || {
            let mut database = database
                .lock()
                .map_err(|_| TccError::retryable("the database is lost"))?;
            let begun = database.transaction_with_behavior(TransactionBehavior::Immediate);
            let mut tx = begun.map_err(TccError::retryable)?;
            let done = work(&mut tx)?;
            tx.commit().map_err(TccError::retryable)?;
            Ok(done)
        });
        done.await.map_err(TccError::retryable)?
    }

    /// Phase one: what is withdrawn is gone from the balance, what is deposited is not there yet.
    async fn prepare(&self, xid: String, branch_id: i64, movement: Movement) -> Result<(), TccError> {
        let action = self.name.clone();
        self.within(move |tx| {
            let key = FenceKey {
                xid: &xid,
                branch_id,
                action: &action,
            };
            fence::prepare(tx, key)?;
            let sql = "UPDATE account SET balance = balance + min(?2, 0) WHERE id = ?1 AND balance + ?2 >= 0";
            match tx
                .execute(sql, (movement.account, movement.amount))
                .map_err(TccError::retryable)?
            {
                1 => Ok(()),
                _ => Err(TccError::unretryable("no such account, or not enough money in it")),
            }
        })
        .await
    }

    /// Phase two: a deposit arrives, or a withdrawal comes back.
    async fn end(&self, call: &BranchCall, is_commit: bool) -> Result<(), TccError> {
        let movement: Movement = call.context().map_err(TccError::unretryable)?;
        let call = call.clone();
        self.within(move |tx| {
            let (pass, sql) = if is_commit {
                let sql = "UPDATE account SET balance = balance + max(?2, 0) WHERE id = ?1";
                (fence::commit(tx, FenceKey::from(&call))?, sql)
            } else {
                let sql = "UPDATE account SET balance = balance - min(?2, 0) WHERE id = ?1";
                (fence::rollback(tx, FenceKey::from(&call))?, sql)
            };
            if pass == Pass::Do {
                tx.execute(sql, (movement.account, movement.amount))
                    .map_err(TccError::retryable)?;
            }
            Ok(())
        })
        .await
    }
}

impl TccResource for Accounts {
    fn name(&self) -> &str {
        &self.name
    }

    fn commit<'a>(&'a self, call: &'a BranchCall) -> TccFuture<'a> {
        Box::pin(self.end(call, true))
    }

    fn rollback<'a>(&'a self, call: &'a BranchCall) -> TccFuture<'a> {
        Box::pin(self.end(call, false))
    }
}

/// One office, joined to the coordinators.
pub struct Office {
    accounts: Arc<Accounts>,
    pub tm: Tm,
    rm: Rm,
    /// Takes the transaction along to the other office.
    http: Carry<Client<HttpConnector, Body>>,
}

#[derive(Serialize, Deserialize)]
pub struct Transfer {
    pub from: i64,
    /// The base of the other office's URL.
    pub to_office: String,
    pub to: i64,
    pub amount: i64,
}

#[derive(Serialize, Deserialize)]
pub struct Deposit {
    pub account: i64,
    pub amount: i64,
}

type Answer<T> = Result<T, (StatusCode, String)>;

fn failed(error: impl std::fmt::Display) -> (StatusCode, String) {
    (StatusCode::CONFLICT, error.to_string())
}

impl Office {
    /// Opens the accounts of the office `name`, which is also the application's id and the resource's name.
    pub async fn open(name: &str, file: &Path, options: Options) -> Result<Arc<Office>, Box<dyn std::error::Error>> {
        let accounts = Arc::new(Accounts::open(name, file)?);
        let rm = Rm::connect(options.clone(), vec![accounts.clone()]).await?;
        let tm = Tm::connect(options).await?;
        let http = CarryLayer.layer(Client::builder(TokioExecutor::new()).build_http());
        Ok(Arc::new(Office { accounts, tm, rm, http }))
    }

    /// Its HTTP interface: `POST /transfer`, `POST /deposit`, `POST` and `GET /accounts/{id}`.
    pub fn routes(self: &Arc<Office>) -> Router {
        Router::new()
            .route("/transfer", post(transfer))
            .route("/deposit", post(deposit))
            .route("/accounts/{id}", get(balance).post(open))
            .layer(JoinLayer)
            .with_state(self.clone())
    }

    /// A branch of the transaction that the task is in.
    async fn move_money(&self, current: Option<Current>, movement: Movement) -> Answer<()> {
        let xid = current.ok_or_else(|| failed("outside a transaction"))?.xid().to_owned();
        let registered = self.rm.register(&xid, &self.accounts.name, &movement).await;
        self.accounts
            .prepare(xid, registered.map_err(failed)?, movement)
            .await
            .map_err(failed)
    }

    async fn ask_for_deposit(&self, office: &str, deposit: &Deposit) -> Answer<()> {
        let body = serde_json::to_vec(deposit).map_err(failed)?;
        let request = Request::post(format!("{office}/deposit")).header(CONTENT_TYPE, "application/json");
        let request = request.body(Body::from(body)).map_err(failed)?;
        let answer = self.http.clone().oneshot(request).await.map_err(failed)?;
        match answer.status() {
            StatusCode::OK => Ok(()),
            status => Err(failed(format!("the other office says {status}"))),
        }
    }
}

/// Begins a transaction; any error on the way rolls all of it back.
async fn transfer(State(office): State<Arc<Office>>, Json(wanted): Json<Transfer>) -> Answer<()> {
    let work = async |current| {
        let movement = Movement {
            account: wanted.from,
            amount: -wanted.amount,
        };
        office.move_money(current, movement).await?;
        let deposit = Deposit {
            account: wanted.to,
            amount: wanted.amount,
        };
        office.ask_for_deposit(&wanted.to_office, &deposit).await
    };
    let done = office
        .tm
        .run(Propagation::Required, "transfer", TRANSFER_WITHIN, work)
        .await;
    done.map_err(|error| match error {
        settle_sdk::ScopeError::Work { error, .. } => error,
        error if error.is_outcome_unknown() => (
            StatusCode::GATEWAY_TIMEOUT,
            error.code().map_or(String::new(), |code| code.to_string()),
        ),
        _ => failed("it was not committed"),
    })
}

/// Joins the caller's transaction, and only that.
async fn deposit(State(office): State<Arc<Office>>, Json(wanted): Json<Deposit>) -> Answer<()> {
    let movement = Movement {
        account: wanted.account,
        amount: wanted.amount,
    };
    let work = async |current| office.move_money(current, movement).await;
    let done = office
        .tm
        .run(Propagation::Mandatory, "deposit", TRANSFER_WITHIN, work)
        .await;
    done.map_err(|error| match error {
        settle_sdk::ScopeError::Work { error, .. } => error,
        _ => failed("a deposit is part of a transfer"),
    })
}

async fn balance(State(office): State<Arc<Office>>, InPath(id): InPath<i64>) -> Answer<Json<i64>> {
    let sql = "SELECT balance FROM account WHERE id = ?1";
    let read = office
        .accounts
        .within(move |tx| tx.query_row(sql, [id], |row| row.get(0)).map_err(TccError::unretryable));
    read.await.map(Json).map_err(failed)
}

async fn open(State(office): State<Arc<Office>>, InPath(id): InPath<i64>, Json(balance): Json<i64>) -> Answer<()> {
    let sql = "INSERT INTO account VALUES (?1, ?2)";
    let opened = office
        .accounts
        .within(move |tx| tx.execute(sql, (id, balance)).map_err(TccError::unretryable));
    opened.await.map(drop).map_err(failed)
}
