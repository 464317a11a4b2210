//! The decoder transformer.

mod rules;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::preset::{Preset, Shape};

/// A decoder transformer: a language model that reads tokens and predicts the next one.
///
/// Without a preset it is of GPT-2's kind, with 6 layers of width 384.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = rules::of_transformer()))]
pub struct Transformer {
    /// A known transformer, from which all is taken that is not set here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// Blocks of an attention and a feed-forward layer. The default is 6.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub layers: Option<u32>,
    /// Numbers per token between the layers; a multiple of `heads`. The default is 384.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65536))]
    pub width: Option<u32>,
    /// Heads of each attention layer. The default is 6.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub heads: Option<u32>,
    /// Heads of keys and values, each shared by as many heads (grouped-query attention); divides `heads`. The default is
    /// `heads`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub key_value_heads: Option<u32>,
    /// The most tokens that are read at once. The default is 256.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub context: Option<u32>,
    /// Units of each feed-forward layer. The default is 4 times the width; with SwiGLU 8/3 of the width, rounded up to a
    /// multiple of 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub feed_forward: Option<u32>,
    /// How the model knows where a token stands. The default is `Learned`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub positions: Option<Positions>,
    /// The base of the frequencies of `Rotary` positions. The default is 10000.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1.0, max = 1e9))]
    pub rope_theta: Option<f64>,
    /// Stretches the low frequencies of `Rotary` positions, for a context that is longer than the one of a first training.
    /// A factor of 1 changes nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
    /// What keeps the numbers between layers in bounds. The default is `LayerNorm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalization: Option<Normalization>,
    /// Added to the variance that the normalization divides by. The default is 1e-5.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0), extend("exclusiveMinimum" = true))]
    pub norm_epsilon: Option<f64>,
    /// The function inside the feed-forward layers. The default is `GELU`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<TransformerActivation>,
    /// Whether the layers and `LayerNorm` add a bias. The default is true; of Llama's kind false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias: Option<bool>,
    /// Whether the matrix that reads tokens is also the one that predicts them. The default is true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tied_embeddings: Option<bool>,
    /// The share of the embeddings' and of each layer's outputs that is set to 0 at random in each training step.
    #[schemars(range(min = 0.0, max = 1.0), extend("exclusiveMaximum" = true))]
    pub dropout: f64,
}

/// How a transformer knows where a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Positions {
    /// A learned vector per position is added to the token's, as in GPT-2.
    Learned,
    /// Queries and keys are rotated by their position (RoPE), as in Llama.
    Rotary,
}

/// Stretches the low frequencies of rotary positions, as Llama 3.1 does.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [rules::of_rope_scaling()]))]
pub struct RopeScaling {
    /// By how much the low frequencies are divided.
    #[schemars(range(min = 1.0, max = 1000.0))]
    pub factor: f64,
    /// Waves longer than `originalContext` divided by this are divided by all of `factor`.
    #[serde(default = "default_low_frequency_factor")]
    #[schemars(range(min = 0.001, max = 1000.0))]
    pub low_frequency_factor: f64,
    /// Waves shorter than `originalContext` divided by this stay; greater than `lowFrequencyFactor`.
    #[serde(default = "default_high_frequency_factor")]
    #[schemars(range(min = 0.001, max = 1000.0))]
    pub high_frequency_factor: f64,
    /// The context of the first training.
    #[schemars(range(min = 1, max = 1_048_576))]
    pub original_context: u32,
}

const fn default_low_frequency_factor() -> f64 {
    1.0
}

const fn default_high_frequency_factor() -> f64 {
    4.0
}

/// What keeps the numbers between layers in bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Normalization {
    /// To a mean of 0 and a variance of 1, as in GPT-2.
    LayerNorm,
    /// To a mean square of 1, as in Llama.
    RMSNorm,
}

/// The function inside a transformer's feed-forward layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TransformerActivation {
    /// x · Φ(x), with GPT-2's approximation of the Gaussian distribution function by a hyperbolic tangent.
    GELU,
    /// x · σ(x) times a second linear layer, as in Llama.
    SwiGLU,
}

/// A transformer with nothing left to default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TransformerConfig {
    /// Blocks of an attention and a feed-forward layer.
    pub layers: u32,
    /// Numbers per token between the layers.
    pub width: u32,
    /// Heads of each attention layer.
    pub heads: u32,
    /// Heads of keys and values; divides `heads`.
    pub key_value_heads: u32,
    /// The most tokens that are read at once.
    pub context: u32,
    /// Units of each feed-forward layer.
    pub feed_forward: u32,
    /// How the model knows where a token stands.
    pub positions: PositionEncoding,
    /// What keeps the numbers between layers in bounds.
    pub normalization: Normalization,
    /// Added to the variance that the normalization divides by.
    pub norm_epsilon: f64,
    /// The function inside the feed-forward layers.
    pub activation: TransformerActivation,
    /// Whether the layers and `LayerNorm` add a bias.
    pub bias: bool,
    /// Whether the matrix that reads tokens is also the one that predicts them.
    pub tied_embeddings: bool,
    /// The share of outputs that is set to 0 at random in each training step.
    pub dropout: f64,
}

/// How a transformer knows where a token stands, with all that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PositionEncoding {
    /// A learned vector per position.
    Learned,
    /// Rotated queries and keys.
    Rotary(Rotary),
}

/// The frequencies of rotary positions: `theta^(-2i / size of a head)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rotary {
    /// The base of the frequencies.
    pub theta: f64,
    /// How the low ones are stretched, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<RopeScaling>,
}

/// There is no such transformer: each field that cannot be as it is, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct InvalidTransformer(pub Vec<String>);

