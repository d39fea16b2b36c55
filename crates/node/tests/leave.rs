//! A node that is stopped in good order: what it led is led by others before it is gone.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use settle_base::{GroupId, NodeId, PeerId};
use settle_disk_file::FileDisk;
use settle_host::Host;
use settle_machine::{ApplyError, Context, EntryMeta, Event, LoadError, Service, SnapshotChunks, StateMachine};
use settle_node::{
    NodeConfig, NodeHandle, RunningNode,
    metrics::{LoopMetrics, PeerMetrics},
    start,
};
use tokio::time::timeout;

/// More than stand in a status.
const GROUPS: u64 = 250;
const PATIENCE: Duration = Duration::from_secs(60);

/// Has no state.
struct Nothing;

impl StateMachine for Nothing {
    type Effect = ();

    fn check(&self, _: &Bytes) -> Result<(), ApplyError> {
        Ok(())
    }

    fn apply(&mut self, _: EntryMeta, _: &Bytes, _: &mut Vec<()>) -> Result<(), ApplyError> {
        Ok(())
    }

    fn begin_snapshot(&self) -> SnapshotChunks {
        Box::new(std::iter::empty())
    }

    fn load_chunk(&mut self, _: Bytes) -> Result<(), LoadError> {
        Ok(())
    }

    fn finish_load(&mut self) -> Result<(), LoadError> {
        Ok(())
    }

    fn state_hash(&self) -> u64 {
        0
    }
}

struct Nobody;

impl Service for Nobody {
    type Machine = Nothing;
    type Request = ();
    type Response = ();

    fn step(&mut self, _: Event<'_, (), ()>, _: &mut Context<'_, Nothing, ()>) {}
}

async fn nodes(data: &Path) -> Vec<(NodeHandle<Nobody>, RunningNode)> {
    let any = "127.0.0.1:0".parse().expect("an address");
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(
            settle_net::bind(any, "the other servers", 64)
                .await
                .expect("a free port"),
        );
    }
    let addresses: Vec<_> = (1..).map(NodeId).zip(listeners.iter().map(|l| l.address())).collect();
    let started = addresses.iter().zip(listeners).map(|((node, _), listener)| {
        let mut config = NodeConfig::new(*node, &addresses, data.join(node.to_string())).expect("randomness");
        config.host.groups = (1..=GROUPS).map(GroupId).collect();
        config.host.leader_moves_per_second = 0;
        config.fresh_incarnation = PeerId(u64::from(node.0));
        let metrics = (LoopMetrics::default(), PeerMetrics::default());
        start(config, listener, Nobody, |_, _| Nothing, |()| {}, metrics).expect("it starts")
    });
    started.collect()
}

async fn led(node: &NodeHandle<Nobody>) -> usize {
    let is_led = |host: &Host<Nobody, FileDisk>, id| host.raft(GroupId(id)).is_some_and(|raft| raft.is_leader());
    let count = move |host: &Host<Nobody, FileDisk>| (1..=GROUPS).filter(|id| is_led(host, *id)).count();
    node.inspect(count).await.expect("it runs")
}

#[tokio::test]
async fn every_group_is_led_elsewhere_when_a_node_has_stopped() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut nodes = nodes(data.path()).await;
    let mut notes = nodes[0].0.observe().expect("it runs");
    let elected = async {
        while led(&nodes[0].0).await + led(&nodes[1].0).await + led(&nodes[2].0).await < GROUPS as usize {
            // Each leader of a group is noted at each of its members.
            notes.next().await.expect("it runs");
        }
    };
    timeout(PATIENCE, elected).await.expect("each group elects");
    let (leaving, others) = nodes.split_at_mut(1);
    assert!(led(&leaving[0].0).await > 0, "it leads about a third");
    let others: Vec<_> = others.iter().map(|(handle, _)| handle.clone()).collect();
    let (_, running) = nodes.remove(0);
    running.stop().await;
    let left = led(&others[0]).await + led(&others[1]).await;
    assert_eq!(left, GROUPS as usize, "nobody has to wait for an election");
    for (_, running) in nodes {
        running.stop().await;
    }
}
