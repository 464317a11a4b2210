//! Artifacts in object storage: files named by a manifest that is written last.
//!
//! A folder is an artifact once its `manifest.json` is there, which lists each file's size and SHA-256. The manifest is
//! created by a conditional put, so that of two writers one wins, and its own SHA-256 is the artifact's digest.

mod commit;
mod publish;
mod upload;

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use object_store::{GetResult, ObjectStoreExt};
use sha2::{Digest, Sha256};
use stoker_crds::{
    Reason,
    artifact::{MANIFEST, Manifest, ManifestError, ManifestFile},
};

pub(crate) use self::commit::Writer;
#[cfg(test)]
pub(crate) use self::publish::model_files;
pub use self::{
    commit::{commit, remove},
    publish::{Lineage, ModelMetrics, Publication, publish_model},
};
use crate::{
    machine::Memory,
    model::ModelError,
    storage::{Folder, StorageError},
};

/// The largest manifest that is read, in bytes; the largest valid one is about half as long.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// Files that are read or written at the same time.
const CONCURRENCY: usize = 4;

/// An artifact's files, verified.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// `sha256:…` of the manifest.
    pub digest: String,
    /// Who wrote a checkpoint: the run's id.
    pub run: Option<String>,
    /// When the manifest was written.
    pub committed_at: Timestamp,
    uri: String,
    files: BTreeMap<String, Bytes>,
}

impl Artifact {
    /// The content of a file.
    ///
    /// # Errors
    /// If the manifest does not list it.
    pub fn file(&self, name: &str) -> Result<&Bytes, ArtifactError> {
        self.files.get(name).ok_or_else(|| corrupt(&self.uri, format!("it has no file '{name}'")))
    }
}

/// Why an artifact cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// There is no manifest, so there is no artifact.
    #[error("{uri} holds no {MANIFEST}: it was never completely written, or was deleted; publish it again")]
    NotFound {
        /// The folder.
        uri: String,
    },
    /// The manifest could not have been written by Stoker.
    #[error("{uri}: {source}; publish it again")]
    Manifest {
        /// The folder.
        uri: String,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// A file is not what the manifest says, or the manifest is not what was asked for.
    #[error("{uri} is damaged: {detail}; restore it from a backup, or publish it again")]
    Corrupt {
        /// The folder.
        uri: String,
        /// What differs.
        detail: String,
    },
    /// Another artifact was committed to the same folder.
    #[error(
        "{uri} already holds another artifact; another writer used the same folder: let one of them write elsewhere"
    )]
    Conflict {
        /// The folder.
        uri: String,
        /// The run that committed it, if it is a checkpoint.
        run: Option<String>,
    },
    /// The artifact does not fit the memory.
    #[error(
        "{uri} is {size} bytes large and is read into memory, of which there are {memory} bytes: set resources.memory to more"
    )]
    TooLarge {
        /// The folder.
        uri: String,
        /// Bytes of all its files.
        size: u64,
        /// Bytes of the container's or the machine's memory.
        memory: u64,
    },
    /// The weights cannot be written.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A file cannot be written as JSON.
    #[error("a file of the artifact cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

impl ArtifactError {
    /// The reason that is reported.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Storage(error) => error.reason(),
            Self::Model(error) => error.reason(),
            Self::NotFound { .. } | Self::Manifest { .. } | Self::Corrupt { .. } => Reason::CorruptArtifact,
            Self::TooLarge { .. } => Reason::OutOfMemory,
            Self::Conflict { .. } => Reason::InvalidConfig,
            Self::Json(_) => Reason::Internal,
        }
    }

    /// Whether it is the artifact that is at fault: not there, incomplete or damaged. Any other failure says nothing
    /// about it.
    pub fn is_broken(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::Manifest { .. } | Self::Corrupt { .. })
    }
}

/// Reads an artifact into memory and verifies it: the digest, if one is expected, then each file's size before it is
/// read, then its SHA-256.
///
/// # Errors
/// If there is none, it is damaged, it is not the expected one, or the storage fails.
pub async fn open(folder: &Folder, expected_digest: Option<&str>) -> Result<Artifact, ArtifactError> {
    let Committed { manifest, digest, at: committed_at } = read_manifest(folder, expected_digest).await?;
    let size = manifest.files.iter().fold(0, |sum: u64, file| sum.saturating_add(file.size));
    if let Some(memory) = Memory::read().total().filter(|memory| size > *memory) {
        return Err(ArtifactError::TooLarge { uri: folder.uri.clone(), size, memory });
    }
    let files = stream::iter(manifest.files)
        .map(|file| async move {
            let bytes = read_file(folder, &file).await?;
            Ok::<_, ArtifactError>((file.name, bytes))
        })
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await?;
    Ok(Artifact { digest, run: manifest.run, committed_at, uri: folder.uri.clone(), files })
}

