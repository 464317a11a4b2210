//! The rows that a model learns from.

use burn::tensor::{Device, Tensor, TensorData};

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

/// Some rows.
#[derive(Debug)]
pub(super) struct Batch {
    rows: usize,
    /// Row-major.
    features: Vec<f32>,
    /// Row-major.
    pub(super) targets: Vec<f32>,
}

impl Batch {
    pub(super) fn gather(rows: &dyn Dataset, indices: &[u32]) -> Result<Self, DataError> {
        let mut batch = Self { rows: indices.len(), features: Vec::new(), targets: Vec::new() };
        rows.gather(indices, &mut batch.features, &mut batch.targets)?;
        Ok(batch)
    }

    /// `[rows, features]` and `[rows, targets]`.
    pub(super) fn into_tensors(self, device: &Device) -> (Tensor<2>, Tensor<2>) {
        let tensor = |values: Vec<f32>| {
            let width = values.len() / self.rows.max(1);
            Tensor::from_data(TensorData::new(values, [self.rows, width]), device)
        };
        (tensor(self.features), tensor(self.targets))
    }
}
