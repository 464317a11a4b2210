//! The operator's own HTTP port: `/healthz`, `/readyz` and `/metrics`.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::net::TcpListener;

/// The type of the answer to `/metrics`.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers for ever. A replica that does not lead is healthy and ready too: it waits to take over.
///
/// # Errors
/// If the address cannot be listened on.
pub async fn serve(address: SocketAddr, registry: Arc<Registry>) -> io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(async || "ok"))
        .route("/metrics", get(metrics))
        .with_state(registry);
    axum::serve(TcpListener::bind(address).await?, router).await
}

async fn metrics(State(registry): State<Arc<Registry>>) -> impl IntoResponse {
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => (StatusCode::OK, [("content-type", OPENMETRICS)], text),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, [("content-type", "text/plain")], String::new()),
    }
}
