//! An S3 server on loopback: MinIO, which the tests use too.

use std::{net::SocketAddr, process::Command, time::Duration};

use object_store::aws::{AmazonS3, AmazonS3Builder};
use stoker_e2e::{Error, Result, wait::Wait};
use tempfile::TempDir;

use crate::{
    process::{Process, free_address},
    trainer,
};

const BUCKET: &str = "bench";
const ACCESS_KEY: &str = "stoker";
const SECRET_KEY: &str = "stoker-bench-only";
const REGION: &str = "us-east-1";
/// MinIO gives up what takes longer than its idle timeout, by default 30 s, and answers 499, as if the client had gone; on a
/// machine that stands still for a while that ends a benchmark.
const PATIENCE: &str = "10m";

/// The server; it is ended when this is dropped.
pub(super) struct S3 {
    address: SocketAddr,
    process: Process,
    _folder: TempDir,
}

impl S3 {
    /// Starts a server with a bucket, and waits until it is ready.
    ///
    /// # Errors
    /// If there is no `minio` on the PATH, or it does not become ready.
    pub(super) async fn start() -> Result<Self> {
        let (folder, address) = (trainer::temporary()?, free_address()?);
        let data = folder.path().join("data");
        trainer::make_folder(&data.join(BUCKET))?;
        let mut minio = Command::new("minio");
        minio.arg("server").arg("--quiet").arg("--address").arg(address.to_string()).arg(&data);
        minio.arg("--console-address").arg(free_address()?.to_string());
        minio.env("MINIO_IDLE_TIMEOUT", PATIENCE).env("MINIO_READ_HEADER_TIMEOUT", PATIENCE);
        minio.env("MINIO_ROOT_USER", ACCESS_KEY).env("MINIO_ROOT_PASSWORD", SECRET_KEY).env("HOME", folder.path());
        let process = Process::start(minio, &folder.path().join("log"))?;
        let server = Self { address, process, _folder: folder };
        let url = format!("http://{address}/minio/health/ready");
        let answered = Wait::new("MinIO to be ready", Duration::from_secs(60))
            .until_ok(async || {
                let answer = reqwest::get(&url).await.map_err(|error| error.to_string())?;
                answer.error_for_status().map(drop).map_err(|error| error.to_string())
            })
            .await;
        answered.map_err(|error| server.process.failure(&error.to_string()))?;
        Ok(server)
    }

    /// The URI of its bucket.
    pub(super) fn uri() -> String {
        format!("s3://{BUCKET}")
    }

    /// By which a trainer reaches it.
    pub(super) fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("STORAGE_AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
            ("STORAGE_AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
            ("STORAGE_AWS_REGION", REGION.into()),
            ("STORAGE_AWS_ENDPOINT_URL", self.endpoint()),
        ]
    }

    /// Its bucket.
    ///
    /// # Errors
    /// If the client cannot be made.
    pub(super) fn client(&self) -> Result<AmazonS3> {
        let builder = AmazonS3Builder::new().with_bucket_name(BUCKET).with_region(REGION);
        let builder = builder.with_access_key_id(ACCESS_KEY).with_secret_access_key(SECRET_KEY);
        builder.with_endpoint(self.endpoint()).with_allow_http(true).build().map_err(Error::Storage)
    }

    fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}
