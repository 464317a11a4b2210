//! Activations, whose backward needs their inputs alone.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

use burn::{
    backend::DispatchTensor,
    tensor::{Tensor, activation},
};

use super::{Composed, run, wide};

/// The factor of x³ in the approximation with tanh.
pub(crate) const CUBIC: f64 = 0.044_715;
/// Where the approximation with tanh is x or 0 to the last bit; x³ of larger numbers might overflow.
pub(crate) const SATURATED: f64 = 10.0;

/// [`gelu`](crate::gelu), by the error function.
///
/// burn's own takes the gradient of the approximation with tanh on some backends; this one's is exact.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(run(Gelu::<D>::Exact, [x.into_dispatch()]))
}

/// [`gelu_tanh`](crate::gelu_tanh).
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(run(Gelu::<D>::Tanh, [x.into_dispatch()]))
}

/// [`swiglu`](crate::swiglu).
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(run(SwiGlu::<D>, [gate.into_dispatch(), up.into_dispatch()]))
}

/// On tensors of `D` dimensions.
#[derive(Clone, Copy, Debug)]
enum Gelu<const D: usize> {
    Exact,
    Tanh,
}

impl<const D: usize> Gelu<D> {
    /// What x is multiplied by: a distribution function of it.
    fn distribution(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Exact => ((x * FRAC_1_SQRT_2).erf() + 1.0) * 0.5,
            Self::Tanh => {
                let x = x.clamp(-SATURATED, SATURATED);
                let inner = (x.clone().square() * CUBIC + 1.0) * x * (2.0 / PI).sqrt();
                (inner.tanh() + 1.0) * 0.5
            }
        }
    }

    /// The derivative of that function, by x and the function's value: for tanh 2·Φ·(1 − Φ) times that of its argument.
    fn density(self, x: Tensor<D>, distribution: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Exact => (x.square() * -0.5).exp() * (0.5 * FRAC_1_SQRT_2 * FRAC_2_SQRT_PI),
            Self::Tanh => {
                let x = x.clamp(-SATURATED, SATURATED);
                let slope = (x.square() * (3.0 * CUBIC) + 1.0) * (2.0 * (2.0 / PI).sqrt());
                distribution.clone() * (distribution * -1.0 + 1.0) * slope
            }
        }
    }
}

impl<const D: usize> Composed<1> for Gelu<D> {
    type Saved = Tensor<D>;

    fn forward(&self, [x]: [DispatchTensor; 1], _: [bool; 1]) -> (DispatchTensor, Tensor<D>) {
        let x = Tensor::<D>::from_dispatch(x);
        let number = wide(x.clone());
        let output = number.clone() * self.distribution(number);
        (output.cast(x.dtype()).into_dispatch(), x)
    }

    fn backward(self, x: Tensor<D>, gradient: DispatchTensor, _: [bool; 1]) -> [Option<DispatchTensor>; 1] {
        let (dtype, gradient) = (x.dtype(), wide(Tensor::<D>::from_dispatch(gradient)));
        let x = wide(x);
        let distribution = self.distribution(x.clone());
        let slope = x.clone() * self.density(x, distribution.clone()) + distribution;
        [Some((gradient * slope).cast(dtype).into_dispatch())]
    }
}

/// On tensors of `D` dimensions.
#[derive(Clone, Copy, Debug)]
struct SwiGlu<const D: usize>;

impl<const D: usize> Composed<2> for SwiGlu<D> {
    type Saved = [Tensor<D>; 2];

    fn forward(&self, inputs: [DispatchTensor; 2], _: [bool; 2]) -> (DispatchTensor, [Tensor<D>; 2]) {
        let inputs = inputs.map(Tensor::<D>::from_dispatch);
        let [gate, up] = inputs.clone().map(wide);
        let output = activation::sigmoid(gate.clone()) * gate * up;
        (output.cast(inputs[0].dtype()).into_dispatch(), inputs)
    }

    fn backward(self, inputs: [Tensor<D>; 2], gradient: DispatchTensor, _: [bool; 2]) -> [Option<DispatchTensor>; 2] {
        let [gate_dtype, up_dtype] = inputs.each_ref().map(Tensor::dtype);
        let ([gate, up], gradient) = (inputs.map(wide), wide(Tensor::<D>::from_dispatch(gradient)));
        let rising = activation::sigmoid(gate.clone());
        let slope = (gate.clone() * (rising.clone() * -1.0 + 1.0) + 1.0) * rising.clone();
        let of_gate = gradient.clone() * up * slope;
        let of_up = gradient * gate * rising;
        [of_gate.cast(gate_dtype), of_up.cast(up_dtype)].map(|gradient| Some(gradient.into_dispatch()))
    }
}
