//! The architectures, their weights, and what computes them.

mod architecture;
mod device;
mod error;
mod estimate;
mod fine_tune;
mod mlp;
mod network;
mod ops;
mod peak;
pub(crate) mod precision;
mod predictor;
mod role;
mod transformer;
mod weights;

pub use self::{
    architecture::{Architecture, LanguageModel, RowLayers, RowModel},
    device::{DeviceError, choose_device, device_info, is_gpu, total_memory},
    error::ModelError,
    estimate::{Adapted, Workload},
    fine_tune::{StartingModel, WeightBytes},
    mlp::Mlp,
    network::Network,
    peak::{PeakFlops, peak_flops},
    predictor::Predictor,
    transformer::{
        Generation, HuggingFaceError, Transformer, end_of_text, from_hugging_face_config, parameter_count,
        to_hugging_face_config,
    },
    weights::to_safetensors,
};
pub(crate) use self::{
    device::{GENERATOR, says_out_of_memory},
    fine_tune::{learned_weights, merged, to_peft, with_adapters},
    predictor::read,
    role::Role,
    transformer::Recompute,
    weights::{HostTensor, HostTensors, check, first_not_finite, in_pieces, values},
};
