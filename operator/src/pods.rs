//! What a Pod's state means, said in Stoker's own reasons.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, PodCondition, PodStatus};
use stoker_crds::{
    report::{PREEMPTED_EXIT_CODE, Reason, RunError, RunReport},
    training::status::StatusError,
};

use crate::{labels, lean::Pod};

/// The containers of our pods.
const OURS: [&str; 2] = [labels::TRAINER, labels::SERVER];
/// How long after its grace period a pod may take to be reported as ended.
const REPORTED_WITHIN: SignedDuration = SignedDuration::from_secs(30);

/// The little that a reconcile needs of a Pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// Since when its container runs.
    pub running_since: Option<Timestamp>,
    /// The UID of the training that it belongs to, if it trains.
    pub training: Option<String>,
    /// The run that it belongs to, if it trains.
    pub run: Option<u32>,
    /// The revision that it belongs to, if it serves.
    pub revision: Option<String>,
    /// When a node took it.
    pub scheduled_at: Option<Timestamp>,
    /// Its address, once it has one.
    pub ip: Option<IpAddr>,
    /// That it was told to end, if it was.
    pub ending: Option<Ending>,
    /// When it ended, if it has.
    pub ended_at: Option<Timestamp>,
    /// Whether its readiness probe succeeds.
    pub is_ready: bool,
    /// Since when it is or is not ready.
    pub readiness_changed_at: Timestamp,
    /// How often its container was started again.
    pub restarts: u32,
    /// How far its life is.
    pub state: State,
    /// What is wrong with it, or was wrong when its container ended last.
    pub problem: Option<Problem>,
    /// What its container left behind when it ended last. As text: thousands are kept and few are read.
    pub last_words: Option<Box<str>>,
}

/// That a pod was told to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// When its grace period is over.
    pub due_at: Timestamp,
    /// The node that reports when it has ended, if one took it.
    pub node: Option<String>,
}

/// How far a pod's life is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Its container does not run yet, or not at the moment.
    #[default]
    Waiting,
    /// Its container runs.
    Running,
    /// Its container ended with exit code 0 for good.
    Succeeded,
    /// The pod ended otherwise.
    Failed,
}

impl State {
    /// Whether the pod is over.
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// What is wrong with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// From the closed list.
    pub reason: Reason,
    /// What happened and what to do next.
    pub message: String,
    /// The exit code of its container, if it ended.
    pub exit_code: Option<i32>,
    /// Since when, if it can pass by itself and is worth a word only after a while.
    pub since: Option<Timestamp>,
    /// Whether only the log can say more.
    pub needs_log: bool,
}

impl PodView {
    /// The report that its trainer left behind.
    pub fn report(&self) -> Option<RunReport> {
        serde_json::from_str(self.last_words.as_deref()?).ok()
    }

    /// What is wrong with it, as it stands in status; the log's last lines are for the caller to add.
    pub fn error(&self) -> Option<StatusError> {
        let Problem { reason, message, exit_code, .. } = self.problem.clone()?;
        Some(StatusError { reason, message, exit_code, pod: Some(self.name.clone()), log_tail: Vec::new() })
    }

    /// Whether it is or may become at work.
    pub fn is_active(&self) -> bool {
        !self.state.has_ended()
    }

    /// From when on it counts as lost with its node: told to end, and never reported as ended.
    pub fn lost_at(&self) -> Option<Timestamp> {
        let ending = self.ending.as_ref().filter(|_| self.is_active())?;
        ending.due_at.checked_add(REPORTED_WITHIN).ok()
    }
}

