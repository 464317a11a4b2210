//! `spec.train.evaluation` and `spec.train.samples`: how often a training looks at itself, and what a language model writes then.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most prompts of [`Samples`].
pub const MAX_PROMPTS: usize = 4;
/// The longest prompt, in characters.
pub const MAX_PROMPT_CHARACTERS: usize = 200;

/// How often the model is evaluated besides the end of each epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Evaluation {
    /// Steps between two evaluations. Each goes through all of the validation split.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub every_steps: u64,
}

/// Texts that a language model writes at each evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Samples {
    /// What the texts begin with.
    #[schemars(length(min = 1, max = MAX_PROMPTS), inner(length(min = 1, max = MAX_PROMPT_CHARACTERS)))]
    pub prompts: Vec<String>,
    /// The most tokens that are written after a prompt. Each takes a pass through the model.
    #[serde(default = "default_max_tokens")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_tokens: u32,
    /// How freely the next token is drawn: 1 as probable as the model says, less for the more probable ones, 0 for the most
    /// probable one alone.
    #[serde(default = "default_temperature")]
    #[schemars(range(min = 0.0, max = 10.0))]
    pub temperature: f64,
    /// Only so many of the most probable tokens may come next. All may if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub top_k: Option<u32>,
}

const fn default_max_tokens() -> u32 {
    100
}

const fn default_temperature() -> f64 {
    1.0
}
