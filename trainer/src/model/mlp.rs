//! The multi-layer perceptron.

use burn::{
    module::{Module, Param},
    nn::{Dropout, DropoutConfig, Linear},
    tensor::{Device, FloatDType, Tensor, TensorData, activation},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use stoker_crds::training::model::{Activation, Mlp as MlpSpec};

use super::ops;

/// Slope of [`Activation::LeakyReLU`] where its input is negative; PyTorch's default.
const LEAKY_SLOPE: f64 = 0.01;

/// Fully connected layers with an activation and dropout between them.
#[derive(Module, Debug)]
pub struct Mlp {
    pub(super) layers: Vec<Linear>,
    dropout: Dropout,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    /// A model whose weights and biases are drawn from U(-k, k), k = 1/√(width of the layer's input): PyTorch's
    /// default for `nn.Linear`.
    ///
    /// They are drawn on the host by a generator of their own, so that the same seed gives the same model on every
    /// device, whatever else draws random numbers in the process.
    pub(super) fn init(spec: &MlpSpec, input: usize, output: usize, seed: u64, device: &Device) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let layers = layer_widths(spec, input, output).map(|[input, output]| {
            let bound = 1.0 / (input as f32).sqrt();
            let mut draw = |n: usize| (0..n).map(|_| rng.random_range(-bound..bound)).collect::<Vec<f32>>();
            linear(draw(input * output), draw(output), [input, output], device)
        });
        Self::of_layers(layers.collect(), spec)
    }

    pub(super) fn of_layers(layers: Vec<Linear>, spec: &MlpSpec) -> Self {
        Self { layers, dropout: DropoutConfig::new(spec.dropout).init(), activation: spec.activation }
    }

    /// `[batch, input]` → `[batch, output]`: the raw outputs, before any softmax or sigmoid, in 32-bit floats. It computes in
    /// the precision of its weights.
    ///
    /// Drops units out only on a device with autodiff ([`Module::train`]).
    pub fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        let Some((last, hidden)) = self.layers.split_last() else { return features };
        let features = features.cast(last.weight.val().dtype());
        let activations =
            hidden.iter().fold(features, |x, layer| ops::dropout(&self.dropout, self.activate(ops::linear(layer, x))));
        ops::linear(last, activations).cast(FloatDType::F32)
    }

    /// Whether it sets units to 0 at random when it is trained.
    pub(super) fn drops_out(&self) -> bool {
        self.dropout.prob > 0.0
    }

    /// What its weights are kept in.
    pub(super) fn dtype(&self) -> FloatDType {
        self.layers.first().map_or(FloatDType::F32, |layer| layer.weight.val().dtype().into())
    }

    fn activate(&self, x: Tensor<2>) -> Tensor<2> {
        match self.activation {
            Activation::Sigmoid => activation::sigmoid(x),
            Activation::Tanh => x.tanh(),
            Activation::ReLU => activation::relu(x),
            Activation::GELU => ops::gelu(x),
            Activation::LeakyReLU => activation::leaky_relu(x, LEAKY_SLOPE),
        }
    }
}

/// The `[input, output]` widths of the layers.
pub(super) fn layer_widths(spec: &MlpSpec, input: usize, output: usize) -> impl Iterator<Item = [usize; 2]> {
    let hidden = || spec.hidden.iter().map(|width| *width as usize);
    let inputs = std::iter::once(input).chain(hidden());
    inputs.zip(hidden().chain([output])).map(|(input, output)| [input, output])
}

/// A layer of `weight` (`[input, output]`, row-major) and `bias` (`[output]`).
pub(super) fn linear(weight: Vec<f32>, bias: Vec<f32>, [input, output]: [usize; 2], device: &Device) -> Linear {
    Linear {
        weight: Param::from_tensor(Tensor::from_data(TensorData::new(weight, [input, output]), device)),
        bias: Some(Param::from_tensor(Tensor::from_data(TensorData::new(bias, [output]), device))),
    }
}
