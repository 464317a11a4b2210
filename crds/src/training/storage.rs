//! Where data, checkpoints and models lie, and who may read them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Prefix of the environment variables that carry the credentials of `spec.data.source`.
pub const DATA_ENV_PREFIX: &str = "DATA_";
/// Prefix of the environment variables that carry the credentials of `spec.storage`, or of a served model.
pub const STORAGE_ENV_PREFIX: &str = "STORAGE_";
/// Prefix of the environment variables that carry the credentials of `spec.model.from`.
pub const BASE_ENV_PREFIX: &str = "BASE_";
/// Where the volume of `spec.data.source` is mounted: `file:///data/…`.
pub const DATA_MOUNT: &str = "/data";
/// Where the volume of `spec.storage` is mounted: `file:///storage/…`.
pub const STORAGE_MOUNT: &str = "/storage";
/// Where the volume of `spec.model.from` is mounted: `file:///base/…`.
pub const BASE_MOUNT: &str = "/base";
/// The schemes of URIs that are taken.
pub const SCHEMES: [&str; 4] = ["s3://", "gs://", "az://", "file:///"];

/// Where the data lies, and with which credentials it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.uri.startsWith('file://') == has(self.persistentVolumeClaim) && (!self.uri.startsWith('file://') || self.uri.startsWith('file:///data/'))",
    "message": "a file:// URI needs persistentVolumeClaim and lies under file:///data/; other URIs take no persistentVolumeClaim",
}]))]
pub struct Location {
    /// `s3://bucket/path/*.csv`, `gs://…`, `az://…`, or `file:///data/…` on a mounted volume. `*` and `**` match several files.
    #[schemars(length(max = 1024), regex(pattern = "^(s3|gs|az)://[^/?#]+/.+|^file:///.+"))]
    pub uri: String,
    /// The Secret with the credentials. Its keys are environment variables such as `AWS_ACCESS_KEY_ID`,
    /// `GOOGLE_SERVICE_ACCOUNT_KEY` or `AZURE_STORAGE_ACCOUNT_NAME`: docs/concepts.md lists them. The default is the
    /// Secret of `spec.storage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// The volume that a `file:///data/…` URI lies on; it is mounted at `/data`, read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub persistent_volume_claim: Option<String>,
}

/// Where checkpoints and models are written, and with which credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.uri.startsWith('file://') == has(self.persistentVolumeClaim) && (!self.uri.startsWith('file://') || self.uri == 'file:///storage' || self.uri.startsWith('file:///storage/'))",
    "message": "a file:// URI needs persistentVolumeClaim and lies under file:///storage; other URIs take no persistentVolumeClaim",
}]))]
pub struct Storage {
    /// The folder under which everything is written: `s3://bucket/folder`, `gs://…`, `az://…`, or `file:///storage/…` on a mounted volume.
    #[schemars(length(max = 1024), regex(pattern = "^(s3|gs|az)://[^/?#]+(/.*)?$|^file:///.+"))]
    pub uri: String,
    /// The Secret with the credentials. Its keys are environment variables such as `AWS_ACCESS_KEY_ID`,
    /// `GOOGLE_SERVICE_ACCOUNT_KEY` or `AZURE_STORAGE_ACCOUNT_NAME`: docs/concepts.md lists them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// The service account that the pods run as, where the cloud gives it an identity of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// The volume that a `file:///storage/…` URI lies on; it is mounted at `/storage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub persistent_volume_claim: Option<String>,
}
