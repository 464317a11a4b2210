//! Objects are read as they were listed, or not at all.
//!
//! What is listed first and read later may be another object by then, under the same name. The answer to each request
//! says which one it is of, and is compared with the listing. That is done here and not by a condition in the request:
//! the ETags that listings give are not written as conditions want them by every storage (Azure's lack the quotes).

use std::{collections::HashMap, fmt, sync::Arc};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, path::Path,
};

/// A store of which the listed objects can be read only as long as they are what they were.
#[derive(Clone, Debug)]
pub(super) struct Pinned {
    store: Arc<dyn ObjectStore>,
    listed: HashMap<Path, ObjectMeta>,
    is_local: bool,
}

impl Pinned {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        listed: impl IntoIterator<Item = ObjectMeta>,
        is_local: bool,
    ) -> Self {
        Self { store, listed: listed.into_iter().map(|meta| (meta.location.clone(), meta)).collect(), is_local }
    }

    fn is_same(&self, listed: &ObjectMeta, found: &ObjectMeta) -> bool {
        let version = match (&listed.e_tag, &found.e_tag) {
            // The ETag of a file holds its inode, and some network file systems give it a new one now and then.
            _ if self.is_local => listed.last_modified == found.last_modified,
            (Some(listed), Some(found)) => tag(listed) == tag(found),
            // Times differ in precision between a listing and an object's own headers.
            _ => true,
        };
        version && listed.size == found.size
    }
}

/// What of an ETag tells versions apart.
fn tag(e_tag: &str) -> &str {
    e_tag.trim_start_matches("W/").trim_matches('"')
}

impl fmt::Display for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

// `get_ranges` is the trait's, which asks `get_opts`: a store's own does not say of which object the bytes are.
#[async_trait]
impl ObjectStore for Pinned {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let result = self.store.get_opts(location, options).await?;
        match self.listed.get(location) {
            Some(listed) if !self.is_same(listed, &result.meta) => Err(Error::Precondition {
                path: location.to_string(),
                source: "it is not the object that was listed".into(),
            }),
            _ => Ok(result),
        }
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.store.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, opts).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.store.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::{ObjectStoreExt, local::LocalFileSystem, memory::InMemory};

    use super::*;

    /// Ways to read an object, of which each is to notice that it was changed.
    async fn read(store: &dyn ObjectStore, path: &Path) -> [Result<()>; 4] {
        [
            store.get(path).await.map(drop),
            store.get_range(path, 0..1).await.map(drop),
            store.get_ranges(path, &[0..1, 2..3]).await.map(drop),
            store.head(path).await.map(drop),
        ]
    }

    #[tokio::test]
    async fn an_object_that_is_replaced_after_it_was_listed_cannot_be_read() {
        let store = Arc::new(InMemory::new());
        let path = Path::from("data.csv");
        store.put(&path, "old".into()).await.unwrap();
        let pinned = Pinned::new(store.clone(), [store.head(&path).await.unwrap()], false);
        assert!(read(&pinned, &path).await.iter().all(Result::is_ok));
        store.put(&path, "new".into()).await.unwrap();
        for result in read(&pinned, &path).await {
            assert!(matches!(result, Err(Error::Precondition { .. })), "{result:?}");
        }
    }

    #[tokio::test]
    async fn a_file_that_is_replaced_after_it_was_listed_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
        let path = Path::from("data.csv");
        store.put(&path, "old".into()).await.unwrap();
        let pinned = Pinned::new(store.clone(), [store.head(&path).await.unwrap()], true);
        assert!(read(&pinned, &path).await.iter().all(Result::is_ok));
        store.put(&path, "newer".into()).await.unwrap();
        for result in read(&pinned, &path).await {
            assert!(matches!(result, Err(Error::Precondition { .. })), "{result:?}");
        }
    }

    #[tokio::test]
    async fn quotes_around_an_etag_are_no_change_and_what_was_not_listed_is_read_as_ever() {
        let store = Arc::new(InMemory::new());
        let [listed, other] = ["listed", "other"].map(Path::from);
        for path in [&listed, &other] {
            store.put(path, "content".into()).await.unwrap();
        }
        let mut meta = store.head(&listed).await.unwrap();
        meta.e_tag = meta.e_tag.map(|e_tag| format!("\"{e_tag}\""));
        let pinned = Pinned::new(store.clone(), [meta], false);
        store.put(&other, "changed".into()).await.unwrap();
        for path in [&listed, &other] {
            assert!(read(&pinned, path).await.iter().all(Result::is_ok), "{path}");
        }
    }
}
