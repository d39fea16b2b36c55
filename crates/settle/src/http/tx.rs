//! Global transactions as an operator sees them.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use settle_base::GroupId;
use settle_tx::{AuditRecord, BranchId, GlobalStatus, Tid};
use settle_tx_gate::{
    AdminAnswer, AdminRequest, BranchRow, LIST_MAX, LockCursor, LockFilter, LockRowView, ShowFilter, TxFilter, TxRow,
    TxView,
};
use settle_tx_server::HistorySearch;
use utoipa::{
    IntoParams, ToSchema,
    openapi::{Object, ObjectBuilder, schema::Type},
};

use super::{
    Api, ApiError,
    acts::{only_false, only_true},
    extract::{PathOf, QueryOf, Whole, text_of},
    history::{EndedJson, ended_json},
};
use crate::config::parse_duration;

/// Rows in an answer when nothing else is asked for.
const LIMIT: usize = 100;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only those with this status.
    #[param(schema_with = status_schema)]
    status: Option<String>,
    /// Only those begun at least so long ago: a whole number and `ms`, `s`, `m` or `h`.
    #[param(pattern = "^[0-9]{1,9}(ms|s|m|h)$")]
    older_than: Option<String>,
    /// Only those begun by this application.
    #[param(max_length = 1000)]
    application: Option<String>,
    /// Only those with an open branch of this resource.
    #[param(max_length = 1000)]
    resource: Option<String>,
    /// Only of this group; else of all, one after the other.
    #[param(minimum = 1, maximum = 255)]
    group: Option<u64>,
    /// `next` of the answer before.
    #[param(pattern = "^[1-9][0-9]{0,17}$")]
    after: Option<String>,
    /// Rows at most.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct TxListJson {
    transactions: Vec<TxJson>,
    /// Where the list goes on, if it does. A page may have fewer rows than asked for, or none, and yet go on.
    next: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct TxJson {
    /// The number at the end of the xid.
    id: String,
    xid: String,
    status: String,
    application: String,
    service_group: String,
    name: String,
    age_ms: u64,
    timeout_ms: u32,
    open_branches: u32,
    /// An operator said that its branches are not to be called.
    retry_stopped: bool,
}

/// One transaction.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum TxShowJson {
    Open(OpenTxJson),
    Ended(EndedTxJson),
}

/// One that has not ended.
#[derive(Serialize, ToSchema)]
pub(super) struct OpenTxJson {
    id: String,
    status: String,
    #[schema(schema_with = only_false)]
    ended: bool,
    #[schema(schema_with = only_false)]
    evicted: bool,
    /// What operators did to it, oldest first.
    acts: Vec<ActJson>,
    xid: String,
    application: String,
    service_group: String,
    name: String,
    age_ms: u64,
    timeout_ms: u32,
    open_branches: u32,
    retry_stopped: bool,
    branches: Vec<BranchJson>,
    /// Where its branches go on, if they do: `after` of the next request.
    next: Option<String>,
}

/// One that has ended: what is kept of it, and what the history has.
#[derive(Serialize, ToSchema)]
pub(super) struct EndedTxJson {
    id: String,
    status: String,
    #[schema(schema_with = only_true)]
    ended: bool,
    /// It ended longer ago than outcomes are kept; its status is not known any more.
    evicted: bool,
    /// What operators did to it, oldest first.
    acts: Vec<ActJson>,
    /// What this server recorded of it, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<EndedJson>,
}

#[derive(Serialize, ToSchema)]
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

/// An act of an operator that changed something.
#[derive(Serialize, ToSchema)]
struct ActJson {
    /// Counts the group's acts.
    number: u64,
    /// Milliseconds since 1970, by the clock of the server that was asked.
    at_ms: u64,
    /// The transaction; empty when it was no act on one.
    id: String,
    act: String,
    /// Of a release of locks: the branch, and the rows when some were named. Of a move of service groups: from where, to where,
    /// and which.
    subject: String,
    operator: String,
    reason: String,
    /// How the transaction stood afterwards; empty without one.
    status: String,
}

