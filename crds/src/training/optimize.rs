//! `spec.train` and `spec.checkpoint`: loss, optimizer, schedule, length, and how often the state is saved.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::evaluation::{Evaluation, Samples};
use crate::duration::Duration;

/// How the model is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Train", extend("x-kubernetes-validations" = [{
    "rule": "!(has(self.epochs) && has(self.steps))",
    "message": "set epochs or steps, not both",
}]))]
pub struct Train<L = Option<Loss>> {
    /// What the training minimizes. The default is `MSE` for Regression and `CrossEntropy` for Classification and
    /// LanguageModeling.
    pub loss: L,
    /// How the weights follow the gradient. The default is `adamW`.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// How the learning rate changes over the run. The default is `constant`.
    #[serde(default)]
    pub schedule: Schedule,
    /// Rows per optimizer step; of LanguageModeling, sequences of the model's context.
    #[serde(default = "default_batch_size")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub batch_size: u32,
    /// How many times the training split is gone through. The default is 10, unless `steps` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub epochs: Option<u32>,
    /// How many optimizer steps are taken, instead of `epochs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub steps: Option<u64>,
    /// The number format of the computation.
    #[serde(default)]
    pub precision: Precision,
    /// Scales the gradients down where their global norm is larger than `norm`. Not done if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_clip: Option<GradientClip>,
    /// How often the model is evaluated on the validation split, besides the end of each epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Evaluation>,
    /// Texts that a language model writes at each evaluation, for a person to look at. None are written if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<Samples>,
    /// Ends the training when a metric of the validation split no longer gets better. Not done if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
    /// Decides initial weights, dropout and the order of rows: on CPU, the same spec and data give the same weights.
    #[serde(default = "default_seed")]
    #[schemars(range(min = 0))]
    pub seed: i64,
}

const fn default_batch_size() -> u32 {
    32
}

const fn default_seed() -> i64 {
    42
}

impl Default for Train {
    fn default() -> Self {
        Self {
            loss: None,
            optimizer: Optimizer::default(),
            schedule: Schedule::default(),
            batch_size: default_batch_size(),
            epochs: None,
            steps: None,
            precision: Precision::default(),
            gradient_clip: None,
            evaluation: None,
            samples: None,
            early_stopping: None,
            seed: default_seed(),
        }
    }
}

/// How long a run trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many passes over the training split.
    Epochs(u32),
    /// So many optimizer steps.
    Steps(u64),
}

impl<L> Train<L> {
    /// How long the run trains: `steps` if set, else `epochs`, else 10 epochs.
    pub fn length(&self) -> Length {
        self.steps.map_or(Length::Epochs(self.epochs.unwrap_or(10)), Length::Steps)
    }
}

/// What a training minimizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Loss {
    /// Mean squared error. Regression.
    MSE,
    /// Mean absolute error. Regression.
    MAE,
    /// Squared below an error of 1, absolute above. Regression.
    Huber,
    /// Cross-entropy over the classes, or the tokens. Classification and LanguageModeling.
    CrossEntropy,
    /// Binary cross-entropy. Classification with two classes.
    BinaryCrossEntropy,
}

impl Loss {
    /// Whether the loss is for a task.
    pub const fn fits(self, task: super::Task) -> bool {
        use super::Task::{Classification, LanguageModeling, Regression};
        match self {
            Self::MSE | Self::MAE | Self::Huber => matches!(task, Regression),
            Self::CrossEntropy => matches!(task, Classification | LanguageModeling),
            Self::BinaryCrossEntropy => matches!(task, Classification),
        }
    }
}

/// How the weights follow the gradient: exactly one. Defaults are PyTorch's.
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
}

impl Default for Optimizer {
    fn default() -> Self {
        Self::AdamW(AdamW::default())
    }
}

