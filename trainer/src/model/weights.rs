//! Weights as safetensors, named and laid out as PyTorch's `nn.Linear`: `layers.0.weight` is `[output, input]`.

use std::borrow::Cow;

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors, View, tensor::TensorView};
use stoker_crds::training::Model;

use super::{
    Architecture, Mlp, ModelError,
    mlp::{layer_widths, linear},
};

/// A tensor on its way to a file: 32-bit floats on the host.
pub(crate) struct HostTensor(pub(crate) TensorData);

impl View for &HostTensor {
    fn dtype(&self) -> Dtype {
        Dtype::F32
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
    safetensors::serialize(tensors.iter().map(|(name, tensor)| (name, tensor)), None).map_err(ModelError::Weights)
}

/// The name of a tensor that holds NaN or an infinity, if any does.
pub(crate) fn first_not_finite(tensors: &HostTensors) -> Option<&str> {
    let is_finite = |tensor: &HostTensor| tensor.0.iter::<f32>().all(f32::is_finite);
    tensors.iter().find(|(_, tensor)| !is_finite(tensor)).map(|(name, _)| name.as_str())
}

/// The weights as a safetensors file: the same weights give the same bytes.
///
/// # Errors
/// If the device fails.
pub fn to_safetensors(model: &Mlp) -> Result<Vec<u8>, ModelError> {
    serialize(&to_host(model)?)
}

/// The weights, on the host.
pub(crate) fn to_host(model: &Mlp) -> Result<HostTensors, ModelError> {
    let mut tensors = Vec::new();
    for (index, layer) in model.layers.iter().enumerate() {
        tensors.push((weight_name(index), fetch(layer.weight.val().transpose())?));
        if let Some(bias) = &layer.bias {
            tensors.push((bias_name(index), fetch(bias.val())?));
        }
    }
    Ok(tensors)
}

fn fetch<const D: usize>(tensor: Tensor<D>) -> Result<HostTensor, ModelError> {
    Ok(HostTensor(tensor.try_into_data().map_err(ModelError::Execution)?))
}

impl Architecture {
    /// The model with the weights of a safetensors file.
    ///
    /// # Errors
    /// If the file is not valid, or a tensor is missing, is one too many, or has another type or shape. All is compared
    /// before memory is asked for, which is then as much as the file is long.
    pub fn load(&self, weights: &[u8], device: &Device) -> Result<Mlp, ModelError> {
        let file = SafeTensors::deserialize(weights).map_err(ModelError::Weights)?;
        let Model::Mlp(spec) = &self.model;
        let widths: Vec<_> = layer_widths(spec, self.input_width, self.output_width).collect();
        for (index, [input, output]) in widths.iter().enumerate() {
            check(&file, &weight_name(index), &[*output, *input])?;
            check(&file, &bias_name(index), &[*output])?;
        }
        let expected: Vec<String> =
            (0..widths.len()).flat_map(|index| [weight_name(index), bias_name(index)]).collect();
        if let Some(name) = file.names().into_iter().find(|name| !expected.iter().any(|known| known == name)) {
            return Err(mismatch(name, "absent".into(), "there".into()));
        }
        let layers = widths.iter().enumerate().map(|(index, [input, output])| {
            let weight = values(&view(&file, &weight_name(index))?);
            let bias = values(&view(&file, &bias_name(index))?);
            Ok(linear(transpose(&weight, *output, *input), bias, [*input, *output], device))
        });
        Ok(Mlp::of_layers(layers.collect::<Result<_, ModelError>>()?, spec))
    }
}

fn weight_name(layer: usize) -> String {
    format!("layers.{layer}.weight")
}

fn bias_name(layer: usize) -> String {
    format!("layers.{layer}.bias")
}

fn view<'a>(file: &SafeTensors<'a>, name: &str) -> Result<TensorView<'a>, ModelError> {
    file.tensor(name).map_err(ModelError::Weights)
}

/// Whether the file holds a tensor of that name, 32-bit floats of that shape.
pub(crate) fn check(file: &SafeTensors<'_>, name: &str, shape: &[usize]) -> Result<(), ModelError> {
    let expected = format!("F32 {shape:?}");
    match file.tensor(name) {
        Ok(view) if view.dtype() == Dtype::F32 && view.shape() == shape => Ok(()),
        Ok(view) => Err(mismatch(name, expected, format!("{} {:?}", view.dtype(), view.shape()))),
        Err(_) => Err(mismatch(name, expected, "missing".into())),
    }
}

fn mismatch(tensor: &str, expected: String, found: String) -> ModelError {
    ModelError::Mismatch { tensor: tensor.into(), expected, found }
}

/// The numbers of an F32 tensor, row-major.
pub(crate) fn values(view: &TensorView<'_>) -> Vec<f32> {
    view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// `[rows, columns]` → `[columns, rows]`.
fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}
