//! A whole cluster on this machine, as child processes of this executable: for `settle dev` and `settle demo`.

mod child;

use std::{
    path::{Path, PathBuf},
    pin::Pin,
    process::ExitStatus,
    task::Poll,
};

use anyhow::Context;
pub use child::ChildProcess;

/// A server's default port plus the offset, plus this for each server before it.
const PORTS_APART: u16 = 100;

/// One server of a [`LocalCluster`].
pub struct LocalServer {
    pub id: u16,
    /// Where Seata clients connect.
    pub tx: String,
    pub http: String,
    pub peer: String,
    pub config: PathBuf,
    pub process: ChildProcess,
}

impl LocalServer {
    fn plan(id: u16, data: &Path, offset: u16) -> LocalServer {
        let address = |port: u16| format!("127.0.0.1:{}", port + offset + PORTS_APART * (id - 1));
        let config = data.join(format!("node{id}.toml"));
        let arguments = ["server", "--stop-with-stdin", "--config"].map(Into::into);
        let arguments = arguments.into_iter().chain([config.clone().into()]).collect();
        LocalServer {
            id,
            tx: address(8091),
            http: address(7091),
            peer: address(7070),
            process: ChildProcess::new(format!("Server {id}"), arguments, data.join(format!("node{id}.log"))),
            config,
        }
    }

    /// The base URL of its HTTP API.
    pub fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// Waits until the server serves.
    ///
    /// # Errors
    /// As [`ChildProcess::wait_until_ready`].
    pub async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let url = format!("{}/readyz", self.url());
        self.process.wait_until_ready(&url).await
    }
}

/// Servers with ids from 1, their configuration, data and logs below one directory.
pub struct LocalCluster {
    pub servers: Vec<LocalServer>,
}

impl LocalCluster {
    /// Writes the configurations of `nodes` servers below `data`; nothing runs yet. `settings` is TOML that is put at
    /// the end of each.
    ///
    /// # Errors
    /// When a configuration cannot be written.
    pub fn prepare(nodes: u16, data: &Path, offset: u16, settings: &str) -> anyhow::Result<LocalCluster> {
        let servers: Vec<LocalServer> = (1..=nodes).map(|id| LocalServer::plan(id, data, offset)).collect();
        let peers: Vec<String> = servers
            .iter()
            .map(|server| format!("\"{}@{}\"", server.id, server.peer))
            .collect();
        for server in &servers {
            let text = format!(
                "[node]\nid = {}\ndata-dir = {:?}\n\n[cluster]\npeers = [{}]\nauto-replace = true\n\n\
                 [listen]\ntx = {:?}\nhttp = {:?}\npeer = {:?}\n{settings}",
                server.id,
                data.join(format!("node{}", server.id)).display().to_string(),
                peers.join(", "),
                server.tx,
                server.http,
                server.peer,
            );
            std::fs::write(&server.config, text)
                .with_context(|| format!("cannot write {}", server.config.display()))?;
        }
        Ok(LocalCluster { servers })
    }

    /// Starts all servers and waits until each serves.
    ///
    /// # Errors
    /// When one does not.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        for server in &mut self.servers {
            server.process.start()?;
        }
        for server in &mut self.servers {
            server.wait_until_ready().await?;
        }
        Ok(())
    }

    /// Where Seata clients connect, for each server.
    pub fn tx_addresses(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.tx.clone()).collect()
    }

    /// Waits until a server ends.
    pub async fn any_exit(&mut self) -> (&LocalServer, ExitStatus) {
        let waits = self
            .servers
            .iter_mut()
            .enumerate()
            .map(|(at, server)| Box::pin(async move { (at, server.process.exit().await) }));
        let (at, status) = first_of(waits.collect()).await;
        (&self.servers[at], status)
    }

    /// Stops all servers in order, and says how that went.
    pub async fn stop(&mut self) -> Vec<String> {
        let stops = self.servers.iter_mut().map(|server| server.process.stop());
        all_of(stops.map(Box::pin).collect())
            .await
            .into_iter()
            .flatten()
            .collect()
    }
}

/// The first of several futures to be done.
async fn first_of<T>(mut futures: Vec<Pin<Box<impl Future<Output = T>>>>) -> T {
    std::future::poll_fn(|context| {
        for future in &mut futures {
            if let Poll::Ready(value) = future.as_mut().poll(context) {
                return Poll::Ready(value);
            }
        }
        Poll::Pending
    })
    .await
}

/// What all of several futures give, each running from the start.
async fn all_of<T>(mut futures: Vec<Pin<Box<impl Future<Output = T>>>>) -> Vec<T> {
    let mut values: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, value) in futures.iter_mut().zip(&mut values) {
            if value.is_none()
                && let Poll::Ready(done) = future.as_mut().poll(context)
            {
                *value = Some(done);
            }
        }
        if values.iter().all(Option::is_some) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    values.into_iter().flatten().collect()
}
