//! A store that fails when it is told to, for tests.

use std::fmt;

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, memory::InMemory, path::Path,
};
use tempfile::TempDir;

use crate::storage::{Access, Folder};

/// What is asked of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Put,
    Get,
    List,
    Delete,
}

/// How it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing is done, and the connection breaks.
    Lost,
    /// It is done, and the connection breaks before the reply.
    LostReply,
    /// Nothing is done, and the credentials are refused.
    Denied,
}

type Rule = Box<dyn Fn(Operation, &str) -> Option<Fault> + Send + Sync>;

/// An [`InMemory`] store that asks a rule whether to fail, by operation and path.
pub(crate) struct Faulty {
    inner: InMemory,
    rule: Rule,
}

impl Faulty {
    /// A folder in such a store.
    pub(crate) fn folder(rule: impl Fn(Operation, &str) -> Option<Fault> + Send + Sync + 'static) -> Folder {
        let store = Self { inner: InMemory::new(), rule: Box::new(rule) };
        let dir = TempDir::new().unwrap();
        let mut folder = Access::local(dir.path()).open("s3://bucket/folder").unwrap();
        folder.store = std::sync::Arc::new(store);
        folder.path = Path::from("folder");
        folder
    }

    fn before(&self, operation: Operation, path: &Path) -> Result<Option<Fault>> {
        match (self.rule)(operation, path.as_ref()) {
            Some(Fault::Lost) => Err(connection_reset()),
            Some(Fault::Denied) => {
                Err(object_store::Error::PermissionDenied { path: path.to_string(), source: "AccessDenied".into() })
            }
            fault => Ok(fault),
        }
    }
}

fn connection_reset() -> object_store::Error {
    object_store::Error::Generic { store: "Faulty", source: "connection reset".into() }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let fault = self.before(Operation::Put, location)?;
        let result = self.inner.put_opts(location, payload, opts).await;
        if fault == Some(Fault::LostReply) { Err(connection_reset()) } else { result }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.before(Operation::Put, location)?;
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.before(Operation::Get, location)?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let paths: Vec<_> = futures::executor::block_on(locations.collect());
        let checked: Vec<_> = paths
            .into_iter()
            .map(|path| path.and_then(|path| self.before(Operation::Delete, &path).map(|_| path)))
            .collect();
        self.inner.delete_stream(futures::stream::iter(checked).boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.before(Operation::List, prefix.unwrap_or(&Path::default())) {
            Ok(_) => self.inner.list(prefix),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.before(Operation::List, prefix.unwrap_or(&Path::default()))?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
