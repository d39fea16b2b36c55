//! The bench's cluster as one side of a comparison.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, ensure};

use super::{
    client::{Load, Pace, pause},
    cluster::Cluster,
};
use crate::bench::{etcd::Side, process, report::Latency};

/// Three servers that wait for their turn.
pub struct Ours(Arc<Cluster>);

impl Ours {
    /// # Errors
    /// When the servers do not come up.
    pub fn start(dir: &Path) -> anyhow::Result<Ours> {
        Ok(Ours(Arc::new(Cluster::start(dir, Vec::new())?)))
    }

    /// # Errors
    /// When a write is not answered.
    pub async fn measure(
        &self,
        in_flight: u32,
        connections: u32,
        warm_up: Duration,
        time: Duration,
    ) -> anyhow::Result<Side> {
        let cluster = self.0.clone();
        let measuring = tokio::task::spawn_blocking(move || {
            let load = Load::start(&cluster.targets(), Pace::Closed { in_flight }, connections)?;
            pause(warm_up);
            let before = process::usage(&cluster.pids())?;
            load.measure(time);
            let after = process::usage(&cluster.pids())?;
            let outcome = load.finish()?;
            ensure!(
                outcome.done > 0 && outcome.lost == 0,
                "{} writes were not answered",
                outcome.lost
            );
            Ok(Side {
                in_flight,
                per_second: outcome.done as f64 / time.as_secs_f64(),
                latency: Latency::of(&outcome.latency),
                cpu_us_per_write: (after.cpu_micros - before.cpu_micros) as f64 / outcome.done as f64,
            })
        });
        measuring.await.context("the bench panicked")?
    }
}
