//! What is remembered of a ModelDeployment between reconciles. Lost at a restart, without harm.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use stoker_crds::training::status::StatusError;

use super::traffic::Traffic;
use crate::{pods::PodView, workloads::ChildView};

/// How soon after one question about the pods of a ModelDeployment the next of its kind may be asked.
const SPACING: Duration = Duration::from_secs(10);

/// The memories of all ModelDeployments, by their UID.
#[derive(Debug, Default)]
pub struct Memories(Mutex<HashMap<String, Memory>>);

/// What is remembered of one ModelDeployment.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Counters of its pods over the last minute.
    pub(crate) traffic: Traffic,
    /// When its status was written last.
    pub(crate) written_at: Option<Timestamp>,
    /// The versions of its objects after our own last writes, by kind and name.
    versions: HashMap<String, u64>,
    /// What events said last of what stops a pod.
    pub(crate) obstacle: Option<Inquiry<Option<StatusError>>>,
    /// The last lines of a container that ended without a word.
    pub(crate) log_tail: Option<Inquiry<Vec<String>>>,
}

/// A question about a pod that cost a request, and what came of it.
///
/// Serving pods are asked for their figures each second, and each answer calls for a reconcile: those cost no request.
#[derive(Clone, Debug)]
pub(crate) struct Inquiry<T> {
    /// UID of the pod.
    pod: String,
    /// How often its container had been started again.
    restarts: u32,
    /// When it was asked.
    asked_at: Timestamp,
    /// What is known of the pod since; `None` if that could not be read.
    answer: Option<T>,
}

impl<T: Clone> Inquiry<T> {
    /// A question that was just asked. One that was not answered leaves what was known before.
    pub(crate) fn new(pod: &PodView, asked_at: Timestamp, answer: Option<T>, before: Option<&Self>) -> Self {
        let answer = answer.or_else(|| before?.known(pod));
        Self { pod: pod.uid.clone(), restarts: pod.restarts, asked_at, answer }
    }

    /// What is known of that pod.
    pub(crate) fn known(&self, pod: &PodView) -> Option<T> {
        self.answer.clone().filter(|_| self.pod == pod.uid)
    }

    /// Whether to ask about that pod now, if an answer holds for so long, or until its container is started again.
    pub(crate) fn is_due(&self, pod: &PodView, now: Timestamp, holds: Duration) -> bool {
        let age = now.duration_since(self.asked_at).max(SignedDuration::ZERO).unsigned_abs();
        let is_answered = self.known(pod).is_some() && self.restarts == pod.restarts;
        age >= if is_answered { holds.max(SPACING) } else { SPACING }
    }
}

/// An object that the watch shows, against our last write of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// It is as we left it, or nothing is remembered.
    Current,
    /// The watch does not show our last write yet.
    Behind,
    /// Somebody else has changed it since.
    Changed,
}

impl Memories {
    /// Uses the memory of one ModelDeployment.
    pub(crate) fn with<T>(&self, uid: &str, work: impl FnOnce(&mut Memory) -> T) -> T {
        let mut memories = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        work(memories.entry(uid.to_owned()).or_default())
    }

    /// Forgets a ModelDeployment that is gone.
    pub fn forget(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

impl Memory {
    /// How an object that is seen compares with our last write of it.
    pub(crate) fn freshness(&self, object: &str, seen: &ChildView) -> Freshness {
        match self.versions.get(object) {
            Some(written) if seen.version < *written => Freshness::Behind,
            Some(written) if seen.version > *written => Freshness::Changed,
            _ => Freshness::Current,
        }
    }

    /// Takes note of our own write of an object.
    pub(crate) fn wrote(&mut self, object: String, view: &ChildView) {
        self.versions.insert(object, view.version);
    }

    /// Forgets an object that is gone.
    pub(crate) fn deleted(&mut self, object: &str) {
        self.versions.remove(object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pod(uid: &str, restarts: u32) -> PodView {
        PodView { uid: uid.into(), restarts, ..PodView::default() }
    }

    #[test]
    fn what_was_answered_is_asked_again_when_it_may_not_hold_any_more() {
        let inquiry = Inquiry::new(&pod("a", 0), at(0), Some("answer"), None);
        let is_due = |pod: &PodView, second, holds| inquiry.is_due(pod, at(second), Duration::from_secs(holds));
        assert!(!is_due(&pod("a", 0), 59, 60) && is_due(&pod("a", 0), 60, 60));
        for other in [pod("a", 1), pod("b", 0)] {
            assert!(!is_due(&other, 9, 60) && is_due(&other, 10, 60));
        }
        assert_eq!((inquiry.known(&pod("a", 1)), inquiry.known(&pod("b", 0))), (Some("answer"), None));
    }

    #[test]
    fn what_was_not_answered_is_asked_again_after_a_while_and_what_was_known_stays() {
        let failed = Inquiry::<&str>::new(&pod("a", 0), at(0), None, None);
        assert!(
            !failed.is_due(&pod("a", 0), at(9), Duration::MAX) && failed.is_due(&pod("a", 0), at(10), Duration::MAX)
        );
        let answered = Inquiry::new(&pod("a", 0), at(0), Some("answer"), None);
        let failed_later = Inquiry::new(&pod("a", 1), at(20), None, Some(&answered));
        assert_eq!(failed_later.known(&pod("a", 1)), Some("answer"));
    }
}
