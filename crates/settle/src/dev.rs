//! `settle dev`: a whole cluster on this machine, as child processes of this executable.

use std::path::PathBuf;

use anyhow::{Context, bail};

use crate::local::LocalCluster;

#[derive(clap::Args, Debug)]
pub struct DevArgs {
    /// How many servers to run.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    nodes: u16,
    /// Where to keep the data; created when missing. Without it, a new directory under the system's temporary one.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Added to every port, so that a second cluster can run beside the first.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=50_000))]
    port_offset: u16,
}

pub async fn run(args: DevArgs) -> anyhow::Result<()> {
    let data = match args.data {
        Some(dir) => dir,
        None => std::env::temp_dir().join(format!("settle-dev-{}", std::process::id())),
    };
    std::fs::create_dir_all(&data).with_context(|| format!("cannot create the data directory {}", data.display()))?;
    let data = data.canonicalize()?;
    let mut cluster = LocalCluster::prepare(args.nodes, &data, args.port_offset, "")?;
    println!("Starting {} servers …", cluster.servers.len());
    let outcome = run_until_stopped(&mut cluster).await;
    for line in cluster.stop().await {
        println!("{line}");
    }
    println!("The data is in {}", data.display());
    outcome
}

async fn run_until_stopped(cluster: &mut LocalCluster) -> anyhow::Result<()> {
    let mut interrupt = std::pin::pin!(interrupted());
    tokio::select! {
        biased;
        result = &mut interrupt => { result?; return Ok(()) }
        ready = cluster.start() => ready?,
    }
    print_table(cluster);
    loop {
        tokio::select! {
            biased;
            result = &mut interrupt => {
                result?;
                println!("\nStopping …");
                return Ok(());
            }
            (server, status) = cluster.any_exit() => {
                println!(
                    "Server {} ended ({status}). Its log: {}\n  Start it again with: settle server --config {}",
                    server.id,
                    server.process.log().display(),
                    server.config.display(),
                );
                if cluster.servers.iter().all(|server| !server.process.is_running()) {
                    bail!("all servers have ended");
                }
            }
        }
    }
}

fn print_table(cluster: &LocalCluster) {
    println!();
    println!("  node  transactions     HTTP API, metrics       peers            log");
    for server in &cluster.servers {
        println!(
            "  {:<4}  {:<15}  http://{:<15}  {:<15}  {}",
            server.id,
            server.tx,
            server.http,
            server.peer,
            server.process.log().display()
        );
    }
    println!();
    println!(
        "  Seata clients: service.default.grouplist={}",
        cluster.tx_addresses().join(";")
    );
    println!(
        "  Look inside:   settle ctl node status --http {}",
        cluster.servers[0].url()
    );
    println!("\nReady. Ctrl-C stops all servers.");
}

/// Resolves at Ctrl-C or a request to terminate.
pub async fn interrupted() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
