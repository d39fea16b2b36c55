//! Where service groups begin their transactions, and moves of them between the transaction groups.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use settle_base::GroupId;
use settle_telemetry::Clock;
use settle_tx::{MOVE_NAMES_MAX, SERVICE_GROUP_BYTES_MAX, Signed, Stage};
use settle_tx_gate::{AdminAnswer, AdminRequest, MoveRow, MoveWaits, ServiceGroupRow};
use utoipa::{
    ToSchema,
    openapi::{
        ObjectBuilder,
        schema::{Array, ArrayBuilder, Type},
    },
};

use super::{
    Api, ApiError,
    access::Asker,
    extract::{Body, Whole},
};

/// Characters of a service group's name, at most.
pub(super) const NAME_CHARS_MAX: usize = 256;
const _: () = assert!(4 * NAME_CHARS_MAX == SERVICE_GROUP_BYTES_MAX);

#[derive(Serialize, ToSchema)]
pub(super) struct ServiceGroupsJson {
    /// Those that were ever moved, and those that the configuration of the asked server names. All others begin in the first
    /// group.
    service_groups: Vec<ServiceGroupJson>,
    /// Moves that have not ended, oldest first.
    moves: Vec<MoveJson>,
}

#[derive(Serialize, ToSchema)]
struct ServiceGroupJson {
    service_group: String,
    /// The transaction group in which its transactions begin.
    group: u64,
    /// The move that brought it there; 0 when it is there by the configuration.
    by_move: u64,
    /// The move that it is on.
    moving: Option<u64>,
}

#[derive(Serialize, ToSchema)]
struct MoveJson {
    number: u64,
    service_groups: Vec<String>,
    from: u64,
    to: u64,
    cancelled: bool,
    age_ms: u64,
    /// How far the group that it leaves is: `open`, `closed` to what begins, or `drained` of what was open.
    stage: String,
    /// Transactions that have to end before it goes on, as far as the asked server knows.
    transactions_left: u64,
    /// What it waits for: `transactions`, a `step` that is on its way, a `replica` of a group that the asked server has not,
    /// or the cluster `version` of a group.
    waits_for: String,
    /// The group of which a replica or a version is waited for.
    waits_for_group: Option<u64>,
}

/// Who moves which service groups where, and why.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MoveBody {
    #[schema(max_length = 64, pattern = "[^\\u0000-\\u0020\\u007f-\\u00a0]")]
    operator: String,
    #[schema(max_length = 512, pattern = "[^\\u0000-\\u0020\\u007f-\\u00a0]")]
    reason: String,
    #[schema(schema_with = names_schema)]
    service_groups: Vec<String>,
    /// The transaction group to which they go.
    #[schema(value_type = u64, minimum = 1, maximum = 255)]
    to: Whole,
}

/// Who takes a move back, and why.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CancelBody {
    #[schema(max_length = 64, pattern = "[^\\u0000-\\u0020\\u007f-\\u00a0]")]
    operator: String,
    #[schema(max_length = 512, pattern = "[^\\u0000-\\u0020\\u007f-\\u00a0]")]
    reason: String,
    /// One that is on the move.
    #[schema(min_length = 1, max_length = 256)]
    service_group: String,
}

#[derive(Serialize, ToSchema)]
pub(super) struct MovingJson {
    /// Of the move.
    number: u64,
    /// Whether this request changed anything; not when it was done already.
    acted: bool,
}

/// Where service groups begin their transactions, and how far those are that move.
#[utoipa::path(get, path = "/v1/tx/service-groups", tag = "transactions",
    responses((status = 200, body = ServiceGroupsJson), ApiError))]
pub(super) async fn service_groups(State(api): State<Arc<Api>>) -> Result<Json<ServiceGroupsJson>, ApiError> {
    match api.door.admin(AdminRequest::ServiceGroups).await? {
        AdminAnswer::ServiceGroups { rows, moves } => Ok(Json(ServiceGroupsJson {
            service_groups: rows.into_iter().map(row_json).collect(),
            moves: moves.into_iter().map(move_json).collect(),
        })),
        _ => unreachable!("a list is answered by a list"),
    }
}

