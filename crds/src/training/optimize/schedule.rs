//! `spec.train.schedule`: how the learning rate changes over the run.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the learning rate changes over the run: exactly one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = crate::schema::one_of)]
pub enum Schedule {
    /// The learning rate stays the same, after a linear warm-up if there is one.
    Constant(Constant),
    /// The learning rate is multiplied by `factor` after every `every` steps.
    Step(StepDecay),
    /// The learning rate is multiplied by `factor` after every step.
    Exponential(Exponential),
    /// The learning rate falls along half a cosine to `minimum`, after a linear warm-up if there is one.
    Cosine(Cosine),
    /// The learning rate falls along a line to `minimum`, after a linear warm-up if there is one.
    Linear(Linear),
    /// Warm-up, stable, decay: the learning rate stays until the last steps, and falls to `minimum` there.
    Wsd(WarmupStableDecay),
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Constant(Constant::default())
    }
}

impl Schedule {
    /// The learning rate that a schedule with an end falls to.
    pub const fn minimum(&self) -> Option<f64> {
        match self {
            Self::Constant(_) | Self::Step(_) | Self::Exponential(_) => None,
            Self::Cosine(cosine) => Some(cosine.minimum),
            Self::Linear(linear) => Some(linear.minimum),
            Self::Wsd(wsd) => Some(wsd.minimum),
        }
    }
}

/// The learning rate stays, after a linear warm-up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Constant {
    /// Steps over which the learning rate grows from 0.
    #[schemars(range(max = 1_000_000_000))]
    pub warmup_steps: u64,
}

/// The learning rate is multiplied by `factor` every `every` steps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StepDecay {
    /// Steps between two changes.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub every: u64,
    /// What it is multiplied by.
    #[serde(default = "default_step_factor")]
    #[schemars(range(min = 0.0, max = 1.0), extend("exclusiveMinimum" = true))]
    pub factor: f64,
}

const fn default_step_factor() -> f64 {
    0.1
}

/// The learning rate is multiplied by `factor` at every step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exponential {
    /// What it is multiplied by.
    #[schemars(range(min = 0.0, max = 1.0), extend("exclusiveMinimum" = true))]
    pub factor: f64,
}

/// The learning rate falls along half a cosine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Cosine {
    /// Steps over which the learning rate grows from 0.
    #[schemars(range(max = 1_000_000_000))]
    pub warmup_steps: u64,
    /// The learning rate at the end.
    #[schemars(range(min = 0.0))]
    pub minimum: f64,
}

/// The learning rate falls along a line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Linear {
    /// Steps over which the learning rate grows from 0.
    #[schemars(range(max = 1_000_000_000))]
    pub warmup_steps: u64,
    /// The learning rate at the end.
    #[schemars(range(min = 0.0))]
    pub minimum: f64,
}

/// The learning rate stays until the last steps (Hu et al., 2024).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WarmupStableDecay {
    /// Steps over which the learning rate grows from 0.
    #[schemars(range(max = 1_000_000_000))]
    pub warmup_steps: u64,
    /// Steps at the end over which the learning rate falls. The default is a tenth of the run's steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub decay_steps: Option<u64>,
    /// How it falls.
    pub decay: DecayShape,
    /// The learning rate at the end.
    #[schemars(range(min = 0.0))]
    pub minimum: f64,
}

/// How a learning rate falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DecayShape {
    /// Along a line.
    #[default]
    Linear,
    /// By 1 - √(share of the steps): fast at first, and slower and slower (Hägele et al., 2024).
    OneMinusSqrt,
}
