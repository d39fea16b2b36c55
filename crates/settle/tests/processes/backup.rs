//! `settle ctl backup` and `restore`: a group goes on in another cluster.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use settle_sdk::{BranchType, GlobalStatus, connection::obedient};
use settle_testkit::{Cluster, Scratch, until};

use crate::{RESOURCE, SOON, connect_rm, connect_tm, operators::ctl, spec, turn};

async fn told(cluster: &Cluster, name: &str, words: &[&str], code: i32, parts: &[&str]) -> Result<()> {
    let (is, text) = ctl(cluster, name, words).await?;
    ensure!(is == code, "exit code {is}, not {code}: {text}");
    for part in parts {
        ensure!(text.contains(part), "no {part:?} in: {text}");
    }
    Ok(())
}

fn id_of(xid: &str) -> Result<i64> {
    let (_, id) = xid.rsplit_once(':').context("an xid ends in its number")?;
    Ok(id.parse()?)
}

#[tokio::test]
async fn a_group_goes_on_in_another_cluster_with_its_transactions_locks_and_outcomes_and_gives_no_id_twice()
-> Result<()> {
    let _turn = turn().await;
    let old = Cluster::start(spec(3)).await?;
    old.leader().await?;
    let tm = connect_tm(old.tx(2), SOON).await?;
    let rm = connect_rm(old.tx(3), obedient(), SOON).await?;
    let (open, ended) = (tm.begin("open", 600_000).await?, tm.begin("ended", 600_000).await?);
    let branch = rm
        .register_branch(&open, BranchType::At, RESOURCE, "account:1,2")
        .await?;
    ensure!(tm.commit(&ended).await? == GlobalStatus::Committed);
    let folder = Scratch::new()?;
    let file = folder.path().join("group-1.backup");
    let name = file.to_str().context("a path of a test is text")?;
    let backup = ["backup", "--group", "1", "--out", name];
    told(&old, "backup", &backup, 0, &["1 open transactions"]).await?;
    told(&old, "again", &backup, 1, &["never written over"]).await?;
    let elsewhere = folder.path().join("other").display().to_string();
    told(
        &old,
        "unknown",
        &["backup", "--group", "9", "--out", &elsewhere],
        1,
        &["TG0024"],
    )
    .await?;
    // What the old cluster does now is lost, and its ids are not to come again.
    let lost = tm.begin("lost", 600_000).await?;
    let lost_branch = rm.register_branch(&lost, BranchType::At, RESOURCE, "account:3").await?;
    drop((tm, rm));
    old.finish();

    let mut new = Cluster::start(spec(3)).await?;
    new.leader().await?;
    let damaged = folder.path().join("damaged");
    let mut bytes = std::fs::read(&file)?;
    let middle = bytes.len() - 40;
    bytes[middle] ^= 1;
    std::fs::write(&damaged, bytes)?;
    let damaged = damaged.display().to_string();
    told(&new, "damaged", &["restore", &damaged], 1, &["damaged"]).await?;
    told(&new, "restore", &["restore", name], 0, &["1 transactions are open"]).await?;
    told(&new, "repeated", &["restore", name], 0, &["1 transactions are open"]).await?;

    // Also on a server that comes back later.
    new.kill(1).await?;
    new.start_all().await?;
    for node in new.nodes() {
        let answer = new.get(node, &format!("/v1/tx/{}", id_of(&open)?)).await?;
        ensure!(
            answer.status == 200 && answer.body.contains("\"Begin\""),
            "{}",
            answer.body
        );
    }
    let tm = connect_tm(new.tx(1), SOON).await?;
    let calls = obedient();
    let rm = connect_rm(new.tx(2), calls, SOON).await?;
    ensure!(tm.status(&ended).await? == GlobalStatus::Committed);
    ensure!(
        tm.status(&lost).await? == GlobalStatus::Finished,
        "it may have been anything"
    );
    let fresh = tm.begin("fresh", 600_000).await?;
    ensure!(id_of(&fresh)? > id_of(&lost)?, "{fresh} comes after {lost}");
    let refused = rm.register_branch(&fresh, BranchType::At, RESOURCE, "account:2").await;
    ensure!(
        refused.is_err_and(|error| error.to_string().contains("TX0003")),
        "the row is locked by what was restored"
    );
    let next = rm
        .register_branch(&fresh, BranchType::At, RESOURCE, "account:3")
        .await?;
    ensure!(next > lost_branch && next > branch, "{next} comes after {lost_branch}");
    ensure!(tm.commit(&open).await? == GlobalStatus::Committed);
    until("its branch is done", SOON, async || {
        let answer = new.get(1, &format!("/v1/tx/{}", id_of(&open)?)).await?;
        ensure!(
            answer.body.contains("Committed") && answer.body.contains("\"ended\":true"),
            "{}",
            answer.body
        );
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    // A group that is in use takes no other backup.
    let other = folder.path().join("other.backup").display().to_string();
    told(&new, "second", &["backup", "--out", &other], 0, &[]).await?;
    told(&new, "refused", &["restore", &other], 1, &["TX0019"]).await?;
    ensure!(Path::new(&other).exists());
    new.finish();
    folder.finish();
    Ok(())
}
