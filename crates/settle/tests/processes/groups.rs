//! Several transaction groups: who begins where, and that load may spread.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use settle_sdk::{
    BranchType, GlobalStatus,
    connection::{Connection, obedient},
};
use settle_seata_wire::{Identity, Message};
use settle_testkit::{Cluster, until};
use tokio::task::JoinSet;

use crate::{RESOURCE, SOON, connect_rm, connect_tm, spec, turn};

const WITHIN: Duration = Duration::from_secs(30);

/// The group that an xid's upper bits name.
fn group_of(xid: &str) -> i64 {
    let id: i64 = xid.rsplit(':').next().unwrap_or_default().parse().unwrap_or_default();
    id >> 55
}

async fn tm_of(cluster: &Cluster, node: u32, service_group: &str) -> Result<Connection> {
    let tm = connect_tm(cluster.tx(node), WITHIN).await?;
    let identity = Identity {
        application_id: "bank".to_owned(),
        transaction_service_group: service_group.to_owned(),
        version: "1.8.0".to_owned(),
        ..Identity::default()
    };
    let answer = tm.call(Message::RegisterTmRequest(identity)).await?;
    ensure!(
        matches!(&answer, Message::RegisterTmResponse(r) if r.identified),
        "{answer:?}"
    );
    Ok(tm)
}

/// Each service group begins in its own group, each group's xid is served by any node, no two groups share a leader, and
/// the kill of one node leaves all of them served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_groups_begin_in_groups_of_their_own_whose_leaders_are_spread_and_survive_a_kill() -> Result<()> {
    let _turn = turn().await;
    let spec = spec(3)
        .set("tx.groups", "3")
        .set("tx.service-groups", "[\"orders=2\", \"stock=3\"]");
    let mut cluster = Cluster::start(spec).await?;
    until("each node leads one of three groups", SOON, async || {
        for node in cluster.nodes() {
            let view = cluster.view(node).await?;
            let leaders: std::collections::BTreeSet<_> = view.groups.iter().filter_map(|group| group.leader).collect();
            ensure!(view.groups.len() == 3 && leaders.len() == 3, "{view:?}");
        }
        Ok::<_, anyhow::Error>(())
    })
    .await?;

    let nodes: Vec<u32> = cluster.nodes().collect();
    let rm = connect_rm(cluster.tx(nodes[1]), obedient(), WITHIN).await?;
    let mut open = Vec::new();
    for (service_group, group) in [("others", 1), ("orders", 2), ("stock", 3)] {
        for node in &nodes {
            let tm = tm_of(&cluster, *node, service_group).await?;
            let xid = tm.begin("transfer", 60_000).await?;
            assert_eq!(group_of(&xid), group, "{service_group} at node {node}");
            // Asked of another node, and about any group.
            let row = format!("account:{group}-{node}");
            rm.register_branch(&xid, BranchType::At, RESOURCE, &row).await?;
            open.push(xid);
        }
    }
    cluster.kill(nodes[0]).await?;
    let tm = tm_of(&cluster, nodes[2], "others").await?;
    for xid in &open {
        let status = tm.commit(xid).await?;
        ensure!(status == GlobalStatus::Committed, "{xid} is {status:?}");
    }
    cluster.finish();
    Ok(())
}

