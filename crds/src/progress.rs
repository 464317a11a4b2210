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
    /// Training rows per second, over the last seconds.
    pub samples_per_second: f64,
    /// Seconds until training is done at that pace; unknown before the first steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<f64>,
    /// Latest metrics per split.
    #[serde(default)]
    pub metrics: BTreeMap<Split, Metrics>,
    /// How the metrics went: at most [`MAX_HISTORY`] points.
    #[serde(default)]
    pub history: Vec<HistoryPoint>,
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

/// The metrics at the end of one epoch.
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

/// The device that a run computes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceInfo {
    /// As its maker calls it, or `CPU`.
    pub name: String,
    /// Memory that is in use on it, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Share of the time that it computes, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilization: Option<f64>,
}
