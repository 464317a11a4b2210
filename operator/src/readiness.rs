//! Whether this replica is ready, as `/readyz` tells it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How far this replica has come: shared by what brings it further and what tells of it.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<Stage>>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// It has not read the Lease yet.
    #[default]
    Starts,
    /// It takes over as soon as the Lease is free.
    StandsBy,
    /// It leads, and does not know yet what there is in so many scopes.
    Leads { unlisted: usize },
}

impl Readiness {
    /// Takes note that the Lease was read, whoever holds it.
    ///
    /// A replica is ready as soon as it stands by: in a rolling update the one that leads ends only once its successor is
    /// ready.
    pub fn has_read_lease(&self) {
        let mut stage = self.stage();
        if *stage == Stage::Starts {
            *stage = Stage::StandsBy;
        }
    }

    /// Takes note that this replica leads, and works on so many scopes.
    pub fn leads(&self, scopes: usize) {
        *self.stage() = Stage::Leads { unlisted: scopes };
    }

    /// Takes note that everything in one more scope is listed.
    pub fn has_listed(&self) {
        if let Stage::Leads { unlisted } = &mut *self.stage() {
            *unlisted = unlisted.saturating_sub(1);
        }
    }

    /// What this replica waits for; nothing if it is ready.
    pub fn waits_for(&self) -> Option<&'static str> {
        match *self.stage() {
            Stage::Starts => Some("waits for the API server: the leader's Lease could not be read yet"),
            Stage::Leads { unlisted: 1.. } => {
                Some("leads, and waits for the API server: not everything that it watches is listed yet")
            }
            Stage::StandsBy | Stage::Leads { unlisted: 0 } => None,
        }
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_that_leads_is_ready_when_every_scope_is_listed() {
        let readiness = Readiness::default();
        readiness.leads(2);
        readiness.has_listed();
        assert!(readiness.waits_for().unwrap().contains("not everything"));
        readiness.has_listed();
        assert_eq!(readiness.waits_for(), None);
    }

    #[test]
    fn a_replica_that_stands_by_is_ready_once_it_has_read_the_lease_and_a_leader_stays_one() {
        let readiness = Readiness::default();
        assert!(readiness.waits_for().unwrap().contains("Lease"));
        readiness.has_read_lease();
        assert_eq!(readiness.waits_for(), None);
        readiness.leads(1);
        readiness.has_read_lease();
        assert!(readiness.waits_for().is_some());
    }
}
