//! The published model.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stoker_crds::{
    TrainConfig,
    artifact::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, METRICS, ModelRef, WEIGHTS},
    metric::{Metrics, Split},
    progress::{HistoryPoint, Sample},
    training::model::{Export, Lora},
};

use super::{ArtifactError, commit, commit::digest_of};
use crate::{
    base::BaseRef,
    model::{Predictor, to_peft, to_safetensors},
    storage::Folder,
    training::{Evaluation, Fitted, config_digest},
};

/// What a published model consists of.
#[derive(Clone, Debug)]
pub struct Publication<'a> {
    /// What was run.
    pub config: &'a TrainConfig,
    /// What came of it.
    pub fitted: &'a Fitted,
    /// The model that was started from, if one was.
    pub base: Option<&'a BaseRef>,
    /// How what is asked becomes what the model reads, name and content: the fitted transforms, or the tokenizer.
    pub input: (&'a str, Bytes),
    /// The token with which what a language model writes is over.
    pub stop_token: Option<u32>,
    /// The final metrics.
    pub evaluations: &'a BTreeMap<Split, Evaluation>,
    /// `sha256:…` of the data.
    pub fingerprint: &'a str,
}

/// The content of a model's `metrics.json`. It holds no time, so that publishing a run again gives the same digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelMetrics {
    /// Final metrics per split.
    pub metrics: BTreeMap<Split, Metrics>,
    /// Rows by true class (outer) and predicted class (inner), per split, for a classification.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub confusion: BTreeMap<Split, Vec<Vec<u64>>>,
    /// How the metrics went while it was trained.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryPoint>,
    /// What a language model wrote last while it was trained.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
    /// Where the model comes from.
    pub lineage: Lineage,
}

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lineage {
    /// Namespace of the training.
    pub namespace: String,
    /// Name of the training.
    pub training: String,
    /// Id of the run.
    pub run: String,
    /// Digest of all in the run's configuration that decides about the weights.
    pub config_digest: String,
    /// Digest of the data.
    pub dataset_fingerprint: String,
    /// The model that was started from, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseRef>,
    /// Version of the trainer.
    pub stoker_version: String,
    /// Epochs that were trained.
    pub epochs: u32,
    /// Optimizer steps that were taken.
    pub steps: u64,
}

/// Writes the model to `<namespace>/<training>/models/<digest>/` under the storage's root.
///
/// # Errors
/// If the storage fails, or a metric is not finite.
pub async fn publish_model(root: &Folder, publication: Publication<'_>) -> Result<ModelRef, ArtifactError> {
    let Publication { config, fitted, base, input: (input_name, input), stop_token, evaluations, fingerprint } =
        publication;
    let metrics = ModelMetrics {
        metrics: evaluations.iter().map(|(split, evaluation)| (*split, evaluation.metrics.clone())).collect(),
        confusion: evaluations
            .iter()
            .filter_map(|(split, evaluation)| Some((*split, evaluation.confusion.clone()?)))
            .collect(),
        history: fitted.history.clone(),
        samples: fitted.samples.clone(),
        lineage: Lineage {
            namespace: config.run.namespace.clone(),
            training: config.run.training.clone(),
            run: config.run.id(),
            config_digest: config_digest(config),
            dataset_fingerprint: fingerprint.to_owned(),
            base: base.cloned(),
            stoker_version: env!("CARGO_PKG_VERSION").to_owned(),
            epochs: fitted.epoch,
            steps: fitted.step,
        },
    };
    let mut files = model_files(&fitted.predictor, adapters_alone(config).zip(base), stop_token)?;
    files.push((input_name.into(), input));
    files.push((METRICS.into(), serde_json::to_vec_pretty(&metrics)?.into()));
    let digest = digest_of(&files)?;
    let name = digest.trim_start_matches("sha256:");
    let folder = root.join(&format!("{}/{}/models/{name}", config.run.namespace, config.run.training));
    let digest = commit(&folder, None, files).await?;
    Ok(ModelRef { uri: folder.uri, digest, published_at: Timestamp::now().to_string() })
}

/// The files that a model is loaded from: all of it, or the adapters alone and of which model they are.
pub(crate) fn model_files(
    predictor: &Predictor,
    adapters: Option<(&Lora, &BaseRef)>,
    stop_token: Option<u32>,
) -> Result<Vec<(String, Bytes)>, ArtifactError> {
    let model = predictor.model();
    Ok(match adapters {
        Some((lora, base)) => {
            let (description, adapters) = to_peft(model, lora, &base.uri)?;
            vec![
                (ADAPTER_CONFIG.into(), serde_json::to_vec_pretty(&description)?.into()),
                (ADAPTER_WEIGHTS.into(), adapters.into()),
            ]
        }
        None => vec![
            (CONFIG.into(), predictor.architecture().to_config(model.dtype(), stop_token)?.into()),
            (WEIGHTS.into(), to_safetensors(model)?.into()),
        ],
    })
}

/// The adapters of a training, if they alone are to be published.
fn adapters_alone(config: &TrainConfig) -> Option<&Lora> {
    config.model.base()?.lora.as_ref().filter(|lora| lora.export == Export::Adapter)
}
