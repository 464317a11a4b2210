//! Attention of each token to itself and those before it.

use burn::{module::Module, nn::Linear, tensor::Tensor};
use stoker_crds::training::model::TransformerConfig;

use super::{initial::Initial, rotary::Angles};
use crate::model::ops;

/// Causal attention with several heads, of which groups may share keys and values.
#[derive(Module, Debug)]
pub(super) struct Attention {
    /// Queries of all heads, then keys of all groups, then values of all groups: `[width, (heads + 2·groups)·size]`.
    input: Linear,
    /// `[width, width]`.
    output: Linear,
    heads: usize,
    /// Heads of keys and values.
    groups: usize,
}

impl Attention {
    pub(super) fn init(config: &TransformerConfig, initial: &mut Initial<'_>) -> Self {
        let (width, size) = (config.width as usize, config.head_size() as usize);
        let (heads, groups) = (config.heads as usize, config.key_value_heads as usize);
        Self {
            input: initial.linear([width, (heads + 2 * groups) * size], config.bias),
            output: initial.residual([width, width], config.bias),
            heads,
            groups,
        }
    }

    /// Its linear layers, in the order of its fields.
    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear> {
        [&self.input, &self.output].into_iter()
    }

    /// `[batch, length, width]` → the same.
    pub(super) fn forward(&self, x: Tensor<3>, angles: Option<&Angles>) -> Tensor<3> {
        let projected = ops::linear(&self.input, x);
        let mixed = ops::causal_self_attention(projected, [self.heads, self.groups], angles.map(Angles::tables));
        ops::linear(&self.output, mixed)
    }
}
