//! Objects are read in ranges, each by a request of its own.
//!
//! The time limit and the retries of `object_store` count from the start of a request to the end of its body. An object
//! that takes longer than that to be worked through could then never be read in one request.

use std::{fmt, ops::Range, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, path::Path,
};

use super::error::chain;

/// Bytes per request.
const CHUNK: u64 = 8 << 20;

/// A store whose whole-object reads are ranges of [`CHUNK`] bytes, one of them read ahead.
#[derive(Clone, Debug)]
pub(super) struct Ranged(pub(super) Arc<dyn ObjectStore>);

impl Ranged {
    async fn get_in_ranges(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let first = GetOptions { range: Some(GetRange::Bounded(0..CHUNK)), ..options.clone() };
        let result = match self.0.get_opts(location, first).await {
            // An empty object has no range.
            Err(error) if chain(&error).contains("416 Range Not Satisfiable") => {
                return self.0.get_opts(location, options).await;
            }
            result => result?,
        };
        let GetResult { meta, attributes, .. } = &result;
        let (meta, attributes) = (meta.clone(), attributes.clone());
        let first = result.bytes().await?;

        let (store, path, size) = (self.0.clone(), location.clone(), meta.size);
        let options = GetOptions { if_match: meta.e_tag.clone(), ..options };
        let rest = stream::iter((CHUNK..size).step_by(CHUNK as usize))
            .map(move |start| {
                let (store, path) = (store.clone(), path.clone());
                let range = Some(GetRange::Bounded(start..size.min(start + CHUNK)));
                let options = GetOptions { range, ..options.clone() };
                async move { store.get_opts(&path, options).await?.bytes().await }
            })
            .buffered(2);
        let chunks = stream::once(async { Ok(first) }).chain(rest);
        let payload = GetResultPayload::Stream(chunks.boxed());
        Ok(GetResult { payload, range: 0..size, meta, attributes })
    }
}

impl fmt::Display for Ranged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Ranged {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.head || options.range.is_some() {
            return self.0.get_opts(location, options).await;
        }
        self.get_in_ranges(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.get_ranges(location, ranges).await
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.0.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(location, opts).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.0.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use object_store::{ObjectStoreExt, memory::InMemory};

    use super::*;

    #[tokio::test]
    async fn an_object_comes_back_whole_whatever_its_size() {
        let store = Ranged(Arc::new(InMemory::new()));
        for size in [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17] {
            let path = Path::from(format!("{size}"));
            let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            store.put(&path, bytes.clone().into()).await.unwrap();
            let result = store.get(&path).await.unwrap();
            assert_eq!(result.range, 0..size);
            let read: Vec<Bytes> = result.into_stream().try_collect().await.unwrap();
            assert!(read.concat() == bytes, "{size} bytes");
        }
    }

    #[tokio::test]
    async fn an_object_that_changes_while_it_is_read_is_an_error() {
        let store = Ranged(Arc::new(InMemory::new()));
        let path = Path::from("changing");
        store.put(&path, vec![0; 4 * CHUNK as usize].into()).await.unwrap();
        let mut stream = store.get(&path).await.unwrap().into_stream();
        stream.next().await.unwrap().unwrap();
        store.put(&path, vec![1; 4 * CHUNK as usize].into()).await.unwrap();
        let rest: Result<Vec<Bytes>> = stream.try_collect().await;
        assert!(matches!(rest, Err(object_store::Error::Precondition { .. })), "{rest:?}");
    }
}
