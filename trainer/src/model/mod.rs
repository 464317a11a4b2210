//! The architectures, their weights, and what computes them.

mod device;
mod mlp;
mod predictor;
mod weights;

use burn::tensor::{Device, ExecutionError};
use serde::{Deserialize, Serialize};
use stoker_crds::{
    Reason,
    training::{Model, Task, optimize::Loss},
};

pub use self::{
    device::{DeviceError, choose_device, device_info},
    mlp::Mlp,
    predictor::Predictor,
    weights::to_safetensors,
};
pub(crate) use self::{
    predictor::read,
    weights::{HostTensor, HostTensors, check, first_not_finite, serialize, to_host, values},
};

/// All that is needed, besides the weights, to compute a model: the content of `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Architecture {
    /// The layers.
    pub model: Model,
    /// What it predicts.
    pub task: Task,
    /// What it was trained to make small; says how outputs become probabilities.
    pub loss: Loss,
    /// Numbers per row that go in.
    pub input_width: usize,
    /// Numbers per row that come out: one per target or class, one for [`Loss::BinaryCrossEntropy`].
    pub output_width: usize,
}

impl Architecture {
    /// The architecture for data of that many inputs and targets (or classes).
    ///
    /// # Errors
    /// If the loss does not fit the number of classes.
    pub fn new(model: Model, task: Task, loss: Loss, inputs: usize, targets: usize) -> Result<Self, ModelError> {
        match (task, loss) {
            (Task::Classification, Loss::BinaryCrossEntropy) if targets != 2 => Err(ModelError::NotBinary(targets)),
            (Task::Classification, _) if targets < 2 => Err(ModelError::OneClass),
            (Task::Classification, Loss::BinaryCrossEntropy) => {
                Ok(Self { model, task, loss, input_width: inputs, output_width: 1 })
            }
            _ => Ok(Self { model, task, loss, input_width: inputs, output_width: targets }),
        }
    }

    /// A model with random weights, decided by the seed.
    pub fn init(&self, seed: u64, device: &Device) -> Mlp {
        let Model::Mlp(spec) = &self.model;
        Mlp::init(spec, self.input_width, self.output_width, seed, device)
    }

    /// Numbers per row of a prediction: one per class (two for [`Loss::BinaryCrossEntropy`]) or target.
    pub fn prediction_width(&self) -> usize {
        if self.loss == Loss::BinaryCrossEntropy { 2 } else { self.output_width }
    }
}

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
    /// `config.json` cannot be read.
    #[error("the model's config.json cannot be read: {0}; publish the model again")]
    Config(#[source] serde_json::Error),
    /// The weights' file cannot be read.
    #[error("the model's weights are no valid safetensors: {0}; publish the model again")]
    Weights(#[source] safetensors::SafeTensorError),
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
    /// The device failed.
    #[error("the device failed to compute: {0:?}")]
    Execution(#[source] ExecutionError),
}

impl ModelError {
    /// The reason that is reported.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NotBinary(_) | Self::OneClass => Reason::InvalidConfig,
            Self::Config(_) | Self::Weights(_) | Self::Mismatch { .. } => Reason::CorruptArtifact,
            Self::Width { .. } => Reason::Internal,
            Self::Execution(error) => device::execution_reason(error),
        }
    }
}
