//! Any of the models.

use burn::{module::Module, tensor::FloatDType};
use stoker_crds::training::model::Mlp as MlpSpec;

use super::{Mlp, ModelError, Transformer};

/// Any of the models, with its weights.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "a process holds a handful of them, and burn has no modules in boxes")]
pub enum Network {
    /// Reads rows of numbers.
    Mlp(Mlp),
    /// Reads tokens.
    Transformer(Transformer),
}

/// A model without weights: what stands in a model's place while it is changed.
impl Default for Network {
    fn default() -> Self {
        Self::Mlp(Mlp::of_layers(Vec::new(), &MlpSpec::default()))
    }
}

impl Network {
    /// What its weights are kept in.
    pub fn dtype(&self) -> FloatDType {
        match self {
            Self::Mlp(mlp) => mlp.dtype(),
            Self::Transformer(transformer) => transformer.dtype(),
        }
    }

    /// Whether it sets units to 0 at random when it is trained.
    pub fn drops_out(&self) -> bool {
        match self {
            Self::Mlp(mlp) => mlp.drops_out(),
            Self::Transformer(transformer) => transformer.drops_out(),
        }
    }

    /// The model, if it reads rows of numbers.
    ///
    /// # Errors
    /// If it reads tokens.
    pub fn mlp(&self) -> Result<&Mlp, ModelError> {
        match self {
            Self::Mlp(mlp) => Ok(mlp),
            Self::Transformer(_) => Err(ModelError::ReadsTokens),
        }
    }

    /// The model, if it reads tokens.
    ///
    /// # Errors
    /// If it reads rows of numbers.
    pub fn transformer(&self) -> Result<&Transformer, ModelError> {
        match self {
            Self::Mlp(_) => Err(ModelError::ReadsRows),
            Self::Transformer(transformer) => Ok(transformer),
        }
    }
}
