//! What failures of object storage mean.

use std::{error::Error, io};

use stoker_crds::Reason;

type BoxError = Box<dyn Error + Send + Sync>;

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
        source: Option<BoxError>,
    },
    /// The bucket or container does not exist.
    #[error("the bucket of {uri} does not exist at {endpoint}: create it, or correct the URI")]
    BucketNotFound {
        /// What was asked for.
        uri: String,
        /// The server that was asked.
        endpoint: String,
        /// The storage's answer.
        source: Option<BoxError>,
    },
    /// The object does not exist.
    #[error("{uri} does not exist")]
    NotFound {
        /// What was asked for.
        uri: String,
        /// The storage's answer.
        source: Option<BoxError>,
    },
    /// The object exists already and was to be created.
    #[error("{uri} exists already: somebody else wrote it at the same time")]
    AlreadyExists {
        /// What was to be created.
        uri: String,
        /// The storage's answer.
        source: Option<BoxError>,
    },
    /// The object is no longer the one that was begun to be read.
    #[error(
        "{uri} was changed while it was being read, so nothing of it was used: another try starts over with what is there \
         then; let nothing write to it during a run"
    )]
    Changed {
        /// What was read.
        uri: String,
        /// The storage's answer.
        source: Option<BoxError>,
    },
    /// The storage did not answer, or answered with a passing error, for longer than the retries last.
    #[error("{uri}: the storage at {endpoint} does not answer as it should: {detail}")]
    Unavailable {
        /// What was asked for.
        uri: String,
        /// The server that was asked.
        endpoint: String,
        /// The storage's last answer, in words.
        detail: String,
        /// The storage's last answer.
        source: Option<BoxError>,
    },
    /// No space is left on the volume that is written to.
    #[error("the volume of {uri} is full: make it larger, or remove from it what is no longer needed")]
    DiskFull {
        /// What was to be written.
        uri: String,
        /// The system's answer.
        source: Option<BoxError>,
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
            // The reason of a storage whose answer will be another one soon: the run is tried again.
            Self::AlreadyExists { .. } | Self::Changed { .. } | Self::Unavailable { .. } => Reason::StorageUnavailable,
            Self::DiskFull { .. } => Reason::DiskFull,
        }
    }

    pub(super) fn invalid(uri: &str, error: &(dyn Error + 'static)) -> Self {
        Self::Invalid { message: format!("{uri} cannot be opened: {}", chain(error)) }
    }

    /// What an error of `object_store` means. Its variants are not enough: a bucket that does not exist, an expired
    /// token or a wrong region differ only in the text of the server's answer.
    pub(crate) fn classify(uri: &str, endpoint: &str, error: &object_store::Error) -> Self {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        use object_store::Error as E;
        let (uri, endpoint, text) = (uri.to_owned(), endpoint.to_owned(), chain(error));
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
        if says(&["NoSuchBucket", "ContainerNotFound", "bucket does not exist"]) {
            return Self::BucketNotFound { uri, endpoint, source: None };
        }
        match error {
            E::NotFound { .. } => Self::NotFound { uri, source: None },
            E::AlreadyExists { .. } => Self::AlreadyExists { uri, source: None },
            E::Precondition { .. } => Self::Changed { uri, source: None },
            _ if is_disk_full(error) => Self::DiskFull { uri, source: None },
            _ if io_kinds(error).any(|kind| matches!(kind, PermissionDenied | ReadOnlyFilesystem)) => {
                let message =
                    format!("{uri}: the file system refuses access: give the pod's user and group the right to it");
                Self::AccessDenied { message, source: None }
            }
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => Self::access_denied(&uri, &endpoint, &text),
            _ if says(&CREDENTIAL_WORDS) => Self::access_denied(&uri, &endpoint, &text),
            _ if says(&["redirect", "PermanentRedirect", "AuthorizationHeaderMalformed"]) => {
                let message =
                    format!("{uri}: the bucket lies in another region than the one that is set: set AWS_REGION");
                Self::Invalid { message }
            }
            E::InvalidPath { .. } | E::NotSupported { .. } | E::NotImplemented { .. } => {
                Self::Invalid { message: format!("{uri}: {text}") }
            }
            _ => Self::Unavailable { uri, endpoint, detail: text, source: None },
        }
    }

    fn access_denied(uri: &str, endpoint: &str, text: &str) -> Self {
        let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        let code = code.map_or_else(String::new, |(code, _)| format!(" ({code})"));
        let variables = match uri.split_once("://") {
            Some(("gs", _)) => "GOOGLE_SERVICE_ACCOUNT_KEY",
            Some(("az", _)) => "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
            _ => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        };
        let message = format!(
            "{uri}: {endpoint} refused the credentials{code}: correct {variables} in the Secret that secretName names, and see that they give the right to this bucket"
        );
        Self::AccessDenied { message, source: None }
    }

    /// Keeps the error that was classified.
    pub(crate) fn with_source(mut self, error: impl Into<BoxError>) -> Self {
        match &mut self {
            Self::Invalid { .. } => {}
            Self::AccessDenied { source, .. }
            | Self::BucketNotFound { source, .. }
            | Self::NotFound { source, .. }
            | Self::AlreadyExists { source, .. }
            | Self::Changed { source, .. }
            | Self::Unavailable { source, .. }
            | Self::DiskFull { source, .. } => *source = Some(error.into()),
        }
        self
    }
}

/// Codes of S3, Google and Azure with statuses that `object_store` takes for other errors.
const CREDENTIAL_WORDS: [&str; 8] = [
    "ExpiredToken",
    "InvalidToken",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AccessDenied",
    "AuthenticationFailed",
    "invalid_grant",
    "403 Forbidden",
];

/// An error and its causes, from the outermost to the innermost.
pub(crate) fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        // The cause that `io::Error` names is that of the error within it.
        Some(inner) => Some(inner as &(dyn Error + 'static)),
        None => error.source(),
    })
}

/// An error with its causes, each said once.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    causes(error).map(ToString::to_string).fold(String::new(), |text, cause| match text.contains(&cause) {
        true => text,
        false if text.is_empty() => cause,
        false => format!("{text}: {cause}"),
    })
}

/// Whether an error comes from a full disk.
pub(crate) fn is_disk_full(error: &(dyn Error + 'static)) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    io_kinds(error).any(|kind| matches!(kind, StorageFull | QuotaExceeded | FileTooLarge))
}

fn io_kinds(error: &(dyn Error + 'static)) -> impl Iterator<Item = io::ErrorKind> {
    causes(error).filter_map(|error| error.downcast_ref()).map(io::Error::kind)
}
