//! What a ModelDeployment refers to and what it owns, as it was seen last. Asks nothing of the API server.

use std::sync::Arc;

use stoker_crds::{ModelDeployment, ModelTraining, deployment::ModelSource};

use crate::{Context, labels::Owner, pods::PodView, workloads::WorkloadView};

/// What a ModelDeployment refers to and what it owns.
#[derive(Debug)]
pub(crate) struct Dereferenced {
    /// The ModelTraining that it names, if it names one that exists.
    pub(crate) training: Option<Arc<ModelTraining>>,
    /// The Deployments of its revisions.
    pub(crate) workloads: Vec<Arc<WorkloadView>>,
    /// Their pods.
    pub(crate) pods: Vec<Arc<PodView>>,
}

/// Looks everything up.
pub(crate) fn dereference(context: &Context, owner: &Owner, deployment: &ModelDeployment) -> Dereferenced {
    let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
    let training = match &deployment.spec.model {
        ModelSource::Training(source) => context.training(namespace, &source.name),
        ModelSource::Artifact(_) => None,
    };
    Dereferenced { training, workloads: context.workloads.of(owner), pods: context.pods.of(owner) }
}