/// Moves service groups to another transaction group, all of them at once, when what they have open has ended.
#[utoipa::path(post, path = "/v1/tx/service-groups/move", tag = "acts", request_body = MoveBody,
    responses((status = 200, body = MovingJson), ApiError))]
pub(super) async fn move_to(
    State(api): State<Arc<Api>>,
    asker: Asker,
    Body(body): Body<MoveBody>,
) -> Result<Json<MovingJson>, ApiError> {
    let to = body.to.up_to("to", 255)?;
    if to == 0 {
        return Err(ApiError::bad_request("to=0 is not one of 1 to 255".to_owned()));
    }
    body.service_groups.iter().try_for_each(|name| check_name(name))?;
    let request = AdminRequest::MoveServiceGroups {
        names: body.service_groups,
        to: GroupId(to),
        signed: signed(asker, body.operator, body.reason),
    };
    act(&api, request).await
}

/// Takes back the move that a service group is on. When its old group was drained already, the move goes on to its end.
#[utoipa::path(post, path = "/v1/tx/service-groups/cancel", tag = "acts", request_body = CancelBody,
    responses((status = 200, body = MovingJson), ApiError))]
pub(super) async fn cancel(
    State(api): State<Arc<Api>>,
    asker: Asker,
    Body(body): Body<CancelBody>,
) -> Result<Json<MovingJson>, ApiError> {
    check_name(&body.service_group)?;
    let request = AdminRequest::CancelMove {
        name: body.service_group,
        signed: signed(asker, body.operator, body.reason),
    };
    act(&api, request).await
}

fn names_schema() -> Array {
    let name = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(NAME_CHARS_MAX));
    ArrayBuilder::new()
        .items(name)
        .description(Some(
            "They move together. Applications that change the same tables belong in one move.",
        ))
        .min_items(Some(1))
        .max_items(Some(MOVE_NAMES_MAX))
        .build()
}

fn check_name(name: &str) -> Result<(), ApiError> {
    match name.chars().count() {
        chars if chars > NAME_CHARS_MAX => Err(ApiError::bad_request(format!(
            "a service group has no more than {NAME_CHARS_MAX} characters"
        ))),
        _ => Ok(()),
    }
}

async fn act(api: &Api, request: AdminRequest) -> Result<Json<MovingJson>, ApiError> {
    match api.door.admin(request).await? {
        AdminAnswer::Moving { epoch, acted } => Ok(Json(MovingJson { number: epoch, acted })),
        _ => unreachable!("an act is answered by its outcome"),
    }
}

fn signed(Asker(asker): Asker, operator: String, reason: String) -> Signed<String> {
    Signed {
        // Who has shown who he is signs with that, and not with what he says.
        operator: asker.unwrap_or(operator),
        reason,
        at_ms: Clock::wall().as_millis() as u64,
    }
}

fn row_json(row: ServiceGroupRow) -> ServiceGroupJson {
    ServiceGroupJson {
        service_group: row.service_group,
        group: row.group.0,
        by_move: row.epoch,
        moving: row.moving,
    }
}

fn move_json(row: MoveRow) -> MoveJson {
    let (waits_for, group) = match row.waits {
        MoveWaits::Transactions => ("transactions", None),
        MoveWaits::Replica(group) => ("replica", Some(group)),
        MoveWaits::Version(group) => ("version", Some(group)),
        MoveWaits::Step => ("step", None),
    };
    let stage = match row.stage {
        Stage::Open => "open",
        Stage::Closed => "closed",
        Stage::Drained => "drained",
    };
    MoveJson {
        number: row.epoch,
        service_groups: row.service_groups,
        from: row.from.0,
        to: row.to.0,
        cancelled: row.is_cancelled,
        age_ms: row.age.as_millis() as u64,
        stage: stage.to_owned(),
        transactions_left: row.transactions_left,
        waits_for: waits_for.to_owned(),
        waits_for_group: group.map(|group| group.0),
    }
}
