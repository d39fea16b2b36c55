//! A node comes back under its id with an empty disk. It must not vote before it has caught up: what it acknowledged in
//! its former life is gone.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use settle_testkit::{Cluster, Leader, NodeView, throughout, until};

use crate::{
    SOON,
    ledger::Ledger,
    load::{Clients, Load, check_all},
    spec, turn,
};

/// How much an open transaction carries, so that catching up takes a while and needs a snapshot.
const BULK_BRANCHES: u64 = 64;
const BULK_BYTES: usize = 256 << 10;

/// A leader and its followers; facts told, and some bulk to be sent to whoever has lost it.
async fn busy_cluster(auto_replace: bool) -> Result<(Cluster, Leader, [u32; 2], Arc<Ledger>)> {
    let spec = spec(3)
        .set("cluster.auto-replace", &auto_replace.to_string())
        .set("raft.snapshot-after", "\"4MiB\"");
    let cluster = Cluster::start(spec).await?;
    let ledger = Arc::<Ledger>::default();
    let clients = Clients::connect(&cluster, cluster.nodes(), &ledger).await?;
    let xid = clients.begin(0).await?;
    for n in 0..BULK_BRANCHES {
        let row = format!("account:bulk{n}");
        let branch = clients
            .register_with_data(n, &xid, &row, "x".repeat(BULK_BYTES))
            .await?;
        ledger.registered(&xid, branch, &row);
    }
    let load = Load::start(&clients, 8);
    load.wait_for(80).await?;
    load.stop().await?;
    let leader = cluster.leader().await?;
    let others: Vec<u32> = cluster.nodes().filter(|node| *node != leader.node).collect();
    Ok((cluster, leader, [others[0], others[1]], ledger))
}

