//! Which replica acts.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use crate::error::{Error, Result};

/// Says whether this replica may still write: until its lease's renewal is overdue.
///
/// Every write asks it, so that a replica that was cut off for longer than its lease changes nothing any more.
#[derive(Clone, Debug, Default)]
pub struct Fence {
    leads_until: Arc<Mutex<Option<Instant>>>,
}

impl Fence {
    /// Fails unless this replica leads.
    ///
    /// # Errors
    /// [`Error::NotLeader`].
    pub fn check(&self) -> Result<()> {
        let leads_until = *self.leads_until.lock().unwrap_or_else(PoisonError::into_inner);
        if leads_until.is_some_and(|until| Instant::now() < until) { Ok(()) } else { Err(Error::NotLeader) }
    }

    /// Lets writes pass until then.
    pub fn extend(&self, until: Instant) {
        *self.leads_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    /// Lets no write pass any more.
    pub fn close(&self) {
        *self.leads_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
