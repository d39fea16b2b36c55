//! Names and meaning of what this crate measures.

use std::sync::{Arc, Mutex};

use settle_host::{STAGE_BUCKET_FIRST_US, STAGE_BUCKETS, STAGES, StageHistogram};
use settle_telemetry::prometheus::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{
        MetricType,
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
    pub proposal_stages: ProposalStages,
}

/// The host's own histograms, one for each of its stages.
#[derive(Clone, Default, Debug)]
pub struct ProposalStages(Arc<Mutex<[StageHistogram; STAGES.len()]>>);

impl ProposalStages {
    pub(crate) fn set(&self, stages: &[StageHistogram; STAGES.len()]) {
        self.0.lock().expect("no holder of this lock panics").clone_from(stages);
    }
}

impl EncodeMetric for ProposalStages {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), std::fmt::Error> {
        let stages = *self.0.lock().expect("no holder of this lock panics");
        for (name, histogram) in STAGES.iter().zip(&stages) {
            let mut bound = STAGE_BUCKET_FIRST_US as f64 / 1e6 / 2.0;
            let mut buckets = [(f64::MAX, 0); STAGE_BUCKETS];
            for ((upper, count), observed) in buckets.iter_mut().zip(&histogram.buckets) {
                bound *= 2.0;
                (*upper, *count) = (bound, *observed);
            }
            // The last one has no bound.
            buckets[STAGE_BUCKETS - 1].0 = f64::MAX;
            let sum = histogram.sum_us as f64 / 1e6;
            encoder
                .encode_family(&[("stage", *name)])?
                .encode_histogram::<NoLabelSet>(sum, histogram.count(), &buckets, None)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
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
            proposal_stages: ProposalStages::default(),
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
        registry.register(
            "settle_proposal_stage_seconds",
            "Where the time of proposals made on this server as leader goes, by stage",
            self.proposal_stages.clone(),
        );
    }
}
