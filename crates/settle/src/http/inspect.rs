//! Where proposals' time goes, and which versions the cluster runs.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use settle_host::{OperatorDone, OperatorRequest, STAGES, Timeline};
use settle_telemetry::Clock;
use utoipa::ToSchema;

use super::{
    Api, ApiError,
    extract::{Body, Whole},
    group::operate,
};
use crate::server::BUILD_VERSION;

#[derive(Serialize, ToSchema)]
pub(super) struct ProposalJson {
    group: u64,
    index: u64,
    /// How long ago it was proposed.
    age_ms: u64,
    total_us: u64,
    stages_us: BTreeMap<String, u64>,
}

/// Where the time of sampled proposals went.
#[utoipa::path(get, path = "/v1/node/proposals", tag = "node", responses((status = 200, body = Vec<ProposalJson>), ApiError))]
pub(super) async fn proposals(State(api): State<Arc<Api>>) -> Result<Json<Vec<ProposalJson>>, ApiError> {
    let timelines = api.node.inspect(|host| host.timelines().copied().collect::<Vec<_>>());
    let now = api.node.clock().now();
    let row = |timeline: Timeline| {
        let us = timeline.stages.map(|time| time.as_micros() as u64);
        ProposalJson {
            group: timeline.group.0,
            index: timeline.index,
            age_ms: now.since(timeline.proposed).as_millis() as u64,
            total_us: us.iter().sum(),
            stages_us: STAGES.iter().zip(us).map(|(name, us)| (name.to_string(), us)).collect(),
        }
    };
    Ok(Json(timelines.await?.into_iter().map(row).collect()))
}

#[derive(Serialize, ToSchema)]
pub(super) struct VersionJson {
    /// The lowest and the highest in force among the groups of this server; equal but while one is being raised.
    lowest: Option<u32>,
    highest: Option<u32>,
    build: u32,
    nodes: Vec<BuildJson>,
}

#[derive(Serialize, ToSchema)]
struct BuildJson {
    node: u32,
    /// `null`: not connected.
    build: Option<u32>,
}

/// The cluster version in force, and what every server's build can do.
#[utoipa::path(get, path = "/v1/cluster/version", tag = "cluster", responses((status = 200, body = VersionJson), ApiError))]
pub(super) async fn version(State(api): State<Arc<Api>>) -> Result<Json<VersionJson>, ApiError> {
    let versions = api.node.inspect(|host| host.versions()).await?;
    let nodes = versions.builds.iter().map(|(node, build)| BuildJson {
        node: node.0,
        build: *build,
    });
    Ok(Json(VersionJson {
        lowest: versions.in_force.map(|(lowest, _)| lowest),
        highest: versions.in_force.map(|(_, highest)| highest),
        build: BUILD_VERSION,
        nodes: nodes.collect(),
    }))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Raise {
    #[schema(value_type = u32, maximum = 4294967295_u64)]
    version: Whole,
}

#[derive(Serialize, ToSchema)]
pub(super) struct RaisedJson {
    /// Groups that it is proposed in.
    groups: usize,
    /// Servers that lead others, to be asked too.
    ask: Vec<u32>,
    leaderless: usize,
}

/// Raises the cluster version in the groups that this server leads.
#[utoipa::path(post, path = "/v1/cluster/version", tag = "cluster", request_body = Raise, responses((status = 200, body = RaisedJson), ApiError))]
pub(super) async fn raise_version(
    State(api): State<Arc<Api>>,
    Body(Raise { version }): Body<Raise>,
) -> Result<Json<RaisedJson>, ApiError> {
    let version = version.up_to("version", u64::from(u32::MAX))? as u32;
    let at_ms = Clock::wall().as_millis() as u64;
    let request = OperatorRequest::RaiseClusterVersion { version, at_ms };
    let OperatorDone::RaisingVersion {
        groups,
        ask,
        leaderless,
    } = operate(&api, request).await?
    else {
        unreachable!("a raise is answered by where it is proposed");
    };
    let ask = ask.into_iter().map(|node| node.0).collect();
    Ok(Json(RaisedJson {
        groups,
        ask,
        leaderless,
    }))
}
