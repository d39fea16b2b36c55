//! Clients that keep a cluster busy and note what they are told.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use settle_sdk::{
    BranchStatus, BranchType,
    connection::{Answer, Connection, ConnectionError, Phase, PhaseTwo},
};
use settle_seata_wire::{BranchEnd, BranchRegister, Message};
use settle_testkit::{Cluster, until};
use tokio::task::JoinSet;

use crate::{
    RESOURCE, SOON, connect_rm, connect_tm,
    ledger::{BrokenPromise, End, Ledger, Told},
};

/// Longer than any hold of the server's, so that silence is the server's decision.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// No transaction of these tests ends by its time.
const TIMEOUT_MS: i32 = 3_600_000;
/// Rows that all workers want.
const HOT_ROWS: u64 = 4;
/// How many of the open transactions are looked at row by row.
const LOOKED_AT: usize = 25;

/// One transaction manager and one resource manager at each of some nodes.
pub struct Clients {
    nodes: BTreeMap<u32, (Connection, Connection)>,
    pub ledger: Arc<Ledger>,
}

impl Clients {
    pub async fn connect(
        cluster: &Cluster,
        nodes: impl IntoIterator<Item = u32>,
        ledger: &Arc<Ledger>,
    ) -> Result<Arc<Clients>> {
        let mut connected = BTreeMap::new();
        for node in nodes {
            let address = cluster.tx(node);
            let tm = connect_tm(address, ANSWER_WITHIN).await?;
            let rm = connect_rm(address, noting(ledger), ANSWER_WITHIN).await?;
            connected.insert(node, (tm, rm));
        }
        Ok(Arc::new(Clients::of(connected, ledger)))
    }

    /// A transaction manager and a resource manager at each node, at one of them at least.
    pub fn of(nodes: BTreeMap<u32, (Connection, Connection)>, ledger: &Arc<Ledger>) -> Clients {
        assert!(!nodes.is_empty(), "they are connected somewhere");
        Clients {
            nodes,
            ledger: ledger.clone(),
        }
    }

    fn nth(&self, n: u64) -> &(Connection, Connection) {
        let at = (n % self.nodes.len() as u64) as usize;
        self.nodes.values().nth(at).expect("it is below the number of nodes")
    }

    pub fn tm(&self, n: u64) -> &Connection {
        &self.nth(n).0
    }

    pub fn rm(&self, n: u64) -> &Connection {
        &self.nth(n).1
    }

    pub async fn begin(&self, n: u64) -> Result<String, ConnectionError> {
        let xid = self.tm(n).begin("transfer", TIMEOUT_MS).await?;
        self.ledger.begun(&xid);
        Ok(xid)
    }

