//! What a run of a load generator found.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::http_client;

/// Latencies in microseconds, up to ten minutes with three digits.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are in order")
}

#[derive(Serialize, Clone, Debug)]
pub struct Latency {
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

impl Latency {
    pub fn of(histogram: &Histogram<u64>) -> Latency {
        Latency {
            p50_us: histogram.value_at_quantile(0.5),
            p99_us: histogram.value_at_quantile(0.99),
            p999_us: histogram.value_at_quantile(0.999),
            max_us: histogram.max(),
        }
    }

    pub fn of_times(times: &[Duration]) -> Latency {
        let mut histogram = histogram();
        for time in times {
            histogram.saturating_record(time.as_micros().max(1) as u64);
        }
        Latency::of(&histogram)
    }
}

/// The plain samples of `GET /metrics`, summed over `urls`: `name` or `name{labels}` to value.
///
/// # Errors
/// When a server does not answer.
pub fn counters(urls: &[String]) -> anyhow::Result<BTreeMap<String, f64>> {
    let mut sums = BTreeMap::new();
    for url in urls {
        for line in http_client::get(&format!("{url}/metrics"))?.lines() {
            if let Some((name, value)) = line.rsplit_once(' ')
                && !line.starts_with('#')
                && let Ok(value) = value.parse::<f64>()
            {
                *sums.entry(name.to_owned()).or_insert(0.0) += value;
            }
        }
    }
    Ok(sums)
}

/// 12_345 → `12,345`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped_from_the_right() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(1_234), "1,234");
        assert_eq!(grouped(12_345_678), "12,345,678");
    }
}
