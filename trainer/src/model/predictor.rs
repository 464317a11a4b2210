//! A trained model that answers.

use burn::tensor::{Device, Tensor, TensorData, activation};
use stoker_crds::training::{Task, optimize::Loss};

use super::{Architecture, Mlp, ModelError};

/// A model with its weights on a device.
#[derive(Clone, Debug)]
pub struct Predictor {
    architecture: Architecture,
    model: Mlp,
    device: Device,
}

impl Predictor {
    /// Reads `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// If either cannot be read or they do not fit each other; before anything is allocated by what they claim.
    pub fn load(config: &[u8], weights: &[u8], device: &Device) -> Result<Self, ModelError> {
        let architecture: Architecture = serde_json::from_slice(config).map_err(ModelError::Config)?;
        let model = architecture.load(weights, device)?;
        Ok(Self::new(architecture, model, device))
    }

    /// A model that is in memory; without dropout and gradients from here on.
    pub fn new(architecture: Architecture, model: Mlp, device: &Device) -> Self {
        use burn::module::Module;
        Self { architecture, model: model.valid(), device: device.clone().without_autodiff() }
    }

    /// What it computes.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Its layers.
    pub fn model(&self) -> &Mlp {
        &self.model
    }

    /// The predictions for `[rows, input_width]` features, row-major: `[rows, prediction_width]`.
    ///
    /// Classification: the probability of each class. Regression: the targets, transformed as in training.
    ///
    /// # Errors
    /// If the features are no whole rows, or the device fails.
    pub fn predict(&self, features: &[f32]) -> Result<Vec<f32>, ModelError> {
        let width = self.architecture.input_width;
        if !features.len().is_multiple_of(width) {
            return Err(ModelError::Width { values: features.len(), width });
        }
        if features.is_empty() {
            return Ok(Vec::new());
        }
        let data = TensorData::new(features.to_vec(), [features.len() / width, width]);
        let outputs = self.model.forward(Tensor::from_data(data, &self.device));
        read(self.predictions(outputs))
    }

    /// Raw outputs `[rows, output_width]` to predictions `[rows, prediction_width]`.
    pub(crate) fn predictions(&self, outputs: Tensor<2>) -> Tensor<2> {
        match (self.architecture.task, self.architecture.loss) {
            (Task::Regression, _) => outputs,
            (Task::Classification, Loss::BinaryCrossEntropy) => {
                // 1 - σ(x) = σ(-x), without the cancellation.
                Tensor::cat(vec![activation::sigmoid(-outputs.clone()), activation::sigmoid(outputs)], 1)
            }
            (Task::Classification, _) => activation::softmax(outputs, 1),
        }
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
