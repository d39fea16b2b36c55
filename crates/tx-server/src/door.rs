//! The connections of Seata clients and the way back to them from the loop that drives the gate.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use settle_base::{ErrorCode, FixedMap};
use settle_net::{Listener, Stop};
use settle_node::{NodeHandle, NodeStopped};
use settle_telemetry::Seldom;
use settle_tx::TxError;
use settle_tx_gate::{
    AdminAnswer, AdminRequest, ConnId, DropReason, GateError, GateNote, GateRequest, GateResponse, RefusalError,
    RequestKey, TxGate,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::{Auth, HistoryHandle, connection, metrics::DoorMetrics};

pub(crate) const STOPPING: ErrorCode = ErrorCode::new("TS", 4);
const SLOW_CLIENT: ErrorCode = ErrorCode::new("TS", 3);

/// Answers and calls waiting to be written to one client; a client that lets more pile up is closed.
const CLIENT_QUEUE: usize = 16_384;
/// Of refused and closed connections.
const WARNINGS_PER_SECOND: u32 = 16;
/// Longer than any hold of the gate's.
const ADMIN_WITHIN: Duration = Duration::from_secs(20);

#[derive(Clone)]
pub struct DoorConfig {
    /// The largest frame, as it arrives and decompressed.
    pub max_frame_bytes: usize,
    /// A client silent for so long is closed. Clients send a heartbeat after five idle seconds.
    pub idle_after: Duration,
    /// None: clients are what they say.
    pub auth: Option<Arc<Auth>>,
}

impl Default for DoorConfig {
    fn default() -> DoorConfig {
        DoorConfig {
            max_frame_bytes: settle_seata_wire::MAX_FRAME_BYTES_DEFAULT,
            idle_after: Duration::from_secs(15),
            auth: None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error("{0}")]
    Gate(GateError),
    #[error("{0}")]
    Machine(TxError),
    #[error("this server is stopping")]
    Stopping,
    #[error("no answer within {} s", ADMIN_WITHIN.as_secs())]
    TimedOut,
}

impl AdminError {
    pub fn code(&self) -> ErrorCode {
        match self {
            AdminError::Gate(error) => error.code(),
            AdminError::Machine(error) => error.code(),
            AdminError::Stopping => STOPPING,
            AdminError::TimedOut => ErrorCode::new("TS", 5),
        }
    }
}

/// What the loop hands to one connection's task.
pub(crate) enum ToClient {
    Answer {
        key: RequestKey,
        answer: settle_tx_gate::ClientAnswer,
    },
    Dropped {
        key: RequestKey,
    },
    Call {
        call: settle_tx_gate::CallId,
        body: settle_tx_gate::BranchCall,
    },
    Close {
        error: GateError,
    },
}

#[derive(Default)]
struct Waiting {
    clients: FixedMap<ConnId, mpsc::Sender<ToClient>>,
    admin: FixedMap<u64, oneshot::Sender<Result<AdminAnswer, RefusalError>>>,
}

/// The loop's end: takes the gate's responses to whom they concern. Never blocks.
#[derive(Clone, Default)]
pub struct Responder {
    waiting: Arc<Mutex<Waiting>>,
    metrics: DoorMetrics,
    history: HistoryHandle,
}

impl Responder {
    /// `history` is told of every transaction that ends.
    pub fn new(metrics: DoorMetrics, history: HistoryHandle) -> Responder {
        Responder {
            waiting: Arc::default(),
            metrics,
            history,
        }
    }

    pub fn respond(&self, response: GateResponse) {
        let (conn, message) = match response {
            GateResponse::Answer { conn, key, answer } => (conn, ToClient::Answer { key, answer }),
            GateResponse::Dropped { conn, key, why } => {
                self.metrics.dropped.inc();
                if let DropReason::Refused(error) = why {
                    tracing::warn!(code = %error.code(), %conn, %error, "request left unanswered");
                }
                (conn, ToClient::Dropped { key })
            }
            GateResponse::Call { conn, call, body } => {
                self.metrics.calls.inc();
                (conn, ToClient::Call { call, body })
            }
            GateResponse::CloseConn { conn, error } => (conn, ToClient::Close { error }),
            GateResponse::Admin { key, result } => {
                if let Some(sender) = self.lock().admin.remove(&key.0) {
                    // The asker may have given up.
                    let _ = sender.send(result);
                }
                return;
            }
            GateResponse::Note(note) => return self.note(&note),
            GateResponse::Ended(ended) => return self.history.record(ended),
            GateResponse::Reloaded { group, index } => return self.history.reloaded(group, index),
        };
        let mut waiting = self.lock();
        let Some(sender) = waiting.clients.get(&conn) else {
            return;
        };
        if sender.try_send(message).is_err() {
            // Its task sees the queue close and ends the connection.
            waiting.clients.remove(&conn);
            self.metrics.slow_clients.inc();
            tracing::warn!(code = %SLOW_CLIENT, %conn, "connection closed: the client does not read its answers");
        }
    }

    fn note(&self, note: &GateNote) {
        if let GateNote::Stuck { .. } = note {
            self.metrics.stuck_branches.inc();
        }
        connection::log_note(note);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no holder of this lock panics")
    }
}

/// Serves Seata clients and operators' questions through one node's gate.
pub struct Door {
    pub(crate) node: NodeHandle<TxGate>,
    pub(crate) responder: Responder,
    pub(crate) config: DoorConfig,
    pub(crate) metrics: DoorMetrics,
    /// What strangers can cause in the log.
    pub(crate) seldom: Seldom,
    next_conn: AtomicU64,
    next_admin: AtomicU64,
}

impl Door {
    /// `responder` is the one that the node's loop was started with.
    pub fn new(node: NodeHandle<TxGate>, responder: Responder, config: DoorConfig) -> Arc<Door> {
        let metrics = responder.metrics.clone();
        Arc::new(Door {
            node,
            responder,
            config,
            metrics,
            seldom: Seldom::new(WARNINGS_PER_SECOND),
            next_conn: AtomicU64::new(1),
            next_admin: AtomicU64::new(1),
        })
    }

    /// Serves clients until `stop`.
    pub async fn serve(self: &Arc<Self>, listener: Listener, stop: Stop) {
        let inner = stop.clone();
        let door = self.clone();
        listener
            .serve(stop, move |accepted| {
                let (door, stop) = (door.clone(), inner.clone());
                async move { connection::serve(&door, accepted, stop).await }
            })
            .await;
    }

    /// Asks the gate an operator's question.
    ///
    /// # Errors
    /// The gate's refusal; or when the node is stopping, or has not answered in time.
    pub async fn admin(&self, body: AdminRequest) -> Result<AdminAnswer, AdminError> {
        let key = self.next_admin.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.responder.lock().admin.insert(key, sender);
        let asked = self
            .node
            .request(GateRequest::Admin {
                key: RequestKey(key),
                body,
            })
            .await;
        let result = match asked {
            Err(NodeStopped) => Err(AdminError::Stopping),
            Ok(()) => match timeout(ADMIN_WITHIN, answer).await {
                Ok(Ok(result)) => result.map_err(|refusal| match refusal {
                    RefusalError::Gate(error) => AdminError::Gate(error),
                    RefusalError::Tx(error) => AdminError::Machine(error),
                }),
                Ok(Err(_)) => Err(AdminError::Stopping),
                Err(_) => Err(AdminError::TimedOut),
            },
        };
        self.responder.lock().admin.remove(&key);
        result
    }

    /// Gives a new connection its id and its queue.
    pub(crate) fn enter(&self) -> (ConnId, mpsc::Receiver<ToClient>) {
        let conn = ConnId(self.next_conn.fetch_add(1, Ordering::Relaxed));
        let (sender, receiver) = mpsc::channel(CLIENT_QUEUE);
        self.responder.lock().clients.insert(conn, sender);
        self.metrics.connections.inc();
        (conn, receiver)
    }

    pub(crate) fn leave(&self, conn: ConnId) {
        self.responder.lock().clients.remove(&conn);
        self.metrics.connections.dec();
    }
}
