//! What the operator tells Prometheus about itself.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

use crate::error::Error;

/// Upper bounds of the buckets of reconciles, in seconds.
const DURATIONS: [f64; 8] = [0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0];

/// Which kind of resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// Which kind of resource, and what went wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Failure {
    kind: &'static str,
    class: &'static str,
    reason: String,
}

/// Counters and histograms of the operator's own work.
#[derive(Debug)]
pub struct Metrics {
    reconciles: Family<Kind, Counter>,
    errors: Family<Failure, Counter>,
    durations: Family<Kind, Histogram>,
}

impl Metrics {
    /// Counters at 0, registered.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            reconciles: Family::default(),
            errors: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(DURATIONS)),
        };
        registry.register("reconciles", "Reconciles by kind", metrics.reconciles.clone());
        registry.register("reconcile_errors", "Failed reconciles by kind, class and reason", metrics.errors.clone());
        registry.register("reconcile_duration_seconds", "How long reconciles took", metrics.durations.clone());
        metrics
    }

    /// Counts a reconcile that has ended.
    pub fn reconciled(&self, kind: &'static str, took: Duration, error: Option<&Error>) {
        self.reconciles.get_or_create(&Kind { kind }).inc();
        self.durations.get_or_create(&Kind { kind }).observe(took.as_secs_f64());
        if let Some(error) = error {
            let failure = Failure { kind, class: error.class().name(), reason: error.reason().to_string() };
            self.errors.get_or_create(&failure).inc();
        }
    }
}
