//! `spec.model`: the architectures.

mod fine_tune;
mod mlp;
mod preset;
mod transformer;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    fine_tune::{
        BaseArtifact, BaseFormat, BaseModel, BaseSource, BaseTraining, BaseVersion, Export, FineTune,
        HuggingFaceFolder, Lora,
    },
    mlp::{Activation, Mlp},
    preset::Preset,
    transformer::{
        InvalidTransformer, Normalization, PositionEncoding, Positions, RopeScaling, Rotary, Transformer,
        TransformerActivation, TransformerConfig,
    },
};

/// What is said where a model does not fit the task.
pub(crate) const FOR_TASK: &str = "LanguageModeling takes a transformer, or from; Regression and Classification take an mlp, which cannot be started from another one";

/// The model to train: exactly one architecture, or a language model to start from.
///
/// With [`Transformer`] and [`FineTune`] it is what a user writes, as [`ModelConfig`] what a run is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Model", transform = crate::schema::one_of)]
pub enum Model<T = Transformer, F = FineTune> {
    /// A multi-layer perceptron: fully connected layers with an activation between them. Its input and output widths
    /// follow from the data.
    Mlp(Mlp),
    /// A decoder transformer: a language model that reads tokens and predicts the next one. The size of its vocabulary
    /// follows from the tokenizer.
    Transformer(T),
    /// A language model that was trained before, to be trained on: with all its weights, or with adapters (LoRA). An mlp
    /// cannot be started from another one.
    From(F),
}

impl<T, F> Model<T, F> {
    /// What is started from, if the model was trained before.
    pub fn base(&self) -> Option<&F> {
        match self {
            Self::From(base) => Some(base),
            Self::Mlp(_) | Self::Transformer(_) => None,
        }
    }
}

/// The model of a run, with nothing left to default.
pub type ModelConfig = Model<TransformerConfig, BaseModel>;
