//! The HTTP API: health, metrics, and what operators ask.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{FromRequest, Path, Query, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use settle_base::{ErrorCode, GroupId, NodeId, PeerId, Retryable};
use settle_host::{GROUPS_TOLD, HostStatus, OperatorDone, OperatorError, OperatorRequest};
use settle_node::{NodeHandle, NodeStopped};
use settle_raft::ConfState;
use settle_telemetry::{Clock, prometheus::registry::Registry};
use settle_tx::{GlobalStatus, Tid};
use settle_tx_gate::{AdminAnswer, AdminRequest, BranchRow, TxFilter, TxGate, TxRow, TxView};
use settle_tx_server::{AdminError, Door};

use crate::{config::parse_duration, metrics::Refresh};

mod inspect;

/// Groups that one request may ask about.
const GROUPS_ASKED_MAX: usize = 1_000;

/// What the handlers share.
pub struct Api {
    pub node: NodeHandle<TxGate>,
    pub door: Arc<Door>,
    pub registry: Registry,
    /// Reads what changes by itself into the registry.
    pub refresh: Refresh,
}

pub fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/node", get(node))
        .route("/v1/node/proposals", get(inspect::proposals))
        .route(
            "/v1/cluster/version",
            get(inspect::version).post(inspect::raise_version),
        )
        .route("/v1/node/replace", post(replace))
        .route("/v1/node/transfer-leader", post(transfer_leader))
        .route("/v1/group/reset-members", post(reset_members))
        .route("/v1/group/{id}/transfer-leader", post(transfer_group_leader))
        .route("/v1/group/{id}/snapshot", post(take_snapshot))
        .route("/v1/tx", get(list_tx))
        .route("/v1/tx/{id}", get(show_tx))
        .with_state(api)
}

/// An error as the API tells it.
struct ApiError {
    status: StatusCode,
    code: ErrorCode,
    message: String,
    retryable: Retryable,
}

impl ApiError {
    fn bad_request(message: String) -> ApiError {
        ApiError {
            status: StatusCode::BAD_REQUEST,
            code: ErrorCode::new("AP", 1),
            message,
            retryable: Retryable::No,
        }
    }
}

impl From<NodeStopped> for ApiError {
    fn from(stopped: NodeStopped) -> ApiError {
        ApiError {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: ErrorCode::new("AP", 2),
            message: stopped.to_string(),
            retryable: Retryable::Yes,
        }
    }
}

impl From<AdminError> for ApiError {
    fn from(error: AdminError) -> ApiError {
        let (status, retryable) = match &error {
            AdminError::Gate(gate) => match gate.retryable() {
                Retryable::No => (StatusCode::NOT_FOUND, Retryable::No),
                retryable => (StatusCode::SERVICE_UNAVAILABLE, retryable),
            },
            AdminError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, Retryable::Yes),
            AdminError::TimedOut => (StatusCode::GATEWAY_TIMEOUT, Retryable::Yes),
        };
        ApiError {
            status,
            code: error.code(),
            message: error.to_string(),
            retryable,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = serde_json::json!({
            "code": self.code.to_string(),
            "message": self.message,
            "retryable": self.retryable.to_string(),
        });
        (self.status, Json(body)).into_response()
    }
}

/// A request's JSON. What is wrong with it is told as every other error is.
struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, ApiError> {
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Body(body)),
            Err(rejection) => Err(ApiError::bad_request(rejection.body_text())),
        }
    }
}

async fn healthz(State(api): State<Arc<Api>>) -> Result<&'static str, ApiError> {
    // The loop answers: it turns.
    api.node.inspect(|_| ()).await?;
    Ok("ok\n")
}

async fn readyz(State(api): State<Arc<Api>>) -> Result<&'static str, ApiError> {
    let not_ready = |message: &str| {
        Err(ApiError {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: ErrorCode::new("AP", 3),
            message: message.to_owned(),
            retryable: Retryable::Yes,
        })
    };
    let status = api.node.status().await?;
    if status.cluster.is_none() {
        return not_ready("this server belongs to no cluster yet");
    }
    if status.counts.here == 0 || status.counts.leaderless > 0 {
        return not_ready("a group has no leader that this server knows");
    }
    Ok("ready\n")
}

