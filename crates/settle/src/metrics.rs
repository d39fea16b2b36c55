//! All metrics of one server, and what is read only when they are asked for.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use settle_host::HostStatus;
use settle_node::metrics::{LoopMetrics, PeerMetrics};
use settle_telemetry::prometheus::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use settle_tx_gate::GateStats;
use settle_tx_server::{HistoryMetrics, metrics::DoorMetrics};

#[derive(Clone, Default)]
pub struct ServerMetrics {
    pub door: DoorMetrics,
    pub history: HistoryMetrics,
    pub node_loop: LoopMetrics,
    pub peers: PeerMetrics,
    /// Looks at a policy or at certificates that had changed and could not be taken.
    pub reload_failures: Counter,
}

pub type Refresh = Box<dyn Fn(&HostStatus, &GateStats, Option<settle_tx::Stats>) + Send + Sync>;

/// A value that is read when the metrics are asked for.
type Sample = fn(&HostStatus, &GateStats, &settle_tx::Stats) -> u64;

#[rustfmt::skip]
const SAMPLES: &[(&str, &str, Sample)] = &[
    ("settle_tx_open_transactions", "Transactions begun and not ended", |_, _, tx| tx.open_transactions),
    ("settle_tx_open_branches", "Branches not ended", |_, _, tx| tx.open_branches),
    ("settle_tx_lock_rows", "Row locks held", |_, _, tx| tx.lock_rows),
    ("settle_tx_lock_bytes", "Memory of the row locks", |_, _, tx| tx.lock_bytes),
    ("settle_tx_outcome_bytes", "Memory of the outcomes that are kept", |_, _, tx| tx.outcome_bytes),
    ("settle_tx_begun", "Transactions begun since the group was made", |_, _, tx| tx.begun_total),
    ("settle_tx_sessions", "Registered clients on this server", |_, gate, _| gate.sessions as u64),
    ("settle_tx_requests_in_flight", "Requests not answered yet", |_, gate, _| gate.requests_in_flight as u64),
    ("settle_tx_commands_pending", "Commands proposed and not applied", |_, gate, _| gate.commands_pending as u64),
    ("settle_tx_commands_reproposed", "Commands proposed again since the server started", |_, gate, _| gate.commands_reproposed_total),
    ("settle_tx_holds_expired", "Requests dropped because the hold ran out, since the server started", |_, gate, _| gate.holds_expired_total),
    ("settle_tx_refused", "Requests refused since the server started", |_, gate, _| gate.refused_total),
    ("settle_tx_calls_outstanding", "Phase-two calls not answered yet", |_, gate, _| gate.calls_outstanding as u64),
    ("settle_tx_branches_stuck", "Branches retried for longer than tx.stuck-after, in groups that this server leads", |_, gate, _| gate.branches_stuck as u64),
    ("settle_tx_branches_retrying", "Branches whose second phase has failed before and is tried again, in groups that this server leads", |_, gate, _| gate.branches_retrying as u64),
    ("settle_tx_branches_unreached", "Of those: branches for which no resource manager is connected", |_, gate, _| gate.branches_unreached as u64),
    ("settle_tx_locks_held_long", "Transactions that have held row locks for longer than tx.lock-held-alert, in groups that this server leads", |_, gate, _| gate.locks_held_long as u64),
    ("settle_tx_calls_failed", "Phase-two calls that came to nothing, since the server started", |_, gate, _| gate.calls_failed_total),
    ("settle_tx_strangers", "Requests about transactions of another application that were refused, since the server started", |_, gate, _| gate.strangers_refused_total),
    ("settle_tx_nonsense", "Answers of resource managers that made no sense, since the server started", |_, gate, _| gate.rm_nonsense_total),
    ("settle_entries_applied", "Log entries applied since the server started", |host, _, _| host.counters.entries_applied),
    ("settle_elections_won", "Elections that this server has won since it started", |host, _, _| host.counters.elections_won),
    ("settle_proposals_dropped", "Proposals that could not be taken, since the server started", |host, _, _| {
        let c = &host.counters;
        c.dropped_no_leader + c.dropped_not_leader + c.dropped_too_long + c.dropped_full + c.dropped_disk_full + c.dropped_unknown_group + c.dropped_term_changed
    }),
    ("settle_reads_dropped", "Linearizable reads that came to nothing and were asked again, since the server started", |host, _, _| host.counters.reads_dropped),
    ("settle_reads_behind", "Of those: reads given up at once since this server has too much to apply before it could answer", |host, _, _| host.counters.reads_behind),
    ("settle_groups", "Groups with a replica on this server", |host, _, _| host.counts.here as u64),
    ("settle_groups_awake", "Of those: groups that count time; the others rest", |host, _, _| host.counts.awake as u64),
    ("settle_groups_leaderless", "Of those: groups without a leader that this server knows and is connected with", |host, _, _| host.counts.leaderless as u64),
    ("settle_groups_stopped", "Groups whose replica on this server was stopped, see HO0032", |host, _, _| host.counts.stopped as u64),
    ("settle_snapshots_waiting", "Snapshots to be sent to other servers when those on their way have ended", |host, _, _| host.snapshots_waiting as u64),
    ("settle_snapshots_taken", "Snapshots taken since the server started", |host, _, _| host.counters.snapshots_taken),
    ("settle_snapshots_installed", "Snapshots received and installed since the server started", |host, _, _| host.counters.snapshots_installed),
    ("settle_snapshot_windows_resent", "Windows of snapshot chunks sent again, after a broken connection or a silence, since the server started", |host, _, _| host.counters.snapshots_resumed),
    ("settle_hash_verdicts", "Comparisons of the replicas' states that a majority decided, met since the server started", |host, _, _| host.counters.hash_verdicts),
    ("settle_hashes_divided", "Comparisons of the replicas' states that no majority could decide, at this server as their leader, since it started", |host, _, _| host.counters.hash_marks_divided),
    ("settle_quarantines", "Replicas of this server whose state differed from the others' and was rebuilt, since the server started", |host, _, _| host.counters.quarantines),
    ("settle_witness_cuts", "Logs of this server, a witness, cut back to what the full replicas hold, since it started", |host, _, _| host.counters.witness_cuts),
    ("settle_wal_segments", "Files of the log", |host, _, _| host.wal.unwrap_or_default().segments),
    ("settle_wal_segment_bytes", "Size of the files of the log", |host, _, _| host.wal.unwrap_or_default().segment_bytes),
    ("settle_wal_segments_begun", "Files of the log begun since the server started", |host, _, _| host.wal.unwrap_or_default().segments_begun),
    ("settle_wal_segments_recycled", "Of those: dead files that were zeroed and begun anew", |host, _, _| host.wal.unwrap_or_default().segments_recycled),
    ("settle_wal_spares", "Dead files of the log kept to be begun anew", |host, _, _| host.wal.unwrap_or_default().spares),
    ("settle_wal_groups_rewritten", "Live entries of a resting group written again, so that the oldest file of the log could go, since the server started", |host, _, _| host.counters.groups_rewritten),
    ("settle_disk_full", "1 while the disk is full and nothing is accepted", |host, _, _| u64::from(host.disk_is_full)),
    ("settle_peers_connected", "Other servers that a connection is up with", |host, _, _| host.peers.len() as u64),
];

