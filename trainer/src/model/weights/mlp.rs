//! The weights of an MLP, named and laid out as PyTorch's `nn.Linear`: `layers.0.weight` is `[output, input]`.

use burn::tensor::Device;
use stoker_crds::training::model::Mlp as MlpSpec;

use super::{HostTensors, WeightFiles, fetch};
use crate::model::{
    Mlp, ModelError,
    mlp::{layer_widths, linear},
};

impl Mlp {
    /// The weights, on the host.
    pub(super) fn to_host(&self) -> Result<HostTensors, ModelError> {
        let mut tensors = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            tensors.push((weight_name(index), fetch(layer.weight.val().transpose())?));
            if let Some(bias) = &layer.bias {
                tensors.push((bias_name(index), fetch(bias.val())?));
            }
        }
        Ok(tensors)
    }

    /// The model with the weights of files.
    ///
    /// # Errors
    /// If a tensor is missing, is one too many, or has another type or shape: all is compared before memory is asked for.
    pub(in crate::model) fn load(
        spec: &MlpSpec,
        [input, output]: [usize; 2],
        files: &WeightFiles<'_>,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let widths: Vec<_> = layer_widths(spec, input, output).collect();
        for (index, [input, output]) in widths.iter().enumerate() {
            files.check(&weight_name(index), &[*output, *input])?;
            files.check(&bias_name(index), &[*output])?;
        }
        let expected: Vec<String> =
            (0..widths.len()).flat_map(|index| [weight_name(index), bias_name(index)]).collect();
        if let Some(name) = files.names().find(|name| !expected.iter().any(|known| known == name)) {
            return Err(files.unexpected(name));
        }
        let layers = widths.iter().enumerate().map(|(index, [input, output])| {
            let (weight, bias) = (files.floats(&weight_name(index))?, files.floats(&bias_name(index))?);
            Ok(linear(transpose(&weight, *output, *input), bias, [*input, *output], device))
        });
        Ok(Self::of_layers(layers.collect::<Result<_, ModelError>>()?, spec))
    }
}

fn weight_name(layer: usize) -> String {
    format!("layers.{layer}.weight")
}

fn bias_name(layer: usize) -> String {
    format!("layers.{layer}.bias")
}

/// `[rows, columns]` → `[columns, rows]`.
fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}
