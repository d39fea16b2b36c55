//! A bank's office: accounts in its own SQLite file, HTTP by `axum` in front. Money moves between two offices in one global
//! transaction, by try, confirm and cancel.

#[allow(clippy::duplicate_mod, reason = "who tests has both examples in one crate")]
#[path = "accounts.rs"]
mod accounts;

use std::{path::Path, sync::Arc, time::Duration};

use accounts::{Accounts, Movement};
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
use serde::{Deserialize, Serialize};
use settle_sdk::{
    Current, Options, Propagation, Rm, Tm,
    http::{Carry, CarryLayer, JoinLayer},
};
use tower::{Layer, ServiceExt};

const TRANSFER_WITHIN: Duration = Duration::from_secs(60);
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

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

    /// Ends well, when no request comes any more: what was begun is rolled back, what the coordinators call for is done.
    /// False when that took too long.
    pub async fn close(&self) -> bool {
        self.tm.flush().await;
        self.rm.drain(CLOSE_WITHIN).await
    }

    /// A branch of the transaction that the task is in.
    async fn move_money(&self, current: Option<Current>, movement: Movement) -> Answer<()> {
        let current = current.ok_or_else(|| failed("outside a transaction"))?;
        let moved = self.accounts.move_money(&self.rm, current.xid(), movement);
        moved.await.map_err(failed)
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
    office.accounts.balance(id).await.map(Json).map_err(failed)
}

async fn open(State(office): State<Arc<Office>>, InPath(id): InPath<i64>, Json(balance): Json<i64>) -> Answer<()> {
    office.accounts.create(id, balance).await.map_err(failed)
}
