//! The SDK against real servers: what it tells is true when the leader dies in the middle, and its example keeps money.

#[path = "../../../sdk/examples/office/office.rs"]
mod office;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use office::{Office, Transfer};
use settle_sdk::{
    BranchCall, Decision, Error, Options, Outcome, Progress, Propagation, Rm, ScopeError, Standing, TccFuture,
    TccResource, Tm,
};
use settle_testkit::{Cluster, get, post, until};
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{SOON, spec, turn};

const WORKERS: u64 = 8;
/// No transaction of these tests ends by its time.
const NEVER: Duration = Duration::from_secs(3_600);
/// Neither the leader's death nor its sleep may hold a call for longer (with a busy machine's share).
const STALL_MAX: Duration = Duration::from_secs(10);

fn options(cluster: &Cluster, application: &str) -> Options {
    Options::new(cluster.nodes().map(|node| cluster.tx(node).to_string()), application)
}

/// Which way each branch was called; nothing else is done.
#[derive(Default)]
struct Journal {
    called: Mutex<BTreeMap<i64, Vec<Decision>>>,
}

impl Journal {
    fn note(&self, call: &BranchCall, decision: Decision) {
        let mut called = self.called.lock().expect("no holder of this lock panics");
        called.entry(call.branch_id).or_default().push(decision);
    }

    /// How often the branch was called; an error when not always this way.
    fn check(&self, branch: i64, decision: Decision) -> Result<usize> {
        let called = self.called.lock().expect("no holder of this lock panics");
        let calls = called.get(&branch).map_or(&[][..], Vec::as_slice);
        ensure!(
            calls.iter().all(|call| *call == decision),
            "branch {branch} is to {decision:?}: {calls:?}"
        );
        Ok(calls.len())
    }
}

impl TccResource for Journal {
    fn name(&self) -> &str {
        "journal"
    }

    fn commit<'a>(&'a self, call: &'a BranchCall) -> TccFuture<'a> {
        self.note(call, Decision::Commit);
        Box::pin(async { Ok(()) })
    }

    fn rollback<'a>(&'a self, call: &'a BranchCall) -> TccFuture<'a> {
        self.note(call, Decision::Rollback);
        Box::pin(async { Ok(()) })
    }
}

/// One transaction of which everything is known that the client was told.
#[derive(Debug)]
struct Told {
    xid: String,
    branches: Vec<i64>,
    wanted: Decision,
    outcome: Result<Outcome, Error>,
}

/// Makes a call, and notes how long it took if none took longer.
async fn timed<T>(longest: &AtomicU64, call: impl Future<Output = T>) -> T {
    let start = Instant::now();
    let told = call.await;
    let millis = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    longest.fetch_max(millis, Ordering::Relaxed);
    told
}

/// Begins, registers a branch or two, and ends each transaction as it wants; never gives up.
async fn worker(
    n: u64,
    tm: Tm,
    rm: Rm,
    stop: Arc<AtomicU64>,
    longest: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
) -> Result<Vec<Told>> {
    let mut told = Vec::new();
    let mut turn = n;
    while stop.load(Ordering::Relaxed) == 0 {
        turn += WORKERS;
        let transaction = timed(&longest, tm.begin("transfer", NEVER)).await?;
        let xid = transaction.xid().to_owned();
        let mut branches = Vec::new();
        let mut wanted = if turn.is_multiple_of(5) {
            Decision::Rollback
        } else {
            Decision::Commit
        };
        for _ in 0..1 + turn % 2 {
            match timed(&longest, rm.register(&xid, "journal", &turn)).await {
                Ok(branch) => branches.push(branch),
                // It may be registered: the transaction may not commit.
                Err(Error::Unanswered { .. } | Error::RollbackOnly { .. }) => wanted = Decision::Rollback,
                Err(error) => return Err(error).with_context(|| format!("register a branch of {xid}")),
            }
        }
        let outcome = match wanted {
            Decision::Commit => timed(&longest, transaction.commit()).await,
            Decision::Rollback => timed(&longest, transaction.rollback()).await,
        };
        done.fetch_add(1, Ordering::Relaxed);
        told.push(Told {
            xid,
            branches,
            wanted,
            outcome,
        });
    }
    Ok(told)
}

