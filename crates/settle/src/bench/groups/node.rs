//! One server of `settle bench groups`: the real node runtime with very many groups of a machine that only counts.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use settle_base::{FixedMap, FixedSet, GroupId};
use settle_host::GroupCounts;
use settle_machine::{Action, ApplyError, Context, EntryMeta, Event, LoadError, Service, SnapshotChunks, StateMachine};
use settle_net::{Accepted, Outlet, Stop, bind};
use settle_node::{
    NodeHandle,
    metrics::{LoopMetrics, PeerMetrics},
};

use crate::bench::raft::{
    client::take_frame,
    node::{HELLO, STATS, node_config, run_until_told, say},
};

/// Client to server: a command for the group that follows; which groups are led here?
pub const WRITE: u8 = 16;
pub const LED: u8 = 17;
/// Server to client: the groups of which a command of this client is applied here.
pub const DONE: u8 = 18;

const ANSWER_BYTES_MAX: usize = 64 << 20;
/// What is left of the bytes once all whole frames are taken.
const FRAME_BYTES_MAX: usize = 64;
const MAX_CONNECTIONS: usize = 64;

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
    #[arg(long)]
    groups: u64,
    /// Leaderships given away in a second by a node that has more than its share.
    #[arg(long, default_value_t = 5)]
    leader_moves_per_second: u32,
}

/// Counts its commands.
#[derive(Default)]
pub struct Counter(u64);

impl StateMachine for Counter {
    /// Whose command it was.
    type Effect = u64;

    fn check(&self, command: &Bytes) -> Result<(), ApplyError> {
        client_of(command).map(drop)
    }

    fn apply(&mut self, _: EntryMeta, command: &Bytes, effects: &mut Vec<u64>) -> Result<(), ApplyError> {
        effects.push(client_of(command)?);
        self.0 += 1;
        Ok(())
    }

    fn begin_snapshot(&self) -> SnapshotChunks {
        Box::new(std::iter::once(Bytes::copy_from_slice(&self.0.to_le_bytes())))
    }

    fn load_chunk(&mut self, chunk: Bytes) -> Result<(), LoadError> {
        let reason = "eight bytes are a count".to_owned();
        let bytes = chunk[..].try_into().map_err(|_| LoadError { reason })?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }

    fn finish_load(&mut self) -> Result<(), LoadError> {
        Ok(())
    }

    fn state_hash(&self) -> u64 {
        self.0
    }
}

fn client_of(command: &[u8]) -> Result<u64, ApplyError> {
    let unreadable = |_| ApplyError {
        index: 0,
        reason: "eight bytes name a client".to_owned(),
    };
    Ok(u64::from_le_bytes(command.try_into().map_err(unreadable)?))
}

#[derive(Debug)]
pub enum Request {
    Join(u64),
    Leave(u64),
    Write { client: u64, groups: Vec<GroupId> },
}

pub struct Response {
    client: u64,
    group: GroupId,
}

/// Answers clients of this node once what they wrote is applied here, whichever node leads the group.
#[derive(Default)]
pub struct Door {
    clients: FixedSet<u64>,
}

impl Service for Door {
    type Machine = Counter;
    type Request = Request;
    type Response = Response;

    fn step(&mut self, event: Event<'_, u64, Request>, context: &mut Context<'_, Counter, Response>) {
        match event {
            Event::Request(Request::Join(client)) => drop(self.clients.insert(client)),
            Event::Request(Request::Leave(client)) => drop(self.clients.remove(&client)),
            Event::Request(Request::Write { client, groups }) => {
                for group in groups {
                    context.act(Action::Propose {
                        group,
                        command: Bytes::copy_from_slice(&client.to_le_bytes()),
                        expected_term: None,
                    });
                }
            }
            Event::Applied { group, effects } => {
                for client in effects.drain(..).filter(|client| self.clients.contains(client)) {
                    context.act(Action::Respond(Response { client, group }));
                }
            }
            _ => {}
        }
    }
}

type Outlets = Arc<Mutex<FixedMap<u64, Arc<Outlet>>>>;

