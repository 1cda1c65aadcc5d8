//! What is counted, for Prometheus (the OpenMetrics text format). No secret, no name of a key or caller; every label has a
//! fixed set of values, so that the series do not grow.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::{Family, MetricConstructor},
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

use super::Service;
use crate::{
    domain::{key::Phase, state::KeyState},
    hsm::TokenStatus,
};

/// A way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The Unix socket.
    Unix,
    /// TLS.
    Network,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Unix => "unix",
            Self::Network => "network",
        }
    }
}

/// Names of operations are this program's own words, outcomes its error codes.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    operation: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Operation {
    operation: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Response {
    way: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WayIn {
    way: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct State {
    state: &'static str,
}

/// 50 microseconds to 25 seconds, the longest that a request may take.
#[derive(Clone)]
struct Buckets;

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(50e-6, 2.0, 20))
    }
}

/// Everything that is counted.
pub(super) struct Metrics {
    registry: Registry,
    operations: Family<Outcome, Counter>,
    seconds: Family<Operation, Histogram, Buckets>,
    responses: Family<Response, Counter>,
    not_admitted: Counter,
    connections: Family<WayIn, Gauge>,
    keys: Family<State, Gauge>,
    token_available: Gauge,
    token_waiting: Gauge,
    store_writable: Gauge,
    store_commits: Gauge,
    audit_writable: Gauge,
    audit_waiting: Gauge,
    audit_records: Gauge,
    clock_distrusted: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("kmsd");
        let operations = Family::default();
        let seconds = Family::new_with_constructor(Buckets);
        let (responses, connections, keys) = (Family::default(), Family::default(), Family::default());
        let not_admitted = Counter::default();
        registry.register(
            "build",
            "The running program",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "operations",
            "Operations by what came of them, as the audit log has it",
            operations.clone(),
        );
        registry.register_with_unit(
            "operation",
            "Time of an operation, its audit record included",
            Unit::Seconds,
            seconds.clone(),
        );
        registry.register("responses", "HTTP responses", responses.clone());
        registry.register(
            "not_admitted",
            "Requests from the network without a proof of who sends them",
            not_admitted.clone(),
        );
        registry.register("connections", "Open connections", connections.clone());
        registry.register("keys", "Keys by state", keys.clone());
        let mut gauge = |name: &'static str, help: &'static str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let token_available = gauge("token_available", "1 if the token answers");
        let token_waiting = gauge("token_waiting", "Requests that wait for the token");
        let store_writable = gauge("store_writable", "1 unless the last change could not be recorded");
        let store_commits = gauge("store_commits", "Number of the store's newest commit");
        let audit_writable = gauge("audit_writable", "1 unless the last record could not be written");
        let audit_waiting = gauge("audit_waiting", "Records that wait to be written");
        let audit_records = gauge("audit_records", "Number of the audit log's last record");
        let clock_distrusted =
            gauge("clock_distrusted", "1 if the wall clock is ahead of the time that went by");
        Self {
            registry,
            operations,
            seconds,
            responses,
            not_admitted,
            connections,
            keys,
            token_available,
            token_waiting,
            store_writable,
            store_commits,
            audit_writable,
            audit_waiting,
            audit_records,
            clock_distrusted,
        }
    }
}

impl Metrics {
    pub(super) fn operation(&self, operation: &str, outcome: &'static str, took: Duration) {
        let operation = operation.to_owned();
        self.seconds.get_or_create(&Operation { operation: operation.clone() }).observe(took.as_secs_f64());
        self.operations.get_or_create(&Outcome { operation, outcome }).inc();
    }
}

/// Counts a connection for as long as it lives.
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Service {
    /// A response has been made.
    pub(crate) fn count_response(&self, way: Way, status: u16) {
        self.inner.metrics.responses.get_or_create(&Response { way: way.name(), status }).inc();
    }

    /// A request was not let in.
    pub(crate) fn count_not_admitted(&self) {
        self.inner.metrics.not_admitted.inc();
    }

    /// A connection has been opened.
    pub(crate) fn count_connection(&self, way: Way) -> OpenConnection {
        let gauge = self.inner.metrics.connections.get_or_create(&WayIn { way: way.name() }).clone();
        gauge.inc();
        OpenConnection(gauge)
    }

    /// Everything that is counted, in the OpenMetrics text format.
    pub(crate) fn metrics(&self) -> String {
        let inner = &self.inner;
        let metrics = &inner.metrics;
        metrics.token_available.set(i64::from(matches!(inner.pool.status(), TokenStatus::Present)));
        metrics.token_waiting.set(count(inner.pool.waiting()));
        metrics.store_writable.set(i64::from(!inner.writer.is_failing()));
        metrics.store_commits.set(i64::try_from(inner.writer.epoch()).unwrap_or(i64::MAX));
        metrics.audit_writable.set(i64::from(!inner.audit.is_failing()));
        metrics.audit_waiting.set(count(inner.audit.waiting()));
        metrics.audit_records.set(i64::try_from(inner.audit.head().seq).unwrap_or(i64::MAX));
        metrics.clock_distrusted.set(i64::from(self.observe_clock().is_wall_distrusted()));
        let mut by_state = [0; KeyState::ALL.len()];
        for key in inner.writer.registry().read().keys().filter(|key| key.phase == Phase::Live) {
            if let Some(at) = KeyState::ALL.iter().position(|state| *state == key.state) {
                by_state[at] += 1;
            }
        }
        for (state, keys) in KeyState::ALL.iter().zip(by_state) {
            metrics.keys.get_or_create(&State { state: state.as_str() }).set(keys);
        }
        let mut out = String::new();
        text::encode(&mut out, &metrics.registry).expect("a string takes everything");
        out
    }
}

fn count(waiting: usize) -> i64 {
    i64::try_from(waiting).unwrap_or(i64::MAX)
}
