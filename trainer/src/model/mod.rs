//! The architectures, their weights, and what computes them.

mod architecture;
mod device;
mod error;
mod mlp;
mod network;
mod ops;
mod predictor;
mod transformer;
mod weights;

pub use self::{
    architecture::{Architecture, LanguageModel, RowLayers, RowModel},
    device::{DeviceError, choose_device, device_info},
    error::ModelError,
    mlp::Mlp,
    network::Network,
    predictor::Predictor,
    transformer::{
        HuggingFaceError, TrainingMemory, Transformer, from_hugging_face_config, parameter_count,
        to_hugging_face_config, training_memory,
    },
    weights::to_safetensors,
};
pub(crate) use self::{
    predictor::read,
    weights::{HostTensor, HostTensors, check, first_not_finite, serialize, to_host, values},
};
