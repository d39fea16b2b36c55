//! Single groups of this server.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use settle_base::{GroupId, NodeId};
use settle_host::{OperatorDone, OperatorError, OperatorRequest};
use utoipa::ToSchema;

use super::{
    Api, ApiError,
    extract::{Body, PathOf, Whole},
    node::NodeNumber,
};

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
