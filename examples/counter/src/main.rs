//! Three nodes in one process keep one counter. One of them is stopped while all are asked to add to it, and the sum is
//! right all the same.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use anyhow::Context as _;
use settle_base::{GroupId, NodeId};
use settle_example_counter::Counter;
use settle_machine::{Applied, CommandOptions};
use settle_net::bind;
use settle_node::{Embedded, NodeConfig, RunningNode};

/// A new cluster is founded with this one group.
const GROUP: GroupId = GroupId(1);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("make a folder for the data")?;
    let mut nodes = start_three(folder.path()).await?;
    println!("three nodes keep their data in {}", folder.path().display());

    for (id, node, _) in &nodes {
        let applied = node.apply(GROUP, Counter::add(10)).await?;
        println!(
            "{id} added 10: the counter is {:?}",
            applied.effects.unwrap_or_default()
        );
    }

    let leader = nodes[0].1.status().await?.groups[0].role.leader;
    let place = nodes.iter().position(|(id, ..)| Some(*id) == leader).unwrap_or(0);
    let (id, _, running) = nodes.remove(place);
    println!("stopping node {id}, which leads");
    running.stop().await;

    for (id, node, _) in &nodes {
        let applied = node.apply(GROUP, Counter::add(1)).await?;
        println!("node {id} added 1: the counter is {}", sum(applied)?);
    }
    for (id, node, _) in &nodes {
        let total = node.read(GROUP, Counter::total).await?;
        println!("node {id} reads {total}");
        anyhow::ensure!(total == 32, "three times 10 and twice 1 are 32");
    }
    for (_, _, running) in nodes {
        running.stop().await;
    }
    Ok(())
}

/// What the counter told of a command.
fn sum(applied: Applied<u64>) -> anyhow::Result<u64> {
    let told = applied.effects.and_then(|effects| effects.first().copied());
    told.context("an addition has a sum")
}

type Node = (NodeId, Embedded<Counter>, RunningNode);

async fn start_three(folder: &Path) -> anyhow::Result<Vec<Node>> {
    let mut listeners = Vec::new();
    for node in 1..=3 {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        listeners.push((NodeId(node), bind(any_port, "the other nodes", 64).await?));
    }
    let addresses: Vec<_> = listeners.iter().map(|(node, at)| (*node, at.address())).collect();
    let mut nodes = Vec::new();
    for (id, listener) in listeners {
        let config = NodeConfig::new(id, &addresses, folder.join(id.to_string()))?;
        let (node, running) = Embedded::start(config, listener, CommandOptions::default(), |_| Counter::default())?;
        nodes.push((id, node, running));
    }
    Ok(nodes)
}
