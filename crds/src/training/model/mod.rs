//! `spec.model`: the architectures.

mod mlp;
mod preset;
mod transformer;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    mlp::{Activation, Mlp},
    preset::Preset,
    transformer::{
        InvalidTransformer, Normalization, PositionEncoding, Positions, RopeScaling, Rotary, Transformer,
        TransformerActivation, TransformerConfig,
    },
};

/// The model to train: exactly one architecture.
///
/// With [`Transformer`] it is what a user writes, with [`TransformerConfig`] what a run is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Model", transform = crate::schema::one_of)]
pub enum Model<T = Transformer> {
    /// A multi-layer perceptron: fully connected layers with an activation between them. Its input and output widths
    /// follow from the data.
    Mlp(Mlp),
    /// A decoder transformer: a language model that reads tokens and predicts the next one. The size of its vocabulary
    /// follows from the tokenizer.
    Transformer(T),
}

impl Model {
    /// The same model with nothing left to default.
    ///
    /// # Errors
    /// If there is no such transformer.
    pub fn resolve(&self) -> Result<Model<TransformerConfig>, InvalidTransformer> {
        Ok(match self {
            Self::Mlp(mlp) => Model::Mlp(mlp.clone()),
            Self::Transformer(transformer) => Model::Transformer(transformer.resolve()?),
        })
    }
}
