//! What pods get, and where they may run.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{quantity, schema::names_rule};

/// An amount of CPU, memory or disk.
pub(crate) const QUANTITY: &str = "^[0-9]{1,12}(\\.[0-9]{1,3})?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$";
/// What is said of an amount that is none.
const NOTHING: &str = "must be greater than 0";
/// What is said of memory or disk in thousandths.
const THOUSANDTHS: &str = "m stands for thousandths, here of a byte: write Mi for mebibytes, such as 512Mi";

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
    #[schemars(extend("x-kubernetes-validations" = amount_rules()))]
    pub cpu: String,
    /// Memory, such as `8Gi`.
    #[schemars(length(min = 1, max = 16), regex(pattern = QUANTITY))]
    #[schemars(extend("x-kubernetes-validations" = bytes_rules()))]
    pub memory: String,
    /// Space on the node's disk for prepared data, and for sorting what does not fit into memory.
    #[schemars(length(min = 1, max = 16), regex(pattern = QUANTITY))]
    #[schemars(extend("x-kubernetes-validations" = bytes_rules()))]
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

impl Resources {
    /// The amounts that cannot be as they are written, each with what is wrong.
    pub(in crate::training) fn problems(&self) -> Vec<(&'static str, &'static str)> {
        let cache = match &self.cache {
            Some(Cache::Size(size)) => Some(size),
            Some(Cache::PersistentVolumeClaim(_)) | None => None,
        };
        let of_bytes = [
            ("spec.resources.memory", Some(&self.memory)),
            ("spec.resources.scratch", Some(&self.scratch)),
            ("spec.resources.cache.size", cache),
        ];
        let of_bytes = of_bytes.into_iter().filter_map(|(field, amount)| Some((field, bytes_problem(amount?)?)));
        let of_cpu = amount_problem(&self.cpu).map(|problem| ("spec.resources.cpu", problem));
        of_cpu.into_iter().chain(of_bytes).collect()
    }
}

/// The rules of an amount besides its form.
pub(crate) fn amount_rules() -> Value {
    json!([is_something()])
}

/// The rules of an amount of memory or disk besides its form.
pub(crate) fn bytes_rules() -> Value {
    json!([is_something(), {"rule": "!self.endsWith('m')", "message": THOUSANDTHS}])
}

fn is_something() -> Value {
    json!({"rule": "!self.matches('^[0.]+[A-Za-z]*$')", "message": NOTHING})
}

/// [`QUANTITY`] and [`amount_rules`].
fn amount_problem(amount: &str) -> Option<&'static str> {
    match quantity::bytes(amount) {
        None => Some("is no amount: write it like 500m, 4 or 8Gi"),
        Some(0) => Some(NOTHING),
        Some(_) => None,
    }
}

/// [`QUANTITY`] and [`bytes_rules`].
fn bytes_problem(amount: &str) -> Option<&'static str> {
    amount_problem(amount).or_else(|| amount.ends_with('m').then_some(THOUSANDTHS))
}

/// Where GPU kernels are kept between the starts of a program: exactly one of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = crate::schema::one_of)]
pub enum Cache {
    /// So much of the node's disk, such as `4Gi`: gone with the pod.
    Size(
        #[schemars(length(min = 1, max = 16), regex(pattern = QUANTITY))]
        #[schemars(extend("x-kubernetes-validations" = bytes_rules()))]
        String,
    ),
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
    #[schemars(extend(
        "maxProperties" = 32,
        "additionalProperties" = {"type": "string", "maxLength": 63},
        "x-kubernetes-validations" = [names_rule(317)],
    ))]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_some_of_each_amount_and_memory_comes_in_whole_bytes() {
        for (amount, cpu, bytes) in [
            ("4", None, None),
            ("0.5", None, None),
            ("500m", None, Some(THOUSANDTHS)),
            ("1.5Gi", None, None),
            ("0", Some(NOTHING), Some(NOTHING)),
            ("0.0", Some(NOTHING), Some(NOTHING)),
            ("00m", Some(NOTHING), Some(NOTHING)),
            ("0Gi", Some(NOTHING), Some(NOTHING)),
        ] {
            assert_eq!((amount_problem(amount), bytes_problem(amount)), (cpu, bytes), "{amount}");
        }
        assert!(amount_problem("plenty").is_some_and(|problem| problem.contains("8Gi")));
    }

    #[test]
    fn each_amount_is_looked_at_under_its_own_name() {
        let size = |size: &str| Some(Cache::Size(size.to_owned()));
        let [cpu, memory, scratch] = ["0", "512m", "0Gi"].map(ToOwned::to_owned);
        let resources = Resources { gpus: 1, cpu, memory, scratch, cache: size("much") };
        let fields: Vec<_> = resources.problems().into_iter().map(|(field, _)| field).collect();
        assert_eq!(
            fields,
            ["spec.resources.cpu", "spec.resources.memory", "spec.resources.scratch", "spec.resources.cache.size"]
        );
        assert_eq!(Resources { cache: size("4Gi"), ..Resources::default() }.problems(), []);
    }
}