    /// Registers a branch through the `n`th node and notes it. False when the row is another's.
    pub async fn lock(&self, n: u64, xid: &str, kind: BranchType, row: &str) -> Result<bool, ConnectionError> {
        match self.rm(n).register_branch(xid, kind, RESOURCE, row).await {
            Ok(branch) => {
                self.ledger.registered(xid, branch, row);
                Ok(true)
            }
            Err(ConnectionError::Refused { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Registers a branch that carries `data`, and gives its id.
    pub async fn register_with_data(&self, n: u64, xid: &str, row: &str, data: String) -> Result<i64> {
        let register = BranchRegister {
            xid: xid.to_owned(),
            branch_type: BranchType::At,
            resource_id: RESOURCE.to_owned(),
            lock_key: row.to_owned(),
            application_data: data,
        };
        match self.rm(n).call(Message::BranchRegister(register)).await? {
            Message::BranchRegisterResponse(response) if response.result.is_success() => Ok(response.branch_id),
            other => bail!("not registered: {other:?}"),
        }
    }

    pub async fn end(&self, n: u64, xid: &str, end: End) -> Result<(), ConnectionError> {
        self.ledger.asking(xid, end);
        let status = match end {
            End::Commit => self.tm(n).commit(xid).await?,
            End::Rollback => self.tm(n).rollback(xid).await?,
        };
        self.ledger.told(xid, end, status);
        Ok(())
    }

    /// One transaction of the mix, over as many nodes as there are. `under_way` is its xid when it fails.
    pub async fn transaction(&self, n: u64, under_way: &mut Option<String>) -> Result<(), ConnectionError> {
        let xid = self.begin(n).await?;
        *under_way = Some(xid.clone());
        let (kind, row) = match n % 3 {
            0 => (BranchType::At, format!("account:hot{}", n / 3 % HOT_ROWS)),
            1 => (
                BranchType::At,
                format!("account:{n}-{}", xid.rsplit(':').next().unwrap_or_default()),
            ),
            // Nothing to lock, but the answer to the commit waits for phase two.
            _ => (BranchType::Tcc, String::new()),
        };
        let has_row = match kind {
            BranchType::At => self.lock(n + 1, &xid, kind, &row).await?,
            _ => self
                .rm(n + 1)
                .register_branch(&xid, kind, RESOURCE, "")
                .await
                .map(|_| true)?,
        };
        match n % 8 {
            // Hot rows are never left locked: the others would have nothing to do.
            7 if !row.contains("hot") => Ok(()),
            1 | 4 => self.end(n + 2, &xid, End::Rollback).await,
            _ if !has_row => self.end(n + 2, &xid, End::Rollback).await,
            // Both at once, through two nodes: one of them wins, and both are told so.
            5 => {
                let (commit, rollback) =
                    tokio::join!(self.end(n + 1, &xid, End::Commit), self.end(n + 2, &xid, End::Rollback));
                commit.and(rollback)
            }
            _ => self.end(n + 2, &xid, End::Commit).await,
        }
    }
}

/// Does what it is called for, and notes the calls.
pub fn noting(ledger: &Arc<Ledger>) -> Arc<dyn PhaseTwo> {
    let notes = ledger.clone();
    Arc::new(move |phase, call: BranchEnd, answer: Answer| {
        notes.called(phase, call.branch_id, &call.xid);
        answer.send(match phase {
            Phase::Commit => BranchStatus::PhaseTwoCommitted,
            Phase::Rollback => BranchStatus::PhaseTwoRollbacked,
        });
    })
}

/// Workers that run transactions until told to stop, or until their connections fail.
pub struct Load {
    workers: JoinSet<Result<(), ConnectionError>>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
}

impl Load {
    pub fn start(clients: &Arc<Clients>, workers: u64) -> Load {
        let (stop, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut set = JoinSet::new();
        for worker in 0..workers {
            let (clients, stop, done) = (clients.clone(), stop.clone(), done.clone());
            set.spawn(async move {
                let mut n = worker;
                while !stop.load(Ordering::Relaxed) {
                    clients.transaction(n, &mut None).await?;
                    done.fetch_add(1, Ordering::Relaxed);
                    n += workers;
                }
                Ok(())
            });
        }
        Load {
            workers: set,
            stop,
            done,
        }
    }

    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until `more` further transactions are through.
    pub async fn wait_for(&self, more: u64) -> Result<()> {
        let target = self.done() + more;
        until(&format!("{more} transactions under load"), SOON, async || {
            let done = self.done();
            ensure!(done >= target, "{done} of {target} are done");
            Ok::<_, anyhow::Error>(())
        })
        .await
    }

    /// Waits for all workers, whose servers are gone.
    pub async fn join_broken(mut self) {
        while self.workers.join_next().await.is_some() {}
    }

    /// Stops all workers.
    ///
    /// # Errors
    /// When a call of theirs had failed.
    pub async fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.workers.join_next().await {
            ended?.context("a call under load failed")?;
        }
        Ok(())
    }
}

/// Asks all nodes, in turn, whether all that was told is still true, and waits until what was decided is done.
pub async fn check_all(cluster: &Cluster, clients: &Arc<Clients>) -> Result<()> {
    let mut left: Vec<(String, Told)> = clients.ledger.all();
    let mut open: Vec<(String, Told)> = left.iter().filter(|(_, told)| told.is_open()).cloned().collect();
    open.sort_by_key(|(xid, _)| number(xid));
    until("what was decided is done", SOON, async || {
        // What is wrong now stays wrong: told below, outside of the retries.
        let looked = statuses(clients, std::mem::take(&mut left)).await;
        match looked.and_then(|left| clients.ledger.verdict().map(|()| left)) {
            Ok(still) => left = still,
            Err(error) => return Ok(Err(error)),
        }
        let example = left.first();
        ensure!(
            example.is_none(),
            "{} transactions are not, e.g. {example:?}",
            left.len()
        );
        Ok::<_, anyhow::Error>(Ok(()))
    })
    .await??;
    // The newest are those that a kill may have lost.
    for (n, (xid, told)) in open.iter().rev().take(LOOKED_AT).enumerate() {
        check_branches(cluster, clients, n as u64, xid, told).await?;
    }
    clients.ledger.verdict()
}

/// Which rises with each transaction, whatever node it was begun through.
fn number(xid: &str) -> i64 {
    let (_, number) = xid.rsplit_once(':').unwrap_or_default();
    number.parse().unwrap_or_default()
}

/// Checks the status of each and gives back those whose second phase is not over.
async fn statuses(clients: &Arc<Clients>, all: Vec<(String, Told)>) -> Result<Vec<(String, Told)>> {
    const AT_ONCE: usize = 64;
    let mut all = all.into_iter().enumerate();
    let mut asking = JoinSet::new();
    let mut left = Vec::new();
    loop {
        while asking.len() < AT_ONCE
            && let Some((n, (xid, told))) = all.next()
        {
            let clients = clients.clone();
            asking.spawn(async move {
                let status = clients.tm(n as u64).status(&xid).await;
                (xid, told, status)
            });
        }
        let Some(asked) = asking.join_next().await else {
            return Ok(left);
        };
        let (xid, told, status) = asked?;
        let status = status.with_context(|| format!("status of {xid}"))?;
        if !told.agrees_with(status) {
            clients.ledger.broken(format!("{xid} is {status:?} now, but {told:?}"));
        } else if !told.is_settled_by(status) {
            left.push((xid, told));
        }
    }
}

/// An open transaction still has its branches and its rows.
async fn check_branches(cluster: &Cluster, clients: &Clients, n: u64, xid: &str, told: &Told) -> Result<()> {
    let nodes = cluster.nodes();
    let node = nodes.start() + n as u32 % nodes.end();
    let shown = cluster.get(node, &format!("/v1/tx/{xid}")).await?;
    for (branch, row) in &told.branches {
        let id = branch.to_string();
        let is_there = shown.json::<serde_json::Value>().is_ok_and(|tx| {
            let branches = tx["branches"].as_array().cloned().unwrap_or_default();
            branches.iter().any(|shown| {
                shown["branch"] == id.as_str() && shown["lock_keys"].as_str().is_some_and(|keys| keys == row)
            })
        });
        if !is_there {
            let lost = format!("branch {branch} of {xid} with {row} is gone: {}", shown.body);
            return Err(BrokenPromise(lost).into());
        }
        let other = clients.begin(n).await?;
        if clients.lock(n + 1, &other, BranchType::At, row).await? {
            return Err(BrokenPromise(format!("{other} was given {row}, which {xid} holds")).into());
        }
        clients.end(n + 2, &other, End::Rollback).await?;
    }
    Ok(())
}
