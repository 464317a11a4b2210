//! The management port: probes, statistics, metrics.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use stoker_crds::serving::{STATS_PATH, ServerStats};

use super::{api_error::ApiError, incident::Incident, metrics, state::ServerState};

type Shared = Arc<ServerState>;

/// The routes of the management port, which change nothing and need no key.
pub(super) fn router(state: Shared) -> Router {
    Router::new()
        .route(
            "/healthz",
            get(async |State(state): State<Shared>| probe(state.is_live(), "the model does not compute")),
        )
        .route("/readyz", get(async |State(state): State<Shared>| probe(state.is_ready(), "loading or draining")))
        .route(STATS_PATH, get(stats))
        .route("/metrics", get(metrics))
        .fallback(async || (StatusCode::NOT_FOUND, "not found\n"))
        .with_state(state)
}

fn probe(is_good: bool, otherwise: &'static str) -> (StatusCode, &'static str) {
    if is_good { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, otherwise) }
}

async fn stats(State(state): State<Shared>) -> Json<ServerStats> {
    let digest = state.model().map(|model| model.digest().to_owned()).unwrap_or_default();
    Json(state.metrics.stats(&digest))
}

async fn metrics(State(state): State<Shared>) -> Result<impl IntoResponse, ApiError> {
    let digest = state.model().map(|model| model.digest().to_owned()).unwrap_or_default();
    let (name, version) = (state.options.name.clone(), state.options.model_version.clone());
    let registry = state.metrics.registry(&[("name", name), ("version", version), ("digest", digest)]);
    let body = metrics::encode(&registry).map_err(|error| ApiError::Internal(Incident::log(error)))?;
    Ok(([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], body))
}
