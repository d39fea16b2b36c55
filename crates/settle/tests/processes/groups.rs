//! Several transaction groups: who begins where, and that load may spread.

use std::time::Duration;

use anyhow::{Result, ensure};
use settle_sdk::{
    BranchType, GlobalStatus,
    connection::{Connection, obedient},
};
use settle_seata_wire::{Identity, Message};
use settle_testkit::{Cluster, until};

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
