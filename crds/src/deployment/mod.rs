//! `ModelDeployment`: a published model, served.
#![cfg_attr(
    feature = "kinds",
    expect(
        clippy::duplicated_attributes,
        reason = "each printer column of the derive has attributes of the same names"
    )
)]

#[cfg(feature = "kinds")]
pub mod status;

use std::{borrow::Cow, num::NonZeroU32};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    duration::Duration,
    training::{
        Cache, Resources, Scheduling,
        pod::{QUANTITY, amount_rules, bytes_rules, cache_rule},
    },
};

/// The longest name of a ModelDeployment: its Deployments and pods carry it with a suffix.
pub const MAX_NAME: usize = 45;

/// A served model: which one, on how many pods, and who may ask it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = crate::schema::explain_values)]
#[cfg_attr(feature = "kinds", derive(kube::CustomResource))]
#[cfg_attr(
    feature = "kinds",
    kube(
        group = "stoker.dev",
        version = "v1alpha1",
        kind = "ModelDeployment",
        plural = "modeldeployments",
        singular = "modeldeployment",
        shortname = "md",
        category = "stoker",
        namespaced,
        status = "status::ModelDeploymentStatus",
        derive = "PartialEq",
        scale(
            spec_replicas_path = ".spec.replicas",
            status_replicas_path = ".status.replicas",
            label_selector_path = ".status.selector"
        ),
        doc = "Serves a model that a ModelTraining published, over the Open Inference Protocol, and rolls on to new versions by itself.",
        printcolumn(
            name = "Ready",
            type_ = "string",
            json_path = ".status.conditions[?(@.type==\"Ready\")].status",
            description = "Whether all replicas serve the wanted model"
        ),
        printcolumn(
            name = "Model",
            type_ = "string",
            json_path = ".status.summary.model",
            description = "The training that the model is of"
        ),
        printcolumn(
            name = "Version",
            type_ = "string",
            json_path = ".status.summary.version",
            description = "The version that is served"
        ),
        printcolumn(
            name = "Replicas",
            type_ = "string",
            json_path = ".status.summary.replicas",
            description = "Ready replicas, of all wanted"
        ),
        printcolumn(
            name = "RPS",
            type_ = "string",
            json_path = ".status.summary.requestsPerSecond",
            description = "Inference requests per second"
        ),
        printcolumn(
            name = "P95",
            type_ = "string",
            json_path = ".status.summary.p95",
            description = "Time within which 95 of 100 requests are answered"
        ),
        printcolumn(
            name = "URL",
            type_ = "string",
            json_path = ".status.url",
            description = "Where the model is served, inside the cluster"
        ),
        printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
        printcolumn(
            name = "Reason",
            type_ = "string",
            json_path = ".status.error.reason",
            description = "Why it fails",
            priority = 1
        )
    )
)]
pub struct ModelDeploymentSpec {
    /// The model to serve.
    pub model: ModelSource,
    /// How many pods serve it. `kubectl scale` and autoscalers change this field.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: u32,
    /// How the serving pods work.
    #[serde(default)]
    pub server: Server,
    /// How a new version of the model replaces the one that is served.
    #[serde(default)]
    pub rollout: Rollout,
    /// Who may ask the model. The default is everybody who can reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// On which nodes the serving pods may run.
    #[serde(default)]
    pub scheduling: Scheduling,
}

const fn default_replicas() -> u32 {
    1
}

/// The model to serve: exactly one of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = crate::schema::one_of)]
pub enum ModelSource {
    /// What a ModelTraining of the same namespace published.
    Training(TrainingSource),
    /// An artifact in storage.
    Artifact(ArtifactSource),
}

/// What a ModelTraining of the same namespace published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainingSource {
    /// The ModelTraining's name.
    #[schemars(length(min = 1, max = 50))]
    pub name: String,
    /// `Latest`, which rolls on to each new version, or the number of one.
    #[serde(default)]
    pub version: Version,
}

/// Which version of a training's model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// The last one that was published; a new one is rolled out by itself.
    #[default]
    Latest,
    /// The one of that run.
    Number(u32),
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Latest => serializer.serialize_str("Latest"),
            Self::Number(number) => serializer.serialize_u32(*number),
        }
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        enum Word {
            Latest,
        }
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "version must be Latest or a number from 1 to 4294967295")]
        enum Written {
            Number(NonZeroU32),
            Word(Word),
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Number(number) => Self::Number(number.get()),
            Written::Word(Word::Latest) => Self::Latest,
        })
    }
}

