//! `status`: a pure function of what it was, what is observed, what went wrong, and the time.

mod fold;
mod outcome;
mod summary;

use jiff::{SignedDuration, Timestamp};
use stoker_crds::{
    ModelTrainingStatus,
    condition::BORN,
    training::{
        Storage,
        model::BaseVersion,
        status::{ModelStorage, ModelVersion, Phase, TrainingSummary},
    },
};

use self::outcome::{Outcome, outcome};
use super::{apply::Applied, dereference::Observed, run::Run};
use crate::{
    conditions::{self, State, whole_seconds},
    error::Error,
    pods::PodView,
};

pub use self::outcome::next_look;

/// What a status is made from, besides the one before.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The generation of the spec.
    pub generation: Option<i64>,
    /// Whether the spec holds the run back.
    pub suspend: bool,
    /// The run that the spec asks for.
    pub run: &'a Run,
    /// What it starts from, where it names a training.
    pub base: Option<&'a BaseVersion>,
    /// Where it writes: what the spec says, or else the operator's default.
    pub storage: Option<&'a Storage>,
    /// What there is of it.
    pub observed: &'a Observed,
    /// What was done for it, or why that failed; `None` for a finished run, for which nothing is done.
    pub applied: Option<Result<&'a Applied, &'a Error>>,
    /// The time.
    pub now: Timestamp,
}

/// How long after a training was made its status may be left at what it was born with, while there is nothing else to tell.
const QUIET_START: SignedDuration = SignedDuration::from_secs(60);

/// How long until a status is to be written over the old one: `None` if they are the same.
///
/// A training is born with the status of one that waits for its pod. As long as that is all there is to say, nothing is written: most
/// pods run within seconds, and then there is more to say.
pub fn due_in(old: &ModelTrainingStatus, new: &ModelTrainingStatus, age: SignedDuration) -> Option<SignedDuration> {
    if old == new {
        return None;
    }
    let initial = ModelTrainingStatus::initial();
    let is_quiet = *old == initial && says(new) == initial;
    Some(if is_quiet { (QUIET_START - age).max(SignedDuration::ZERO) } else { SignedDuration::ZERO })
}

/// A status without what no person reads: which spec it is about, and since when its conditions hold.
fn says(status: &ModelTrainingStatus) -> ModelTrainingStatus {
    let mut said = ModelTrainingStatus { observed_generation: None, config_digest: None, ..status.clone() };
    for condition in &mut said.conditions {
        (condition.observed_generation, condition.last_transition_time) = (None, BORN);
    }
    said
}

/// The next status.
pub fn next(old: &ModelTrainingStatus, facts: &Facts<'_>) -> ModelTrainingStatus {
    let mut status = start_of(old, facts);
    if !facts.run.is_finished {
        fold::observations(&mut status, facts);
        let Outcome { phase, error } = outcome(&status, facts);
        status.phase = Some(phase);
        status.error = error;
        if phase == Phase::Succeeded {
            publish(&mut status, facts);
        }
        if phase.is_finished() {
            status.finished_at.get_or_insert_with(|| whole_seconds(facts.now).to_string());
        }
        status.summary = Some(summary::of(&status)).filter(|summary| *summary != TrainingSummary::default());
    } else if status.phase == Some(Phase::Succeeded) {
        // It may be of a time when the object could not be read.
        status.error = None;
    }
    status.observed_generation = facts.generation;
    status.conditions = conditions(&status, &old.conditions, facts);
    status
}

/// What the status goes on from: a new run starts anew, and keeps what the runs before it published.
fn start_of(old: &ModelTrainingStatus, facts: &Facts<'_>) -> ModelTrainingStatus {
    let mut status = if facts.run.is_new {
        ModelTrainingStatus {
            run: facts.run.number,
            model: old.model.clone(),
            versions: old.versions.clone(),
            ..ModelTrainingStatus::default()
        }
    } else {
        old.clone()
    };
    if !facts.run.is_finished {
        // A pod that is at work goes on as it was started, whatever the spec says by now.
        let started_with = facts.observed.job.as_ref().map(|job| job.digest.clone());
        status.base = facts.base.cloned();
        status.config_digest = Some(started_with.unwrap_or_else(|| facts.run.digest.to_string()));
    }
    status
}

/// Takes the model of a run that succeeded into the list of versions.
fn publish(status: &mut ModelTrainingStatus, facts: &Facts<'_>) {
    let Some(report) = facts.observed.succeeded().and_then(PodView::report) else { return };
    let Some(model) = report.model else { return };
    let version = ModelVersion {
        version: facts.run.number,
        uri: model.uri,
        digest: model.digest,
        published_at: model.published_at,
        metrics: summary::final_metrics(&report.metrics).cloned().unwrap_or_default(),
        storage: facts.storage.cloned().map(ModelStorage::from),
    };
    status.versions.retain(|known| known.version != version.version);
    status.versions.insert(0, version.clone());
    status.versions.truncate(stoker_crds::training::status::MAX_VERSIONS);
    status.model = Some(version);
}

fn conditions(
    status: &ModelTrainingStatus,
    old: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
    facts: &Facts<'_>,
) -> Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    let phase = status.phase.unwrap_or(Phase::Pending);
    let is_stalled = |error: &stoker_crds::training::status::StatusError| outcome::needs_help(error.reason);
    let state = match phase {
        Phase::Succeeded => State::Ready,
        Phase::Failed => State::Stalled,
        Phase::Suspended => State::Paused,
        _ if status.error.as_ref().is_some_and(is_stalled) || facts.observed.lost(facts.now).is_some() => {
            State::Stalled
        }
        _ => State::Reconciling,
    };
    let waits_for = match facts.applied {
        Some(Ok(Applied::Waiting(what))) => Some(what.as_str()),
        _ => None,
    };
    let (reason, message) = match &status.error {
        Some(error) => (error.reason.to_string(), error.message.clone()),
        None => (format!("{phase:?}"), waits_for.map_or_else(|| phase.describe(status.run), ToOwned::to_owned)),
    };
    let message = match phase {
        Phase::Failed => format!("{message}. {}", outcome::HOW_TO_GO_ON),
        _ => message,
    };
    conditions::kstatus(old, state, &reason, &message, facts.generation, facts.now)
}

#[cfg(test)]
pub(crate) mod tests;