/// What is known of an artifact from its manifest alone.
pub(crate) struct Committed {
    pub(crate) manifest: Manifest,
    /// `sha256:…` of the manifest.
    digest: String,
    /// When it was written.
    at: Timestamp,
}

/// Reads an artifact's manifest, of the expected digest if there is one, and no other file.
///
/// # Errors
/// If there is none, it is damaged, it is not the expected one, or the storage fails.
pub(crate) async fn read_manifest(folder: &Folder, expected_digest: Option<&str>) -> Result<Committed, ArtifactError> {
    let got = get(folder, MANIFEST).await?.ok_or_else(|| ArtifactError::NotFound { uri: folder.uri.clone() })?;
    let at = timestamp(&got);
    let bytes = read(folder, MANIFEST, got, MAX_MANIFEST_BYTES).await?;
    let digest = digest(&bytes);
    if let Some(expected) = expected_digest.filter(|expected| *expected != digest) {
        return Err(corrupt(&folder.uri, format!("its digest is {digest}, and {expected} is expected")));
    }
    let manifest: Manifest = serde_json::from_slice(&bytes)
        .map_err(|error| corrupt(&folder.uri, format!("{MANIFEST} cannot be read: {error}")))?;
    manifest.validate().map_err(|source| ArtifactError::Manifest { uri: folder.uri.clone(), source })?;
    Ok(Committed { manifest, digest, at })
}

/// Reads a file of an artifact into memory and verifies it: its size before it is read, then its SHA-256.
///
/// # Errors
/// If the file is not what the manifest says, or the storage fails.
pub(crate) async fn read_file(folder: &Folder, file: &ManifestFile) -> Result<Bytes, ArtifactError> {
    let got = get_listed(folder, file).await?;
    let bytes = read(folder, &file.name, got, file.size).await?;
    if sha256(&bytes) == file.sha256 { Ok(bytes) } else { Err(changed(folder, file)) }
}

/// Hands on a file of an artifact piece by piece, of whatever size it is, and verifies it: its size before it is read, its
/// SHA-256 after the last piece.
///
/// # Errors
/// Those of `to`; if the file is not what the manifest says, or the storage fails.
pub(crate) async fn stream_file<E: From<ArtifactError>>(
    folder: &Folder,
    file: &ManifestFile,
    mut to: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut hash = Sha256::new();
    let mut pieces = get_listed(folder, file).await?.into_stream();
    let failed = |error| ArtifactError::from(folder.join(&file.name).error(error));
    while let Some(piece) = pieces.try_next().await.map_err(failed)? {
        hash.update(&piece);
        to(&piece)?;
    }
    if hex(&hash.finalize()) == file.sha256 { Ok(()) } else { Err(changed(folder, file).into()) }
}

/// Asks for a file that a manifest lists.
async fn get_listed(folder: &Folder, file: &ManifestFile) -> Result<GetResult, ArtifactError> {
    let ManifestFile { name, size, .. } = file;
    let missing = || corrupt(&folder.uri, format!("'{name}' is missing"));
    let got = get(folder, name).await?.ok_or_else(missing)?;
    if got.meta.size == *size {
        return Ok(got);
    }
    Err(corrupt(&folder.uri, format!("'{name}' is {} bytes long and should be {size}", got.meta.size)))
}

fn changed(folder: &Folder, file: &ManifestFile) -> ArtifactError {
    corrupt(&folder.uri, format!("the content of '{}' was changed", file.name))
}

/// Asks for a file of a folder; `None` if there is none.
async fn get(folder: &Folder, name: &str) -> Result<Option<GetResult>, ArtifactError> {
    let file = folder.join(name);
    match file.store.get(&file.path).await {
        Ok(got) => Ok(Some(got)),
        Err(error) => match file.error(error) {
            StorageError::NotFound { .. } => Ok(None),
            error => Err(error.into()),
        },
    }
}

async fn read(folder: &Folder, name: &str, got: GetResult, limit: u64) -> Result<Bytes, ArtifactError> {
    if got.meta.size > limit {
        return Err(corrupt(&folder.uri, format!("'{name}' is {} bytes long, more than {limit}", got.meta.size)));
    }
    Ok(got.bytes().await.map_err(|error| folder.join(name).error(error))?)
}

fn timestamp(got: &GetResult) -> Timestamp {
    Timestamp::from_second(got.meta.last_modified.timestamp()).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn corrupt(uri: &str, detail: String) -> ArtifactError {
    ArtifactError::Corrupt { uri: uri.to_owned(), detail }
}

/// 64 lowercase hexadecimal digits.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `sha256:` and 64 lowercase hexadecimal digits.
pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256(bytes))
}

#[cfg(test)]
pub(crate) mod faulty;
#[cfg(test)]
mod tests;
