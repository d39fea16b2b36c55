//! What this server recorded of transactions that have ended.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use settle_tx::{EndedBranch, EndedRecord};
use settle_tx_server::{HistoryCursor, HistoryGap, HistorySearch};
use utoipa::{IntoParams, ToSchema};

use super::{
    Api, ApiError,
    extract::{QueryOf, Whole, text_of},
    tx::{id_of, limit_of, status_named, status_schema},
};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryQuery {
    /// Only this one: the number at the end of its xid.
    #[param(pattern = "^[1-9][0-9]{0,17}$")]
    id: Option<String>,
    /// Only those that ended so.
    #[param(schema_with = status_schema)]
    status: Option<String>,
    /// Only those begun by this application.
    #[param(max_length = 1000)]
    application: Option<String>,
    /// Only those with a branch of this resource.
    #[param(max_length = 1000)]
    resource: Option<String>,
    /// Only those that timed out or had to be tried again.
    #[serde(default)]
    troubled: bool,
    /// Only those recorded from then on, in milliseconds since 1970.
    #[param(value_type = Option<u64>, maximum = 9007199254740991_u64)]
    since_ms: Option<Whole>,
    /// Only those recorded before, in milliseconds since 1970.
    #[param(value_type = Option<u64>, maximum = 9007199254740991_u64)]
    until_ms: Option<Whole>,
    /// `next` of the answer before.
    #[param(pattern = "^[0-9]{1,15}[.][0-9]{1,15}$")]
    before: Option<String>,
    /// Transactions at most.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct HistoryJson {
    /// Newest first.
    transactions: Vec<EndedJson>,
    /// Where the search goes on, if it does. A page may have fewer rows than asked for, or none, and yet go on.
    next: Option<String>,
    /// Files of the history of which a part could not be read.
    damaged: u32,
    /// Where transactions may be missing here; the histories of other servers may have them.
    gaps: Vec<GapJson>,
}

/// This server got a group by a snapshot instead of its log: what had ended by then, and is not recorded before, is missing.
#[derive(Serialize, ToSchema)]
struct GapJson {
    group: u8,
    /// Milliseconds since 1970, by this server's clock.
    at_ms: u64,
}

/// A transaction as it ended. Durations are in the group's time.
#[derive(Serialize, ToSchema)]
pub(super) struct EndedJson {
    id: String,
    xid: String,
    status: String,
    application: String,
    service_group: String,
    name: String,
    timeout_ms: u32,
    /// Milliseconds since 1970, by this server's clock when it recorded the end.
    recorded_at_ms: u64,
    /// From its begin to its end.
    took_ms: u64,
    decided_after_ms: Option<u64>,
    branches: Vec<EndedBranchJson>,
}

#[derive(Serialize, ToSchema)]
struct EndedBranchJson {
    branch: String,
    branch_type: String,
    resource: String,
    client: String,
    /// The last that it told; of one that was given up this is no success.
    status: String,
    /// After the transaction's begin.
    registered_after_ms: u32,
    /// After the transaction's begin. `null`: it had nothing to do, or was given up.
    done_after_ms: Option<u32>,
    /// Failures of its second phase that came to the log.
    failures: u16,
    last_failure: Option<String>,
}

pub(super) fn ended_json((recorded_at_ms, record): (u64, EndedRecord)) -> EndedJson {
    let branch = |branch: EndedBranch| EndedBranchJson {
        branch: branch.id.to_string(),
        branch_type: branch.branch_type.to_string(),
        resource: branch.resource,
        client: branch.client,
        status: branch.status.to_string(),
        registered_after_ms: branch.registered_after_ms,
        done_after_ms: branch.done_after_ms,
        failures: branch.failures,
        last_failure: branch.last_failure.map(|status| status.to_string()),
    };
    EndedJson {
        id: record.tid.to_string(),
        xid: record.xid,
        status: record.status.to_string(),
        application: record.application,
        service_group: record.service_group,
        name: record.name,
        timeout_ms: record.timeout_ms,
        recorded_at_ms,
        took_ms: record.ended_at.since(record.begun_at).as_millis() as u64,
        decided_after_ms: record.decided_at.map(|at| at.since(record.begun_at).as_millis() as u64),
        branches: record.branches.into_iter().map(branch).collect(),
    }
}

/// Transactions that have ended, newest first, as far as this server's history reaches back.
#[utoipa::path(get, path = "/v1/tx/history", tag = "transactions", params(HistoryQuery),
    responses((status = 200, body = HistoryJson), ApiError))]
pub(super) async fn history(
    State(api): State<Arc<Api>>,
    QueryOf(query): QueryOf<HistoryQuery>,
) -> Result<Json<HistoryJson>, ApiError> {
    let search = HistorySearch {
        tid: query.id.as_deref().map(|id| id_of("id", id)).transpose()?,
        status: query.status.as_deref().map(status_named).transpose()?,
        application: text_of("application", query.application)?,
        resource: text_of("resource", query.resource)?,
        troubled: query.troubled,
        from_ms: query.since_ms.map(|ms| ms.0),
        until_ms: query.until_ms.map(|ms| ms.0),
        before: query.before.as_deref().map(cursor_of).transpose()?,
        limit: limit_of(query.limit)?,
    };
    let page = api.history.search(search).await?;
    Ok(Json(HistoryJson {
        transactions: page.records.into_iter().map(ended_json).collect(),
        next: page.next.map(|cursor| format!("{}.{}", cursor.segment, cursor.offset)),
        damaged: page.damaged,
        gaps: page.gaps.iter().map(gap_json).collect(),
    }))
}

fn gap_json(gap: &HistoryGap) -> GapJson {
    GapJson {
        group: gap.group,
        at_ms: gap.wall_ms,
    }
}

fn cursor_of(text: &str) -> Result<HistoryCursor, ApiError> {
    let (segment, offset) = text.split_once('.').unwrap_or_default();
    match (segment.parse(), offset.parse()) {
        (Ok(segment), Ok(offset)) => Ok(HistoryCursor { segment, offset }),
        _ => Err(ApiError::bad_request(format!(
            "before=`{text}` is not the `next` of an earlier answer"
        ))),
    }
}