impl Transformer {
    /// The same transformer with nothing left to default.
    ///
    /// # Errors
    /// If a number is out of bounds, or fields do not fit each other.
    pub fn resolve(&self) -> Result<TransformerConfig, InvalidTransformer> {
        let base = self.preset.map(Preset::shape).unwrap_or_default();
        let (width, heads) = (self.width.unwrap_or(base.width), self.heads.unwrap_or(base.heads));
        let activation = self.activation.unwrap_or(base.activation);
        let mut problems = Problems(Vec::new());
        let config = TransformerConfig {
            layers: self.layers.unwrap_or(base.layers),
            width,
            heads,
            key_value_heads: self.key_value_heads.or(base.key_value_heads).unwrap_or(heads),
            context: self.context.unwrap_or(base.context),
            feed_forward: self.feed_forward.or(base.feed_forward).unwrap_or_else(|| units(activation, width)),
            positions: self.position_encoding(&base, &mut problems),
            normalization: self.normalization.unwrap_or(base.normalization),
            norm_epsilon: self.norm_epsilon.unwrap_or(DEFAULT_NORM_EPSILON),
            activation,
            bias: self.bias.unwrap_or(base.bias),
            tied_embeddings: self.tied_embeddings.unwrap_or(true),
            dropout: self.dropout,
        };
        config.find_problems(&mut problems);
        problems.into_result().map(|()| config)
    }

    fn position_encoding(&self, base: &Shape, problems: &mut Problems) -> PositionEncoding {
        match self.positions.unwrap_or(base.positions) {
            Positions::Rotary => PositionEncoding::Rotary(Rotary {
                theta: self.rope_theta.unwrap_or(base.rope_theta),
                scaling: self.rope_scaling.or(base.rope_scaling),
            }),
            Positions::Learned => {
                problems.unless(self.rope_theta.is_none() && self.rope_scaling.is_none(), rules::LEARNED);
                PositionEncoding::Learned
            }
        }
    }
}

/// Of GPT-2 and of both of Llama's kind.
const DEFAULT_NORM_EPSILON: f64 = 1e-5;

/// Units of a feed-forward layer that are usual for a width. SwiGLU has three matrices instead of two, and with 2/3 of the
/// units as many parameters (Shazeer, 2020).
fn units(activation: TransformerActivation, width: u32) -> u32 {
    let width = u64::from(width);
    let units = match activation {
        TransformerActivation::GELU => 4 * width,
        TransformerActivation::SwiGLU => (8 * width).div_ceil(3).next_multiple_of(64),
    };
    u32::try_from(units).unwrap_or(u32::MAX)
}

impl TransformerConfig {
    /// Numbers per head.
    pub fn head_size(&self) -> u32 {
        self.width.checked_div(self.heads).unwrap_or(0)
    }

    /// Whether there is such a transformer; one that was read from a file may be anything.
    ///
    /// # Errors
    /// If a number is out of bounds, or fields do not fit each other.
    pub fn validate(&self) -> Result<(), InvalidTransformer> {
        let mut problems = Problems(Vec::new());
        self.find_problems(&mut problems);
        problems.into_result()
    }

    fn find_problems(&self, problems: &mut Problems) {
        problems.outside("layers", self.layers, 256);
        problems.outside("width", self.width, 65_536);
        problems.outside("heads", self.heads, 1024);
        problems.outside("keyValueHeads", self.key_value_heads, 1024);
        problems.outside("context", self.context, 1 << 20);
        problems.outside("feedForward", self.feed_forward, 1 << 20);
        let Self { width, heads, key_value_heads, .. } = *self;
        problems.unless(width.is_multiple_of(heads), &format!("{}, and {width} is none of {heads}", rules::WIDTH));
        problems.unless(
            heads.is_multiple_of(key_value_heads),
            &format!("{}, and {heads} is none of {key_value_heads}", rules::HEADS),
        );
        problems.unless(
            self.norm_epsilon > 0.0 && self.norm_epsilon <= 1.0,
            "normEpsilon must be greater than 0 and at most 1",
        );
        problems.unless((0.0..1.0).contains(&self.dropout), "dropout must be at least 0 and less than 1");
        if let PositionEncoding::Rotary(rotary) = &self.positions {
            let size = self.head_size();
            problems.unless(size.is_multiple_of(2), &format!("{}, and is {size}", rules::ROTARY));
            problems.unless((1.0..=1e9).contains(&rotary.theta), "ropeTheta must lie between 1 and 1e9");
            if let Some(scaling) = &rotary.scaling {
                scaling.find_problems(problems);
            }
        }
    }
}

impl RopeScaling {
    fn find_problems(&self, problems: &mut Problems) {
        problems.unless((1.0..=1000.0).contains(&self.factor), "ropeScaling.factor must lie between 1 and 1000");
        let (low, high) = (self.low_frequency_factor, self.high_frequency_factor);
        problems.unless(
            (0.001..=1000.0).contains(&low) && (0.001..=1000.0).contains(&high) && low < high,
            &format!("ropeScaling.{}, and both lie between 0.001 and 1000", rules::FREQUENCIES),
        );
        problems.outside("ropeScaling.originalContext", self.original_context, 1 << 20);
    }
}

struct Problems(Vec<String>);

impl Problems {
    fn unless(&mut self, holds: bool, problem: &str) {
        if !holds {
            self.0.push(problem.to_owned());
        }
    }

    fn outside(&mut self, field: &str, value: u32, most: u32) {
        self.unless((1..=most).contains(&value), &format!("{field} must lie between 1 and {most}, and is {value}"));
    }

    fn into_result(self) -> Result<(), InvalidTransformer> {
        if self.0.is_empty() { Ok(()) } else { Err(InvalidTransformer(self.0)) }
    }
}
