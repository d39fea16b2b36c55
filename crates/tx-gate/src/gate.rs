use std::collections::BTreeMap;

use settle_base::{GroupId, NodeId};
use settle_machine::{Context, Event, Service};
use settle_tx::{TxEffect, TxMachine};

use crate::{
    GateConfig, GateRequest, GateResponse, GateStats,
    door::{Cx, Door},
    group::TxGroup,
    mover::Mover,
};

/// One node's door to its transaction groups. See the crate's head for what it promises.
pub struct TxGate {
    pub(crate) door: Door,
    pub(crate) groups: BTreeMap<GroupId, TxGroup>,
    pub(crate) mover: Mover,
}

impl TxGate {
    /// `origin` is this run's random id, never used by another run of any node: the machine tells repeated commands by
    /// it, and other nodes this run's connections.
    ///
    /// # Panics
    /// When the configuration names no group, or one outside 1..=255.
    pub fn new(config: GateConfig, origin: u64) -> TxGate {
        assert!(!config.groups.is_empty(), "a gate serves at least one group");
        let group = |id: &GroupId| {
            assert!((1..=255).contains(&id.0), "group {id} cannot have transactions");
            (*id, TxGroup::new(*id, origin, &config))
        };
        let groups = config.groups.iter().map(group).collect();
        TxGate {
            groups,
            mover: Mover::default(),
            door: Door::new(config, origin),
        }
    }

    pub fn config(&self) -> &GateConfig {
        &self.door.config
    }

    pub fn stats(&self) -> GateStats {
        let groups = || self.groups.values();
        GateStats {
            sessions: self.door.sessions.len(),
            directory_sessions: self.door.directory.len(),
            requests_in_flight: self.door.sessions.in_flight(),
            commands_pending: groups().map(|group| group.pending.len()).sum(),
            commands_pending_bytes: groups().map(|group| group.pending.bytes()).sum(),
            waiting_for_phase_two: groups().map(TxGroup::waiting).sum(),
            queries_waiting: groups().map(|group| group.reads.len()).sum(),
            waiting_for_service_groups: self.door.waiting.len(),
            calls_outstanding: self.door.calls.len(),
            branches_stuck: groups().map(|group| group.driver.stuck().count()).sum(),
            branches_retrying: groups().map(|group| group.driver.retrying()).sum(),
            branches_unreached: groups().map(|group| group.driver.unreached()).sum(),
            locks_held_long: groups().map(|group| group.alerts.locks_held_long()).sum(),
            commands_reproposed_total: groups().map(|group| group.pending.re_proposed()).sum(),
            ..self.door.totals
        }
    }

    /// Whether this node drives the second phases of `group`.
    pub fn is_driving(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|group| group.leading().is_some())
    }

    fn on_request(&mut self, request: GateRequest, cx: &mut Cx<'_>) {
        match request {
            GateRequest::Open { conn, ip, port } => {
                if let Err(error) = self.door.sessions.open(conn, ip, port, self.door.config.max_sessions) {
                    self.door.close_conn(conn, error, cx);
                }
            }
            GateRequest::Close { conn } => self.on_close(conn, cx),
            GateRequest::Call {
                conn,
                key,
                granted,
                body,
            } => {
                self.door.sessions.grant(conn, granted);
                self.on_client_request(conn, key, body, cx);
            }
            GateRequest::CallAnswer { conn, call, answer } => self.on_call_answer(conn, call, &answer, cx),
            GateRequest::Admin { key, body } => self.on_admin(key, body, cx),
        }
    }

    fn on_peer_up(&mut self, node: NodeId, cx: &mut Cx<'_>) {
        self.door.meet(node, cx);
    }

    fn on_peer_down(&mut self, node: NodeId, cx: &mut Cx<'_>) {
        self.door.peers.remove(&node);
        self.door.directory.remove_node(node);
        for group in self.groups.values_mut() {
            group.on_peer_lost(node, cx);
        }
    }

    /// Who waits for a call that went there would wait until the connection is given up.
    fn on_peer_silent(&mut self, node: NodeId, cx: &mut Cx<'_>) {
        self.door.directory.fell_silent(node);
        for group in self.groups.values_mut() {
            group.on_peer_lost(node, cx);
        }
    }
}

impl Service for TxGate {
    type Machine = TxMachine;
    type Request = GateRequest;
    type Response = GateResponse;

    fn step(&mut self, event: Event<'_, TxEffect, GateRequest>, context: &mut Context<'_, TxMachine, GateResponse>) {
        let door = &mut self.door;
        match event {
            Event::Request(request) => self.on_request(request, context),
            Event::Applied { group, effects } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.on_applied(effects, door, context);
                }
            }
            Event::Role { group, role } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.on_role(role, door, context);
                }
            }
            Event::Reloaded { group } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.on_reloaded(door, context);
                }
            }
            // Its role said already that nothing can be had here.
            Event::Stopped { .. } => {}
            Event::ReadReady { group, token } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.answer_queries(token, door, context);
                }
            }
            Event::ReadDropped { group, token } => {
                if let Some(group) = self.groups.get_mut(&group) {
                    group.reads.dropped(token, context.now);
                }
            }
            Event::PeerUp { node } => self.on_peer_up(node, context),
            Event::PeerDown { node } => self.on_peer_down(node, context),
            Event::PeerSilent { node } => self.on_peer_silent(node, context),
            Event::PeerHeard { node } => self.door.directory.speaks_again(node),
            Event::Peer { from, body } => self.on_peer_message(from, &body, context),
            // Its groups are founded with the cluster and stay.
            Event::Created { .. } | Event::Destroyed { .. } | Event::ApplyPaused { .. } => {}
            Event::Tick => {
                let timed_out = door.calls.time_out(context.now, door.config.max_calls);
                door.failed_calls.extend(timed_out);
                door.tell_digest(context);
                for group in self.groups.values_mut() {
                    group.tick(door, context);
                }
                self.look_at_waiting(context);
                self.drive_moves(context);
            }
            Event::Flush => {
                for group in self.groups.values_mut() {
                    group.drive(door, context);
                    group.flush(door, context);
                }
            }
        }
        self.report_failed_calls(context);
    }
}
