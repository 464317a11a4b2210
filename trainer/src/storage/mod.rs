//! Object storage: URIs, credentials, and what their failures mean.
//!
//! [`Access`] says how URIs are opened, [`Folder`] is an opened one. Passing failures are retried with backoff for
//! [`RETRY_TIMEOUT`] before they become a [`StorageError`].

mod credentials;
mod error;
mod options;
mod pinned;
mod ranged;
mod uri;

use std::{path::PathBuf, sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, ObjectMeta, ObjectStore, RetryConfig, aws::AmazonS3Builder, azure::MicrosoftAzureBuilder,
    gcp::GoogleCloudStorageBuilder, local::LocalFileSystem, path::Path,
};

pub use self::error::StorageError;
pub(crate) use self::error::{causes, chain, is_disk_full};
use self::{
    options::Options,
    pinned::Pinned,
    ranged::Ranged,
    uri::{Scheme, Uri},
};

/// How long a request is tried again after passing failures.
pub const RETRY_TIMEOUT: Duration = Duration::from_secs(120);

/// How URIs are opened: with which credentials, or under which local folder.
#[derive(Clone, Debug)]
pub struct Access {
    kind: Kind,
    retry_timeout: Duration,
}

#[derive(Clone, Debug)]
enum Kind {
    Cloud(Options),
    Local(PathBuf),
}

/// A folder in object storage, or one object of it.
#[derive(Clone, Debug)]
pub struct Folder {
    /// The store that holds it.
    pub store: Arc<dyn ObjectStore>,
    /// Where it lies in the store.
    pub path: Path,
    /// The same for people: `s3://bucket/folder`.
    pub uri: String,
    endpoint: Arc<str>,
    is_local: bool,
}

impl Access {
    /// Credentials and options from the environment variables that start with `prefix`, such as
    /// `STORAGE_AWS_ACCESS_KEY_ID`, and, for what these don't say, from those without a prefix, which the clouds'
    /// workload identities set. Where no variable starts with `DATA_`, or `BASE_`, those that start with `STORAGE_` hold for
    /// data, or the model to start from, too.
    pub fn from_env(prefix: &str) -> Self {
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self { kind: Kind::Cloud(Options::new(prefix, variables)), retry_timeout: RETRY_TIMEOUT }
    }

    /// Everything lies under a local folder: `s3://bucket/path` in `dir/bucket/path`.
    pub fn local(dir: impl Into<PathBuf>) -> Self {
        Self { kind: Kind::Local(dir.into()), retry_timeout: RETRY_TIMEOUT }
    }

    /// Opens the folder or object of a URI. Nothing is asked of the storage yet.
    ///
    /// # Errors
    /// If the URI or the options cannot be used, or there are no credentials.
    pub fn open(&self, uri: &str) -> Result<Folder, StorageError> {
        let parsed = Uri::parse(uri)?;
        match &self.kind {
            Kind::Cloud(options) if parsed.scheme != Scheme::File => self.open_cloud(&parsed, options),
            Kind::Cloud(_) => open_local(&parsed, parsed.key.clone()),
            Kind::Local(dir) => {
                let invalid = |error: &(dyn std::error::Error + 'static)| StorageError::invalid(uri, error);
                // A folder that is not there yet is written to; one that is may be named by `..` or a link.
                let dir = dir.canonicalize().or_else(|_| std::path::absolute(dir)).map_err(|error| invalid(&error))?;
                let root = Path::from_absolute_path(dir).map_err(|error| invalid(&error))?;
                open_local(&parsed, root.parts().chain(parsed.local_parts()).collect())
            }
        }
    }

    fn open_cloud(&self, uri: &Uri<'_>, options: &Options) -> Result<Folder, StorageError> {
        options.check(uri)?;
        let client = options.client_options();
        let retry = self.retry();
        let store: Result<Arc<dyn ObjectStore>, object_store::Error> = match uri.scheme {
            Scheme::S3 => options
                .apply(AmazonS3Builder::new().with_client_options(client), AmazonS3Builder::with_config)
                .with_bucket_name(uri.bucket)
                .with_retry(retry)
                .build()
                .map(|store| Arc::new(store) as _),
            Scheme::Gs => options
                .apply(
                    GoogleCloudStorageBuilder::new().with_client_options(client),
                    GoogleCloudStorageBuilder::with_config,
                )
                .with_bucket_name(uri.bucket)
                .with_retry(retry)
                .build()
                .map(|store| Arc::new(store) as _),
            Scheme::Az => options
                .apply(MicrosoftAzureBuilder::new().with_client_options(client), MicrosoftAzureBuilder::with_config)
                .with_container_name(uri.bucket)
                .with_retry(retry)
                .build()
                .map(|store| Arc::new(store) as _),
            Scheme::File => Ok(Arc::new(LocalFileSystem::new())),
        };
        let store = store.map_err(|error| StorageError::invalid(uri.text, &error))?;
        Ok(Folder {
            store: Arc::new(Ranged(store)),
            path: uri.key.clone(),
            uri: uri.text.to_owned(),
            endpoint: options.endpoint(uri.scheme).into(),
            is_local: false,
        })
    }

    fn retry(&self) -> RetryConfig {
        let backoff =
            BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(10), base: 2.0 };
        RetryConfig { backoff, max_retries: usize::MAX, retry_timeout: self.retry_timeout }
    }
}

fn open_local(uri: &Uri<'_>, path: Path) -> Result<Folder, StorageError> {
    Ok(Folder {
        store: Arc::new(LocalFileSystem::new().with_automatic_cleanup(true)),
        path,
        uri: uri.text.to_owned(),
        endpoint: "the mounted volume".into(),
        is_local: true,
    })
}

impl Folder {
    /// A folder or object within this one. Each segment is a name: `..` does not lead out of the folder.
    pub fn join(&self, relative: &str) -> Self {
        let segments = relative.split('/').filter(|segment| !segment.is_empty());
        let path = segments.fold(self.path.clone(), |path, segment| path.join(segment));
        self.at(path, format!("{}/{}", self.uri.trim_end_matches('/'), relative.trim_matches('/')))
    }

    /// Another object of the same store.
    pub(crate) fn at(&self, path: Path, uri: String) -> Self {
        Self { path, uri, ..self.clone() }
    }

    /// The same store, from which the listed objects are read as they were listed, or not at all.
    pub(crate) fn pinned(&self, listed: impl IntoIterator<Item = ObjectMeta>) -> Arc<dyn ObjectStore> {
        Arc::new(Pinned::new(Arc::clone(&self.store), listed, self.is_local))
    }

    /// Whether it lies on a file system rather than behind a network.
    pub(crate) fn is_local(&self) -> bool {
        self.is_local
    }

    /// What a failure of an operation on this folder or object means.
    pub fn error(&self, source: object_store::Error) -> StorageError {
        self.classify(&source).with_source(source)
    }

    /// The same for an error that something else holds.
    pub(crate) fn classify(&self, error: &object_store::Error) -> StorageError {
        StorageError::classify(&self.uri, &self.endpoint, error)
    }
}

#[cfg(test)]
mod tests;
