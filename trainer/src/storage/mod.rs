//! Object storage: URIs, credentials, and what their failures mean.

mod error;

use std::{
    path::PathBuf,
    sync::Arc,
};

use object_store::{ObjectStore, path::Path};

pub use self::error::StorageError;

/// How URIs are opened: with which credentials, or under which local folder.
#[derive(Clone, Debug)]
pub struct Access(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Cloud { options: Vec<(String, String)> },
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
}

impl Access {
    /// Credentials and options from the environment variables that start with `prefix`, such as
    /// `STORAGE_AWS_ACCESS_KEY_ID` for [`stoker_crds::training::storage::STORAGE_ENV_PREFIX`].
    pub fn from_env(prefix: &str) -> Self {
        let options = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter_map(|(name, value)| Some((name.strip_prefix(prefix)?.to_owned(), value)))
            .collect();
        Self(Kind::Cloud { options })
    }

    /// Everything lies under a local folder: `s3://bucket/path` in `dir/bucket/path`.
    pub fn local(dir: impl Into<PathBuf>) -> Self {
        Self(Kind::Local(dir.into()))
    }

    /// Opens the folder or object of a URI. Nothing is asked of the storage yet.
    ///
    /// # Errors
    /// If the URI or the options cannot be used, or there are no credentials.
    pub fn open(&self, uri: &str) -> Result<Folder, StorageError> {
        todo!("{uri} {:?}", self.0)
    }
}

impl Folder {
    /// A folder or object within this one. Each segment is a name: `..` does not lead out of the folder.
    pub fn join(&self, relative: &str) -> Self {
        let segments = relative.split('/').filter(|segment| !segment.is_empty());
        let path = segments.fold(self.path.clone(), |path, segment| path.join(segment));
        let uri = format!("{}/{}", self.uri.trim_end_matches('/'), relative.trim_matches('/'));
        Self { store: Arc::clone(&self.store), path, uri }
    }

    /// What a failure of an operation on this folder or object means.
    pub fn error(&self, source: object_store::Error) -> StorageError {
        todo!("{source}")
    }
}
