//! What Kubernetes says only in events: why a Job creates no pod, why a pod's volumes are not mounted.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Event;
use kube::api::ListParams;
use stoker_crds::{Reason, training::status::StatusError};

use crate::{
    context::Context,
    error::{Error, Result},
};

/// How soon after one question the next may be asked, whatever it is about: many objects that wait in a busy cluster's
/// queues must not load it further. It doubles with each answer that explains nothing, up to the longest.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest wait between two questions.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// The most events that are read about an object: those of one kind are one event that counts.
const MOST: u32 = 50;

/// Bounds how often events are asked for.
#[derive(Debug)]
pub struct Inquiries(Mutex<Pace>);

/// When the last question was asked, and how long to wait after it.
#[derive(Debug)]
struct Pace {
    last: Option<Instant>,
    pause: Duration,
}

impl Default for Inquiries {
    fn default() -> Self {
        Self(Mutex::new(Pace { last: None, pause: PAUSE }))
    }
}

impl Inquiries {
    /// Whether one more question may be asked now.
    pub fn allow(&self) -> bool {
        let mut pace = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may = pace.last.is_none_or(|last| last.elapsed() >= pace.pause);
        if may {
            pace.last = Some(Instant::now());
        }
        may
    }

    /// Takes note of whether the last answer explained anything.
    fn answered(&self, has_explained: bool) {
        let mut pace = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pace.pause = if has_explained { PAUSE } else { pace.pause.saturating_mul(2).min(LONGEST_PAUSE) };
    }
}

/// Whether events tell of that reason.
pub const fn tell_of(reason: Reason) -> bool {
    matches!(reason, Reason::ServiceAccountNotFound | Reason::PodRefused | Reason::SecretNotFound | Reason::PodFailed)
}

/// What stops an object by the newest event about it that tells, in Stoker's own reasons.
///
/// One request; ask only about an object that should have gone on long ago.
///
/// # Errors
/// [`Error::Api`] if events cannot be read.
pub async fn obstacle(context: &Context, namespace: &str, uid: &str) -> Result<Option<StatusError>> {
    let about = ListParams::default().fields(&format!("involvedObject.uid={uid}")).limit(MOST);
    let events = context.api::<Event>(namespace).list(&about).await;
    let events = events.map_err(|error| Error::api("read", format!("the events of {uid}"), error))?;
    let found = last_obstacle(events.items);
    context.inquiries.answered(found.is_some());
    Ok(found)
}

fn last_obstacle(mut events: Vec<Event>) -> Option<StatusError> {
    events.sort_by_key(|event| {
        let last = event.last_timestamp.as_ref().map(|time| time.0);
        last.or(event.event_time.as_ref().map(|time| time.0))
    });
    events.iter().rev().take_while(|event| !went_on(event)).find_map(of_event)
}

/// Whether an event tells that an object is past what stopped it before.
fn went_on(event: &Event) -> bool {
    let of_pod = ["Pulling", "Pulled", "Created", "Started"];
    let of_job = ["SuccessfulCreate", "Suspended", "Resumed"];
    event.reason.as_deref().is_some_and(|reason| of_pod.contains(&reason) || of_job.contains(&reason))
}

fn of_event(event: &Event) -> Option<StatusError> {
    let said = event.message.as_deref().unwrap_or_default();
    let (reason, message) = match event.reason.as_deref()? {
        "FailedCreate" if said.contains("serviceaccount") && said.contains("not found") => {
            (Reason::ServiceAccountNotFound, format!("{said}: create the service account, or name another"))
        }
        "FailedCreate" => (Reason::PodRefused, format!("the cluster refused to create the pod: {said}")),
        "FailedMount" | "FailedAttachVolume" if said.contains("secret") && said.contains("not found") => {
            (Reason::SecretNotFound, format!("{said}: create the Secret; the pod then starts by itself"))
        }
        "FailedMount" | "FailedAttachVolume" => {
            (Reason::PodFailed, format!("a volume of the pod cannot be mounted: {said}"))
        }
        _ => return None,
    };
    let is_pod = event.involved_object.kind.as_deref() == Some("Pod");
    let pod = event.involved_object.name.clone().filter(|_| is_pod);
    Some(StatusError { reason, message, exit_code: None, pod, log_tail: Vec::new() })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn event(reason: &str, message: &str) -> Event {
        Event { reason: Some(reason.into()), message: Some(message.into()), ..Event::default() }
    }

    #[test]
    fn what_stops_a_pod_is_named() {
        let cases = [
            ("FailedCreate", "pods \"a\" is forbidden: exceeded quota: gpus", Some(Reason::PodRefused)),
            (
                "FailedCreate",
                "error looking up service account ns/x: serviceaccount \"x\" not found",
                Some(Reason::ServiceAccountNotFound),
            ),
            (
                "FailedMount",
                "MountVolume.SetUp failed for volume \"keys\" : secret \"keys\" not found",
                Some(Reason::SecretNotFound),
            ),
            ("FailedMount", "timed out waiting for the condition", Some(Reason::PodFailed)),
            ("BackOff", "Back-off restarting failed container", None),
        ];
        for (reason, message, expected) in cases {
            let found = last_obstacle(vec![event(reason, message)]).map(|error| error.reason);
            assert_eq!(found, expected, "{message}");
            assert!(found.is_none_or(tell_of));
        }
    }

    #[test]
    fn answers_that_explain_nothing_make_questions_rarer_and_one_that_does_as_frequent_as_ever() {
        let inquiries = Inquiries::default();
        let pause_after = |has_explained| {
            inquiries.answered(has_explained);
            inquiries.0.lock().unwrap().pause
        };
        let pauses = [false, false, false, false, false, true].map(pause_after);
        assert_eq!(pauses.map(|pause| pause.as_millis()), [1000, 2000, 4000, 8000, 8000, 500]);
        assert!(inquiries.allow() && !inquiries.allow());
    }

    #[test]
    fn the_newest_event_decides() {
        let at = |second, reason: &str| {
            let time = jiff::Timestamp::from_second(second).unwrap();
            Event { last_timestamp: Some(Time(time)), ..event(reason, "secret \"s3\" not found") }
        };
        let found = |events| last_obstacle(events).map(|error| error.reason);
        assert_eq!(found(vec![at(2, "Pulling"), at(1, "FailedMount")]), None);
        assert_eq!(found(vec![at(1, "FailedMount"), at(1, "Pulled")]), None, "as they are listed: in order");
        assert_eq!(found(vec![at(2, "FailedMount"), at(1, "Started")]), Some(Reason::SecretNotFound));
        assert_eq!(found(vec![at(3, "Scheduled"), at(2, "FailedMount")]), Some(Reason::SecretNotFound));
        assert_eq!(found(vec![at(1, "FailedCreate"), at(2, "SuccessfulCreate")]), None);
        assert_eq!(found(vec![at(1, "SuccessfulCreate"), at(2, "FailedCreate")]), Some(Reason::PodRefused));
    }
}
