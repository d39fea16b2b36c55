//! A server's metrics as numbers.

use std::collections::BTreeMap;

/// The samples of one reading, or the differences of two.
#[derive(Clone, Default, Debug)]
pub struct Figures(BTreeMap<String, f64>);

impl Figures {
    /// Reads OpenMetrics text: `name` or `name{labels}` to value.
    pub fn read(text: &str) -> Figures {
        let mut figures = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, value)) = line.rsplit_once(' ')
                && let Ok(value) = value.parse::<f64>()
            {
                figures.insert(name.to_owned(), value);
            }
        }
        Figures(figures)
    }

    /// 0 when there is none of this name.
    pub fn value(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(0.0)
    }

    /// What was counted between `earlier` and this.
    pub fn since(&self, earlier: &Figures) -> Figures {
        Figures(
            self.0
                .iter()
                .map(|(name, value)| (name.clone(), value - earlier.value(name)))
                .collect(),
        )
    }

    pub fn add(&mut self, other: &Figures) {
        for (name, value) in &other.0 {
            *self.0.entry(name.clone()).or_default() += value;
        }
    }

    /// Where in the histogram `name` the share `quantile` lies, even within a bucket; `None` when nothing was counted.
    pub fn quantile(&self, name: &str, quantile: f64) -> Option<f64> {
        let prefix = format!("{name}_bucket{{le=\"");
        let mut buckets: Vec<(f64, f64)> = self
            .0
            .iter()
            .filter_map(|(name, count)| {
                let bound = name.strip_prefix(&prefix)?.strip_suffix("\"}")?;
                let bound = if bound == "+Inf" {
                    f64::INFINITY
                } else {
                    bound.parse().ok()?
                };
                Some((bound, *count))
            })
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let total = buckets.last().map_or(0.0, |(_, count)| *count);
        if total <= 0.0 {
            return None;
        }
        let (mut low, mut below) = (0.0, 0.0);
        for (bound, count) in buckets {
            if count >= quantile * total {
                let share = (quantile * total - below) / (count - below).max(f64::MIN_POSITIVE);
                return Some(if bound.is_finite() {
                    low + share * (bound - low)
                } else {
                    low
                });
            }
            (low, below) = (bound, count);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_within_the_bucket_that_holds_it() {
        let figures = Figures::read(
            "# TYPE x histogram\nx_bucket{le=\"1.0\"} 0\nx_bucket{le=\"2.0\"} 90\nx_bucket{le=\"4.0\"} 100\nx_bucket{le=\"+Inf\"} 100\n",
        );
        assert_eq!(figures.quantile("x", 0.5), Some(1.0 + 50.0 / 90.0));
        assert_eq!(figures.quantile("x", 0.95), Some(3.0));
        assert_eq!(figures.quantile("y", 0.5), None);
    }
}
