//! The operations in burn's own operations, for every device and precision.
//!
//! Sums are taken in 32-bit floats, whatever the tensors are of.

#[cfg(test)]
mod tests;

use std::{f64::consts::PI, ops::Range};

use burn::tensor::{
    Bool, FloatDType, IndexingUpdateOp, Int, Tensor, TensorData, activation, kind::Basic,
    module::layer_norm as burn_layer_norm,
};

/// How many logits [`linear_cross_entropy`] holds at a time: 64 MiB, and a few times as much for what becomes of them.
pub(in crate::model) const CHUNK_LOGITS: usize = 16 << 20;

/// How many rows it takes at a time at most: their sums stay in the range of 16-bit floats.
const CHUNK_ROWS: usize = 8192;

/// [`super::gelu`].
pub(super) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let inner = (x.clone().square() * 0.044_715 + 1.0) * x.clone() * (2.0 / PI).sqrt();
    x * (inner.tanh() + 1.0) * 0.5
}

/// [`super::swiglu`].
pub(super) fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    activation::silu(gate) * up
}

/// [`super::layer_norm`].
pub(super) fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gain: Tensor<1>,
    bias: Option<Tensor<1>>,
    epsilon: f64,
) -> Tensor<D> {
    let dtype = x.dtype();
    let wide = |tensor: Tensor<1>| tensor.cast(FloatDType::F32);
    burn_layer_norm(x.cast(FloatDType::F32), wide(gain), bias.map(wide), epsilon).cast(dtype)
}

/// [`super::rms_norm`].
pub(super) fn rms_norm<const D: usize>(x: Tensor<D>, gain: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let x = x.cast(FloatDType::F32);
    let root = (x.clone().square().mean_dim(D - 1) + epsilon).sqrt();
    (x / root).cast(dtype) * gain.unsqueeze()
}

