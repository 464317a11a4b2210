//! How large a transformer is, before there is one.

use stoker_crds::training::model::{Normalization, PositionEncoding, TransformerActivation, TransformerConfig};

use crate::model::{
    estimate::{Activations, FLOAT, Workload},
    ops,
};

/// The logits that stand in memory at a time where the loss is fused; of a very large vocabulary they are more.
const FUSED_LOGITS: u128 = 4 << 20;

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

/// What the forward pass of a training keeps for the backward pass.
///
/// With n = batch · context tokens, widths as at [`parameter_count`], and GELU (SwiGLU: one more u):
/// - in each block, for each token: 6w + 2s for normalizations, queries, keys, values and the inputs of linear layers, one
///   number per head, and 2u inside the feed-forward layer; where the operations are not fused 2w more with dropout;
/// - 4w for each token before and after the blocks;
/// - the logits of the chunk of tokens that the loss is computed on at a time, and a gradient of the vocabulary's matrix, in
///   32-bit floats; and where 16 bits are computed in, that matrix too;
/// - where nothing is fused, two tensors as large as those logits; or, if they are more, the scores of attention of the queries
///   that are computed at a time with three as large: the loss is done when the backward of attention begins.
///
/// With activation checkpointing that is kept of one block at a time, and of each block only the w that go in.
/// What surely is kept are the inputs of the linear layers: 3w + u.
pub(in crate::model) fn training_activations(
    config: &TransformerConfig,
    vocabulary: u32,
    workload: Workload,
) -> Activations {
    let sizes = Sizes::of(config, vocabulary);
    Activations { estimated: clamp(sizes.activations(workload)), least: clamp(sizes.inputs(workload)) }
}

/// The floating-point operations of attention for each token, forward and backward: 12 · layers · width · context.
pub(in crate::model) fn attention_flops(config: &TransformerConfig) -> f64 {
    12.0 * f64::from(config.layers) * f64::from(config.width) * f64::from(config.context)
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

    fn activations(&self, workload: Workload) -> u128 {
        let Self { config, vocabulary, layers, width, units, shared } = *self;
        let (tokens, heads, context) = (self.tokens(workload), u128::from(config.heads), u128::from(config.context));
        let (number, float) = (u128::from(workload.number()), u128::from(FLOAT));
        let gated = if config.activation == TransformerActivation::SwiGLU { units } else { 0 };
        let kept = 6 * width + 2 * shared + heads + 2 * units + gated;
        let logits = tokens * vocabulary;
        let (kept, passing) = if workload.is_fused {
            (kept, logits.min(FUSED_LOGITS))
        } else {
            let masks = if config.dropout > 0.0 { 2 * width } else { 0 };
            let scores = tokens.saturating_mul(heads * context).min(ops::TILE_SCORES as u128);
            (kept + masks, (3 * logits.min(ops::CHUNK_LOGITS as u128)).max(4 * scores))
        };
        let block = kept * number;
        let matrices = if number == float { 1 } else { 2 };
        let blocks = if workload.activation_checkpointing { layers * width * number + block } else { layers * block };
        let ends = 4 * width * tokens * number + (passing + matrices * vocabulary * width) * float;
        tokens.saturating_mul(blocks).saturating_add(ends)
    }

    /// The inputs of the blocks' matrices, or, with activation checkpointing, those of one block and of the blocks.
    fn inputs(&self, workload: Workload) -> u128 {
        let Self { layers, width, units, .. } = *self;
        let block = 3 * width + units;
        let numbers = if workload.activation_checkpointing { layers * width + block } else { layers * block };
        self.tokens(workload).saturating_mul(numbers * u128::from(workload.number()))
    }

    fn tokens(&self, workload: Workload) -> u128 {
        u128::from(workload.batch) * u128::from(self.config.context)
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
    fn activations_grow_with_the_batch_by_what_the_operations_keep() {
        let growth = |config: &TransformerConfig, is_fused| {
            let of = |batch| training_activations(config, 50_257, Workload { batch, is_fused, ..Workload::default() });
            let (small, large) = (of(1000), of(1001));
            ((large.estimated - small.estimated) / 4, (large.least - small.least) / 4)
        };
        // For each of 1024 tokens 12 blocks, and 4·768 outside of them.
        let gpt2 = preset(Preset::Gpt2);
        let least = 1024 * 12 * (3 * 768 + 3072);
        let kept = 1024 * (12 * (6 * 768 + 2 * 768 + 12 + 2 * 3072) + 4 * 768);
        assert_eq!([growth(&gpt2, true), growth(&gpt2, false)], [(kept, least); 2]);
        let dropping = TransformerConfig { dropout: 0.1, ..gpt2 };
        assert_eq!([growth(&dropping, true).0, growth(&dropping, false).0], [kept, kept + 1024 * 12 * 2 * 768]);
        let smollm = preset(Preset::SmolLm2);
        let block = 6 * 576 + 2 * 192 + 9 + 3 * 1536;
        assert_eq!(growth(&smollm, true).0, 8192 * (30 * block + 4 * 576));
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
        for is_fused in [true, false] {
            let workload = Workload { batch: u32::MAX, is_fused, ..Workload::default() };
            let activations = training_activations(&config, u32::MAX, workload);
            assert_eq!((activations.estimated, activations.least), (u64::MAX, u64::MAX));
        }
    }
}
