//! Sending one file: in one piece, or in parts while it is still being made.

use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload, PutPayloadMut, Result};
use tokio::task::{JoinError, JoinSet};

use crate::storage::{Folder, StorageError};

/// Bytes of a part. Some stores want all but the last of the same size, and none takes more than 10,000 or, but for the last,
/// less than 5 MiB.
pub(super) const PART_BYTES: usize = 8 << 20;
/// Parts that are on their way at a time: what is given waits for them, so that no more is in memory.
pub(super) const PARTS_IN_FLIGHT: usize = 8;

/// A file on its way to the storage, where it appears when it is finished.
pub(super) struct Upload {
    file: Folder,
    /// What is not on its way yet: at most one part.
    rest: PutPayloadMut,
    parts: Option<Parts>,
}

/// The parts of a file that is longer than one.
pub(super) struct Parts {
    upload: Box<dyn MultipartUpload>,
    sending: JoinSet<Result<()>>,
}

impl Upload {
    pub(super) fn new(file: Folder) -> Self {
        Self { file, rest: PutPayloadMut::new(), parts: None }
    }

    /// Appends to the file. Once it is longer than a part, the first one is sent.
    pub(super) async fn put(&mut self, mut bytes: Bytes) -> std::result::Result<(), StorageError> {
        while self.rest.content_length() + bytes.len() > PART_BYTES {
            self.rest.push(bytes.split_to(PART_BYTES - self.rest.content_length()));
            let part = std::mem::take(&mut self.rest).freeze();
            self.send(part).await.map_err(|error| self.file.error(error))?;
        }
        self.rest.push(bytes);
        Ok(())
    }

    async fn send(&mut self, part: PutPayload) -> Result<()> {
        let parts = match &mut self.parts {
            Some(parts) => parts,
            none => none.insert(Parts::new(self.file.store.put_multipart(&self.file.path).await?)),
        };
        parts.send(part).await
    }

    /// Waits until all is sent, and lets the file appear. Of one that fails nothing is left, as far as the storage still
    /// answers.
    pub(super) async fn finish(self) -> std::result::Result<(), StorageError> {
        let Self { file, rest, parts } = self;
        let finished = match parts {
            Some(parts) => parts.finish(rest.freeze()).await,
            None => file.store.put(&file.path, rest.freeze()).await.map(drop),
        };
        finished.map_err(|error| file.error(error))
    }

    /// Sends no more, and removes what was sent, as far as the storage still answers.
    pub(super) async fn abort(self) {
        if let Some(parts) = self.parts {
            parts.abort().await;
        }
    }
}

impl Parts {
    pub(super) fn new(upload: Box<dyn MultipartUpload>) -> Self {
        Self { upload, sending: JoinSet::new() }
    }

    /// Sends a part as soon as not too many others are on their way.
    pub(super) async fn send(&mut self, part: PutPayload) -> Result<()> {
        while self.sending.len() >= PARTS_IN_FLIGHT {
            self.wait().await?;
        }
        self.sending.spawn(self.upload.put_part(part));
        Ok(())
    }

    /// Waits for a part.
    async fn wait(&mut self) -> Result<()> {
        let sent: Option<std::result::Result<_, JoinError>> = self.sending.join_next().await;
        sent.unwrap_or(Ok(Ok(()))).map_err(|source| object_store::Error::JoinError { source })?
    }

    pub(super) async fn finish(mut self, last: PutPayload) -> Result<()> {
        let finished = self.complete(last).await;
        if finished.is_err() {
            self.abort().await;
        }
        finished
    }

    async fn complete(&mut self, last: PutPayload) -> Result<()> {
        self.send(last).await?;
        while !self.sending.is_empty() {
            self.wait().await?;
        }
        self.upload.complete().await.map(drop)
    }

    async fn abort(mut self) {
        self.sending.shutdown().await;
        if let Err(error) = self.upload.abort().await {
            tracing::debug!(%error, "the parts of a failed upload could not be removed");
        }
    }
}
