//! Each fused operation against the composed one, in value and gradients.
//!
//! The composed ones run in double precision on the same inputs, so a difference is the error of the fused one, and a
//! tolerance can be argued from the rounding of `f32`, 6·10⁻⁸ of a number.

mod activation;
mod adam;
mod attention;
mod cross_entropy;
mod dispatch;
mod dropout;
mod linear;
mod norm;
mod rotation;
mod squares;

use std::sync::Mutex;

use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};

/// Held while the device's generator, which is one for the whole process, is seeded and drawn of.
static GENERATOR: Mutex<()> = Mutex::new(());

/// Lists of numbers: those of an output, and those of the gradients of the inputs.
type Outcome = Vec<Vec<f64>>;

fn device() -> Device {
    Device::flex().autodiff()
}

/// Numbers between −`scale` and `scale`, other ones for each seed (Vigna's SplitMix64).
pub(crate) fn numbers(seed: u64, count: usize, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x5851_f42d_4c95_7f2d);
    let mut draw = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| draw() * scale).collect()
}

/// A tensor of the numbers whose gradient is wanted.
fn leaf<const D: usize>(values: &[f32], shape: [usize; D], dtype: DType) -> Tensor<D> {
    constant(values, shape, dtype).require_grad()
}

fn constant<const D: usize>(values: &[f32], shape: [usize; D], dtype: DType) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), (&device(), dtype))
}

/// Backward from an output whose gradients are numbers between −1 and 1.
fn backward<const D: usize>(output: &Tensor<D>) -> Gradients {
    let shape = output.dims();
    let gradient = constant(&numbers(99, shape.iter().product(), 1.0), shape, output.dtype());
    (output.clone() * gradient).sum().backward()
}

fn list<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

fn gradient<const D: usize>(tensor: &Tensor<D>, gradients: &Gradients) -> Vec<f64> {
    list(tensor.grad(gradients).expect("the tensor is a leaf of the graph"))
}

/// Compares each list, by the largest number of the exact one or 1: the inputs are of that size.
fn assert_close(fused: &Outcome, exact: &Outcome, tolerance: f64) {
    assert_eq!(fused.len(), exact.len());
    for (index, (fused, exact)) in fused.iter().zip(exact).enumerate() {
        assert_eq!(fused.len(), exact.len(), "list {index}");
        let scale = exact.iter().fold(1.0, |largest: f64, number| largest.max(number.abs()));
        for (place, (fused, exact)) in fused.iter().zip(exact).enumerate() {
            let error = (fused - exact).abs() / scale;
            assert!(error <= tolerance, "list {index}, number {place}: {fused}, not {exact} (of up to {scale})");
        }
    }
}
