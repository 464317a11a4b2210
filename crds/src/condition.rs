//! `status.conditions`, as kstatus reads them: Flux, Argo CD, kpt and `kubectl wait` depend on them.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// Whether the resource is what its spec says.
pub const READY: &str = "Ready";
/// Whether the operator is on its way there.
pub const RECONCILING: &str = "Reconciling";
/// Whether it cannot get there without help.
pub const STALLED: &str = "Stalled";

/// Since when the conditions hold that a resource is born with: its definition cannot know the time.
pub const BORN: Time = Time(Timestamp::UNIX_EPOCH);

/// The conditions that a resource is born with, before any operator has looked at it: it is on its way.
///
/// `reason` is one word in CamelCase; `message` is for a person.
pub(crate) fn initial(reason: &str, message: &str) -> Vec<Condition> {
    let condition = |type_: &str| Condition {
        type_: type_.into(),
        status: if type_ == RECONCILING { "True" } else { "False" }.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: BORN,
        observed_generation: None,
    };
    [READY, RECONCILING, STALLED].map(condition).into()
}
