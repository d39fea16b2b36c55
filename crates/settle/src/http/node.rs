//! Servers: how this one stands, and what may be done to one.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use settle_base::{ErrorCode, GroupId, NodeId, PeerId, Retryable};
use settle_host::{GROUPS_TOLD, HostStatus, OperatorRequest};
use settle_raft::ConfState;
use settle_telemetry::Clock;
use utoipa::{IntoParams, ToSchema};

use super::{
    Api, ApiError,
    extract::{Body, QueryOf, Whole},
    group::operate,
};

/// Groups that one request may ask about.
const GROUPS_ASKED_MAX: u64 = 1_000;

#[derive(Serialize, ToSchema)]
pub(super) struct NodeJson {
    node: u32,
    incarnation: String,
    cluster: Option<String>,
    group_counts: CountsJson,
    /// At most as many as were asked for, from behind the one that was named on.
    groups: Vec<GroupJson>,
    connected: Vec<u32>,
    disk_is_full: bool,
}

#[derive(Serialize, ToSchema)]
struct CountsJson {
    here: usize,
    /// Of those, they count no time and send nothing until something happens.
    resting: usize,
    led: usize,
    leaderless: usize,
}

#[derive(Serialize, ToSchema)]
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

#[derive(Serialize, ToSchema)]
struct MemberJson {
    node: u32,
    incarnation: String,
    address: String,
    role: &'static str,
    /// How far the leader knows this member's log to agree with its own; only a leader knows.
    match_index: Option<u64>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[into_params(parameter_in = Query)]
pub(super) struct NodeQuery {
    /// Groups behind this one only.
    #[param(value_type = Option<u64>, maximum = 9007199254740991_u64)]
    groups_after: Option<Whole>,
    /// With many groups their whole list is long, and the node stands still while it is made.
    #[param(value_type = Option<usize>, maximum = 1000)]
    groups: Option<Whole>,
}

/// This server, its groups and their members.
#[utoipa::path(get, path = "/v1/node", tag = "node", params(NodeQuery), responses((status = 200, body = NodeJson), ApiError))]
pub(super) async fn node(
    State(api): State<Arc<Api>>,
    QueryOf(query): QueryOf<NodeQuery>,
) -> Result<Json<NodeJson>, ApiError> {
    let mut status = api.node.status().await?;
    let after = query.groups_after.map(|group| GroupId(group.0));
    let limit = match query.groups {
        None => GROUPS_TOLD,
        Some(groups) => groups.up_to("groups", GROUPS_ASKED_MAX)? as usize,
    };
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

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeNumber {
    #[schema(value_type = u32, maximum = 65535)]
    node: Whole,
}

impl NodeNumber {
    pub fn node(&self) -> Result<NodeId, ApiError> {
        Ok(NodeId(self.node.up_to("node", 65_535)? as u32))
    }
}

/// What an operator asks of leaders must reach them: here it would be forgotten in silence.
async fn check_leads_all(api: &Api) -> Result<(), ApiError> {
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
        None if status.counts.led == status.counts.here => return Ok(()),
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

/// Lets a server in again whose disk is lost, with an empty one.
#[utoipa::path(post, path = "/v1/node/replace", tag = "node", request_body = NodeNumber, responses((status = 202, description = "It is begun."), ApiError))]
pub(super) async fn replace(
    State(api): State<Arc<Api>>,
    Body(number): Body<NodeNumber>,
) -> Result<StatusCode, ApiError> {
    let request = OperatorRequest::ReplaceMember {
        node: number.node()?,
        at_ms: Clock::wall().as_millis() as u64,
    };
    operate(&api, request).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Hands the leadership of all groups to a server.
#[utoipa::path(post, path = "/v1/node/transfer-leader", tag = "node", request_body = NodeNumber, responses((status = 202, description = "It is begun."), ApiError))]
pub(super) async fn transfer_leader(
    State(api): State<Arc<Api>>,
    Body(number): Body<NodeNumber>,
) -> Result<StatusCode, ApiError> {
    check_leads_all(&api).await?;
    let groups = api.node.inspect(|host| host.group_ids().collect::<Vec<_>>());
    for group in groups.await? {
        let to = number.node()?;
        operate(&api, OperatorRequest::TransferLeader { group, to }).await?;
    }
    Ok(StatusCode::ACCEPTED)
}
