//! How large a transformer is, before there is one.

use stoker_crds::training::model::{Normalization, PositionEncoding, TransformerActivation, TransformerConfig};

use super::ops;

/// Bytes of a 32-bit float.
const FLOAT: u128 = 4;

/// The parameters of a transformer, all together: what is written to a file.
///
/// With width w, vocabulary v, units u of a feed-forward layer, and s numbers of all heads of keys together:
/// - v·w for the tokens, as many again if embeddings are not tied, and w per position of the context if they are learned;
/// - in each block w·(w + 2s) + w² for attention, 2·w·u for GELU and 3·w·u for SwiGLU, and 2 normalizations; with biases
///   2w + 2s more for attention, and w + u or w + 2u more for the feed-forward layer;
/// - a last normalization. Each has w numbers, and w more if it is a LayerNorm with a bias.
pub fn parameter_count(config: &TransformerConfig, vocabulary: u32) -> u64 {
    clamp(Sizes::of(config, vocabulary).parameters())
}

/// What a training holds in the device's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainingMemory {
    /// The weights.
    pub weights: u64,
    /// Their gradients.
    pub gradients: u64,
    /// Adam's two running means.
    pub optimizer: u64,
    /// What the forward pass keeps for the backward pass.
    pub activations: u64,
}

impl TrainingMemory {
    /// All of it.
    pub fn total(&self) -> u64 {
        [self.gradients, self.optimizer, self.activations]
            .iter()
            .fold(self.weights, |sum, part| sum.saturating_add(*part))
    }
}

/// About what it takes to train a transformer with Adam on batches of `[batch, length]` tokens, in 32-bit floats.
///
/// With p parameters (see [`parameter_count`]), weights and gradients are 4p bytes each and the optimizer's state is 8p. The
/// activations are what the operations of this crate keep when none is fused, with n = batch · length tokens:
/// - in each block, for each token: 8w for normalizations, queries and the inputs of linear layers, 2s for keys and values, 5u
///   inside the feed-forward layer, and 2 · heads · length for attention;
/// - 4w for each token before and after the blocks;
/// - the logits of the chunk of tokens that the loss is computed on at a time, with two tensors as large, and a gradient of
///   the vocabulary's matrix.
///
/// Dropout keeps 3w more per block and token. What an allocator holds in reserve, and what a device needs for itself, comes on
/// top.
pub fn training_memory(config: &TransformerConfig, vocabulary: u32, batch: u32, length: u32) -> TrainingMemory {
    let sizes = Sizes::of(config, vocabulary);
    let parameters = sizes.parameters();
    TrainingMemory {
        weights: clamp(FLOAT.saturating_mul(parameters)),
        gradients: clamp(FLOAT.saturating_mul(parameters)),
        optimizer: clamp((2 * FLOAT).saturating_mul(parameters)),
        activations: clamp(FLOAT.saturating_mul(sizes.activations(batch.into(), length.into()))),
    }
}

fn clamp(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

struct Sizes<'a> {
    config: &'a TransformerConfig,
    vocabulary: u128,
    layers: u128,
    width: u128,
    units: u128,
    /// Numbers of all heads of keys together.
    shared: u128,
}

impl<'a> Sizes<'a> {
    fn of(config: &'a TransformerConfig, vocabulary: u32) -> Self {
        Self {
            config,
            vocabulary: vocabulary.into(),
            layers: config.layers.into(),
            width: config.width.into(),
            units: config.feed_forward.into(),
            shared: u128::from(config.key_value_heads) * u128::from(config.head_size()),
        }
    }

    fn parameters(&self) -> u128 {
        let Self { config, vocabulary, layers, width, units, shared } = *self;
        let with_bias = |numbers: u128| if config.bias { numbers } else { 0 };
        let norm = match config.normalization {
            Normalization::LayerNorm => width + with_bias(width),
            Normalization::RMSNorm => width,
        };
        let attention = width * (width + 2 * shared) + width * width + with_bias(2 * width + 2 * shared);
        let inputs = match config.activation {
            TransformerActivation::GELU => 1,
            TransformerActivation::SwiGLU => 2,
        };
        let feed_forward = (inputs + 1) * width * units + with_bias(inputs * units + width);
        let positions = match config.positions {
            PositionEncoding::Learned => u128::from(config.context) * width,
            PositionEncoding::Rotary(_) => 0,
        };
        let matrices = if config.tied_embeddings { 1 } else { 2 };
        // Of numbers of 32 bits each, no product of three of them overflows in 128 bits.
        let blocks = layers.saturating_mul(attention + feed_forward + 2 * norm);
        blocks.saturating_add(matrices * vocabulary * width + positions + norm)
    }

