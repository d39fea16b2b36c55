//! One server of the bench: the real node runtime under a front door that is as thin as a door can be.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use settle_base::{FixedMap, FixedSet, GroupId, NodeId};
use settle_host::OperatorRequest;
use settle_machine::{Action, Context, Event, Service};
use settle_net::{Accepted, Outlet, Stop, bind};
use settle_node::{
    NodeConfig, NodeHandle, PeerListener, RunningNode,
    metrics::{LoopMetrics, PeerMetrics},
};
use settle_telemetry::{LogFormat, init_logs, prometheus::registry::Registry};
use tokio::io::AsyncReadExt;

use super::machine::{COMMAND_BYTES, FILL, PUT, Registers, Written};
use crate::dev::interrupted;

/// Client to server, besides the machine's commands: who speaks, and a question for the figures.
pub const HELLO: u8 = 8;
pub const STATS: u8 = 9;
/// Take a snapshot now.
pub const SNAPSHOT: u8 = 10;
/// Server to client.
pub const ACKS: u8 = 1;
pub const NOT_LEADER: u8 = 2;
/// What was under way may or may not have been done.
pub const LOST: u8 = 3;
pub const TEXT: u8 = 4;

pub const GROUP: GroupId = GroupId(1);
const FRAME_BYTES_MAX: usize = COMMAND_BYTES;
/// Answers waiting for one client; one that reads nothing loses its connection.
const ANSWER_BYTES_MAX: usize = 64 << 20;
const MAX_CONNECTIONS: usize = 1_024;

#[derive(clap::Args, Debug)]
pub struct NodeArgs {
    #[arg(long)]
    node: u32,
    /// Where clients connect.
    #[arg(long)]
    listen: SocketAddr,
    /// The peer addresses of nodes 1, 2, …
    #[arg(long, value_delimiter = ',')]
    peers: Vec<SocketAddr>,
    #[arg(long)]
    data: PathBuf,
    /// Snapshot after so much log.
    #[arg(long, default_value_t = 64 << 20)]
    snapshot_after: u64,
    /// Send so much of snapshots in a second.
    #[arg(long, default_value_t = 128 << 20)]
    snapshot_bytes_per_second: u64,
}

type Outlets = Arc<Mutex<FixedMap<u64, Arc<Outlet>>>>;

#[derive(Debug)]
pub enum Request {
    Join(u64),
    Leave(u64),
    Commands { client: u64, commands: Vec<Bytes> },
}

pub struct Response {
    client: u64,
    frame: Bytes,
}

/// Answers clients of this node once what they wrote is applied here.
#[derive(Default)]
pub struct Door {
    clients: FixedSet<u64>,
    was_leader: bool,
}

impl Service for Door {
    type Machine = Registers;
    type Request = Request;
    type Response = Response;

    fn step(&mut self, event: Event<'_, Written, Request>, context: &mut Context<'_, Registers, Response>) {
        match event {
            Event::Request(Request::Join(client)) => {
                self.clients.insert(client);
                self.refuse_unless_leader(client, context);
            }
            Event::Request(Request::Leave(client)) => {
                self.clients.remove(&client);
            }
            Event::Request(Request::Commands { client, commands }) => {
                if self.refuse_unless_leader(client, context) {
                    return;
                }
                for command in commands {
                    context.act(Action::Propose {
                        group: GROUP,
                        command,
                        expected_term: None,
                    });
                }
            }
            Event::Applied { effects, .. } => {
                // Stable: each client's answers stay in the order of the log.
                effects.sort_by_key(|written| written.client);
                for of_client in effects.chunk_by(|a, b| a.client == b.client) {
                    let client = of_client[0].client;
                    if self.clients.contains(&client) {
                        let numbers = of_client.iter().map(|written| written.number);
                        context.act(answer(client, ACKS, numbers));
                    }
                }
            }
            Event::Role { role, .. } => {
                if self.was_leader && !role.is_ready_leader {
                    for client in &self.clients {
                        context.act(answer(*client, LOST, []));
                    }
                }
                self.was_leader = role.is_ready_leader;
            }
            _ => {}
        }
    }
}

