//! The rows that a model learns from.

use crate::data::{DataError, Rows};

/// Rows of numbers, wherever they lie.
pub trait Dataset: Send + Sync {
    /// How many rows there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends the rows of these indices: their features to `features`, their targets to `targets`, row-major.
    ///
    /// # Errors
    /// If they cannot be read.
    fn gather(&self, indices: &[u32], features: &mut Vec<f32>, targets: &mut Vec<f32>) -> Result<(), DataError>;
}

impl Dataset for Rows {
    fn len(&self) -> usize {
        Rows::len(self)
    }

    fn gather(&self, indices: &[u32], features: &mut Vec<f32>, targets: &mut Vec<f32>) -> Result<(), DataError> {
        Rows::gather(self, indices, features, targets)
    }
}
