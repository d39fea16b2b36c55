//! A node inside somebody's program: a state machine of its own, commands applied once, reads that are linearizable.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use settle_base::{FixedMap, GroupId, NodeId, PeerId, Prng};
use settle_disk_file::FileDiskOptions;
use settle_host::{HostConfig, HostStatus};
use settle_machine::{Applied, CommandOptions, CommandRequest, CommandResponse, Commands, Once, StateMachine, Ticket};
use settle_net::Listener;
use tokio::{sync::oneshot, time::sleep};

use crate::{
    NodeConfig, NodeHandle, NodeStopped, PeerAddress, RunningNode, StartError,
    metrics::{LoopMetrics, PeerMetrics},
    start,
};

/// Sessions that the group remembers: far more than commands may be under way in the whole cluster.
const SESSIONS_MAX: usize = 1 << 20;
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// The system has no randomness to give.
#[derive(Debug, thiserror::Error)]
#[error("no randomness from the system: {0}")]
pub struct NoEntropy(getrandom::Error);

impl NodeConfig {
    /// Node `node` of a cluster of `nodes` (itself among them) with its data in `data_dir`, and the defaults for the
    /// rest.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(node: NodeId, nodes: &[(NodeId, SocketAddr)], data_dir: PathBuf) -> Result<NodeConfig, NoEntropy> {
        let mut entropy = [0; 8];
        #[expect(
            clippy::disallowed_methods,
            reason = "this is where an embedding process's randomness comes from"
        )]
        getrandom::fill(&mut entropy).map_err(NoEntropy)?;
        let mut prng = Prng::new(u64::from_le_bytes(entropy));
        let addresses: Vec<_> = nodes.iter().map(|(node, at)| (*node, at.to_string())).collect();
        let peers = addresses.iter().cloned();
        Ok(NodeConfig {
            peers: peers.map(|(node, address)| PeerAddress { node, address }).collect(),
            host: HostConfig::new(node, addresses, prng.next_u64()),
            peer_tls: None,
            data_dir,
            disk: FileDiskOptions::default(),
            fresh_incarnation: PeerId(prng.next_u64().max(1)),
        })
    }
}

/// A node that replicates `M`; clones are handles to the same one.
pub struct Embedded<M: StateMachine> {
    node: NodeHandle<Commands<M>>,
    waiting: Arc<Mutex<Waiting<M::Effect>>>,
}

impl<M: StateMachine> Clone for Embedded<M> {
    fn clone(&self) -> Embedded<M> {
        Embedded {
            node: self.node.clone(),
            waiting: self.waiting.clone(),
        }
    }
}

struct Waiting<E> {
    answers: FixedMap<Ticket, oneshot::Sender<CommandResponse<E>>>,
    /// A session asks one thing at a time; those that wait for nothing are used again.
    idle: Vec<Session>,
    /// Whence new sessions get their names.
    prng: Prng,
}

struct Session {
    name: u64,
    number: u64,
}

impl<M: StateMachine<Effect: Send>> Embedded<M> {
    /// Opens the data directory and joins the cluster. `make_machine` gives the empty machine of a group.
    ///
    /// # Errors
    /// When the directory is in use, belongs to another node or cluster, or is damaged.
    pub fn start(
        config: NodeConfig,
        listener: Listener,
        options: CommandOptions,
        make_machine: impl Fn(GroupId) -> M + Send + 'static,
    ) -> Result<(Embedded<M>, RunningNode), StartError> {
        let prng = Prng::from_parts(&[config.host.seed, 1]);
        let waiting = Arc::new(Mutex::new(Waiting {
            answers: FixedMap::default(),
            idle: Vec::new(),
            prng,
        }));
        let respond = {
            let waiting = waiting.clone();
            move |response: CommandResponse<M::Effect>| {
                let ticket = response.ticket();
                if let Some(asker) = lock(&waiting).answers.remove(&ticket) {
                    // It may have stopped waiting.
                    let _ = asker.send(response);
                }
            }
        };
        let machine = move |group, _| Once::new(make_machine(group), SESSIONS_MAX);
        let metrics = (LoopMetrics::default(), PeerMetrics::default());
        let service = Commands::new(options);
        let (node, running) = start(config, listener, service, machine, respond, metrics)?;
        Ok((Embedded { node, waiting }, running))
    }

    /// Has `command` applied once, on every replica, and gives what this node's replica told of it. Asks again, as long
    /// as it is polled, whenever nothing is known; who stops polling does not know whether it is applied.
    ///
    /// # Errors
    /// When this node is stopping.
    pub async fn apply(&self, group: GroupId, command: impl Into<Bytes>) -> Result<Applied<M::Effect>, NodeStopped> {
        let command = command.into();
        let mut session = {
            let mut waiting = lock(&self.waiting);
            let fresh = Session {
                name: waiting.prng.next_u64(),
                number: 0,
            };
            waiting.idle.pop().unwrap_or(fresh)
        };
        session.number += 1;
        let ticket = Ticket {
            session: session.name,
            number: session.number,
        };
        let applied = self.apply_as(group, ticket, command).await?;
        lock(&self.waiting).idle.push(session);
        Ok(applied)
    }

    /// The same with a ticket of the caller's, who may ask again with it on any node, also after a restart of its own.
    /// Do not wait twice for one ticket at the same time.
    ///
    /// # Errors
    /// When this node is stopping.
    pub async fn apply_as(
        &self,
        group: GroupId,
        ticket: Ticket,
        command: Bytes,
    ) -> Result<Applied<M::Effect>, NodeStopped> {
        loop {
            let (asker, answer) = oneshot::channel();
            lock(&self.waiting).answers.insert(ticket, asker);
            let command = command.clone();
            let request = CommandRequest::Command { group, ticket, command };
            self.node.request(request).await?;
            tokio::select! {
                biased;
                answer = answer => {
                    if let CommandResponse::Applied(applied) = answer.map_err(|_| NodeStopped)? {
                        return Ok(applied);
                    }
                }
                () = self.node.stopped() => return Err(NodeStopped),
            }
            // Given up for the moment, or too much is under way.
            sleep(ASK_AGAIN_AFTER).await;
        }
    }

    /// Looks at this node's replica as of now or later: everything that was answered before, by any node, is in it.
    ///
    /// # Errors
    /// When this node is stopping.
    pub async fn read<T: Send + 'static>(
        &self,
        group: GroupId,
        look: impl Fn(&M) -> T + Clone + Send + 'static,
    ) -> Result<T, NodeStopped> {
        loop {
            let (sender, answer) = oneshot::channel();
            let look = look.clone();
            let look = Box::new(move |machine: &M| {
                // The asker may have stopped waiting.
                let _ = sender.send(look(machine));
            });
            self.node.request(CommandRequest::Read { group, look }).await?;
            tokio::select! {
                biased;
                answer = answer => {
                    if let Ok(seen) = answer {
                        return Ok(seen);
                    }
                }
                () = self.node.stopped() => return Err(NodeStopped),
            }
            // No leader could be asked for so long that the read was given up, or too much is under way.
            sleep(ASK_AGAIN_AFTER).await;
        }
    }

    /// # Errors
    /// When this node is stopping.
    pub async fn status(&self) -> Result<HostStatus, NodeStopped> {
        self.node.status().await
    }
}

fn lock<E>(waiting: &Mutex<Waiting<E>>) -> std::sync::MutexGuard<'_, Waiting<E>> {
    // Nothing below leaves the maps half changed.
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
