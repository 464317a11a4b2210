//! The first weights of a transformer.

use std::f32::consts::TAU;

use burn::{
    module::{Param, ParamId},
    nn::Linear,
    tensor::{Device, Shape, Tensor, TensorData},
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The standard deviation of all weights, of embeddings too: that of GPT-2 (Radford et al., 2019), as OpenAI's code and
/// Hugging Face's `initializer_range` have it.
const DEVIATION: f32 = 0.02;

/// Draws parameters, each when it is first used.
///
/// They are drawn on the host, each from a stream of its own, so that the same seed gives the same model on every device,
/// whatever is drawn first; and parameters that are overwritten before they are used are never drawn.
pub(super) struct Initial<'a> {
    seed: u64,
    streams: u64,
    /// What the weights are divided by whose output is added to the sum of all layers' outputs: GPT-2's √N for N such
    /// layers, two in each block.
    residual: f32,
    device: &'a Device,
}

impl<'a> Initial<'a> {
    /// The first weights of a transformer with so many blocks, decided by the seed.
    pub(super) fn new(seed: u64, layers: u32, device: &'a Device) -> Self {
        Self { seed, streams: 0, residual: (2.0 * layers as f32).sqrt(), device }
    }

    /// `[padded rows, columns]`: a vector from N(0, 0.02²) for each row, 0 in the rows of padding.
    pub(super) fn embedding(&mut self, rows: usize, padded: usize, columns: usize) -> Param<Tensor<2>> {
        let draw = self.normal(DEVIATION);
        self.parameter([padded, columns], move || {
            let mut values = draw(rows * columns);
            values.resize(padded * columns, 0.0);
            values
        })
    }

    /// A layer with weights from N(0, 0.02²) and biases of 0.
    pub(super) fn linear(&mut self, shape: [usize; 2], bias: bool) -> Linear {
        self.linear_of(DEVIATION, shape, bias)
    }

    /// A layer whose output is added to the sum of all layers' outputs: weights from N(0, 0.02²/N), biases of 0.
    pub(super) fn residual(&mut self, shape: [usize; 2], bias: bool) -> Linear {
        self.linear_of(DEVIATION / self.residual, shape, bias)
    }

    fn linear_of(&mut self, deviation: f32, [input, output]: [usize; 2], bias: bool) -> Linear {
        let draw = self.normal(deviation);
        Linear {
            weight: self.parameter([input, output], move || draw(input * output)),
            bias: bias.then(|| self.constant(output, 0.0)),
        }
    }

    /// A vector of one number.
    pub(super) fn constant(&self, width: usize, value: f32) -> Param<Tensor<1>> {
        self.parameter([width], move || vec![value; width])
    }

    /// Draws numbers from N(0, deviation²), of the next stream, by Box's and Muller's transform.
    fn normal(&mut self, deviation: f32) -> impl Fn(usize) -> Vec<f32> + Send + Sync + use<> {
        let (seed, stream) = (self.seed, self.streams);
        self.streams += 1;
        move |count| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(stream);
            let mut values = Vec::with_capacity(count + 1);
            while values.len() < count {
                // In (0, 1], of which there is a logarithm.
                let radius = (-2.0 * (1.0 - rng.random::<f32>()).ln()).sqrt() * deviation;
                let (sin, cos) = (TAU * rng.random::<f32>()).sin_cos();
                values.extend([radius * cos, radius * sin]);
            }
            values.truncate(count);
            values
        }
    }

    fn parameter<const D: usize>(
        &self,
        shape: [usize; D],
        values: impl Fn() -> Vec<f32> + Send + Sync + 'static,
    ) -> Param<Tensor<D>> {
        let make = move |device: &Device, is_learned: bool| {
            let tensor = Tensor::<D>::from_data(TensorData::new(values(), shape), device);
            tensor.set_require_grad(is_learned)
        };
        Param::uninitialized(ParamId::new(), make, self.device.clone(), true, Shape::from(shape))
    }
}
