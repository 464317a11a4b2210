//! Prepared rows: fixed-width numbers in memory, or in a file where they do not fit.

use super::DataError;

/// The prepared rows of one split: features and targets as numbers, in memory or in a file of the scratch folder.
#[derive(Debug)]
pub struct Rows {
    width: usize,
    target_width: usize,
    len: usize,
}

impl Rows {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many features a row has.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How many targets a row has.
    pub fn target_width(&self) -> usize {
        self.target_width
    }

    /// Appends the rows of these indices: `[indices, width]` to `features`, `[indices, target_width]` to `targets`.
    ///
    /// # Errors
    /// If an index is out of range, or the file cannot be read.
    pub fn gather(
        &self,
        indices: &[u32],
        features: &mut Vec<f32>,
        targets: &mut Vec<f32>,
    ) -> Result<(), DataError> {
        todo!("{} {} {}", indices.len(), features.len(), targets.len())
    }
}
