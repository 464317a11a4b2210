//! What a run has come to: its phase, and what is wrong with it.

use jiff::{SignedDuration, Timestamp};
use stoker_crds::{
    ModelTrainingStatus, Reason,
    report::FINAL_EXIT_CODES,
    training::status::{Phase, StatusError},
};

use super::Facts;
use crate::{
    pods::{PodView, State},
    training::{
        dereference::{Observed, PATIENCE},
        job::End,
    },
};

/// How long a pod may be unschedulable before that is called a problem: an autoscaler may be bringing a node.
const UNSCHEDULABLE_AFTER: SignedDuration = SignedDuration::from_secs(5);
/// How long a running trainer may keep silent before its phase is guessed: one that is reached answers within its first second.
const SILENCE: SignedDuration = SignedDuration::from_secs(5);
/// What a person does about a run that has failed for good.
pub(super) const HOW_TO_GO_ON: &str =
    "To run it again, change the spec, or set the annotation stoker.dev/restart to something new";

/// What a run has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Its phase.
    pub phase: Phase,
    /// What is wrong, or was last wrong with a run that goes on.
    pub error: Option<StatusError>,
}

/// What a run has come to.
pub(super) fn outcome(status: &ModelTrainingStatus, facts: &Facts<'_>) -> Outcome {
    let observed = facts.observed;
    if let Some(pod) = observed.succeeded() {
        return succeeded(pod);
    }
    match observed.job.as_ref().and_then(|job| job.end.as_ref()) {
        // The pods' watch may lag behind the Jobs': a Job ends after its pods, and their own words count. One that is
        // complete without a pod that says so is run once more.
        Some(End::Failed { reason, message }) if observed.active().is_none() => {
            failed(final_error(status, facts, reason, message))
        }
        _ => Outcome { phase: unfinished(status, facts), error: current_error(status, facts) },
    }
}

fn failed(error: StatusError) -> Outcome {
    Outcome { phase: Phase::Failed, error: Some(error) }
}

fn succeeded(pod: &PodView) -> Outcome {
    match pod.report() {
        Some(report) if report.model.is_some() => Outcome { phase: Phase::Succeeded, error: None },
        _ => failed(StatusError {
            reason: Reason::PodFailed,
            message: "the trainer ended with exit code 0 and left no report of a published model: is the trainer's \
                      image of the operator's version?"
                .into(),
            exit_code: Some(0),
            pod: Some(pod.name.clone()),
            log_tail: Vec::new(),
        }),
    }
}

/// Why the Job was given up.
fn final_error(status: &ModelTrainingStatus, facts: &Facts<'_>, reason: &str, said: &str) -> StatusError {
    if reason == "DeadlineExceeded" {
        return StatusError {
            reason: Reason::DeadlineExceeded,
            message: "the run took longer than spec.deadline".into(),
            exit_code: None,
            pod: status.pod.clone(),
            log_tail: Vec::new(),
        };
    }
    let last = pod_error(status, facts, facts.observed.newest_failed());
    let mut error = last.or_else(|| status.error.clone()).unwrap_or_else(|| StatusError {
        reason: Reason::PodFailed,
        message: format!("the Job failed: {reason}: {said}"),
        exit_code: None,
        pod: status.pod.clone(),
        log_tail: Vec::new(),
    });
    let tries = facts.observed.pods.len();
    let is_final =
        error.exit_code.and_then(|code| u8::try_from(code).ok()).is_some_and(|code| FINAL_EXIT_CODES.contains(&code));
    if tries > 1 && !is_final {
        error.message = format!("{} (the last of {tries} tries)", error.message);
    }
    error
}

/// The phase of a run that goes on.
fn unfinished(status: &ModelTrainingStatus, facts: &Facts<'_>) -> Phase {
    let observed = facts.observed;
    if observed.lost(facts.now).is_some() {
        return Phase::Pending;
    }
    let running = observed.newest().filter(|pod| pod.state == State::Running);
    match (running, observed.progress.as_deref()) {
        (Some(_), Some(progress)) => progress.stage.into(),
        (Some(pod), None) => guess(status, pod, facts.now),
        (None, _) if facts.suspend && observed.active().is_none() => Phase::Suspended,
        (None, _) => Phase::Pending,
    }
}

