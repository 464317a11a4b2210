//! The same operations composed of burn's own.
//!
//! They run on every device and in every precision, and are what the functions of this crate do where the fused
//! operations cannot run.

use std::f64::consts::FRAC_1_SQRT_2;

use burn::tensor::{DType, Int, Tensor, activation, module, ops::AttentionModuleOptions};

/// [`gelu`](crate::gelu), by the error function.
///
/// burn's own takes the gradient of the approximation with tanh on some backends; this one's is exact.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let distribution = ((x.clone() * FRAC_1_SQRT_2).erf() + 1.0) * 0.5;
    x * distribution
}

/// [`gelu_tanh`](crate::gelu_tanh).
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::gelu_approximate(x)
}

/// [`swiglu`](crate::swiglu).
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    activation::silu(gate) * up
}

/// [`layer_norm`](crate::layer_norm); that of half-precision numbers is taken in `f32`.
pub fn layer_norm<const D: usize>(x: Tensor<D>, gain: Tensor<1>, bias: Option<Tensor<1>>, epsilon: f64) -> Tensor<D> {
    let dtype = x.dtype();
    module::layer_norm(wide(x), wide(gain), bias.map(wide), epsilon).cast(dtype)
}

/// [`rms_norm`](crate::rms_norm); that of half-precision numbers is taken in `f32`.
pub fn rms_norm<const D: usize>(x: Tensor<D>, gain: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let x = wide(x);
    let root = (x.clone().square().mean_dim(D - 1) + epsilon).sqrt();
    (x / root * wide(gain).unsqueeze()).cast(dtype)
}

/// [`rotate`](crate::rotate).
pub fn rotate(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    let [_, half] = cos.dims();
    let (cos, sin) = (cos.detach().unsqueeze::<4>(), sin.detach().unsqueeze::<4>());
    let (left, right) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    let turned = left.clone() * cos.clone() - right.clone() * sin.clone();
    Tensor::cat(vec![turned, right * cos + left * sin], 3)
}

/// Half precision in `f32`.
fn wide<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match x.dtype() {
        DType::F16 | DType::BF16 => x.cast(DType::F32),
        _ => x,
    }
}

/// [`causal_attention`](crate::causal_attention).
pub fn causal_attention(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Tensor<4> {
    let [_, heads, _, _] = query.dims();
    let options = AttentionModuleOptions { is_causal: true, ..Default::default() };
    module::attention(query, for_heads(key, heads), for_heads(value, heads), None, None, options)
}

/// Each head as often as there are query heads for it.
fn for_heads(tensor: Tensor<4>, heads: usize) -> Tensor<4> {
    let [batch, own, length, width] = tensor.dims();
    if own == heads {
        return tensor;
    }
    let repeated = tensor.unsqueeze_dim::<5>(2).expand([batch, own, heads / own, length, width]);
    repeated.reshape([batch, heads, length, width])
}

/// [`linear_cross_entropy`](crate::linear_cross_entropy), with all logits in memory.
///
/// A target that is out of the vocabulary counts as the nearest that is in it.
pub fn linear_cross_entropy(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    row_weights: Tensor<1>,
    vocabulary: usize,
) -> Tensor<1> {
    let weight = weight.narrow(0, 0, vocabulary);
    let [rows] = targets.dims();
    let row_weights = row_weights.detach();
    let targets = targets.clamp(0, vocabulary.saturating_sub(1) as i64).reshape([rows, 1]);
    let log_probabilities = activation::log_softmax(hidden.matmul(weight.transpose()), 1);
    let losses = -log_probabilities.gather(1, targets).reshape([rows]);
    let total = row_weights.clone().sum();
    let divisor = total.clone().mask_fill(total.equal_scalar(0.0), 1.0);
    (losses * row_weights).sum() / divisor
}
