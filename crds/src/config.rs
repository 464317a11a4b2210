//! `TrainConfig`: everything that a run needs, complete and resolved.

use serde::{Deserialize, Serialize};

use crate::training::{
    Data, Model, ModelTrainingSpec, Resources, Storage, Task, Train,
    data::Format,
    model::{BaseFormat, BaseModel, BaseSource, BaseVersion, FineTune, InvalidTransformer, ModelConfig},
    optimize::{Checkpoint, Length, Loss},
    storage::{BASE_MOUNT, STORAGE_MOUNT},
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
    pub model: ModelConfig,
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
    /// Nothing, or more than one thing, is named to start from.
    #[error("spec.model.from: set exactly one of: training, artifact, huggingFace")]
    NoSource,
    /// The version to start from is not known.
    #[error("spec.model.from.training: there is no published version of '{0}' to start from")]
    NoBase(String),
}

impl TrainConfig {
    /// The configuration of one run of a spec; `base` is what its `model.from.training` names.
    ///
    /// # Errors
    /// If the storage or the format is neither given nor known by default, there is no such transformer, or nothing to start
    /// from.
    pub fn resolve(
        spec: &ModelTrainingSpec,
        run: RunIdentity,
        default_storage: Option<&Storage>,
        base: Option<&BaseVersion>,
    ) -> Result<Self, ResolveError> {
        let storage = spec.storage.as_ref().or(default_storage).ok_or(ResolveError::NoStorage)?;
        Ok(Self {
            run,
            task: spec.task,
            data: spec.data.resolve()?,
            model: resolve_model(&spec.model, storage, base)?,
            train: resolve_train(&spec.train, spec.task),
            checkpoint: spec.checkpoint.clone(),
            storage: storage.clone(),
            resources: spec.resources.clone(),
        })
    }
}

impl Data {
    /// The same data with nothing left to default.
    ///
    /// # Errors
    /// If the format is neither given nor known by the URI's extension.
    pub fn resolve(&self) -> Result<Data<Format>, ResolveError> {
        let Self { source, format, csv, features, target, text, cast, clean, transform, split } = self.clone();
        let format =
            format.or_else(|| Format::of_uri(&source.uri)).ok_or_else(|| ResolveError::NoFormat(source.uri.clone()))?;
        Ok(Data { source, format, csv, features, target, text, cast, clean, transform, split })
    }
}

fn resolve_model(model: &Model, storage: &Storage, base: Option<&BaseVersion>) -> Result<ModelConfig, ResolveError> {
    Ok(match model {
        Model::Mlp(mlp) => Model::Mlp(mlp.clone()),
        Model::Transformer(transformer) => Model::Transformer(transformer.resolve()?),
        Model::From(from) => Model::From(resolve_base(from, storage, base)?),
    })
}

fn resolve_base(from: &FineTune, storage: &Storage, base: Option<&BaseVersion>) -> Result<BaseModel, ResolveError> {
    let FineTune { context, dropout, lora, .. } = from.clone();
    let (uri, format, digest, secret_name, persistent_volume_claim) =
        match from.source().ok_or(ResolveError::NoSource)? {
            BaseSource::Artifact(at) => {
                let at = at.clone();
                (at.uri, BaseFormat::Artifact, at.digest, at.secret_name, at.persistent_volume_claim)
            }
            BaseSource::HuggingFace(at) => {
                let at = at.clone();
                (at.uri, BaseFormat::HuggingFace, None, at.secret_name, at.persistent_volume_claim)
            }
            BaseSource::Training(training) => {
                let base = base.ok_or_else(|| ResolveError::NoBase(training.name.clone()))?.clone();
                let (uri, claim) = place(base.uri, base.persistent_volume_claim, storage);
                (uri, BaseFormat::Artifact, Some(base.digest), base.secret_name, claim)
            }
        };
    Ok(BaseModel { uri, format, digest, secret_name, persistent_volume_claim, context, dropout, lora })
}

/// Where a pod with this storage sees what lies in another storage: the volume of that one takes a place of its own, unless
/// it is the same.
fn place(uri: String, claim: Option<String>, storage: &Storage) -> (String, Option<String>) {
    let claim = claim.filter(|claim| storage.persistent_volume_claim.as_ref() != Some(claim));
    match (uri.strip_prefix(&format!("file://{STORAGE_MOUNT}/")), &claim) {
        (Some(path), Some(_)) => (format!("file://{BASE_MOUNT}/{path}"), claim),
        _ => (uri, claim),
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What a run starts from whose storage is that and whose model is started from that, where a training has published
    /// `base`.
    fn started(storage: Value, from: Value, base: Option<BaseVersion>) -> Result<BaseModel, ResolveError> {
        let spec: ModelTrainingSpec = serde_json::from_value(json!({
            "task": "LanguageModeling",
            "data": {"source": {"uri": "s3://datasets/letters.txt"}},
            "model": {"from": from},
            "storage": storage,
        }))
        .unwrap();
        let run = RunIdentity { namespace: "team".into(), training: "letters".into(), uid: "1".into(), number: 1 };
        match TrainConfig::resolve(&spec, run, None, base.as_ref())?.model {
            Model::From(base) => Ok(base),
            Model::Mlp(_) | Model::Transformer(_) => panic!("a model to start from"),
        }
    }

    fn published(uri: &str, claim: Option<&str>) -> Option<BaseVersion> {
        Some(BaseVersion {
            training: "stories".into(),
            version: 3,
            uri: uri.into(),
            digest: "sha256:03".into(),
            secret_name: Some("stories".into()),
            persistent_volume_claim: claim.map(Into::into),
        })
    }

    #[test]
    fn what_a_training_published_is_an_artifact_of_that_digest_read_with_its_own_secret() {
        let from = || json!({"training": {"name": "stories"}, "context": 64, "lora": {"rank": 4}});
        let base = started(json!({"uri": "s3://models"}), from(), published("s3://bases/m", None)).unwrap();
        assert_eq!((base.uri.as_str(), base.format), ("s3://bases/m", BaseFormat::Artifact));
        assert_eq!((base.digest.as_deref(), base.secret_name.as_deref()), (Some("sha256:03"), Some("stories")));
        let lora = base.lora.unwrap();
        assert_eq!((base.context, lora.rank, lora.alpha, lora.targets.len()), (Some(64), 4, 16.0, 0));
        let missing = started(json!({"uri": "s3://models"}), from(), None).unwrap_err();
        assert_eq!(missing, ResolveError::NoBase("stories".into()));
    }

    #[test]
    fn a_model_on_the_volume_of_another_storage_is_seen_beside_the_own_one() {
        let from = || json!({"training": {"name": "stories"}});
        let on = |claim: &str| {
            let storage = json!({"uri": "file:///storage/models", "persistentVolumeClaim": "mine"});
            let base = started(storage, from(), published("file:///storage/m/1", Some(claim))).unwrap();
            (base.uri, base.persistent_volume_claim)
        };
        assert_eq!(on("mine"), ("file:///storage/m/1".into(), None));
        assert_eq!(on("another"), ("file:///base/m/1".into(), Some("another".into())));
    }
}
