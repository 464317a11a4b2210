//! What failures of object storage mean.

use stoker_crds::Reason;

/// A failure of object storage, sorted by what a person can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The URI or an option cannot be used as it is written.
    #[error("{message}")]
    Invalid {
        /// What is wrong and how it should be.
        message: String,
    },
    /// The storage refused the credentials, or there are none.
    #[error("{message}")]
    AccessDenied {
        /// What was refused where, and which variables to set.
        message: String,
        /// The storage's answer, if it was asked.
        source: Option<object_store::Error>,
    },
    /// The bucket or container does not exist.
    #[error("the bucket of {uri} does not exist at {endpoint}: create it, or correct the URI")]
    BucketNotFound {
        /// What was asked for.
        uri: String,
        /// The server that was asked.
        endpoint: String,
        /// The storage's answer.
        source: object_store::Error,
    },
    /// The object does not exist.
    #[error("{uri} does not exist")]
    NotFound {
        /// What was asked for.
        uri: String,
        /// The storage's answer.
        source: object_store::Error,
    },
    /// The object exists already, and was to be created.
    #[error("{uri} exists already")]
    AlreadyExists {
        /// What was to be created.
        uri: String,
        /// The storage's answer.
        source: object_store::Error,
    },
    /// The storage did not answer, or answered with a passing error, for longer than the retries last.
    #[error("{uri}: the storage at {endpoint} does not answer as it should: {source}")]
    Unavailable {
        /// What was asked for.
        uri: String,
        /// The server that was asked.
        endpoint: String,
        /// The storage's last answer.
        source: object_store::Error,
    },
    /// No space is left on the volume that is written to.
    #[error("the volume of {uri} is full: make it larger, or remove what is no longer needed from it")]
    DiskFull {
        /// What was to be written.
        uri: String,
        /// The system's answer.
        source: object_store::Error,
    },
}

impl StorageError {
    /// The reason that a run which ends by this error reports.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Invalid { .. } => Reason::InvalidConfig,
            Self::AccessDenied { .. } => Reason::AccessDenied,
            Self::BucketNotFound { .. } => Reason::BucketNotFound,
            Self::NotFound { .. } => Reason::DataNotFound,
            Self::AlreadyExists { .. } => Reason::Internal,
            Self::Unavailable { .. } => Reason::StorageUnavailable,
            Self::DiskFull { .. } => Reason::DiskFull,
        }
    }
}
