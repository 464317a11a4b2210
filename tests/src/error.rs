//! What can go wrong between a test or the demo and the cluster.

use std::{fmt, path::PathBuf};

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, and with what.
#[derive(thiserror::Error)]
pub enum Error {
    /// The kubeconfig cannot be used.
    #[error("no cluster is configured: {0}. Bring one up with tests/cluster/up, or set KUBECONFIG.")]
    Kubeconfig(String),
    /// The API server refused a request, or did not answer.
    #[error("{what}: {}", api_message(source))]
    Api {
        /// What was asked for.
        what: String,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// A condition did not come to hold.
    #[error("waited {seconds} s for {what}. Last seen:\n{last}")]
    Timeout {
        /// The condition, in words.
        what: String,
        /// How long it was waited for.
        seconds: u64,
        /// The state that was seen last, as YAML.
        last: String,
    },
    /// A manifest is no YAML, or no Kubernetes object.
    #[error("{file}: {message}")]
    Manifest {
        /// The file, or what the text is.
        file: String,
        /// What is wrong with it.
        message: String,
    },
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A program is missing, or ended with an error.
    #[error("`{command}` failed: {output}")]
    Command {
        /// As it would be typed.
        command: String,
        /// What it said.
        output: String,
    },
    /// The object storage refused a request, or did not answer.
    #[error("object storage: {0}")]
    Storage(#[from] object_store::Error),
    /// A server cannot be reached.
    #[error("{what}: {source}")]
    Http {
        /// What was asked for.
        what: String,
        /// Why it failed.
        source: reqwest::Error,
    },
    /// Something in the cluster is not as it must be.
    #[error("{0}")]
    Unexpected(String),
}

/// What a person needs of the API server's answer: its message alone.
fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// An error shows as its message wherever it ends: in `main`, and where a test unwraps it.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Says what a request to the API server was for.
pub trait ApiContext<T> {
    /// Adds what was asked for.
    ///
    /// # Errors
    /// If the request failed.
    fn asked(self, what: impl Into<String>) -> Result<T>;
}

impl<T> ApiContext<T> for std::result::Result<T, kube::Error> {
    fn asked(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::Api { what: what.into(), source: Box::new(source) })
    }
}
