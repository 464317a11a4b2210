//! The normalizations.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};
use stoker_crds::training::model::{Normalization, TransformerConfig};

use super::initial::Initial;
use crate::model::ops;

/// Brings each vector to one scale, and multiplies it with a learned gain.
#[derive(Module, Debug)]
pub(super) struct Norm {
    gain: Param<Tensor<1>>,
    bias: Option<Param<Tensor<1>>>,
    epsilon: f64,
    #[module(skip)]
    kind: Normalization,
}

impl Norm {
    pub(super) fn init(config: &TransformerConfig, initial: &Initial<'_>) -> Self {
        let width = config.width as usize;
        let has_bias = config.bias && config.normalization == Normalization::LayerNorm;
        Self {
            gain: initial.constant(width, 1.0),
            bias: has_bias.then(|| initial.constant(width, 0.0)),
            epsilon: config.norm_epsilon,
            kind: config.normalization,
        }
    }

    /// `[batch, length, width]` → the same.
    pub(super) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        match self.kind {
            Normalization::LayerNorm => {
                ops::layer_norm(x, self.gain.val(), self.bias.as_ref().map(Param::val), self.epsilon)
            }
            Normalization::RMSNorm => ops::rms_norm(x, self.gain.val(), self.epsilon),
        }
    }
}