/// Raises every group to the version of this build.
async fn raise_version(cluster: &Cluster) -> Result<()> {
    until("every group goes by the newest cluster version", SOON, async || {
        let body = format!(r#"{{"version":{}}}"#, settle_tx::APPLY_VERSION);
        for node in cluster.nodes() {
            // Those that lead nothing, or whose peers are not connected yet, refuse.
            let _ = cluster.post(node, "/v1/cluster/version", &body).await?;
        }
        for node in cluster.nodes() {
            let versions: Value = cluster.get(node, "/v1/cluster/version").await?.json()?;
            ensure!(versions["lowest"] == settle_tx::APPLY_VERSION, "{versions}");
        }
        Ok::<_, anyhow::Error>(())
    })
    .await
}

async fn service_groups(cluster: &Cluster, node: u32) -> Result<Value> {
    cluster.get(node, "/v1/tx/service-groups").await?.json()
}

/// What workers found out.
#[derive(Default)]
struct Found {
    committed: AtomicUsize,
    /// Begun in the old group, and in the new one.
    begun: [AtomicUsize; 2],
    /// The row of the transaction that holds the move up is free from here on.
    is_free: AtomicBool,
    is_over: AtomicBool,
}

/// Begins, locks one of a few rows and ends, until told to stop. Whoever gets the held row too early has found a row that is
/// locked twice.
async fn work(tm: Connection, rm: Connection, number: usize, found: Arc<Found>) -> Result<()> {
    for turn in 0.. {
        if found.is_over.load(SeqCst) {
            break;
        }
        // Refused while the service group is on its way, for as long as that takes.
        let Ok(xid) = tm.begin("transfer", 20_000).await else {
            continue;
        };
        found.begun[usize::from(group_of(&xid) == 2)].fetch_add(1, SeqCst);
        let row = match (number + turn) % 3 {
            0 => "account:held".to_owned(),
            n => format!("account:{n}"),
        };
        let is_free = found.is_free.load(SeqCst);
        let branch = rm.register_branch(&xid, BranchType::At, RESOURCE, &row).await;
        if branch.is_ok() {
            ensure!(
                is_free || found.is_free.load(SeqCst) || row != "account:held",
                "{xid} locked the row that another transaction holds"
            );
            let status = tm.commit(&xid).await?;
            ensure!(status == GlobalStatus::Committed, "{xid} is {status:?}");
            found.committed.fetch_add(1, SeqCst);
        } else {
            let _ = tm.rollback(&xid).await;
        }
    }
    Ok(())
}

/// What is open holds the move up and goes on, a killed leader does not end it, nothing is locked in both groups, and
/// everything is there afterwards: the move, and who asked for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_group_moves_under_load_while_the_server_that_drives_the_move_is_killed() -> Result<()> {
    let _turn = turn().await;
    let spec = spec(3).set("tx.groups", "2");
    let mut cluster = Cluster::start(spec).await?;
    let body = r#"{"operator":"ada","reason":"ticket 7","service_groups":["orders"],"to":2}"#;
    let refused = cluster.post(1, "/v1/tx/service-groups/move", body).await?;
    ensure!(
        refused.status == 409 && refused.body.contains("TG0028"),
        "{}",
        refused.body
    );
    raise_version(&cluster).await?;
    for (wrong, status, code) in [
        (
            r#"{"operator":"ada","reason":"x","service_groups":["orders"],"to":3}"#,
            404,
            "TG0024",
        ),
        (
            r#"{"operator":"ada","reason":"x","service_groups":[],"to":2}"#,
            400,
            "TG0029",
        ),
        (
            r#"{"operator":"ada","reason":" ","service_groups":["orders"],"to":2}"#,
            400,
            "TG0022",
        ),
    ] {
        let answer = cluster.post(1, "/v1/tx/service-groups/move", wrong).await?;
        ensure!(
            answer.status == status && answer.body.contains(code),
            "{wrong}: {}",
            answer.body
        );
    }
    let cancel = r#"{"operator":"ada","reason":"x","service_group":"orders"}"#;
    let answer = cluster.post(1, "/v1/tx/service-groups/cancel", cancel).await?;
    ensure!(
        answer.status == 409 && answer.body.contains("TX0026"),
        "{}",
        answer.body
    );

    // The first group is group 1: who leads it drives.
    let driver = cluster.leader().await?.node;
    let others: Vec<u32> = cluster.nodes().filter(|node| *node != driver).collect();
    let tm = tm_of(&cluster, others[0], "orders").await?;
    let rm = connect_rm(cluster.tx(others[1]), obedient(), WITHIN).await?;
    let held = tm.begin("transfer", 120_000).await?;
    ensure!(group_of(&held) == 1, "{held}");
    rm.register_branch(&held, BranchType::At, RESOURCE, "account:held")
        .await?;

    let found = Arc::new(Found::default());
    let mut workers = JoinSet::new();
    for number in 0..6 {
        let tm = tm_of(&cluster, others[number % 2], "orders").await?;
        let rm = connect_rm(cluster.tx(others[(number + 1) % 2]), obedient(), WITHIN).await?;
        workers.spawn(work(tm, rm, number, Arc::clone(&found)));
    }
    until("the load runs", SOON, async || {
        let begun = found.begun[0].load(SeqCst);
        ensure!(begun > 20, "{begun} begun");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    let answer: Value = cluster
        .post(others[0], "/v1/tx/service-groups/move", body)
        .await?
        .json()?;
    ensure!(answer["acted"] == true, "{answer}");
    let again: Value = cluster
        .post(others[1], "/v1/tx/service-groups/move", body)
        .await?
        .json()?;
    ensure!(
        again["acted"] == false && again["number"] == answer["number"],
        "{again}"
    );
    until("what is open holds the move up", SOON, async || {
        let list = service_groups(&cluster, others[0]).await?;
        let a_move = &list["moves"][0];
        ensure!(
            a_move["stage"] == "closed" && a_move["waits_for"] == "transactions",
            "{list}"
        );
        ensure!(a_move["transactions_left"] == 1, "{list}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    cluster.kill(driver).await?;
    found.is_free.store(true, SeqCst);
    let status = tm.commit(&held).await?;
    ensure!(status == GlobalStatus::Committed, "{held} is {status:?}");
    until("the move comes to its end", SOON, async || {
        let list = service_groups(&cluster, others[1]).await?;
        ensure!(list["moves"] == json!([]), "{list}");
        ensure!(list["service_groups"][0]["group"] == 2, "{list}");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    until("the load goes on in the new group", SOON, async || {
        let begun = found.begun[1].load(SeqCst);
        ensure!(begun > 20, "{begun} begun");
        Ok::<_, anyhow::Error>(())
    })
    .await?;
    found.is_over.store(true, SeqCst);
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    assert!(found.committed.load(SeqCst) > 0);
    let audit: Value = cluster.get(others[0], "/v1/tx/audit").await?.json()?;
    let act = &audit["acts"][0];
    ensure!(
        act["act"] == "service-groups move" && act["operator"] == "ada" && act["subject"] == "1 -> 2: orders",
        "{audit}"
    );
    cluster.finish();
    Ok(())
}
