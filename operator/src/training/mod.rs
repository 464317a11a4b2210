//! `ModelTraining`: dereference → validate → build → apply → status.

pub mod apply;
pub mod base;
pub mod build;
pub mod dereference;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod job;
pub mod network;
pub mod run;
#[cfg(test)]
mod scenarios;
pub mod status;
pub mod ttl;
pub mod validate;

use std::{sync::Arc, time::Duration};

use jiff::SignedDuration;
use kube::{
    ResourceExt,
    runtime::{controller::Action, events::EventType},
};
use stoker_crds::{
    ModelTraining, ModelTrainingStatus, Reason,
    training::{model::BaseVersion, status::Phase},
};

use self::{
    apply::Applied,
    dereference::{Observed, dereference},
    run::Run,
    validate::{check, validate},
};
use crate::{context::Context, error::Result, labels::Owner, status::write};

/// A pod that starts or ends is several changes of the pod and its Job, which one reconcile answers. Kubernetes' own Job controller
/// waits for a second.
pub const DEBOUNCE: Duration = Duration::from_millis(200);

/// When a resource is looked at again though nothing has happened: it costs no request, and heals what was missed.
const IDLE: Duration = Duration::from_secs(3600);

/// Brings one ModelTraining closer to what its spec says, and its status to what is.
///
/// # Errors
/// What went wrong; it stands in the status too.
pub async fn reconcile(training: Arc<ModelTraining>, context: Arc<Context>) -> Result<Action> {
    if training.metadata.deletion_timestamp.is_some() {
        // What it owns goes with it, and what it published stays.
        return Ok(Action::await_change());
    }
    let training = context.written_trainings.newer(training);
    let (namespace, name) = (training.namespace().unwrap_or_default(), training.name_any());
    let old = training.status.clone().unwrap_or_default();
    let run = Run::of(&training)?;
    let observed = dereference(&context, &training, &run, &old).await;
    let (base, applied) =
        if run.is_finished { (None, None) } else { started(&training, &run, &observed, &context).await };

    // A Job that was just made, or deleted, is part of what is observed.
    let owner = Owner::training(&namespace, &name);
    let job = context.jobs.get(&owner, &run.name(&name)).filter(|job| job.is_of(&training));
    let observed = Observed { job, ..observed };
    let facts = status::Facts {
        generation: training.metadata.generation,
        suspend: training.spec.suspend,
        run: &run,
        base: base.as_ref(),
        storage: training.spec.storage.as_ref().or(context.settings.default_storage.as_ref()),
        observed: &observed,
        applied: applied.as_ref().map(Result::as_ref),
        now: context.now(),
    };
    let new = status::next(&old, &facts);
    let age = training.creation_timestamp().map_or(SignedDuration::MAX, |made| context.now().duration_since(made.0));
    let due = status::due_in(&old, &new, age);
    if due == Some(SignedDuration::ZERO) {
        write(&context, &context.written_trainings, training.as_ref(), &new).await?;
        tell(&context, &training, &old, &new).await;
    }
    match applied {
        // The training that a run starts from is watched, and until it has published there is nothing to try.
        Some(Err(error)) if error.reason() != Reason::ModelNotFound => return Err(error),
        _ => {}
    }

    if is_finished(&old) && !is_finished(&new) {
        // Until now nobody was told what became of the Job and the pods.
        return Ok(Action::requeue(Duration::ZERO));
    }
    let expires = ttl::expire(&context, &context.written_trainings.newer(training), &new).await?;
    let next_look = if run.is_finished { None } else { status::next_look(&observed, context.now()) };
    let due_later = due.filter(|due| due.is_positive());
    let wait =
        [expires, next_look, due_later].into_iter().flatten().min().and_then(|wait| Duration::try_from(wait).ok());
    Ok(match wait {
        // Nothing becomes of a finished run by itself, and a thousand appointments fill a memory too.
        None if is_finished(&new) => Action::await_change(),
        wait => Action::requeue(wait.map_or(IDLE, |wait| wait.min(IDLE))),
    })
}

/// Whether the run that a status is about has ended.
pub fn is_finished(status: &ModelTrainingStatus) -> bool {
    status.phase.is_some_and(Phase::is_finished)
}

/// What a run that has not ended starts from, where it names a training, and what was done for the run.
async fn started(
    training: &ModelTraining,
    run: &Run,
    observed: &Observed,
    context: &Context,
) -> (Option<BaseVersion>, Option<Result<Applied>>) {
    let storage = context.settings.default_storage.as_ref();
    match base::resolve(training, run, observed.base.as_deref(), storage) {
        Ok(base) => {
            let applied = advance(training, run, base.as_ref(), observed, context).await;
            (base, Some(applied))
        }
        Err(error) => (None, Some(Err(error))),
    }
}

/// Takes a run that has not ended one step further.
async fn advance(
    training: &ModelTraining,
    run: &Run,
    base: Option<&BaseVersion>,
    observed: &Observed,
    context: &Context,
) -> Result<Applied> {
    // A run that has a Job was checked before that was made, and what decides about it has not changed since.
    if observed.job.is_none() {
        check(&training.spec)?;
    }
    let run = validate(training, run, base, &context.settings)?;
    apply::prune(context, &run, observed).await?;
    apply::apply(context, &run, observed).await
}

/// Tells a person of what a status cannot show for long: how a run ended, and why its pods did.
async fn tell(context: &Context, training: &ModelTraining, old: &ModelTrainingStatus, new: &ModelTrainingStatus) {
    for (type_, reason, note) in news(old, new) {
        context.event(training, type_, &reason, &note).await;
    }
}

fn news(old: &ModelTrainingStatus, new: &ModelTrainingStatus) -> Vec<(EventType, String, String)> {
    let is_same_run = old.run == new.run;
    let mut news = Vec::new();
    if is_same_run && new.restarts > old.restarts {
        let pod = new.pod.as_deref().unwrap_or("another pod");
        news.push((EventType::Normal, "Restarted".into(), format!("run {}: {pod} takes over", new.run)));
    }
    let cause = |status: &ModelTrainingStatus| status.error.as_ref().map(|error| (error.reason, error.pod.clone()));
    if let Some(error) = new.error.as_ref().filter(|_| !is_same_run || cause(old) != cause(new)) {
        let pod = error.pod.as_ref().map(|pod| format!(" ({pod})")).unwrap_or_default();
        news.push((EventType::Warning, error.reason.to_string(), format!("run {}: {}{pod}", new.run, error.message)));
    }
    if !is_same_run || old.phase != new.phase {
        match new.phase {
            Some(phase @ (Phase::Succeeded | Phase::Suspended)) => {
                news.push((EventType::Normal, format!("{phase:?}"), phase.describe(new.run)));
            }
            Some(Phase::Failed) if news.is_empty() => {
                news.push((EventType::Warning, "Failed".into(), format!("run {} has failed", new.run)));
            }
            _ => {}
        }
    }
    news
}
