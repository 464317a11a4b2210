//! What a running trainer answers at `GET /v1/progress`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    artifact::CheckpointRef,
    metric::{Metrics, Split},
};

/// The port on which a trainer pod answers [`PROGRESS_PATH`] and `/metrics`.
pub const PROGRESS_PORT: u16 = 8080;
/// The path of the progress, as JSON.
pub const PROGRESS_PATH: &str = "/v1/progress";
/// The most points that a history holds; it is thinned evenly when it would grow past that.
pub const MAX_HISTORY: usize = 50;
/// The most samples that are kept; older ones make room for newer ones.
pub const MAX_SAMPLES: usize = 8;
/// The most characters of a sample's text.
pub const MAX_SAMPLE_CHARACTERS: usize = 1000;

/// The stage of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Stage {
    /// Reading, cleaning, splitting and converting the data.
    Preparing,
    /// Taking optimizer steps.
    Training,
    /// Computing the final metrics.
    Evaluating,
    /// Writing the model artifact.
    Publishing,
}

/// A running trainer's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Name of the run: [`crate::config::RunIdentity::id`].
    pub run: String,
    /// What it is doing.
    pub stage: Stage,
    /// What the data came to so far.
    #[serde(default)]
    pub data: DataStats,
    /// Epochs that are done.
    pub epoch: u32,
    /// Epochs that the run is to take.
    pub total_epochs: u32,
    /// Optimizer steps that are done.
    pub step: u64,
    /// Optimizer steps that the run is to take.
    pub total_steps: u64,
    /// How fast it is.
    #[serde(flatten)]
    pub throughput: Throughput,
    /// Seconds until training is done at that pace; unknown before the first steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<f64>,
    /// How large the model is and what its training takes, as soon as that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Estimate>,
    /// Latest metrics per split; the training loss is the mean over the steps of the epoch so far.
    #[serde(default)]
    pub metrics: BTreeMap<Split, Metrics>,
    /// How the metrics went: at most [`MAX_HISTORY`] points.
    #[serde(default)]
    pub history: Vec<HistoryPoint>,
    /// What the language model wrote last: at most [`MAX_SAMPLES`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
    /// The last checkpoint that is safely in storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointRef>,
    /// The step of the checkpoint that this pod resumed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed_from: Option<u64>,
    /// What a person should know although the run goes on: broken checkpoints that were skipped, retries of storage.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceInfo>,
    /// Most memory that the process held, in bytes.
    #[serde(default)]
    pub peak_memory_bytes: u64,
}

/// How fast a training is, and what it waits for, over its last seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Throughput {
    /// Training rows per second; of LanguageModeling, sequences.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples_per_second: Option<f64>,
    /// Tokens per second, of LanguageModeling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    /// Floating-point operations per second that the model needs at that speed, in TFLOP/s (10^12): 6 per parameter and row
    /// or token, and for attention 12 · layers · width · context per token (PaLM, Chowdhery et al., 2022, appendix B).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tflops: Option<f64>,
    /// Those operations as a share of what the device can do at most (model FLOPs utilization), 0 to 1, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mfu: Option<f64>,
    /// Share of the time that the training waits for its next batch, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_wait: Option<f64>,
    /// Share of the time that the training stands still for checkpoints, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_stall: Option<f64>,
}

/// How large a model is, and about what its training holds in the device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Estimate {
    /// Numbers that the model has.
    pub parameters: u64,
    /// Bytes of the weights.
    pub weights_bytes: u64,
    /// Bytes of their gradients.
    pub gradients_bytes: u64,
    /// Bytes of the optimizer's state.
    pub optimizer_bytes: u64,
    /// Bytes of what the forward pass of a batch keeps for the backward pass.
    pub activations_bytes: u64,
    /// Bytes of copies: what is learned and the optimizer's state, while a checkpoint of them is written and the steps go on; and
    /// the weights of the best evaluation, where they are to be restored.
    #[serde(default)]
    pub copies_bytes: u64,
}

impl Estimate {
    /// All of it, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        let Self { parameters: _, weights_bytes, gradients_bytes, optimizer_bytes, activations_bytes, copies_bytes } =
            *self;
        let parts = [gradients_bytes, optimizer_bytes, activations_bytes, copies_bytes];
        parts.into_iter().fold(weights_bytes, u64::saturating_add)
    }
}

/// What the data came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DataStats {
    /// Rows read from the source; of LanguageModeling, documents.
    pub rows_read: u64,
    /// Rows dropped, by the rule that dropped them: `duplicates`, `missing`, `require`, `outliers`; of documents also
    /// `length` and `nearDuplicates`.
    pub rows_dropped: BTreeMap<String, u64>,
    /// Rows in the training split; of LanguageModeling, sequences of the model's context.
    pub train: u64,
    /// Rows in the validation split.
    pub validation: u64,
    /// Rows in the test split.
    pub test: u64,
    /// Tokens of all splits together, of LanguageModeling.
    #[serde(skip_serializing_if = "is_zero")]
    pub tokens: u64,
    /// `sha256:…` over the names, sizes and versions of the files read.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fingerprint: String,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The metrics of one evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryPoint {
    /// Epochs that were done.
    pub epoch: u32,
    /// Optimizer steps that were done.
    pub step: u64,
    /// Metrics per split.
    pub metrics: BTreeMap<Split, Metrics>,
}

/// A text that a language model wrote while it was trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// Optimizer steps that were done.
    pub step: u64,
    /// What the text begins with.
    pub prompt: String,
    /// What the model wrote after that; what is longer than 1000 characters ends with `…`.
    pub text: String,
}

/// The device that a run computes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceInfo {
    /// As its maker calls it, or `CPU`.
    pub name: String,
    /// Memory that is in use on it, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Memory that it has, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_memory_bytes: Option<u64>,
    /// Share of the time that it computes, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilization: Option<f64>,
}
