//! The HTTP API: health, metrics, and what operators ask and do.
//!
//! Every route is described where it is handled, and the description and the router are made of the same list: the
//! OpenAPI document at `/v1/openapi.json` cannot leave one out.

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
};
use settle_base::{ErrorCode, Retryable};
use settle_node::NodeHandle;
use settle_telemetry::prometheus::registry::Registry;
use settle_tx::TxMachine;
use settle_tx_gate::TxGate;
use settle_tx_server::{Door, HistoryHandle};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::metrics::Refresh;

mod access;
mod acts;
mod error;
mod extract;
mod group;
mod history;
mod inspect;
mod node;
mod service_groups;
mod tx;

pub use access::Access;
use error::{ApiError, ErrorJson};

/// What the handlers share.
pub struct Api {
    pub node: NodeHandle<TxGate>,
    pub door: Arc<Door>,
    pub history: HistoryHandle,
    /// Who may ask. None: everybody.
    pub access: Option<Arc<Access>>,
    pub registry: Registry,
    /// Reads what changes by itself into the registry.
    pub refresh: Refresh,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Settle", description = "Health, metrics, and what operators ask and do."),
    components(schemas(ErrorJson))
)]
struct Description;

/// Every route there is, with its description.
fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
        .routes(routes!(openapi))
        .routes(routes!(node::node))
        .routes(routes!(node::replace))
        .routes(routes!(node::transfer_leader))
        .routes(routes!(inspect::proposals))
        .routes(routes!(inspect::version, inspect::raise_version))
        .routes(routes!(group::reset_members))
        .routes(routes!(group::transfer_group_leader))
        .routes(routes!(group::take_snapshot))
        .routes(routes!(group::backup))
        .routes(routes!(group::restore))
        .routes(routes!(tx::list))
        .routes(routes!(tx::locks))
        .routes(routes!(tx::audit))
        .routes(routes!(service_groups::service_groups))
        .routes(routes!(service_groups::move_to))
        .routes(routes!(service_groups::cancel))
        .routes(routes!(history::history))
        .routes(routes!(tx::show))
        .routes(routes!(acts::commit))
        .routes(routes!(acts::rollback))
        .routes(routes!(acts::stop_retry))
        .routes(routes!(acts::resume_retry))
        .routes(routes!(acts::forget))
        .routes(routes!(acts::release_lock))
}

/// Bytes of a request's body, at most. The largest that means something is a move of service groups with all texts at their
/// limits.
const BODY_MAX: usize = 256 << 10;

pub fn router(api: Arc<Api>) -> Router {
    let (router, _) = routes().split_for_parts();
    let router = router
        .fallback(async || ApiError::unknown_path())
        .method_not_allowed_fallback(async || ApiError::wrong_method());
    // Outermost: of whoever may not ask nothing is read.
    let admit = from_fn_with_state(api.access.clone(), access::admit);
    bounded(router).layer(admit).with_state(api)
}

fn bounded<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router.layer(DefaultBodyLimit::max(BODY_MAX))
}

/// The OpenAPI document.
pub fn description() -> String {
    let mut text = routes()
        .into_openapi()
        .to_pretty_json()
        .expect("the description has only texts for keys");
    text.push('\n');
    text
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "server",
    responses((status = 200, description = "An OpenAPI 3.1 document.", content_type = "application/json", body = Object)))]
async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], description()).into_response()
}

/// Whether this server runs.
#[utoipa::path(get, path = "/healthz", tag = "server", responses((status = 200, body = String), ApiError))]
async fn healthz(State(api): State<Arc<Api>>) -> Result<&'static str, ApiError> {
    // The loop answers: it turns.
    api.node.inspect(|_| ()).await?;
    Ok("ok\n")
}

/// Whether this server can serve: it belongs to a cluster, and every group has a leader.
#[utoipa::path(get, path = "/readyz", tag = "server", responses((status = 200, body = String), ApiError))]
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

/// The metrics, in OpenMetrics text.
#[utoipa::path(get, path = "/metrics", tag = "server", responses(
    (status = 200, body = String, content_type = "application/openmetrics-text"), ApiError))]
async fn metrics(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let status = api.node.status().await?;
    let (gate, machine) = api
        .node
        .inspect(|host| {
            let groups = host.service().config().groups.iter();
            let machines = groups.filter_map(|group| host.machine(*group)).map(TxMachine::stats);
            (host.service().stats(), machines.reduce(settle_tx::Stats::plus))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_in_the_documentation_is_the_generated_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(path, description()).expect("docs/ is there");
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(written == description(), "run `UPDATE_EXPECT=1 cargo test -p settle`");
    }

    /// Of all routes: they have their router in common.
    #[tokio::test]
    async fn a_body_that_is_larger_than_any_request_is_refused_and_the_largest_that_means_something_is_not() {
        use tower::ServiceExt;
        let escaped = |chars: usize| r"\ud83d\ude00".repeat(chars);
        let post = async |reason: String| {
            let body = format!(
                r#"{{"operator":"{}","reason":"{reason}","to":1,"service_groups":[{}]}}"#,
                escaped(settle_tx::OPERATOR_CHARS_MAX),
                vec![format!("\"{}\"", escaped(service_groups::NAME_CHARS_MAX)); settle_tx::MOVE_NAMES_MAX].join(",")
            );
            let request = axum::http::Request::post("/")
                .header("content-type", "application/json")
                .body(axum::body::Body::from(body))
                .expect("it is a request");
            let take = async |_: extract::Body<serde_json::Value>| "taken";
            let router: Router = bounded(Router::new().fallback(take));
            router.oneshot(request).await.expect("a router answers").status()
        };
        assert_eq!(post(escaped(settle_tx::REASON_CHARS_MAX)).await, StatusCode::OK);
        assert_eq!(post("x".repeat(BODY_MAX)).await, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[test]
    fn every_operation_tells_what_it_does_and_how_it_fails() {
        let document: serde_json::Value = serde_json::from_str(&description()).expect("it is JSON");
        let mut operations = 0;
        for (path, methods) in document["paths"].as_object().expect("there are paths") {
            for (method, operation) in methods.as_object().expect("a path has methods") {
                operations += 1;
                assert!(operation["summary"].is_string(), "{method} {path}");
                let is_static = path == "/v1/openapi.json";
                assert!(
                    is_static || operation["responses"]["default"].is_object(),
                    "{method} {path}"
                );
            }
        }
        assert!(operations > 20, "{operations}");
    }

    /// The description is made of the router's own list; this holds nobody from going round it.
    #[test]
    fn no_route_is_added_beside_the_description() {
        let source = include_str!("http.rs");
        let code = source.split("mod tests").next().unwrap_or_default();
        assert!(!code.contains(".route("), "use `.routes(routes!(…))`");
    }
}
