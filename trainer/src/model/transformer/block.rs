//! One of the blocks that a transformer is a stack of.

use burn::{
    module::Module,
    nn::{Dropout, DropoutConfig, Linear},
    tensor::Tensor,
};
use stoker_crds::training::model::TransformerConfig;

use super::{attention::Attention, feed_forward::FeedForward, initial::Initial, norm::Norm, rotary::Angles};
use crate::model::ops;

/// Attention and a feed-forward layer, each of which reads the normalized sum of all layers before it and adds to it.
#[derive(Module, Debug)]
pub(super) struct Block {
    attention_norm: Norm,
    attention: Attention,
    feed_forward_norm: Norm,
    feed_forward: FeedForward,
    dropout: Dropout,
}

impl Block {
    pub(super) fn init(config: &TransformerConfig, initial: &mut Initial<'_>) -> Self {
        Self {
            attention_norm: Norm::init(config, initial),
            attention: Attention::init(config, initial),
            feed_forward_norm: Norm::init(config, initial),
            feed_forward: FeedForward::init(config, initial),
            dropout: DropoutConfig::new(config.dropout).init(),
        }
    }

    /// Its linear layers, in the order of its fields.
    pub(super) fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.attention.linears().chain(self.feed_forward.linears())
    }

    /// `[batch, length, width]` → the same.
    pub(super) fn forward(&self, x: Tensor<3>, angles: Option<&Angles>) -> Tensor<3> {
        let mixed = self.attention.forward(self.attention_norm.forward(x.clone()), angles);
        let x = x + ops::dropout(&self.dropout, mixed);
        let changed = self.feed_forward.forward(self.feed_forward_norm.forward(x.clone()));
        x + ops::dropout(&self.dropout, changed)
    }
}
