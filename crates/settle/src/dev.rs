//! `settle dev`: a whole cluster on this machine, as child processes of this executable.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::{
    process::{Child, ChildStdin, Command},
    time::{Instant, sleep_until},
};

use crate::http_client;

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

/// How long a cluster may take until every server is ready.
const START_WITHIN: Duration = Duration::from_secs(30);
/// How long a server may take to stop before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(10);

struct Server {
    id: u16,
    tx: String,
    http: String,
    peer: String,
    config: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    /// Kept open while the server is to run; waiting for the child would close the child's own.
    stdin: Option<ChildStdin>,
}

pub async fn run(args: DevArgs) -> anyhow::Result<()> {
    let data = match args.data {
        Some(dir) => dir,
        None => std::env::temp_dir().join(format!("settle-dev-{}", std::process::id())),
    };
    std::fs::create_dir_all(&data).with_context(|| format!("cannot create the data directory {}", data.display()))?;
    let data = data.canonicalize()?;
    let mut servers: Vec<Server> = (1..=args.nodes).map(|id| plan(id, &data, args.port_offset)).collect();
    let peers: Vec<String> = servers
        .iter()
        .map(|server| format!("\"{}@{}\"", server.id, server.peer))
        .collect();
    for server in &servers {
        write_config(server, &data, &peers.join(", "))?;
    }

    println!("Starting {} servers …", servers.len());
    for server in &mut servers {
        let mut child = spawn(server)?;
        server.stdin = child.stdin.take();
        server.child = Some(child);
    }
    let outcome = run_until_stopped(&mut servers).await;
    stop_all(&mut servers).await;
    println!("The data is in {}", data.display());
    outcome
}

async fn run_until_stopped(servers: &mut [Server]) -> anyhow::Result<()> {
    let mut interrupt = std::pin::pin!(interrupted());
    tokio::select! {
        biased;
        result = &mut interrupt => { result?; return Ok(()) }
        ready = wait_until_ready(servers) => ready?,
    }
    print_table(servers);
    loop {
        tokio::select! {
            biased;
            result = &mut interrupt => {
                result?;
                println!("\nStopping …");
                return Ok(());
            }
            (id, status) = any_exit(servers) => {
                let server = servers.iter().find(|server| server.id == id).expect("it was one of them");
                println!(
                    "Server {id} ended ({status}). Its log: {}\n  Start it again with: settle server --config {}",
                    server.log.display(),
                    server.config.display(),
                );
                if servers.iter().all(|server| server.child.is_none()) {
                    bail!("all servers have ended");
                }
            }
        }
    }
}

fn plan(id: u16, data: &Path, offset: u16) -> Server {
    let address = |port: u16| format!("127.0.0.1:{}", port + offset + 100 * (id - 1));
    Server {
        id,
        tx: address(8091),
        http: address(7091),
        peer: address(7070),
        config: data.join(format!("node{id}.toml")),
        log: data.join(format!("node{id}.log")),
        child: None,
        stdin: None,
    }
}

fn write_config(server: &Server, data: &Path, peers: &str) -> anyhow::Result<()> {
    let dir = data.join(format!("node{}", server.id));
    let text = format!(
        "[node]\nid = {}\ndata-dir = {:?}\n\n[cluster]\npeers = [{peers}]\nauto-replace = true\n\n\
         [listen]\ntx = {:?}\nhttp = {:?}\npeer = {:?}\n",
        server.id,
        dir.display().to_string(),
        server.tx,
        server.http,
        server.peer
    );
    std::fs::write(&server.config, text).with_context(|| format!("cannot write {}", server.config.display()))
}

fn spawn(server: &Server) -> anyhow::Result<Child> {
    let exe = std::env::current_exe().context("cannot find this executable")?;
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&server.log)
        .with_context(|| format!("cannot open {}", server.log.display()))?;
    Command::new(exe)
        .args(["server", "--stop-with-stdin", "--config"])
        .arg(&server.config)
        // Ctrl-C in a terminal is for this process alone, which then stops the servers in order.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start server {}", server.id))
}

async fn wait_until_ready(servers: &mut [Server]) -> anyhow::Result<()> {
    let deadline = Instant::now() + START_WITHIN;
    for server in servers.iter_mut() {
        let url = format!("http://{}/readyz", server.http);
        loop {
            let child = server.child.as_mut().expect("just started");
            if let Some(status) = child.try_wait()? {
                bail!(
                    "server {} did not start ({status}):\n{}",
                    server.id,
                    last_lines(&server.log)
                );
            }
            let probe = url.clone();
            if tokio::task::spawn_blocking(move || http_client::get(&probe))
                .await?
                .is_ok()
            {
                break;
            }
            if Instant::now() > deadline {
                bail!(
                    "server {} is not ready after {} s:\n{}",
                    server.id,
                    START_WITHIN.as_secs(),
                    last_lines(&server.log)
                );
            }
            sleep_until(Instant::now() + Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(10).collect();
    lines.into_iter().rev().map(|line| format!("  {line}\n")).collect()
}

fn print_table(servers: &[Server]) {
    println!();
    println!("  node  transactions     HTTP API, metrics       peers            log");
    for server in servers {
        println!(
            "  {:<4}  {:<15}  http://{:<15}  {:<15}  {}",
            server.id,
            server.tx,
            server.http,
            server.peer,
            server.log.display()
        );
    }
    let list: Vec<&str> = servers.iter().map(|server| server.tx.as_str()).collect();
    println!();
    println!("  Seata clients: service.default.grouplist={}", list.join(";"));
    println!(
        "  Look inside:   settle ctl node status --http http://{}",
        servers[0].http
    );
    println!("\nReady. Ctrl-C stops all servers.");
}

async fn any_exit(servers: &mut [Server]) -> (u16, ExitStatus) {
    let waits = servers.iter_mut().filter_map(|server| {
        let id = server.id;
        let child = server.child.as_mut()?;
        Some(Box::pin(async move { (id, child.wait().await) }))
    });
    let (id, status) = first_of(waits.collect()).await;
    let server = servers
        .iter_mut()
        .find(|server| server.id == id)
        .expect("it was one of them");
    server.child = None;
    (id, status.unwrap_or_default())
}

/// The first of several futures to be done.
async fn first_of<T>(mut futures: Vec<std::pin::Pin<Box<impl Future<Output = T>>>>) -> T {
    std::future::poll_fn(|context| {
        for future in &mut futures {
            if let std::task::Poll::Ready(value) = future.as_mut().poll(context) {
                return std::task::Poll::Ready(value);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

async fn stop_all(servers: &mut [Server]) {
    // A server stops when its standard input closes: that also holds when this process is killed.
    for server in servers.iter_mut() {
        server.stdin = None;
    }
    for server in servers {
        let Some(mut child) = server.child.take() else { continue };
        match tokio::time::timeout(STOP_WITHIN, child.wait()).await {
            Ok(Ok(status)) if status.success() => println!("Server {} stopped.", server.id),
            Ok(Ok(status)) => println!(
                "Server {} stopped with {status}; its log: {}",
                server.id,
                server.log.display()
            ),
            Ok(Err(error)) => println!("Server {}: {error}", server.id),
            Err(_) => {
                println!(
                    "Server {} did not stop within {} s and was killed.",
                    server.id,
                    STOP_WITHIN.as_secs()
                );
                let _ = child.kill().await;
            }
        }
    }
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
