//! Weights as safetensors: of an MLP named and laid out as PyTorch's `nn.Linear`, of a transformer as Hugging Face's.

mod files;
mod mlp;

use std::{borrow::Cow, collections::HashMap};

use burn::tensor::{DType, FloatDType, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors, View, tensor::TensorView};

pub(super) use self::files::WeightFiles;
use super::{ModelError, Network};

/// A tensor on its way to a file: floats on the host, of 32 bits or brain floats of 16.
pub(crate) struct HostTensor(pub(crate) TensorData);

impl View for &HostTensor {
    fn dtype(&self) -> Dtype {
        if self.0.dtype() == DType::BF16 { Dtype::BF16 } else { Dtype::F32 }
    }

    fn shape(&self) -> &[usize] {
        self.0.shape().as_slice()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // Safetensors are little-endian, as every platform that this is built for.
        Cow::Borrowed(self.0.as_bytes())
    }

    fn data_len(&self) -> usize {
        self.0.as_bytes().len()
    }
}

/// Tensors by name, in the order of the module.
pub(crate) type HostTensors = Vec<(String, HostTensor)>;

/// The bytes of a safetensors file: the same tensors give the same bytes.
pub(crate) fn serialize(tensors: &HostTensors) -> Result<Vec<u8>, ModelError> {
    serialize_with(tensors, None)
}

fn serialize_with(tensors: &HostTensors, notes: Option<HashMap<String, String>>) -> Result<Vec<u8>, ModelError> {
    safetensors::serialize(tensors.iter().map(|(name, tensor)| (name, tensor)), notes).map_err(ModelError::Weights)
}

/// The name of a tensor that holds NaN or an infinity, if any does.
pub(crate) fn first_not_finite(tensors: &HostTensors) -> Option<&str> {
    let is_finite = |tensor: &HostTensor| tensor.0.iter::<f32>().all(f32::is_finite);
    tensors.iter().find(|(_, tensor)| !is_finite(tensor)).map(|(name, _)| name.as_str())
}

/// The weights as a safetensors file, adapters added to them: the same weights give the same bytes.
///
/// # Errors
/// If the device fails.
pub fn to_safetensors(model: &Network) -> Result<Vec<u8>, ModelError> {
    match model {
        Network::Mlp(mlp) => serialize(&mlp.to_host()?),
        Network::Transformer(transformer) => serialize_for_torch(&transformer.to_host()?),
    }
}

/// The bytes of a safetensors file that Hugging Face's libraries load.
pub(super) fn serialize_for_torch(tensors: &HostTensors) -> Result<Vec<u8>, ModelError> {
    // They load no file that does not say this.
    serialize_with(tensors, Some(HashMap::from([("format".to_owned(), "pt".to_owned())])))
}

/// The weights, on the host, adapters added to them.
pub(super) fn to_host(model: &Network) -> Result<HostTensors, ModelError> {
    match model {
        Network::Mlp(mlp) => mlp.to_host(),
        Network::Transformer(transformer) => transformer.to_host(),
    }
}

/// A tensor's numbers, on the host.
pub(super) fn fetch<const D: usize>(tensor: Tensor<D>) -> Result<HostTensor, ModelError> {
    let is_brain = tensor.dtype() == DType::BF16;
    let tensor = if is_brain { tensor } else { tensor.cast(FloatDType::F32) };
    Ok(HostTensor(tensor.try_into_data().map_err(ModelError::Execution)?))
}

/// Whether the file holds a tensor of that name, 32-bit floats of that shape.
pub(crate) fn check(file: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<(), ModelError> {
    let expected = format!("F32 {shape:?}");
    match file.tensor(name) {
        Ok(view) if view.dtype() == Dtype::F32 && view.shape() == shape => Ok(()),
        Ok(view) => Err(mismatch(name, expected, described(&view))),
        Err(_) => Err(mismatch(name, expected, "missing".into())),
    }
}

/// There is a tensor that the model does not have.
pub(super) fn unexpected(name: &str) -> ModelError {
    mismatch(name, "absent".into(), "there".into())
}

fn described(view: &TensorView<'_>) -> String {
    format!("{} {:?}", view.dtype(), view.shape())
}

fn mismatch(tensor: &str, expected: String, found: String) -> ModelError {
    ModelError::Mismatch { tensor: tensor.into(), expected, found }
}

/// The numbers of an F32 tensor, row-major.
pub(crate) fn values(view: &TensorView<'_>) -> Vec<f32> {
    view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}