impl ServerMetrics {
    /// `refused_*`: connections closed at once because of the limit.
    pub fn into_registry(self, refused_tx: Arc<AtomicU64>, refused_http: Arc<AtomicU64>) -> (Registry, Refresh) {
        let mut registry = Registry::default();
        self.door.register(&mut registry);
        self.history.register(&mut registry);
        self.node_loop.register(&mut registry);
        self.peers.register(&mut registry);
        registry.register(
            "settle_reload_failures",
            "Changes of the policy or of certificates that could not be taken, so that what was before stays",
            self.reload_failures,
        );
        let gauge = |registry: &mut Registry, name: &str, help: &str| {
            let gauge = Gauge::<i64>::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let samples: Vec<(Gauge, Sample)> = SAMPLES
            .iter()
            .map(|(name, help, sample)| (gauge(&mut registry, name, help), *sample))
            .collect();
        let refused = [
            (
                gauge(
                    &mut registry,
                    "settle_tx_connections_refused",
                    "Client connections over the limit",
                ),
                refused_tx,
            ),
            (
                gauge(
                    &mut registry,
                    "settle_http_connections_refused",
                    "HTTP connections over the limit",
                ),
                refused_http,
            ),
        ];
        let refresh: Refresh = Box::new(move |host, gate, machine| {
            let machine = machine.unwrap_or_default();
            for (gauge, sample) in &samples {
                gauge.set(sample(host, gate, &machine) as i64);
            }
            for (gauge, count) in &refused {
                gauge.set(count.load(Ordering::Relaxed) as i64);
            }
        });
        (registry, refresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page from the registry itself, so that no metric is missing and no text differs.
    fn reference() -> String {
        let (registry, _) = ServerMetrics::default().into_registry(Arc::default(), Arc::default());
        let text = settle_telemetry::render(&registry);
        let mut page = String::from(
            "<!-- generated by: UPDATE_EXPECT=1 cargo test -p settle -->\n# Metrics\n\n`GET /metrics` on the HTTP port, in \
             OpenMetrics text. A counter's sample has `_total` behind the name.\n\n| name | kind | meaning |\n|---|---|---|\n",
        );
        let mut help = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                help = rest.split_once(' ').map_or("", |(_, help)| help);
            } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                page.push_str(&format!("| `{name}` | {kind} | {} |\n", help.trim_end_matches('.')));
            }
        }
        page
    }

    #[test]
    fn the_reference_in_the_documentation_is_the_generated_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(path, reference()).expect("docs/ is there");
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(written, reference(), "run `UPDATE_EXPECT=1 cargo test -p settle`");
    }
}
