//! What came out.

use std::time::Duration;

use serde_json::{Value, json};

pub(crate) struct Latencies {
    sorted: Vec<Duration>,
    wall: Duration,
}

impl Latencies {
    pub(crate) fn new(mut seen: Vec<Duration>, wall: Duration) -> Self {
        assert!(!seen.is_empty(), "nothing was measured");
        seen.sort_unstable();
        Self { sorted: seen, wall }
    }

    fn count(&self) -> f64 {
        f64::from(u32::try_from(self.sorted.len()).expect("less than 2^32 requests"))
    }

    /// Per second.
    pub(crate) fn rate(&self) -> f64 {
        self.count() / self.wall.as_secs_f64()
    }

    /// Mean time of one, in microseconds.
    pub(crate) fn mean_us(&self) -> f64 {
        self.sorted.iter().sum::<Duration>().as_secs_f64() * 1e6 / self.count()
    }

    fn quantile_ms(&self, per_mille: usize) -> f64 {
        let at = (self.sorted.len() * per_mille / 1000).min(self.sorted.len() - 1);
        (self.sorted[at].as_secs_f64() * 1e6).round() / 1e3
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "per_s": self.rate().round(),
            "p50_ms": self.quantile_ms(500),
            "p99_ms": self.quantile_ms(990),
            "p999_ms": self.quantile_ms(999),
        })
    }
}
