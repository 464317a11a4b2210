//! The object storage of the tests and the demo: MinIO, in the cluster.

use std::{path::Path, time::Duration};

use k8s_openapi::{
    ByteString,
    api::{apps::v1::Deployment, core::v1::Secret},
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams},
};
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload, aws::AmazonS3Builder, path::Path as Key};

use crate::{Error, Result, checkout, endpoint::Endpoint, error::ApiContext as _, manifest, wait::Wait};

/// The manifest of the server.
const MANIFEST: &str = "tests/cluster/s3.yaml";
/// The image that it names.
const IMAGE: &str = "stoker-minio:dev";
/// The namespace that the manifest itself names.
pub const NAMESPACE: &str = "minio";
/// Name of the server's Deployment and Service.
pub const NAME: &str = "minio";
/// The port of the Service.
pub const PORT: u16 = 9000;
/// The bucket of data sets.
pub const DATASETS: &str = "datasets";
/// The bucket of checkpoints and models.
pub const MODELS: &str = "models";
/// The Secret by which trainings and servers get the credentials.
pub const SECRET: &str = "s3";

const ACCESS_KEY: &str = "stoker";
const SECRET_KEY: &str = "stoker-test-only";
const REGION: &str = "us-east-1";

/// An S3 server in a namespace, with the buckets [`DATASETS`] and [`MODELS`].
pub struct Storage {
    client: Client,
    namespace: String,
}

impl Storage {
    /// Makes sure that a server runs in an existing namespace, and waits until it is ready.
    ///
    /// `STOKER_S3_IMAGE` names its image where the cluster does not have the one of the tests.
    ///
    /// # Errors
    /// If the manifest is refused, or the server does not become ready.
    pub async fn install(client: &Client, namespace: &str) -> Result<Self> {
        let yaml = std::fs::read_to_string(checkout::path(MANIFEST))
            .map_err(|source| Error::File { path: MANIFEST.into(), source })?;
        let image = std::env::var("STOKER_S3_IMAGE").unwrap_or_else(|_| IMAGE.to_owned());
        let objects = manifest::parse(MANIFEST, &yaml.replace(IMAGE, &image))?;
        for mut object in objects.into_iter().filter(|object| object.metadata.namespace.is_some()) {
            object.metadata.namespace = Some(namespace.to_owned());
            manifest::apply(client, namespace, &object).await?;
        }
        let storage = Self::existing(client, namespace);
        storage.wait_until_ready().await?;
        Ok(storage)
    }

    /// The server that [`Storage::install`] made in the namespace.
    pub fn existing(client: &Client, namespace: &str) -> Self {
        Self { client: client.clone(), namespace: namespace.to_owned() }
    }

    /// Where pods find the server.
    pub fn url(&self) -> String {
        format!("http://{NAME}.{}.svc:{PORT}", self.namespace)
    }