/// [`super::rotate`].
pub(super) fn rotate(x: Tensor<4>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<4> {
    let half = cos.dims()[1];
    let (cos, sin) = (cos.unsqueeze::<4>(), sin.unsqueeze::<4>());
    let (left, right) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    let turned_left = left.clone() * cos.clone() - right.clone() * sin.clone();
    Tensor::cat(vec![turned_left, right * cos + left * sin], 3)
}

/// [`super::causal_attention`].
pub(super) fn causal_attention(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Tensor<4> {
    let [batch, heads, length, size] = query.dims();
    let groups = key.dims()[1];
    // The heads of a group are one after another, so its queries are one matrix, and nothing is repeated.
    let shared = [batch, groups, heads / groups * length, size];
    let query = query.reshape(shared) * (1.0 / (size as f64).sqrt());
    let scores = query.matmul(key.swap_dims(2, 3)).reshape([batch, heads, length, length]);
    let later = Tensor::<2, Bool>::tril_mask([length, length], 0, &scores.device());
    // -∞ is exactly 0 after softmax; each position sees itself, so no row is without a number.
    let scores = scores.mask_fill(later.unsqueeze::<4>(), f32::NEG_INFINITY);
    let dtype = scores.dtype();
    let shares = activation::softmax(scores.cast(FloatDType::F32), 3).cast(dtype);
    shares.reshape([batch, groups, heads / groups * length, length]).matmul(value).reshape([batch, heads, length, size])
}

/// [`super::linear_cross_entropy`].
pub(super) fn linear_cross_entropy(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: Tensor<1, Int>,
    weights: Tensor<1>,
    vocabulary: usize,
) -> Tensor<1> {
    let chunk = (CHUNK_LOGITS / head.dims()[0].max(1)).clamp(1, CHUNK_ROWS);
    chunked_cross_entropy(hidden, head, targets, weights, vocabulary, chunk)
}

/// [`linear_cross_entropy`] by so many rows at a time.
///
/// Logits that the backward pass is to find again would all stand in memory until then. So the gradients are computed here,
/// beside the loss, from the logits of a chunk while they are there: softmax minus the target, times the weight. They are
/// divided by the sum of all weights only in the backward pass, in 32-bit floats and after the loss's own gradient is there: of
/// many rows they would vanish in 16 bits, however far the loss is scaled up.
fn chunked_cross_entropy(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: Tensor<1, Int>,
    weights: Tensor<1>,
    vocabulary: usize,
    chunk: usize,
) -> Tensor<1> {
    let is_learned = hidden.is_autodiff() || head.is_autodiff();
    let (plain_hidden, plain_head) = (hidden.clone().inner(), head.clone().inner());
    let (targets, weights) = (targets.inner(), weights.inner().cast(FloatDType::F32));
    let share = weights.clone().sum().clamp_min(f32::MIN_POSITIVE).recip();
    let padding = padding_mask(&plain_head, vocabulary);

    let mut loss = Tensor::<1>::zeros([1], &plain_head.device()).cast(FloatDType::F32);
    let mut hidden_gradients = Vec::new();
    let mut head_gradient: Option<Tensor<2>> = None;
    let rows = hidden.dims()[0];
    for start in (0..rows).step_by(chunk) {
        let range = start..rows.min(start + chunk);
        let some = plain_hidden.clone().slice([range.clone()]);
        let logits = some.clone().matmul(plain_head.clone().transpose()).cast(FloatDType::F32);
        let logits = match &padding {
            Some(padding) => logits + padding.clone(),
            None => logits,
        };
        let part = Rows { targets: column(&targets, &range), weights: column(&weights, &range) };
        let (part_loss, exponentials, sums) = part.loss(logits);
        loss = loss + part_loss;
        if is_learned {
            let delta = part.delta(exponentials, sums).cast(plain_head.dtype());
            hidden_gradients.push(delta.clone().matmul(plain_head.clone()));
            let gradient = delta.transpose().matmul(some).cast(FloatDType::F32);
            head_gradient = Some(match head_gradient {
                Some(sum) => sum + gradient,
                None => gradient,
            });
        }
    }
    let loss = loss * share.clone();
    match head_gradient {
        Some(head_gradient) => {
            with_gradients(loss, [(hidden, Tensor::cat(hidden_gradients, 0)), (head, head_gradient)], share)
        }
        None => loss,
    }
}

/// 0 for the tokens of the vocabulary and -∞ for the padding, `[1, padded vocabulary]`; `None` if there is none.
fn padding_mask(head: &Tensor<2>, vocabulary: usize) -> Option<Tensor<2>> {
    let padded = head.dims()[0];
    (padded > vocabulary).then(|| {
        let mask = (0..padded).map(|token| if token < vocabulary { 0.0 } else { f32::NEG_INFINITY });
        let data = TensorData::new(mask.collect::<Vec<f32>>(), [1, padded]);
        Tensor::<2>::from_data(data, &head.device()).cast(FloatDType::F32)
    })
}

/// A part of a vector, `[rows, 1]`.
fn column<K: Basic>(vector: &Tensor<1, K>, range: &Range<usize>) -> Tensor<2, K> {
    vector.clone().slice([range.clone()]).unsqueeze_dim(1)
}

/// Some rows: which tokens come, and what each counts, both `[rows, 1]`.
struct Rows {
    targets: Tensor<2, Int>,
    weights: Tensor<2>,
}

impl Rows {
    /// The weighted losses, summed up, `[1]`; and, for the gradient, e^(logit - largest logit), `[rows, tokens]`, with its
    /// sums, `[rows, 1]`.
    fn loss(&self, logits: Tensor<2>) -> (Tensor<1>, Tensor<2>, Tensor<2>) {
        let shifted = logits.clone() - logits.max_dim(1);
        let chosen = shifted.clone().gather(1, self.targets.clone());
        let exponentials = shifted.exp();
        let sums = exponentials.clone().sum_dim(1);
        let loss = ((sums.clone().log() - chosen) * self.weights.clone()).sum();
        (loss, exponentials, sums)
    }

    /// The gradient of the weighted losses with respect to the logits, `[rows, tokens]`.
    fn delta(self, exponentials: Tensor<2>, sums: Tensor<2>) -> Tensor<2> {
        let Self { targets, weights } = self;
        let shares = exponentials * (weights.clone() / sums);
        shares.scatter(1, targets, -weights, IndexingUpdateOp::Add)
    }
}

/// A number whose gradients are known, but for a common factor, `[1]`: Σ x·gradient·factor has them, and minus itself it is 0.
fn with_gradients(value: Tensor<1>, gradients: [(Tensor<2>, Tensor<2>); 2], factor: Tensor<1>) -> Tensor<1> {
    let factor = Tensor::from_inner(factor);
    gradients.into_iter().fold(Tensor::from_inner(value), |value, (x, gradient)| {
        let products = x.cast(FloatDType::F32) * Tensor::from_inner(gradient.cast(FloatDType::F32));
        let carrier = products.sum() * factor.clone();
        let nothing = carrier.clone() - carrier.detach();
        value + nothing
    })
}
