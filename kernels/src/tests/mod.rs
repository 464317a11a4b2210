//! Each operation against the one that burn's autodiff composes, in value and gradients.
//!
//! The latter runs in double precision on the same inputs, so a difference is the error of the former, and a tolerance can
//! be argued from the rounding of `f32`, 6·10⁻⁸ of a number. In double precision the composed ones of this crate run too.

mod activation;
mod adam;
mod attention;
mod cross_entropy;
mod dispatch;
mod dropout;
#[cfg(feature = "gpu")]
mod gpu;
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

/// Where tensors are, and what their numbers are.
#[derive(Clone, Copy, Debug)]
enum On {
    Flex(DType),
    /// On flex in double precision, but the numbers as they are in half of one.
    Rounded(DType),
    #[cfg(feature = "gpu")]
    Gpu(DType),
}

/// Where the fused operations run.
const FUSED: On = On::Flex(DType::F32);
/// Where the composed ones run, those with a backward of their own too, and rounding is nothing beside that of `f32`.
const EXACT: On = On::Flex(DType::F64);
/// Where the composed ones round most, and how much: outputs, and what products of matrices are given and give, by 2⁻⁹ and
/// 2⁻¹² of a number; and of `F16` flex keeps sums of many products in 16 bits from block to block.
const HALVES: [(On, f64); 2] = [(On::Flex(DType::BF16), 0.012), (On::Flex(DType::F16), 0.006)];

impl On {
    /// What the operation is to be compared with: the same numbers, and nothing rounded.
    fn exact(self) -> Self {
        match self {
            Self::Flex(half @ (DType::BF16 | DType::F16)) => Self::Rounded(half),
            #[cfg(feature = "gpu")]
            Self::Gpu(half @ (DType::BF16 | DType::F16)) => Self::Rounded(half),
            _ => EXACT,
        }
    }

    fn device(self) -> Device {
        match self {
            Self::Flex(_) | Self::Rounded(_) => device(),
            #[cfg(feature = "gpu")]
            Self::Gpu(_) => gpu::device(),
        }
    }

    fn dtype(self) -> DType {
        match self {
            Self::Flex(dtype) | Self::Rounded(dtype) => dtype,
            #[cfg(feature = "gpu")]
            Self::Gpu(dtype) => dtype,
        }
    }
}

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
fn leaf<const D: usize>(values: &[f32], shape: [usize; D], on: On) -> Tensor<D> {
    constant(values, shape, on).require_grad()
}

fn constant<const D: usize>(values: &[f32], shape: [usize; D], on: On) -> Tensor<D> {
    let tensor = Tensor::<D>::from_data(TensorData::new(values.to_vec(), shape), (&on.device(), on.dtype()));
    if matches!(on, On::Rounded(_)) { tensor.cast(DType::F64).detach() } else { tensor }
}

/// Backward from an output whose gradients are odd 128ths between −1 and 1, which each precision has.
fn backward<const D: usize>(output: &Tensor<D>) -> Gradients {
    let shape = output.dims();
    let values = numbers(99, shape.iter().product(), 64.0).into_iter().map(|number| (number.floor() + 0.5) / 64.0);
    let values = TensorData::new(values.collect::<Vec<_>>(), shape);
    let gradient = Tensor::from_data(values, (&output.device(), output.dtype()));
    (output.clone() * gradient).sum().backward()
}

fn list<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

fn gradient<const D: usize>(tensor: &Tensor<D>, gradients: &Gradients) -> Vec<f64> {
    list(tensor.grad(gradients).expect("the tensor is a leaf of the graph"))
}

/// How far composed operations in double precision are apart: sums of some hundred products with a rounding of 1.1·10⁻¹⁶ each,
/// and burn's error function, which has the coefficients of one in double precision.
const ROUNDING: f64 = 1e-12;

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
