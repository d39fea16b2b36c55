//! `settle server`: one server of a cluster, from its configuration to its orderly end.

use std::{future::IntoFuture, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use settle_base::{ErrorCode, GroupId, Mono, PeerId};
use settle_disk_file::{FileDisk, FileDiskOptions, OpenDirError};
use settle_host::{ClusterId, HostConfig};
use settle_net::{BindError, Listener, Stop, StopHandle, TlsClient, bind};
use settle_node::{NodeConfig, PeerAddress, StartError};
use settle_telemetry::{LogFormat, LogsError, init_logs};
use settle_tx::{DriverConfig, MachineConfig, TxMachine};
use settle_tx_gate::{GateConfig, TxGate};
use settle_tx_server::{
    Auth, AuthConfig, Door, DoorConfig, HistoryConfig, HistoryHandle, HistoryMetrics, HistoryThread, Responder,
    StartHistoryError, start_history,
};
use tokio::{io::AsyncReadExt, sync::oneshot};

use crate::{
    config::{Certificates, Config, ConfigError, OperatorsFile, PolicyFile},
    dev::interrupted,
    http::{self, Access, Api},
    metrics::ServerMetrics,
    reload,
};

#[derive(clap::Args, Debug)]
pub struct ServerArgs {
    /// The configuration file; `settle config` prints one with all defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Stop when standard input is closed: for a parent process that must not leave servers behind.
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

/// The highest cluster version that this binary can apply.
pub const BUILD_VERSION: u32 = settle_tx::APPLY_VERSION;

/// Connections from other servers: two lanes each, and room for ones that are being replaced.
const MAX_PEER_CONNECTIONS: usize = 256;
const MAX_HTTP_CONNECTIONS: usize = 256;
/// From a connection's, or the last answer's, moment until the head of a request is whole.
const HTTP_HEAD_WITHIN: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
enum ServerError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Logs(#[from] LogsError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Start(Box<StartError>),
    #[error("cannot open the directory of the history")]
    HistoryDirectory(#[source] OpenDirError),
    #[error(transparent)]
    History(#[from] StartHistoryError),
    #[error("no randomness from the system: {0}")]
    Entropy(getrandom::Error),
    #[error("cannot listen for signals")]
    Signals(#[source] anyhow::Error),
    #[error("this server must not go on")]
    Host(#[source] settle_host::HostError),
}

impl From<StartError> for ServerError {
    fn from(error: StartError) -> ServerError {
        ServerError::Start(Box::new(error))
    }
}

impl ServerError {
    fn code(&self) -> ErrorCode {
        match self {
            ServerError::Config(error) => error.code(),
            ServerError::Logs(error) => error.code(),
            ServerError::Bind(error) => error.code(),
            ServerError::Start(error) => error.code(),
            ServerError::HistoryDirectory(error) => error.code(),
            ServerError::History(error) => error.code(),
            ServerError::Entropy(_) => ErrorCode::new("ND", 3),
            ServerError::Signals(_) => ErrorCode::new("ND", 4),
            ServerError::Host(error) => error.code(),
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            ServerError::Config(_) | ServerError::Logs(_) => 2,
            ServerError::Bind(_)
            | ServerError::Start(_)
            | ServerError::HistoryDirectory(_)
            | ServerError::History(_)
            | ServerError::Entropy(_)
            | ServerError::Signals(_) => 3,
            ServerError::Host(_) => 1,
        }
    }
}

pub async fn run(args: ServerArgs) -> ExitCode {
    match serve(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.code();
            let mut text = format!("settle: {code}: {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                text.push_str(&format!(": {cause}"));
                source = cause.source();
            }
            eprintln!("{text}\n  Explained in docs/errors/{code}.md");
            ExitCode::from(error.exit_code())
        }
    }
}

async fn serve(args: ServerArgs) -> Result<(), ServerError> {
    let config = Config::load(args.config.as_deref(), std::env::vars())?;
    init_logs(
        &config.log_level,
        if config.log_json {
            LogFormat::Json
        } else {
            LogFormat::Text
        },
    )?;

    if config.tx.lose_decide_every > 0 {
        tracing::warn!(
            every = config.tx.lose_decide_every,
            "this server loses decisions on purpose: test.lose-decide-every is set"
        );
    }

    let auth = open_auth(&config)?;
    let operators = config.operators.as_deref().map(OperatorsFile::open).transpose();
    let (operators_file, access) = operators
        .map_err(ConfigError::from)?
        .map(|(file, operators)| (file, Access::new(operators)))
        .unzip();
    let certificates = Certificates::open(&config.tls).map_err(ConfigError::from)?;
    // All ports first: a server that cannot be reached must not touch its data.
    let tx_listener = bind(config.listen_tx, "transactions", config.max_connections).await?;
    let tx_listener = tx_listener
        .with_limit_per_address(config.max_connections_per_address)
        .with_limit_of_strangers(config.max_strangers, config.max_strangers_per_address)
        .with_tls(certificates.tx());
    let http_listener = bind(config.listen_http, "the HTTP API", MAX_HTTP_CONNECTIONS).await?;
    let http_listener = http_listener.with_tls(certificates.http());
    let peer_listener = bind(config.listen_peer, "the other servers", MAX_PEER_CONNECTIONS).await?;
    let (peer_server, peer_client) = certificates.peer().unzip();
    let peer_listener = peer_listener
        .with_limit_of_strangers(config.max_strangers, config.max_strangers_per_address)
        .with_tls(peer_server);

    let metrics = ServerMetrics::default();
    let history = open_history(&config, &metrics.history)?;
    let handle = history.as_ref().map(|(handle, _)| handle.clone()).unwrap_or_default();
    let responder = Responder::new(metrics.door.clone(), handle.clone());
    let (open_door, opened) = oneshot::channel();
    let peer = (peer_listener, peer_client);
    let (node, mut running) = start_node(&config, peer, responder.clone(), opened, &metrics)?;
    // Nobody would be told the truth of the transactions in it.
    let last = node.inspect(|host| {
        host.group_statuses(None, usize::MAX, Mono::ZERO)
            .last()
            .map(|g| g.group)
    });
    if let Ok(Some(last)) = last.await
        && last.0 > config.tx.groups
    {
        let reason = format!(
            "tx.groups is {}, but this data directory has group {last}: groups cannot be taken away",
            config.tx.groups
        );
        running.stop().await;
        return Err(ServerError::Config(ConfigError::Contradiction { reason }));
    }
    let door_config = DoorConfig {
        max_frame_bytes: config.max_frame_bytes,
        auth: auth.as_ref().map(|(auth, _)| auth.clone()),
        ..DoorConfig::default()
    };
    let reload_failures = metrics.reload_failures.clone();
    let door = Door::new(node.clone(), responder, door_config);
    let (refused_tx, refused_http) = (tx_listener.refused(), http_listener.refused());
    let (registry, refresh) = metrics.into_registry(refused_tx, refused_http);
    let api = Arc::new(Api {
        node,
        door: door.clone(),
        history: handle,
        access: access.clone(),
        registry,
        refresh,
    });

    let (stop, stopped) = StopHandle::new();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(serve_door(
        door,
        tx_listener,
        certificates.tx().is_none(),
        open_door,
        stopped.clone(),
    ));
    if let Some((auth, mut file)) = auth {
        let look =
            move || -> Result<bool, ConfigError> { Ok(file.changed()?.map(|policy| auth.replace(policy)).is_some()) };
        let failures = reload_failures.clone();
        tasks.spawn(reload::keep(
            "policy",
            look,
            config.reload_every,
            failures,
            stopped.clone(),
        ));
    }
    if let (Some(mut file), Some(access)) = (operators_file, access) {
        let look = move || -> Result<bool, ConfigError> {
            Ok(file.changed()?.map(|operators| access.replace(operators)).is_some())
        };
        let failures = reload_failures.clone();
        tasks.spawn(reload::keep(
            "operators",
            look,
            config.reload_every,
            failures,
            stopped.clone(),
        ));
    }
    if !certificates.are_none() {
        let mut certificates = certificates;
        let look = move || -> Result<bool, ConfigError> { Ok(certificates.changed()?) };
        tasks.spawn(reload::keep(
            "certificates",
            look,
            config.reload_every,
            reload_failures,
            stopped.clone(),
        ));
    }
    tasks.spawn(serve_http(http_listener, http::router(api), stopped));
    tracing::info!(
        node = %config.node, tx = %config.listen_tx, http = %config.listen_http, peer = %config.listen_peer,
        data_dir = %config.data_dir.display(), version = env!("CARGO_PKG_VERSION"), "server started"
    );

    let outcome = tokio::select! {
        biased;
        error = running.failed() => Err(ServerError::Host(error)),
        result = interrupted() => result.map_err(ServerError::Signals),
        () = stdin_closed(), if args.stop_with_stdin => Ok(()),
    };
    tracing::info!("server stopping");
    stop.stop();
    while tasks.join_next().await.is_some() {}
    running.stop().await;
    if let Some((_, thread)) = history {
        // What it has is a second's worth at most.
        let _ = tokio::task::spawn_blocking(|| thread.stop()).await;
    }
    tracing::info!("server stopped");
    outcome
}

/// The policy in force and its file; nothing when clients are what they say.
fn open_auth(config: &Config) -> Result<Option<(Arc<Auth>, PolicyFile)>, ConfigError> {
    let Some(settings) = &config.auth else { return Ok(None) };
    let (file, policy) = PolicyFile::open(&settings.policy)?;
    let auth = AuthConfig {
        rules: settle_auth::Rules {
            signature_age_ms: settings.signature_age.as_millis() as u64,
            signature_ahead_ms: settings.signature_ahead.as_millis() as u64,
            unsigned_beside: settings.unsigned_beside,
        },
        register_within: settings.register_within,
        max_registration_bytes: settings.max_registration_bytes,
    };
    Ok(Some((Auth::new(auth, policy), file)))
}

/// The history in its own folder; nothing for a witness, which applies nothing, or when none is to be kept.
fn open_history(
    config: &Config,
    metrics: &HistoryMetrics,
) -> Result<Option<(HistoryHandle, HistoryThread)>, ServerError> {
    if config.tx.history_max == 0 || config.witness {
        return Ok(None);
    }
    let options = FileDiskOptions {
        kind: config.disk,
        ..FileDiskOptions::default()
    };
    let disk =
        FileDisk::open(&config.data_dir.join("history"), options, || {}).map_err(ServerError::HistoryDirectory)?;
    let bounds = HistoryConfig {
        bytes_max: config.tx.history_max,
        age_max_ms: config.tx.history_age.as_millis() as u64,
    };
    Ok(Some(start_history(disk, bounds, metrics.clone())?))
}

/// The clients' door on its way to the loop's thread.
struct OpenDoor {
    door: Arc<Door>,
    listener: Listener,
    stopped: Stop,
    /// Dropped when the last connection has ended.
    ended: oneshot::Sender<()>,
}

/// Serves Seata clients until told to stop: on the loop's own thread, where a request wakes no other on its way to the
/// log and back; but handshakes would keep the loop from its peers.
async fn serve_door(
    door: Arc<Door>,
    listener: Listener,
    beside_loop: bool,
    open: oneshot::Sender<OpenDoor>,
    stopped: Stop,
) {
    if !beside_loop {
        return door.serve(listener, stopped).await;
    }
    let (ended, end) = oneshot::channel();
    let door = OpenDoor {
        door,
        listener,
        stopped,
        ended,
    };
    if open.send(door).is_ok() {
        // Only ever dropped.
        let _ = end.await;
    }
}

/// The loop's side of [`serve_door`].
async fn serve_beside(opened: oneshot::Receiver<OpenDoor>, mut loop_ends: Stop) {
    // It never comes when handshakes keep it elsewhere.
    let Ok(open) = opened.await else { return };
    tokio::select! {
        biased;
        () = loop_ends.stopped() => {}
        () = open.door.serve(open.listener, open.stopped) => {}
    }
    drop(open.ended);
}

fn start_node(
    config: &Config,
    (peer_listener, peer_tls): (Listener, Option<TlsClient>),
    responder: Responder,
    opened: oneshot::Receiver<OpenDoor>,
    metrics: &ServerMetrics,
) -> Result<(settle_node::NodeHandle<TxGate>, settle_node::RunningNode), ServerError> {
    let mut entropy = [0; 24];
    #[expect(
        clippy::disallowed_methods,
        reason = "this is where the process's randomness comes from"
    )]
    getrandom::fill(&mut entropy).map_err(ServerError::Entropy)?;
    let [seed, run, incarnation] =
        std::array::from_fn(|i| u64::from_le_bytes(entropy[i * 8..][..8].try_into().expect("eight bytes")));

    let nodes = config
        .peers
        .iter()
        .map(|peer| (peer.node, peer.address.clone()))
        .collect();
    let mut host = HostConfig::new(config.node, nodes, seed);
    host.groups = groups_of(config);
    host.tick = config.tick;
    host.election_ticks = ticks(config.election_timeout, config.tick);
    host.heartbeat_ticks = ticks(config.heartbeat_interval, config.tick);
    host.hibernate_after_ticks = ticks(config.hibernate_after, config.tick);
    host.witness = config.witness;
    host.witness_log_bytes_max = config.witness_log_max;
    host.read_lag_max = config.read_lag_max;
    host.state_hash_every = config.state_hash_every;
    host.election_priority = config.election_priority;
    host.leader_moves_per_second = config.leader_moves_per_second;
    host.slow_disk = config.slow_disk;
    host.snapshot_after_bytes = config.snapshot_after_bytes;
    host.snapshot_after = config.snapshot_interval;
    host.log_memory_max = config.log_memory_max;
    host.snapshot_bytes_per_second = config.snapshot_bytes_per_second;
    host.snapshot_write_bytes_per_second = config.snapshot_write_bytes_per_second;
    host.snapshot_resume = config.snapshot_resume;
    host.stage_sample_every = config.stage_sample_every;
    host.build_version = BUILD_VERSION;
    host.auto_replace = config.auto_replace;
    host.wal.segment_bytes = config.wal_segment_bytes;

    let node_config = NodeConfig {
        host,
        data_dir: config.data_dir.clone(),
        disk: FileDiskOptions {
            kind: config.disk,
            ..FileDiskOptions::default()
        },
        peers: config
            .peers
            .iter()
            .map(|peer| PeerAddress {
                node: peer.node,
                address: peer.address.clone(),
            })
            .collect(),
        peer_tls,
        fresh_incarnation: PeerId(incarnation.max(1)),
    };
    let gate = TxGate::new(gate_config(config), run);
    let make_machine = |group: GroupId, cluster: ClusterId| {
        let number = u8::try_from(group.0).expect("transaction groups are numbered 1 to 255");
        TxMachine::new(MachineConfig::for_cluster(number, cluster.0))
    };
    let respond = move |response| responder.respond(response);
    let loop_metrics = (metrics.node_loop.clone(), metrics.peers.clone());
    Ok(settle_node::start_beside(
        node_config,
        peer_listener,
        gate,
        make_machine,
        respond,
        loop_metrics,
        move |_, loop_ends| serve_beside(opened, loop_ends),
    )?)
}

fn ticks(duration: std::time::Duration, tick: std::time::Duration) -> u32 {
    duration.as_millis().div_ceil(tick.as_millis()) as u32
}

/// The transaction groups that a cluster is founded with.
fn groups_of(config: &Config) -> Vec<GroupId> {
    (1..=config.tx.groups).map(GroupId).collect()
}

fn gate_config(config: &Config) -> GateConfig {
    let tx = &config.tx;
    GateConfig {
        xid_prefix: tx.advertise.clone(),
        groups: groups_of(config),
        service_groups: tx.service_groups.clone(),
        reply_hold_rm: tx.reply_hold_rm,
        reply_hold_tm: tx.reply_hold_tm,
        call_timeout: tx.call_timeout,
        max_sessions: tx.max_sessions,
        max_in_flight: tx.max_in_flight,
        max_in_flight_per_session: tx.max_in_flight_per_connection,
        max_resources_per_session: tx.max_resources_per_connection,
        max_branches_per_transaction: tx.max_branches,
        max_open_transactions: tx.max_open as u64,
        max_lock_bytes: settle_base::ByteSize(tx.max_lock_bytes),
        max_lock_key_bytes: settle_base::ByteSize(tx.max_lock_key_bytes as u64),
        max_application_data_bytes: settle_base::ByteSize(tx.max_application_data_bytes as u64),
        lose_decide_every: tx.lose_decide_every,
        tell_ended: tx.history_max > 0,
        lock_held_alert: tx.lock_held_alert,
        driver: DriverConfig {
            backoff_min: tx.retry_min,
            backoff_max: tx.retry_max,
            stuck_after: tx.stuck_after,
            max_calls_per_client: tx.max_calls_per_client,
            // The node that holds the channel gives up first, and says so.
            call_timeout: tx.call_timeout + std::time::Duration::from_secs(2),
            ..DriverConfig::default()
        },
        ..GateConfig::default()
    }
}

/// Serves `router` on `listener` until told to stop.
pub(crate) async fn serve_http(listener: Listener, router: axum::Router, stop: settle_net::Stop) {
    let inner = stop.clone();
    listener
        .serve(stop, move |accepted| {
            let (router, mut stop) = (router.clone(), inner.clone());
            async move {
                let Ok(stream) = accepted.open().await else { return };
                let (reading, writing) = stream.into_split();
                let service = hyper_util::service::TowerToHyperService::new(router);
                let io = hyper_util::rt::TokioIo::new(tokio::io::join(reading, writing));
                // With a timer, a head that never ends is given up after a while.
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(hyper_util::rt::TokioTimer::new())
                    .header_read_timeout(HTTP_HEAD_WITHIN)
                    .serve_connection(io, service);
                tokio::select! {
                    biased;
                    () = stop.stopped() => {}
                    // A client that breaks off is no event.
                    _ = connection.into_future() => {}
                }
            }
        })
        .await;
}

/// Resolves when standard input ends.
pub(crate) async fn stdin_closed() {
    let mut stdin = tokio::io::stdin();
    let mut buffer = [0; 64];
    while stdin.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_become_whole_ticks_never_fewer() {
        use std::time::Duration;
        assert_eq!(ticks(Duration::from_millis(500), Duration::from_millis(50)), 10);
        assert_eq!(ticks(Duration::from_millis(501), Duration::from_millis(50)), 11);
    }
}