impl JsonSchema for Version {
    fn schema_name() -> Cow<'static, str> {
        "Version".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "x-kubernetes-validations": [{
                "rule": "type(self) == string ? self == 'Latest' : self >= 1 && self <= 4294967295",
                "message": "must be Latest or a number from 1 to 4294967295",
            }],
        })
    }
}

/// An artifact in storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.uri.startsWith('file://') == has(self.persistentVolumeClaim) && (!self.uri.startsWith('file://') || self.uri.startsWith('file:///storage/'))",
    "message": "a file:// URI needs persistentVolumeClaim and lies under file:///storage/; other URIs take no persistentVolumeClaim",
}]))]
pub struct ArtifactSource {
    /// The folder that holds the artifact's `manifest.json`.
    #[schemars(length(max = 1024), regex(pattern = "^(s3|gs|az)://[^/?#]+/.+|^file:///.+"))]
    pub uri: String,
    /// `sha256:…` of the manifest; a server refuses any other.
    #[schemars(length(max = 71), regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    pub digest: String,
    /// The Secret with the credentials. Its keys are environment variables such as `AWS_ACCESS_KEY_ID`,
    /// `GOOGLE_SERVICE_ACCOUNT_KEY` or `AZURE_STORAGE_ACCOUNT_NAME`: docs/concepts.md lists them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// The service account that the pods run as, where the cloud gives it an identity of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// The volume that a `file:///storage/…` URI lies on; it is mounted at `/storage`, read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub persistent_volume_claim: Option<String>,
}

/// How the serving pods work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Server {
    /// How requests that come together are answered together.
    pub batching: Batching,
    /// What a request may cost.
    pub limits: Limits,
    /// What a serving pod gets.
    #[schemars(default = "default_server_resources")]
    pub resources: ServerResources,
}

fn default_server_resources() -> ServerResources {
    ServerResources::default()
}

/// What a serving pod gets: the same as a trainer pod, with other defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = [cache_rule()]))]
pub struct ServerResources {
    /// Whole GPUs (`nvidia.com/gpu`). With 0 it computes on the CPU.
    #[schemars(range(min = 0, max = 1))]
    pub gpus: u32,
    /// CPUs, such as `4` or `500m`.
    #[schemars(length(min = 1, max = 16), regex(pattern = QUANTITY))]
    #[schemars(extend("x-kubernetes-validations" = amount_rules()))]
    pub cpu: String,
    /// Memory, such as `512Mi`.
    #[schemars(length(min = 1, max = 16), regex(pattern = QUANTITY))]
    #[schemars(extend("x-kubernetes-validations" = bytes_rules()))]
    pub memory: String,
    /// Where the kernels that are compiled for the GPU, and the measurements of which of them are fastest, are kept. The
    /// default is 2Gi of the node's disk, gone with the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
}

impl Default for ServerResources {
    fn default() -> Self {
        Self { gpus: 0, cpu: "500m".into(), memory: "512Mi".into(), cache: None }
    }
}

impl From<&ServerResources> for Resources {
    fn from(resources: &ServerResources) -> Self {
        let ServerResources { gpus, cpu, memory, cache } = resources.clone();
        Self { gpus, cpu, memory, cache, ..Self::default() }
    }
}

/// How requests that come together are answered together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Batching {
    /// The most rows that are computed at once.
    #[schemars(range(min = 1, max = 65536))]
    pub max_size: u32,
    /// How long a request waits for others, at most; with `0s` it does not wait.
    pub max_delay: Duration,
}

impl Default for Batching {
    fn default() -> Self {
        Self { max_size: 64, max_delay: Duration::from_millis(2) }
    }
}

/// What a request may cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// The longest body of a request, in bytes.
    #[schemars(range(min = 1024, max = 1_073_741_824))]
    pub max_body_bytes: u64,
    /// How long a request may take before it is answered with 504.
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "duration(self) > duration('0s')", "message": "must be longer than 0s"}]))]
    pub timeout: Duration,
    /// How many rows may wait before further requests are answered with 503.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_queue: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_body_bytes: 4 << 20, timeout: Duration::from_secs(30), max_queue: 4096 }
    }
}

/// How a new version of the model replaces the one that is served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rollout {
    /// In what order pods are replaced.
    pub strategy: Strategy,
}

/// The way in which a new version replaces the one that is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Strategy {
    /// Pod by pod: one more of the new version, and once it is ready, one fewer of the old.
    #[default]
    Rolling,
}

/// Who may ask the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Auth {
    /// Whoever sends one of these keys, as `Authorization: Bearer …` or `X-API-Key: …`.
    pub api_keys: ApiKeys,
}

/// The keys that are accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiKeys {
    /// The Secret that holds them: each of its entries is one key, and the entry's name says whose it is.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}
