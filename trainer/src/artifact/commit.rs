//! Writing an artifact: the files first, then the manifest, if no other is there.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future, stream};
use object_store::{ObjectStoreExt, PutMode, PutOptions, path::Path};
use sha2::{Digest, Sha256};
use stoker_crds::artifact::{FORMAT, MANIFEST, Manifest, ManifestError, ManifestFile, is_flat_name};

use super::{ArtifactError, CONCURRENCY, MAX_MANIFEST_BYTES, digest, get, hex, read, upload::Upload};
use crate::storage::{Folder, StorageError};

/// Bytes that are hashed, and handed to the upload, at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Writes files as one artifact. Their bytes are on their way to the storage as soon as they are given; the files are there
/// once all is sent, and the artifact once its manifest is.
pub(crate) struct Writer<'a> {
    folder: &'a Folder,
    run: Option<&'a str>,
    /// The manifest that is there already: the files of an artifact that is there are left as they are.
    found: Option<Bytes>,
    files: Vec<ManifestFile>,
    uploads: Vec<Upload>,
}

impl<'a> Writer<'a> {
    /// A writer of no file yet.
    ///
    /// # Errors
    /// If the storage fails.
    pub(crate) async fn begin(folder: &'a Folder, run: Option<&'a str>) -> Result<Self, ArtifactError> {
        Ok(Self { folder, run, found: committed(folder).await?, files: Vec::new(), uploads: Vec::new() })
    }

    /// How many bytes were given.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Sends a file, piece by piece: while one is made, those before are on their way.
    ///
    /// # Errors
    /// Those of the pieces; if the name is not flat, or the storage fails. Then no file is there.
    pub(crate) async fn write<E: From<ArtifactError>>(
        &mut self,
        name: &str,
        pieces: impl IntoIterator<Item = Result<Bytes, E>>,
    ) -> Result<(), E> {
        let sent = self.send(name, pieces).await;
        if sent.is_err() {
            future::join_all(self.uploads.drain(..).map(Upload::abort)).await;
        }
        sent
    }

    async fn send<E: From<ArtifactError>>(
        &mut self,
        name: &str,
        pieces: impl IntoIterator<Item = Result<Bytes, E>>,
    ) -> Result<(), E> {
        if !is_flat_name(name) {
            return Err(self.refused(ManifestError::Name(name.to_owned())).into());
        }
        let (mut hash, mut size) = (Sha256::new(), 0);
        let mut upload = self.found.is_none().then(|| self.uploads.push_mut(Upload::new(self.folder.join(name))));
        for piece in pieces {
            let mut piece = piece?;
            while !piece.is_empty() {
                let some = piece.split_to(piece.len().min(PIECE_BYTES));
                hash.update(&some);
                size += some.len() as u64;
                if let Some(upload) = &mut upload {
                    upload.put(some).await.map_err(|error| E::from(ArtifactError::from(error)))?;
                }
            }
        }
        self.files.push(ManifestFile { name: name.to_owned(), size, sha256: hex(&hash.finalize()) });
        Ok(())
    }

    /// Makes the files, and then the manifest, appear; answers its digest. To commit what is there already is a success that
    /// changes nothing.
    ///
    /// # Errors
    /// If the folder holds another artifact, or the storage fails.
    pub(crate) async fn commit(self) -> Result<String, ArtifactError> {
        let Self { folder, run, found, files, uploads } = self;
        let manifest = manifest(run, files)?;
        if let Some(found) = found {
            return compare(folder, &manifest, &found);
        }
        // All are waited for: none goes on behind an error of another.
        let finished =
            stream::iter(uploads).map(Upload::finish).buffer_unordered(CONCURRENCY).collect::<Vec<_>>().await;
        finished.into_iter().collect::<Result<(), StorageError>>()?;
        let file = folder.join(MANIFEST);
        let create = PutOptions::from(PutMode::Create);
        let Err(error) = file.store.put_opts(&file.path, manifest.clone().into(), create).await else {
            return Ok(digest(&manifest));
        };
        // A create whose reply was lost fails when it is tried again: what is there now decides.
        match committed(folder).await {
            Ok(Some(found)) => compare(folder, &manifest, &found),
            Ok(None) | Err(_) => Err(file.error(error).into()),
        }
    }

    fn refused(&self, source: ManifestError) -> ArtifactError {
        ArtifactError::Manifest { uri: self.folder.uri.clone(), source }
    }
}

/// The digest, if what is committed is this manifest.
fn compare(folder: &Folder, manifest: &[u8], committed: &[u8]) -> Result<String, ArtifactError> {
    if manifest == committed {
        return Ok(digest(manifest));
    }
    let run = serde_json::from_slice(committed).ok().and_then(|manifest: Manifest| manifest.run);
    Err(ArtifactError::Conflict { uri: folder.uri.clone(), run })
}

fn manifest(run: Option<&str>, mut files: Vec<ManifestFile>) -> Result<Bytes, ArtifactError> {
    files.sort_by(|left, right| left.name.cmp(&right.name));
    let manifest = Manifest { format: FORMAT, run: run.map(str::to_owned), files };
    manifest.validate().map_err(|source| ArtifactError::Manifest { uri: "the new artifact".into(), source })?;
    Ok(serde_json::to_vec(&manifest)?.into())
}

/// The digest that an artifact of these files has: known before anything is written.
pub(super) fn digest_of(files: &[(String, Bytes)]) -> Result<String, ArtifactError> {
    let entry = |(name, bytes): &(String, Bytes)| ManifestFile {
        name: name.clone(),
        size: bytes.len() as u64,
        sha256: super::sha256(bytes),
    };
    Ok(digest(&manifest(None, files.iter().map(entry).collect())?))
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
    let mut writer = Writer::begin(folder, run).await?;
    for (name, bytes) in files {
        writer.write(&name, [Ok::<_, ArtifactError>(bytes)]).await?;
    }
    writer.commit().await
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
