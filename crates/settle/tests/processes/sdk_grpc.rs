//! The SDK's example behind gRPC, against real servers: a transaction travels in a call's metadata.

#[path = "../../../sdk/examples/office-grpc/office.rs"]
mod office;

use std::path::PathBuf;

use anyhow::{Result, anyhow, ensure};
use office::{Account, BALANCE, CREATE, DEPOSIT, Done, Office, TRANSFER, Transfer, ask};
use settle_sdk::Options;
use settle_testkit::{Cluster, until};
use tokio::{net::TcpListener, task::JoinSet};

use crate::{SOON, spec, turn};

/// An office in this process, and its URL.
async fn opened(cluster: &Cluster, name: &str, file: PathBuf, tasks: &mut JoinSet<()>) -> Result<String> {
    let options = Options::new(cluster.nodes().map(|node| cluster.tx(node).to_string()), name);
    let office = Office::open(name, &file, options)
        .await
        .map_err(|error| anyhow!("{error}"))?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tasks.spawn(async move {
        // Ends with the test.
        let _ = office.serve(listener).await;
    });
    Ok(url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_offices_behind_grpc_move_money_whole_or_not_at_all() -> Result<()> {
    let _turn = turn().await;
    let cluster = Cluster::start(spec(3)).await?;
    let mut tasks = JoinSet::new();
    let mut offices = Vec::new();
    for name in ["north", "south"] {
        let file = cluster.data_dir(1).join(format!("{name}.db"));
        let url = opened(&cluster, name, file, &mut tasks).await?;
        ask::<_, Done>(&url, CREATE, Account { id: 1, amount: 100 }).await?;
        offices.push(url);
    }
    let transfer = async |to: i64, amount: i64| {
        let wanted = Transfer {
            from: 1,
            to_office: offices[1].clone(),
            to,
            amount,
        };
        ask::<_, Done>(&offices[0], TRANSFER, wanted).await
    };
    let balances = async |north: i64, south: i64| {
        until("the balances are right", SOON, async || {
            let mut found = Vec::new();
            for url in &offices {
                let account: Account = ask(url, BALANCE, Account { id: 1, amount: 0 }).await?;
                found.push(account.amount);
            }
            ensure!(found == [north, south], "{found:?}");
            Ok::<_, anyhow::Error>(())
        })
        .await
    };

    transfer(1, 30).await?;
    balances(70, 130).await?;
    // The other office has no such account: what was withdrawn here comes back.
    let refused = transfer(2, 30).await;
    ensure!(refused.is_err(), "it has no such account");
    balances(70, 130).await?;
    // A deposit by itself belongs to no transaction.
    let alone = ask::<_, Done>(&offices[1], DEPOSIT, Account { id: 1, amount: 5 }).await;
    ensure!(alone.is_err(), "it was done outside a transaction");
    balances(70, 130).await?;
    tasks.shutdown().await;
    cluster.finish();
    Ok(())
}
