//! The operator's own HTTP port: `/healthz`, `/readyz` and `/metrics`.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::net::TcpListener;

use crate::readiness::Readiness;

/// The type of the answer to `/metrics`.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers for ever. A replica that does not lead is healthy too, and ready once it can take over.
///
/// # Errors
/// If the address cannot be listened on.
pub async fn serve(address: SocketAddr, registry: Arc<Registry>, readiness: Readiness) -> io::Result<()> {
    axum::serve(TcpListener::bind(address).await?, router(registry, readiness)).await
}

fn router(registry: Arc<Registry>, readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready).with_state(readiness))
        .route("/metrics", get(metrics))
        .with_state(registry)
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, &'static str) {
    match readiness.waits_for() {
        None => (StatusCode::OK, "ok"),
        Some(what) => (StatusCode::SERVICE_UNAVAILABLE, what),
    }
}

async fn metrics(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => (StatusCode::OK, [("content-type", OPENMETRICS)], text),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, [("content-type", "text/plain")], String::new()),
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn answer(path: &str, readiness: &Readiness) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = router(Arc::default(), readiness.clone()).oneshot(request).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_replica_is_healthy_at_once_and_says_what_it_waits_for_until_it_is_ready() {
        let (readiness, ok) = (Readiness::default(), (StatusCode::OK, "ok".to_owned()));
        assert_eq!(answer("/healthz", &readiness).await, ok);
        let (status, what) = answer("/readyz", &readiness).await;
        assert!(status == StatusCode::SERVICE_UNAVAILABLE && what.contains("Lease"), "{status}: {what}");
        readiness.has_read_lease();
        assert_eq!(answer("/readyz", &readiness).await, ok);
    }
}
