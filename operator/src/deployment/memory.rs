//! What is remembered of a ModelDeployment between reconciles. Lost at a restart, without harm.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;

use super::traffic::Traffic;
use crate::workloads::ChildView;

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
    /// The log tail of a failed container: of which pod and restart, and its lines.
    pub(crate) log_tail: Option<(String, u32, Vec<String>)>,
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
