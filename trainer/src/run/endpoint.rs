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
use stoker_crds::{
    Progress,
    progress::{Estimate, PROGRESS_PATH, Throughput},
};

use super::tracker::Tracker;

/// The routes.
pub(super) fn router(tracker: Arc<Tracker>) -> Router {
    Router::new().route(PROGRESS_PATH, get(progress)).route("/metrics", get(metrics)).with_state(tracker)
}

async fn progress(State(tracker): State<Arc<Tracker>>) -> Result<Json<Progress>, StatusCode> {
    now(tracker).await.map(Json)
}

async fn metrics(State(tracker): State<Arc<Tracker>>) -> Result<Response, StatusCode> {
    let (mut text, progress) = (String::new(), now(tracker).await?);
    encode(&mut text, &registry(&progress)).map_err(|error| unanswered(&error))?;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}

/// A device answers between two of its tasks: other requests do not wait for that.
async fn now(tracker: Arc<Tracker>) -> Result<Progress, StatusCode> {
    tokio::task::spawn_blocking(move || tracker.progress()).await.map_err(|error| unanswered(&error))
}

fn unanswered(error: &(dyn std::error::Error + 'static)) -> StatusCode {
    tracing::error!(error, "the run's progress cannot be told");
    StatusCode::INTERNAL_SERVER_ERROR
}

type Float = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MetricLabels {
    split: &'static str,
    metric: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MemoryLabels {
    part: &'static str,
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
    gauge("eta_seconds", "Time until the training is done", progress.eta_seconds.unwrap_or(f64::NAN));
    gauge("rows_read", "Rows read from the source", progress.data.rows_read as f64);
    gauge("peak_memory_bytes", "Most memory that the process held", progress.peak_memory_bytes as f64);
    for (name, help, value) in figures(&progress.throughput) {
        if let Some(value) = value {
            gauge(name, help, value);
        }
    }
    let device = progress.device.as_ref();
    if let Some(bytes) = device.and_then(|device| device.total_memory_bytes) {
        gauge("device_total_memory_bytes", "Memory that the device has", bytes as f64);
    }
    if let Some(bytes) = device.and_then(|device| device.memory_bytes) {
        gauge("device_memory_bytes", "Memory in use on the device", bytes as f64);
    }
    if let Some(utilization) = device.and_then(|device| device.utilization) {
        gauge("device_utilization", "Share of the time that the device computes", utilization);
    }
    if let Some(estimate) = &progress.estimate {
        gauge("parameters", "Numbers that the model has", estimate.parameters as f64);
        registry.register("estimated_memory_bytes", "About what the training takes, by part", memory(estimate));
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

/// Name, meaning and value of each figure.
fn figures(throughput: &Throughput) -> [(&'static str, &'static str, Option<f64>); 6] {
    let Throughput { samples_per_second, tokens_per_second, tflops, mfu, data_wait, checkpoint_stall } = *throughput;
    [
        ("samples_per_second", "Training rows per second", samples_per_second),
        ("tokens_per_second", "Tokens per second", tokens_per_second),
        ("flops_per_second", "Floating-point operations per second that the model needs", tflops.map(|t| t * 1e12)),
        ("model_flops_utilization", "Those operations as a share of the device's peak", mfu),
        ("data_wait_ratio", "Share of the time that is spent on waiting for batches", data_wait),
        (
            "checkpoint_stall_ratio",
            "Share of the time that is spent on standing still for checkpoints",
            checkpoint_stall,
        ),
    ]
}

fn memory(estimate: &Estimate) -> Family<MemoryLabels, Float> {
    let Estimate { parameters: _, weights_bytes, gradients_bytes, optimizer_bytes, activations_bytes, copies_bytes } =
        *estimate;
    let parts = Family::<MemoryLabels, Float>::default();
    for (part, bytes) in [
        ("weights", weights_bytes),
        ("gradients", gradients_bytes),
        ("optimizer", optimizer_bytes),
        ("activations", activations_bytes),
        ("copies", copies_bytes),
    ] {
        parts.get_or_create(&MemoryLabels { part }).set(bytes as f64);
    }
    parts
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt;
    use stoker_crds::progress::DeviceInfo;
    use tower::ServiceExt;

    use super::*;

    async fn get(path: &str) -> (StatusCode, String) {
        let tracker = Arc::new(Tracker::new("1-0123abcd".into()));
        tracker.update(|progress| {
            progress.epoch = 7;
            progress.throughput.tokens_per_second = Some(12_800.5);
            progress.throughput.tflops = Some(0.25);
            progress.estimate = Some(Estimate {
                parameters: 10,
                weights_bytes: 40,
                gradients_bytes: 40,
                optimizer_bytes: 80,
                activations_bytes: 1000,
                copies_bytes: 120,
            });
        });
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
        assert_eq!(progress.throughput.tokens_per_second, Some(12_800.5));
        assert_eq!(progress.estimate.unwrap().memory_bytes(), 1280);
    }

    #[tokio::test]
    async fn metrics_are_in_the_format_of_prometheus() {
        let (status, body) = get("/metrics").await;
        assert_eq!(status, StatusCode::OK);
        for line in [
            "stoker_training_epoch 7.0",
            "stoker_training_tokens_per_second 12800.5",
            "stoker_training_flops_per_second 250000000000.0",
            "stoker_training_parameters 10.0",
            "stoker_training_estimated_memory_bytes{part=\"activations\"} 1000.0",
            "stoker_training_estimated_memory_bytes{part=\"copies\"} 120.0",
            "# EOF",
        ] {
            assert!(body.lines().any(|found| found == line), "{line} is not in\n{body}");
        }
        assert!(!body.contains("utilization"), "what is not known is not told\n{body}");
    }

    #[test]
    fn each_figure_of_the_throughput_and_the_device_is_told_by_its_name() {
        let mut progress = Tracker::new("1-0123abcd".into()).progress();
        progress.throughput = Throughput {
            samples_per_second: Some(1.0),
            tokens_per_second: Some(2.0),
            tflops: Some(3e-12),
            mfu: Some(0.25),
            data_wait: Some(0.5),
            checkpoint_stall: Some(0.75),
        };
        progress.device = Some(DeviceInfo {
            name: "a GPU".into(),
            memory_bytes: Some(4),
            total_memory_bytes: Some(5),
            utilization: Some(0.125),
        });
        let mut text = String::new();
        encode(&mut text, &registry(&progress)).unwrap();
        for line in [
            "samples_per_second 1.0",
            "tokens_per_second 2.0",
            "flops_per_second 3.0",
            "model_flops_utilization 0.25",
            "data_wait_ratio 0.5",
            "checkpoint_stall_ratio 0.75",
            "device_memory_bytes 4.0",
            "device_total_memory_bytes 5.0",
            "device_utilization 0.125",
        ] {
            let line = format!("stoker_training_{line}");
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[tokio::test]
    async fn there_is_nothing_else_to_ask() {
        assert_eq!(get("/v1/stop").await.0, StatusCode::NOT_FOUND);
    }
}