impl From<Pod> for PodView {
    fn from(pod: Pod) -> Self {
        let meta = pod.metadata;
        let status = pod.status.unwrap_or_default();
        let label = |key: &str| meta.labels.as_ref().and_then(|labels| labels.get(key));
        // Others may have put containers of their own beside ours.
        let container = status.container_statuses.iter().flatten().find(|container| OURS.contains(&&*container.name));
        let ended = container.and_then(last_end);
        let spec = pod.spec.unwrap_or_default();
        let is_run_once = spec.restart_policy.as_deref() == Some("Never");
        let state = state_of(&status, container, is_run_once);
        let created_at = meta.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let ready = condition(&status, "Ready");
        let readiness_changed_at =
            ready.and_then(|ready| ready.last_transition_time.as_ref()).map_or(created_at, |time| time.0);
        let finished_at =
            ended.and_then(|ended| ended.finished_at.as_ref()).map_or(readiness_changed_at, |time| time.0);
        let scheduled = condition(&status, "PodScheduled").filter(|scheduled| scheduled.status == "True");
        Self {
            training: label(labels::UID).cloned(),
            run: label(labels::RUN).and_then(|run| run.parse().ok()),
            revision: label(labels::REVISION).cloned(),
            ip: status.pod_ip.as_deref().and_then(|ip| ip.parse().ok()),
            // Kubernetes counts the grace period into the time of the deletion.
            ending: meta.deletion_timestamp.map(|at| Ending { due_at: at.0, node: spec.node_name }),
            ended_at: state.has_ended().then_some(finished_at),
            scheduled_at: scheduled.and_then(|scheduled| Some(scheduled.last_transition_time.as_ref()?.0)),
            is_ready: ready.is_some_and(|ready| ready.status == "True"),
            readiness_changed_at,
            restarts: container.map_or(0, |container| container.restart_count.unsigned_abs()),
            problem: problem_of(state, &status, container),
            running_since: container
                .and_then(|c| c.state.as_ref()?.running.as_ref()?.started_at.as_ref())
                .map(|at| at.0),
            state,
            last_words: ended.and_then(|ended| Some(ended.message.as_deref()?.into())),
            created_at,
            uid: meta.uid.unwrap_or_default(),
            name: meta.name.unwrap_or_default(),
        }
    }
}

/// The container's end comes before the pod's phase tells of it: where it is not run again, that end is the pod's.
fn state_of(status: &PodStatus, container: Option<&ContainerStatus>, is_run_once: bool) -> State {
    let of_container = container.and_then(|container| container.state.as_ref());
    let ended = of_container.and_then(|state| state.terminated.as_ref()).filter(|_| is_run_once);
    match (status.phase.as_deref(), ended) {
        (Some("Succeeded"), _) => State::Succeeded,
        (Some("Failed"), _) => State::Failed,
        (_, Some(end)) if end.exit_code == 0 => State::Succeeded,
        (_, Some(_)) => State::Failed,
        _ if of_container.is_some_and(|state| state.running.is_some()) => State::Running,
        _ => State::Waiting,
    }
}

/// How a container ended last, if it has.
fn last_end(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let now = container.state.as_ref().and_then(|state| state.terminated.as_ref());
    now.or_else(|| container.last_state.as_ref()?.terminated.as_ref())
}

fn condition<'a>(status: &'a PodStatus, type_: &str) -> Option<&'a PodCondition> {
    status.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

fn problem_of(state: State, status: &PodStatus, container: Option<&ContainerStatus>) -> Option<Problem> {
    match state {
        State::Succeeded => None,
        State::Running => container.and_then(last_end).filter(|end| end.exit_code != 0).map(ended),
        State::Failed => Some(failed(status, container)),
        State::Waiting => waiting(status, container),
    }
}

