//! The inference port: the protocol's routes.

use std::{panic::AssertUnwindSafe, sync::Arc};

use axum::{
    Json, Router,
    extract::{FromRequestParts, Path, Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode, Uri,
        header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE},
        request::Parts,
    },
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::FutureExt;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use super::{api_error::ApiError, body::linger, incident::Incident, protocol::ServerMetadata, state::ServerState};

type Shared = Arc<ServerState>;

/// The routes of the inference port. Health is open to everybody, the rest to those who have a key.
pub(super) fn router(state: Shared) -> Router {
    let health = Router::new()
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/{name}/ready", get(model_ready))
        .route("/v2/models/{name}/versions/{version}/ready", get(model_ready));
    let about = Router::new()
        .route("/v2", get(async || Json(ServerMetadata::STOKER)))
        .route("/v2/models/{name}", get(model_metadata))
        .route("/v2/models/{name}/versions/{version}", get(model_metadata))
        .route_layer(from_fn_with_state(Arc::clone(&state), require_key));
    let inference = Router::new()
        .route("/v2/models/{name}/infer", post(infer))
        .route("/v2/models/{name}/versions/{version}/infer", post(infer))
        .route_layer(from_fn_with_state(Arc::clone(&state), require_key))
        .route_layer(from_fn(catch_panic))
        .route_layer(from_fn_with_state(Arc::clone(&state), measure));
    health
        .merge(about)
        .merge(inference)
        .fallback(async |uri: Uri| ApiError::UnknownPath(uri.path().chars().take(100).collect()))
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        .layer(from_fn(linger))
        .layer(from_fn_with_state(Arc::clone(&state), leave_when_draining))
        .with_state(state)
}

/// The model that a path names: the one that is served, or 404.
struct KnownModel;

#[derive(Deserialize)]
struct ModelPath {
    name: String,
    version: Option<String>,
}

impl FromRequestParts<Shared> for KnownModel {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, ApiError> {
        let (name, version) = (&state.options.name, &state.options.model_version);
        let path = Path::<ModelPath>::from_request_parts(parts, state).await;
        let is_known = path.is_ok_and(|Path(path)| path.name == *name && path.version.is_none_or(|v| v == *version));
        let unknown = || ApiError::UnknownModel { name: name.clone(), version: version.clone() };
        if is_known { Ok(Self) } else { Err(unknown()) }
    }
}

#[derive(Serialize)]
struct Live {
    live: bool,
}

#[derive(Serialize)]
struct Ready {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    ready: bool,
}

async fn live(State(state): State<Shared>) -> impl IntoResponse {
    let live = state.is_live();
    (ok_if(live), Json(Live { live }))
}

async fn ready(State(state): State<Shared>) -> impl IntoResponse {
    let ready = state.is_ready();
    (ok_if(ready), Json(Ready { name: None, ready }))
}

async fn model_ready(_: KnownModel, State(state): State<Shared>) -> impl IntoResponse {
    let ready = state.is_ready();
    (ok_if(ready), Json(Ready { name: Some(state.options.name.clone()), ready }))
}

fn ok_if(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn model_metadata(_: KnownModel, State(state): State<Shared>) -> Result<Response, ApiError> {
    Ok(json(state.model()?.metadata().clone()))
}

async fn infer(_: KnownModel, State(state): State<Shared>, request: Request) -> Result<Response, ApiError> {
    let model = state.model()?;
    require_json(request.headers())?;
    let deadline = Instant::now() + state.options.timeout.0;
    let (body, _memory) = state.bodies.read(request.into_body(), deadline).await?;
    let answer = timeout_at(deadline, model.infer(body)).await.map_err(|_| ApiError::Timeout)??;
    Ok(json(answer))
}

fn require_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let is_plain = headers.get(CONTENT_ENCODING).is_none_or(|encoding| encoding == "identity");
    let is_json = essence.eq_ignore_ascii_case("application/json");
    if is_json && is_plain { Ok(()) } else { Err(ApiError::UnsupportedMediaType) }
}

fn json(body: impl IntoResponse) -> Response {
    let mut response = body.into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn require_key(State(state): State<Shared>, request: Request, next: Next) -> Result<Response, ApiError> {
    match &state.keys {
        Some(keys) if !keys.accept(request.headers()) => Err(ApiError::Unauthorized),
        _ => Ok(next.run(request).await),
    }
}

async fn measure(State(state): State<Shared>, request: Request, next: Next) -> Response {
    let in_flight = state.metrics.start();
    let response = next.run(request).await;
    in_flight.answered(response.status());
    response
}

/// A defect costs one request its answer, not the others their connection.
pub(super) async fn catch_panic(request: Request, next: Next) -> Response {
    AssertUnwindSafe(next.run(request)).catch_unwind().await.unwrap_or_else(|_| {
        ApiError::Internal(Incident::log("a handler panicked; the panic's own message stands above")).into_response()
    })
}

async fn leave_when_draining(State(state): State<Shared>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if state.is_draining() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
