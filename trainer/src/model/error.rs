//! Why there is no model, or no prediction.

use burn::tensor::ExecutionError;
use stoker_crds::{
    Reason,
    training::{model::InvalidTransformer, optimize::Precision},
};

use super::{HuggingFaceError, device::execution_reason};

/// Why there is no model, or no prediction.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A loss for two classes and data with another number.
    #[error(
        "train.loss BinaryCrossEntropy needs a target with exactly 2 classes, and the training split has {0}: \
         use CrossEntropy"
    )]
    NotBinary(usize),
    /// There is nothing to tell apart.
    #[error("the target has fewer than 2 classes in the training split: check data.target and data.clean")]
    OneClass,
    /// A model that is not for the task.
    #[error(
        "the model does not fit the task: LanguageModeling takes model.transformer, Regression and Classification take \
         model.mlp"
    )]
    Task,
    /// A transformer that cannot be.
    #[error("there is no such transformer: {0}; correct model.transformer, or publish the model again")]
    Transformer(#[from] InvalidTransformer),
    /// A vocabulary that cannot be.
    #[error("a transformer predicts one of 1 to {most} tokens, and the tokenizer has {found}: use another tokenizer")]
    Vocabulary {
        /// The most tokens that there may be.
        most: u32,
        /// How many there are.
        found: usize,
    },
    /// A context that is longer than that of the model that is started from.
    #[error(
        "spec.model.from.context is {asked}, and the model that is started from reads {most} tokens: set at most {most}"
    )]
    Context {
        /// The tokens that it reads.
        most: u32,
        /// The tokens that it was to read.
        asked: u32,
    },
    /// An adapter for a layer that the model does not have.
    #[error(
        "spec.model.from.lora.targets: the model that is started from has no linear layer '{target}' in its blocks; it has \
         {layers}"
    )]
    LoraTarget {
        /// What was asked for.
        target: String,
        /// What there is.
        layers: String,
    },
    /// Adapters that `peft` cannot read.
    #[error("spec.model.from.lora.export: Adapter is for models that transformers know; set it to Merged ({0})")]
    Adapter(#[source] Box<HuggingFaceError>),
    /// A model to start from that was not opened.
    #[error("the model to start from was not opened before the training began")]
    NoBase,
    /// A model that is asked for what it does not read.
    #[error(
        "the model is a language model: it reads tokens, and is neither served nor evaluated on rows of features; use a \
         model of a Regression or a Classification"
    )]
    ReadsTokens,
    /// A model that is asked for what it does not read.
    #[error("the model reads rows of features, and not tokens: use a model of a LanguageModeling")]
    ReadsRows,
    /// `config.json` cannot be read.
    #[error("the model's config.json cannot be read: {0}; publish or upload the model again")]
    Config(#[source] serde_json::Error),
    /// `adapter_config.json` cannot be read.
    #[error("the adapters' adapter_config.json cannot be read: {0}; publish them again")]
    AdapterConfig(#[source] serde_json::Error),
    /// A model that others wrote and this cannot compute.
    #[error("the model's config.json describes a model that cannot be computed here: {0}")]
    HuggingFace(#[from] HuggingFaceError),
    /// The weights' file cannot be read.
    #[error("the model's weights are no valid safetensors: {0}; publish or upload the model again")]
    Weights(#[source] safetensors::SafeTensorError),
    /// The index of several files of weights cannot be read.
    #[error(
        "the index of the model's weights, model.safetensors.index.json, cannot be read: {0}; publish or upload the model \
         again"
    )]
    Index(#[source] serde_json::Error),
    /// A file of weights is not what the index says.
    #[error("of the model's weights the file '{file}' {problem}; publish or upload the model again")]
    Shard {
        /// The file's name.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The weights are not those of the architecture.
    #[error("the model's weights do not fit its config.json: tensor '{tensor}' should be {expected} and is {found}")]
    Mismatch {
        /// The tensor's name.
        tensor: String,
        /// Type and shape that the architecture asks for.
        expected: String,
        /// Type and shape in the file, or that there is none.
        found: String,
    },
    /// Rows of another width.
    #[error("{values} numbers are no whole rows of {width}, which the model takes")]
    Width {
        /// Numbers given.
        values: usize,
        /// Numbers per row.
        width: usize,
    },
    /// A device without a number format.
    #[error("{device} does not compute in train.precision {asked:?}: set it to {others}")]
    Precision {
        /// What was asked for.
        asked: Precision,
        /// The device's name.
        device: String,
        /// What the device computes in.
        others: String,
    },
    /// The device failed.
    #[error("the device failed to compute: {0:?}")]
    Execution(#[source] ExecutionError),
}

impl ModelError {
    /// The reason that is reported.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NotBinary(_)
            | Self::OneClass
            | Self::Task
            | Self::Transformer(_)
            | Self::Vocabulary { .. }
            | Self::ReadsTokens
            | Self::ReadsRows
            | Self::HuggingFace(_)
            | Self::Context { .. }
            | Self::LoraTarget { .. }
            | Self::Adapter(_)
            | Self::Precision { .. } => Reason::InvalidConfig,
            Self::Config(_)
            | Self::AdapterConfig(_)
            | Self::Weights(_)
            | Self::Index(_)
            | Self::Shard { .. }
            | Self::Mismatch { .. } => Reason::CorruptArtifact,
            Self::Width { .. } | Self::NoBase => Reason::Internal,
            Self::Execution(error) => execution_reason(error),
        }
    }
}