async fn metrics(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let status = api.node.status().await?;
    let (gate, machine) = api
        .node
        .inspect(|host| {
            (
                host.service().stats(),
                host.machine(GroupId(1)).map(settle_tx::TxMachine::stats),
            )
        })
        .await?;
    (api.refresh)(&status, &gate, machine);
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok((
        [(header::CONTENT_TYPE, content_type)],
        settle_telemetry::render(&api.registry),
    )
        .into_response())
}

#[derive(Serialize)]
struct NodeJson {
    node: u32,
    incarnation: String,
    cluster: Option<String>,
    group_counts: CountsJson,
    /// At most as many as were asked for, from behind the one that was named on.
    groups: Vec<GroupJson>,
    connected: Vec<u32>,
    disk_is_full: bool,
}

#[derive(Serialize)]
struct CountsJson {
    here: usize,
    /// Of those, they count no time and send nothing until something happens.
    resting: usize,
    led: usize,
    leaderless: usize,
}

#[derive(Serialize)]
struct GroupJson {
    group: u64,
    role: &'static str,
    resting: bool,
    /// A change of members is under way: majorities of the old and of the new voters are needed.
    joint: bool,
    leader: Option<u32>,
    term: u64,
    last_index: u64,
    commit_index: u64,
    applied_index: u64,
    members: Vec<MemberJson>,
}

#[derive(Serialize)]
struct MemberJson {
    node: u32,
    incarnation: String,
    address: String,
    role: &'static str,
    /// How far the leader knows this member's log to agree with its own; only a leader knows.
    match_index: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct NodeQuery {
    groups_after: Option<u64>,
    /// With many groups their whole list is long, and the node stands still while it is made.
    groups: Option<usize>,
}

async fn node(State(api): State<Arc<Api>>, Query(query): Query<NodeQuery>) -> Result<Json<NodeJson>, ApiError> {
    let mut status = api.node.status().await?;
    let after = query.groups_after.map(GroupId);
    let limit = query.groups.unwrap_or(GROUPS_TOLD).min(GROUPS_ASKED_MAX);
    if after.is_some() || limit != GROUPS_TOLD {
        let clock = api.node.clock();
        let groups = api
            .node
            .inspect(move |host| host.group_statuses(after, limit, clock.now()));
        status.groups = groups.await?;
    }
    Ok(Json(node_json(&status)))
}

/// What a member of a group is to it.
fn role_of(conf: &ConfState, peer: PeerId) -> &'static str {
    if conf.learners.contains(&peer) {
        "learner"
    } else if conf.is_witness(peer) {
        "witness"
    } else if conf.voters.contains(&peer) {
        "voter"
    } else {
        "voter until the change is complete"
    }
}

