//! The backward pass of one batch, in any precision, with or without its activations in memory.

use burn::tensor::{Device, Gradients, Tensor};
use stoker_crds::{TrainConfig, training::optimize::Precision};

use super::{dataset::Batch, loss::batch_loss};
use crate::model::{
    Architecture, ModelError, Network, Recompute,
    precision::{cast, computed, scaled},
};

/// How the gradients of a batch are computed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backward {
    /// Which numbers are computed with.
    pub(super) precision: Precision,
    /// Whether activations are computed again instead of kept.
    pub(super) activation_checkpointing: bool,
    /// What the loss is multiplied with before the backward pass, if it is.
    pub(super) scale: Option<f32>,
    /// Decides which units are dropped out.
    pub(super) seed: u64,
}

impl Backward {
    /// As a configuration says.
    pub(super) fn new(config: &TrainConfig, scale: Option<f32>, seed: u64) -> Self {
        let (precision, activation_checkpointing) = (config.train.precision, config.train.activation_checkpointing);
        Self { precision, activation_checkpointing, scale, seed }
    }

    /// That of one of the micro batches that a batch is cut into, counted from 0, whose loss is such a share of the batch's.
    pub(super) fn of_part(self, index: usize, share: f64) -> Self {
        let scale = match self.scale {
            Some(scale) => Some(scale * share as f32),
            None => (share != 1.0).then_some(share as f32),
        };
        Self { scale, seed: self.seed.wrapping_add((index as u64) << 32), ..self }
    }

    /// The mean loss, `[1]`, of a model on a batch, without a graph; and its gradients with respect to the model's
    /// parameters, times the scale.
    ///
    /// # Errors
    /// If the model does not read what the batch holds.
    pub(super) fn run(
        self,
        model: &Network,
        architecture: &Architecture,
        batch: Batch,
        device: &Device,
    ) -> Result<(Tensor<1>, Gradients), ModelError> {
        let Self { precision, activation_checkpointing, scale, seed } = self;
        let dtype = computed(precision);
        match batch {
            Batch::Tokens(batch) if activation_checkpointing => {
                let (tokens, targets, weights) = batch.into_tensors(device);
                Ok(model.transformer()?.loss_by_blocks(tokens, targets, weights, Recompute { dtype, scale, seed }))
            }
            batch => {
                // The generator's state cannot be saved; a seed of its own for each step makes it part of the position. To seed a
                // GPU is to wait for it.
                if model.drops_out() {
                    device.seed(seed);
                }
                let copy = (model.dtype() != dtype).then(|| cast(model.clone(), dtype));
                let loss = batch_loss(copy.as_ref().unwrap_or(model), architecture, batch, device)?;
                let gradients = scaled(loss.clone(), scale).backward();
                Ok((loss.inner(), gradients))
            }
        }
    }
}
