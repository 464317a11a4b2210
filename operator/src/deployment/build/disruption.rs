//! The PodDisruptionBudget.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{metadata, pods_of};
use crate::deployment::validate::Validated;

/// Lets nodes be drained of one serving pod at a time, over all revisions.
///
/// `None` for fewer than two replicas. A budget could then only forbid every drain, which holds up whoever runs the
/// cluster for as long as the model is served, or allow every one, which says nothing.
pub(super) fn disruption_budget(deployment: &Validated) -> Option<PodDisruptionBudget> {
    (deployment.replicas > 1).then(|| PodDisruptionBudget {
        metadata: metadata(deployment, &deployment.name),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(pods_of(deployment)),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    })
}
