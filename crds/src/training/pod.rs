//! What pods get, and where they may run.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// An amount of CPU, memory or disk.
pub(crate) const QUANTITY: &str = "^[0-9]{1,12}(\\.[0-9]{1,3})?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$";

/// The volume for GPU kernels where none is asked for.
pub const DEFAULT_CACHE: &str = "2Gi";

/// What a trainer pod gets: requests and limits alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = [cache_rule()]))]
pub struct Resources {
    /// Whole GPUs (`nvidia.com/gpu`). With 0 it computes on the CPU.
    #[schemars(range(min = 0, max = 1))]
    pub gpus: u32,
    /// CPUs, such as `4` or `500m`.
    #[schemars(length(min = 1, max = 16), regex(pattern = QUANTITY))]
    pub cpu: String,
    /// Memory, such as `8Gi`.
    #[schemars(length(min = 1, max = 16), regex(pattern = QUANTITY))]
    pub memory: String,
    /// Space on the node's disk for prepared data, and for sorting what does not fit into memory.
    #[schemars(length(min = 1, max = 16), regex(pattern = QUANTITY))]
    pub scratch: String,
    /// Where the kernels that are compiled for the GPU, and the measurements of which of them are fastest, are kept. The
    /// default is 2Gi of the node's disk, gone with the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
}

impl Default for Resources {
    fn default() -> Self {
        Self { gpus: 0, cpu: "1".into(), memory: "2Gi".into(), scratch: "10Gi".into(), cache: None }
    }
}

/// Where GPU kernels are kept between the starts of a program: exactly one of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = crate::schema::one_of)]
pub enum Cache {
    /// So much of the node's disk, such as `4Gi`: gone with the pod.
    Size(#[schemars(length(min = 1, max = 16), regex(pattern = QUANTITY))] String),
    /// A PersistentVolumeClaim of the same namespace: the next pod finds there what this one leaves, and need not compile and
    /// measure again. Pods on several nodes at a time need one of the access mode `ReadWriteMany`.
    PersistentVolumeClaim(#[schemars(length(min = 1, max = 253))] String),
}

/// The rule between `gpus` and `cache`.
pub(crate) fn cache_rule() -> Value {
    json!({
        "rule": "!has(self.cache) || self.gpus > 0",
        "message": "cache is for the kernels of a GPU: set gpus to 1, or remove cache",
    })
}

/// On which nodes pods may run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Scheduling {
    /// Labels that the node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that the pod tolerates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// The PriorityClass of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

/// A taint that is tolerated, as in a pod's spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Toleration {
    /// The taint's key; every taint if not set, with the operator `Exists`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 317))]
    pub key: Option<String>,
    /// `Equal` compares the taint's value, `Exists` takes any. The default is `Equal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Exists", "Equal"]))]
    pub operator: Option<String>,
    /// The taint's value, for `Equal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// The taint's effect: `NoSchedule` (no new pod), `PreferNoSchedule` (no new pod if another node can take it) or
    /// `NoExecute` (running pods are evicted too); every effect if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["NoSchedule", "PreferNoSchedule", "NoExecute"]))]
    pub effect: Option<String>,
}
