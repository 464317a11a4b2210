//! `spec.model.from`: a language model to start from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    deployment::Version,
    training::storage::{FOLDER_URI, OBJECT_URI, is_in_place},
};

/// A language model to start from, instead of random weights: exactly one of `training`, `artifact` and `huggingFace`.
///
/// Its layers, its vocabulary and, unless `data.text.tokenizer` names another, its tokenizer are taken over. All its weights
/// are trained on, or with `lora` a few that are added.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.training), has(self.artifact), has(self.huggingFace)].filter(x, x).size() == 1",
    "message": "set exactly one of: training, artifact, huggingFace",
}]))]
pub struct FineTune {
    /// What a ModelTraining of the same namespace published. A run waits until it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub training: Option<BaseTraining>,
    /// An artifact that Stoker published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<BaseArtifact>,
    /// A folder as Hugging Face's transformers save a model of GPT-2's or Llama's kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugging_face: Option<HuggingFaceFolder>,
    /// The most tokens that are read at once; at most as many as the model reads. The default is the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub context: Option<u32>,
    /// The share of the embeddings' and of each layer's outputs that is set to 0 at random in each training step. The default
    /// is the model's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0), extend("exclusiveMaximum" = true))]
    pub dropout: Option<f64>,
    /// Leaves the model's weights as they are, and trains a product of two small matrices that is added to each layer's
    /// (low-rank adaptation). All weights are trained if not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
}

/// What a ModelTraining of the same namespace published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BaseTraining {
    /// The ModelTraining's name.
    #[schemars(length(min = 1, max = 50))]
    pub name: String,
    /// `Latest`, which is the newest when the run starts and stays the same in that run, or the number of one.
    #[serde(default)]
    pub version: Version,
}

/// An artifact that Stoker published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": PLACE_RULE, "message": PLACE_MESSAGE}]))]
pub struct BaseArtifact {
    /// The folder that holds the artifact's `manifest.json`.
    #[schemars(length(max = 1024), regex(pattern = OBJECT_URI))]
    pub uri: String,
    /// `sha256:…` of the manifest; any other is refused. Whatever is there is taken if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71), regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
    /// The Secret with the credentials. The default is the Secret of `spec.storage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// The volume that a `file:///base/…` URI lies on; it is mounted at `/base`, read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub persistent_volume_claim: Option<String>,
}

/// A folder with `config.json`, `model.safetensors` or its shards with `model.safetensors.index.json`, and `tokenizer.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [{"rule": PLACE_RULE, "message": PLACE_MESSAGE}]))]
pub struct HuggingFaceFolder {
    /// The folder: `s3://models/gpt2/`, `gs://…`, `az://…`, or `file:///base/…` on a mounted volume.
    #[schemars(length(max = 1024), regex(pattern = FOLDER_URI))]
    pub uri: String,
    /// The Secret with the credentials. The default is the Secret of `spec.storage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// The volume that a `file:///base/…` URI lies on; it is mounted at `/base`, read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub persistent_volume_claim: Option<String>,
}

/// A file lies on a volume of its own, or on that of `spec.storage`.
const PLACE_RULE: &str = "self.uri.startsWith('file://') ? (has(self.persistentVolumeClaim) ? self.uri.startsWith('file:///base/') : self.uri.startsWith('file:///storage/')) : !has(self.persistentVolumeClaim)";
const PLACE_MESSAGE: &str = "a file:// URI lies under file:///base/ with a persistentVolumeClaim, or under file:///storage/ on the volume of spec.storage without one; other URIs take no persistentVolumeClaim";

/// Low-rank adaptation (Hu et al., 2021): to the weights W of a layer, which stay as they are, alpha/rank · A·B is added, of
/// which A has `rank` columns and B has `rank` rows. B begins with 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Lora {
    /// The columns of A and rows of B.
    #[schemars(range(min = 1, max = 1024))]
    pub rank: u32,
    /// What the product is multiplied with, times `rank`.
    #[schemars(range(min = 0.0, max = 65_536.0), extend("exclusiveMinimum" = true))]
    pub alpha: f64,
    /// The layers that are adapted, by the last part of their names in Hugging Face's transformers: `c_attn`, `c_proj`, `c_fc`
    /// of GPT-2, `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`, `down_proj` of Llama. The default is all
    /// linear layers of all blocks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9_]+(\\.[A-Za-z0-9_]+)*$"))
    )]
    pub targets: Vec<String>,
    /// What is published.
    pub export: Export,
}

impl Default for Lora {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, targets: Vec::new(), export: Export::default() }
    }
}

/// What of a model with adapters is published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Export {
    /// The whole model, with the adapters added to its weights.
    #[default]
    Merged,
    /// The adapters alone, as Hugging Face's `peft` reads them, and from which model they are.
    Adapter,
}

/// What a run starts from: where it lies, and what is trained of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BaseModel {
    /// The folder.
    pub uri: String,
    /// How it is written there.
    pub format: BaseFormat,
    /// `sha256:…` of the artifact's manifest, if only that one may be taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The Secret with the credentials; that of the storage, if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// The volume to mount for it, if it lies on one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<String>,
    /// The most tokens that are read at once, if fewer than the model reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<u32>,
    /// The share of outputs that is set to 0 at random, if not the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropout: Option<f64>,
    /// The adapters, if not all weights are trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
}

/// How a model to start from is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BaseFormat {
    /// An artifact that Stoker published.
    Artifact,
    /// A folder of Hugging Face's transformers.
    HuggingFace,
}

/// A published version that a run starts from, and how it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BaseVersion {
    /// The ModelTraining that published it.
    pub training: String,
    /// The number of the run that published it.
    pub version: u32,
    /// The folder that holds it.
    pub uri: String,
    /// `sha256:…` of its manifest.
    pub digest: String,
    /// The Secret with the credentials that it is read with, if not that of `spec.storage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
    /// The volume that it lies on, if it lies on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<String>,
}

/// The one thing that a [`FineTune`] starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseSource<'a> {
    /// What a ModelTraining published.
    Training(&'a BaseTraining),
    /// An artifact.
    Artifact(&'a BaseArtifact),
    /// A folder of Hugging Face's transformers.
    HuggingFace(&'a HuggingFaceFolder),
}

impl FineTune {
    /// What it starts from; `None` where not exactly one thing is named.
    pub fn source(&self) -> Option<BaseSource<'_>> {
        match (&self.training, &self.artifact, &self.hugging_face) {
            (Some(training), None, None) => Some(BaseSource::Training(training)),
            (None, Some(artifact), None) => Some(BaseSource::Artifact(artifact)),
            (None, None, Some(folder)) => Some(BaseSource::HuggingFace(folder)),
            _ => None,
        }
    }

    /// The fields that do not fit each other, each with what is wrong.
    pub(in crate::training) fn problems(&self) -> Vec<(&'static str, &'static str)> {
        let (artifact, folder) = (self.artifact.as_ref(), self.hugging_face.as_ref());
        let rules = [
            (self.source().is_some(), "spec.model.from", "set exactly one of: training, artifact, huggingFace"),
            (
                artifact.is_none_or(|at| is_in_place(&at.uri, at.persistent_volume_claim.as_ref())),
                "spec.model.from.artifact",
                PLACE_MESSAGE,
            ),
            (
                folder.is_none_or(|at| is_in_place(&at.uri, at.persistent_volume_claim.as_ref())),
                "spec.model.from.huggingFace",
                PLACE_MESSAGE,
            ),
        ];
        rules.into_iter().filter(|(holds, ..)| !holds).map(|(_, field, problem)| (field, problem)).collect()
    }
}