/// Stochastic gradient descent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Sgd {
    /// Size of a step.
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self > 0.0", "message": "must be greater than 0"}]))]
    pub learning_rate: f64,
    /// Share of the last step that goes on; 0 for none.
    #[schemars(range(min = 0.0), extend("x-kubernetes-validations" = [{"rule": "self < 1.0", "message": "must be less than 1"}]))]
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
            #[schemars(extend("x-kubernetes-validations" = [{"rule": "self > 0.0", "message": "must be greater than 0"}]))]
            pub learning_rate: f64,
            /// Decay of the running mean of the gradient.
            #[schemars(range(min = 0.0), extend("x-kubernetes-validations" = [{"rule": "self < 1.0", "message": "must be less than 1"}]))]
            pub beta1: f64,
            /// Decay of the running mean of the squared gradient.
            #[schemars(range(min = 0.0), extend("x-kubernetes-validations" = [{"rule": "self < 1.0", "message": "must be less than 1"}]))]
            pub beta2: f64,
            /// Added to the denominator.
            #[schemars(extend("x-kubernetes-validations" = [{"rule": "self > 0.0", "message": "must be greater than 0"}]))]
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
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Constant(Constant::default())
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
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self > 0.0 && self <= 1.0", "message": "must be greater than 0 and at most 1"}]))]
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
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self > 0.0 && self <= 1.0", "message": "must be greater than 0 and at most 1"}]))]
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

/// The number format that is computed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Precision {
    /// 32-bit floating point.
    #[default]
    F32,
}

/// Scales gradients down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GradientClip {
    /// The largest norm of all gradients together.
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "self > 0.0", "message": "must be greater than 0"}]))]
    pub norm: f64,
}

/// Ends the training when a metric no longer gets better.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EarlyStopping {
    /// The metric to watch: `validation/` and `loss`; or, for Classification, `accuracy`, `precision`, `recall`, `f1` or
    /// `roc_auc` (area under the ROC curve); or, for Regression, `mse`, `rmse` (mean squared error, and its root), `mae`
    /// (mean absolute error) or `r2` (coefficient of determination); or, for LanguageModeling, `perplexity`.
    #[serde(default = "default_stop_metric")]
    #[schemars(regex(
        pattern = "^validation/(loss|accuracy|precision|recall|f1|roc_auc|mse|rmse|mae|r2|perplexity)$"
    ))]
    pub metric: String,
    /// Evaluations to wait for a better value: there is one at the end of each epoch, and those of `evaluation`.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub patience: u32,
    /// By how much a value must be better to count as better.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub min_delta: f64,
    /// Whether the model of the best evaluation is published instead of the last one.
    #[serde(default = "default_true")]
    pub restore_best: bool,
}

fn default_stop_metric() -> String {
    "validation/loss".into()
}

const fn default_true() -> bool {
    true
}

/// How often the state of the training is saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(has(self.every) && has(self.everySteps))",
    "message": "set every or everySteps, not both",
}]))]
pub struct Checkpoint {
    /// Time between two checkpoints. The default is 30s, unless `everySteps` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "duration(self) > duration('0s')", "message": "must be longer than 0s"}]))]
    pub every: Option<Duration>,
    /// Steps between two checkpoints, instead of `every`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub every_steps: Option<u64>,
    /// How many checkpoints are kept; older ones are deleted.
    #[schemars(range(min = 1, max = 100))]
    pub keep_last: u32,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { every: None, every_steps: None, keep_last: 3 }
    }
}

/// When a checkpoint is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    /// After so much time.
    Time(std::time::Duration),
    /// After so many steps.
    Steps(u64),
}

impl Checkpoint {
    /// When a checkpoint is due: `everySteps` if set, else `every`, else 30 seconds.
    pub fn interval(&self) -> Interval {
        match (self.every_steps, self.every) {
            (Some(steps), _) => Interval::Steps(steps),
            (None, every) => Interval::Time(every.unwrap_or(Duration::from_secs(30)).0),
        }
    }
}