pub async fn run(args: NodeArgs) -> anyhow::Result<()> {
    let (mut config, peers) = node_config(args.node, &args.peers, args.data).await?;
    config.host.groups = (1..=args.groups).map(GroupId).collect();
    config.host.leader_moves_per_second = args.leader_moves_per_second;
    let clients = bind(args.listen, "the bench's clients", MAX_CONNECTIONS).await?;
    let outlets = Outlets::default();
    let respond = {
        let outlets = outlets.clone();
        move |response: Response| {
            let outlet = lock(&outlets).get(&response.client).cloned();
            if let Some(outlet) = outlet {
                let is_taken = outlet.push(|out| {
                    out.put_u32_le(9);
                    out.put_u8(DONE);
                    out.put_u64_le(response.group.0);
                });
                if is_taken {
                    outlet.flush();
                }
            }
        }
    };
    let door = move |node: NodeHandle<Door>, stopped: Stop| {
        let inner = stopped.clone();
        clients.serve(stopped, move |accepted| {
            let (node, outlets, mut stop) = (node.clone(), outlets.clone(), inner.clone());
            async move {
                tokio::select! {
                    biased;
                    () = stop.stopped() => {}
                    // A client that breaks off is no event.
                    _ = serve(accepted, node, outlets) => {}
                }
            }
        })
    };
    let (machine, metrics) = (
        |_, _| Counter::default(),
        (LoopMetrics::default(), PeerMetrics::default()),
    );
    let (_, running) = settle_node::start_beside(config, peers, Door::default(), machine, respond, metrics, door)?;
    run_until_told(running).await
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(accepted: Accepted, node: NodeHandle<Door>, outlets: Outlets) -> anyhow::Result<()> {
    let (mut reading, writing) = accepted.open().await?.into_split();
    let outlet = Arc::new(Outlet::new(writing, ANSWER_BYTES_MAX));
    let mut client = None;
    let read = async {
        use tokio::io::AsyncReadExt;
        let mut buffer = BytesMut::new();
        loop {
            let mut groups = Vec::new();
            while let Some(mut frame) = take_frame(&mut buffer) {
                match (frame.get_u8(), frame.len(), client) {
                    (HELLO, 8, None) => {
                        let id = frame.get_u64_le();
                        client = Some(id);
                        lock(&outlets).insert(id, outlet.clone());
                        node.request(Request::Join(id)).await?;
                    }
                    (WRITE, 8, Some(_)) => groups.push(GroupId(frame.get_u64_le())),
                    (STATS, 0, _) => say(&outlet, &figures(&node).await?),
                    (LED, 0, _) => say(&outlet, &led(&node).await?),
                    _ => anyhow::bail!("not a frame of the bench"),
                }
            }
            if let Some(client) = client
                && !groups.is_empty()
            {
                node.request(Request::Write { client, groups }).await?;
            }
            anyhow::ensure!(buffer.len() <= FRAME_BYTES_MAX, "a frame that never ends");
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

async fn figures(node: &NodeHandle<Door>) -> anyhow::Result<String> {
    let status = node.status().await?;
    let GroupCounts {
        here,
        awake,
        led,
        leaderless,
        ..
    } = status.counts;
    let is_led = here > 0 && leaderless == 0;
    let values = [
        ("bench_groups", here as u64),
        ("bench_awake", awake as u64),
        ("bench_led", led as u64),
        ("bench_leaderless", leaderless as u64),
        ("bench_peers", status.peers.len() as u64),
        ("bench_leader", u64::from(is_led)),
        ("bench_is_ready", u64::from(is_led)),
        ("settle_elections_won_total", status.counters.elections_won),
        ("settle_entries_applied_total", status.counters.entries_applied),
    ];
    Ok(values.iter().map(|(name, value)| format!("{name} {value}\n")).collect())
}

/// The groups that this node leads, one a line.
async fn led(node: &NodeHandle<Door>) -> anyhow::Result<String> {
    let led = node.inspect(|host| {
        let is_led = |group: &GroupId| host.raft(*group).is_some_and(|raft| raft.is_leader());
        host.group_ids()
            .filter(is_led)
            .map(|group| format!("{}\n", group.0))
            .collect::<String>()
    });
    Ok(led.await?)
}
