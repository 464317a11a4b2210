//! What a running trainer tells the operator and Prometheus: `GET /v1/progress` and `GET /metrics`, nothing else.

use std::sync::{Arc, atomic::AtomicU64};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use stoker_crds::{Progress, progress::PROGRESS_PATH};

use super::tracker::Tracker;

/// The routes.
pub(super) fn router(tracker: Arc<Tracker>) -> Router {
    Router::new().route(PROGRESS_PATH, get(progress)).route("/metrics", get(metrics)).with_state(tracker)
}

async fn progress(State(tracker): State<Arc<Tracker>>) -> Json<Progress> {
    Json(tracker.progress())
}

async fn metrics(State(tracker): State<Arc<Tracker>>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &registry(&tracker.progress())) {
        Ok(()) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

type Float = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MetricLabels {
    split: &'static str,
    metric: String,
}

/// The progress as Prometheus sees it.
fn registry(progress: &Progress) -> Registry {
    let mut registry = Registry::with_prefix("stoker_training");
    let mut gauge = |name: &str, help: &str, value: f64| {
        let gauge = Float::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    };
    gauge("epoch", "Epochs that are done", f64::from(progress.epoch));
    gauge("step", "Optimizer steps that are done", progress.step as f64);
    gauge("steps_expected", "Optimizer steps that the run is to take", progress.total_steps as f64);
    gauge("samples_per_second", "Training rows per second", progress.samples_per_second);
    gauge("eta_seconds", "Time until the training is done", progress.eta_seconds.unwrap_or(f64::NAN));
    gauge("rows_read", "Rows read from the source", progress.data.rows_read as f64);
    gauge("peak_memory_bytes", "Most memory that the process held", progress.peak_memory_bytes as f64);
    let device = progress.device.as_ref();
    if let Some(bytes) = device.and_then(|device| device.memory_bytes) {
        gauge("device_memory_bytes", "Memory in use on the device", bytes as f64);
    }
    if let Some(utilization) = device.and_then(|device| device.utilization) {
        gauge("device_utilization", "Share of the time that the device computes", utilization);
    }
    let values = Family::<MetricLabels, Float>::default();
    for (split, metrics) in &progress.metrics {
        for (metric, value) in metrics {
            values.get_or_create(&MetricLabels { split: split.name(), metric: metric.clone() }).set(*value);
        }
    }
    registry.register("metric", "Latest metrics per split", values);
    registry
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn get(path: &str) -> (StatusCode, String) {
        let tracker = Arc::new(Tracker::new("1-0123abcd".into()));
        tracker.update(|progress| progress.epoch = 7);
        let request = axum::http::Request::get(path).body(Body::empty()).unwrap();
        let response = router(tracker).oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn the_progress_is_read_back_as_it_was_written() {
        let (status, body) = get(PROGRESS_PATH).await;
        assert_eq!(status, StatusCode::OK);
        let progress: Progress = serde_json::from_str(&body).unwrap();
        assert_eq!((progress.run.as_str(), progress.epoch), ("1-0123abcd", 7));
    }

    #[tokio::test]
    async fn metrics_are_in_the_format_of_prometheus() {
        let (status, body) = get("/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.contains("stoker_training_epoch 7.0\n") && body.ends_with("# EOF\n"), "{body}");
    }

    #[tokio::test]
    async fn there_is_nothing_else_to_ask() {
        assert_eq!(get("/v1/stop").await.0, StatusCode::NOT_FOUND);
    }
}
