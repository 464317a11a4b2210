//! What is counted, for Prometheus and for the operator.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet, text},
    metrics::{
        MetricType, TypedMetric,
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};
use stoker_crds::serving::{LATENCY_BOUNDS, ServerStats};

/// Counters of inference since the server started. A clone counts into the same counters.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    requests: Family<Code, Counter>,
    errors: Counter,
    latency: Latency,
    in_flight: Gauge,
    /// Rows that wait to be computed.
    pub(super) queued_rows: Gauge,
    /// Rows per computed batch.
    pub(super) batch_rows: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: u16,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            errors: Counter::default(),
            latency: Latency::default(),
            in_flight: Gauge::default(),
            queued_rows: Gauge::default(),
            // 1, 2, 4 … 65536: the largest batch that can be configured.
            batch_rows: Histogram::new(exponential_buckets(1.0, 2.0, 17)),
        }
    }
}

impl Metrics {
    /// Counts a request as in flight until what is returned is dropped; it is counted as answered by
    /// [`InFlight::answered`] only.
    pub(super) fn start(&self) -> InFlight {
        self.in_flight.inc();
        InFlight { metrics: self.clone(), since: Instant::now() }
    }

    /// The figures that the operator reads.
    pub(super) fn stats(&self, digest: &str) -> ServerStats {
        let latency_buckets = self.latency.counts();
        ServerStats {
            digest: digest.to_owned(),
            requests: latency_buckets.iter().sum(),
            errors: self.errors.get(),
            in_flight: u64::try_from(self.in_flight.get()).unwrap_or_default(),
            latency_buckets,
        }
    }

    /// A registry of everything, for `/metrics`.
    pub(super) fn registry(&self, model: &[(&'static str, String)]) -> Registry {
        let mut registry = Registry::with_prefix("stoker_server");
        registry.register("requests", "Inference requests answered, by status code", self.requests.clone());
        registry.register("errors", "Inference requests answered with a 5xx status", self.errors.clone());
        registry.register_with_unit(
            "request_duration",
            "Time from a request's headers to its answer",
            Unit::Seconds,
            self.latency.clone(),
        );
        registry.register("requests_in_flight", "Inference requests that are being worked on", self.in_flight.clone());
        registry.register("queue_rows", "Rows that wait to be computed", self.queued_rows.clone());
        registry.register("batch_rows", "Rows that were computed at once", self.batch_rows.clone());
        registry.register("model", "The model that is served", Info::new(model.to_vec()));
        registry
    }
}

/// A registry in the text format of Prometheus.
///
/// # Errors
/// Never, as text can always be written to memory.
pub(super) fn encode(registry: &Registry) -> Result<String, fmt::Error> {
    let mut body = String::new();
    text::encode(&mut body, registry)?;
    Ok(body)
}

/// A request that is being worked on.
#[derive(Debug)]
pub(super) struct InFlight {
    metrics: Metrics,
    since: Instant,
}

impl InFlight {
    /// Counts the answer.
    pub(super) fn answered(self, status: StatusCode) {
        self.metrics.requests.get_or_create(&Code { code: status.as_u16() }).inc();
        if status.is_server_error() {
            self.metrics.errors.inc();
        }
        self.metrics.latency.observe(self.since.elapsed());
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
    }
}

/// A histogram over [`LATENCY_BOUNDS`] that can be read back, which the library's cannot.
#[derive(Clone, Debug, Default)]
struct Latency(Arc<Buckets>);

#[derive(Debug, Default)]
struct Buckets {
    counts: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Latency {
    fn observe(&self, latency: Duration) {
        let bucket = LATENCY_BOUNDS.partition_point(|bound| *bound < latency.as_secs_f64());
        self.0.counts[bucket].fetch_add(1, Relaxed);
        // 2^64 nanoseconds are 584 years.
        self.0.nanoseconds.fetch_add(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Not cumulative.
    fn counts(&self) -> Vec<u64> {
        self.0.counts.iter().map(|bucket| bucket.load(Relaxed)).collect()
    }
}

impl EncodeMetric for Latency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = LATENCY_BOUNDS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.counts()).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let seconds = Duration::from_nanos(self.0.nanoseconds.load(Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

impl TypedMetric for Latency {
    const TYPE: MetricType = MetricType::Histogram;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_counted_once_in_each_figure() {
        let metrics = Metrics::default();
        let (first, second) = (metrics.start(), metrics.start());
        assert_eq!(metrics.stats("sha256:0").in_flight, 2);
        first.answered(StatusCode::OK);
        second.answered(StatusCode::SERVICE_UNAVAILABLE);
        let stats = metrics.stats("sha256:0");
        assert_eq!((stats.requests, stats.errors, stats.in_flight), (2, 1, 0));
        let text = encode(&metrics.registry(&[("name", "digits".into())])).unwrap();
        for line in [
            r#"stoker_server_requests_total{code="503"} 1"#,
            "stoker_server_errors_total 1",
            r#"stoker_server_request_duration_seconds_bucket{le="+Inf"} 2"#,
            r#"stoker_server_model_info{name="digits"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_request_whose_client_went_away_is_no_longer_in_flight() {
        let metrics = Metrics::default();
        drop(metrics.start());
        assert_eq!(metrics.stats("").in_flight, 0);
        assert_eq!(metrics.stats("").requests, 0);
    }

    #[test]
    fn a_latency_on_a_bound_counts_below_it() {
        let latency = Latency::default();
        latency.observe(Duration::from_micros(500));
        latency.observe(Duration::from_micros(501));
        latency.observe(Duration::from_secs(6));
        let counts = latency.counts();
        assert_eq!((counts[0], counts[1], counts[LATENCY_BOUNDS.len()]), (1, 1, 1));
    }
}
