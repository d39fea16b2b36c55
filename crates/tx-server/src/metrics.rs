//! Names and meaning of what this crate measures.

use settle_telemetry::prometheus::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

/// The door for Seata clients.
#[derive(Clone, Default)]
pub struct DoorMetrics {
    pub connections: Gauge,
    pub requests: Counter,
    pub answers: Counter,
    pub dropped: Counter,
    pub calls: Counter,
    pub call_answers: Counter,
    pub bad_frames: Counter,
    pub refused_clients: Counter,
    pub denied_requests: Counter,
    pub slow_clients: Counter,
    pub stuck_branches: Counter,
}

impl DoorMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "settle_tx_connections",
            "Connections of Seata clients",
            self.connections.clone(),
        );
        registry.register("settle_tx_requests", "Requests of Seata clients", self.requests.clone());
        registry.register("settle_tx_answers", "Requests answered", self.answers.clone());
        registry.register(
            "settle_tx_dropped",
            "Requests left unanswered on purpose, because nothing true could be said in time",
            self.dropped.clone(),
        );
        registry.register(
            "settle_tx_calls",
            "Phase-two calls made to resource managers",
            self.calls.clone(),
        );
        registry.register(
            "settle_tx_call_answers",
            "Phase-two calls answered",
            self.call_answers.clone(),
        );
        registry.register(
            "settle_tx_bad_frames",
            "Connections closed because of what they sent",
            self.bad_frames.clone(),
        );
        registry.register(
            "settle_tx_refused_clients",
            "Connections closed because the client did not authenticate, or may not be what it registered as",
            self.refused_clients.clone(),
        );
        registry.register(
            "settle_tx_denied_requests",
            "Requests refused because the client's application is not granted the resource",
            self.denied_requests.clone(),
        );
        registry.register(
            "settle_tx_slow_clients",
            "Connections closed because the client did not read",
            self.slow_clients.clone(),
        );
        registry.register(
            "settle_tx_stuck_branches",
            "Branches reported as stuck: phase two has failed for longer than tx.stuck-after",
            self.stuck_branches.clone(),
        );
    }
}
