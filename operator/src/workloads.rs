//! The little that a reconcile needs of what a ModelDeployment owns, besides its pods.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::DeploymentCondition, core::v1::Service, networking::v1::NetworkPolicy, policy::v1::PodDisruptionBudget,
};
use kube::{Resource, ResourceExt};

use crate::{
    cache::Owned,
    labels::{DIGEST_ANNOTATION, MODEL_DIGEST_ANNOTATION, MODEL_VERSION_ANNOTATION},
    lean::Deployment,
};

/// An `apps/v1` Deployment: one revision of a ModelDeployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadView {
    /// Its name.
    pub name: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// Whether it was told to go.
    pub is_deleting: bool,
    /// What it was made from, and its last change.
    pub state: ChildView,
    /// Digest of the model that it serves.
    pub model_digest: String,
    /// Version of the model that it serves, if that is a training's.
    pub model_version: Option<u32>,
    /// Pods that its spec asks for.
    pub replicas: u32,
    /// Pods that exist.
    pub pods: u32,
    /// Of those, the ones that are ready.
    pub ready: u32,
    /// Whether all its pods were ready at some time.
    pub has_served: bool,
    /// Why its pods cannot be created, as the API server says it.
    pub refusal: Option<String>,
}

impl From<Deployment> for WorkloadView {
    fn from(deployment: Deployment) -> Self {
        let state = ChildView::of(&deployment);
        let annotation = |key: &str| deployment.annotations().get(key).cloned();
        let status = deployment.status.as_ref();
        let condition = |type_: &str, status_: &str| -> Option<&DeploymentCondition> {
            let conditions = status?.conditions.as_ref()?;
            conditions.iter().find(|condition| condition.type_ == type_ && condition.status == status_)
        };
        Self {
            name: deployment.name_any(),
            created_at: deployment.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            is_deleting: deployment.metadata.deletion_timestamp.is_some(),
            model_digest: annotation(MODEL_DIGEST_ANNOTATION).unwrap_or_default(),
            model_version: annotation(MODEL_VERSION_ANNOTATION).and_then(|version| version.parse().ok()),
            replicas: count(deployment.spec.as_ref().and_then(|spec| spec.replicas)),
            pods: count(status.and_then(|status| status.replicas)),
            ready: count(status.and_then(|status| status.ready_replicas)),
            // The Deployment controller sets this reason when all pods are ready, and keeps it.
            has_served: condition("Progressing", "True")
                .is_some_and(|progressing| progressing.reason.as_deref() == Some("NewReplicaSetAvailable")),
            refusal: condition("ReplicaFailure", "True").and_then(|failure| failure.message.clone()),
            state,
        }
    }
}

fn count(pods: Option<i32>) -> u32 {
    pods.and_then(|pods| u32::try_from(pods).ok()).unwrap_or(0)
}

/// What tells whether an owned object still is as it was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChildView {
    /// Digest of what it was made from.
    pub digest: String,
    /// Grows whenever its spec changes.
    pub version: u64,
}

impl ChildView {
    /// The view of an object. Where the API server counts generations, changes of its status do not matter.
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        let digest = object.annotations().get(DIGEST_ANNOTATION).cloned();
        let generation = meta.generation.and_then(|generation| u64::try_from(generation).ok());
        let version = generation.or_else(|| meta.resource_version.as_ref()?.parse().ok());
        Self { digest: digest.unwrap_or_default(), version: version.unwrap_or_default() }
    }
}

/// Views of the objects of which a ModelDeployment owns one each.
#[derive(Debug, Default)]
pub struct Children {
    /// Services.
    pub services: Arc<Owned<ChildView>>,
    /// NetworkPolicies.
    pub policies: Arc<Owned<ChildView>>,
    /// PodDisruptionBudgets.
    pub budgets: Arc<Owned<ChildView>>,
}

/// A kind of which a ModelDeployment owns one object.
pub trait Child {
    /// The views of that kind.
    fn views(children: &Children) -> &Arc<Owned<ChildView>>;
}

impl Child for Service {
    fn views(children: &Children) -> &Arc<Owned<ChildView>> {
        &children.services
    }
}

impl Child for NetworkPolicy {
    fn views(children: &Children) -> &Arc<Owned<ChildView>> {
        &children.policies
    }
}

impl Child for PodDisruptionBudget {
    fn views(children: &Children) -> &Arc<Owned<ChildView>> {
        &children.budgets
    }
}
