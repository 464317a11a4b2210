//! Writing an artifact: the files first, then the manifest, if no other is there.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectStoreExt, PutMode, PutOptions, WriteMultipart, path::Path};
use stoker_crds::artifact::{FORMAT, MANIFEST, Manifest, ManifestFile};

use super::{ArtifactError, CONCURRENCY, MAX_MANIFEST_BYTES, digest, get, read, sha256};
use crate::storage::{Folder, StorageError};

/// Files longer than this are written in parts: stores bound the size of a single put.
const MULTIPART_BYTES: usize = 64 << 20;

/// Files that are to be one artifact.
pub(super) struct Package {
    files: Vec<(String, Bytes)>,
    manifest: Bytes,
    /// `sha256:…` of the manifest: known before anything is written.
    pub(super) digest: String,
}

impl Package {
    pub(super) fn new(run: Option<&str>, mut files: Vec<(String, Bytes)>) -> Result<Self, ArtifactError> {
        files.sort_by(|(left, _), (right, _)| left.cmp(right));
        let entry = |(name, bytes): &(String, Bytes)| ManifestFile {
            name: name.clone(),
            size: bytes.len() as u64,
            sha256: sha256(bytes),
        };
        let manifest =
            Manifest { format: FORMAT, run: run.map(str::to_owned), files: files.iter().map(entry).collect() };
        manifest.validate().map_err(|source| ArtifactError::Manifest { uri: "the new artifact".into(), source })?;
        let manifest = Bytes::from(serde_json::to_vec(&manifest)?);
        let digest = digest(&manifest);
        Ok(Self { files, manifest, digest })
    }

    pub(super) async fn write(self, folder: &Folder) -> Result<String, ArtifactError> {
        stream::iter(self.files)
            .map(|(name, bytes)| async move { put(&folder.join(&name), bytes).await })
            .buffer_unordered(CONCURRENCY)
            .try_collect::<()>()
            .await?;
        let file = folder.join(MANIFEST);
        let create = PutOptions::from(PutMode::Create);
        let Err(error) = file.store.put_opts(&file.path, self.manifest.clone().into(), create).await else {
            return Ok(self.digest);
        };
        // A create whose reply was lost fails when it is tried again: what is there now decides.
        match committed(folder).await {
            Ok(Some(manifest)) if manifest == self.manifest => Ok(self.digest),
            Ok(Some(_)) => Err(ArtifactError::Conflict { uri: folder.uri.clone() }),
            Ok(None) | Err(_) => Err(file.error(error).into()),
        }
    }
}

/// The manifest that is in storage.
async fn committed(folder: &Folder) -> Result<Option<Bytes>, ArtifactError> {
    match get(folder, MANIFEST).await? {
        Some(got) => Ok(Some(read(folder, MANIFEST, got, MAX_MANIFEST_BYTES).await?)),
        None => Ok(None),
    }
}

/// Writes files as one artifact and answers its digest. It is all there or, without its manifest, not there.
///
/// To commit the same files again is a success that changes nothing.
///
/// # Errors
/// If the folder holds another artifact, a name is not flat, or the storage fails.
pub async fn commit(folder: &Folder, run: Option<&str>, files: Vec<(String, Bytes)>) -> Result<String, ArtifactError> {
    Package::new(run, files)?.write(folder).await
}

/// Deletes an artifact, or what was written of one: the manifest first, so that no half of it is ever taken for whole.
///
/// # Errors
/// If the storage fails.
pub async fn remove(folder: &Folder) -> Result<(), ArtifactError> {
    delete(folder, &folder.join(MANIFEST).path).await?;
    let found: Vec<_> =
        folder.store.list(Some(&folder.path)).try_collect().await.map_err(|error| folder.error(error))?;
    for object in found {
        delete(folder, &object.location).await?;
    }
    Ok(())
}

async fn delete(folder: &Folder, path: &Path) -> Result<(), ArtifactError> {
    match folder.store.delete(path).await.map_err(|error| folder.error(error)) {
        Ok(()) | Err(StorageError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn put(file: &Folder, bytes: Bytes) -> Result<(), ArtifactError> {
    let written = if bytes.len() <= MULTIPART_BYTES {
        file.store.put(&file.path, bytes.into()).await
    } else {
        match file.store.put_multipart(&file.path).await {
            Ok(upload) => {
                let mut write = WriteMultipart::new(upload);
                write.put(bytes);
                write.finish().await
            }
            Err(error) => Err(error),
        }
    };
    written.map(drop).map_err(|error| file.error(error).into())
}
