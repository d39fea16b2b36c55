//! What operators do to transactions. Each act comes to the log with who does it and why.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use settle_telemetry::Clock;
use settle_tx::{BranchId, OperatorAct, Signed};
use settle_tx_gate::{AdminAnswer, AdminRequest, OperatorRequest};
use utoipa::{
    ToSchema,
    openapi::{Object, ObjectBuilder, schema::Type},
};

use super::{
    Api, ApiError,
    access::Asker,
    extract::{Body, PathOf},
};

/// Who acts and why.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SignedJson {
    #[schema(max_length = 64, pattern = "[^\\u0000-\\u0020\\u007f-\\u00a0]")]
    operator: String,
    #[schema(max_length = 512, pattern = "[^\\u0000-\\u0020\\u007f-\\u00a0]")]
    reason: String,
}

/// Who acts and why, and the claim that the branches are settled.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ForgetJson {
    #[schema(max_length = 64, pattern = "[^\\u0000-\\u0020\\u007f-\\u00a0]")]
    operator: String,
    #[schema(max_length = 512, pattern = "[^\\u0000-\\u0020\\u007f-\\u00a0]")]
    reason: String,
    /// Without this claim nothing is done.
    #[schema(schema_with = only_true)]
    branch_is_settled: bool,
}

/// Who acts and why, on what, and the claim that the branch is settled.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReleaseLockJson {
    #[schema(max_length = 64, pattern = "[^\\u0000-\\u0020\\u007f-\\u00a0]")]
    operator: String,
    #[schema(max_length = 512, pattern = "[^\\u0000-\\u0020\\u007f-\\u00a0]")]
    reason: String,
    /// Without this claim nothing is done.
    #[schema(schema_with = only_true)]
    branch_is_settled: bool,
    #[schema(pattern = "^[1-9][0-9]{0,17}$")]
    branch: String,
    /// `table:pk,pk;table2:pk`; all rows of the branch when it is missing. Rows that it does not lock are passed over.
    #[serde(default)]
    #[schema(max_length = 1000, pattern = "^([^:;,]+:[^;]*(;[^:;,]+:[^;]*)*)?$")]
    rows: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct OperatedJson {
    /// How the transaction stands now.
    status: String,
    /// Whether this request changed anything; not when it was done already.
    acted: bool,
}

/// In the description: this and nothing else.
pub(super) fn only_true() -> Object {
    only(true)
}

pub(super) fn only_false() -> Object {
    only(false)
}

fn only(value: bool) -> Object {
    ObjectBuilder::new()
        .schema_type(Type::Boolean)
        .enum_values(Some([value]))
        .build()
}

/// Commits a transaction that nobody has decided.
#[utoipa::path(post, path = "/v1/tx/{id}/commit", tag = "acts", params(("id" = String, Path)),
    request_body = SignedJson, responses((status = 200, body = OperatedJson), ApiError))]
pub(super) async fn commit(
    state: State<Arc<Api>>,
    asker: Asker,
    PathOf(id): PathOf<String>,
    Body(signed): Body<SignedJson>,
) -> Result<Json<OperatedJson>, ApiError> {
    plain(state, id, OperatorAct::Commit, asker, signed).await
}

/// Rolls back a transaction that nobody has decided.
#[utoipa::path(post, path = "/v1/tx/{id}/rollback", tag = "acts", params(("id" = String, Path)),
    request_body = SignedJson, responses((status = 200, body = OperatedJson), ApiError))]
pub(super) async fn rollback(
    state: State<Arc<Api>>,
    asker: Asker,
    PathOf(id): PathOf<String>,
    Body(signed): Body<SignedJson>,
) -> Result<Json<OperatedJson>, ApiError> {
    plain(state, id, OperatorAct::Rollback, asker, signed).await
}

/// Stops calling the branches of a decided transaction.
#[utoipa::path(post, path = "/v1/tx/{id}/stop-retry", tag = "acts", params(("id" = String, Path)),
    request_body = SignedJson, responses((status = 200, body = OperatedJson), ApiError))]
