//! The operations that have a backward of their own, as burn's autodiff composes theirs: what both others are measured by.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use burn::tensor::{Bool, Int, Tensor, activation, module};

use crate::composed::{rotate, wide};

/// [`gelu`](crate::gelu), by the error function.
///
/// burn's own takes the gradient of the approximation with tanh on some backends; this one's is exact.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let distribution = ((x.clone() * FRAC_1_SQRT_2).erf() + 1.0) * 0.5;
    x * distribution
}

/// [`gelu_tanh`](crate::gelu_tanh).
pub fn gelu_tanh<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let inner = (x.clone().square() * 0.044_715 + 1.0) * x.clone() * (2.0 / PI).sqrt();
    x * (inner.tanh() + 1.0) * 0.5
}

/// [`swiglu`](crate::swiglu).
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    activation::silu(gate) * up
}

/// [`layer_norm`](crate::layer_norm).
pub fn layer_norm<const D: usize>(x: Tensor<D>, gain: Tensor<1>, bias: Option<Tensor<1>>, epsilon: f64) -> Tensor<D> {
    let dtype = x.dtype();
    module::layer_norm(wide(x), wide(gain), bias.map(wide), epsilon).cast(dtype)
}

/// [`rms_norm`](crate::rms_norm).
pub fn rms_norm<const D: usize>(x: Tensor<D>, gain: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let x = wide(x);
    let root = (x.clone().square().mean_dim(D - 1) + epsilon).sqrt();
    (x / root).cast(dtype) * gain.unsqueeze()
}

/// [`causal_attention`](crate::causal_attention).
pub fn causal_attention(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Tensor<4> {
    let ([batch, heads, queries, width], [_, key_heads, keys, _]) = (query.dims(), key.dims());
    let [.., value_width] = value.dims();
    // The heads that share keys are one after another, so their queries are one matrix, and nothing is repeated.
    let shared = |width| [batch, key_heads, heads / key_heads * queries, width];
    let query = query.reshape(shared(width)) * (1.0 / (width as f64).sqrt());
    let scores = query.matmul(key.swap_dims(2, 3)).reshape([batch, heads, queries, keys]);
    let later = Tensor::<2, Bool>::tril_mask([queries, keys], (keys - queries) as i64, &scores.device());
    // −∞ is exactly 0 after softmax; each query sees a key, so no row is without a number.
    let scores = scores.mask_fill(later.unsqueeze::<4>(), f32::NEG_INFINITY);
    let dtype = scores.dtype();
    let shares = activation::softmax(wide(scores), 3).cast(dtype);
    shares.reshape(shared(keys)).matmul(value).reshape([batch, heads, queries, value_width])
}

/// [`causal_self_attention`](crate::causal_self_attention).
pub fn causal_self_attention(
    projected: Tensor<3>,
    [heads, key_heads]: [usize; 2],
    angles: Option<[Tensor<2>; 2]>,
) -> Tensor<3> {
    let [batch, length, row] = projected.dims();
    let all = heads + 2 * key_heads;
    let width = row / all;
    let split = projected.reshape([batch, length, all, width]).swap_dims(1, 2);
    let query = split.clone().narrow(1, 0, heads);
    let key = split.clone().narrow(1, heads, key_heads);
    let value = split.narrow(1, heads + key_heads, key_heads);
    let (query, key) = match angles {
        Some([cos, sin]) => (rotate(query, cos.clone(), sin.clone()), rotate(key, cos, sin)),
        None => (query, key),
    };
    causal_attention(query, key, value).swap_dims(1, 2).reshape([batch, length, heads * width])
}

/// [`linear_cross_entropy`](crate::linear_cross_entropy), with all logits in memory.
pub fn linear_cross_entropy(
    hidden: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    row_weights: Tensor<1>,
    vocabulary: usize,
) -> Tensor<1> {
    let logits = wide(hidden.matmul(weight.narrow(0, 0, vocabulary).transpose()));
    let of_targets = activation::log_softmax(logits, 1).gather(1, targets.unsqueeze_dim(1)).squeeze_dim::<1>(1);
    let row_weights = wide(row_weights);
    let total = row_weights.clone().sum().clamp_min(f32::MIN_POSITIVE);
    -(of_targets * row_weights).sum() / total
}
