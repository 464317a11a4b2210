//! What there is of a run: read from the caches, and from the API server only where something is stuck.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use stoker_crds::{
    ModelTraining, Progress,
    training::status::{ModelTrainingStatus, StatusError},
};

use super::{base, job::JobView, run::Run};
use crate::{
    context::Context,
    events,
    labels::Owner,
    logs,
    pods::{PodView, State},
};

/// How long a pod may be on its way before events are asked what stops it.
pub const PATIENCE: SignedDuration = SignedDuration::from_secs(3);

/// What there is of a run.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Its Job.
    pub job: Option<Arc<JobView>>,
    /// A Job of its name that belongs to a training of the same name which was deleted, and goes with it.
    pub leftover: Option<Arc<JobView>>,
    /// The Jobs of the runs before it, newest first.
    pub older_jobs: Vec<Arc<JobView>>,
    /// Its pods, oldest first.
    pub pods: Vec<Arc<PodView>>,
    /// What its newest pod answered last.
    pub progress: Option<Arc<Progress>>,
    /// The ModelTraining that it starts from, if it names one that exists.
    pub base: Option<Arc<ModelTraining>>,
    /// What stops its pod, where only events say it.
    pub obstacle: Option<StatusError>,
    /// The last lines of the log of the newest pod that failed without a report.
    pub log_tail: Option<LogTail>,
}

/// The last lines of a pod's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTail {
    /// The pod.
    pub pod: String,
    /// Its last lines.
    pub lines: Vec<String>,
}

impl Observed {
    /// The newest pod.
    pub fn newest(&self) -> Option<&PodView> {
        self.pods.last().map(Arc::as_ref)
    }

    /// The newest pod that failed.
    pub fn newest_failed(&self) -> Option<&PodView> {
        self.pods.iter().rev().find(|pod| pod.state == State::Failed).map(Arc::as_ref)
    }

    /// The pod that succeeded.
    pub fn succeeded(&self) -> Option<&PodView> {
        self.pods.iter().rev().find(|pod| pod.state == State::Succeeded).map(Arc::as_ref)
    }

    /// A pod that has not ended.
    pub fn active(&self) -> Option<&PodView> {
        self.pods.iter().rev().find(|pod| pod.is_active()).map(Arc::as_ref)
    }

    /// The newest pod, if it was lost with its node.
    pub fn lost(&self, now: Timestamp) -> Option<&PodView> {
        self.newest().filter(|pod| pod.lost_at().is_some_and(|lost_at| lost_at <= now))
    }

    /// Since when a pod should have come or gone on, if none has.
    pub fn stuck_since(&self) -> Option<Timestamp> {
        let job = self.job.as_ref().filter(|job| job.end.is_none() && !job.is_suspended && !job.is_deleting)?;
        match self.active() {
            Some(pod) if pod.state == State::Waiting && pod.problem.is_none() && pod.ending.is_none() => {
                pod.scheduled_at
            }
            Some(_) => None,
            None if self.succeeded().is_some() => None,
            None => self.newest().and_then(|pod| pod.ended_at).max(Some(job.begun_at)),
        }
    }
}

/// Reads what there is of a run. What cannot be read now is left out: it only explains, and the next pass asks again.
pub async fn dereference(
    context: &Context,
    training: &ModelTraining,
    run: &Run,
    old: &ModelTrainingStatus,
) -> Observed {
    let (namespace, uid) = (training.namespace().unwrap_or_default(), training.uid().unwrap_or_default());
    let owner = Owner::training(&namespace, training.name_any());
    let (jobs, leftovers): (Vec<_>, Vec<_>) = context.jobs.of(&owner).into_iter().partition(|job| job.is_of(training));
    let leftover = leftovers.into_iter().find(|job| job.run == run.number);
    let (mut of_run, mut older_jobs) = (None, Vec::new());
    for job in jobs {
        if job.run == run.number { of_run = Some(job) } else { older_jobs.push(job) }
    }
    older_jobs.sort_by_key(|job| std::cmp::Reverse(job.run));
    let is_of_run = |pod: &PodView| pod.run == Some(run.number) && pod.training.as_ref() == Some(&uid);
    let mut pods: Vec<_> = context.pods.of(&owner).into_iter().filter(|pod| is_of_run(pod)).collect();
    pods.sort_by(|a, b| (a.created_at, &a.name).cmp(&(b.created_at, &b.name)));
    let progress = pods.last().and_then(|pod| context.progress.latest(&pod.uid));
    let mut observed = Observed { job: of_run, leftover, older_jobs, pods, progress, ..Observed::default() };
    if !run.is_finished {
        observed.base = base::of(training).and_then(|base| context.training(&namespace, &base.name));
        observed.obstacle = obstacle(context, &namespace, &observed, old).await;
        observed.log_tail = log_tail(context, &namespace, &observed, old).await;
    }
    observed
}

