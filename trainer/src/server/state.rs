//! What the handlers of both ports share.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use super::{
    ServeError, ServeOptions, api_error::ApiError, auth::ApiKeys, body::BodyReader, metrics::Metrics,
    model::ServedModel,
};

/// The server, as its handlers see it.
#[derive(Debug)]
pub(super) struct ServerState {
    pub(super) options: ServeOptions,
    pub(super) keys: Option<Arc<ApiKeys>>,
    pub(super) bodies: BodyReader,
    pub(super) metrics: Metrics,
    model: OnceLock<Arc<ServedModel>>,
    is_draining: AtomicBool,
}

impl ServerState {
    /// A server without its model.
    ///
    /// # Errors
    /// If there are to be API keys and they cannot be read.
    pub(super) fn new(options: ServeOptions) -> Result<Self, ServeError> {
        Ok(Self {
            keys: options.api_keys_dir.as_deref().map(ApiKeys::read).transpose()?.map(Arc::new),
            bodies: BodyReader::new(options.max_body_bytes),
            metrics: Metrics::default(),
            model: OnceLock::new(),
            is_draining: AtomicBool::new(false),
            options,
        })
    }

    /// From here on the model answers. A second model is ignored.
    pub(super) fn set_model(&self, model: ServedModel) {
        let _ = self.model.set(Arc::new(model));
    }

    /// The model.
    ///
    /// # Errors
    /// If it is not loaded yet.
    pub(super) fn model(&self) -> Result<&Arc<ServedModel>, ApiError> {
        self.model.get().ok_or(ApiError::Loading)
    }

    /// From here on the server is not ready, and each answer asks its client to connect anew, to another pod.
    pub(super) fn start_draining(&self) {
        self.is_draining.store(true, Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Relaxed)
    }

    /// Whether the server should get requests.
    pub(super) fn is_ready(&self) -> bool {
        !self.is_draining() && self.model().is_ok_and(|model| model.computes())
    }

    /// Whether the server should not be restarted.
    pub(super) fn is_live(&self) -> bool {
        self.model().map_or(true, |model| model.computes())
    }
}
