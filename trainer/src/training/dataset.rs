//! What a model learns from: rows of numbers, or sequences of tokens.

use std::ops::Range;

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::{
    data::{DataError, Rows},
    text::Sequences,
};

/// Samples, wherever they lie.
pub trait Dataset: Send + Sync {
    /// How many samples there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The samples of these indices.
    ///
    /// # Errors
    /// If they cannot be read.
    fn batch(&self, indices: &[u32]) -> Result<Batch, DataError>;
}

/// Some samples, on the host.
#[derive(Clone, Debug, PartialEq)]
pub enum Batch {
    /// Rows of numbers.
    Rows(RowBatch),
    /// Sequences of tokens.
    Tokens(TokenBatch),
}

/// Some rows of numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct RowBatch {
    /// How many.
    pub rows: usize,
    /// `[rows, features]`, row-major.
    pub features: Vec<f32>,
    /// `[rows, targets]`, row-major.
    pub targets: Vec<f32>,
}

/// Some sequences of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenBatch {
    /// How many.
    pub sequences: usize,
    /// What is read, `[sequences, context]`.
    pub tokens: Vec<i32>,
    /// What is to be predicted: the token after each, `[sequences, context]`.
    pub targets: Vec<i32>,
    /// 1 where a prediction counts, 0 where not, `[sequences, context]`.
    pub weights: Vec<f32>,
}

impl Dataset for Rows {
    fn len(&self) -> usize {
        Rows::len(self)
    }

    fn batch(&self, indices: &[u32]) -> Result<Batch, DataError> {
        let (mut features, mut targets) = (Vec::new(), Vec::new());
        self.gather(indices, &mut features, &mut targets)?;
        Ok(Batch::Rows(RowBatch { rows: indices.len(), features, targets }))
    }
}

impl Dataset for Sequences {
    fn len(&self) -> usize {
        Sequences::len(self)
    }

    fn batch(&self, indices: &[u32]) -> Result<Batch, DataError> {
        let size = indices.len() * self.context();
        let mut batch = TokenBatch {
            sequences: indices.len(),
            tokens: Vec::with_capacity(size),
            targets: Vec::with_capacity(size),
            weights: vec![0.0; size],
        };
        let mut sequence = vec![0; self.context() + 1];
        for (index, weights) in indices.iter().zip(batch.weights.chunks_exact_mut(self.context())) {
            self.read(*index, &mut sequence, weights)?;
            // A vocabulary has far fewer tokens than there are positive numbers of 32 bits.
            batch.tokens.extend(sequence[..self.context()].iter().map(|token| *token as i32));
            batch.targets.extend(sequence[1..].iter().map(|token| *token as i32));
        }
        Ok(Batch::Tokens(batch))
    }
}

impl Batch {
    /// What a mean loss over the samples is a mean of: rows, or tokens that are to be predicted.
    pub(super) fn counted(&self) -> usize {
        match self {
            Self::Rows(batch) => batch.rows,
            Self::Tokens(batch) => batch.weights.iter().filter(|weight| **weight > 0.0).count(),
        }
    }

    /// The same samples, at most so many in each part.
    pub(super) fn split(&self, size: usize) -> Vec<Self> {
        let (samples, size) = (self.len(), size.max(1));
        (0..samples).step_by(size).map(|start| self.part(start..samples.min(start + size))).collect()
    }

    /// How many samples there are.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Rows(batch) => batch.rows,
            Self::Tokens(batch) => batch.sequences,
        }
    }

    fn part(&self, samples: Range<usize>) -> Self {
        let all = self.len();
        match self {
            Self::Rows(RowBatch { features, targets, .. }) => Self::Rows(RowBatch {
                rows: samples.len(),
                features: part(features, all, &samples),
                targets: part(targets, all, &samples),
            }),
            Self::Tokens(TokenBatch { tokens, targets, weights, .. }) => Self::Tokens(TokenBatch {
                sequences: samples.len(),
                tokens: part(tokens, all, &samples),
                targets: part(targets, all, &samples),
                weights: part(weights, all, &samples),
            }),
        }
    }
}

/// Some of `all` samples, which have as many values each.
fn part<T: Copy>(values: &[T], all: usize, samples: &Range<usize>) -> Vec<T> {
    let width = values.len() / all;
    values[samples.start * width..samples.end * width].to_vec()
}

impl RowBatch {
    /// `[rows, features]` and `[rows, targets]`.
    pub(super) fn into_tensors(self, device: &Device) -> (Tensor<2>, Tensor<2>) {
        let tensor = |values: Vec<f32>| {
            let width = values.len() / self.rows.max(1);
            Tensor::from_data(TensorData::new(values, [self.rows, width]), device)
        };
        (tensor(self.features), tensor(self.targets))
    }
}

impl TokenBatch {
    /// Tokens, targets and weights, each `[sequences, context]`.
    pub(super) fn into_tensors(self, device: &Device) -> (Tensor<2, Int>, Tensor<2, Int>, Tensor<2>) {
        let shape = [self.sequences, self.weights.len() / self.sequences.max(1)];
        let ints = |tokens: Vec<i32>| Tensor::from_data(TensorData::new(tokens, shape), device);
        (ints(self.tokens), ints(self.targets), Tensor::from_data(TensorData::new(self.weights, shape), device))
    }
}