    fn activations(&self, batch: u128, length: u128) -> u128 {
        let Self { config, vocabulary, layers, width, units, shared } = *self;
        let tokens = batch * length;
        let dropout = if config.dropout > 0.0 { 3 * width } else { 0 };
        let block = 8 * width + 2 * shared + 5 * units + 2 * u128::from(config.heads) * length + dropout;
        let logits = (tokens * vocabulary).min(ops::CHUNK_LOGITS as u128);
        let blocks = (layers * tokens).saturating_mul(block);
        blocks.saturating_add(4 * width * tokens + 3 * logits + vocabulary * width)
    }
}

#[cfg(test)]
mod tests {
    use burn::{module::Module, tensor::Device};
    use stoker_crds::training::model::{Preset, Transformer as Spec};

    use super::*;
    use crate::model::transformer::{Transformer, padded};

    fn preset(preset: Preset) -> TransformerConfig {
        Spec { preset: Some(preset), ..Spec::default() }.resolve().unwrap()
    }

    /// Parameters are drawn when they are first used, so that the largest of these allocates none.
    #[test]
    fn the_count_is_that_of_the_real_module_for_every_preset() {
        for name in Preset::ALL {
            // The padding is part of the module and not of the model.
            let (config, vocabulary) = (preset(name), padded(1000));
            let module = Transformer::init(&config, vocabulary, 0, &Device::flex());
            assert_eq!(module.num_params() as u64, parameter_count(&config, vocabulary as u32), "{name:?}");
        }
    }

    #[test]
    fn the_count_is_that_of_the_real_module_for_every_kind_of_layer() {
        for (positions, normalization, activation) in [
            ("Learned", "RMSNorm", "SwiGLU"),
            ("Rotary", "LayerNorm", "GELU"),
            ("Rotary", "RMSNorm", "SwiGLU"),
            ("Learned", "LayerNorm", "GELU"),
        ] {
            for (bias, tied) in [(true, true), (true, false), (false, true), (false, false)] {
                let spec: Spec = serde_json::from_value(serde_json::json!({
                    "preset": "tiny", "keyValueHeads": 2, "positions": positions, "normalization": normalization,
                    "activation": activation, "bias": bias, "tiedEmbeddings": tied,
                }))
                .unwrap();
                let config = spec.resolve().unwrap();
                let module = Transformer::init(&config, 64, 0, &Device::flex());
                assert_eq!(module.num_params() as u64, parameter_count(&config, 64), "{config:?}");
            }
        }
    }

    /// The counts that were published with the models.
    #[test]
    fn the_counts_of_published_models_are_theirs() {
        for (name, vocabulary, count) in [
            (Preset::Gpt2, 50_257, 124_439_808),
            (Preset::Gpt2Medium, 50_257, 354_823_168),
            (Preset::Gpt2Large, 50_257, 774_030_080),
            (Preset::Gpt2Xl, 50_257, 1_557_611_200),
            (Preset::Llama32, 128_256, 1_235_814_400),
            (Preset::SmolLm2, 49_152, 134_515_008),
        ] {
            assert_eq!(parameter_count(&preset(name), vocabulary), count, "{name:?}");
        }
    }

    #[test]
    fn a_training_holds_four_times_the_weights_and_activations_that_grow_with_the_batch() {
        let config = preset(Preset::Gpt2);
        let small = training_memory(&config, 50_257, 1, 1024);
        assert_eq!(small.weights, 4 * 124_439_808);
        assert_eq!(small.total() - small.activations, 4 * small.weights);
        let large = training_memory(&config, 50_257, 9, 1024);
        // 12 blocks · 1024 tokens · (8·768 + 2·768 + 5·3072 + 2·12·1024) + 1024 · 4·768, in 32-bit floats.
        let sequence = 4 * (12 * 1024 * (6144 + 1536 + 15_360 + 24_576) + 1024 * 3072);
        assert_eq!(large.activations - small.activations, 8 * sequence);
    }

    #[test]
    fn what_no_memory_can_hold_does_not_overflow() {
        let config = TransformerConfig {
            layers: u32::MAX,
            width: u32::MAX,
            heads: 1,
            key_value_heads: u32::MAX,
            context: u32::MAX,
            feed_forward: u32::MAX,
            ..preset(Preset::Gpt2)
        };
        assert_eq!(parameter_count(&config, u32::MAX), u64::MAX);
        assert_eq!(training_memory(&config, u32::MAX, u32::MAX, u32::MAX).total(), u64::MAX);
    }
}
