//! `spec.train` and `spec.checkpoint`: loss, optimizer, schedule, length, and how often the state is saved.

mod optimizer;
mod schedule;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    optimizer::{Adafactor, Adam, AdamW, Lion, Muon, MuonRate, Optimizer, Sgd, WeightDecayOn},
    schedule::{Constant, Cosine, DecayShape, Exponential, Linear, Schedule, StepDecay, WarmupStableDecay},
};
use super::{
    Task,
    evaluation::{Evaluation, Samples},
};
use crate::{duration::Duration, metric};

/// How the model is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Train", extend("x-kubernetes-validations" = [
    {
        "rule": "!(has(self.epochs) && has(self.steps))",
        "message": "set epochs or steps, not both",
    },
    {
        "rule": "!has(self.microBatchSize) || self.microBatchSize <= self.batchSize",
        "message": "microBatchSize must not be greater than batchSize: it is the part of a batch that is computed at once",
    },
]))]
pub struct Train<L = Option<Loss>> {
    /// What the training minimizes. The default is `MSE` for Regression and `CrossEntropy` for Classification and
    /// LanguageModeling.
    pub loss: L,
    /// How the weights follow the gradient. The default is `adamW`.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// Which weights the optimizer's `weightDecay` makes smaller. The default is `All` for Regression and Classification,
    /// and `Matrices` for LanguageModeling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay_on: Option<WeightDecayOn>,
    /// How the learning rate changes over the run. The default is `constant`.
    #[serde(default)]
    pub schedule: Schedule,
    /// Rows per optimizer step; of LanguageModeling, sequences of the model's context.
    #[serde(default = "default_batch_size")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub batch_size: u32,
    /// How many of a batch's rows or sequences are computed at once (gradient accumulation): fewer need less memory, and
    /// the step is that of the whole batch all the same. The default is all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub micro_batch_size: Option<u32>,
    /// How many times the training split is gone through. The default is 10, unless `steps` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub epochs: Option<u32>,
    /// How many optimizer steps are taken, instead of `epochs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub steps: Option<u64>,
    /// The number formats of the weights and of the computation.
    #[serde(default)]
    pub precision: Precision,
    /// Whether a transformer keeps only what goes into each of its blocks, and computes the blocks again in the backward pass:
    /// about a third more computation, and far less memory. The gradients are the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub activation_checkpointing: bool,
    /// Scales the gradients down where their global norm is larger than `norm`. Not done if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_clip: Option<GradientClip>,
    /// Keeps an exponential moving average of the weights: validation, early stopping and the published model take the
    /// averaged weights, and the training goes on with the others. Not done if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<Ema>,
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
            weight_decay_on: None,
            schedule: Schedule::default(),
            batch_size: default_batch_size(),
            micro_batch_size: None,
            epochs: None,
            steps: None,
            precision: Precision::default(),
            activation_checkpointing: false,
            gradient_clip: None,
            ema: None,
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

    /// How many samples are computed at once: `microBatchSize` if set, else the whole batch.
    pub fn micro_batch_size(&self) -> u32 {
        self.micro_batch_size.unwrap_or(self.batch_size)
    }

    /// Which weights decay: as PyTorch's optimizers do by themselves, all of a table's model; of a language model, as is
    /// usual since GPT-2, neither biases nor the gains of normalizations.
    pub fn weight_decay_on(&self, task: Task) -> WeightDecayOn {
        self.weight_decay_on.unwrap_or(match task {
            Task::Regression | Task::Classification => WeightDecayOn::All,
            Task::LanguageModeling => WeightDecayOn::Matrices,
        })
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
    pub const fn fits(self, task: Task) -> bool {
        use Task::{Classification, LanguageModeling, Regression};
        match self {
            Self::MSE | Self::MAE | Self::Huber => matches!(task, Regression),
            Self::CrossEntropy => matches!(task, Classification | LanguageModeling),
            Self::BinaryCrossEntropy => matches!(task, Classification),
        }
    }
}

/// The number formats of the weights and of the computation. Whatever it is, losses, normalizations, the exponentials of
/// attention and the optimizer's state are 32-bit floats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Precision {
    /// 32-bit floating point throughout.
    #[default]
    F32,
    /// 16-bit brain floating point throughout; the model is published in it. A step that changes a weight by less than
    /// 1/512 of it is lost: take `Mixed` where memory allows it.
    BF16,
    /// Computes in `BF16` with a copy of the weights, which are kept, changed and published in 32-bit floating point. On a
    /// device that does not compute in `BF16` it is `F16`.
    Mixed,
    /// As `Mixed`, but computes in 16-bit floating point, for a device that does not compute in `BF16`. So that small
    /// gradients do not vanish, the loss is scaled up: twice as far after 2000 steps that went well, half as far after one
    /// whose gradients overflow, which is skipped.
    F16,
}

/// Scales gradients down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GradientClip {
    /// The largest norm of all gradients together.
    #[schemars(range(min = 0.0), extend("exclusiveMinimum" = true))]
    pub norm: f64,
}

/// An exponential moving average of the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Ema {
    /// The share of the average that each step keeps. In the first steps it is less, (1 + step)/(10 + step), so that the
    /// first weights are soon forgotten.
    #[schemars(range(min = 0.0, max = 1.0), extend("exclusiveMaximum" = true))]
    pub decay: f64,
}

impl Default for Ema {
    fn default() -> Self {
        Self { decay: 0.999 }
    }
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

/// What is said where a metric does not fit the task.
pub(crate) const EARLY_STOPPING_METRICS: &str = "does not fit the task: accuracy, precision, recall, f1 and roc_auc are for Classification, mse, rmse, mae and r2 for Regression, perplexity for LanguageModeling, and loss for all";

impl EarlyStopping {
    /// Whether there is such a metric for a task.
    pub fn fits(&self, task: Task) -> bool {
        Self::metrics(task).iter().any(|name| self.metric.strip_prefix("validation/") == Some(*name))
    }

    /// The metrics that can be watched for a task.
    pub(crate) const fn metrics(task: Task) -> &'static [&'static str] {
        use metric::{ACCURACY, F1, LOSS, MAE, MSE, PERPLEXITY, PRECISION, R2, RECALL, RMSE, ROC_AUC};
        match task {
            Task::Regression => &[LOSS, MSE, RMSE, MAE, R2],
            Task::Classification => &[LOSS, ACCURACY, PRECISION, RECALL, F1, ROC_AUC],
            Task::LanguageModeling => &[LOSS, PERPLEXITY],
        }
    }
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
    /// How many checkpoints are kept; older ones are deleted, but for the last one from before the loss began to grow.
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
