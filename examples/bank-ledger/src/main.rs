//! One node of a bank: run three of them, each with its own `--node`, and ask any.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use clap::Parser;
use serde::{Deserialize, Serialize};
use settle_base::{GroupId, NodeId, fingerprint};
use settle_example_bank_ledger::{Balance, Command, Ledger};
use settle_machine::{Applied, CommandOptions, Ticket};
use settle_net::bind;
use settle_node::{Embedded, NodeConfig, NodeStopped};
use tokio::net::TcpListener;

/// A new cluster is founded with this one group.
const GROUP: GroupId = GroupId(1);

/// One node of a replicated bank ledger.
#[derive(Parser)]
struct Args {
    /// Which of `--nodes` this is: 1, 2, …
    #[arg(long)]
    node: u32,
    /// Where the nodes listen for each other.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "127.0.0.1:7601,127.0.0.1:7602,127.0.0.1:7603"
    )]
    nodes: Vec<SocketAddr>,
    /// Where clients ask, by HTTP.
    #[arg(long)]
    http: SocketAddr,
    /// This node's data; made when it is not there.
    #[arg(long)]
    data: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let nodes: Vec<_> = (1..).map(NodeId).zip(args.nodes).collect();
    let own = nodes.iter().find(|(node, _)| node.0 == args.node);
    let (id, address) = *own.with_context(|| format!("there is no node {} among --nodes", args.node))?;
    let peers = bind(address, "the other nodes", 64).await?;
    let http = TcpListener::bind(args.http)
        .await
        .with_context(|| format!("listen on {}", args.http))?;

    let config = NodeConfig::new(id, &nodes, args.data)?;
    let (node, mut running) = Embedded::start(config, peers, CommandOptions::default(), |_| Ledger::default())?;
    println!("node {id} answers on http://{}", args.http);
    let routes = Router::new()
        .route("/accounts", post(open))
        .route("/accounts/{account}", get(balance))
        .route("/transfers", post(transfer))
        .with_state(Arc::new(node));
    let outcome = tokio::select! {
        biased;
        error = running.failed() => Err(error).context("this node must not go on"),
        result = tokio::signal::ctrl_c() => result.context("listen for Ctrl-C"),
        result = axum::serve(http, routes) => result.context("serve HTTP"),
    };
    running.stop().await;
    outcome
}

type Node = State<Arc<Embedded<Ledger>>>;

#[derive(Deserialize)]
struct Open {
    account: u64,
    balance: u64,
}

#[derive(Deserialize)]
struct Transfer {
    from: u64,
    to: u64,
    amount: u64,
}

#[derive(Serialize)]
struct Account {
    account: u64,
    balance: u64,
}

/// As a client reads it.
struct Problem(StatusCode, String);

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.0, self.1 + "\n").into_response()
    }
}

impl From<NodeStopped> for Problem {
    fn from(error: NodeStopped) -> Problem {
        Problem(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

async fn open(State(node): Node, headers: HeaderMap, Json(open): Json<Open>) -> Result<Json<Vec<Account>>, Problem> {
    let Open { account, balance } = open;
    run(&node, &headers, Command::Open { account, balance }).await
}

async fn transfer(
    State(node): Node,
    headers: HeaderMap,
    Json(t): Json<Transfer>,
) -> Result<Json<Vec<Account>>, Problem> {
    let Transfer { from, to, amount } = t;
    run(&node, &headers, Command::Transfer { from, to, amount }).await
}

async fn balance(State(node): Node, Path(account): Path<u64>) -> Result<Json<Account>, Problem> {
    let balance = node.read(GROUP, move |ledger| ledger.balance(account)).await?;
    let missing = || Problem(StatusCode::NOT_FOUND, format!("there is no account {account}"));
    let balance = balance.ok_or_else(missing)?;
    Ok(Json(Account { account, balance }))
}

/// With an `Idempotency-Key`, a client that heard nothing may ask again, on any node: it is done once.
async fn run(node: &Embedded<Ledger>, headers: &HeaderMap, command: Command) -> Result<Json<Vec<Account>>, Problem> {
    let Applied { effects, .. } = match headers.get("idempotency-key") {
        Some(key) => {
            let session = fingerprint(key.as_bytes());
            let ticket = Ticket { session, number: 1 };
            node.apply_as(GROUP, ticket, command.encode()).await?
        }
        None => node.apply(GROUP, command.encode()).await?,
    };
    let Some(outcome) = effects.and_then(|mut effects| effects.pop()) else {
        let told_before = "it was done before, and told then".to_owned();
        return Err(Problem(StatusCode::CONFLICT, told_before));
    };
    let changed = outcome.map_err(|refusal| Problem(StatusCode::UNPROCESSABLE_ENTITY, format!("{refusal:?}")))?;
    let row = |Balance { account, cents }| Account {
        account,
        balance: cents,
    };
    Ok(Json(changed.into_iter().map(row).collect()))
}
