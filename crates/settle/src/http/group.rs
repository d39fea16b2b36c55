//! Single groups of this server.

use std::sync::Arc;

use axum::{
    Json,
    body::{Body as HttpBody, to_bytes},
    extract::{Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use settle_base::{ErrorCode, GroupId, NodeId, Retryable};
use settle_host::{OperatorDone, OperatorError, OperatorRequest};
use settle_telemetry::Clock;
use settle_tx::{APPLY_VERSION, RESTORE_PART_MAX, TxError};
use settle_tx_gate::{AdminAnswer, AdminRequest, GateError, TxFilter};
use settle_tx_server::AdminError;
use tokio::sync::{Semaphore, SemaphorePermit};
use utoipa::ToSchema;

use super::{
    Api, ApiError,
    extract::{Body, PathOf, Whole},
    node::NodeNumber,
};
use crate::backup::{BackupBody, BackupHead};

/// Hands the leadership of a group to a server.
#[utoipa::path(post, path = "/v1/group/{id}/transfer-leader", tag = "group", params(("id" = u64, Path, maximum = 9007199254740991_u64)), request_body = NodeNumber, responses((status = 202, description = "It is begun."), ApiError))]
pub(super) async fn transfer_group_leader(
    State(api): State<Arc<Api>>,
    PathOf(id): PathOf<u64>,
    Body(number): Body<NodeNumber>,
) -> Result<StatusCode, ApiError> {
    let (group, to) = (GroupId(id), number.node()?);
    operate(&api, OperatorRequest::TransferLeader { group, to }).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Takes a snapshot of this server's replica.
#[utoipa::path(post, path = "/v1/group/{id}/snapshot", tag = "group", params(("id" = u64, Path, maximum = 9007199254740991_u64)), responses((status = 202, description = "It is begun."), ApiError))]
pub(super) async fn take_snapshot(
    State(api): State<Arc<Api>>,
    PathOf(id): PathOf<u64>,
) -> Result<StatusCode, ApiError> {
    let group = GroupId(id);
    operate(&api, OperatorRequest::TakeSnapshot { group }).await?;
    Ok(StatusCode::ACCEPTED)
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Reset {
    #[schema(value_type = u64, maximum = 9007199254740991_u64)]
    group: Whole,
    /// The servers that are left, this one among them.
    #[schema(min_items = 1, max_items = 63)]
    #[schema(value_type = Vec<u32>)]
    survivors: Vec<Whole>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) struct ResetJson {
    group: u64,
    commit: u64,
    last_index: u64,
    last_term: u64,
    voters: Vec<String>,
    lost: Vec<LostJson>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
struct LostJson {
    node: u32,
    incarnation: String,
    unconnected_seconds: u64,
}

/// Goes on with the survivors of a group that lost a majority for good.
#[utoipa::path(post, path = "/v1/group/reset-members", tag = "group", request_body = Reset, responses((status = 200, body = ResetJson), ApiError))]
pub(super) async fn reset_members(
    State(api): State<Arc<Api>>,
    Body(Reset { group, survivors }): Body<Reset>,
) -> Result<Json<ResetJson>, ApiError> {
    let request = OperatorRequest::ResetMembers {
        group: GroupId(group.0),
        survivors: survivors
            .into_iter()
            .map(|node| Ok(NodeId(node.up_to("survivors", u64::from(u32::MAX))? as u32)))
            .collect::<Result<_, ApiError>>()?,
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
        group: group.0,
        commit: report.window.commit,
        last_index: report.window.last,
        last_term: report.window.last_term,
        voters: report.voters.iter().map(|peer| peer.to_string()).collect(),
        lost: lost.collect(),
    }))
}

/// One backup is given, or one part of one taken, at a time on a server.
static BACKUPS: Semaphore = Semaphore::const_new(1);

fn alone() -> Result<SemaphorePermit<'static>, ApiError> {
    BACKUPS.try_acquire().map_err(|_| ApiError {
        status: StatusCode::SERVICE_UNAVAILABLE,
        code: ErrorCode::new("AP", 7),
        message: "this server is giving or taking another backup".to_owned(),
        retryable: Retryable::Yes,
    })
}

/// A backup of a group of transactions, no older than this request. The file of `settle ctl backup`.
#[utoipa::path(get, path = "/v1/group/{id}/backup", tag = "group", params(("id" = u64, Path, minimum = 1, maximum = 255)), responses((status = 200, body = String, content_type = "application/octet-stream"), ApiError))]
pub(super) async fn backup(State(api): State<Arc<Api>>, PathOf(id): PathOf<u64>) -> Result<Response, ApiError> {
    let group = GroupId(id);
    let permit = alone()?;
    // Answered from a replica that has all that was decided before: what is looked at below is no older.
    let filter = TxFilter {
        group: Some(group),
        limit: 1,
        ..TxFilter::default()
    };
    api.door.admin(AdminRequest::ListTx(filter)).await?;
    let status = api.node.status().await?;
    let (node, cluster) = (
        status.node.0,
        status.cluster.map(|id| id.to_string()).unwrap_or_default(),
    );
    let found = api.node.inspect(move |host| {
        let machine = host.machine(group)?;
        let head = BackupHead {
            group: group.0,
            cluster,
            node,
            index: machine.index(),
            apply_version: APPLY_VERSION,
            settle: env!("CARGO_PKG_VERSION").to_owned(),
            taken_at_ms: Clock::wall().as_millis() as u64,
            open_transactions: machine.open_count(),
        };
        Some((!machine.is_being_restored()).then(|| (head, machine.begin_backup())))
    });
    let (head, parts) = match found.await? {
        Some(Some(found)) => found,
        Some(None) => return Err(AdminError::Machine(TxError::BeingRestored).into()),
        None => return Err(AdminError::Gate(GateError::UnknownGroup { group }).into()),
    };
    let body = HttpBody::new(BackupBody::new(&head, parts, permit));
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], body).into_response())
}

#[derive(Serialize, ToSchema)]
pub(super) struct RestoredJson {
    /// So many parts of the backup have been taken in.
    parts: u64,
    /// This was the last.
    done: bool,
}

/// Brings the next part of a backup into a group that has never begun anything.
#[utoipa::path(post, path = "/v1/group/{id}/restore", tag = "group", params(("id" = u64, Path, minimum = 1, maximum = 255)), request_body(content = String, content_type = "application/octet-stream"), responses((status = 200, body = RestoredJson), ApiError))]
pub(super) async fn restore(
    State(api): State<Arc<Api>>,
    PathOf(id): PathOf<u64>,
    request: Request,
) -> Result<Json<RestoredJson>, ApiError> {
    let _alone = alone()?;
    let part = to_bytes(request.into_body(), RESTORE_PART_MAX).await;
    let part = part.map_err(|error| ApiError {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        ..ApiError::bad_request(format!("the part cannot be read: {error}"))
    })?;
    let group = GroupId(id);
    match api.door.admin(AdminRequest::Restore { group, part }).await? {
        AdminAnswer::Restored { parts, is_done } => Ok(Json(RestoredJson { parts, done: is_done })),
        _ => unreachable!("a part is answered by how far the restore has come"),
    }
}

/// What the host is asked to do, and its refusal as the API tells it.
pub(super) async fn operate(api: &Api, request: OperatorRequest) -> Result<OperatorDone, ApiError> {
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
