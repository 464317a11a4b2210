//! The operations of a transformer: fused where a kernel is there for the device and the precision, else composed of burn's
//! own. The layers above know nothing of how they are computed.

mod composed;

use burn::tensor::{Device, FloatDType, Int, Tensor, module};
use burn_fused_ops::is_fused;

pub(super) use self::composed::CHUNK_LOGITS;

/// Whether the operations on a device are fused ones.
pub(super) fn are_fused(device: &Device) -> bool {
    is_fused(&Tensor::<1>::zeros([1], device))
}

/// The rows of `table`, `[rows, width]`, that `indices`, `[batch, length]`, name: `[batch, length, width]`.
///
/// A row's gradient is the sum over all places that name it, which is taken in 32-bit floats.
pub(crate) fn embedding(table: Tensor<2>, indices: Tensor<2, Int>) -> Tensor<3> {
    let dtype = table.dtype();
    module::embedding(table.cast(FloatDType::F32), indices).cast(dtype)
}

/// x/2 · (1 + tanh(√(2/π) · (x + 0.044715·x³))): GPT-2's approximation of x · Φ(x).
pub(crate) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if is_fused(&x) { burn_fused_ops::gelu_tanh(x) } else { composed::gelu(x) }
}

/// gate · σ(gate) · up.
pub(crate) fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    if is_fused(&gate) { burn_fused_ops::swiglu(gate, up) } else { composed::swiglu(gate, up) }
}

/// `[…, width]` → `[…, width]`: (x - mean) / √(variance + epsilon) · gain + bias, mean and (biased) variance over the last
/// dimension; gain and bias are `[width]`.
pub(crate) fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gain: Tensor<1>,
    bias: Option<Tensor<1>>,
    epsilon: f64,
) -> Tensor<D> {
    let apply = if is_fused(&x) { burn_fused_ops::layer_norm } else { composed::layer_norm };
    apply(x, gain, bias, epsilon)
}

/// `[…, width]` → `[…, width]`: x / √(mean of squares + epsilon) · gain, the mean over the last dimension; gain is
/// `[width]`.
pub(crate) fn rms_norm<const D: usize>(x: Tensor<D>, gain: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let apply = if is_fused(&x) { burn_fused_ops::rms_norm } else { composed::rms_norm };
    apply(x, gain, epsilon)
}

/// Rotates the pairs (x₀, x_size/2), (x₁, x_size/2+1), … of each head by the angles of its position.
///
/// `x` is `[batch, heads, length, size]`, `cos` and `sin` are `[length, size/2]`.
pub(crate) fn rotate(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    let apply = if is_fused(&x) { burn_fused_ops::rotate } else { composed::rotate };
    apply(x, cos, sin)
}

/// Attention of each position to itself and those before it: softmax(QKᵀ/√size, causal) · V.
///
/// `query` is `[batch, heads, length, size]`, `key` and `value` are `[batch, groups, length, size]`, where `groups` divides
/// `heads` and consecutive heads share a group; the result has the shape of `query`.
pub(crate) fn causal_attention(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Tensor<4> {
    let apply = if is_fused(&query) { burn_fused_ops::causal_attention } else { composed::causal_attention };
    apply(query, key, value)
}

/// The weighted mean cross-entropy, `[1]`, of the tokens that `hidden` predicts: -Σ wᵢ·ln softmax(hidden·headᵀ)ᵢ / Σ wᵢ, in
/// 32-bit floats; 0 if all weights are 0. The logits of a large vocabulary never all stand in memory.
///
/// `hidden` is `[rows, width]`, `head` is `[at least vocabulary, width]`, `targets` (less than `vocabulary`) and `weights`
/// (not negative) are `[rows]`. Rows of `head` from `vocabulary` on are padding, and not predicted. The weights get no
/// gradient.
pub(crate) fn linear_cross_entropy(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: Tensor<1, Int>,
    weights: Tensor<1>,
    vocabulary: usize,
) -> Tensor<1> {
    let apply = if is_fused(&hidden) { burn_fused_ops::linear_cross_entropy } else { composed::linear_cross_entropy };
    apply(hidden, head, targets, weights, vocabulary)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both are exact to about 1e-6 on numbers around 1, which the kernels' own tests and those of `composed` show.
    #[test]
    fn fused_and_composed_operations_take_the_same_arguments_to_the_same_numbers() {
        let device = Device::flex();
        let numbers = |shape: [usize; 4], step: f32| {
            let count = shape.iter().product::<usize>() as i64;
            (Tensor::<1, Int>::arange(0..count, &device).float() * step).sin().reshape(shape)
        };
        let (query, key) = (numbers([2, 4, 5, 6], 0.7), numbers([2, 2, 5, 6], 1.3));
        let (gain, angles) = (numbers([1, 1, 1, 6], 0.9).reshape([6]), numbers([1, 1, 5, 3], 0.4).reshape([5, 3]));
        let (hidden, head) = (query.clone().reshape([40, 6]), numbers([1, 1, 8, 6], 2.1).reshape([8, 6]));
        let (targets, weights) = (Tensor::<1, Int>::arange(0..40, &device) % 7, Tensor::ones([40], &device));
        let (cos, sin) = (angles.clone().cos(), angles.sin());
        let bias = Some(gain.clone() * 0.5);
        assert!(is_fused(&query));
        let close = |fused: Tensor<4>, composed: Tensor<4>| {
            let difference = (fused - composed).abs().max().into_scalar::<f32>();
            assert!(difference < 1e-5, "{difference}");
        };
        close(gelu(query.clone()), composed::gelu(query.clone()));
        close(swiglu(query.clone(), query.clone() * 2.0), composed::swiglu(query.clone(), query.clone() * 2.0));
        close(
            layer_norm(query.clone(), gain.clone(), bias.clone(), 1e-5),
            composed::layer_norm(query.clone(), gain.clone(), bias, 1e-5),
        );
        close(rms_norm(query.clone(), gain.clone(), 1e-5), composed::rms_norm(query.clone(), gain, 1e-5));
        close(rotate(query.clone(), cos.clone(), sin.clone()), composed::rotate(query.clone(), cos, sin));
        close(
            causal_attention(query.clone(), key.clone(), key.clone()),
            composed::causal_attention(query, key.clone(), key),
        );
        let loss = linear_cross_entropy(hidden.clone(), head.clone(), targets.clone(), weights.clone(), 7);
        let composed = composed::linear_cross_entropy(hidden, head, targets, weights, 7);
        close(loss.reshape([1, 1, 1, 1]), composed.reshape([1, 1, 1, 1]));
    }
}
