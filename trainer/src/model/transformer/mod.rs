//! The decoder transformer: GPT-2's, Llama's, and what lies between them.

mod attention;
mod block;
mod feed_forward;
mod generate;
mod hugging_face;
mod initial;
mod layout;
mod lora;
mod norm;
mod recompute;
mod rotary;
mod size;
#[cfg(test)]
mod tests;
mod weights;

use burn::{
    module::{Module, Param},
    nn::{Dropout, DropoutConfig},
    tensor::{Device, FloatDType, Int, Tensor},
};
use stoker_crds::training::model::{PositionEncoding, TransformerConfig};

pub(crate) use self::recompute::Recompute;
pub(super) use self::size::{attention_flops, training_activations};
use self::{
    block::Block,
    initial::Initial,
    norm::Norm,
    rotary::{Angles, Rotary},
};
pub use self::{
    generate::Generation,
    hugging_face::{HuggingFaceError, end_of_text, from_hugging_face_config, to_hugging_face_config},
    size::parameter_count,
};
use super::ops;

/// The vocabulary's matrices have a multiple of so many rows, which GPUs multiply fastest.
const VOCABULARY_MULTIPLE: usize = 64;

/// The rows of the matrices of a vocabulary: a multiple of 64.
fn padded(vocabulary: usize) -> usize {
    vocabulary.next_multiple_of(VOCABULARY_MULTIPLE)
}

/// A stack of blocks that reads tokens and predicts the next one after each.
///
/// The matrices of the vocabulary are padded with rows of 0 that are no token: they are never predicted, and are not
/// written to files.
#[derive(Module, Debug)]
pub struct Transformer {
    /// `[padded vocabulary, width]`.
    tokens: Param<Tensor<2>>,
    /// `[context, width]`, if positions are learned.
    positions: Option<Param<Tensor<2>>>,
    /// If positions are rotary.
    #[module(skip)]
    rotary: Option<Rotary>,
    dropout: Dropout,
    blocks: Vec<Block>,
    norm: Norm,
    /// `[padded vocabulary, width]`; `tokens`, if the embeddings are tied.
    head: Option<Param<Tensor<2>>>,
    vocabulary: usize,
    #[module(skip)]
    config: TransformerConfig,
}

impl Transformer {
    /// A transformer with random weights, decided by the seed: N(0, 0.02²), with the standard deviation divided by √(2 ·
    /// layers) where a layer's output is added to the others', biases of 0 and gains of 1, as GPT-2 (Radford et al.,
    /// 2019). Each is drawn when it is first used.
    pub(super) fn init(config: &TransformerConfig, vocabulary: usize, seed: u64, device: &Device) -> Self {
        let mut initial = Initial::new(seed, config.layers, device);
        let (width, context) = (config.width as usize, config.context as usize);
        let tokens = initial.embedding(vocabulary, padded(vocabulary), width);
        let (positions, rotary) = match &config.positions {
            PositionEncoding::Learned => (Some(initial.embedding(context, context, width)), None),
            PositionEncoding::Rotary(spec) => (None, Some(Rotary::new(spec, config.head_size() as usize, context))),
        };
        let blocks = (0..config.layers).map(|_| Block::init(config, &mut initial)).collect();
        let norm = Norm::init(config, &initial);
        let head = (!config.tied_embeddings).then(|| initial.embedding(vocabulary, padded(vocabulary), width));
        let dropout = DropoutConfig::new(config.dropout).init();
        Self { tokens, positions, rotary, dropout, blocks, norm, head, vocabulary, config: config.clone() }
    }

    /// What it is made of.
    pub fn config(&self) -> &TransformerConfig {
        &self.config
    }

    /// How many tokens there are.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Whether it sets units to 0 at random when it is trained.
    pub(super) fn drops_out(&self) -> bool {
        self.config.dropout > 0.0
    }

    /// What its weights are kept in.
    pub(super) fn dtype(&self) -> FloatDType {
        self.tokens.val().dtype().into()
    }

    /// `[batch, length]` tokens → `[batch, length, width]`, from which [`Self::logits`] and [`Self::loss`] follow.
    ///
    /// It computes in the precision of its weights. Drops units out only on a device with autodiff ([`Module::train`]). Tokens
    /// must be less than the vocabulary, and the length at most the context.
    pub fn forward(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let angles = self.angles(&tokens);
        let start = self.embed(tokens);
        let end = self.blocks.iter().fold(start, |x, block| block.forward(x, angles.as_ref()));
        self.norm.forward(end)
    }

    /// What the first block reads: `[batch, length]` tokens → `[batch, length, width]`.
    fn embed(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        self.embed_with(self.tokens.val(), self.positions.as_ref().map(Param::val), tokens)
    }

    fn embed_with(&self, table: Tensor<2>, positions: Option<Tensor<2>>, tokens: Tensor<2, Int>) -> Tensor<3> {
        let [_, length] = tokens.dims();
        let vectors = ops::embedding(table, tokens);
        let vectors = match positions {
            Some(positions) => vectors + positions.narrow(0, 0, length).unsqueeze::<3>(),
            None => vectors,
        };
        ops::dropout(&self.dropout, vectors)
    }

    /// The angles of the positions of `[batch, length]` tokens, if positions are rotary.
    fn angles(&self, tokens: &Tensor<2, Int>) -> Option<Angles> {
        let [_, length] = tokens.dims();
        self.rotary.as_ref().map(|rotary| rotary.first(length, &tokens.device()))
    }

    /// What [`Self::forward`] gave, `[batch, length, width]` → `[batch, length, vocabulary]`: the logarithm of each token's
    /// probability to be the next one, but for a constant; in 32-bit floats.
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        let [batch, length, width] = hidden.dims();
        let logits = hidden.reshape([batch * length, width]).matmul(self.head().val().transpose());
        logits.narrow(1, 0, self.vocabulary).reshape([batch, length, self.vocabulary]).cast(FloatDType::F32)
    }

    /// The weighted mean cross-entropy, `[1]`, of the tokens that come next, `targets`, after `tokens`: both `[batch,
    /// length]`, as the `weights`, which are not negative. 0 if all weights are 0.
    ///
    /// It is computed in 32-bit floats and by some rows at a time, so that a large vocabulary needs little memory.
    pub fn loss(&self, tokens: Tensor<2, Int>, targets: Tensor<2, Int>, weights: Tensor<2>) -> Tensor<1> {
        let hidden = self.forward(tokens);
        loss(hidden, self.head().val(), targets, weights, self.vocabulary)
    }

    /// `[padded vocabulary, width]`.
    fn head(&self) -> &Param<Tensor<2>> {
        self.head.as_ref().unwrap_or(&self.tokens)
    }
}

/// [`Transformer::loss`] of what [`Transformer::forward`] gave, `[batch, length, width]`, and a head.
fn loss(
    hidden: Tensor<3>,
    head: Tensor<2>,
    targets: Tensor<2, Int>,
    weights: Tensor<2>,
    vocabulary: usize,
) -> Tensor<1> {
    let [batch, length, width] = hidden.dims();
    let rows = batch * length;
    let (targets, weights) = (targets.reshape([rows]), weights.reshape([rows]));
    ops::linear_cross_entropy(hidden.reshape([rows, width]), head, targets, weights, vocabulary)
}
