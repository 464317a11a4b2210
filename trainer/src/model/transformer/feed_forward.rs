//! The layers between attention and attention.

use burn::{module::Module, nn::Linear, tensor::Tensor};
use stoker_crds::training::model::{TransformerActivation, TransformerConfig};

use super::initial::Initial;
use crate::model::ops;

/// Two linear layers with a function between them.
#[derive(Module, Debug)]
pub(super) struct FeedForward {
    /// `[width, units]`; with one the function is SwiGLU, without it GELU.
    gate: Option<Linear>,
    /// `[width, units]`.
    up: Linear,
    /// `[units, width]`.
    down: Linear,
}

impl FeedForward {
    pub(super) fn init(config: &TransformerConfig, initial: &mut Initial<'_>) -> Self {
        let (width, units) = (config.width as usize, config.feed_forward as usize);
        let is_gated = config.activation == TransformerActivation::SwiGLU;
        Self {
            gate: is_gated.then(|| initial.linear([width, units], config.bias)),
            up: initial.linear([width, units], config.bias),
            down: initial.residual([units, width], config.bias),
        }
    }

    /// Its linear layers, in the order of its fields.
    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.gate.iter().chain([&self.up, &self.down])
    }

    /// `[batch, length, width]` → the same.
    pub(super) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let units = match &self.gate {
            Some(gate) => ops::swiglu(ops::linear(gate, x.clone()), ops::linear(&self.up, x)),
            None => ops::gelu_tanh(ops::linear(&self.up, x)),
        };
        ops::linear(&self.down, units)
    }
}
