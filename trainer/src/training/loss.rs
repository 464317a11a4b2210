//! The losses: means over all rows and outputs, as PyTorch's.

use burn::tensor::{Device, Tensor, activation};
use burn_fused_ops::cross_entropy;
use stoker_crds::training::optimize::Loss;

use super::{Batch, Dataset, TrainError};
use crate::model::{Architecture, ModelError, Network, read};

/// Where Huber's loss goes over from squared to absolute.
const HUBER_DELTA: f64 = 1.0;
/// The most rows that are read to find a [`baseline`].
const BASELINE_ROWS: usize = 1024;

/// The mean loss of a model that knows nothing: that finds all classes or tokens equally likely, or predicts 0. Of the targets
/// of a regression some are looked at, evenly spread.
///
/// # Errors
/// If they cannot be read.
pub(super) fn baseline(loss: Loss, train: &dyn Dataset, targets: usize) -> Result<f64, TrainError> {
    match loss {
        Loss::CrossEntropy => Ok((targets as f64).ln()),
        Loss::BinaryCrossEntropy => Ok(2f64.ln()),
        Loss::MSE | Loss::MAE | Loss::Huber => {
            let rows = u32::try_from(train.len()).map_err(|_| TrainError::too_many_rows(train.len()))?;
            let indices: Vec<u32> = (0..rows).step_by(train.len().div_ceil(BASELINE_ROWS).max(1)).collect();
            let Batch::Rows(batch) = train.batch(&indices)? else { return Err(ModelError::ReadsRows.into()) };
            let (_, targets) = batch.into_tensors(&Device::flex());
            let means = read(mean_loss(loss, targets.zeros_like(), targets))?;
            Ok(means.iter().map(|mean| f64::from(*mean)).sum())
        }
    }
}

/// The mean loss, `[1]`, of a model on a batch: over its rows, or over its tokens that are to be predicted.
///
/// # Errors
/// If the model does not read what the batch holds.
pub(super) fn batch_loss(
    model: &Network,
    architecture: &Architecture,
    batch: Batch,
    device: &Device,
) -> Result<Tensor<1>, ModelError> {
    match batch {
        Batch::Rows(batch) => {
            let (features, targets) = batch.into_tensors(device);
            Ok(mean_loss(architecture.rows()?.loss, model.mlp()?.forward(features), targets))
        }
        Batch::Tokens(batch) => {
            let (tokens, targets, weights) = batch.into_tensors(device);
            Ok(model.transformer()?.loss(tokens, targets, weights))
        }
    }
}

