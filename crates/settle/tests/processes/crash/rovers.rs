//! Clients with row locks that go from server to server, whichever answers, and note all that they are told.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use settle_base::Prng;
use settle_sdk::{
    Options,
    connection::{Connection, ConnectionError, Role, obedient},
};
use settle_testkit::{Cluster, until};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    RESOURCE, SOON,
    ledger::{End, Ledger},
    load::{Clients, noting},
};

const WORKERS: u64 = 6;
/// The pause between two transactions, so that the books of a long run stay small.
const PAUSE_MS: std::ops::Range<u64> = 20..120;
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
const ANSWER_WITHIN: Duration = Duration::from_secs(6);

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    done: AtomicU64,
    failed: AtomicU64,
}

pub struct Rovers {
    workers: JoinSet<()>,
    shared: Arc<Shared>,
}

impl Rovers {
    pub fn start(cluster: &Cluster, ledger: &Arc<Ledger>, seed: u64) -> Rovers {
        let servers: BTreeMap<u32, SocketAddr> = cluster.nodes().map(|node| (node, cluster.tx(node))).collect();
        let shared = Arc::<Shared>::default();
        let mut workers = JoinSet::new();
        for worker in 0..WORKERS {
            let rover = Rover {
                servers: servers.clone(),
                ledger: ledger.clone(),
                shared: shared.clone(),
                prng: Prng::from_parts(&[seed, worker]),
                next: worker,
                left: Vec::new(),
            };
            workers.spawn(rover.rove());
        }
        Rovers { workers, shared }
    }

    pub async fn wait_for(&self, transactions: u64) -> Result<()> {
        until("the clients begin", SOON, async || {
            let done = self.shared.done.load(Ordering::Relaxed);
            ensure!(done >= transactions, "{done} of {transactions} transactions");
            Ok(())
        })
        .await
    }

    /// Waits for all, and tells what they did.
    pub async fn stop(mut self) -> Result<String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.workers.join_next().await {
            ended?;
        }
        let (done, failed) = (&self.shared.done, &self.shared.failed);
        Ok(format!(
            "clients with row locks: {} transactions, {} of them given up in the middle",
            done.load(Ordering::Relaxed) + failed.load(Ordering::Relaxed),
            failed.load(Ordering::Relaxed)
        ))
    }
}

struct Rover {
    servers: BTreeMap<u32, SocketAddr>,
    ledger: Arc<Ledger>,
    shared: Arc<Shared>,
    prng: Prng,
    /// Decides what the next transaction does.
    next: u64,
    /// What a failure left behind: it may hold a row that all want.
    left: Vec<String>,
}

impl Rover {
    async fn rove(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let nodes = connect(&self.servers, &self.ledger).await;
            if !nodes.is_empty() {
                let clients = Clients::of(nodes, &self.ledger);
                // Whoever did not answer is not asked again before it can be connected with.
                if self.work(&clients).await.is_err() {
                    self.shared.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
            self.pause().await;
        }
    }

    async fn work(&mut self, clients: &Clients) -> Result<(), ConnectionError> {
        while !self.shared.stop.load(Ordering::Relaxed) {
            while let Some(xid) = self.left.last() {
                clients.end(self.next, xid, End::Rollback).await?;
                self.left.pop();
            }
            let mut under_way = None;
            let ended = clients.transaction(self.next, &mut under_way).await;
            self.next += WORKERS;
            if ended.is_err() {
                self.left.extend(under_way);
            }
            ended?;
            self.shared.done.fetch_add(1, Ordering::Relaxed);
            self.pause().await;
        }
        Ok(())
    }

    async fn pause(&mut self) {
        sleep(Duration::from_millis(self.prng.between(PAUSE_MS.start, PAUSE_MS.end))).await;
    }
}

/// A transaction manager and a resource manager at each server that answers.
async fn connect(servers: &BTreeMap<u32, SocketAddr>, ledger: &Arc<Ledger>) -> BTreeMap<u32, (Connection, Connection)> {
    let mut connecting = JoinSet::new();
    for (node, address) in servers {
        let (node, mut options) = (*node, Options::new([address.to_string()], "bank"));
        options.connect_timeout = CONNECT_WITHIN;
        options.attempt_timeout = ANSWER_WITHIN;
        options.dead_after = ANSWER_WITHIN;
        let calls = noting(ledger);
        connecting.spawn(async move {
            let address = &options.addresses[0];
            let resources = RESOURCE.to_owned();
            let tm = Connection::open(address, &Role::TransactionManager, obedient(), &options).await?;
            let rm = Connection::open(address, &Role::ResourceManager { resources }, calls, &options).await?;
            Ok::<_, ConnectionError>((node, (tm, rm)))
        });
    }
    let connected = connecting.join_all().await;
    connected.into_iter().filter_map(Result::ok).collect()
}
