//! The objects of a ModelDeployment. Pure: takes validated values alone, and knows no client.

mod disruption;
mod network;
mod revision;
mod service;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Service, networking::v1::NetworkPolicy, policy::v1::PodDisruptionBudget},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kube::ResourceExt;
use serde::Serialize;

use super::validate::Validated;
use crate::{
    Result, digest,
    labels::{DEPLOYMENT, DIGEST_ANNOTATION, Owner},
    settings::Settings,
};

/// Everything that a ModelDeployment owns, but for older revisions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Objects {
    /// One address for all revisions.
    pub(crate) service: Service,
    /// Who may reach the pods, and whom they may reach.
    pub(crate) policy: NetworkPolicy,
    /// How many pods may be taken away at a time; `None` where that says nothing.
    pub(crate) budget: Option<PodDisruptionBudget>,
    /// The wanted revision. How many pods it gets is for the rollout to say.
    pub(crate) workload: Deployment,
}

impl Objects {
    /// The name of the wanted revision's Deployment.
    pub(crate) fn revision(&self) -> String {
        self.workload.name_any()
    }
}

/// The objects of a ModelDeployment.
///
/// # Errors
/// If one of them cannot be written as JSON.
pub(crate) fn build(deployment: &Validated, settings: &Settings) -> Result<Objects> {
    Ok(Objects {
        service: sealed(service::service(deployment))?,
        policy: sealed(network::policy(deployment, &settings.operator_namespace))?,
        budget: disruption::disruption_budget(deployment).map(sealed).transpose()?,
        workload: revision::workload(deployment, settings)?,
    })
}

/// Selects the pods of all revisions.
pub(crate) fn selector(name: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(DEPLOYMENT.to_owned(), name.to_owned())])
}

fn pods_of(deployment: &Validated) -> LabelSelector {
    LabelSelector { match_labels: Some(selector(&deployment.name)), ..LabelSelector::default() }
}

/// The metadata of an object that goes when the ModelDeployment does.
fn metadata(deployment: &Validated, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        namespace: Some(deployment.namespace.clone()),
        labels: Some(Owner::deployment(&deployment.namespace, &deployment.name).labels()),
        owner_references: Some(vec![deployment.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// The object with its own digest, by which a later pass sees whether it has to be changed.
fn sealed<K: ResourceExt + Serialize>(mut object: K) -> Result<K> {
    let digest = digest::of(&object, &object.name_any())?;
    object.annotations_mut().insert(DIGEST_ANNOTATION.into(), digest);
    Ok(object)
}
