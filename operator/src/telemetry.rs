//! Logs as JSON lines, and traces over OTLP where the standard environment variables name a collector.

use std::{sync::Arc, time::Duration};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{SdkTracerProvider, SpanData},
};
use tokio::runtime::Handle;
use tracing_subscriber::{Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// The name in traces, unless `OTEL_SERVICE_NAME` says another.
const SERVICE: &str = "stoker-operator";
/// The variables that name a collector.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
/// How long the last spans may take on their way.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// Logs and traces, until stopped.
#[derive(Debug)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

/// Why logs and traces cannot start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The variables of OpenTelemetry are not understood.
    #[error("traces cannot be exported: check OTEL_EXPORTER_OTLP_ENDPOINT")]
    Exporter(#[from] ExporterBuildError),
    /// Somebody else has set up logs before.
    #[error("logs are set up already")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Starts logs and traces for the whole process; `log` says what is logged.
///
/// # Errors
/// If the environment variables of OpenTelemetry are not understood.
pub fn start(log: &Targets) -> Result<Telemetry, TelemetryError> {
    let logs =
        tracing_subscriber::fmt::layer().json().flatten_event(true).with_current_span(true).with_span_list(false);
    let traces = provider()?;
    let exported = traces.as_ref().map(|provider| {
        // The exporter's own requests are not of interest, and would be exported in turn.
        let of_stoker = Targets::new()
            .with_target("stoker_operator", tracing::Level::INFO)
            .with_target("kube_runtime::controller", tracing::Level::INFO)
            .with_target("kube_client", tracing::Level::DEBUG);
        tracing_opentelemetry::layer().with_tracer(provider.tracer(SERVICE)).with_filter(of_stoker)
    });
    tracing_subscriber::registry().with(logs.with_filter(log.clone())).with(exported).try_init()?;
    Ok(Telemetry { traces })
}

fn provider() -> Result<Option<SdkTracerProvider>, ExporterBuildError> {
    if ENDPOINTS.iter().all(|name| std::env::var_os(name).is_none_or(|value| value.is_empty())) {
        return Ok(None);
    }
    let exporter =
        OnRuntime { exporter: Arc::new(SpanExporter::builder().with_http().build()?), runtime: Handle::current() };
    let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
        Some(_) => Resource::builder().build(),
        None => Resource::builder().with_service_name(SERVICE).build(),
    };
    Ok(Some(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build()))
}

impl Telemetry {
    /// Sends the last spans.
    pub async fn stop(self) {
        let Some(traces) = self.traces else { return };
        // It blocks until the exporter is done, which needs this runtime.
        let stopped = tokio::task::spawn_blocking(move || traces.shutdown_with_timeout(SHUTDOWN)).await;
        if !matches!(stopped, Ok(Ok(()))) {
            tracing::warn!("the last traces could not be sent");
        }
    }
}

/// Exports on this process's runtime: spans are collected by a thread that has none, and HTTP needs one.
#[derive(Debug)]
struct OnRuntime {
    exporter: Arc<SpanExporter>,
    runtime: Handle,
}

impl opentelemetry_sdk::trace::SpanExporter for OnRuntime {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exporter = self.exporter.clone();
        let exported = self
            .runtime
            .spawn(async move { opentelemetry_sdk::trace::SpanExporter::export(exporter.as_ref(), batch).await });
        exported.await.unwrap_or_else(|error| Err(OTelSdkError::InternalFailure(error.to_string())))
    }
}
