//! `ModelTraining`: from raw data to a published model.
#![cfg_attr(
    feature = "kinds",
    expect(
        clippy::duplicated_attributes,
        reason = "each printer column of the derive has attributes of the same names"
    )
)]

pub mod data;
pub mod evaluation;
pub mod model;
pub mod optimize;
pub mod pod;
#[cfg(feature = "kinds")]
pub mod status;
pub mod storage;
pub mod text;
pub mod validate;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    data::Data,
    evaluation::{Evaluation, Samples},
    model::Model,
    optimize::Train,
    pod::{Cache, Resources, Scheduling},
    storage::Storage,
    text::Text,
};
use crate::duration::Duration;

/// The longest name of a ModelTraining: its Jobs and pods carry it with a suffix.
pub const MAX_NAME: usize = 50;

/// A training: what to learn from which data, with which model, and where the result goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(transform = crate::schema::explain_values)]
#[cfg_attr(feature = "kinds", derive(kube::CustomResource))]
#[cfg_attr(
    feature = "kinds",
    kube(
        group = "stoker.dev",
        version = "v1alpha1",
        kind = "ModelTraining",
        plural = "modeltrainings",
        singular = "modeltraining",
        shortname = "mt",
        category = "stoker",
        namespaced,
        status = "status::ModelTrainingStatus",
        derive = "PartialEq",
        selectable = ".spec.task",
        doc = "Trains a model: reads data from object storage, cleans and splits it, trains, writes checkpoints, and publishes the model for a ModelDeployment to serve.",
        printcolumn(
            name = "Phase",
            type_ = "string",
            json_path = ".status.phase",
            description = "What the training is doing"
        ),
        printcolumn(
            name = "Progress",
            type_ = "string",
            json_path = ".status.summary.progress",
            description = "Share of the optimizer steps that are done"
        ),
        printcolumn(
            name = "Epoch",
            type_ = "string",
            json_path = ".status.summary.epoch",
            description = "Epochs done, of all"
        ),
        printcolumn(
            name = "Loss",
            type_ = "string",
            json_path = ".status.summary.loss",
            description = "Latest loss: validation where there is one, else training"
        ),
        printcolumn(
            name = "Metric",
            type_ = "string",
            json_path = ".status.summary.metric",
            description = "The main metric of the task"
        ),
        printcolumn(
            name = "ETA",
            type_ = "string",
            json_path = ".status.summary.eta",
            description = "Time until the training is done"
        ),
        printcolumn(
            name = "Model",
            type_ = "integer",
            json_path = ".status.model.version",
            description = "The latest published version"
        ),
        printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
        printcolumn(
            name = "Reason",
            type_ = "string",
            json_path = ".status.error.reason",
            description = "Why it fails",
            priority = 1
        )
    )
)]
pub struct ModelTrainingSpec {
    /// What is learned.
    pub task: Task,
    /// Where the data lies, which columns are used, and how they are cleaned, converted and split.
    pub data: Data,
    /// The model to train.
    pub model: Model,
    /// How the model is trained: loss, optimizer, schedule, batch size, length.
    #[serde(default)]
    pub train: Train,
    /// How often the state of the training is saved. A restarted pod always resumes from the last valid checkpoint.
    #[serde(default)]
    pub checkpoint: optimize::Checkpoint,
    /// Where checkpoints and models are written. The default is the one that the operator was installed with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// What the trainer pod gets.
    #[serde(default)]
    pub resources: Resources,
    /// On which nodes the trainer pod may run.
    #[serde(default)]
    pub scheduling: Scheduling,
    /// Ends the run's pod after a checkpoint and starts no other until it is false again; the run then resumes.
    #[serde(default)]
    pub suspend: bool,
    /// How many times a run is tried again after a failure that a retry can help. Preemptions and evictions do not
    /// count.
    #[serde(default = "default_retries")]
    #[schemars(range(min = 0, max = 100))]
    pub retries: u32,
    /// How long a run may take, all tries together. It counts from the start again after `suspend`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-validations" = [{"rule": "duration(self) > duration('0s')", "message": "must be longer than 0s"}]))]
    pub deadline: Option<Duration>,
    /// How long a finished ModelTraining is kept before it is deleted; for ever if not set. It is kept longer while a
    /// ModelDeployment names it. What it published stays in storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_after_finished: Option<Duration>,
}

const fn default_retries() -> u32 {
    3
}

/// What is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Task {
    /// To predict one or several numbers per row.
    Regression,
    /// To predict one of several classes per row.
    Classification,
    /// To predict the next token of a text.
    LanguageModeling,
}
