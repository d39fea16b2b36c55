use std::collections::BTreeMap;

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use settle_base::{ErrorCode, Retryable};
use settle_node::NodeStopped;
use settle_tx::TxError;
use settle_tx_gate::GateError;
use settle_tx_server::{AdminError, HistoryError};
use utoipa::{
    IntoResponses, ToSchema,
    openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder, response::Response as Described},
};

/// An error as the API tells it.
pub(super) struct ApiError {
    pub status: StatusCode,
    pub code: ErrorCode,
    pub message: String,
    pub retryable: Retryable,
}

/// What every answer that is no success says.
#[derive(Serialize, ToSchema)]
pub(super) struct ErrorJson {
    /// Stable; explained in `docs/errors/`.
    code: String,
    message: String,
    /// Whether the same request can succeed later: `yes`, `no`, or `unknown` when this one may have been done.
    retryable: String,
}

impl ApiError {
    pub fn bad_request(message: String) -> ApiError {
        ApiError {
            status: StatusCode::BAD_REQUEST,
            code: ErrorCode::new("AP", 1),
            message,
            retryable: Retryable::No,
        }
    }

    pub fn unknown_path() -> ApiError {
        ApiError {
            status: StatusCode::NOT_FOUND,
            code: ErrorCode::new("AP", 5),
            message: "there is nothing at this path; `/v1/openapi.json` lists what there is".to_owned(),
            retryable: Retryable::No,
        }
    }

    pub fn wrong_method() -> ApiError {
        ApiError {
            status: StatusCode::METHOD_NOT_ALLOWED,
            code: ErrorCode::new("AP", 6),
            message: "this path does not take this method; `/v1/openapi.json` lists those it takes".to_owned(),
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
            AdminError::Gate(gate) => (status_of(gate), gate.retryable()),
            AdminError::Machine(error) => (status_of_refusal(error), error.retryable()),
            AdminError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, Retryable::Yes),
            AdminError::TimedOut => (StatusCode::GATEWAY_TIMEOUT, Retryable::Unknown),
        };
        ApiError {
            status,
            code: error.code(),
            message: error.to_string(),
            retryable,
        }
    }
}

impl From<HistoryError> for ApiError {
    fn from(error: HistoryError) -> ApiError {
        ApiError {
            status: match error {
                HistoryError::Off => StatusCode::NOT_FOUND,
                HistoryError::Busy | HistoryError::Disk(_) | HistoryError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            },
            code: error.code(),
            message: error.to_string(),
            retryable: error.retryable(),
        }
    }
}

fn status_of(error: &GateError) -> StatusCode {
    match (error, error.retryable()) {
        (_, Retryable::Yes) => StatusCode::SERVICE_UNAVAILABLE,
        (_, Retryable::Unknown) => StatusCode::GATEWAY_TIMEOUT,
        (
            GateError::TextTooLong { .. }
            | GateError::NotSigned { .. }
            | GateError::NotClaimed { .. }
            | GateError::NameTooLong { .. }
            | GateError::ServiceGroupCount { .. }
            | GateError::PartTooLarge { .. },
            _,
        ) => StatusCode::BAD_REQUEST,
        (GateError::VersionTooLow { .. }, _) => StatusCode::CONFLICT,
        _ => StatusCode::NOT_FOUND,
    }
}

fn status_of_refusal(error: &TxError) -> StatusCode {
    match (error, error.retryable()) {
        (_, Retryable::Yes) => StatusCode::SERVICE_UNAVAILABLE,
        (_, Retryable::Unknown) => StatusCode::GATEWAY_TIMEOUT,
        (TxError::BadLockKey { .. } | TxError::BadPart { .. }, _) => StatusCode::BAD_REQUEST,
        (TxError::UnknownXid { .. } | TxError::OutcomeEvicted { .. } | TxError::UnknownBranch { .. }, _) => {
            StatusCode::NOT_FOUND
        }
        _ => StatusCode::CONFLICT,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorJson {
            code: self.code.to_string(),
            message: self.message,
            retryable: self.retryable.to_string(),
        };
        (self.status, Json(body)).into_response()
    }
}

impl IntoResponses for ApiError {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let body = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name("ErrorJson")))
            .build();
        let described = ResponseBuilder::new()
            .description("It was not done; `retryable` says whether that is certain.")
            .content("application/json", body);
        BTreeMap::from([("default".to_owned(), described.build().into())])
    }
}
