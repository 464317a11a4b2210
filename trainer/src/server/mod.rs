//! Serving over the Open Inference Protocol, version 2.
//!
//! A request passes [`connections`] → [`inference`] (routes, keys, limits) → [`protocol`] (JSON to columns) → the
//! model's fitted transforms → [`batcher`] (requests that come together are computed together) → [`protocol`] again.
//! [`management`] is a port of its own, for probes, metrics and the operator.

mod api_error;
mod auth;
mod batcher;
mod body;
mod connections;
mod error;
mod incident;
mod inference;
mod management;
mod metrics;
mod model;
mod options;
mod protocol;
mod state;
#[cfg(test)]
mod tests;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub(crate) use self::model::artifact_uri;
use self::{connections::Connections, model::ServedModel, state::ServerState};
pub use self::{error::ServeError, options::ServeOptions};

/// How long the management port's requests may take to end, after all others have.
const MANAGEMENT_DRAIN: Duration = Duration::from_secs(1);

/// Serves a model until `stop` is cancelled, then drains: requests that came are answered.
///
/// # Errors
/// If an address cannot be listened at, or the model cannot be fetched, verified or loaded. The error is also written
/// to [`ServeOptions::termination_message_path`].
pub async fn serve(options: ServeOptions, stop: CancellationToken) -> Result<(), ServeError> {
    let termination_message_path = options.termination_message_path.clone();
    let served = match Server::bind(options).await {
        Ok(server) => server.run(stop).await,
        Err(error) => Err(error),
    };
    served.inspect_err(|error| {
        if let Some(path) = termination_message_path {
            error.write_termination_message(&path);
        }
    })
}

/// A server that listens, and does not answer yet.
#[derive(Debug)]
pub struct Server {
    state: ServerState,
    inference: TcpListener,
    management: TcpListener,
}

impl Server {
    /// Listens at both addresses. Port 0 takes any free one.
    ///
    /// # Errors
    /// If an address cannot be listened at, or the API keys cannot be read.
    pub async fn bind(options: ServeOptions) -> Result<Self, ServeError> {
        let inference = listen(options.listen).await?;
        let management = listen(options.management_listen).await?;
        Ok(Self { state: ServerState::new(options)?, inference, management })
    }

    /// Where inference is served.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn inference_address(&self) -> io::Result<SocketAddr> {
        self.inference.local_addr()
    }

    /// Where probes, metrics and statistics are served.
    ///
    /// # Errors
    /// If the system does not say.
    pub fn management_address(&self) -> io::Result<SocketAddr> {
        self.management.local_addr()
    }

    /// Answers health at once, and inference once the model is fetched, verified, loaded and warm; until `stop`.
    ///
    /// # Errors
    /// If the model cannot be fetched, verified or loaded.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ServeError> {
        let (options, metrics) = (self.state.options.clone(), self.state.metrics.clone());
        self.run_with(async { ServedModel::load(&options, &metrics).await }, stop).await
    }

    async fn run_with(
        self,
        load: impl Future<Output = Result<ServedModel, ServeError>>,
        stop: CancellationToken,
    ) -> Result<(), ServeError> {
        let Self { state, inference, management } = self;
        let state = Arc::new(state);
        // Ends the background tasks with this function, however it ends.
        let background = CancellationToken::new();
        let _end_background = background.clone().drop_guard();

        let clients = Connections::new(state.options.idle_timeout.0);
        let probes = Connections::new(state.options.idle_timeout.0);
        tokio::spawn(clients.clone().accept(inference, inference::router(Arc::clone(&state))));
        tokio::spawn(probes.clone().accept(management, management::router(Arc::clone(&state))));
        if let Some(keys) = state.keys.clone() {
            tokio::spawn(async move { keys.keep_fresh(background).await });
        }
        let served = load_and_serve(&state, load, stop).await;
        clients.drain(if served.is_ok() { state.options.drain_timeout.0 } else { Duration::ZERO }).await;
        probes.drain(MANAGEMENT_DRAIN).await;
        served
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })
}

/// Ends when the server is to take no more connections.
async fn load_and_serve(
    state: &ServerState,
    load: impl Future<Output = Result<ServedModel, ServeError>>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let options = &state.options;
    let Some(model) = stop.run_until_cancelled(load).await.transpose()? else { return Ok(()) };
    tracing::info!(name = options.name, version = options.model_version, digest = model.digest(), "ready");
    state.set_model(model);
    stop.cancelled().await;
    tracing::info!("draining: not ready any more; requests are still taken for {}", options.drain_delay);
    state.start_draining();
    tokio::time::sleep(options.drain_delay.0).await;
    Ok(())
}