/// The mean loss, `[1]`, of raw outputs `[batch, output]` against targets.
///
/// Targets are `[batch, output]` for a regression, and the classes' indices `[batch, 1]` for a classification.
pub(super) fn mean_loss(loss: Loss, outputs: Tensor<2>, targets: Tensor<2>) -> Tensor<1> {
    match loss {
        Loss::MSE => (outputs - targets).square().mean(),
        Loss::MAE => (outputs - targets).abs().mean(),
        Loss::Huber => {
            let error = (outputs - targets).abs();
            // With c = min(e, δ): c²/2 + δ(e - c), which is e²/2 below δ and δ(e - δ/2) above.
            let clipped = error.clone().clamp_max(HUBER_DELTA);
            (clipped.clone().square() / 2.0 + (error - clipped) * HUBER_DELTA).mean()
        }
        Loss::CrossEntropy => cross_entropy(outputs, targets.int().squeeze_dim(1)),
        // -[t·ln σ(x) + (1 - t)·ln(1 - σ(x))] = max(x, 0) - x·t + ln(1 + e^-|x|), which neither overflows nor cancels.
        Loss::BinaryCrossEntropy => {
            let tail = (-outputs.clone().abs()).exp().log1p();
            (activation::relu(outputs.clone()) - outputs * targets + tail).mean()
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::training::RowBatch;

    /// Loss and gradient with respect to the outputs.
    fn loss_and_gradient<const R: usize, const O: usize, const T: usize>(
        loss: Loss,
        outputs: [[f32; O]; R],
        targets: [[f32; T]; R],
    ) -> (f32, Vec<f32>) {
        let device = Device::flex().autodiff();
        let outputs = Tensor::<2>::from_floats(outputs, &device).require_grad();
        let value = mean_loss(loss, outputs.clone(), Tensor::from_floats(targets, &device));
        let gradient = outputs.grad(&value.backward()).unwrap();
        (value.into_scalar(), gradient.try_into_vec_as().unwrap())
    }

    /// Single operations in f32 are exact to 6e-8 of their value; a handful of them on values up to 10 stays well below.
    fn assert_close((value, gradient): (f32, Vec<f32>), expected: f32, expected_gradient: &[f32]) {
        assert!((value - expected).abs() < 2e-6, "loss {value} is not {expected}");
        assert_eq!(gradient.len(), expected_gradient.len());
        for (actual, expected) in gradient.iter().zip(expected_gradient) {
            assert!((actual - expected).abs() < 1e-6, "gradient {gradient:?} is not {expected_gradient:?}");
        }
    }

    #[test]
    fn mse_is_the_mean_square_and_its_gradient_twice_the_error_over_the_count() {
        let result = loss_and_gradient(Loss::MSE, [[1.0, 2.0], [3.0, -1.0]], [[0.0, 2.0], [5.0, 2.0]]);
        assert_close(result, (1.0 + 0.0 + 4.0 + 9.0) / 4.0, &[0.5, 0.0, -1.0, -1.5]);
    }

    #[test]
    fn mae_is_the_mean_absolute_error_and_its_gradient_the_sign_over_the_count() {
        let result = loss_and_gradient(Loss::MAE, [[1.0, -2.0]], [[0.0, 2.0]]);
        assert_close(result, 2.5, &[0.5, -0.5]);
    }

    #[test]
    fn huber_is_squared_below_one_and_absolute_above() {
        let result = loss_and_gradient(Loss::Huber, [[0.5, 3.0, -4.0, 0.0]], [[0.0, 0.0, 0.0, 0.0]]);
        assert_close(result, (0.125 + 2.5 + 3.5 + 0.0) / 4.0, &[0.125, 0.25, -0.25, 0.0]);
    }

    /// softmax(0, ln 2, ln 3) = (1, 2, 3)/6; the gradient is (softmax - one-hot)/rows.
    #[test]
    fn cross_entropy_is_the_mean_negative_log_probability_of_the_class() {
        let (ln2, ln3) = (2f32.ln(), 3f32.ln());
        let result = loss_and_gradient(Loss::CrossEntropy, [[0.0, ln2, ln3], [0.0, ln2, ln3]], [[2.0], [0.0]]);
        let expected = (2f32.ln() + 6f32.ln()) / 2.0;
        assert_close(result, expected, &[1.0 / 12.0, 1.0 / 6.0, -0.25, -5.0 / 12.0, 1.0 / 6.0, 0.25]);
    }

    /// σ(ln 3) = 3/4: the loss is -ln 3/4 for the class 1 and -ln 1/4 for the class 0; the gradient is (σ - t)/rows.
    #[test]
    fn binary_cross_entropy_is_the_mean_negative_log_probability() {
        let ln3 = 3f32.ln();
        let result = loss_and_gradient(Loss::BinaryCrossEntropy, [[ln3], [ln3]], [[1.0], [0.0]]);
        assert_close(result, ((4f32 / 3.0).ln() + 4f32.ln()) / 2.0, &[-0.125, 0.375]);
    }

    /// Every third of 3000 rows is looked at.
    #[test]
    fn a_model_that_knows_nothing_finds_all_classes_equally_likely_or_predicts_zero() {
        struct Targets;
        impl Dataset for Targets {
            fn len(&self) -> usize {
                3000
            }

            fn batch(&self, indices: &[u32]) -> Result<Batch, crate::data::DataError> {
                let targets = indices.iter().flat_map(|row| [if row % 2 == 0 { 4.0 } else { -2.0 }, 0.0]).collect();
                Ok(Batch::Rows(RowBatch { rows: indices.len(), features: vec![0.0; indices.len()], targets }))
            }
        }
        let baseline = |loss, targets| baseline(loss, &Targets, targets).unwrap();
        assert_eq!((baseline(Loss::MSE, 2), baseline(Loss::MAE, 2)), ((16.0 + 4.0) / 4.0, (4.0 + 2.0) / 4.0));
        assert_eq!(baseline(Loss::Huber, 2), (3.5 + 1.5) / 4.0);
        assert_eq!((baseline(Loss::CrossEntropy, 10), baseline(Loss::BinaryCrossEntropy, 2)), (10f64.ln(), 2f64.ln()));
    }

    #[test]
    fn losses_of_classes_stay_finite_for_extreme_outputs() {
        let (value, gradient) = loss_and_gradient(Loss::BinaryCrossEntropy, [[1e4], [-1e4]], [[0.0], [1.0]]);
        assert_eq!((value, gradient), (1e4, vec![0.5, -0.5]));
        let (value, gradient) = loss_and_gradient(Loss::CrossEntropy, [[1e4, -1e4]], [[1.0]]);
        assert_eq!((value, gradient), (2e4, vec![1.0, -1.0]));
    }
}
