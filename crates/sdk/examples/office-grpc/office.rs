//! A bank's office behind gRPC by `tonic`. Money moves between two offices in one global transaction, as in the example
//! `office`, over accounts of the same kind.
//!
//! What `tonic` would make of a `.proto` file is written out, so that nobody needs a compiler for it.

#[allow(clippy::duplicate_mod, reason = "who tests has both examples in one crate")]
#[path = "../office/accounts.rs"]
mod accounts;

use std::{
    convert::Infallible,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use accounts::{Accounts, Movement};
use http::uri::PathAndQuery;
use prost::Message;
use settle_sdk::{
    Current, Options, Propagation, Rm, ScopeError, Tm,
    http::{CarryLayer, JoinLayer},
};
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService},
    transport::{Endpoint, Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;
use tower::{Layer, Service, service_fn};

const TRANSFER_WITHIN: Duration = Duration::from_secs(60);

pub const TRANSFER: &str = "/bank.Office/Transfer";
pub const DEPOSIT: &str = "/bank.Office/Deposit";
pub const CREATE: &str = "/bank.Office/Create";
pub const BALANCE: &str = "/bank.Office/Balance";

#[derive(Clone, PartialEq, Message)]
pub struct Transfer {
    #[prost(int64, tag = "1")]
    pub from: i64,
    /// The base of the other office's URL.
    #[prost(string, tag = "2")]
    pub to_office: String,
    #[prost(int64, tag = "3")]
    pub to: i64,
    #[prost(int64, tag = "4")]
    pub amount: i64,
}

/// An account, and what is in it or goes there.
#[derive(Clone, PartialEq, Message)]
pub struct Account {
    #[prost(int64, tag = "1")]
    pub id: i64,
    #[prost(int64, tag = "2")]
    pub amount: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Done {}

fn failed(error: impl std::fmt::Display) -> Status {
    Status::aborted(error.to_string())
}

/// One office, joined to the coordinators.
pub struct Office {
    accounts: Arc<Accounts>,
    tm: Tm,
    rm: Rm,
}

impl Office {
    /// Opens the accounts of the office `name`, which is also the application's id and the resource's name.
    pub async fn open(name: &str, file: &Path, options: Options) -> Result<Arc<Office>, Box<dyn std::error::Error>> {
        let accounts = Arc::new(Accounts::open(name, file)?);
        let rm = Rm::connect(options.clone(), vec![accounts.clone()]).await?;
        let tm = Tm::connect(options).await?;
        Ok(Arc::new(Office { accounts, tm, rm }))
    }

    /// Serves until an error: each call runs in the transaction that its metadata name.
    pub async fn serve(self: Arc<Office>, listener: TcpListener) -> Result<(), tonic::transport::Error> {
        Server::builder()
            .layer(JoinLayer)
            .add_service(Door { office: self })
            .serve_with_incoming(TcpIncoming::from(listener))
            .await
    }

    /// A branch of the transaction that the task is in.
    async fn move_money(&self, current: Option<Current>, movement: Movement) -> Result<(), Status> {
        let current = current.ok_or_else(|| failed("outside a transaction"))?;
        let moved = self.accounts.move_money(&self.rm, current.xid(), movement);
        moved.await.map_err(failed)
    }

    /// Begins a transaction; any error on the way rolls all of it back.
    async fn transfer(self: Arc<Office>, wanted: Transfer) -> Result<Done, Status> {
        let work = async |current| {
            let movement = Movement {
                account: wanted.from,
                amount: -wanted.amount,
            };
            self.move_money(current, movement).await?;
            let deposit = Account {
                id: wanted.to,
                amount: wanted.amount,
            };
            ask::<_, Done>(&wanted.to_office, DEPOSIT, deposit).await
        };
        let done = self.tm.run(Propagation::Required, "transfer", TRANSFER_WITHIN, work);
        done.await.map_err(|error| match error {
            ScopeError::Work { error, .. } => error,
            error if error.is_outcome_unknown() => Status::deadline_exceeded(error.to_string()),
            error => failed(error),
        })
    }

    /// Joins the caller's transaction, and only that.
    async fn deposit(self: Arc<Office>, wanted: Account) -> Result<Done, Status> {
        let movement = Movement {
            account: wanted.id,
            amount: wanted.amount,
        };
        let work = async |current| self.move_money(current, movement).await;
        let done = self.tm.run(Propagation::Mandatory, "deposit", TRANSFER_WITHIN, work);
        done.await.map(|()| Done {}).map_err(|error| match error {
            ScopeError::Work { error, .. } => error,
            error => failed(error),
        })
    }

    async fn create(self: Arc<Office>, wanted: Account) -> Result<Done, Status> {
        let created = self.accounts.create(wanted.id, wanted.amount);
        created.await.map(|()| Done {}).map_err(failed)
    }

    async fn balance(self: Arc<Office>, wanted: Account) -> Result<Account, Status> {
        let amount = self.accounts.balance(wanted.id).await.map_err(failed)?;
        Ok(Account { id: wanted.id, amount })
    }
}

/// Asks another office, in the transaction that this task is in.
pub async fn ask<Q, A>(office: &str, method: &'static str, message: Q) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    // A service that asks often keeps the channel.
    let channel = Endpoint::from_shared(office.to_owned()).map_err(failed)?;
    let channel = channel.connect().await.map_err(failed)?;
    let mut client = tonic::client::Grpc::new(CarryLayer.layer(channel));
    client.ready().await.map_err(failed)?;
    let codec = ProstCodec::<Q, A>::default();
    let answer = client.unary(Request::new(message), PathAndQuery::from_static(method), codec);
    answer.await.map(Response::into_inner)
}

/// The service `bank.Office`.
#[derive(Clone)]
struct Door {
    office: Arc<Office>,
}

impl NamedService for Door {
    const NAME: &'static str = "bank.Office";
}

impl Service<http::Request<Body>> for Door {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let office = self.office.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                TRANSFER => unary(request, |wanted| office.clone().transfer(wanted)).await,
                DEPOSIT => unary(request, |wanted| office.clone().deposit(wanted)).await,
                CREATE => unary(request, |wanted| office.clone().create(wanted)).await,
                BALANCE => unary(request, |wanted| office.clone().balance(wanted)).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

async fn unary<Q, A, F>(request: http::Request<Body>, mut answer: impl FnMut(Q) -> F + Send) -> http::Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + 'static,
    F: Future<Output = Result<A, Status>> + Send,
{
    let service = service_fn(|request: Request<Q>| {
        let answer = answer(request.into_inner());
        async move { answer.await.map(Response::new) }
    });
    Grpc::new(ProstCodec::<A, Q>::default()).unary(service, request).await
}
