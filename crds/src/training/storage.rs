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
/// The environment variable of pods that run as a `serviceAccountName`, which the cloud may give an identity. Google tells
/// that identity by the metadata service alone, where a pod without one is told the node's.
pub const CLOUD_IDENTITY_ENV: &str = "STOKER_CLOUD_IDENTITY";

/// A URI of what lies in a bucket or on a volume.
pub(in crate::training) const OBJECT_URI: &str = "^(s3|gs|az)://[^/?#]+/.+|^file:///.+";
/// A URI of a folder, which a bucket is too.
pub(in crate::training) const FOLDER_URI: &str = "^(s3|gs|az)://[^/?#]+(/.*)?$|^file:///.+";

/// What is said where the data's URI and its volume do not fit each other.
pub(in crate::training) const SOURCE_PLACE: &str =
    "a file:// URI needs persistentVolumeClaim and lies under file:///data/; other URIs take no persistentVolumeClaim";
/// What is said where the storage's URI and its volume do not fit each other.
pub(in crate::training) const STORAGE_PLACE: &str = "a file:// URI needs persistentVolumeClaim and lies under file:///storage; other URIs take no persistentVolumeClaim";

/// Where the data lies, and with which credentials it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.uri.startsWith('file://') == has(self.persistentVolumeClaim) && (!self.uri.startsWith('file://') || self.uri.startsWith('file:///data/'))",
    "message": SOURCE_PLACE,
}]))]
pub struct Location {
    /// `s3://bucket/path/*.csv`, `gs://…`, `az://…`, or `file:///data/…` on a mounted volume. `*` and `**` match several files.
    #[schemars(length(max = 1024), regex(pattern = OBJECT_URI))]
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
    "message": STORAGE_PLACE,
}]))]
pub struct Storage {
    /// The folder under which everything is written: `s3://bucket/folder`, `gs://…`, `az://…`, or `file:///storage/…` on a mounted volume.
    #[schemars(length(max = 1024), regex(pattern = FOLDER_URI))]
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

/// What is wrong with a URI, if anything is: [`OBJECT_URI`] where it needs a path, else [`FOLDER_URI`].
pub(in crate::training) fn uri_problem(uri: &str, needs_path: bool) -> Option<&'static str> {
    let Some(rest) = SCHEMES.iter().find_map(|scheme| uri.strip_prefix(scheme)) else {
        return Some("must start with s3://, gs://, az:// or file:///");
    };
    let message = if needs_path {
        "must name what lies in a bucket or on a volume, such as s3://bucket/path"
    } else {
        "must name a bucket or a folder, such as s3://bucket/folder"
    };
    if uri.starts_with("file://") {
        return rest.is_empty().then_some(message);
    }
    let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
    let is_nameless = bucket.is_empty() || bucket.contains(['?', '#']) || (needs_path && path.is_empty());
    is_nameless.then_some(message)
}

/// Whether a URI and a volume fit each other, but for where files lie: `stoker-trainer local` reads them anywhere.
pub(in crate::training) fn is_in_place(uri: &str, claim: Option<&String>) -> bool {
    uri.starts_with("file://") || claim.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_a_bucket_and_what_lies_in_it() {
        for uri in ["s3://datasets/a.csv", "gs://b/*", "az://b/folder/", "file:///a", "s3://b//a"] {
            assert_eq!((uri_problem(uri, true), uri_problem(uri, false)), (None, None), "{uri}");
        }
        for uri in ["s3://datasets", "gs://b/"] {
            assert_eq!((uri_problem(uri, true).is_some(), uri_problem(uri, false)), (true, None), "{uri}");
        }
        for uri in
            ["", "datasets/a.csv", "http://b/a", "s3://", "s3:///a", "s3://b?x/a", "s3://b#x/a", "file:///", "file://a"]
        {
            assert!(uri_problem(uri, true).is_some() && uri_problem(uri, false).is_some(), "{uri}");
        }
    }
}
