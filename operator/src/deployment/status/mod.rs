//! `status` of a ModelDeployment, out of what was seen. Pure.

#[cfg(test)]
mod tests;
mod write;

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use stoker_crds::{
    ModelDeployment, ModelDeploymentStatus, Reason,
    deployment::status::{DeploymentSummary, Phase, Revision, ServedModel, ServingMetrics},
    serving::INFERENCE_PORT,
    training::status::StatusError,
};

pub(crate) use self::write::write_if_due;
use super::{
    DEADLINE,
    build::selector,
    explain::{self, Explanation},
    traffic,
};
use crate::{
    conditions::{State, kstatus},
    error::{Class, Error},
    pods::PodView,
    workloads::WorkloadView,
};

/// What a status is made of.
#[derive(Debug)]
pub(crate) struct Observed<'a> {
    /// The resource, with the status that it had.
    pub(crate) deployment: &'a ModelDeployment,
    /// The model that is wanted, if that can be said.
    pub(crate) model: Option<&'a ServedModel>,
    /// Name of the wanted revision's Deployment, if that can be said.
    pub(crate) revision: Option<String>,
    /// The Deployments of all revisions.
    pub(crate) workloads: &'a [Arc<WorkloadView>],
    /// The pods of all revisions.
    pub(crate) pods: &'a [Arc<PodView>],
    /// How requests fare.
    pub(crate) metrics: Option<ServingMetrics>,
    /// What went wrong in this pass.
    pub(crate) error: Option<&'a Error>,
    /// What only events and logs say.
    pub(crate) explanation: Explanation,
    /// The time.
    pub(crate) now: Timestamp,
}

/// Something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    error: StatusError,
    /// Whether it may well pass by itself.
    passes: bool,
}

