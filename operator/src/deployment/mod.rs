//! `ModelDeployment`: dereference → validate → build → apply → status.

mod apply;
mod build;
mod dereference;
mod explain;
#[cfg(test)]
mod fixtures;
mod memory;
mod rollout;
#[cfg(test)]
mod scenarios;
mod status;
mod traffic;
mod validate;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kube::{ResourceExt, runtime::controller::Action};
use stoker_crds::{
    ModelDeployment, Reason,
    deployment::status::{ServedModel, ServingMetrics},
};

pub use self::memory::Memories;
use self::{
    apply::Writer,
    build::build,
    dereference::{Dereferenced, dereference},
    explain::{Explanation, explain},
    status::Observed,
    validate::validate,
};
use crate::{Context, Error, Result, labels::Owner, pods::PodView};

/// Pods that start or end together are several changes, which one reconcile answers. Shorter than the pauses between the answers
/// of serving pods, each of which calls for a reconcile too.
pub(crate) const DEBOUNCE: Duration = Duration::from_millis(150);

/// How long a pod may take to become ready before that counts as a failure.
pub(crate) const DEADLINE: Duration = Duration::from_secs(600);

/// Brings one ModelDeployment closer to what its spec says, and its status to what is.
///
/// # Errors
/// What went wrong; it stands in the status too.
pub async fn reconcile(deployment: Arc<ModelDeployment>, context: Arc<Context>) -> Result<Action> {
    if deployment.metadata.deletion_timestamp.is_some() {
        // What it owns goes with it.
        return Ok(Action::await_change());
    }
    let deployment = context.written_deployments.newer(deployment);
    let (namespace, uid) = (deployment.namespace().unwrap_or_default(), deployment.uid().unwrap_or_default());
    let owner = Owner::deployment(&namespace, deployment.name_any());
    let writer = Writer { context: &context, owner: &owner, uid: &uid, namespace: &namespace };

    let (wanted, error) = advance(&writer, &deployment).await;
    // What has just been applied is seen already.
    let Dereferenced { workloads, pods, .. } = dereference(&context, &owner, &deployment);
    let mut observed = Observed {
        deployment: &deployment,
        model: wanted.as_ref().map(|wanted| &wanted.model),
        revision: wanted.as_ref().map(|wanted| wanted.revision.clone()),
        workloads: &workloads,
        pods: &pods,
        metrics: figures(&context, &uid, &pods),
        error: error.as_ref(),
        explanation: Explanation::default(),
        now: context.now(),
    };
    observed.explanation = explain(&context, &observed, &namespace, &uid).await;
    let due = status::write_if_due(&context, &observed, &uid).await?;
    let next = [due, observed.next_change()].into_iter().flatten().min();
    match error {
        // A change of the training is seen, and until then there is nothing to try.
        Some(error) if error.reason() != Reason::ModelNotFound => Err(error),
        _ => Ok(next.map_or_else(Action::await_change, Action::requeue)),
    }
}

/// What is to be served.
struct Wanted {
    model: ServedModel,
    /// Name of the Deployment.
    revision: String,
}

/// Brings the cluster closer to what the spec says: what is to be served, if that can be said, and what went wrong.
async fn advance(writer: &Writer<'_>, deployment: &ModelDeployment) -> (Option<Wanted>, Option<Error>) {
    let settings = &writer.context.settings;
    let Dereferenced { training, workloads, .. } = dereference(writer.context, writer.owner, deployment);
    let (storage, allow_files) = (settings.default_storage.as_ref(), settings.allow_file_storage);
    let valid = validate(deployment, training.as_deref(), storage, allow_files);
    match valid.and_then(|valid| Ok((build(&valid, settings)?, valid))) {
        Ok((objects, valid)) => {
            let applied = writer.apply(&valid, &objects, &workloads).await;
            (Some(Wanted { revision: objects.revision(), model: valid.model }), applied.err())
        }
        Err(error) => {
            let kept = writer.keep_serving(deployment.spec.replicas, &workloads).await;
            (None, Some(kept.err().unwrap_or(error)))
        }
    }
}

/// How requests fare, by what the ready pods answered last.
fn figures(context: &Context, uid: &str, pods: &[Arc<PodView>]) -> Option<ServingMetrics> {
    let ready: Vec<&str> = pods.iter().filter(|pod| pod.is_ready).map(|pod| pod.uid.as_str()).collect();
    context.memories.with(uid, |memory| {
        memory.traffic.retain(&ready);
        for pod in &ready {
            if let Some((at, stats)) = context.stats.answers(pod).map(|answers| answers.latest) {
                memory.traffic.add(pod, at, stats);
            }
        }
        memory.traffic.figures(Instant::now())
    })
}