/// Why a pod does not run.
fn waiting(status: &PodStatus, container: Option<&ContainerStatus>) -> Option<Problem> {
    if let Some(scheduled) = condition(status, "PodScheduled").filter(|scheduled| scheduled.status == "False") {
        let message = scheduled.message.as_deref().unwrap_or("no node can take the pod");
        return Some(Problem {
            reason: Reason::Unschedulable,
            message: format!("no node can take the pod: {message}"),
            exit_code: None,
            since: scheduled.last_transition_time.as_ref().map(|time| time.0),
            needs_log: false,
        });
    }
    let waiting = container?.state.as_ref()?.waiting.as_ref()?;
    let said = waiting.message.as_deref().unwrap_or_default();
    let problem =
        |reason, message: String| Some(Problem { reason, message, exit_code: None, since: None, needs_log: false });
    match waiting.reason.as_deref()? {
        reason @ ("ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull") => {
            let image = &container?.image;
            problem(Reason::ImageUnavailable, format!("the image {image} cannot be pulled: {reason}: {said}"))
        }
        "CreateContainerConfigError" if said.to_lowercase().contains("secret") => {
            let advice = "create it in the namespace of the resource; the pod then starts by itself";
            problem(Reason::SecretNotFound, format!("{said}: {advice}"))
        }
        reason @ ("CreateContainerConfigError" | "CreateContainerError" | "RunContainerError") => {
            problem(Reason::PodFailed, format!("the container cannot be started: {reason}: {said}"))
        }
        _ => container.and_then(last_end).filter(|end| end.exit_code != 0).map(ended),
    }
}

/// Why a pod failed.
fn failed(status: &PodStatus, container: Option<&ContainerStatus>) -> Problem {
    let end = container.and_then(last_end);
    let has_report = end.and_then(said_by_container).is_some();
    if let Some(end) = end.filter(|_| has_report) {
        return ended(end);
    }
    let said = status.message.as_deref();
    let disruption = condition(status, "DisruptionTarget").filter(|disruption| disruption.status == "True");
    let by_node = match (status.reason.as_deref(), disruption) {
        (Some("Evicted"), _) => Some(said.unwrap_or("the node evicted the pod").to_owned()),
        (_, Some(disruption)) => {
            let reason = disruption.reason.as_deref().unwrap_or("disruption");
            Some(format!("{reason}: {}", disruption.message.as_deref().unwrap_or("the pod was told to leave its node")))
        }
        _ => None,
    };
    match (by_node, end) {
        (Some(message), end) => Problem {
            reason: Reason::Evicted,
            message: format!("the pod was evicted: {message}"),
            exit_code: end.map(|end| end.exit_code),
            since: None,
            needs_log: false,
        },
        (None, Some(end)) => ended(end),
        (None, None) => Problem {
            reason: Reason::PodFailed,
            message: format!("the pod failed: {}", said.or(status.reason.as_deref()).unwrap_or("no container has run")),
            exit_code: None,
            since: None,
            needs_log: false,
        },
    }
}

/// Why a container ended.
fn ended(end: &ContainerStateTerminated) -> Problem {
    let exit_code = Some(end.exit_code);
    if end.reason.as_deref() == Some("OOMKilled") {
        let message = "the container used more memory than its limit and was ended: raise resources.memory";
        return Problem {
            reason: Reason::OutOfMemory,
            message: message.into(),
            exit_code,
            since: None,
            needs_log: false,
        };
    }
    if let Some(RunError { reason, message }) = said_by_container(end) {
        return Problem { reason, message, exit_code, since: None, needs_log: false };
    }
    let (reason, message) = match end.exit_code {
        0 => (Reason::PodFailed, "the container ended with exit code 0 and left no report".to_owned()),
        code if code == i32::from(PREEMPTED_EXIT_CODE) => {
            (Reason::Preempted, "the pod was told to end before the run was done".to_owned())
        }
        137 => (Reason::PodFailed, "the container was killed (SIGKILL)".to_owned()),
        code => (
            Reason::PodFailed,
            format!("the container ended with exit code {code} and left no report: see the last lines of its log"),
        ),
    };
    Problem { reason, message, exit_code, since: None, needs_log: reason == Reason::PodFailed }
}

/// What the container itself said it failed for: a trainer's report, or a server's error.
fn said_by_container(end: &ContainerStateTerminated) -> Option<RunError> {
    let message = end.message.as_deref()?;
    match serde_json::from_str::<RunReport>(message) {
        Ok(report) => report.error,
        Err(_) => serde_json::from_str(message).ok(),
    }
}

#[cfg(test)]
mod tests;
