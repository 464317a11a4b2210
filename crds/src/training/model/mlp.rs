//! The multi-layer perceptron.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A multi-layer perceptron. Its input and output widths follow from the data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Mlp {
    /// Widths of the hidden layers; none makes a linear model.
    #[schemars(length(max = 64), inner(range(min = 1, max = 65536)))]
    pub hidden: Vec<u32>,
    /// The function after each hidden layer.
    pub activation: Activation,
    /// The share of hidden units that are set to 0 at random in each training step.
    #[schemars(range(min = 0.0, max = 1.0), extend("exclusiveMaximum" = true))]
    pub dropout: f64,
}

/// The function after each hidden layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Activation {
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// Hyperbolic tangent.
    Tanh,
    /// max(0, x).
    #[default]
    ReLU,
    /// x · Φ(x), with the exact Gaussian distribution function.
    GELU,
    /// x where positive, 0.01 · x elsewhere.
    LeakyReLU,
}
