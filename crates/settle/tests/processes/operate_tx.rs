//! `settle ctl tx`: an operator finds a transaction that hangs, and ends it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use anyhow::{Result, ensure};
use settle_sdk::{
    BranchStatus, BranchType,
    connection::{Answer, Connection, Phase, PhaseTwo, Role, obedient},
};
use settle_seata_wire::BranchEnd;
use settle_testkit::{Cluster, until};

use crate::{SOON, connect, operators::ctl, spec};

const DB: &str = "jdbc:mysql://shop";

/// A resource manager that fails for good until it is told to work.
async fn broken_rm(cluster: &Cluster, node: u32) -> Result<(Connection, Arc<AtomicBool>)> {
    let works = Arc::new(AtomicBool::new(false));
    let told = works.clone();
    let calls: Arc<dyn PhaseTwo> = Arc::new(move |phase, _: BranchEnd, answer: Answer| {
        answer.send(match (phase, told.load(Ordering::SeqCst)) {
            (Phase::Commit, true) => BranchStatus::PhaseTwoCommitted,
            (Phase::Rollback, true) => BranchStatus::PhaseTwoRollbacked,
            (Phase::Commit, false) => BranchStatus::PhaseTwoCommitFailedUnretryable,
            (Phase::Rollback, false) => BranchStatus::PhaseTwoRollbackFailedUnretryable,
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

#[tokio::test]
async fn every_server_tells_what_has_ended_and_a_killed_one_has_not_forgotten() -> Result<()> {
    let _turn = crate::turn().await;
    let mut cluster = Cluster::start(spec(3)).await?;
    cluster.leader().await?;
    let tm = connect(cluster.tx(1), "shop", Role::TransactionManager, obedient(), SOON).await?;
    let (rm, works) = broken_rm(&cluster, 1).await?;
    works.store(true, Ordering::SeqCst);
    let mut xids = Vec::new();
    for (n, row) in ["stock:1", "stock:2", "stock:3"].into_iter().enumerate() {
        let xid = tm.begin("purchase", 600_000).await?;
        rm.register_branch(&xid, BranchType::At, DB, row).await?;
        match n {
            0 => drop(tm.commit(&xid).await?),
            _ => drop(tm.rollback(&xid).await?),
        }
        xids.push(xid);
    }
    let all_are_told = async |cluster: &Cluster, node: u32| {
        until("the history has all three", SOON, async || {
            let answer = cluster.get(node, "/v1/tx/history?application=shop").await?;
            let found: serde_json::Value = answer.json()?;
            let found = found["transactions"].as_array().cloned().unwrap_or_default();
            let mut told: Vec<&str> = found.iter().filter_map(|tx| tx["xid"].as_str()).collect();
            told.sort_unstable();
            ensure!(told == xids.iter().map(String::as_str).collect::<Vec<_>>(), "{told:?}");
            let branch = &found[0]["branches"][0];
            ensure!(branch["resource"] == DB && branch["done_after_ms"].is_u64(), "{branch}");
            Ok(())
        })
        .await
    };
    for node in cluster.nodes() {
        all_are_told(&cluster, node).await?;
    }
    cluster.kill(1).await?;
    cluster.start_all().await?;
    cluster.leader().await?;
    all_are_told(&cluster, 1).await?;

    tx(&cluster, "history --status committed")
        .await?
        .has(0, &[&xids[0], "Committed"])?;
    tx(&cluster, "history --resource nowhere")
        .await?
        .has(0, &["has no such transaction"])?;
    tx(&cluster, &format!("history --xid {} --since 1h", xids[1]))
        .await?
        .has(0, &[&xids[1], "Rollbacked"])?;
    tx(&cluster, &format!("show {}", xids[1]))
        .await?
        .has(0, &["Rollbacked", "done after", DB])?;
    let file = cluster.data_dir(1).with_extension("export");
    tx(&cluster, &format!("export --out {}", file.display()))
        .await?
        .has(0, &["3 transactions in"])?;
    let lines = std::fs::read_to_string(&file)?;
    let exported: Vec<serde_json::Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(
        exported.len() == 3 && exported.iter().any(|tx| tx["xid"] == xids[0].as_str()),
        "{lines}"
    );
    cluster.finish();
    Ok(())
}
