//! What is counted while rows are read and cleaned.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use datafusion::error::DataFusionError;

use super::{DataError, scratch::Scratch};

/// What was counted so far, and the first failure.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    read: AtomicU64,
    distinct: AtomicU64,
    require: AtomicU64,
    missing: AtomicU64,
    /// DataFusion wraps and shares errors on their way through a plan; this one stays as it was.
    failure: Mutex<Option<DataError>>,
}

/// Rows, as far as they were counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) read: u64,
    pub(super) duplicates: u64,
    pub(crate) require: u64,
    pub(crate) missing: u64,
}

impl Tally {
    pub(crate) fn counts(&self) -> Counts {
        let [read, distinct, require, missing] =
            [&self.read, &self.distinct, &self.require, &self.missing].map(|counter| counter.load(Ordering::Relaxed));
        Counts { read, duplicates: read.saturating_sub(distinct), require, missing }
    }

    pub(crate) fn count_read(&self, rows: usize) {
        self.read.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Counts rows that are left without duplicates.
    pub(super) fn count_distinct(&self, rows: usize) {
        self.distinct.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Counts rows that failed a predicate, and rows that lacked a value.
    pub(crate) fn count_dropped(&self, require: u64, missing: u64) {
        self.require.fetch_add(require, Ordering::Relaxed);
        self.missing.fetch_add(missing, Ordering::Relaxed);
    }

    /// Keeps an error, and gives one that ends the plan.
    pub(crate) fn fail(&self, error: DataError) -> DataFusionError {
        let text = error.to_string();
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        DataFusionError::Execution(text)
    }

    /// The kept error, or what the plan's own one means.
    pub(crate) fn failure(&self, scratch: &Scratch, error: DataFusionError) -> DataError {
        let kept = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        kept.unwrap_or_else(|| DataError::working(scratch, error))
    }
}