impl Observed<'_> {
    /// The status.
    pub(crate) fn status(&self) -> ModelDeploymentStatus {
        let old = self.deployment.status.clone().unwrap_or_default();
        let meta = &self.deployment.metadata;
        let name = self.deployment.name_any();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let fault = self.fault();
        let phase = self.phase(fault.as_ref());
        let error = fault.filter(|_| phase != Phase::Available).map(|fault| fault.error);
        let model = self.model.map(rounded).or(old.model);
        let metrics =
            if traffic::is_news(old.metrics.as_ref(), self.metrics.as_ref()) { &self.metrics } else { &old.metrics };
        let (reason, message) = self.reason(phase, error.as_ref());
        ModelDeploymentStatus {
            observed_generation: meta.generation,
            phase: Some(phase),
            url: Some(format!("http://{name}.{namespace}.svc:{INFERENCE_PORT}")),
            replicas: self.sum(|workload| workload.pods),
            ready_replicas: self.sum(|workload| workload.ready),
            selector: Some(selector(&name).iter().map(|(key, value)| format!("{key}={value}")).collect()),
            revisions: self.revisions(),
            summary: Some(self.summary(model.as_ref(), metrics.as_ref())),
            metrics: metrics.clone(),
            conditions: kstatus(&old.conditions, state(phase), &reason, &message, meta.generation, self.now),
            model,
            error,
        }
    }

    fn wanted(&self) -> u32 {
        self.deployment.spec.replicas
    }

    fn current(&self) -> Option<&WorkloadView> {
        let revision = self.revision.as_deref()?;
        self.workloads.iter().find(|workload| workload.name == revision).map(Arc::as_ref)
    }

    fn sum(&self, count: fn(&WorkloadView) -> u32) -> u32 {
        self.workloads.iter().map(|workload| count(workload)).sum()
    }

    fn phase(&self, fault: Option<&Fault>) -> Phase {
        // Not before the Deployments of old revisions are gone.
        let is_complete = self.workloads.len() == 1
            && self.current().is_some_and(|current| {
                let WorkloadView { replicas, pods, ready, .. } = *current;
                [replicas, pods, ready] == [self.wanted(); 3]
            });
        match fault {
            _ if is_complete && self.error.is_none_or(|error| error.class() == Class::Transient) => Phase::Available,
            None => Phase::Progressing,
            Some(fault) if fault.passes => Phase::Progressing,
            Some(_) if self.sum(|workload| workload.ready) > 0 => Phase::Degraded,
            Some(fault) if fault.error.reason == Reason::ModelNotFound => Phase::Pending,
            Some(_) => Phase::Failed,
        }
    }

    /// What is wrong: with this pass, else with creating pods, else with the pods of the wanted revision.
    fn fault(&self) -> Option<Fault> {
        if let Some(error) = self.error {
            return Some(Fault { error: error.to_status(), passes: error.class() == Class::Transient });
        }
        if let Some(refusal) = self.current().and_then(|current| current.refusal.as_deref()) {
            return Some(Fault { error: refused(refusal), passes: false });
        }
        let pods = self.failing_pods();
        let obstacle = || Some(Fault { error: self.explanation.obstacle.clone()?, passes: false });
        let lateness = || pods.iter().find_map(|pod| self.lateness(pod));
        // A pod that says what is wrong tells more than one that is only late.
        pods.iter().find_map(|pod| self.problem(pod)).or_else(obstacle).or_else(lateness)
    }

    /// Pods of the wanted revision that are not ready, the oldest first; one that is over has been replaced.
    pub(crate) fn failing_pods(&self) -> Vec<&PodView> {
        let is_wanted = |pod: &PodView| match (&self.revision, &pod.revision) {
            (Some(workload), Some(revision)) => workload.rsplit('-').next() == Some(revision),
            _ => true,
        };
        let pods = self.pods.iter().map(Arc::as_ref);
        let mut pods: Vec<&PodView> =
            pods.filter(|pod| pod.is_active() && !pod.is_ready && pod.ending.is_none() && is_wanted(pod)).collect();
        pods.sort_by_key(|pod| (pod.created_at, pod.name.clone()));
        pods
    }

    fn problem(&self, pod: &PodView) -> Option<Fault> {
        let problem = pod.problem.as_ref()?;
        let error = pod.error()?;
        match problem.since {
            Some(since) if self.waited(since) < PATIENCE => None,
            Some(since) => Some(Fault { error, passes: self.waited(since) < DEADLINE }),
            None => {
                let log_tail = if problem.needs_log { self.explanation.log_tail.clone() } else { Vec::new() };
                Some(Fault { error: StatusError { log_tail, ..error }, passes: false })
            }
        }
    }

    fn lateness(&self, pod: &PodView) -> Option<Fault> {
        if self.waited(pod.readiness_changed_at) < DEADLINE {
            return None;
        }
        let message = format!(
            "pod {} has not become ready for {} minutes: see kubectl describe pod {} and kubectl logs {}",
            pod.name,
            DEADLINE.as_secs() / 60,
            pod.name,
            pod.name
        );
        let error = StatusError {
            reason: Reason::NotReady,
            message,
            exit_code: None,
            pod: Some(pod.name.clone()),
            log_tail: Vec::new(),
        };
        Some(Fault { error, passes: false })
    }

    /// How long ago that was.
    pub(crate) fn waited(&self, since: Timestamp) -> Duration {
        self.now.duration_since(since).max(SignedDuration::ZERO).unsigned_abs()
    }

    /// How long until time alone changes the status.
    pub(crate) fn next_change(&self) -> Option<Duration> {
        let left = |since, span: Duration| span.checked_sub(self.waited(since)).filter(|left| !left.is_zero());
        let changes = self.failing_pods().into_iter().flat_map(|pod| {
            let since = pod.problem.as_ref().and_then(|problem| problem.since);
            let passing = since.map(|since| [left(since, PATIENCE), left(since, DEADLINE)]);
            let late = left(pod.readiness_changed_at, DEADLINE);
            passing.into_iter().flatten().chain([late, explain::next_question(self, pod)])
        });
        changes.flatten().min()
    }

    fn revisions(&self) -> Vec<Revision> {
        let mut workloads: Vec<&WorkloadView> = self.workloads.iter().map(Arc::as_ref).collect();
        workloads.sort_by_key(|workload| {
            (
                self.revision.as_ref() != Some(&workload.name),
                std::cmp::Reverse(workload.created_at),
                workload.name.clone(),
            )
        });
        let ready: Vec<u32> = workloads.iter().map(|workload| workload.ready).collect();
        let revision = |(workload, traffic): (&WorkloadView, u32)| Revision {
            name: workload.name.clone(),
            version: workload.model_version,
            digest: workload.model_digest.clone(),
            replicas: workload.pods,
            ready_replicas: workload.ready,
            traffic,
        };
        workloads.into_iter().zip(shares(&ready)).map(revision).collect()
    }

    fn summary(&self, model: Option<&ServedModel>, metrics: Option<&ServingMetrics>) -> DeploymentSummary {
        DeploymentSummary {
            model: model.map(|model| model.training.clone().unwrap_or_else(|| short(&model.digest))),
            version: self.versions(model),
            replicas: Some(format!("{}/{}", self.sum(|workload| workload.ready), self.wanted())),
            requests_per_second: metrics.map(|metrics| metrics.requests_per_second.to_string()),
            p95: metrics.and_then(|metrics| metrics.p95.clone()),
        }
    }

    /// The version that is wanted, after the ones that still serve.
    fn versions(&self, model: Option<&ServedModel>) -> Option<String> {
        let wanted = model?.version?;
        let serving = self.workloads.iter().filter(|workload| workload.ready > 0);
        let mut versions: Vec<u32> = serving.filter_map(|workload| workload.model_version).collect();
        versions.sort_unstable();
        versions.dedup();
        versions.retain(|version| *version != wanted);
        versions.push(wanted);
        Some(versions.iter().map(u32::to_string).collect::<Vec<_>>().join("→"))
    }

    /// One word and a sentence for the conditions.
    fn reason(&self, phase: Phase, error: Option<&StatusError>) -> (String, String) {
        if let Some(StatusError { reason, message, .. }) = error {
            return (reason.to_string(), message.clone());
        }
        let (wanted, ready) = (self.wanted(), self.current().map_or(0, |current| current.ready));
        let message = match phase {
            Phase::Available if wanted == 0 => "no replicas are wanted".to_owned(),
            Phase::Available => format!("all {wanted} replicas serve the wanted model"),
            _ => format!("{ready} of {wanted} replicas serve the wanted model"),
        };
        (format!("{phase:?}"), message)
    }
}