fn tx_json(row: TxRow) -> TxJson {
    TxJson {
        id: row.tid.to_string(),
        xid: row.xid,
        status: row.status.to_string(),
        application: row.application,
        service_group: row.service_group,
        name: row.name,
        age_ms: row.age.as_millis() as u64,
        timeout_ms: row.timeout_ms,
        open_branches: row.open_branches,
        retry_stopped: row.retry_stopped,
    }
}

fn branch_json(row: BranchRow) -> BranchJson {
    BranchJson {
        branch: row.branch.to_string(),
        branch_type: row.branch_type.to_string(),
        resource: row.resource,
        client: row.client,
        status: row.status.to_string(),
        lock_keys: row.lock_keys,
        retrying_for_ms: row.retrying_for.map(|time| time.as_millis() as u64),
        is_open: row.is_open,
    }
}

fn act_json(record: AuditRecord) -> ActJson {
    ActJson {
        number: record.number,
        at_ms: record.at_ms,
        id: record.tid.map(|tid| tid.to_string()).unwrap_or_default(),
        act: record.act.to_string(),
        subject: record.subject.into(),
        operator: record.operator.into(),
        reason: record.reason.into(),
        status: record.tid.map(|_| record.status.to_string()).unwrap_or_default(),
    }
}

/// Transactions that have not ended, oldest first.
#[utoipa::path(get, path = "/v1/tx", tag = "transactions", params(ListQuery),
    responses((status = 200, body = TxListJson), ApiError))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    QueryOf(query): QueryOf<ListQuery>,
) -> Result<Json<TxListJson>, ApiError> {
    let filter = TxFilter {
        group: group_of(query.group)?,
        status: query.status.as_deref().map(status_named).transpose()?,
        older_than: age_of(query.older_than.as_deref())?,
        application: text_of("application", query.application)?,
        resource: text_of("resource", query.resource)?,
        after: query.after.as_deref().map(|id| id_of("after", id)).transpose()?,
        limit: limit_of(query.limit)?,
    };
    match api.door.admin(AdminRequest::ListTx(filter)).await? {
        AdminAnswer::Transactions { rows, next } => Ok(Json(TxListJson {
            transactions: rows.into_iter().map(tx_json).collect(),
            next: next.map(|tid| tid.to_string()),
        })),
        _ => unreachable!("a list is answered by a list"),
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[into_params(parameter_in = Query)]
pub(super) struct ShowQuery {
    /// Only branches after this one: `next` of the answer before.
    #[param(pattern = "^[1-9][0-9]{0,17}$")]
    after: Option<String>,
    /// Branches at most; with long lock keys there are fewer.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// One transaction with its branches and what operators did to it.
#[utoipa::path(get, path = "/v1/tx/{id}", tag = "transactions",
    params(("id" = String, Path, description = "Its xid, or the number at the end of it."), ShowQuery),
    responses((status = 200, body = TxShowJson), ApiError))]
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    PathOf(id): PathOf<String>,
    QueryOf(query): QueryOf<ShowQuery>,
) -> Result<Json<TxShowJson>, ApiError> {
    let filter = ShowFilter {
        id,
        after: query.after.as_deref().map(|id| branch_of("after", id)).transpose()?,
        limit: limit_of(query.limit)?,
    };
    let view = match api.door.admin(AdminRequest::ShowTx(filter)).await? {
        AdminAnswer::Transaction(view) => view,
        _ => unreachable!("one transaction is answered by one"),
    };
    let (tid, status, acts) = match view {
        TxView::Open {
            row,
            branches,
            next,
            acts,
        } => {
            return Ok(Json(TxShowJson::Open(OpenTxJson {
                id: row.tid.to_string(),
                status: row.status.to_string(),
                ended: false,
                evicted: false,
                acts: acts.into_iter().map(act_json).collect(),
                xid: row.xid,
                application: row.application,
                service_group: row.service_group,
                name: row.name,
                age_ms: row.age.as_millis() as u64,
                timeout_ms: row.timeout_ms,
                open_branches: row.open_branches,
                retry_stopped: row.retry_stopped,
                branches: branches.into_iter().map(branch_json).collect(),
                next: next.map(|branch| branch.to_string()),
            })));
        }
        TxView::Ended { tid, status, acts } => (tid, status, acts),
        TxView::Evicted { tid } => (tid, GlobalStatus::Finished, Vec::new()),
    };
    let search = HistorySearch {
        tid: Some(tid),
        limit: 1,
        ..HistorySearch::default()
    };
    // The outcome is told without it; that there is none is no failure.
    let found = api.history.search(search).await.unwrap_or_default();
    Ok(Json(TxShowJson::Ended(EndedTxJson {
        id: tid.to_string(),
        status: status.to_string(),
        ended: true,
        evicted: status == GlobalStatus::Finished,
        acts: acts.into_iter().map(act_json).collect(),
        history: found.records.into_iter().next().map(ended_json),
    })))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[into_params(parameter_in = Query)]
pub(super) struct LocksQuery {
    /// Only of this resource.
    #[param(max_length = 1000)]
    resource: Option<String>,
    /// A table, or `table:pk` for one row.
    #[param(max_length = 1000)]
    row: Option<String>,
    /// Only those that this transaction holds: the number at the end of its xid.
    #[param(pattern = "^[1-9][0-9]{0,17}$")]
    holder: Option<String>,
    /// Only of transactions begun at least so long ago.
    #[param(pattern = "^[0-9]{1,9}(ms|s|m|h)$")]
    older_than: Option<String>,
    /// Only of this group; else of all, one after the other.
    #[param(minimum = 1, maximum = 255)]
    group: Option<u64>,
    /// `next` of the answer before.
    #[param(pattern = "^[1-9][0-9]{0,17}([.][1-9][0-9]{0,17}[.][0-9]{1,9})?$")]
    after: Option<String>,
    /// Rows at most.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct LocksJson {
    locks: Vec<LockJson>,
    /// Where the list goes on, if it does. A page may have fewer rows than asked for, or none, and yet go on.
    next: Option<String>,
}

/// A row as one branch locks it.
#[derive(Serialize, ToSchema)]
struct LockJson {
    resource: String,
    table: String,
    pk: String,
    id: String,
    xid: String,
    branch: String,
    /// Of the transaction.
    status: String,
    /// Since the transaction was begun.
    age_ms: u64,
}

/// The rows that open transactions keep locked.
#[utoipa::path(get, path = "/v1/tx/locks", tag = "transactions", params(LocksQuery),
    responses((status = 200, body = LocksJson), ApiError))]
