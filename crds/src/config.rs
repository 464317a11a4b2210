//! `TrainConfig`: everything that a run needs, complete and resolved.

use serde::{Deserialize, Serialize};

use crate::training::{
    Data, Model, ModelTrainingSpec, Resources, Storage, Task, Train,
    data::Format,
    model::{InvalidTransformer, TransformerConfig},
    optimize::{Checkpoint, Length, Loss},
};

/// The key of the run's ConfigMap, and the name of the file that the trainer reads.
pub const CONFIG_FILE: &str = "config.json";
/// Where the run's ConfigMap is mounted.
pub const CONFIG_DIR: &str = "/etc/stoker/config";
/// Where the scratch volume is mounted.
pub const SCRATCH_DIR: &str = "/scratch";
/// Where the trainer writes its [`crate::RunReport`].
pub const TERMINATION_MESSAGE_PATH: &str = "/dev/termination-log";

/// Which run of which training it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunIdentity {
    /// Namespace of the training.
    pub namespace: String,
    /// Name of the training.
    pub training: String,
    /// UID of the training: a deleted and newly created one of the same name is another.
    pub uid: String,
    /// The run's number, from 1.
    pub number: u32,
}

impl RunIdentity {
    /// The run's name in storage and in reports: its number and the start of the training's UID.
    pub fn id(&self) -> String {
        let uid: String = self.uid.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
        format!("{}-{uid}", self.number)
    }
}

/// Everything that a run needs. Nothing is left to the trainer to default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrainConfig {
    /// Which run it is.
    pub run: RunIdentity,
    /// What is learned.
    pub task: Task,
    /// The data.
    pub data: Data<Format>,
    /// The model.
    pub model: Model<TransformerConfig>,
    /// How it is trained.
    pub train: Train<Loss>,
    /// How often the state is saved.
    pub checkpoint: Checkpoint,
    /// Where checkpoints and models are written.
    pub storage: Storage,
    /// What the pod gets.
    pub resources: Resources,
}

/// Why a spec gives no [`TrainConfig`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Neither the spec nor the operator says where to write.
    #[error("spec.storage is not set, and the operator was installed without a default storage: set spec.storage.uri")]
    NoStorage,
    /// The files' format is unknown.
    #[error(
        "spec.data.format is not set, and the extension of '{0}' does not say it: set csv, jsonLines, parquet or text"
    )]
    NoFormat(String),
    /// There is no such transformer.
    #[error("spec.model.transformer: {0}")]
    Transformer(#[from] InvalidTransformer),
}

impl TrainConfig {
    /// The configuration of one run of a spec.
    ///
    /// # Errors
    /// If the storage or the format is neither given nor known by default, or there is no such transformer.
    pub fn resolve(
        spec: &ModelTrainingSpec,
        run: RunIdentity,
        default_storage: Option<&Storage>,
    ) -> Result<Self, ResolveError> {
        let storage = spec.storage.as_ref().or(default_storage).ok_or(ResolveError::NoStorage)?;
        let Data { source, format, csv, features, target, text, cast, clean, transform, split } = spec.data.clone();
        let format =
            format.or_else(|| Format::of_uri(&source.uri)).ok_or_else(|| ResolveError::NoFormat(source.uri.clone()))?;
        Ok(Self {
            run,
            task: spec.task,
            data: Data { source, format, csv, features, target, text, cast, clean, transform, split },
            model: spec.model.resolve()?,
            train: resolve_train(&spec.train, spec.task),
            checkpoint: spec.checkpoint.clone(),
            storage: storage.clone(),
            resources: spec.resources.clone(),
        })
    }
}

fn resolve_train(train: &Train, task: Task) -> Train<Loss> {
    let default_loss = match task {
        Task::Regression => Loss::MSE,
        Task::Classification | Task::LanguageModeling => Loss::CrossEntropy,
    };
    let (epochs, steps) = match train.length() {
        Length::Epochs(epochs) => (Some(epochs), None),
        Length::Steps(steps) => (None, Some(steps)),
    };
    Train {
        loss: train.loss.unwrap_or(default_loss),
        optimizer: train.optimizer.clone(),
        weight_decay_on: Some(train.weight_decay_on(task)),
        schedule: train.schedule.clone(),
        batch_size: train.batch_size,
        micro_batch_size: Some(train.micro_batch_size()),
        epochs,
        steps,
        precision: train.precision,
        activation_checkpointing: train.activation_checkpointing,
        gradient_clip: train.gradient_clip.clone(),
        ema: train.ema.clone(),
        evaluation: train.evaluation.clone(),
        samples: train.samples.clone(),
        early_stopping: train.early_stopping.clone(),
        seed: train.seed,
    }
}
