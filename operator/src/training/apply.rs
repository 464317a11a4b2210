//! Makes the cluster hold what a run needs, with as few requests as that takes: none for what is so already.

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;

use super::{
    build::build,
    dereference::Observed,
    job::{End, JobView},
    network,
    validate::ValidRun,
};
use crate::{apply, context::Context, error::Result, lean::Job, pods::State};

/// How many Jobs of earlier runs are kept, with their pods and logs.
const KEPT_RUNS: usize = 3;

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The run's Job is there.
    Running,
    /// The run's Job was made.
    Started,
    /// The run's Job can be made only when something else is gone; says what.
    Waiting(String),
}

/// Makes a run's Job what it should be. Its objects are built when they are to be written, and not at each look at a run that
/// goes on.
///
/// A Job that somebody deleted is made again, and its pod resumes from the last checkpoint; but only once the pods of
/// the deleted one have ended, so that two never write at the same time.
///
/// # Errors
/// If the API server refuses something, or an object of the name belongs to somebody else.
pub async fn apply(context: &Context, run: &ValidRun, observed: &Observed) -> Result<Applied> {
    let (settings, image) = (&context.settings, context.settings.image(run.config.resources.gpus));
    network::admit_operator_only(context, &run.namespace, &run.owner_reference).await?;
    match observed.job.as_deref() {
        Some(job) if job.is_deleting => Ok(Applied::Waiting(format!("the Job {} is being deleted", job.name))),
        Some(job) if is_outdated(job, run) && !is_at_work(observed) || is_of_another_image(job, image, observed) => {
            delete_run(context, run, &job.name).await?;
            Ok(Applied::Waiting(format!("the Job {} is being replaced", job.name)))
        }
        Some(job) if is_report_lost(job, observed) => {
            delete_run(context, run, &job.name).await?;
            Ok(Applied::Waiting(
                "the run's report was lost with its pod: it ends once more, from its last checkpoint".into(),
            ))
        }
        Some(job) => {
            if is_unable_to_start(observed) {
                // Somebody may have deleted its configuration; one that is there is of the same run.
                apply::create::<ConfigMap, _>(context, &build(run, settings)?.config_map).await?;
            }
            adjust(context, run, job).await?;
            Ok(Applied::Running)
        }
        None if let Some(job) = &observed.leftover => {
            Ok(Applied::Waiting(format!("the Job {} of a deleted ModelTraining of this name is going", job.name)))
        }
        None => match observed.active() {
            Some(pod) => Ok(Applied::Waiting(format!("the pod {} of a deleted Job is ending", pod.name))),
            None => {
                start(context, run).await?;
                Ok(Applied::Started)
            }
        },
    }
}

async fn start(context: &Context, run: &ValidRun) -> Result<()> {
    let objects = build(run, &context.settings)?;
    settle_config(context, run, &objects.config_map).await?;
    let job: Job = apply::create(context, &objects.job).await?;
    context.jobs.insert(run.owner.clone(), run.name.clone(), JobView::from(job));
    Ok(())
}

/// Makes a run's configuration, in place of one that a deletion which was cut short has left: it may be of another spec,
/// and cannot be changed.
async fn settle_config(context: &Context, run: &ValidRun, wanted: &ConfigMap) -> Result<()> {
    let found: ConfigMap = apply::create(context, wanted).await?;
    if found.data != wanted.data {
        apply::delete::<ConfigMap>(context, &run.namespace, &run.name).await?;
        apply::create::<ConfigMap, _>(context, wanted).await?;
    }
    Ok(())
}

/// Changes the little of a Job that may change while it runs.
async fn adjust(context: &Context, run: &ValidRun, job: &JobView) -> Result<()> {
    let wanted = (run.suspend, Some(run.retries), run.deadline_seconds);
    if job.end.is_some() || (job.is_suspended, job.retries, job.deadline_seconds) == wanted {
        return Ok(());
    }
    let fields = json!({ "spec": {
        "suspend": run.suspend,
        "backoffLimit": run.retries,
        "activeDeadlineSeconds": run.deadline_seconds,
    }});
    let job: Job = apply::patch(context, &run.namespace, &run.name, &fields).await?;
    context.jobs.insert(run.owner.clone(), run.name.clone(), JobView::from(job));
    Ok(())
}

/// Ends what earlier runs still do, and deletes all but the last of them.
///
/// # Errors
/// If the API server refuses a deletion.
pub async fn prune(context: &Context, run: &ValidRun, observed: &Observed) -> Result<()> {
    let kept = observed.older_jobs.iter().filter(|job| job.end.is_some()).take(KEPT_RUNS).map(|job| &job.name);
    let kept: Vec<&String> = kept.collect();
    for job in observed.older_jobs.iter().filter(|job| !job.is_deleting && !kept.contains(&&job.name)) {
        delete_run(context, run, &job.name).await?;
    }
    Ok(())
}

async fn delete_run(context: &Context, run: &ValidRun, name: &str) -> Result<()> {
    apply::delete::<Job>(context, &run.namespace, name).await?;
    apply::delete::<ConfigMap>(context, &run.namespace, name).await?;
    context.jobs.remove(&run.owner, name);
    Ok(())
}

/// Whether a Job was made for what the spec was before. How a Job ended is kept, unless its run is not wanted any more.
fn is_outdated(job: &JobView, run: &ValidRun) -> bool {
    job.digest != run.digest && (job.end.is_none() || run.is_new)
}

/// Whether a Job whose pods have not run yet would run an image that is not the one to run now: that of an operator
/// before an upgrade, perhaps one that cannot be pulled.
fn is_of_another_image(job: &JobView, wanted: &str, observed: &Observed) -> bool {
    job.end.is_none()
        && job.image.as_deref() != Some(wanted)
        && observed.pods.iter().all(|pod| pod.state == State::Waiting)
}

/// Whether a run has succeeded and nothing is left that says what came out. Its last checkpoint stands after its last step,
/// so another pod publishes the same model within seconds.
fn is_report_lost(job: &JobView, observed: &Observed) -> bool {
    job.end == Some(End::Complete) && observed.succeeded().is_none() && observed.active().is_none()
}

/// Whether a pod has a node and does not start, by what events say.
fn is_unable_to_start(observed: &Observed) -> bool {
    observed.obstacle.as_ref().is_some_and(|obstacle| obstacle.pod.is_some())
}

/// Whether a pod works on the run, or has just done it: then it goes on as it was started.
fn is_at_work(observed: &Observed) -> bool {
    observed.pods.iter().any(|pod| matches!(pod.state, State::Running | State::Succeeded))
}
