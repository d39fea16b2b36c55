//! Names and meaning of what this crate measures.

use settle_telemetry::prometheus::{
    metrics::{
        counter::Counter,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// The traffic between servers.
#[derive(Clone, Default)]
pub struct PeerMetrics {
    pub bytes_sent: Counter,
    pub bytes_received: Counter,
    pub messages_dropped: Counter,
}

/// The loop that drives the host.
#[derive(Clone)]
pub struct LoopMetrics {
    pub turns: Counter,
    pub events: Counter,
    pub turn_seconds: Histogram,
    pub groups_led: Gauge,
    pub wal_syncs: Counter,
    pub wal_bytes: Counter,
    pub wal_sync_seconds: Histogram,
}

impl Default for LoopMetrics {
    fn default() -> LoopMetrics {
        LoopMetrics {
            turns: Counter::default(),
            events: Counter::default(),
            turn_seconds: Histogram::new(exponential_buckets(0.000_01, 2.0, 18)),
            groups_led: Gauge::default(),
            wal_syncs: Counter::default(),
            wal_bytes: Counter::default(),
            wal_sync_seconds: Histogram::new(exponential_buckets(0.000_02, 2.0, 18)),
        }
    }
}

impl PeerMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "settle_peer_sent_bytes",
            "Bytes sent to other servers",
            self.bytes_sent.clone(),
        );
        registry.register(
            "settle_peer_received_bytes",
            "Bytes received from other servers",
            self.bytes_received.clone(),
        );
        registry.register(
            "settle_peer_dropped_messages",
            "Messages to other servers dropped because their lane was full",
            self.messages_dropped.clone(),
        );
    }
}

impl LoopMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "settle_loop_turns",
            "Turns of the loop that drives the host",
            self.turns.clone(),
        );
        registry.register("settle_loop_events", "Events taken by the loop", self.events.clone());
        registry.register(
            "settle_loop_turn_seconds",
            "How long a turn of the loop took",
            self.turn_seconds.clone(),
        );
        registry.register(
            "settle_groups_led",
            "Groups whose leader this server is",
            self.groups_led.clone(),
        );
        registry.register("settle_wal_syncs", "Syncs of the log", self.wal_syncs.clone());
        registry.register(
            "settle_wal_written_bytes",
            "Bytes written to the log",
            self.wal_bytes.clone(),
        );
        registry.register(
            "settle_wal_sync_seconds",
            "How long a sync of the log took",
            self.wal_sync_seconds.clone(),
        );
    }
}
