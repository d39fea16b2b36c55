//! `settle ctl tx`: an operator finds a transaction that hangs, and ends it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use anyhow::{Result, ensure};
use settle_sdk::{
    BranchStatus, BranchType,
    connection::{Answer, Connection, PhaseTwo, Role, obedient},
};
use settle_seata_wire::BranchEnd;
use settle_testkit::{Cluster, until};

use crate::{SOON, connect, operators::ctl, spec};

const DB: &str = "jdbc:mysql://shop";

/// A resource manager that fails for good until it is told to work.
async fn broken_rm(cluster: &Cluster, node: u32) -> Result<(Connection, Arc<AtomicBool>)> {
    let works = Arc::new(AtomicBool::new(false));
    let told = works.clone();
    let calls: Arc<dyn PhaseTwo> = Arc::new(move |_, _: BranchEnd, answer: Answer| {
        answer.send(match told.load(Ordering::SeqCst) {
            true => BranchStatus::PhaseTwoRollbacked,
            false => BranchStatus::PhaseTwoRollbackFailedUnretryable,
        });
    });
    let resources = DB.to_owned();
    let rm = connect(
        cluster.tx(node),
        "stock",
        Role::ResourceManager { resources },
        calls,
        SOON,
    )
    .await?;
    Ok((rm, works))
}

struct Told {
    code: i32,
    text: String,
}

impl Told {
    fn has(&self, code: i32, words: &[&str]) -> Result<()> {
        ensure!(self.code == code, "exit code {}, not {code}: {}", self.code, self.text);
        for word in words {
            ensure!(self.text.contains(word), "no {word:?} in: {}", self.text);
        }
        Ok(())
    }
}

async fn tx(cluster: &Cluster, words: &str) -> Result<Told> {
    // A reason is one word here.
    let words: Vec<&str> = ["tx"].into_iter().chain(words.split(' ')).collect();
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let name = format!("tx{}", RUNS.fetch_add(1, Ordering::Relaxed));
    let (code, text) = ctl(cluster, &name, &words).await?;
    Ok(Told { code, text })
}

#[tokio::test]
async fn an_operator_ends_what_hangs_and_every_act_is_kept_over_a_change_of_leader() -> Result<()> {
    let _turn = crate::turn().await;
    let mut cluster = Cluster::start(spec(3).set("tx.retry-min", "\"100ms\"")).await?;
    let leader = cluster.leader().await?;
    let tm = connect(cluster.tx(1), "shop", Role::TransactionManager, obedient(), SOON).await?;
    let (rm, works) = broken_rm(&cluster, 1).await?;
    let (failing, waiting) = (tm.begin("failing", 600_000).await?, tm.begin("waiting", 600_000).await?);
    let branch = rm.register_branch(&failing, BranchType::At, DB, "stock:7,8").await?;

    // Finding it.
    tx(&cluster, "list --status begin --application shop")
        .await?
        .has(0, &[&failing, &waiting])?;
    let listed = tx(&cluster, &format!("list --resource {DB}")).await?;
    listed.has(0, &[&failing])?;
    ensure!(
        !listed.text.contains(&waiting),
        "it has no branch there: {}",
        listed.text
    );
    tx(&cluster, "list --older-than 10m")
        .await?
        .has(0, &["No such transaction"])?;
    tx(&cluster, "list --status nonsense")
        .await?
        .has(2, &["CommitRetrying"])?;
    tx(&cluster, "locks --row stock:8")
        .await?
        .has(0, &["stock:8", &failing])?;
    tx(&cluster, "locks --row stock:9").await?.has(0, &["No such row"])?;

    // Deciding it: like any other decision, and never against one.
    tx(&cluster, &format!("rollback {failing} --as ada --why ticket-7"))
        .await?
        .has(0, &["Done", "Rollback"])?;
    tx(&cluster, &format!("commit {failing} --as ada --why oops"))
        .await?
        .has(1, &["TX0016", "decided"])?;
    until("the branch has failed for good", SOON, async || {
        tx(&cluster, &format!("show {failing}"))
            .await?
            .has(0, &["RollbackFailed"])
    })
    .await?;

    // Stopping and resuming, over a change of leader.
    tx(&cluster, &format!("stop-retry {failing} --as ada --why look-first"))
        .await?
        .has(0, &["Done"])?;
    let other = leader.node % 3 + 1;
    let ask = format!("{{\"node\":{other}}}");
    until("another leads", SOON, async || {
        let leader = cluster.leader().await?;
        if leader.node != other {
            cluster.post(leader.node, "/v1/node/transfer-leader", &ask).await?;
        }
        ensure!(leader.node == other, "node {} leads", leader.node);
        Ok(())
    })
    .await?;
    tx(&cluster, &format!("stop-retry {failing} --as ada --why again"))
        .await?
        .has(0, &["Nothing was left to do"])?;
    tx(&cluster, &format!("show {failing}"))
        .await?
        .has(0, &["not called until", "ada", "ticket-7", "look-first"])?;

    // Giving rows free, and the transaction up: only with the claim.
    let release = format!("release-lock {failing} --branch {branch} --rows stock:7 --as ada --why row-is-right");
    tx(&cluster, &release)
        .await?
        .has(2, &["--i-know-the-branch-is-settled"])?;
    let claimed = format!("{release} --i-know-the-branch-is-settled");
    tx(&cluster, &claimed).await?.has(0, &["Done"])?;
    tx(&cluster, &claimed).await?.has(0, &["Nothing was left to do"])?;
    let other = tm.begin("other", 600_000).await?;
    rm.register_branch(&other, BranchType::At, DB, "stock:7").await?;
    ensure!(
        rm.register_branch(&other, BranchType::At, DB, "stock:8").await.is_err(),
        "row 8 is still undone"
    );
    works.store(true, Ordering::SeqCst);
    tx(&cluster, &format!("resume-retry {failing} --as bob --why repaired"))
        .await?
        .has(0, &["Done"])?;
    until("it is rolled back", SOON, async || {
        tx(&cluster, &format!("show {failing}")).await?.has(0, &["Rollbacked"])
    })
    .await?;
    works.store(false, Ordering::SeqCst);
    tm.rollback(&other).await?;
    let forget = format!("forget {other} --as bob --why by-hand --i-know-the-branch-is-settled");
    tx(&cluster, &forget).await?.has(0, &["Done", "Rollbacked"])?;
    tx(&cluster, "locks").await?.has(0, &["No such row"])?;

    // All of it is told by a server that was killed meanwhile.
    cluster.kill(1).await?;
    cluster.start_all().await?;
    cluster.leader().await?;
    tx(&cluster, "audit").await?.has(
        0,
        &[
            "rollback",
            "stop-retry",
            "release-lock",
            "resume-retry",
            "forget",
            "bob",
            "by-hand",
            "UTC",
        ],
    )?;
    cluster.finish();
    Ok(())
}