/// How long a passing problem, such as a pod that no node can take yet, is not worth a word.
const PATIENCE: Duration = Duration::from_secs(10);

fn state(phase: Phase) -> State {
    match phase {
        Phase::Available => State::Ready,
        Phase::Pending | Phase::Progressing => State::Reconciling,
        Phase::Degraded | Phase::Failed => State::Stalled,
    }
}

/// Why pods cannot be created, by what the API server says.
fn refused(message: &str) -> StatusError {
    let (reason, message) = if message.contains("error looking up service account") {
        let advice = "create it; the pods then start by themselves";
        (Reason::ServiceAccountNotFound, format!("{message}: {advice}"))
    } else {
        (Reason::PodRefused, format!("the cluster's policy refuses the pods: {message}"))
    };
    StatusError { reason, message, exit_code: None, pod: None, log_tail: Vec::new() }
}

/// Shares of each count, in whole percent that add up to 100, if any counts.
fn shares(counts: &[u32]) -> Vec<u32> {
    let total: u64 = counts.iter().copied().map(u64::from).sum();
    let mut before = 0;
    let percent = |count: u64| u32::try_from((200 * count + total) / (2 * total.max(1))).unwrap_or(100);
    let share = |count: &u32| {
        let after = before + u64::from(*count);
        let share = percent(after) - percent(before);
        before = after;
        share
    };
    counts.iter().map(share).collect()
}

/// The model with its metrics in six significant digits: enough for a person, and the same when read back from JSON.
fn rounded(model: &ServedModel) -> ServedModel {
    let mut model = model.clone();
    model.metrics.values_mut().for_each(|value| *value = format!("{value:.5e}").parse().unwrap_or(*value));
    model
}

/// The start of a digest.
fn short(digest: &str) -> String {
    digest.trim_start_matches("sha256:").chars().take(12).collect()
}
