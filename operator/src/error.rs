//! What can go wrong in a reconcile, and what is done about it.

use std::time::Duration;

use stoker_crds::{report::Reason, training::status::StatusError};

/// The result of a step.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a step of a reconcile failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The spec cannot be carried out as written, or needs something that is not there.
    #[error("{reason}: {message}")]
    Invalid {
        /// For status.
        reason: Reason,
        /// What is wrong and what to do about it.
        message: String,
    },
    /// An object of the name that is needed belongs to somebody else.
    #[error("{kind} {name} exists and was not made for this resource: rename or delete it, or rename the resource")]
    NameConflict {
        /// The kind of the object.
        kind: String,
        /// The name of the object.
        name: String,
    },
    /// The Kubernetes API did not accept a request.
    #[error("cannot {verb} {object}: {}", api_message(.source))]
    Api {
        /// Such as `apply`.
        verb: &'static str,
        /// Kind and name, such as `Job digits-1`.
        object: String,
        /// What it answered.
        #[source]
        source: Box<kube::Error>,
    },
    /// This replica is not the leader any more.
    #[error("this replica holds the leader's lease no longer and changes nothing")]
    NotLeader,
    /// A reconcile took too long.
    #[error("the reconcile took longer than {0} s: the API server does not answer")]
    Timeout(u64),
    /// A reconcile ended in a panic.
    #[error("the reconcile panicked: {0}")]
    Panicked(String),
    /// An object cannot be written as JSON.
    #[error("cannot serialize {object}")]
    Serialize {
        /// Kind and name.
        object: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// An object from the API server lacks what every object has.
    #[error("{0} has no {1}, which the API server gives to every object")]
    Incomplete(String, &'static str),
}

/// What is done about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Waits for a change of the spec or of what it needs; tried again seldom, since not every change is watched.
    Invalid,
    /// Passes by itself; tried again soon.
    Transient,
    /// A defect of the operator; tried again, ever more seldom.
    Bug,
}

impl Class {
    /// The label in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Transient => "transient",
            Self::Bug => "bug",
        }
    }

    /// How long to wait after so many failures in a row, from 1.
    pub fn delay(self, failures: u32) -> Duration {
        let (first, longest) = match self {
            Self::Invalid => (Duration::from_secs(10), Duration::from_secs(300)),
            Self::Transient => (Duration::from_millis(250), Duration::from_secs(60)),
            Self::Bug => (Duration::from_secs(5), Duration::from_secs(600)),
        };
        first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest)
    }
}

impl Error {
    /// A spec that cannot be carried out as written.
    pub fn invalid(reason: Reason, message: impl Into<String>) -> Self {
        Self::Invalid { reason, message: message.into() }
    }

    /// A request that the API server did not accept.
    pub fn api(verb: &'static str, object: impl Into<String>, source: kube::Error) -> Self {
        Self::Api { verb, object: object.into(), source: Box::new(source) }
    }

    /// What is done about it.
    pub fn class(&self) -> Class {
        match self {
            Self::Invalid { .. } | Self::NameConflict { .. } => Class::Invalid,
            Self::NotLeader | Self::Timeout(_) => Class::Transient,
            Self::Panicked(_) | Self::Serialize { .. } | Self::Incomplete(..) => Class::Bug,
            Self::Api { source, .. } => match &**source {
                kube::Error::Api(status) if status.is_forbidden() => Class::Invalid,
                kube::Error::Api(status) if status.is_invalid() || status.code == 400 => Class::Bug,
                kube::Error::SerdeError(_) | kube::Error::BuildRequest(_) => Class::Bug,
                _ => Class::Transient,
            },
        }
    }

    /// The reason in status.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Invalid { reason, .. } => *reason,
            Self::NameConflict { .. } => Reason::NameConflict,
            Self::Api { source, .. } if is_refusal(source) => Reason::PodRefused,
            Self::Api { .. } | Self::Timeout(_) => Reason::KubernetesApi,
            Self::NotLeader | Self::Panicked(_) | Self::Serialize { .. } | Self::Incomplete(..) => Reason::Internal,
        }
    }

    /// As it stands in status.
    pub fn to_status(&self) -> StatusError {
        let message = match self {
            Self::Invalid { message, .. } => message.clone(),
            other => other.to_string(),
        };
        StatusError { reason: self.reason(), message, exit_code: None, pod: None, log_tail: Vec::new() }
    }
}

/// A refusal by quota or an admission policy, which an administrator has to lift.
fn is_refusal(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_forbidden()
        && (status.message.contains("exceeded quota") || status.message.contains("denied")))
}

/// What the API server said, without the debug print of the whole answer.
fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

/// An error and what caused it, in one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_the_longest_of_its_class() {
        assert_eq!(Class::Transient.delay(1), Duration::from_millis(250));
        assert_eq!(Class::Transient.delay(2), Duration::from_millis(500));
        assert_eq!(Class::Transient.delay(u32::MAX), Duration::from_secs(60));
        assert_eq!(Class::Invalid.delay(3), Duration::from_secs(40));
        assert_eq!(Class::Bug.delay(40), Duration::from_secs(600));
    }

    #[test]
    fn the_answer_of_the_api_server_decides_the_class() {
        let answer = |code: u16, reason: &str| {
            let status = kube::core::Status::failure("no", reason).with_code(code);
            Error::api("apply", "Job a", kube::Error::Api(status.boxed()))
        };
        assert_eq!(answer(403, "Forbidden").class(), Class::Invalid);
        assert_eq!(answer(422, "Invalid").class(), Class::Bug);
        assert_eq!(answer(409, "Conflict").class(), Class::Transient);
        assert_eq!(answer(503, "ServiceUnavailable").class(), Class::Transient);
        assert_eq!(answer(409, "Conflict").to_string(), "cannot apply Job a: no");
    }
}
