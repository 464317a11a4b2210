//! The same operations composed of burn's own.
//!
//! They run on every device and in every precision, and are what the functions of this crate do where the fused
//! operations cannot run. Of half-precision numbers, sums, exponentials and logarithms are taken in `f32`.
//!
//! Those that burn's autodiff would keep much for have a backward of their own. On a GPU it is fused as the rest is, and what
//! counts there is memory: attention keeps no scores, a loss no logits, an activation its inputs, and a normalization two numbers
//! of each row beside.

mod activation;
mod attention;
mod cross_entropy;
mod norm;
#[cfg(test)]
mod tests;

use std::fmt::Debug;

#[cfg(feature = "gpu")]
use burn::backend::Cube;
use burn::{
    backend::{Backend, DispatchKindConversion, DispatchTensor, Flex, tensor::FloatTensor},
    tensor::{DType, Distribution, Tensor, module},
};

pub(crate) use self::activation::{CUBIC, SATURATED};
#[cfg(test)]
pub(crate) use self::attention::{causal_attention_by, causal_self_attention_by};
pub use self::{
    activation::{gelu, gelu_tanh, swiglu},
    attention::{TILE_SCORES, causal_attention, causal_self_attention},
    cross_entropy::{CHUNK_LOGITS, cross_entropy, linear_cross_entropy},
    norm::{layer_norm, rms_norm},
};
use crate::dispatch::{Compiled, Operation, backend, context, on_backend, unwrapped, wrapped};

/// [`linear`](crate::linear).
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    module::linear(x, weight, bias)
}

/// [`dropout`](crate::dropout).
pub fn dropout<const D: usize>(x: Tensor<D>, probability: f64) -> Tensor<D> {
    let kept = 1.0 - probability;
    let mask = x.random_like(Distribution::Bernoulli(kept));
    x * mask * (1.0 / kept)
}

/// [`rotate`](crate::rotate).
pub fn rotate(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    let [_, half] = cos.dims();
    let [cos, sin] = [cos, sin].map(|table| table.detach().cast(x.dtype()).unsqueeze::<4>());
    let (left, right) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    let turned = left.clone() * cos.clone() - right.clone() * sin.clone();
    Tensor::cat(vec![turned, right * cos + left * sin], 3)
}

/// Half precision in `f32`.
pub(crate) fn wide<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.cast(DType::F32),
        _ => x,
    }
}

/// An operation of `N` tensors that is composed of burn's own, with a backward that is so too.
trait Composed<const N: usize>: Clone + Debug + Send + 'static {
    /// What its backward needs.
    type Saved: Clone + Debug + Send + 'static;

    /// The output, and what to save for the gradients that will be asked for.
    fn forward(&self, inputs: [DispatchTensor; N], needed: [bool; N]) -> (DispatchTensor, Self::Saved);

    /// The gradients with respect to the inputs, each of its input's precision, from that of the output. One that is not
    /// needed may be left out.
    fn backward(self, saved: Self::Saved, gradient: DispatchTensor, needed: [bool; N]) -> [Option<DispatchTensor>; N];
}

/// Runs it, with its own backward on the backends that this crate is compiled for, and with burn's elsewhere.
fn run<O: Composed<N>, const N: usize>(operation: O, inputs: [DispatchTensor; N]) -> DispatchTensor {
    match (backend(&inputs), context(&inputs)) {
        (Some(Compiled::Flex), Some(context)) => on_backend::<Flex, _, N>(OnBackend(operation), inputs, context),
        #[cfg(feature = "gpu")]
        (Some(Compiled::Cube), Some(context)) => on_backend::<Cube, _, N>(OnBackend(operation), inputs, context),
        _ => operation.forward(inputs, [false; N]).0,
    }
}

/// A composed operation on the tensors of one backend.
#[derive(Clone, Debug)]
struct OnBackend<O>(O);

impl<B: Backend, O: Composed<N>, const N: usize> Operation<B, N> for OnBackend<O>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    type Saved = O::Saved;

    fn forward(&self, inputs: [FloatTensor<B>; N], needed: [bool; N]) -> (FloatTensor<B>, O::Saved) {
        let (output, saved) = self.0.forward(inputs.map(wrapped::<B>), needed);
        (unwrapped::<B>(output), saved)
    }

    fn backward(self, saved: O::Saved, gradient: FloatTensor<B>, needed: [bool; N]) -> [Option<FloatTensor<B>>; N] {
        let gradients = self.0.backward(saved, wrapped::<B>(gradient), needed);
        gradients.map(|gradient| gradient.map(unwrapped::<B>))
    }
}
