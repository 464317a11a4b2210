//! `status` of a ModelDeployment.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{condition, metric::Metrics, training::status::StatusError};

/// What became of a ModelDeployment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::explain_values)]
pub struct ModelDeploymentStatus {
    /// The generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// How the ModelDeployment is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Where the model is served, inside the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The model that is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ServedModel>,
    /// Serving pods, of all revisions.
    pub replicas: u32,
    /// Serving pods that are ready, of all revisions.
    pub ready_replicas: u32,
    /// Selects the serving pods; for autoscalers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Which model serves what share of the traffic, newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub revisions: Vec<Revision>,
    /// How requests fare, over the last seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<ServingMetrics>,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<StatusError>,
    /// The same in few words, for `kubectl get`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<DeploymentSummary>,
    /// `Ready`, `Reconciling`, `Stalled`, as kstatus reads them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

impl ModelDeploymentStatus {
    /// The status that a deployment is born with, by the default of its definition.
    pub fn initial() -> Self {
        let phase = Phase::Pending;
        let conditions = condition::initial(&format!("{phase:?}"), "waits for the operator");
        Self { phase: Some(phase), conditions, ..Self::default() }
    }
}

/// How a ModelDeployment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// There is no model to serve yet.
    Pending,
    /// Pods of the wanted model are on their way.
    Progressing,
    /// All replicas serve the wanted model.
    Available,
    /// Some pods serve, but not all, or not the wanted model, and it does not get better.
    Degraded,
    /// Nothing serves, and it does not get better.
    Failed,
}

/// A model that is served or wanted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServedModel {
    /// The training that published it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training: Option<String>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// `sha256:…` of its manifest.
    pub digest: String,
    /// The folder that holds it.
    pub uri: String,
    /// Its metrics on the test split.
    pub metrics: Metrics,
}

/// One served model and its share of the traffic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Revision {
    /// Name of its Deployment.
    pub name: String,
    /// Version of the model, if it is a training's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// `sha256:…` of the model's manifest.
    pub digest: String,
    /// Its pods.
    pub replicas: u32,
    /// Its pods that are ready.
    pub ready_replicas: u32,
    /// Its share of the traffic, 0 to 100.
    pub traffic: u32,
}

/// How requests fare, over the last seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServingMetrics {
    /// Inference requests per second, over all pods.
    pub requests_per_second: f64,
    /// Time within which half of the requests are answered, such as `0.8ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50: Option<String>,
    /// Time within which 95 of 100 requests are answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95: Option<String>,
    /// Share of requests that were answered with a 5xx status, 0 to 1.
    pub error_rate: f64,
}

/// A deployment in few words, for `kubectl get`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentSummary {
    /// The training, or the start of the artifact's digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Such as `2`, or `1→2` while it rolls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Such as `2/2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<String>,
    /// Such as `120`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<String>,
    /// Such as `2.1ms`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95: Option<String>,
}