/// Asked about the pod at work, else about the Job that should create one, from time to time while the run is stuck; in
/// between, what was answered last still holds.
async fn obstacle(
    context: &Context,
    namespace: &str,
    observed: &Observed,
    old: &ModelTrainingStatus,
) -> Option<StatusError> {
    let since = observed.stuck_since()?;
    let pod = observed.active();
    let is_known =
        |error: &&StatusError| events::tell_of(error.reason) && error.pod.as_ref() == pod.map(|pod| &pod.name);
    let known = old.error.as_ref().filter(is_known).cloned();
    if context.now().duration_since(since) < PATIENCE || !context.inquiries.allow() {
        return known;
    }
    let uid = pod.map_or_else(|| observed.job.as_ref().map(|job| &job.uid), |pod| Some(&pod.uid))?;
    events::obstacle(context, namespace, uid).await.unwrap_or_else(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, "what stops the pod cannot be read");
        known
    })
}

/// Read once per pod, if it can be read: status keeps it.
async fn log_tail(
    context: &Context,
    namespace: &str,
    observed: &Observed,
    old: &ModelTrainingStatus,
) -> Option<LogTail> {
    let pod = observed.newest_failed().filter(|pod| pod.problem.as_ref().is_some_and(|problem| problem.needs_log))?;
    // What stops the run now is told first.
    if observed.obstacle.is_some() {
        return None;
    }
    let is_known = |error: &StatusError| error.pod.as_ref() == Some(&pod.name) && !error.log_tail.is_empty();
    if old.error.as_ref().is_some_and(is_known) {
        return None;
    }
    match logs::tail(context, namespace, &pod.name, false).await {
        Ok(lines) => Some(LogTail { pod: pod.name.clone(), lines }),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the log of a failed pod cannot be read");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stoker_crds::Reason;

    use super::*;
    use crate::{
        pods::Problem,
        testing::{ApiServer, Step},
        training::fixtures,
    };

    #[tokio::test]
    async fn a_log_that_cannot_be_read_is_asked_for_again_and_one_that_status_keeps_is_not() {
        let log = "/api/v1/namespaces/team/pods/digits-1-aaaaa/log";
        let server = ApiServer::expecting([
            Step::refuse("GET", log, 500, "InternalError", "the node does not answer"),
            Step::get(log, json!("the last line")),
        ]);
        let (context, _writers) = server.context();
        let training = fixtures::training();
        let failed = fixtures::failed_pod("digits-1-aaaaa", Reason::PodFailed, 101, 50);
        let problem = failed.problem.clone().map(|problem| Problem { needs_log: true, ..problem });
        let failed = PodView { training: training.metadata.uid.clone(), problem, ..failed };
        let mut old = ModelTrainingStatus::default();
        context.pods.insert(Owner::training("team", "digits"), failed.name.clone(), failed.clone());
        for is_read in [false, true, false] {
            let observed = dereference(&context, &training, &Run::of(&training).unwrap(), &old).await;
            assert_eq!(observed.log_tail.is_some(), is_read);
            let log_tail = observed.log_tail.map(|tail| tail.lines).unwrap_or_default();
            old.error = failed.error().map(|error| StatusError { log_tail, ..error });
        }
        drop(context);
        server.requests().await;
    }
}
