//! A trained model that answers.

use burn::{
    module::Module,
    tensor::{Device, FloatDType, Tensor, TensorData},
};

use super::{Architecture, Mlp, ModelError, Network, RowModel, precision::cast};

/// A model with its weights on a device.
#[derive(Clone, Debug)]
pub struct Predictor {
    architecture: Architecture,
    model: Network,
    /// What it is evaluated in.
    dtype: FloatDType,
    device: Device,
}

impl Predictor {
    /// Reads `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// If either cannot be read or they do not fit each other; before anything is allocated by what they claim.
    pub fn load(config: &[u8], weights: &[u8], device: &Device) -> Result<Self, ModelError> {
        let architecture = Architecture::parse(config)?;
        let model = architecture.load(weights, device)?;
        Ok(Self::new(architecture, model, device))
    }

    /// A model that is in memory; without dropout and gradients from here on.
    pub fn new(architecture: Architecture, model: Network, device: &Device) -> Self {
        let (model, device) = (model.valid(), device.clone().without_autodiff());
        Self { architecture, dtype: model.dtype(), model, device }
    }

    /// The same one, to be evaluated in another precision than that of its weights.
    pub(crate) fn evaluated_in(self, dtype: FloatDType) -> Self {
        Self { dtype, ..self }
    }

    /// What it computes.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Its layers.
    pub fn model(&self) -> &Network {
        &self.model
    }

    /// Its layers, in the precision that it is evaluated in.
    pub(crate) fn to_evaluate(&self) -> Network {
        cast(self.model.clone(), self.dtype)
    }

    /// What it computes, and its layers, if it reads rows of numbers.
    ///
    /// # Errors
    /// If it reads tokens.
    pub fn rows(&self) -> Result<(&RowModel, &Mlp), ModelError> {
        Ok((self.architecture.rows()?, self.model.mlp()?))
    }

    /// The predictions for `[rows, input_width]` features, row-major: `[rows, prediction_width]`.
    ///
    /// Classification: the probability of each class. Regression: the targets, transformed as in training.
    ///
    /// # Errors
    /// If it reads tokens, the features are no whole rows, or the device fails.
    pub fn predict(&self, features: &[f32]) -> Result<Vec<f32>, ModelError> {
        let (architecture, model) = self.rows()?;
        let width = architecture.input_width;
        if !features.len().is_multiple_of(width) {
            return Err(ModelError::Width { values: features.len(), width });
        }
        if features.is_empty() {
            return Ok(Vec::new());
        }
        let data = TensorData::new(features.to_vec(), [features.len() / width, width]);
        let outputs = model.forward(Tensor::from_data(data, &self.device));
        read(architecture.predictions(outputs))
    }

    /// The device that it computes on.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

/// A tensor's numbers, row-major.
pub(crate) fn read<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, ModelError> {
    let data = tensor.try_into_data().map_err(ModelError::Execution)?;
    Ok(data.iter::<f32>().collect())
}