fn role_of(view: &NodeView, incarnation: &str) -> Result<Option<(String, Option<u64>)>> {
    let members = &view.tx_group()?.members;
    let member = members.iter().find(|member| member.incarnation == incarnation);
    Ok(member.map(|member| (member.role.clone(), member.match_index)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_learns_first_then_votes_and_the_leaders_death_loses_nothing() -> Result<()> {
    let _turn = turn().await;
    let (mut cluster, leader, [wiped, _], ledger) = busy_cluster(true).await?;
    let before = cluster.view(wiped).await?.incarnation;
    cluster.kill(wiped).await?;
    cluster.wipe(wiped)?;
    let must_have = cluster.view(leader.node).await?.tx_group()?.commit_index;
    cluster.spawn(wiped)?;

    let incarnation = until("the wiped node answers", SOON, async || {
        Ok::<_, anyhow::Error>(cluster.view(wiped).await?.incarnation)
    })
    .await?;
    ensure!(incarnation != before, "an empty directory is another identity");
    let mut was_learner = false;
    until("the wiped node votes again", SOON, async || {
        let view = cluster.view(leader.node).await?;
        let role = role_of(&view, &incarnation)?;
        let own = cluster.view(wiped).await?;
        match role.as_ref().map(|(role, matched)| (role.as_str(), *matched)) {
            Some(("voter", matched)) => {
                let has = matched.context("the leader knows how far each member is")?;
                // Told below, outside of the retries.
                Ok(Ok(has))
            }
            role => {
                was_learner |= matches!(role, Some(("learner", _)));
                if let Ok(group) = own.tx_group()
                    && (group.role != "follower" || group.leader == Some(wiped))
                {
                    return Ok(Err(format!("it is {} before it is a voter", group.role)));
                }
                bail!("the leader has it as {role:?}")
            }
        }
    })
    .await?
    .map_err(anyhow::Error::msg)
    .and_then(|has| {
        ensure!(
            has >= must_have,
            "it votes with {has} of the {must_have} entries that were committed without it"
        );
        Ok(())
    })?;
    let steps = proposed_replacements(&cluster, leader.node, &incarnation);
    ensure!(
        was_learner || steps >= 2,
        "it became a voter at once:\n{}",
        cluster.log(leader.node)
    );

    ensure!(
        cluster.log(wiped).contains("SnapshotInstalled"),
        "the log alone was enough"
    );

    // Its history begins with the snapshot, and says so.
    for (node, has_gap) in [(wiped, true), (leader.node, false)] {
        let told = cluster.get(node, "/v1/tx/history?limit=1").await?;
        let told: serde_json::Value = serde_json::from_str(&told.body)?;
        let gaps = told["gaps"].as_array().context("a history tells its gaps")?;
        ensure!(gaps.is_empty() != has_gap, "node {node}: {told}");
    }

    only_new_members(&cluster, &[leader.node], &before).await?;
    // Now its vote and its copy are needed.
    cluster.kill(leader.node).await?;
    let next = cluster.leader().await?;
    ensure!(next.node != leader.node, "{next:?} was killed");
    cluster.start_all().await?;
    let clients = Clients::connect(&cluster, cluster.nodes(), &ledger).await?;
    check_all(&cluster, &clients).await?;
    cluster.finish();
    Ok(())
}

/// Waits until the change of members is over in the eyes of `nodes`: as long as both configurations count, the former one
/// needs two of its three, and one of them is gone.
async fn only_new_members(cluster: &Cluster, nodes: &[u32], old: &str) -> Result<()> {
    until("the lost identity is no member any more", SOON, async || {
        for node in nodes {
            let view = cluster.view(*node).await?;
            let group = view.tx_group()?;
            ensure!(
                role_of(&view, old)?.is_none() && group.members.len() == 3,
                "{:?}",
                group.members
            );
        }
        Ok::<_, anyhow::Error>(())
    })
    .await
}

/// How many membership changes the leader logged for it: one lets it in as a learner, another makes it a voter.
fn proposed_replacements(cluster: &Cluster, leader: u32, incarnation: &str) -> usize {
    let log = cluster.log(leader);
    log.lines()
        .filter(|line| line.contains("ReplacementProposed") && line.contains(incarnation))
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_elects_nobody_before_it_has_caught_up() -> Result<()> {
    let _turn = turn().await;
    let (mut cluster, leader, [wiped, survivor], ledger) = busy_cluster(true).await?;
    cluster.kill(wiped).await?;
    cluster.wipe(wiped)?;
    cluster.kill(leader.node).await?;
    // One full copy and an empty node: a majority in number, which must not count.
    cluster.spawn(wiped)?;
    until(
        "the survivor hears the wiped node and wants to lead",
        SOON,
        async || {
            let view = cluster.view(survivor).await?;
            ensure!(view.connected.contains(&wiped), "it hears only {:?}", view.connected);
            let role = view.tx_group()?.role.clone();
            ensure!(role.contains("candidate"), "it is {role}");
            Ok::<_, anyhow::Error>(())
        },
    )
    .await?;
    let looks = throughout(Duration::from_secs(3), async || {
        for node in [survivor, wiped] {
            let view = cluster.view(node).await?;
            if let Ok(group) = view.tx_group() {
                let led = group.role == "leader";
                ensure!(
                    !led && group.leader != Some(survivor),
                    "elected by an empty disk: {view:?}"
                );
            }
        }
        Ok(())
    })
    .await?;
    println!("no leader over {looks} looks in 3 s");

    cluster.start_all().await?;
    let clients = Clients::connect(&cluster, cluster.nodes(), &ledger).await?;
    check_all(&cluster, &clients).await?;
    cluster.finish();
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_waits_for_the_operator_and_the_leaders_death_meanwhile_loses_nothing() -> Result<()> {
    let _turn = turn().await;
    let (mut cluster, leader, [wiped, other], ledger) = busy_cluster(false).await?;
    cluster.kill(wiped).await?;
    cluster.wipe(wiped)?;
    cluster.spawn(wiped)?;
    until("the leader hears the wiped node", SOON, async || {
        let view = cluster.view(leader.node).await?;
        ensure!(
            view.connected.contains(&wiped) && cluster.view(wiped).await?.cluster.is_some(),
            "{view:?}"
        );
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    let incarnation = cluster.view(wiped).await?.incarnation;
    ensure!(
        role_of(&cluster.view(leader.node).await?, &incarnation)?.is_none(),
        "nobody has allowed it"
    );

    let ask = format!("{{\"node\":{wiped}}}");
    let refused = cluster.post(other, "/v1/node/transfer-leader", &ask).await?;
    ensure!(
        refused.status == 409 && refused.body.contains("AP0004"),
        "a follower has no leadership to give: {refused:?}"
    );
    let stranger = cluster.post(leader.node, "/v1/node/replace", "{\"node\":9}").await?;
    ensure!(
        stranger.status == 404 && stranger.body.contains("HO0068"),
        "nobody knows node 9: {stranger:?}"
    );
    ensure!(
        cluster.post(other, "/v1/node/replace", &ask).await?.status == 202,
        "a follower passes it on to the leader"
    );
    until("the wiped node is let in", SOON, async || {
        let role = role_of(&cluster.view(leader.node).await?, &incarnation)?;
        role.context("the leader does not know it")
    })
    .await?;

    // In the middle of its catching up, as likely as not.
    cluster.kill(leader.node).await?;
    cluster.start_all().await?;
    let clients = Clients::connect(&cluster, cluster.nodes(), &ledger).await?;
    check_all(&cluster, &clients).await?;
    // The next leader has the permission too.
    until("the wiped node votes again", SOON, async || {
        let leader = cluster.leader().await?;
        let role = role_of(&cluster.view(leader.node).await?, &incarnation)?;
        ensure!(role.as_ref().is_some_and(|(role, _)| role == "voter"), "it is {role:?}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    cluster.finish();
    Ok(())
}
