//! Objects as the API server's answers are read: without what nobody here asks for, which is most of their bytes.
//!
//! Most of all, without the account of which client manages which field: parsed, it is the larger part of an object in
//! memory, and takes most of the time of reading one.

use std::{borrow::Cow, collections::BTreeMap, fmt::Debug, marker::PhantomData};

use k8s_openapi::{
    api::{apps::v1 as apps, batch::v1 as batch, core::v1 as core},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time},
};
use kube::{Resource, core::NamespaceResourceScope};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use stoker_crds::{
    ModelDeployment, ModelDeploymentSpec, ModelDeploymentStatus, ModelTraining, ModelTrainingSpec, ModelTrainingStatus,
};

/// An object of the kind `K`, of whose spec and status only `S` and `T` are read.
#[derive(Debug, Deserialize)]
#[serde(bound = "S: Deserialize<'de>, T: Deserialize<'de>")]
pub struct Lean<K, S, T> {
    /// Without managed fields, and without the copy of the spec that `kubectl apply` leaves.
    #[serde(deserialize_with = "read_metadata")]
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: S,
    /// What is.
    pub status: T,
    #[serde(skip, default)]
    kind: PhantomData<fn() -> K>,
}

/// An object of which nothing but the metadata is read.
pub type Meta<K> = Lean<K, Option<IgnoredAny>, Option<IgnoredAny>>;
/// A pod.
pub type Pod = Lean<core::Pod, Option<PodSpec>, Option<core::PodStatus>>;
/// A Job.
pub type Job = Lean<batch::Job, Option<JobSpec>, Option<batch::JobStatus>>;
/// An `apps/v1` Deployment.
pub type Deployment = Lean<apps::Deployment, Option<DeploymentSpec>, Option<apps::DeploymentStatus>>;

/// What is read of a pod's spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// The node that took it.
    pub node_name: Option<String>,
    /// Whether its containers are run again.
    pub restart_policy: Option<String>,
}

/// What is read of a Job's spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobSpec {
    /// Whether it is held back.
    pub suspend: Option<bool>,
    /// How often it tries again.
    pub backoff_limit: Option<i32>,
    /// How long it may take.
    pub active_deadline_seconds: Option<i64>,
}

/// What is read of a Deployment's spec.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct DeploymentSpec {
    /// How many pods there should be.
    pub replicas: Option<i32>,
}

/// A kind of ours, which is read lean.
pub trait ReadLean:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Send + Sync + 'static
{
    /// What is wanted of it.
    type Spec: DeserializeOwned + Clone;
    /// What is.
    type Status: DeserializeOwned + Serialize + Clone;

    /// The object of these parts.
    fn of(metadata: ObjectMeta, spec: Self::Spec, status: Option<Self::Status>) -> Self;

    /// What is wanted of it.
    fn spec(&self) -> &Self::Spec;
}

macro_rules! read_lean {
    ($kind:ident, $spec:ident, $status:ident) => {
        impl ReadLean for $kind {
            type Spec = $spec;
            type Status = $status;

            fn of(metadata: ObjectMeta, spec: $spec, status: Option<$status>) -> Self {
                Self { metadata, spec, status }
            }

            fn spec(&self) -> &$spec {
                &self.spec
            }
        }
    };
}

read_lean!(ModelTraining, ModelTrainingSpec, ModelTrainingStatus);
read_lean!(ModelDeployment, ModelDeploymentSpec, ModelDeploymentStatus);

// A derive would ask the kind to be `Clone`, of which there is no object.
impl<K, S: Clone, T: Clone> Clone for Lean<K, S, T> {
    fn clone(&self) -> Self {
        let Self { metadata, spec, status, kind } = self;
        Self { metadata: metadata.clone(), spec: spec.clone(), status: status.clone(), kind: *kind }
    }
}

impl<K: Resource, S, T> Resource for Lean<K, S, T> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }

    fn group(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }

    fn version(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }

    fn plural(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The copy of its spec that `kubectl apply` leaves on an object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What is read of an object's metadata.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
}

/// An object's metadata, lean.
///
/// # Errors
/// If it is none.
fn read_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let mut read = Metadata::deserialize(deserializer)?;
    if let Some(annotations) = &mut read.annotations {
        annotations.remove(LAST_APPLIED);
    }
    Ok(ObjectMeta {
        name: read.name,
        namespace: read.namespace,
        uid: read.uid,
        resource_version: read.resource_version,
        generation: read.generation,
        creation_timestamp: read.creation_timestamp,
        deletion_timestamp: read.deletion_timestamp,
        labels: read.labels,
        annotations: read.annotations,
        owner_references: read.owner_references,
        ..ObjectMeta::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{training::fixtures, unreadable::read};

    #[test]
    fn an_object_is_read_as_it_is_but_for_the_account_of_its_managers_and_the_copy_of_its_spec() {
        let training = fixtures::training();
        let mut written = serde_json::to_value(&training).unwrap();
        written["metadata"]["managedFields"] = json!([{"manager": "kubectl", "operation": "Apply"}]);
        written["metadata"]["annotations"] = json!({LAST_APPLIED: "{}", "stoker.dev/restart": "1"});
        let read = read::<ModelTraining>(serde_json::from_value(written).unwrap()).unwrap();
        let annotations = BTreeMap::from([("stoker.dev/restart".to_owned(), "1".to_owned())]);
        let metadata = ObjectMeta { annotations: Some(annotations), ..training.metadata.clone() };
        assert_eq!(read, ModelTraining { metadata, ..training });
    }

    #[test]
    fn an_object_without_spec_and_status_is_read_where_it_may_lack_them() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        assert!(pod.spec.is_none() && pod.status.is_none());
        assert_eq!((Pod::kind(&()), Pod::plural(&())), ("Pod".into(), "pods".into()));
        read::<ModelTraining>(serde_json::from_value(json!({"metadata": {}})).unwrap()).unwrap_err();
    }
}
