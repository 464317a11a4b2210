//! `status` of a ModelTraining.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    artifact::CheckpointRef,
    condition,
    metric::{Metrics, Split},
    progress::{DataStats, HistoryPoint, Sample, Stage, Throughput},
    report::Reason,
    training::{Storage, model::BaseVersion},
};

/// The most published versions that status lists; older ones stay in storage.
pub const MAX_VERSIONS: usize = 20;

/// What became of a ModelTraining.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = crate::schema::explain_values)]
pub struct ModelTrainingStatus {
    /// The generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What the training is doing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The number of the current or last run, from 1.
    pub run: u32,
    /// Digest of what the run was started with; a spec of another digest starts the next run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<String>,
    /// What the run starts from, where `model.from.training` names a training: the same in all its pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseVersion>,
    /// How far the run is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<TrainingProgress>,
    /// What the data came to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<DataStats>,
    /// How large the model is, and about what its training takes; known before the first step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate: Option<TrainingEstimate>,
    /// Latest metrics per split; final ones when the run has succeeded. While it trains, the training loss is the mean over
    /// the steps of the epoch so far.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<Split, Metrics>,
    /// How the metrics went, thinned to a bounded number of points.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryPoint>,
    /// What the language model wrote last, as `spec.train.samples` asks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
    /// The last checkpoint that is safely in storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<CheckpointRef>,
    /// The latest published model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelVersion>,
    /// Every published version, newest first, bounded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<ModelVersion>,
    /// What the run used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<UsedResources>,
    /// The pod that works on the run, or worked on it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// How many times another pod had to take the run over.
    pub restarts: u32,
    /// When the run's first pod was created, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<String>,
    /// When the run ended, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// What is wrong, or was last wrong with a run that goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<StatusError>,
    /// What a person should know although the run goes on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The same in few words, for `kubectl get`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<TrainingSummary>,
    /// `Ready`, `Reconciling`, `Stalled`, as kstatus reads them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

impl ModelTrainingStatus {
    /// The status that a training is born with, by the default of its definition: it says what is so until its first pod runs.
    pub fn initial() -> Self {
        let (phase, run) = (Phase::Pending, 1);
        let conditions = condition::initial(&format!("{phase:?}"), &phase.describe(run));
        Self { phase: Some(phase), run, conditions, ..Self::default() }
    }
}

/// What a training is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Waiting for its pod to run.
    Pending,
    /// Reading, cleaning, splitting and converting the data.
    Preparing,
    /// Taking optimizer steps.
    Training,
    /// Computing the final metrics.
    Evaluating,
    /// Writing the model artifact.
    Publishing,
    /// The model is published.
    Succeeded,
    /// It ended without a model and will not be tried again.
    Failed,
    /// `spec.suspend` holds it back.
    Suspended,
}

impl Phase {
    /// Whether the run is over.
    pub const fn is_finished(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }

    /// The phase of a run in a sentence.
    pub fn describe(self, run: u32) -> String {
        let what = match self {
            Self::Pending => "waits for its pod to run",
            Self::Preparing => "reads and converts the data",
            Self::Training => "takes optimizer steps",
            Self::Evaluating => "computes the final metrics",
            Self::Publishing => "writes the model",
            Self::Succeeded => "has published its model",
            Self::Failed => "has failed",
            Self::Suspended => "is held back by spec.suspend",
        };
        format!("run {run} {what}")
    }

    /// Whether a pod works on it.
    pub const fn is_running(self) -> bool {
        matches!(self, Self::Preparing | Self::Training | Self::Evaluating | Self::Publishing)
    }
}

impl From<Stage> for Phase {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Preparing => Self::Preparing,
            Stage::Training => Self::Training,
            Stage::Evaluating => Self::Evaluating,
            Stage::Publishing => Self::Publishing,
        }
    }
}

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrainingProgress {
    /// Share of the optimizer steps that are done, 0 to 100.
    pub percent: u32,
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
    /// Time until the training is done, such as `12s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<String>,
    /// The step of the checkpoint that the current pod resumed from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resumed_from: Option<u64>,
}

/// How large a model is, and about what its training holds in the memory of the device, or of the pod where it computes on
/// the CPU. What the program itself takes comes on top.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrainingEstimate {
    /// Numbers that the model has.
    pub parameters: u64,
    /// All memory together, such as `1.5Gi`.
    pub memory: String,
    /// Memory of the weights.
    pub weights: String,
    /// Memory of their gradients.
    pub gradients: String,
    /// Memory of the optimizer's state.
    pub optimizer: String,
    /// Memory of what the forward pass of a batch keeps for the backward pass.
    pub activations: String,
    /// Memory of copies: what is learned and the optimizer's state, while a checkpoint of them is written and the steps go on;
    /// and the weights of the best evaluation, where they are to be restored.
    pub copies: String,
}

/// A published version of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelVersion {
    /// The number of the run that published it.
    pub version: u32,
    /// The folder that holds it.
    pub uri: String,
    /// `sha256:…` of its manifest.
    pub digest: String,
    /// When it was published, RFC 3339.
    pub published_at: String,
    /// Its metrics on the test split, or on validation where there is no test split.
    #[serde(default)]
    pub metrics: Metrics,
    /// The storage that it lies in, as it was when it was published: a later change of `spec.storage` is for later versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<ModelStorage>,
}

/// The storage that a model lies in, and how it is read there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelStorage {
    /// The folder under which everything was written.
    pub uri: String,
    /// The Secret with the credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// The service account that has an identity in the cloud.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// The volume that it lies on, if it lies on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<String>,
}

impl From<Storage> for ModelStorage {
    fn from(storage: Storage) -> Self {
        let Storage { uri, secret_name, service_account_name, persistent_volume_claim } = storage;
        Self { uri, secret_name, service_account_name, persistent_volume_claim }
    }
}

impl From<ModelStorage> for Storage {
    fn from(storage: ModelStorage) -> Self {
        let ModelStorage { uri, secret_name, service_account_name, persistent_volume_claim } = storage;
        Self { uri, secret_name, service_account_name, persistent_volume_claim }
    }
}

/// What a run used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct UsedResources {
    /// What it computed on; empty until its trainer has said so.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub device: String,
    /// GPU-seconds of all its pods that have ended.
    pub gpu_seconds: f64,
    /// When the newest pod was created whose GPU-seconds are counted, RFC 3339. Those of later ones are added when they end,
    /// and those of earlier ones stay counted when the pods are gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counted_until: Option<String>,
    /// Memory that is in use on the GPU, such as `31Gi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_memory: Option<String>,
    /// Most memory that a pod held, such as `1Gi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory: Option<String>,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatusError {
    /// From the closed list of reasons.
    pub reason: Reason,
    /// What happened, where, and what to do next.
    pub message: String,
    /// The exit code of the container, if one ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The pod that it happened in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The last lines of the pod's log, where it ended without a report of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<String>,
}

/// A training in few words, for `kubectl get`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrainingSummary {
    /// Such as `42%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// Such as `21/50`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch: Option<String>,
    /// Such as `0.081`: of the epoch so far while it trains, of the validation split afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<String>,
    /// Such as `accuracy 0.97`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// Such as `12s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta: Option<String>,
}
