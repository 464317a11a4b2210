//! Why a pod does not become ready, where only events and logs say it. Asks the API server, and seldom.

use std::time::Duration;

use stoker_crds::training::status::StatusError;

use super::status::Observed;
use crate::{
    Context, events, logs,
    pods::{PodView, State},
};

/// How long a pod that has a node may be on its way before events are asked what stops it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What only events and logs say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Explanation {
    /// What stops a pod that has not started.
    pub(crate) obstacle: Option<StatusError>,
    /// The last lines of a container that ended without a word.
    pub(crate) log_tail: Vec<String>,
}

/// Asks about the oldest pod that is not ready. What cannot be read now is left out: it only explains, and the next
/// pass asks again.
pub(crate) async fn explain(context: &Context, observed: &Observed<'_>, namespace: &str, uid: &str) -> Explanation {
    let Some(pod) = observed.failing_pods().into_iter().next() else { return Explanation::default() };
    Explanation {
        obstacle: obstacle(context, observed, namespace, pod).await,
        log_tail: log_tail(context, namespace, uid, pod).await,
    }
}

async fn obstacle(context: &Context, observed: &Observed<'_>, namespace: &str, pod: &PodView) -> Option<StatusError> {
    next_question(observed, pod)?;
    if observed.waited(pod.scheduled_at?) < PATIENCE {
        return None;
    }
    events::obstacle(context, namespace, &pod.uid).await.unwrap_or_else(|error| {
        tracing::warn!(error = &error as &dyn std::error::Error, pod = pod.name, "what stops the pod cannot be read");
        None
    })
}

/// How long until it is worth asking what stops the pod: each time twice as long as before. `None` if there is nothing
/// to ask.
pub(crate) fn next_question(observed: &Observed<'_>, pod: &PodView) -> Option<Duration> {
    if pod.state != State::Waiting || pod.problem.is_some() {
        return None;
    }
    let waited = observed.waited(pod.scheduled_at?);
    let mut next = PATIENCE;
    while next <= waited {
        next = next.checked_mul(2)?;
    }
    Some(next - waited)
}

/// Read once for each time that a container ended.
async fn log_tail(context: &Context, namespace: &str, uid: &str, pod: &PodView) -> Vec<String> {
    if !pod.problem.as_ref().is_some_and(|problem| problem.needs_log) {
        return Vec::new();
    }
    let known = context.memories.with(uid, |memory| memory.log_tail.clone());
    if let Some((_, _, lines)) = known.filter(|(of, restart, _)| *of == pod.uid && *restart == pod.restarts) {
        return lines;
    }
    let before_restart = pod.state == State::Running;
    match logs::tail(context, namespace, &pod.name, before_restart).await {
        Ok(lines) => {
            let tail = (pod.uid.clone(), pod.restarts, lines.clone());
            context.memories.with(uid, |memory| memory.log_tail = Some(tail));
            lines
        }
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                pod = pod.name,
                "the log of the pod cannot be read"
            );
            Vec::new()
        }
    }
}
