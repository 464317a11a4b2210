//! Activations: GELU, and SwiGLU.

use burn::{
    backend::{Flex, flex::FlexTensor},
    tensor::Tensor,
};
use rayon::prelude::{IndexedParallelIterator, ParallelIterator, ParallelSlice, ParallelSliceMut};

use crate::{
    composed,
    dispatch::{Operation, run},
    math::{normal, sigmoid, vectorized},
    storage::{BLOCK, combine, contiguous, map_pairs, map_twice, tensor},
};

/// √(2/π).
const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const CUBIC: f32 = composed::CUBIC as f32;
const SATURATED: f32 = composed::SATURATED as f32;

/// GELU: x · Φ(x), Φ the distribution function of the standard normal distribution.
///
/// On flex with an absolute error below 2·10⁻⁷ · max(1, |x|).
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    apply(Gelu::Exact, x, composed::gelu)
}

/// The approximation of GELU with tanh, as in GPT-2: x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))).
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    apply(Gelu::Tanh, x, composed::gelu_tanh)
}

/// SwiGLU: gate · σ(gate) · up.
///
/// # Panics
/// If the shapes differ.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    assert_eq!(gate.dims(), up.dims(), "swiglu: the shapes of gate and up");
    match run(SwiGlu, [gate.into_dispatch(), up.into_dispatch()]) {
        Ok(output) => Tensor::from_dispatch(output),
        Err(inputs) => {
            let [gate, up] = inputs.map(Tensor::<D>::from_dispatch);
            composed::swiglu(gate, up)
        }
    }
}

fn apply<const D: usize>(gelu: Gelu, x: Tensor<D>, otherwise: impl FnOnce(Tensor<D>) -> Tensor<D>) -> Tensor<D> {
    match run(gelu, [x.into_dispatch()]) {
        Ok(output) => Tensor::from_dispatch(output),
        Err([x]) => otherwise(Tensor::from_dispatch(x)),
    }
}

#[derive(Clone, Copy, Debug)]
enum Gelu {
    Exact,
    Tanh,
}

impl Operation<Flex, 1> for Gelu {
    /// The derivative, for which the forward has the exponential at hand; it takes the place of x.
    type Saved = FlexTensor;

    fn forward(&self, [x]: [FlexTensor; 1], _: [bool; 1]) -> (FlexTensor, FlexTensor) {
        let x = contiguous(x);
        match self {
            Self::Exact => map_twice(x, exact),
            Self::Tanh => map_twice(x, with_tanh),
        }
    }

    fn backward(self, derivative: FlexTensor, gradient: FlexTensor, _: [bool; 1]) -> [Option<FlexTensor>; 1] {
        [Some(combine(
            gradient,
            &derivative,
            #[inline(always)]
            |gradient, derivative| gradient * derivative,
        ))]
    }
}

/// The function and its derivative.
#[inline(always)]
fn exact(x: f32) -> (f32, f32) {
    let (distribution, density) = normal(x);
    (x * distribution, distribution + x * density)
}

/// The function and its derivative: (1 + tanh(u)) / 2 = σ(2u).
#[inline(always)]
fn with_tanh(x: f32) -> (f32, f32) {
    let bounded = x.clamp(-SATURATED, SATURATED);
    let (rising, falling) = sigmoid(twice_argument(bounded));
    let slope = 2.0 * SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * bounded * bounded);
    (x * rising, rising + bounded * rising * falling * slope)
}

#[inline(always)]
fn twice_argument(x: f32) -> f32 {
    2.0 * SQRT_2_OVER_PI * (x + CUBIC * x * x * x)
}

#[derive(Clone, Copy, Debug)]
struct SwiGlu;

impl Operation<Flex, 2> for SwiGlu {
    type Saved = [FlexTensor; 2];

    fn forward(&self, inputs: [FlexTensor; 2], _: [bool; 2]) -> (FlexTensor, [FlexTensor; 2]) {
        let [gate, up] = inputs.map(contiguous);
        (map_pairs(&gate, &up, gated), [gate, up])
    }

    fn backward(self, [gate, up]: [FlexTensor; 2], gradient: FlexTensor, _: [bool; 2]) -> [Option<FlexTensor>; 2] {
        let mut gate_gradient = contiguous(gradient);
        let (gate_values, up_values) = (gate.storage::<f32>(), up.storage::<f32>());
        let mut up_gradient = vec![0.0; up_values.len()];
        let gradients = gate_gradient.storage_mut::<f32>().par_chunks_mut(BLOCK);
        let gradients = gradients.zip(up_gradient.par_chunks_mut(BLOCK));
        let inputs = gate_values.par_chunks(BLOCK).zip(up_values.par_chunks(BLOCK));
        gradients.zip(inputs).for_each(|((gate_gradient, up_gradient), (gate, up))| {
            vectorized(
                #[inline(always)]
                || {
                    let gradients = gate_gradient.iter_mut().zip(up_gradient);
                    for (gradients, (gate, up)) in gradients.zip(gate.iter().zip(up)) {
                        gated_backward(gradients, *gate, *up);
                    }
                },
            );
        });
        [Some(gate_gradient), Some(tensor(up_gradient, up.layout().shape().clone()))]
    }
}

#[inline(always)]
fn gated(gate: f32, up: f32) -> f32 {
    gate * sigmoid(gate).0 * up
}

/// The first of the gradients is that of the output, and becomes that of the gate.
#[inline(always)]
fn gated_backward((gradient, up_gradient): (&mut f32, &mut f32), gate: f32, up: f32) {
    let (rising, falling) = sigmoid(gate);
    *up_gradient = *gradient * gate * rising;
    *gradient *= up * rising * (1.0 + gate * falling);
}
