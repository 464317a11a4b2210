//! Writing an artifact: the files first, then the manifest, if no other is there.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{MultipartUpload, ObjectStoreExt, PutMode, PutOptions, PutResult, path::Path};
use stoker_crds::artifact::{FORMAT, MANIFEST, Manifest, ManifestFile};

use super::{ArtifactError, CONCURRENCY, MAX_MANIFEST_BYTES, digest, get, read, sha256};
use crate::storage::{Folder, StorageError};

/// Files longer than this are written in parts: stores bound the size of a single put.
const MULTIPART_BYTES: usize = 64 << 20;
/// Bytes of a part. Some stores want all of the same size, and none takes more than 10,000.
pub(super) const PART_BYTES: usize = 8 << 20;

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

    pub(super) async fn write(mut self, folder: &Folder) -> Result<String, ArtifactError> {
        // The files of an artifact that is there are left as they are.
        if let Some(manifest) = committed(folder).await? {
            return self.compare(folder, &manifest);
        }
        stream::iter(std::mem::take(&mut self.files))
            .map(|(name, bytes)| put(folder.join(&name), bytes))
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
            Ok(Some(manifest)) => self.compare(folder, &manifest),
            Ok(None) | Err(_) => Err(file.error(error).into()),
        }
    }

    /// The digest, if what is committed is this package.
    fn compare(self, folder: &Folder, committed: &[u8]) -> Result<String, ArtifactError> {
        if self.manifest == committed {
            return Ok(self.digest);
        }
        let run = serde_json::from_slice(committed).ok().and_then(|manifest: Manifest| manifest.run);
        Err(ArtifactError::Conflict { uri: folder.uri.clone(), run })
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

async fn put(file: Folder, bytes: Bytes) -> Result<(), ArtifactError> {
    let written = if bytes.len() <= MULTIPART_BYTES {
        file.store.put(&file.path, bytes.into()).await
    } else {
        match file.store.put_multipart(&file.path).await {
            Ok(mut upload) => put_in_parts(&mut *upload, &bytes).await,
            Err(error) => Err(error),
        }
    };
    written.map(drop).map_err(|error| file.error(error).into())
}

/// Sends a few parts at a time; of an upload that fails nothing is left, as far as the storage still answers.
pub(super) async fn put_in_parts(upload: &mut dyn MultipartUpload, bytes: &Bytes) -> object_store::Result<PutResult> {
    let parts = (0..bytes.len()).step_by(PART_BYTES).map(|start| {
        let end = bytes.len().min(start + PART_BYTES);
        upload.put_part(bytes.slice(start..end).into())
    });
    let sent = stream::iter(parts).buffer_unordered(CONCURRENCY).try_collect::<()>().await;
    let written = match sent {
        Ok(()) => upload.complete().await,
        Err(error) => Err(error),
    };
    if written.is_err()
        && let Err(error) = upload.abort().await
    {
        tracing::debug!(%error, "the parts of a failed upload could not be removed");
    }
    written
}
