//! `spec.train.optimizer`: how the weights follow the gradient.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the weights follow the gradient: exactly one. Defaults are PyTorch's, and for Lion those of its authors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = crate::schema::one_of)]
pub enum Optimizer {
    /// Stochastic gradient descent, with momentum if set.
    Sgd(Sgd),
    /// Adam (Kingma and Ba, 2015); `weightDecay` is added to the gradient.
    Adam(Adam),
    /// AdamW (Loshchilov and Hutter, 2019): Adam with decoupled weight decay.
    AdamW(AdamW),
    /// Lion (Chen et al., 2023): steps of one size along the sign of a running mean, which is all that it keeps. It takes a
    /// learning rate three to ten times smaller than AdamW's, and a `weightDecay` as many times larger.
    Lion(Lion),
    /// Adafactor (Shazeer and Stern, 2018): keeps of a matrix only the running means of its rows and columns, which takes
    /// hardly any memory.
    Adafactor(Adafactor),
    /// Muon (Jordan et al., 2024): orthogonal steps for the matrices of hidden layers, and AdamW for all else: embeddings,
    /// the last layer, biases and gains.
    Muon(Muon),
}

impl Default for Optimizer {
    fn default() -> Self {
        Self::AdamW(AdamW::default())
    }
}

impl Optimizer {
    /// The learning rate that the schedule starts from.
    pub const fn learning_rate(&self) -> f64 {
        match self {
            Self::Sgd(sgd) => sgd.learning_rate,
            Self::Adam(adam) => adam.learning_rate,
            Self::AdamW(adam) => adam.learning_rate,
            Self::Lion(lion) => lion.learning_rate,
            Self::Adafactor(adafactor) => adafactor.learning_rate,
            Self::Muon(muon) => muon.learning_rate,
        }
    }
}

/// Which weights decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WeightDecayOn {
    /// All of them.
    All,
    /// Matrices, those of embeddings too; neither biases nor the gains of normalizations.
    Matrices,
}

/// Stochastic gradient descent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Sgd {
    /// Size of a step.
    #[schemars(range(min = 0.0), extend("exclusiveMinimum" = true))]
    pub learning_rate: f64,
    /// Share of the last step that goes on; 0 for none.
    #[schemars(range(min = 0.0, max = 1.0), extend("exclusiveMaximum" = true))]
    pub momentum: f64,
    /// Whether the momentum looks ahead (Nesterov).
    pub nesterov: bool,
    /// L2 penalty that is added to the gradient.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
}

impl Default for Sgd {
    fn default() -> Self {
        Self { learning_rate: 1e-3, momentum: 0.0, nesterov: false, weight_decay: 0.0 }
    }
}

macro_rules! adam {
    ($(#[$doc:meta])* $name:ident, weight_decay = $decay:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
        pub struct $name {
            /// Size of a step.
            #[schemars(range(min = 0.0), extend("exclusiveMinimum" = true))]
            pub learning_rate: f64,
            /// Decay of the running mean of the gradient.
            #[schemars(range(min = 0.0, max = 1.0), extend("exclusiveMaximum" = true))]
            pub beta1: f64,
            /// Decay of the running mean of the squared gradient.
            #[schemars(range(min = 0.0, max = 1.0), extend("exclusiveMaximum" = true))]
            pub beta2: f64,
            /// Added to the denominator.
            #[schemars(range(min = 0.0), extend("exclusiveMinimum" = true))]
            pub epsilon: f64,
            /// Weight decay.
            #[schemars(range(min = 0.0))]
            pub weight_decay: f64,
        }

        impl Default for $name {
            fn default() -> Self {
                Self { learning_rate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: $decay }
            }
        }
    };
}

adam!(
    /// Adam (Kingma and Ba, 2015).
    Adam,
    weight_decay = 0.0
);
adam!(
    /// AdamW (Loshchilov and Hutter, 2019).
    AdamW,
    weight_decay = 0.01
);

/// Lion (Chen et al., 2023).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Lion {
    /// Size of a step.
    #[schemars(range(min = 0.0), extend("exclusiveMinimum" = true))]
    pub learning_rate: f64,
    /// Share of the running mean in the direction of a step; the gradient has the rest.
    #[schemars(range(min = 0.0, max = 1.0), extend("exclusiveMaximum" = true))]
    pub beta1: f64,
    /// Decay of the running mean of the gradient.
    #[schemars(range(min = 0.0, max = 1.0), extend("exclusiveMaximum" = true))]
    pub beta2: f64,
    /// Weight decay, apart from the gradient.
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub weight_decay: f64,
}

impl Default for Lion {
    fn default() -> Self {
        Self { learning_rate: 1e-4, beta1: 0.9, beta2: 0.99, weight_decay: 0.0 }
    }
}

/// Adafactor (Shazeer and Stern, 2018).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Adafactor {
    /// Size of a step relative to the root mean square of the weights (or to 0.001, if that is larger), and never more
    /// than 1/√step.
    #[schemars(range(min = 0.0), extend("exclusiveMinimum" = true))]
    pub learning_rate: f64,
    /// The running means of the squared gradient take in step t a share of t to the power of this.
    #[schemars(range(min = -1.0, max = 0.0), extend("exclusiveMaximum" = true))]
    pub beta2_decay: f64,
    /// The largest root mean square of a step before it is scaled; a larger step is made smaller.
    #[schemars(range(min = 0.001, max = 1000.0))]
    pub clip_threshold: f64,
    /// Weight decay, apart from the gradient.
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub weight_decay: f64,
}

impl Default for Adafactor {
    fn default() -> Self {
        Self { learning_rate: 1e-2, beta2_decay: -0.8, clip_threshold: 1.0, weight_decay: 0.0 }
    }
}

/// Muon (Jordan et al., 2024), and AdamW for what is no matrix of a hidden layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Muon {
    /// Size of a step.
    #[schemars(range(min = 0.0), extend("exclusiveMinimum" = true))]
    pub learning_rate: f64,
    /// How a matrix's shape changes its learning rate.
    pub adjust_learning_rate: MuonRate,
    /// Share of the last step that goes on.
    #[schemars(range(min = 0.0, max = 1.0), extend("exclusiveMaximum" = true))]
    pub momentum: f64,
    /// Whether the momentum looks ahead (Nesterov).
    pub nesterov: bool,
    /// Weight decay, apart from the gradient.
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub weight_decay: f64,
    /// AdamW for all else. The schedule is that of Muon's learning rate, and AdamW's follows it in proportion.
    pub adam_w: AdamW,
}

impl Default for Muon {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            adjust_learning_rate: MuonRate::default(),
            momentum: 0.95,
            nesterov: true,
            weight_decay: 0.1,
            adam_w: AdamW::default(),
        }
    }
}

/// How the learning rate of Muon follows the shape of a matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MuonRate {
    /// √max(1, outputs/inputs) times `learningRate` (Jordan et al., 2024).
    #[default]
    Original,
    /// 0.2·√max(outputs, inputs) times `learningRate`: steps as large as AdamW's, whose learning rate and weight decay it
    /// can take over (Liu et al., 2025).
    MatchRmsAdamW,
}
