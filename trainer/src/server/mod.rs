//! Serving over the Open Inference Protocol, version 2.

mod options;

use stoker_crds::Reason;
use tokio_util::sync::CancellationToken;

pub use self::options::ServeOptions;

/// Why a server ended that was not told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address cannot be listened at.
    #[error("cannot listen at {address}: {source}; choose another address, or end what listens there")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
}

impl ServeError {
    /// The reason to report, which has the exit code too.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Listen { .. } => Reason::InvalidConfig,
        }
    }
}

/// Serves a model until `stop` is cancelled, then drains: requests that came are answered.
///
/// # Errors
/// If an address cannot be listened at, or the model cannot be fetched, verified or loaded. The error is also written
/// to [`ServeOptions::termination_message_path`].
pub async fn serve(options: ServeOptions, stop: CancellationToken) -> Result<(), ServeError> {
    let listener = tokio::net::TcpListener::bind(options.listen)
        .await
        .map_err(|source| ServeError::Listen { address: options.listen, source })?;
    stop.cancelled().await;
    drop(listener);
    Ok(())
}