impl Door {
    fn refuse_unless_leader(&self, client: u64, context: &mut Context<'_, Registers, Response>) -> bool {
        let role = context.group(GROUP).map(|group| group.role).unwrap_or_default();
        if !role.is_ready_leader {
            let leader = role.leader.map_or(0, |node| node.0);
            context.act(answer(client, NOT_LEADER, [leader]));
        }
        !role.is_ready_leader
    }
}

fn answer(client: u64, kind: u8, words: impl IntoIterator<Item = u32>) -> Action<Response> {
    let mut frame = BytesMut::with_capacity(64);
    frame.put_u32_le(0);
    frame.put_u8(kind);
    words.into_iter().for_each(|word| frame.put_u32_le(word));
    let len = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&len.to_le_bytes());
    let frame = frame.freeze();
    Action::Respond(Response { client, frame })
}

pub async fn run(args: NodeArgs) -> anyhow::Result<()> {
    let (mut config, peers) = node_config(args.node, &args.peers, args.data).await?;
    config.host.snapshot_after_bytes = args.snapshot_after;
    config.host.snapshot_bytes_per_second = args.snapshot_bytes_per_second;
    let clients = bind(args.listen, "the bench's clients", MAX_CONNECTIONS).await?;
    let outlets = Outlets::default();
    let (loop_metrics, peer_metrics) = (LoopMetrics::default(), PeerMetrics::default());
    let mut registry = Registry::default();
    loop_metrics.register(&mut registry);
    peer_metrics.register(&mut registry);
    let respond = {
        let outlets = outlets.clone();
        move |response: Response| {
            let outlet = lock(&outlets).get(&response.client).cloned();
            if let Some(outlet) = outlet
                && outlet.push(|out| out.put_slice(&response.frame))
            {
                outlet.flush();
            }
        }
    };
    let machine = |_, _| Registers::default();
    let metrics = (loop_metrics, peer_metrics);
    let registry = Arc::new(registry);
    let door = move |node: NodeHandle<Door>, stopped: Stop| {
        let inner = stopped.clone();
        clients.serve(stopped, move |accepted| {
            let (node, outlets, registry, mut stop) = (node.clone(), outlets.clone(), registry.clone(), inner.clone());
            async move {
                tokio::select! {
                    biased;
                    () = stop.stopped() => {}
                    // A client that breaks off is no event.
                    _ = serve(accepted, node, outlets, registry) => {}
                }
            }
        })
    };
    let started = settle_node::start_beside(config, peers, Door::default(), machine, respond, metrics, door);
    let (_, running) = started?;
    run_until_told(running).await
}

/// What every server of a bench is configured with, and its place among the others.
///
/// # Errors
/// When its address is taken.
pub async fn node_config(
    node: u32,
    peers: &[SocketAddr],
    data_dir: PathBuf,
) -> anyhow::Result<(NodeConfig, PeerListener)> {
    init_logs("info", LogFormat::Text)?;
    let nodes: Vec<_> = (1..).map(NodeId).zip(peers.iter().copied()).collect();
    let own = nodes
        .iter()
        .find(|(id, _)| id.0 == node)
        .context("--peers has no such node")?;
    let listener = bind(own.1, "the other servers", 64).await?;
    Ok((NodeConfig::new(own.0, &nodes, data_dir)?, listener))
}

