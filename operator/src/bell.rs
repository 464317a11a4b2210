//! How the reconciles that a change calls for reach the controllers.

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use kube::runtime::reflector::ObjectRef;
use stoker_crds::{ModelDeployment, ModelTraining};

use crate::labels::Owner;

/// The objects that are to be reconciled, in the order of what happened.
pub struct Triggers {
    /// ModelTrainings.
    pub trainings: UnboundedReceiver<ObjectRef<ModelTraining>>,
    /// ModelDeployments.
    pub deployments: UnboundedReceiver<ObjectRef<ModelDeployment>>,
}

/// Where changes are told.
#[derive(Clone, Debug)]
pub struct Bell {
    trainings: UnboundedSender<ObjectRef<ModelTraining>>,
    deployments: UnboundedSender<ObjectRef<ModelDeployment>>,
}

impl Bell {
    /// A bell, and what it rings.
    pub fn new() -> (Self, Triggers) {
        let ((trainings, training_refs), (deployments, deployment_refs)) = (unbounded(), unbounded());
        (Self { trainings, deployments }, Triggers { trainings: training_refs, deployments: deployment_refs })
    }

    /// Calls for the reconcile of a resource.
    pub fn ring(&self, owner: Owner) {
        // Nobody listens any more only when the controllers have ended.
        let _ = match owner {
            Owner::Training { namespace, name } => {
                self.trainings.unbounded_send(ObjectRef::new(&name).within(&namespace)).is_ok()
            }
            Owner::Deployment { namespace, name } => {
                self.deployments.unbounded_send(ObjectRef::new(&name).within(&namespace)).is_ok()
            }
        };
    }
}