fn node_json(status: &HostStatus) -> NodeJson {
    let groups = status.groups.iter().map(|group| {
        let members = group.members.iter().map(|member| MemberJson {
            node: member.node.0,
            incarnation: member.peer.to_string(),
            address: member.address.clone(),
            role: role_of(&group.raft.conf, member.peer),
            match_index: group
                .raft
                .progress
                .iter()
                .find(|p| p.peer == member.peer)
                .map(|p| p.matched),
        });
        GroupJson {
            group: group.group.0,
            role: match group.raft.role {
                settle_raft::Role::Leader => "leader",
                settle_raft::Role::Candidate => "candidate",
                settle_raft::Role::PreCandidate => "pre-candidate",
                settle_raft::Role::Follower => "follower",
            },
            resting: group.is_resting,
            joint: group.raft.conf.is_joint(),
            leader: group.role.leader.map(|node| node.0),
            term: group.raft.term,
            last_index: group.raft.last_index,
            commit_index: group.raft.commit,
            applied_index: group.raft.applied,
            members: members.collect(),
        }
    });
    NodeJson {
        node: status.node.0,
        incarnation: status.incarnation.to_string(),
        cluster: status.cluster.map(|cluster| cluster.to_string()),
        group_counts: CountsJson {
            here: status.counts.here,
            resting: status.counts.here - status.counts.awake,
            led: status.counts.led,
            leaderless: status.counts.leaderless,
        },
        groups: groups.collect(),
        connected: status.peers.iter().map(|(node, ..)| node.0).collect(),
        disk_is_full: status.disk_is_full,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeNumber {
    node: u32,
}

/// What an operator asks of leaders must reach them: here it would be forgotten in silence.
async fn status_of_leader(api: &Api) -> Result<HostStatus, ApiError> {
    let status = api.node.status().await?;
    let elsewhere = status
        .groups
        .iter()
        .find(|group| group.raft.role != settle_raft::Role::Leader);
    let message = match elsewhere {
        Some(group) => {
            let leader = match group.role.leader {
                Some(node) => format!("node {node} does: ask it"),
                None => "nobody does at the moment".to_owned(),
            };
            format!("this server does not lead group {}; {leader}", group.group)
        }
        None if status.counts.led == status.counts.here => return Ok(status),
        None => {
            let counts = status.counts;
            format!("this server leads only {} of {} groups", counts.led, counts.here)
        }
    };
    Err(ApiError {
        status: StatusCode::CONFLICT,
        code: ErrorCode::new("AP", 4),
        message,
        retryable: Retryable::No,
    })
}

async fn replace(
    State(api): State<Arc<Api>>,
    Body(NodeNumber { node }): Body<NodeNumber>,
) -> Result<StatusCode, ApiError> {
    let request = OperatorRequest::ReplaceMember {
        node: NodeId(node),
        at_ms: Clock::wall().as_millis() as u64,
    };
    operate(&api, request).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn transfer_group_leader(
    State(api): State<Arc<Api>>,
    Path(id): Path<u64>,
    Body(NodeNumber { node }): Body<NodeNumber>,
) -> Result<StatusCode, ApiError> {
    let (group, to) = (GroupId(id), NodeId(node));
    operate(&api, OperatorRequest::TransferLeader { group, to }).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn take_snapshot(State(api): State<Arc<Api>>, Path(id): Path<u64>) -> Result<StatusCode, ApiError> {
    let group = GroupId(id);
    operate(&api, OperatorRequest::TakeSnapshot { group }).await?;
    Ok(StatusCode::ACCEPTED)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reset {
    group: u64,
    survivors: Vec<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ResetJson {
    group: u64,
    commit: u64,
    last_index: u64,
    last_term: u64,
    voters: Vec<String>,
    lost: Vec<LostJson>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct LostJson {
    node: u32,
    incarnation: String,
    unconnected_seconds: u64,
}

async fn reset_members(
    State(api): State<Arc<Api>>,
    Body(Reset { group, survivors }): Body<Reset>,
) -> Result<Json<ResetJson>, ApiError> {
    let request = OperatorRequest::ResetMembers {
        group: GroupId(group),
        survivors: survivors.into_iter().map(NodeId).collect(),
    };
    let OperatorDone::Reset(report) = operate(&api, request).await? else {
        unreachable!("a reset is answered by its report");
    };
    let lost = report.lost.iter().map(|lost| LostJson {
        node: lost.node.0,
        incarnation: lost.peer.to_string(),
        unconnected_seconds: lost.unconnected_for.as_secs(),
    });
    Ok(Json(ResetJson {
        group,
        commit: report.window.commit,
        last_index: report.window.last,
        last_term: report.window.last_term,
        voters: report.voters.iter().map(|peer| peer.to_string()).collect(),
        lost: lost.collect(),
    }))
}

async fn operate(api: &Api, request: OperatorRequest) -> Result<OperatorDone, ApiError> {
    api.node.operate(request).await?.map_err(|refused| ApiError {
        status: match refused {
            OperatorError::UnknownGroup { .. } | OperatorError::UnknownMember { .. } => StatusCode::NOT_FOUND,
            _ => StatusCode::CONFLICT,
        },
        code: refused.code(),
        message: match std::error::Error::source(&refused) {
            Some(source) => format!("{refused}: {source}"),
            None => refused.to_string(),
        },
        retryable: refused.retryable(),
    })
}

async fn transfer_leader(
    State(api): State<Arc<Api>>,
    Body(NodeNumber { node }): Body<NodeNumber>,
) -> Result<StatusCode, ApiError> {
    status_of_leader(&api).await?;
    let groups = api.node.inspect(|host| host.group_ids().collect::<Vec<_>>());
    for group in groups.await? {
        let to = NodeId(node);
        operate(&api, OperatorRequest::TransferLeader { group, to }).await?;
    }
    Ok(StatusCode::ACCEPTED)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ListQuery {
    status: Option<String>,
    older_than: Option<String>,
    after: Option<i64>,
    #[serde(default)]
    limit: usize,
}

#[derive(Serialize)]
struct TxJson {
    xid: String,
    status: String,
    application: String,
    service_group: String,
    name: String,
    age_ms: u64,
    timeout_ms: u32,
    open_branches: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    branches: Option<Vec<BranchJson>>,
}

#[derive(Serialize)]
struct BranchJson {
    branch: String,
    branch_type: String,
    resource: String,
    client: String,
    status: String,
    lock_keys: String,
    retrying_for_ms: Option<u64>,
    is_open: bool,
}

fn tx_json(row: TxRow, branches: Option<Vec<BranchRow>>) -> TxJson {
    let branch = |row: BranchRow| BranchJson {
        branch: row.branch.to_string(),
        branch_type: format!("{:?}", row.branch_type),
        resource: row.resource,
        client: row.client,
        status: format!("{:?}", row.status),
        lock_keys: row.lock_keys,
        retrying_for_ms: row.retrying_for.map(|time| time.as_millis() as u64),
        is_open: row.is_open,
    };
    TxJson {
        xid: row.xid,
        status: format!("{:?}", row.status),
        application: row.application,
        service_group: row.service_group,
        name: row.name,
        age_ms: row.age.as_millis() as u64,
        timeout_ms: row.timeout_ms,
        open_branches: row.open_branches,
        branches: branches.map(|rows| rows.into_iter().map(branch).collect()),
    }
}

async fn list_tx(
    State(api): State<Arc<Api>>,
    Query(query): Query<ListQuery>,
) -> Result<Json<serde_json::Value>, ApiError> {
    let filter = TxFilter {
        group: None,
        status: query.status.as_deref().map(status_named).transpose()?,
        older_than: match &query.older_than {
            None => Duration::ZERO,
            Some(text) => parse_duration(text).ok_or_else(|| {
                ApiError::bad_request(format!("older-than=`{text}` is no duration such as 30s or 10m"))
            })?,
        },
        after: match query.after {
            None => None,
            Some(id) => {
                let tid = Tid::try_from_i64(id);
                Some(tid.ok_or_else(|| ApiError::bad_request(format!("after={id} is no transaction id")))?)
            }
        },
        limit: query.limit,
    };
    match api.door.admin(AdminRequest::ListTx(filter)).await? {
        AdminAnswer::Transactions { rows, next } => {
            let rows: Vec<TxJson> = rows.into_iter().map(|row| tx_json(row, None)).collect();
            Ok(Json(
                serde_json::json!({ "transactions": rows, "next": next.map(|tid| tid.to_string()) }),
            ))
        }
        _ => unreachable!("a list is answered by a list"),
    }
}

/// A status by the name that Seata gives it, in any case.
fn status_named(name: &str) -> Result<GlobalStatus, ApiError> {
    let known = (0..=20u8).filter_map(|code| GlobalStatus::try_from(code).ok());
    known
        .into_iter()
        .find(|status| format!("{status:?}").eq_ignore_ascii_case(name))
        .ok_or_else(|| {
            ApiError::bad_request(format!(
                "status=`{name}` is not a status such as Begin or CommitRetrying"
            ))
        })
}

async fn show_tx(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<serde_json::Value>, ApiError> {
    let view = match api.door.admin(AdminRequest::ShowTx { id }).await? {
        AdminAnswer::Transaction(view) => view,
        _ => unreachable!("one transaction is answered by one"),
    };
    Ok(Json(match view {
        TxView::Open { row, branches } => serde_json::to_value(tx_json(row, Some(branches))).unwrap_or_default(),
        TxView::Ended { tid, status } => {
            serde_json::json!({ "id": tid.to_string(), "status": format!("{status:?}"), "ended": true })
        }
        TxView::Evicted { tid } => {
            serde_json::json!({ "id": tid.to_string(), "status": "Finished", "ended": true, "evicted": true })
        }
    }))
}