pub(super) async fn stop_retry(
    state: State<Arc<Api>>,
    asker: Asker,
    PathOf(id): PathOf<String>,
    Body(signed): Body<SignedJson>,
) -> Result<Json<OperatedJson>, ApiError> {
    plain(state, id, OperatorAct::StopRetry, asker, signed).await
}

/// Calls the branches of a decided transaction again, those that had failed for good too.
#[utoipa::path(post, path = "/v1/tx/{id}/resume-retry", tag = "acts", params(("id" = String, Path)),
    request_body = SignedJson, responses((status = 200, body = OperatedJson), ApiError))]
pub(super) async fn resume_retry(
    state: State<Arc<Api>>,
    asker: Asker,
    PathOf(id): PathOf<String>,
    Body(signed): Body<SignedJson>,
) -> Result<Json<OperatedJson>, ApiError> {
    plain(state, id, OperatorAct::ResumeRetry, asker, signed).await
}

/// Ends a decided transaction as it was decided, whatever its branches said.
#[utoipa::path(post, path = "/v1/tx/{id}/forget", tag = "acts", params(("id" = String, Path)),
    request_body = ForgetJson, responses((status = 200, body = OperatedJson), ApiError))]
pub(super) async fn forget(
    State(api): State<Arc<Api>>,
    asker: Asker,
    PathOf(id): PathOf<String>,
    Body(body): Body<ForgetJson>,
) -> Result<Json<OperatedJson>, ApiError> {
    let ForgetJson {
        operator,
        reason,
        branch_is_settled,
    } = body;
    let signed = SignedJson { operator, reason };
    operate(&api, id, OperatorAct::Forget, asker, signed, branch_is_settled).await
}

/// Frees rows that a branch of a transaction which rolls back still keeps locked.
#[utoipa::path(post, path = "/v1/tx/{id}/release-lock", tag = "acts", params(("id" = String, Path)),
    request_body = ReleaseLockJson, responses((status = 200, body = OperatedJson), ApiError))]
pub(super) async fn release_lock(
    State(api): State<Arc<Api>>,
    asker: Asker,
    PathOf(id): PathOf<String>,
    Body(body): Body<ReleaseLockJson>,
) -> Result<Json<OperatedJson>, ApiError> {
    let branch = body.branch.parse().ok().and_then(BranchId::try_from_i64);
    let branch = branch.ok_or_else(|| ApiError::bad_request(format!("`{}` is no branch id", body.branch)))?;
    let act = OperatorAct::ReleaseLock {
        branch,
        rows: body.rows,
    };
    let signed = SignedJson {
        operator: body.operator,
        reason: body.reason,
    };
    operate(&api, id, act, asker, signed, body.branch_is_settled).await
}

async fn plain(
    State(api): State<Arc<Api>>,
    id: String,
    act: OperatorAct<String>,
    asker: Asker,
    signed: SignedJson,
) -> Result<Json<OperatedJson>, ApiError> {
    operate(&api, id, act, asker, signed, false).await
}

async fn operate(
    api: &Api,
    id: String,
    act: OperatorAct<String>,
    Asker(asker): Asker,
    signed: SignedJson,
    claims_settled: bool,
) -> Result<Json<OperatedJson>, ApiError> {
    let request = OperatorRequest {
        id,
        act,
        signed: Signed {
            // Who has shown who he is signs with that, and not with what he says.
            operator: asker.unwrap_or(signed.operator),
            reason: signed.reason,
            at_ms: Clock::wall().as_millis() as u64,
        },
        claims_settled,
    };
    match api.door.admin(AdminRequest::Operate(request)).await? {
        AdminAnswer::Operated { status, acted } => Ok(Json(OperatedJson {
            status: status.to_string(),
            acted,
        })),
        _ => unreachable!("an act is answered by its outcome"),
    }
}
