//! Failures that a client is not told the details of.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
};

/// The number under which the log holds what a client is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Incident(u32);

impl Incident {
    /// Logs a failure under a new number.
    pub(super) fn log(details: impl fmt::Display) -> Self {
        // The keys of a new hasher are random: of all pods of a deployment, none shares its numbers with another.
        let number = RandomState::new().hash_one(()) as u32;
        tracing::error!(incident = %format_args!("{number:08x}"), "{details}");
        Self(number)
    }
}

impl fmt::Display for Incident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "internal error; the server's log has the details under incident {:08x}", self.0)
    }
}