/// The phase of a trainer that has not answered yet.
fn guess(status: &ModelTrainingStatus, pod: &PodView, now: Timestamp) -> Phase {
    match status.phase {
        Some(phase) if phase.is_running() && status.pod.as_ref() == Some(&pod.name) => phase,
        _ if has_just_started(pod, now) => Phase::Pending,
        _ => Phase::Preparing,
    }
}

/// Whether a running pod may keep silent still.
pub(super) fn has_just_started(pod: &PodView, now: Timestamp) -> bool {
    pod.running_since.is_some_and(|since| now.duration_since(since) < SILENCE)
}

/// What is wrong with a run that goes on: what stops it now, else what ended its last try.
fn current_error(status: &ModelTrainingStatus, facts: &Facts<'_>) -> Option<StatusError> {
    let observed = facts.observed;
    if let Some(Err(error)) = facts.applied {
        return Some(error.to_status());
    }
    if let Some(pod) = observed.lost(facts.now) {
        return Some(lost(pod));
    }
    if facts.suspend {
        return None;
    }
    let stops = || observed.newest().filter(|pod| pod.state == State::Waiting && is_due(pod, facts.now));
    let ended_last = || pod_error(status, facts, observed.newest_failed());
    observed.obstacle.clone().or_else(|| stops()?.error()).or_else(ended_last)
}

/// Whether it has ended is for a person to say, who can look at the node: two pods of a run must never write at the same
/// time. Until then Kubernetes replaces no pod of a Job, not even one that was deleted by force.
fn lost(pod: &PodView) -> StatusError {
    let node = pod.ending.as_ref().and_then(|ending| ending.node.as_deref()).unwrap_or("NODE");
    StatusError {
        reason: Reason::Evicted,
        message: format!(
            "the pod was told to end, and its node {node} does not report that it has: is the node down? The run goes on \
             in another pod as soon as the node answers again. If it is certain that the node is off for good: \
             kubectl delete node {node}"
        ),
        exit_code: None,
        pod: Some(pod.name.clone()),
        log_tail: Vec::new(),
    }
}

fn is_due(pod: &PodView, now: Timestamp) -> bool {
    let since = pod.problem.as_ref().and_then(|problem| problem.since);
    since.is_none_or(|since| now.duration_since(since) >= UNSCHEDULABLE_AFTER)
}

/// What is wrong with a pod, with the end of its log: as just read, or as it stands in status since.
fn pod_error(status: &ModelTrainingStatus, facts: &Facts<'_>, pod: Option<&PodView>) -> Option<StatusError> {
    let mut error = pod?.error()?;
    let read = facts.observed.log_tail.as_ref().filter(|tail| Some(&tail.pod) == error.pod.as_ref());
    let known = status.error.as_ref().filter(|known| known.pod == error.pod);
    let lines = read.map(|tail| &tail.lines).or(known.map(|known| &known.log_tail));
    error.log_tail = lines.cloned().unwrap_or_default();
    Some(error)
}

/// Whether a run that has not ended cannot go on before somebody changes something.
pub(super) const fn needs_help(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::InvalidConfig
            | Reason::SecretNotFound
            | Reason::ServiceAccountNotFound
            | Reason::ImageUnavailable
            | Reason::NameConflict
            | Reason::PodRefused
    )
}

/// When a status will change with time alone: a silence or a wait becomes worth a word.
pub fn next_look(observed: &Observed, now: Timestamp) -> Option<SignedDuration> {
    let pod = observed.newest();
    let silence = pod
        .filter(|pod| pod.state == State::Running && observed.progress.is_none())
        .and_then(|pod| Some(pod.running_since? + SILENCE));
    let unschedulable = pod
        .filter(|pod| pod.state == State::Waiting)
        .and_then(|pod| Some(pod.problem.as_ref()?.since? + UNSCHEDULABLE_AFTER));
    let lost = pod.and_then(PodView::lost_at);
    let due = [silence, unschedulable, lost].into_iter().flatten().filter(|due| *due > now);
    let once = due.map(|due| due.duration_since(now));
    once.chain(observed.stuck_since().map(|since| next_question(since, now))).min()
}

/// How long until it is worth asking what stops a run: each time twice as long as before.
fn next_question(stuck_since: Timestamp, now: Timestamp) -> SignedDuration {
    let stuck_for = now.duration_since(stuck_since);
    let mut next = PATIENCE;
    while next <= stuck_for {
        next = next.saturating_add(next);
    }
    next - stuck_for
}
