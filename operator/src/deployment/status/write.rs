//! When a status is written, and what is told besides.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::runtime::events::EventType;
use stoker_crds::{
    ModelDeploymentStatus,
    deployment::status::{DeploymentSummary, Phase, Revision},
};

use super::Observed;
use crate::{Context, Result, status};

/// Ready pods that come and go are told no more often than this.
const READINESS_SPACING: Duration = Duration::from_secs(2);
/// Figures of the traffic are told no more often than this.
const FIGURES_SPACING: Duration = Duration::from_secs(15);
/// Pods that exist and are not ready are told no more often than this: their being ready soon tells the same.
const PODS_SPACING: Duration = Duration::from_secs(60);

/// Writes the status if it says something new, and returns how long to wait if it is to be written later.
///
/// # Errors
/// If the API server refuses it.
pub(crate) async fn write_if_due(context: &Context, observed: &Observed<'_>, uid: &str) -> Result<Option<Duration>> {
    let (old, new) = (observed.deployment.status.clone().unwrap_or_default(), observed.status());
    let written_at = context.memories.with(uid, |memory| memory.written_at);
    let Some(wait) = due_in(&old, &new, written_at, observed.now) else { return Ok(None) };
    if !wait.is_zero() {
        return Ok(Some(wait));
    }
    status::write(context, &context.written_deployments, observed.deployment, &new).await?;
    context.memories.with(uid, |memory| memory.written_at = Some(observed.now));
    if let Some((type_, reason, note)) = event(&old, &new) {
        context.event(observed.deployment, type_, &reason, &note).await;
    }
    Ok(None)
}

/// How long to wait before `new` is written over `old`: not at all if it says how the deployment is, a while if it says
/// how much. `None` if they are the same.
fn due_in(
    old: &ModelDeploymentStatus,
    new: &ModelDeploymentStatus,
    written_at: Option<Timestamp>,
    now: Timestamp,
) -> Option<Duration> {
    if old == new {
        return None;
    }
    let spacing = if substance(old) != substance(new) {
        Duration::ZERO
    } else if old.ready_replicas != new.ready_replicas {
        READINESS_SPACING
    } else if old.metrics != new.metrics {
        FIGURES_SPACING
    } else {
        PODS_SPACING
    };
    let age = written_at.map_or(spacing, |at| now.duration_since(at).max(SignedDuration::ZERO).unsigned_abs());
    Some(spacing.saturating_sub(age))
}

/// A status without its numbers.
fn substance(status: &ModelDeploymentStatus) -> ModelDeploymentStatus {
    let mut substance = status.clone();
    (substance.replicas, substance.ready_replicas, substance.metrics) = (0, 0, None);
    substance.revisions.iter_mut().for_each(|revision| {
        *revision = Revision { replicas: 0, ready_replicas: 0, traffic: 0, ..std::mem::take(revision) };
    });
    if let Some(summary) = &mut substance.summary {
        *summary =
            DeploymentSummary { replicas: None, requests_per_second: None, p95: None, ..std::mem::take(summary) };
    }
    // The message of a condition counts pods.
    substance.conditions.iter_mut().for_each(|condition| condition.message.clear());
    substance
}

/// What `kubectl describe` should show of a change of status, besides the status: failures, and rolls that are done.
///
/// That a first revision became available is no event: it would be one request more for each object.
fn event(old: &ModelDeploymentStatus, new: &ModelDeploymentStatus) -> Option<(EventType, String, String)> {
    let reason = |status: &ModelDeploymentStatus| status.error.as_ref().map(|error| error.reason);
    match (&new.error, new.phase) {
        (Some(error), Some(Phase::Degraded | Phase::Failed)) if reason(old) != reason(new) => {
            Some((EventType::Warning, error.reason.to_string(), error.message.clone()))
        }
        (None, Some(Phase::Available)) if old.revisions.len() > 1 => {
            let model = new.model.as_ref()?;
            let version = model.version.map_or_else(|| model.digest.clone(), |version| format!("version {version}"));
            Some((EventType::Normal, "RolledOut".into(), format!("all replicas serve {version} of the model")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use stoker_crds::{Reason, deployment::status::ServingMetrics, training::status::StatusError};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn with(change: impl FnOnce(&mut ModelDeploymentStatus)) -> ModelDeploymentStatus {
        let mut status = ModelDeploymentStatus {
            phase: Some(Phase::Progressing),
            revisions: vec![Revision::default()],
            summary: Some(DeploymentSummary::default()),
            ..ModelDeploymentStatus::default()
        };
        change(&mut status);
        status
    }

    #[test]
    fn what_is_the_same_is_not_written() {
        assert_eq!(due_in(&with(|_| {}), &with(|_| {}), None, at(100)), None);
    }

    #[test]
    fn how_it_is_is_written_at_once_and_how_much_after_a_while() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let cases: [(ModelDeploymentStatus, _); 5] = [
            (with(|status| status.phase = Some(Phase::Available)), seconds(0)),
            (with(|status| status.revisions.push(Revision { name: "b".into(), ..Revision::default() })), seconds(0)),
            (with(|status| status.ready_replicas = 1), seconds(1)),
            (with(|status| status.replicas = 1), seconds(59)),
            (with(|status| status.metrics = Some(ServingMetrics::default())), seconds(14)),
        ];
        for (new, wait) in cases {
            assert_eq!(due_in(&with(|_| {}), &new, Some(at(99)), at(100)), wait, "{new:?}");
            assert_eq!(due_in(&with(|_| {}), &new, None, at(100)), seconds(0), "{new:?}");
        }
    }

    #[test]
    fn an_event_tells_of_a_failure_once_and_of_a_roll_that_is_done() {
        let failed = with(|status| {
            status.phase = Some(Phase::Failed);
            status.error = Some(StatusError {
                reason: Reason::SecretNotFound,
                message: "create it".into(),
                exit_code: None,
                pod: None,
                log_tail: Vec::new(),
            });
        });
        let (type_, reason, note) = event(&with(|_| {}), &failed).unwrap();
        assert_eq!((type_, reason.as_str(), note.as_str()), (EventType::Warning, "SecretNotFound", "create it"));
        assert_eq!(event(&failed, &failed), None);
        let available = with(|status| {
            status.phase = Some(Phase::Available);
            status.model =
                Some(stoker_crds::deployment::status::ServedModel { version: Some(2), ..Default::default() });
        });
        assert_eq!(event(&with(|_| {}), &available), None, "the first revision is no event");
        let rolling = with(|status| status.revisions.push(Revision::default()));
        assert_eq!(event(&rolling, &available).unwrap().1, "RolledOut");
    }
}