/// Everything the client was told stays true, and every branch is called that way and no other.
async fn judge(tm: &Tm, journal: &Journal, told: &[Told]) -> Result<()> {
    for told in told {
        // It asks on its own, so what it could not learn is rare, and not an error of anybody's.
        let decision = match &told.outcome {
            Ok(outcome) => outcome.decision,
            Err(error) => return Err(anyhow!("{} was told {error}", told.xid)),
        };
        ensure!(decision == told.wanted, "{told:?}");
        until(&format!("{} is done", told.xid), SOON, async || {
            let standing = tm.status(&told.xid).await?;
            let Standing::Decided(outcome) = standing else {
                return Ok(Err(anyhow!("{} is {standing:?} after {told:?}", told.xid)));
            };
            if outcome.decision != decision {
                return Ok(Err(anyhow!("{} is {outcome:?} after {told:?}", told.xid)));
            }
            ensure!(outcome.progress == Progress::Done, "{outcome:?}");
            Ok::<_, anyhow::Error>(Ok(()))
        })
        .await??;
        for branch in &told.branches {
            ensure!(
                journal.check(*branch, decision)? > 0,
                "branch {branch} of {} was never called",
                told.xid
            );
        }
    }
    Ok(())
}

/// Runs transactions through the SDK while `trouble` befalls the leader, and judges them.
async fn under_load(
    cluster: &mut Cluster,
    trouble: impl AsyncFnOnce(&mut Cluster, u32) -> Result<()>,
) -> Result<Duration> {
    let leader = cluster.leader().await?;
    let journal = Arc::<Journal>::default();
    let rm = Rm::connect(options(cluster, "journal"), vec![journal.clone()]).await?;
    let tm = Tm::connect(options(cluster, "journal")).await?;
    until("everybody is connected", SOON, async || {
        let well = |health: Vec<settle_sdk::Health>| health.iter().all(|one| one.is_well);
        ensure!(
            well(tm.health()) && well(rm.health()),
            "{:?} {:?}",
            tm.health(),
            rm.health()
        );
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    let (stop, longest) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let done = Arc::<AtomicU64>::default();
    let mut workers = JoinSet::new();
    for n in 0..WORKERS {
        workers.spawn(worker(
            n,
            tm.clone(),
            rm.clone(),
            stop.clone(),
            longest.clone(),
            done.clone(),
        ));
    }
    until("work is under way", SOON, async || {
        let done = done.load(Ordering::Relaxed);
        ensure!(done >= 50, "{done} transactions are done");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    trouble(cluster, leader.node).await?;
    // Another leads by now, and work goes on.
    cluster
        .leader_among(cluster.nodes().filter(|node| *node != leader.node))
        .await?;
    for _ in 0..20 {
        tm.begin("afterwards", NEVER).await?.commit().await?;
    }
    stop.store(1, Ordering::Relaxed);
    let mut told = Vec::new();
    while let Some(ended) = workers.join_next().await {
        told.extend(ended??);
    }
    judge(&tm, &journal, &told).await?;
    let longest = Duration::from_millis(longest.load(Ordering::Relaxed));
    println!("{} transactions, the longest call took {longest:?}", told.len());
    Ok(longest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdk_tells_the_true_outcome_when_the_leader_is_killed() -> Result<()> {
    let _turn = turn().await;
    let mut cluster = Cluster::start(spec(3)).await?;
    let longest = under_load(&mut cluster, async |cluster, leader| cluster.kill(leader).await).await?;
    ensure!(longest <= STALL_MAX, "a call took {longest:?}");
    cluster.finish();
    Ok(())
}

/// Nothing tells its clients that it sleeps: they ask elsewhere by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdk_tells_the_true_outcome_when_the_leader_falls_asleep() -> Result<()> {
    let _turn = turn().await;
    let mut cluster = Cluster::start(spec(3)).await?;
    let mut asleep = 0;
    let longest = under_load(&mut cluster, async |cluster, leader| {
        asleep = leader;
        cluster.pause(leader).await
    })
    .await?;
    ensure!(longest <= STALL_MAX, "a call took {longest:?}");
    cluster.resume(asleep)?;
    cluster.finish();
    Ok(())
}

/// One office's HTTP server, in this process.
async fn serve(office: &Arc<Office>, tasks: &mut JoinSet<()>) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let routes = office.routes();
    tasks.spawn(async move {
        // Ends with the test.
        let _ = axum::serve(listener, routes).await;
    });
    Ok(address)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_offices_of_the_example_move_money_whole_or_not_at_all() -> Result<()> {
    let _turn = turn().await;
    let cluster = Cluster::start(spec(3)).await?;
    let opened = |error: Box<dyn std::error::Error>| anyhow!("{error}");
    let (north_file, south_file) = (
        cluster.data_dir(1).join("north.db"),
        cluster.data_dir(1).join("south.db"),
    );
    let north = Office::open("north", &north_file, options(&cluster, "north"))
        .await
        .map_err(opened)?;
    let south = Office::open("south", &south_file, options(&cluster, "south"))
        .await
        .map_err(opened)?;
    let mut tasks = JoinSet::new();
    let (to_north, to_south) = (serve(&north, &mut tasks).await?, serve(&south, &mut tasks).await?);
    for address in [to_north, to_south] {
        post(address, "/accounts/1", "100").await?;
    }
    let transfer = async |to: i64, amount: i64| {
        let wanted = Transfer {
            from: 1,
            to_office: format!("http://{to_south}"),
            to,
            amount,
        };
        post(to_north, "/transfer", &serde_json::to_string(&wanted)?).await
    };
    let balances = async |north: &str, south: &str| {
        until("the balances are right", SOON, async || {
            let (at_north, at_south) = (
                get(to_north, "/accounts/1").await?.body,
                get(to_south, "/accounts/1").await?.body,
            );
            ensure!(
                (at_north.as_str(), at_south.as_str()) == (north, south),
                "{at_north} and {at_south}"
            );
            Ok::<_, anyhow::Error>(())
        })
        .await
    };

    let moved = transfer(1, 30).await?;
    ensure!(moved.status == 200, "{moved:?}");
    balances("70", "130").await?;
    // The other office has no such account: what was withdrawn here comes back.
    let refused = transfer(2, 30).await?;
    ensure!(refused.status == 409, "{refused:?}");
    balances("70", "130").await?;
    let refused = transfer(1, 71).await?;
    ensure!(refused.status == 409, "{refused:?}");
    balances("70", "130").await?;
    // A deposit by itself belongs to no transaction.
    let alone = post(to_south, "/deposit", r#"{"account":1,"amount":5}"#).await?;
    ensure!(alone.status == 409, "{alone:?}");
    balances("70", "130").await?;

    // The work's owner goes away in the middle.
    let abandoned = north.tm.run(Propagation::Required, "abandoned", NEVER, async |_| {
        std::future::pending::<()>().await;
        Ok::<_, ()>(())
    });
    let abandoned: Result<Result<(), ScopeError<()>>, _> = timeout(Duration::from_millis(500), abandoned).await;
    ensure!(abandoned.is_err(), "{abandoned:?}");
    north.tm.flush().await;
    until("nothing is open", SOON, async || {
        let open = cluster.get(1, "/v1/tx?status=begin").await?;
        ensure!(!open.body.contains("abandoned"), "{}", open.body);
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    tasks.shutdown().await;
    for office in [north, south] {
        ensure!(office.close().await, "calls still run");
    }
    cluster.finish();
    Ok(())
}