    /// The environment by which the tools of AWS, and Stoker, find the server at `url` and get in.
    pub fn environment(url: &str) -> [(&'static str, String); 5] {
        [
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_ENDPOINT_URL", url.to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
        ]
    }

    /// Puts the credentials into a namespace, as the Secret [`SECRET`].
    ///
    /// # Errors
    /// If the API server refuses.
    pub async fn share_with(&self, namespace: &str) -> Result<()> {
        let data =
            Self::environment(&self.url()).map(|(name, value)| (name.to_owned(), ByteString(value.into_bytes())));
        let secret = Secret {
            metadata: ObjectMeta { name: Some(SECRET.to_owned()), ..ObjectMeta::default() },
            data: Some(data.into()),
            ..Secret::default()
        };
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let params = PatchParams::apply(manifest::FIELD_MANAGER).force();
        secrets.patch(SECRET, &params, &Patch::Apply(secret)).await.asked("apply the Secret of the object storage")?;
        Ok(())
    }

    /// An address of the server for this process.
    ///
    /// # Errors
    /// If there is no server.
    pub async fn endpoint(&self) -> Result<Endpoint> {
        Endpoint::of(&self.client, &self.namespace, NAME, PORT).await
    }

    /// One of the buckets of the server at `url`.
    ///
    /// # Errors
    /// If it is no URL.
    pub fn bucket(url: &str, bucket: &str) -> Result<impl ObjectStore> {
        let store = AmazonS3Builder::new()
            .with_endpoint(url)
            .with_allow_http(true)
            .with_region(REGION)
            .with_access_key_id(ACCESS_KEY)
            .with_secret_access_key(SECRET_KEY)
            .with_bucket_name(bucket)
            .build()?;
        Ok(store)
    }

    /// Writes one object.
    ///
    /// # Errors
    /// If the server refuses or does not answer.
    pub async fn put(&self, bucket: &str, key: &str, content: impl Into<PutPayload>) -> Result<()> {
        let endpoint = self.endpoint().await?;
        Self::bucket(&endpoint.url(), bucket)?.put(&Key::from(key), content.into()).await?;
        Ok(())
    }

    /// Reads one object by its `s3://bucket/key`.
    ///
    /// # Errors
    /// If it does not exist, or the server does not answer.
    pub async fn get(&self, uri: &str) -> Result<Vec<u8>> {
        let (bucket, key) = uri
            .strip_prefix("s3://")
            .and_then(|rest| rest.split_once('/'))
            .ok_or_else(|| Error::Unexpected(format!("{uri} is no s3://bucket/key")))?;
        let endpoint = self.endpoint().await?;
        let found = Self::bucket(&endpoint.url(), bucket)?.get(&Key::from(key)).await?;
        Ok(found.bytes().await?.to_vec())
    }

    /// Writes every file below a folder, under its path in the folder.
    ///
    /// # Errors
    /// If a file cannot be read, or the server refuses.
    pub async fn upload(&self, folder: &Path, bucket: &str) -> Result<Vec<String>> {
        let endpoint = self.endpoint().await?;
        let store = Self::bucket(&endpoint.url(), bucket)?;
        let mut keys = Vec::new();
        for (key, path) in files_below(folder)? {
            let content = std::fs::read(&path).map_err(|source| Error::File { path, source })?;
            store.put(&Key::from(key.as_str()), content.into()).await?;
            keys.push(key);
        }
        Ok(keys)
    }

    /// Waits until the server answers.
    ///
    /// # Errors
    /// If it does not within two minutes.
    pub async fn wait_until_ready(&self) -> Result<()> {
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &self.namespace);
        Wait::new("the object storage to be ready", Duration::from_secs(120))
            .until(&deployments, NAME, |deployment| {
                let generation = deployment.metadata.generation;
                deployment.status.as_ref().is_some_and(|status| {
                    status.observed_generation >= generation && status.ready_replicas.is_some_and(|ready| ready > 0)
                })
            })
            .await?;
        Wait::new("the object storage to answer", Duration::from_secs(30))
            .until_ok(async || {
                let url = self.endpoint().await.map_err(|e| e.to_string())?.url();
                let answer = reqwest::get(format!("{url}/minio/health/ready")).await.map_err(|e| e.to_string())?;
                answer.error_for_status().map(drop).map_err(|e| e.to_string())
            })
            .await
    }
}

/// The files below a folder, with their path in it as object storage writes it, sorted.
fn files_below(folder: &Path) -> Result<Vec<(String, std::path::PathBuf)>> {
    let error = |path: &Path, source| Error::File { path: path.to_owned(), source };
    let mut files = Vec::new();
    let mut folders = vec![(String::new(), folder.to_owned())];
    while let Some((prefix, folder)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(|e| error(&folder, e))? {
            let path = entry.map_err(|e| error(&folder, e))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let key = format!("{prefix}{name}");
            if path.is_dir() {
                folders.push((format!("{key}/"), path));
            } else {
                files.push((key, path));
            }
        }
    }
    files.sort();
    Ok(files)
}
