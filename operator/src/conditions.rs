//! How `status.conditions` are set.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use stoker_crds::condition::{BORN, READY, RECONCILING, STALLED};

/// The state of a resource, in the three ways that kstatus tells apart, and one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is what its spec says.
    Ready,
    /// It is on its way there.
    Reconciling,
    /// It cannot get there without help.
    Stalled,
    /// It is not, and is not meant to be now: a user holds it back.
    Paused,
}

/// The three conditions of a state; a transition time moves only when its condition's status does, and from that of birth, which
/// is no time.
///
/// `reason` is one word in CamelCase; `message` is for a person.
pub fn kstatus(
    old: &[Condition],
    state: State,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let condition = |type_: &str, holds: bool| {
        let status = if holds { "True" } else { "False" };
        let is_unchanged =
            |old: &&Condition| old.type_ == type_ && old.status == status && old.last_transition_time != BORN;
        let unchanged = old.iter().find(is_unchanged);
        let since =
            unchanged.map_or_else(|| Time(whole_seconds(now)), |condition| condition.last_transition_time.clone());
        Condition {
            type_: type_.into(),
            status: status.into(),
            reason: reason.into(),
            message: message.into(),
            last_transition_time: since,
            observed_generation: generation,
        }
    };
    vec![
        condition(READY, state == State::Ready),
        condition(RECONCILING, state == State::Reconciling),
        condition(STALLED, state == State::Stalled),
    ]
}

/// Whether a condition holds.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    conditions.iter().any(|condition| condition.type_ == type_ && condition.status == "True")
}

/// A time as Kubernetes keeps it; finer ones would differ from what is read back.
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn a_transition_time_moves_only_when_the_status_changes() {
        let first = kstatus(&[], State::Reconciling, "Pending", "waits", Some(1), at(100));
        let same = kstatus(&first, State::Reconciling, "Training", "works", Some(1), at(200));
        assert_eq!(same[1].last_transition_time, Time(at(100)));
        assert_eq!(same[1].reason, "Training");
        let done = kstatus(&same, State::Ready, "Succeeded", "done", Some(1), at(300));
        let times: Vec<_> =
            done.iter().map(|c| (c.type_.as_str(), c.status.as_str(), c.last_transition_time.0)).collect();
        assert_eq!(
            times,
            [("Ready", "True", at(300)), ("Reconciling", "False", at(300)), ("Stalled", "False", at(100))]
        );
    }

    #[test]
    fn all_three_are_always_written() {
        for state in [State::Ready, State::Reconciling, State::Stalled, State::Paused] {
            let conditions = kstatus(&[], state, "R", "m", None, at(0));
            assert_eq!(conditions.len(), 3);
            assert!(conditions.iter().filter(|c| c.status == "True").count() <= 1);
        }
    }
}