pub(super) async fn locks(
    State(api): State<Arc<Api>>,
    QueryOf(query): QueryOf<LocksQuery>,
) -> Result<Json<LocksJson>, ApiError> {
    let filter = LockFilter {
        group: group_of(query.group)?,
        resource: text_of("resource", query.resource)?,
        row: text_of("row", query.row)?,
        holder: query.holder.as_deref().map(|id| id_of("holder", id)).transpose()?,
        older_than: age_of(query.older_than.as_deref())?,
        after: query.after.as_deref().map(cursor_of).transpose()?,
        limit: limit_of(query.limit)?,
    };
    let AdminAnswer::Locks { rows, next } = api.door.admin(AdminRequest::Locks(filter)).await? else {
        unreachable!("locks are answered by locks")
    };
    let lock = |row: LockRowView| LockJson {
        resource: row.resource,
        table: row.table,
        pk: row.pk,
        id: row.tid.to_string(),
        xid: row.xid,
        branch: row.branch.to_string(),
        status: row.status.to_string(),
        age_ms: row.age.as_millis() as u64,
    };
    Ok(Json(LocksJson {
        locks: rows.into_iter().map(lock).collect(),
        next: next.and_then(cursor_text),
    }))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
    /// Of this group; else of the first.
    #[param(minimum = 1, maximum = 255)]
    group: Option<u64>,
    /// Only acts with a smaller number.
    #[param(value_type = Option<u64>, maximum = 9007199254740991_u64)]
    before: Option<Whole>,
    /// Acts at most.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

#[derive(Serialize, ToSchema)]
pub(super) struct AuditJson {
    /// Newest first.
    acts: Vec<ActJson>,
}

/// What operators did to transactions, and in the first group to service groups. A group keeps its last 1,024 acts.
#[utoipa::path(get, path = "/v1/tx/audit", tag = "transactions", params(AuditQuery),
    responses((status = 200, body = AuditJson), ApiError))]