/// Until a signal, the end of standard input, or a reason not to go on.
///
/// # Errors
/// That reason.
pub async fn run_until_told(mut running: RunningNode) -> anyhow::Result<()> {
    let outcome = tokio::select! {
        biased;
        error = running.failed() => Err(error).context("this server must not go on"),
        result = interrupted() => result,
        () = crate::server::stdin_closed() => Ok(()),
    };
    running.stop().await;
    outcome
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(
    accepted: Accepted,
    node: NodeHandle<Door>,
    outlets: Outlets,
    registry: Arc<Registry>,
) -> anyhow::Result<()> {
    let (mut reading, writing) = accepted.open().await?.into_split();
    let outlet = Arc::new(Outlet::new(writing, ANSWER_BYTES_MAX));
    let mut client = None;
    let read = async {
        let mut buffer = BytesMut::with_capacity(64 << 10);
        loop {
            let mut commands = Vec::new();
            while let Some(mut frame) = take_frame(&mut buffer)? {
                match frame.first() {
                    Some(&(PUT | FILL)) => commands.push(frame),
                    Some(&HELLO) if frame.len() == 9 && client.is_none() => {
                        frame.advance(1);
                        let id = frame.get_u64_le();
                        client = Some(id);
                        lock(&outlets).insert(id, outlet.clone());
                        node.request(Request::Join(id)).await?;
                    }
                    Some(&STATS) => {
                        let text = figures(&node, &registry).await?;
                        say(&outlet, &text);
                    }
                    Some(&SNAPSHOT) => {
                        // Refused when there is nothing new to take.
                        let _ = node.operate(OperatorRequest::TakeSnapshot { group: GROUP }).await?;
                        say(&outlet, "");
                    }
                    _ => anyhow::bail!("not a frame of the bench"),
                }
            }
            if let Some(client) = client
                && !commands.is_empty()
            {
                node.request(Request::Commands { client, commands }).await?;
            }
            buffer.reserve(32 << 10);
            if reading.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    };
    let ended = tokio::select! {
        biased;
        error = outlet.drain(|_| {}) => Err(error.into()),
        ended = read => ended,
    };
    if let Some(client) = client {
        lock(&outlets).remove(&client);
        node.request(Request::Leave(client)).await?;
    }
    ended
}

/// Answers with a text.
pub fn say(outlet: &Outlet, text: &str) {
    outlet.push(|out| {
        out.put_u32_le(text.len() as u32 + 1);
        out.put_u8(TEXT);
        out.put_slice(text.as_bytes());
    });
    outlet.flush();
}

fn take_frame(buffer: &mut BytesMut) -> anyhow::Result<Option<Bytes>> {
    let Some(head) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let len = u32::from_le_bytes(*head) as usize;
    anyhow::ensure!(len <= FRAME_BYTES_MAX, "a frame of {len} bytes");
    if buffer.len() < 4 + len {
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(len).freeze()))
}

/// The metrics as a server's `/metrics` has them, and a few values of the host.
async fn figures(node: &NodeHandle<Door>, registry: &Registry) -> anyhow::Result<String> {
    let status = node.status().await?;
    let group = status.groups.iter().find(|group| group.group == GROUP);
    let mut text = settle_telemetry::render(registry);
    let leader = group.and_then(|group| group.role.leader).map_or(0, |node| node.0);
    let values = [
        ("settle_elections_won_total", status.counters.elections_won),
        ("settle_snapshots_installed_total", status.counters.snapshots_installed),
        ("settle_snapshots_sent_total", status.counters.snapshots_sent),
        ("settle_snapshots_taken_total", status.counters.snapshots_taken),
        ("settle_entries_applied_total", status.counters.entries_applied),
        ("bench_leader", u64::from(leader)),
        (
            "bench_is_ready",
            group.map_or(0, |group| u64::from(group.role.is_ready_leader)),
        ),
        ("bench_term", group.map_or(0, |group| group.role.term)),
        ("bench_applied", group.map_or(0, |group| group.raft.applied)),
        (
            "bench_recovering",
            group.map_or(0, |group| u64::from(group.raft.recovering)),
        ),
        ("bench_peers", status.peers.len() as u64),
    ];
    for (name, value) in values {
        text.push_str(&format!("{name} {value}\n"));
    }
    Ok(text)
}
