//! Why a server does not serve.

use std::{fs, io, net::SocketAddr, path::Path};

use stoker_crds::{
    Reason,
    report::{MAX_REPORT_BYTES, RunError},
};

use super::auth::ApiKeysError;
use crate::{
    artifact::ArtifactError,
    model::{DeviceError, ModelError},
    storage::StorageError,
};

/// Why a server ended that was not told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address cannot be listened at.
    #[error("cannot listen at {address}: {source}; choose another address, or end what listens there")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The API keys cannot be read.
    #[error(transparent)]
    ApiKeys(#[from] ApiKeysError),
    /// There is no such device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The model's URI cannot be opened.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The artifact cannot be fetched, or is not what its manifest says.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The weights cannot be loaded.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The fitted transforms cannot be read.
    #[error("the model's preprocessor.json cannot be read: {0}; publish the model again")]
    Preprocessor(#[source] serde_json::Error),
    /// Files of different models.
    #[error("the model's preprocessor.json does not fit its config.json; publish the model again")]
    Mismatch,
    /// There is no thread for the model.
    #[error("the system refuses a thread for the model: {0}; raise the pod's limit of processes")]
    Thread(#[source] io::Error),
    /// The first prediction failed.
    #[error("the model is loaded, but does not compute; the log says why")]
    WarmUp,
}

impl ServeError {
    /// The reason to report, which has the exit code too.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Listen { .. } | Self::ApiKeys(_) => Reason::InvalidConfig,
            Self::Device(error) => error.reason(),
            Self::Storage(error) => error.reason(),
            Self::Artifact(error) => error.reason(),
            Self::Model(error) => error.reason(),
            Self::Preprocessor(_) | Self::Mismatch => Reason::CorruptArtifact,
            Self::Thread(_) | Self::WarmUp => Reason::Internal,
        }
    }

    /// Writes the error to where Kubernetes reads termination messages.
    pub(super) fn write_termination_message(&self, path: &Path) {
        let mut report = RunError { reason: self.reason(), message: self.to_string() };
        let written = serde_json::to_string(&report).map_err(io::Error::from).and_then(|text| {
            if text.len() <= MAX_REPORT_BYTES {
                return fs::write(path, text);
            }
            report.message = report.message.chars().take(256).chain(['…']).collect();
            fs::write(path, serde_json::to_string(&report)?)
        });
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), "cannot write the termination message: {error}");
        }
    }
}
