//! What the runtime tells about itself: the clock, the logs, the metrics registry.
//!
//! The only crate that reads a clock for others. Wall time is for display; everything that decides uses [`Clock::now`].

mod clock;
mod logs;
mod seldom;

pub use clock::Clock;
pub use logs::{LogFormat, LogsError, init_logs};
pub use prometheus_client as prometheus;
use prometheus_client::registry::Registry;
pub use seldom::Seldom;

/// The registry as `GET /metrics` prints it (OpenMetrics text).
pub fn render(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).expect("writing to a string does not fail");
    text
}
