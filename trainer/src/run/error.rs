//! Why a run ends without a model.

use std::path::PathBuf;

use stoker_crds::{Reason, config::ResolveError, report};

use super::manifest::ManifestError;
use crate::{
    artifact::ArtifactError,
    base::BaseError,
    data::DataError,
    model::{DeviceError, ModelError},
    storage::StorageError,
    training::TrainError,
};

/// Why a run ends without a model.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The manifest cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The spec leaves something open.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The configuration that the operator wrote cannot be read.
    #[error("the configuration {path} cannot be read: {message}; the operator and the trainer image are of different versions: set trainer.image.tag to the operator's version", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A file or folder of this machine cannot be used.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The data cannot be trained on.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The model cannot be started from.
    #[error(transparent)]
    Base(#[from] BaseError),
    /// A training that is to be started from has not published here.
    #[error(
        "spec.model.from.training: no such version of '{training}' lies at {uri}: run that training first, with the same \
         --storage, or correct the name or the version"
    )]
    NoVersion {
        /// The training.
        training: String,
        /// Where its models would be.
        uri: String,
    },
    /// There is no such device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The model cannot be made or computed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The training failed.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The artifact cannot be written or read.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The run was told to end before it trained.
    #[error("the run was told to end before it was done; it goes on from its last checkpoint when it is started again")]
    Stopped,
    /// A thread of the run ended by a panic.
    #[error("the run ended by a defect of Stoker: {0}; please report it with the pod's log")]
    Panic(String),
    /// The server that was asked did not answer as it should.
    #[error("{0}")]
    Server(String),
}

impl RunError {
    /// The reason that is reported.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Manifest(_) | Self::Resolve(_) | Self::Config { .. } => Reason::InvalidConfig,
            Self::NoVersion { .. } => Reason::ModelNotFound,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => Reason::DiskFull,
            Self::Io { .. } | Self::Panic(_) => Reason::Internal,
            Self::Storage(error) => error.reason(),
            Self::Data(error) => error.reason(),
            Self::Base(error) => error.reason(),
            Self::Device(error) => error.reason(),
            Self::Model(error) => error.reason(),
            Self::Train(error) => error.reason(),
            Self::Artifact(error) => error.reason(),
            Self::Stopped => Reason::Preempted,
            Self::Server(_) => Reason::NotReady,
        }
    }

    /// The exit code: that of the reason, but for a configuration that no other try would make fit.
    pub fn exit_code(&self) -> u8 {
        let reason = match (self, self.reason()) {
            (Self::Train(TrainError::TooLarge(_)), _) | (_, Reason::OutOfMemory) => Reason::InvalidConfig,
            (_, reason) => reason,
        };
        reason.exit_code().unwrap_or(1)
    }

    /// Whether another pod tries.
    pub(super) fn is_tried_again(&self) -> bool {
        !report::FINAL_EXIT_CODES.contains(&self.exit_code())
    }

    /// What the report says.
    pub fn report(&self) -> report::RunError {
        report::RunError { reason: self.reason(), message: self.to_string() }
    }
}
