//! Known transformers, by name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::transformer::{Normalization, Positions, RopeScaling, TransformerActivation};

/// A known transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Preset {
    /// GPT-2 in miniature, to try things out: 4 layers of width 128, 128 tokens.
    #[serde(rename = "tiny")]
    Tiny,
    /// GPT-2 small: 12 layers of width 768, 1024 tokens; 124 million parameters.
    #[serde(rename = "gpt2")]
    Gpt2,
    /// GPT-2 medium: 24 layers of width 1024, 1024 tokens; 355 million parameters.
    #[serde(rename = "gpt2-medium")]
    Gpt2Medium,
    /// GPT-2 large: 36 layers of width 1280, 1024 tokens; 774 million parameters.
    #[serde(rename = "gpt2-large")]
    Gpt2Large,
    /// GPT-2 XL: 48 layers of width 1600, 1024 tokens; 1.6 billion parameters.
    #[serde(rename = "gpt2-xl")]
    Gpt2Xl,
    /// Llama 3.2 1B: 16 layers of width 2048, 131072 tokens; 1.2 billion parameters. A context that long needs more
    /// memory than a GPU has: set `context` for training.
    #[serde(rename = "llama-3.2-1b")]
    Llama32,
    /// SmolLM2 135M: 30 layers of width 576, 8192 tokens; 135 million parameters.
    #[serde(rename = "smollm2-135m")]
    SmolLm2,
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Tiny, Self::Gpt2, Self::Gpt2Medium, Self::Gpt2Large, Self::Gpt2Xl, Self::Llama32, Self::SmolLm2];

    pub(super) fn shape(self) -> Shape {
        match self {
            Self::Tiny => Shape { context: 128, ..Shape::gpt2(4, 128, 4) },
            Self::Gpt2 => Shape::gpt2(12, 768, 12),
            Self::Gpt2Medium => Shape::gpt2(24, 1024, 16),
            Self::Gpt2Large => Shape::gpt2(36, 1280, 20),
            Self::Gpt2Xl => Shape::gpt2(48, 1600, 25),
            Self::Llama32 => Shape {
                layers: 16,
                width: 2048,
                heads: 32,
                key_value_heads: Some(8),
                context: 131_072,
                feed_forward: Some(8192),
                rope_theta: 500_000.0,
                rope_scaling: Some(RopeScaling {
                    factor: 32.0,
                    low_frequency_factor: 1.0,
                    high_frequency_factor: 4.0,
                    original_context: 8192,
                }),
                ..Shape::LLAMA
            },
            Self::SmolLm2 => Shape {
                layers: 30,
                width: 576,
                heads: 9,
                key_value_heads: Some(3),
                context: 8192,
                feed_forward: Some(1536),
                rope_theta: 100_000.0,
                ..Shape::LLAMA
            },
        }
    }
}

/// What a transformer has where its spec says nothing.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) layers: u32,
    pub(super) width: u32,
    pub(super) heads: u32,
    /// As many as `heads`, if not set.
    pub(super) key_value_heads: Option<u32>,
    pub(super) context: u32,
    /// Follows from the width, if not set.
    pub(super) feed_forward: Option<u32>,
    pub(super) positions: Positions,
    pub(super) rope_theta: f64,
    pub(super) rope_scaling: Option<RopeScaling>,
    pub(super) normalization: Normalization,
    pub(super) activation: TransformerActivation,
    pub(super) bias: bool,
}

impl Shape {
    /// Llama's kind; the numbers are to be filled in.
    const LLAMA: Self = Self {
        layers: 0,
        width: 0,
        heads: 0,
        key_value_heads: None,
        context: 0,
        feed_forward: None,
        positions: Positions::Rotary,
        rope_theta: DEFAULT_ROPE_THETA,
        rope_scaling: None,
        normalization: Normalization::RMSNorm,
        activation: TransformerActivation::SwiGLU,
        bias: false,
    };

    /// GPT-2's kind.
    const fn gpt2(layers: u32, width: u32, heads: u32) -> Self {
        Self {
            layers,
            width,
            heads,
            key_value_heads: None,
            context: 1024,
            feed_forward: None,
            positions: Positions::Learned,
            rope_theta: DEFAULT_ROPE_THETA,
            rope_scaling: None,
            normalization: Normalization::LayerNorm,
            activation: TransformerActivation::GELU,
            bias: true,
        }
    }
}

/// Of a transformer without a preset: of GPT-2's kind, and small.
impl Default for Shape {
    fn default() -> Self {
        Self { context: 256, ..Self::gpt2(6, 384, 6) }
    }
}

/// The base of the rotation's frequencies (Su et al., 2021).
const DEFAULT_ROPE_THETA: f64 = 10_000.0;
