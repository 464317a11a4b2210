//! Why a pod does not become ready, where only events and logs say it. Asks the API server, and seldom.

use std::time::Duration;

use stoker_crds::training::status::StatusError;

use super::{memory::Inquiry, status::Observed};
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

/// Asks about the oldest pod that is not ready. What cannot be read now is left out: it only explains, and a later pass
/// asks again.
pub(crate) async fn explain(context: &Context, observed: &Observed<'_>, namespace: &str, uid: &str) -> Explanation {
    let Some(pod) = observed.failing_pods().into_iter().next() else { return Explanation::default() };
    Explanation {
        obstacle: obstacle(context, observed, namespace, uid, pod).await,
        log_tail: log_tail(context, observed, namespace, uid, pod).await,
    }
}

/// Read when the pod has waited for a while, and each time that it has waited twice as long.
async fn obstacle(
    context: &Context,
    observed: &Observed<'_>,
    namespace: &str,
    uid: &str,
    pod: &PodView,
) -> Option<StatusError> {
    let waited = waited(observed, pod).filter(|waited| *waited >= PATIENCE)?;
    let before = context.memories.with(uid, |memory| memory.obstacle.clone());
    let is_due = before.as_ref().is_none_or(|before| before.is_due(pod, observed.now, waited / 2));
    if !is_due || !context.inquiries.allow() {
        return before?.known(pod).flatten();
    }
    let answer = events::obstacle(context, namespace, &pod.uid).await;
    let answer = answer.inspect_err(|error| {
        tracing::warn!(error = error as &dyn std::error::Error, pod = pod.name, "what stops the pod cannot be read");
    });
    let inquiry = Inquiry::new(pod, observed.now, answer.ok(), before.as_ref());
    let known = inquiry.known(pod).flatten();
    context.memories.with(uid, |memory| memory.obstacle = Some(inquiry));
    known
}

/// How long until it is worth asking what stops the pod: each time twice as long as before. `None` if there is nothing
/// to ask.
pub(crate) fn next_question(observed: &Observed<'_>, pod: &PodView) -> Option<Duration> {
    let waited = waited(observed, pod)?;
    let mut next = PATIENCE;
    while next <= waited {
        next = next.checked_mul(2)?;
    }
    Some(next - waited)
}

/// Since how long a pod that has a node is on its way without a word. `None` if it is not, and there is nothing to ask.
fn waited(observed: &Observed<'_>, pod: &PodView) -> Option<Duration> {
    let is_silent = pod.state == State::Waiting && pod.problem.is_none();
    Some(observed.waited(pod.scheduled_at.filter(|_| is_silent)?))
}

/// Read once for each time that a container ended.
async fn log_tail(
    context: &Context,
    observed: &Observed<'_>,
    namespace: &str,
    uid: &str,
    pod: &PodView,
) -> Vec<String> {
    if !pod.problem.as_ref().is_some_and(|problem| problem.needs_log) {
        return Vec::new();
    }
    let before = context.memories.with(uid, |memory| memory.log_tail.clone());
    if let Some(before) = before.as_ref().filter(|before| !before.is_due(pod, observed.now, Duration::MAX)) {
        return before.known(pod).unwrap_or_default();
    }
    let before_restart = pod.state == State::Running;
    let lines = logs::tail(context, namespace, &pod.name, before_restart).await.inspect_err(|error| {
        tracing::warn!(error = error as &dyn std::error::Error, pod = pod.name, "the log of the pod cannot be read");
    });
    let inquiry = Inquiry::new(pod, observed.now, lines.ok(), before.as_ref());
    let known = inquiry.known(pod).unwrap_or_default();
    context.memories.with(uid, |memory| memory.log_tail = Some(inquiry));
    known
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use stoker_crds::Reason;

    use super::*;
    use crate::{
        deployment::fixtures::{at, deployment, model, observed, pod, problem},
        pods::Problem,
        testing::{ApiServer, Step},
    };

    /// What is known of a pod at these seconds, if that is all that the API server is asked.
    async fn explained<const N: usize>(pod: Arc<PodView>, seconds: [i64; N], asked: Vec<Step>) -> [Explanation; N] {
        let server = ApiServer::expecting(asked);
        let (context, _writers) = server.context();
        let (deployment, model, pods) = (deployment(), model(1), [pod]);
        let mut explanations = seconds.map(|_| Explanation::default());
        for (second, explanation) in seconds.into_iter().zip(&mut explanations) {
            let observed = Observed { now: at(second), ..observed(&deployment, Some(&model), &[], &pods) };
            *explanation = explain(&context, &observed, "team", "uid").await;
        }
        drop(context);
        server.requests().await;
        explanations
    }

    fn events(found: serde_json::Value) -> Step {
        Step::get("/api/v1/namespaces/team/events", found)
    }

    #[tokio::test]
    async fn what_stops_a_pod_is_not_asked_in_every_pass() {
        let unmounted = json!({"apiVersion": "v1", "kind": "EventList", "items": [{
            "metadata": {"name": "digits-a-xyz.1", "namespace": "team"},
            "involvedObject": {"kind": "Pod", "name": "digits-a-xyz"},
            "type": "Warning", "reason": "FailedMount", "message": "secret \"keys\" not found",
        }]});
        let [early, first, second, third] = explained(pod("a", None), [5, 6, 7, 15], vec![events(unmounted)]).await;
        assert_eq!(early, Explanation::default());
        assert_eq!(first.obstacle.as_ref().map(|error| error.reason), Some(Reason::SecretNotFound));
        assert_eq!([&second, &third], [&first; 2]);
    }

    #[tokio::test]
    async fn events_that_cannot_be_read_are_not_asked_for_again_at_once() {
        let refused = Step::refuse("GET", "/api/v1/namespaces/team/events", 403, "Forbidden", "no");
        let explanations = explained(pod("a", None), [6, 7, 15], vec![refused]).await;
        assert_eq!(explanations, [6, 7, 15].map(|_| Explanation::default()));
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_read_is_asked_for_again_after_a_while_and_one_that_was_read_is_not() {
        let crash = Problem { needs_log: true, ..problem(Reason::PodFailed, None).unwrap() };
        let log = "/api/v1/namespaces/team/pods/digits-a-xyz/log";
        let asked = vec![Step::refuse("GET", log, 403, "Forbidden", "no"), Step::get(log, json!("the last line"))];
        let tails = explained(pod("a", Some(crash)), [10, 19, 20, 3600], asked).await.map(|known| known.log_tail.len());
        assert_eq!(tails, [0, 0, 1, 1]);
    }
}