pub(super) async fn audit(
    State(api): State<Arc<Api>>,
    QueryOf(query): QueryOf<AuditQuery>,
) -> Result<Json<AuditJson>, ApiError> {
    let request = AdminRequest::Audit {
        group: group_of(query.group)?,
        before: query.before.map(|number| number.0),
        limit: limit_of(query.limit)?,
    };
    let AdminAnswer::Audit(records) = api.door.admin(request).await? else {
        unreachable!("an audit is answered by one")
    };
    let acts = records.into_iter().map(act_json).collect();
    Ok(Json(AuditJson { acts }))
}

pub(super) fn status_schema() -> Object {
    let names = GlobalStatus::ALL.iter().map(|status| status.to_string());
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(names))
        .build()
}

/// A status by the name that Seata gives it.
pub(super) fn status_named(name: &str) -> Result<GlobalStatus, ApiError> {
    let found = GlobalStatus::ALL.iter().find(|status| status.to_string() == name);
    found.copied().ok_or_else(|| {
        let message = format!("status=`{name}` is not a status such as Begin or CommitRetrying");
        ApiError::bad_request(message)
    })
}

fn age_of(text: Option<&str>) -> Result<Duration, ApiError> {
    let Some(text) = text else {
        return Ok(Duration::ZERO);
    };
    parse_duration(text)
        .ok_or_else(|| ApiError::bad_request(format!("older-than=`{text}` is no duration such as 30s or 10m")))
}

pub(super) fn id_of(name: &str, id: &str) -> Result<Tid, ApiError> {
    let tid = id.parse().ok().and_then(Tid::try_from_i64);
    tid.ok_or_else(|| ApiError::bad_request(format!("{name}=`{id}` is no transaction id")))
}

fn cursor_of(text: &str) -> Result<LockCursor, ApiError> {
    let bad = || ApiError::bad_request(format!("after=`{text}` is not the `next` of an earlier answer"));
    let (tid, within) = match text.split_once('.') {
        None => (text, None),
        Some((tid, within)) => (tid, Some(within.split_once('.').ok_or_else(bad)?)),
    };
    let tid = Some(id_of("after", tid)?);
    let Some((branch, rows)) = within else {
        return Ok(LockCursor {
            tid,
            ..LockCursor::default()
        });
    };
    let branch = Some(branch_of("after", branch)?);
    let rows = rows.parse().map_err(|_| bad())?;
    Ok(LockCursor { tid, branch, rows })
}

/// What [`cursor_of`] reads.
fn cursor_text(cursor: LockCursor) -> Option<String> {
    let tid = cursor.tid?;
    Some(match cursor.branch {
        None => tid.to_string(),
        Some(branch) => format!("{tid}.{branch}.{}", cursor.rows),
    })
}

fn branch_of(name: &str, id: &str) -> Result<BranchId, ApiError> {
    let branch = id.parse().ok().and_then(BranchId::try_from_i64);
    branch.ok_or_else(|| ApiError::bad_request(format!("{name}=`{id}` is no branch id")))
}

fn group_of(group: Option<u64>) -> Result<Option<GroupId>, ApiError> {
    match group {
        None => Ok(None),
        Some(group) if (1..=255).contains(&group) => Ok(Some(GroupId(group))),
        Some(group) => Err(ApiError::bad_request(format!("group={group} is not one of 1 to 255"))),
    }
}

pub(super) fn limit_of(limit: Option<usize>) -> Result<usize, ApiError> {
    match limit.unwrap_or(LIMIT) {
        limit if (1..=LIST_MAX).contains(&limit) => Ok(limit),
        limit => Err(ApiError::bad_request(format!(
            "limit={limit} is not one of 1 to {LIST_MAX}"
        ))),
    }
}
